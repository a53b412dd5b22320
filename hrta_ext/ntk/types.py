"""What finite- and infinite-width kernels share: the pair of Gram matrices, the sums they come from, values of s."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor


class Gram(NamedTuple):
    """The two Gram matrices of a two-layer network (docs/theory.md, section 3), shapes (..., n, n).

    ``a`` belongs to the output weights (the NNGP kernel), ``w`` to the first layer; ``ntk`` is their sum.
    """

    a: Tensor
    w: Tensor

    @property
    def ntk(self) -> Tensor:
        """The neural tangent kernel, a + w."""
        return self.a + self.w


class GramSums(NamedTuple):
    """Sums over neurons, float64, from which both matrices follow for every s (csrc/ntk/gram.h gives the formulas)."""

    linear: Tensor  # (..., n, D)  sum_k z_ik w_k
    cross: Tensor  # (..., n, D)  sum_k sigma(z_ik) w_k
    square_sum: Tensor  # (..., 1)  sum_k a_k^2
    slope_sum: Tensor  # (..., n)  sum_k a_k^2 sigma'(z_ik)
    value_product: Tensor  # (..., n, n)  sum_k sigma(z_ik) sigma(z_jk)
    slope_product: Tensor  # (..., n, n)  sum_k a_k^2 sigma'(z_ik) sigma'(z_jk)


def sum_shapes(x: Tensor) -> tuple[tuple[int, ...], ...]:
    """Shapes of the members of GramSums for samples x (n, D)."""
    n, d = x.shape
    return (n, d), (n, d), (1,), (n,), (n, n), (n, n)


@dataclass(frozen=True)
class Neurons:
    """Neurons in memory, or (weight None) those numbered first .. first + count - 1 of the generator."""

    count: int
    weight: Tensor | None = None  # (count, D)
    output_weight: Tensor | None = None  # (count,)
    seed: int = 0
    first: int = 0
