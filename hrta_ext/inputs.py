"""Every argument's check, one wording each: what it is called, what is expected, what came."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Real
from operator import index

import torch
from torch import Tensor

Parameter = float | Tensor  # s of an activation: a number, or a tensor of shape () or (F,) with F = x.shape[-1]
Parameters = float | Sequence[float] | Tensor  # one s, or a 1-D sequence of S values


class DtypeError(TypeError, ValueError):
    """A wrong dtype; also a ValueError, as it was in 0.1.0."""


def check_integer(value: object, name: str) -> int:
    """``value`` (an int, of NumPy or a 0-dim tensor too) as an int of at least 1; an error naming it otherwise."""
    try:
        if isinstance(value, bool):
            raise TypeError
        number = index(value)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"{name} must be an int, got {value!r}") from None
    if number < 1:
        raise ValueError(f"{name} must be at least 1, got {number}")
    return number


def check_homotopy_parameter(s: object, name: str = "s") -> float:
    """``s`` as a finite float; TypeError or ValueError that names the argument otherwise."""
    if isinstance(s, Tensor) and s.numel() == 1:
        s = s.item()
    if isinstance(s, bool) or not isinstance(s, Real):
        raise TypeError(f"{name} must be a real number, got {type(s).__name__}")
    if not math.isfinite(s):
        raise ValueError(f"{name} must be finite, got {s}")
    return float(s)


def check_samples(x: object, function: str, name: str = "x") -> Tensor:
    """x as samples (n, D) in float32 or float64, finite; a clear error otherwise."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{function}: {name} must be a tensor, got {type(x).__name__}")
    if x.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"{function}: {name} must be float32 or float64, got {x.dtype}")
    if x.dim() != 2 or x.shape[1] < 1:
        raise ValueError(f"{function}: {name} must have shape (n, D) with D >= 1, got {tuple(x.shape)}")
    if not math.isfinite(x.detach().sum()):  # cheap; a finite x whose sum overflows is looked at row by row
        for row in (~torch.isfinite(x).all(dim=1)).nonzero()[:1, 0].tolist():
            raise ValueError(f"{function}: {name} must be finite, row {row} is {x[row].tolist()}")
    return x


def parameter_values(s: Parameters, function: str) -> Tensor:
    """s as a float64 tensor on the CPU, shape () or (S,); a clear error otherwise."""
    if isinstance(s, bool) or not isinstance(s, (int, float, Sequence, Tensor)) or isinstance(s, str):
        raise TypeError(f"{function}: s must be a float or a 1-D sequence of floats, got {type(s).__name__}")
    try:
        values = s.detach().to("cpu", torch.float64) if isinstance(s, Tensor) else torch.tensor(s, dtype=torch.float64)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{function}: s must be a float or a 1-D sequence of floats, got {s!r}") from error
    values = values.resolve_neg().contiguous()  # the kernels read them by address
    if values.dim() > 1:
        raise ValueError(f"{function}: s must be a float or have shape (S,), got shape {tuple(values.shape)}")
    for value in values.reshape(-1).tolist():
        if not math.isfinite(value):
            raise ValueError(f"{function}: s must be finite, got {value}")
    return values


def with_bias(x: Tensor) -> Tensor:
    """Append the column of ones that makes the last weight of every neuron its bias.

    Args:
        x: Samples, shape (..., d).
    Returns:
        Shape (..., d + 1).

    Example:
        >>> import torch, hrta_ext as hx
        >>> hx.with_bias(torch.tensor([[2.0], [3.0]]))
        tensor([[2., 1.],
                [3., 1.]])
    """
    if not isinstance(x, Tensor):
        raise TypeError(f"with_bias: x must be a tensor, got {type(x).__name__}")
    if x.dim() < 1:
        raise ValueError("with_bias: x must have shape (..., d), got a 0-dim tensor")
    return torch.cat([x, x.new_ones((*x.shape[:-1], 1))], dim=-1)
