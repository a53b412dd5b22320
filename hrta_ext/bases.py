"""The base activations sigma in plain PyTorch: value, slope and curvature of each, and the registry of users' own.

These formulas are the torch backend, the decomposition under ``torch.compile`` and the oracle of the tests. Each can be
differentiated by autograd at every x. ``csrc/math/bases.h`` holds the same bases for the compiled kernels.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

TensorMap = Callable[[Tensor], Tensor]

_SQRT_HALF = math.sqrt(0.5)
_TWO_OVER_SQRT_PI = 2.0 / math.sqrt(math.pi)
_INV_SQRT_TWO_PI = 1.0 / math.sqrt(2.0 * math.pi)


class Base(NamedTuple):
    """A base activation: sigma, sigma' and sigma'' as maps of a tensor to one of the same shape.

    ``rectifier`` says that sigma(x) - max(x, 0) vanishes at both infinities; otherwise sigma is taken as bounded (tanh,
    erf, sin) or, for "relu2", as quadratic. It fixes the limit of sigma_s at infinite x. ``number`` is the base's own
    in the compiled kernels; None for a base that only the torch backend serves.
    """

    value: TensorMap
    slope: TensorMap
    curvature: TensorMap
    number: int | None = None
    rectifier: bool = False


def _normal_cdf(x: Tensor) -> Tensor:
    return 0.5 * torch.special.erfc(-_SQRT_HALF * x)


def _normal_pdf(x: Tensor) -> Tensor:
    return _INV_SQRT_TWO_PI * torch.exp(-0.5 * x * x)


def _sech_squared(x: Tensor) -> Tensor:
    return 4.0 * torch.sigmoid(2.0 * x) * torch.sigmoid(-2.0 * x)


def _silu_slope(x: Tensor) -> Tensor:
    p = torch.sigmoid(x)
    return p * (1.0 + x * torch.sigmoid(-x))


def _silu_curvature(x: Tensor) -> Tensor:
    p, q = torch.sigmoid(x), torch.sigmoid(-x)
    return p * q * (2.0 + x * (q - p))


def _erf_slope(x: Tensor) -> Tensor:
    return _TWO_OVER_SQRT_PI * torch.exp(-x * x)


# softplus: past x = 40 the correction exp(-x) is below half an ulp of x in float64, so the threshold loses nothing.
BASES: dict[str, Base] = {
    "relu": Base(torch.relu, lambda x: (x > 0).to(x.dtype), torch.zeros_like, 0, True),
    "relu2": Base(lambda x: 0.5 * torch.relu(x) * torch.relu(x), torch.relu, lambda x: (x > 0).to(x.dtype), 1),
    "tanh": Base(torch.tanh, _sech_squared, lambda x: -2.0 * torch.tanh(x) * _sech_squared(x), 2),
    "gelu": Base(
        lambda x: x * _normal_cdf(x),
        lambda x: _normal_cdf(x) + x * _normal_pdf(x),
        lambda x: (2.0 - x * x) * _normal_pdf(x),
        3,
        True,
    ),
    "silu": Base(lambda x: x * torch.sigmoid(x), _silu_slope, _silu_curvature, 4, True),
    "softplus": Base(
        lambda x: F.softplus(x, threshold=40.0),
        torch.sigmoid,
        lambda x: torch.sigmoid(x) * torch.sigmoid(-x),
        5,
        True,
    ),
    "erf": Base(torch.erf, _erf_slope, lambda x: -2.0 * x * _erf_slope(x), 6),
    "sin": Base(torch.sin, torch.cos, lambda x: -torch.sin(x), 7),
}


def get_base(name: str) -> Base:
    """The base called ``name``; a clear error that lists the known ones otherwise."""
    try:
        return BASES[name]
    except (KeyError, TypeError):
        if not isinstance(name, str):
            raise TypeError(f"base must be the name of a base activation (str), got {type(name).__name__}") from None
        known = ", ".join(BASES)
        raise ValueError(f"base must be one of {known}, got {name!r}; hx.register_base adds your own") from None


def register_base(name: str, value: TensorMap, slope: TensorMap, curvature: TensorMap) -> None:
    """Add a base activation of your own, served by the torch backend on every device.

    Args:
        name: New name, not one of the built-in bases. Registering a name of your own again replaces it.
        value: sigma, a map of a tensor to one of the same shape and dtype, made of differentiable torch operations.
        slope: sigma'.
        curvature: sigma''.
    Raises:
        ValueError: ``name`` is built in, or the callables do not keep the shape.
        TypeError: ``name`` is no string, or one of the three is not callable.

    Example:
        >>> import torch, hrta_ext as hx
        >>> hx.register_base("cos", torch.cos, lambda x: -torch.sin(x), lambda x: -torch.cos(x))
        >>> float(hx.homotopy(torch.zeros(()), s=0.5, base="cos"))
        0.5
    """
    if not isinstance(name, str) or not name:
        raise TypeError(f"register_base: name must be a non-empty str, got {name!r}")
    if name in BASES and BASES[name].number is not None:
        raise ValueError(f"register_base: {name!r} is a built-in base; choose another name")
    probe = torch.linspace(-1.0, 1.0, 5, dtype=torch.float64)
    for role, function in (("value", value), ("slope", slope), ("curvature", curvature)):
        if not callable(function):
            raise TypeError(f"register_base: {role} must be callable, got {type(function).__name__}")
        result = function(probe)
        if not isinstance(result, Tensor) or result.shape != probe.shape:
            raise ValueError(f"register_base: {role} must return a tensor of its argument's shape, got {result!r}")
    BASES[name] = Base(value, slope, curvature)
