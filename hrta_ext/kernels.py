"""What finite- and infinite-width kernels share: the pair of Gram matrices, the sums they come from, values of s."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

Parameters = float | Sequence[float] | Tensor  # one s, or a 1-D sequence of S values


class Gram(NamedTuple):
    """The two Gram matrices of a two-layer network (THEORY, section 3), shapes (..., n, n).

    ``a`` belongs to the output weights (the NNGP kernel), ``w`` to the first layer; ``ntk`` is their sum.
    """

    a: Tensor
    w: Tensor

    @property
    def ntk(self) -> Tensor:
        """The neural tangent kernel, a + w."""
        return self.a + self.w


class GramSums(NamedTuple):
    """Sums over neurons, float64, from which both matrices follow for every s (csrc/gram.h gives the formulas)."""

    linear: Tensor  # (..., n, D)  sum_k z_ik w_k
    cross: Tensor  # (..., n, D)  sum_k sigma(z_ik) w_k
    square_sum: Tensor  # (..., 1)  sum_k a_k^2
    slope_sum: Tensor  # (..., n)  sum_k a_k^2 sigma'(z_ik)
    value_product: Tensor  # (..., n, n)  sum_k sigma(z_ik) sigma(z_jk)
    slope_product: Tensor  # (..., n, n)  sum_k a_k^2 sigma'(z_ik) sigma'(z_jk)


@dataclass(frozen=True)
class Neurons:
    """Neurons in memory, or (weight None) those numbered first .. first + count - 1 of the generator."""

    count: int
    weight: Tensor | None = None  # (count, D)
    output_weight: Tensor | None = None  # (count,)
    seed: int = 0
    first: int = 0


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
