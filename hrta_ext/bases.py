"""The base activations sigma in plain PyTorch: value, slope, curvature and third derivative of each, and the registry.

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

    ``excess`` is sigma(x) - x and ``slope_excess`` its slope, the derivatives of sigma_s and sigma_s' in s, formed
    without cancellation; None for plain differences, all that is known of a registered base. ``third`` is the slope
    of ``curvature``; None for autograd's.
    """

    value: TensorMap
    slope: TensorMap
    curvature: TensorMap
    number: int | None = None
    rectifier: bool = False
    excess: TensorMap | None = None
    slope_excess: TensorMap | None = None
    third: TensorMap | None = None

    def by_parameter(self, x: Tensor, order: int) -> Tensor:
        """The derivative in s of the ``order``-th derivative of sigma_s in x, which holds no s."""
        if order == 0:
            return self.value(x) - x if self.excess is None else self.excess(x)
        if order == 1:
            return self.slope(x) - 1.0 if self.slope_excess is None else self.slope_excess(x)
        return self.curvature(x) if order == 2 else self.third_derivative(x)

    def third_derivative(self, x: Tensor) -> Tensor:
        """The slope of ``curvature``, differentiable."""
        if self.third is not None:
            return self.third(x)
        _, pull_back, *_ = torch.func.vjp(self.curvature, x)
        return pull_back(torch.ones_like(x))[0]


# What is 0 times infinity far out is computed no further out than where it has become 0 in float64.
_NORMAL_REACH, _LOGISTIC_REACH = 40.0, 800.0


def _normal_cdf(x: Tensor) -> Tensor:
    return 0.5 * torch.special.erfc(-_SQRT_HALF * x)


def _normal_pdf(x: Tensor) -> Tensor:
    return _INV_SQRT_TWO_PI * torch.exp(-0.5 * x * x)


def _sech_squared(x: Tensor) -> Tensor:
    return 4.0 * torch.sigmoid(2.0 * x) * torch.sigmoid(-2.0 * x)


def _tanh_excess(x: Tensor) -> Tensor:
    """-x D / (1 + D) with the continued fraction D = u / (3 + u / (5 + ...)), u = x^2, where the difference cancels."""
    near = x.abs() < 0.75
    u = torch.where(near, x, 0.0).square()
    d = u / 17.0
    for k in (15.0, 13.0, 11.0, 9.0, 7.0, 5.0, 3.0):
        d = u / (k + d)
    return torch.where(near, -x * (d / (1.0 + d)), torch.tanh(x) - x)


def _sin_excess(x: Tensor) -> Tensor:
    """-x^3/6 (1 - u/20 (1 - u/42 (...))), u = x^2, where the difference cancels."""
    near = x.abs() < 1.0
    u = torch.where(near, x, 0.0).square()
    rest = 1.0 - u * (1.0 / (20 * 21))
    for k in range(18, 2, -2):
        rest = 1.0 - u * (1.0 / (k * (k + 1))) * rest
    return torch.where(near, x * u * (-1.0 / 6.0) * rest, torch.sin(x) - x)


def _gelu_slope(x: Tensor) -> Tensor:
    x = x.clamp(-_NORMAL_REACH, _NORMAL_REACH)
    return _normal_cdf(x) + x * _normal_pdf(x)


def _gelu_curvature(x: Tensor) -> Tensor:
    x = x.clamp(-_NORMAL_REACH, _NORMAL_REACH)
    return (2.0 - x * x) * _normal_pdf(x)


def _gelu_third(x: Tensor) -> Tensor:
    x = x.clamp(-_NORMAL_REACH, _NORMAL_REACH)
    return x * (x * x - 4.0) * _normal_pdf(x)


def _silu_slope(x: Tensor) -> Tensor:
    x = x.clamp(-_LOGISTIC_REACH, _LOGISTIC_REACH)
    p = torch.sigmoid(x)
    return p * (1.0 + x * torch.sigmoid(-x))


def _silu_curvature(x: Tensor) -> Tensor:
    x = x.clamp(-_LOGISTIC_REACH, _LOGISTIC_REACH)
    p, q = torch.sigmoid(x), torch.sigmoid(-x)
    return p * q * (2.0 + x * (q - p))


def _silu_third(x: Tensor) -> Tensor:
    x = x.clamp(-_LOGISTIC_REACH, _LOGISTIC_REACH)
    p, q = torch.sigmoid(x), torch.sigmoid(-x)
    return p * q * (3.0 * (q - p) + x * (1.0 - 6.0 * p * q))


def _softplus_third(x: Tensor) -> Tensor:
    p, q = torch.sigmoid(x), torch.sigmoid(-x)
    return p * q * (q - p)


def _erf_slope(x: Tensor) -> Tensor:
    return _TWO_OVER_SQRT_PI * torch.exp(-x * x)


def _erf_slope_excess(x: Tensor) -> Tensor:
    return _TWO_OVER_SQRT_PI * torch.expm1(-x * x) + (_TWO_OVER_SQRT_PI - 1.0)


def _erf_curvature(x: Tensor) -> Tensor:
    x = x.clamp(-_NORMAL_REACH, _NORMAL_REACH)
    return -2.0 * x * _erf_slope(x)


def _erf_third(x: Tensor) -> Tensor:
    x = x.clamp(-_NORMAL_REACH, _NORMAL_REACH)
    return (4.0 * x * x - 2.0) * _erf_slope(x)


# softplus: past x = 40 the correction exp(-x) is below half an ulp of x in float64, so the threshold loses nothing.
BASES: dict[str, Base] = {
    "relu": Base(
        torch.relu,
        lambda x: (x > 0).to(x.dtype),
        torch.zeros_like,
        0,
        True,
        lambda x: torch.where(x > 0, 0.0, -x),
        third=torch.zeros_like,
    ),
    "relu2": Base(
        lambda x: 0.5 * torch.relu(x) * torch.relu(x),
        torch.relu,
        lambda x: (x > 0).to(x.dtype),
        1,
        excess=lambda x: x * (0.5 * torch.relu(x) - 1.0),
        third=torch.zeros_like,
    ),
    "tanh": Base(
        torch.tanh,
        _sech_squared,
        lambda x: -2.0 * torch.tanh(x) * _sech_squared(x),
        2,
        excess=_tanh_excess,
        slope_excess=lambda x: -torch.tanh(x).square(),
        third=lambda x: _sech_squared(x) * (4.0 * torch.tanh(x).square() - 2.0 * _sech_squared(x)),
    ),
    # Of these three sigma(x) - x is sigma(-x), and sigma'(x) - 1 is -sigma'(-x).
    "gelu": Base(
        lambda x: x * _normal_cdf(x),
        _gelu_slope,
        _gelu_curvature,
        3,
        True,
        lambda x: -x.clamp(max=_NORMAL_REACH) * _normal_cdf(-x),
        lambda x: -_gelu_slope(-x),
        _gelu_third,
    ),
    "silu": Base(
        lambda x: x * torch.sigmoid(x),
        _silu_slope,
        _silu_curvature,
        4,
        True,
        lambda x: -x.clamp(max=_LOGISTIC_REACH) * torch.sigmoid(-x),
        lambda x: -_silu_slope(-x),
        _silu_third,
    ),
    "softplus": Base(
        lambda x: F.softplus(x, threshold=40.0),
        torch.sigmoid,
        lambda x: torch.sigmoid(x) * torch.sigmoid(-x),
        5,
        True,
        lambda x: F.softplus(-x, threshold=40.0),
        lambda x: -torch.sigmoid(-x),
        _softplus_third,
    ),
    "erf": Base(torch.erf, _erf_slope, _erf_curvature, 6, slope_excess=_erf_slope_excess, third=_erf_third),
    "sin": Base(
        torch.sin,
        torch.cos,
        lambda x: -torch.sin(x),
        7,
        excess=_sin_excess,
        slope_excess=lambda x: -2.0 * torch.sin(0.5 * x).square(),
        third=lambda x: -torch.cos(x),
    ),
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
