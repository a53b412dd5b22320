"""What finite- and infinite-width kernels share: the pair of Gram matrices, the sums they come from, values of s."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

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
    """Sums over neurons, float64, from which both matrices follow for every s (csrc/ntk/gram.h gives the formulas).

    For cross-kernels n counts the samples of x and behind them those of x2, and the two products are (..., rows of x,
    rows of x2).
    """

    linear: Tensor  # (..., n, D)  sum_k z_ik w_k
    cross: Tensor  # (..., n, D)  sum_k sigma(z_ik) w_k
    square_sum: Tensor  # (..., 1)  sum_k a_k^2
    slope_sum: Tensor  # (..., n)  sum_k a_k^2 sigma'(z_ik)
    value_product: Tensor  # (..., n, n)  sum_k sigma(z_ik) sigma(z_jk)
    slope_product: Tensor  # (..., n, n)  sum_k a_k^2 sigma'(z_ik) sigma'(z_jk)


def sum_shapes(x: Tensor, x2: Tensor | None = None) -> tuple[tuple[int, ...], ...]:
    """Shapes of the members of GramSums for samples x (n, D), or x (n, D) and x2 (n2, D)."""
    rows, d = x.shape
    n, columns = (rows, rows) if x2 is None else (rows + x2.shape[0], x2.shape[0])
    return (n, d), (n, d), (1,), (n,), (rows, columns), (rows, columns)


def cross_columns(x: Tensor, sums: GramSums) -> int:
    """n2 where the last n2 of the samples x (n + n2, D) are the columns of cross-kernels, else 0."""
    rows, columns = sums.value_product.shape[-2:]
    return columns if x.shape[0] > rows else 0


class Drawn(NamedTuple):
    """Neurons of the generator: those numbered first_neuron .. first_neuron + width - 1."""

    seed: int
    first_neuron: int
    width: int


@dataclass(frozen=True)
class Neurons:
    """Neurons in memory, or (weight None) those numbered first .. first + count - 1 of the generator."""

    count: int
    weight: Tensor | None = None  # (count, D)
    output_weight: Tensor | None = None  # (count,)
    seed: int = 0
    first: int = 0
    draw: Callable[..., Any] | None = None  # random_weights of the backend in charge, for a reference that stands in

    def stretches(self, step: int) -> Iterator[Neurons]:
        """The same neurons, ``step`` at a time."""
        for begin in range(0, self.count, step):
            yield self.part(begin, min(begin + step, self.count))

    def part(self, begin: int, end: int) -> Neurons:
        """The neurons begin .. end - 1 of these."""
        weight, output_weight = self.weight, self.output_weight
        if weight is not None and output_weight is not None:
            weight, output_weight = weight[begin:end], output_weight[begin:end]
        return replace(self, count=end - begin, weight=weight, output_weight=output_weight, first=self.first + begin)
