"""How neurons are added to the six sums: to which samples, in which class, and by whom."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hrta_ext.backends import serve
from hrta_ext.callers import aligned
from hrta_ext.ntk import native, reference
from hrta_ext.ntk.types import GramSums, Neurons, sum_shapes


class Samples:
    """Checked samples in float64: ``x`` (n, D), ``x2`` (n2, D) of cross-kernels or None, and ``every`` one of both."""

    def __init__(self, x: Tensor, x2: Tensor | None) -> None:
        self.x = aligned(x.detach().resolve_neg().double())
        self.x2 = None if x2 is None else aligned(x2.detach().resolve_neg().double())
        self.every = self.x if self.x2 is None else torch.cat([self.x, self.x2])
        self.n2 = 0 if self.x2 is None else self.x2.shape[0]
        self.pairs = self.x.shape[0] * (self.x.shape[0] if self.x2 is None else self.n2)

    def zero_sums(self, leading: tuple[int, ...] = ()) -> GramSums:
        """Sums of no neurons."""
        shapes = sum_shapes(self.x, self.x2)
        return GramSums(*(torch.zeros(*leading, *shape, dtype=torch.float64, device=self.x.device) for shape in shapes))

    def most_parts(self) -> int:
        """Parts of a width whose sums (16 n^2 or 16 n n2 bytes each) memory has room for."""
        return 16 if self.pairs <= 512**2 else 8 if self.pairs <= 1024**2 else 1


def builders_for(x: Tensor, base: str) -> list[Any]:
    """Who builds, the first that serves the call to its class: on a GPU the kernels hand much to the libraries."""
    builder = serve(native, reference, x, base)
    return [builder, reference] if x.is_cuda and builder is native else [builder]


def least_scratch(builder: Any, x: Tensor, x2: Tensor | None, width: int, base: str, high: bool) -> int:
    """Bytes of scratch that a builder needs at least."""
    n, n2 = x.shape[0], 0 if x2 is None else x2.shape[0]
    if n == 0 or (x2 is not None and n2 == 0):
        return 0
    return int(builder.least_scratch(n + n2, n2, x.shape[1], width, base, high))


@dataclass(frozen=True)
class Building:
    """Who adds neurons to the sums of which samples.

    Attributes:
        high: The float64 class.
        budget: Bytes of scratch.
    """

    samples: Samples
    base: str
    high: bool
    builders: list[Any]
    budget: int

    def add(self, sums: GramSums, neurons: Neurons, step: int, report: Callable[[int], Any] | None = None) -> None:
        """Add neurons to sums of zeros, ``step`` drawn ones between two reports of how many are done."""
        for builder in self.builders:
            if self.add_by(builder, sums, neurons, step, report):
                break

    def add_by(
        self, builder: Any, sums: GramSums, neurons: Neurons, step: int, report: Callable[[int], Any] | None
    ) -> bool:
        """The same by one builder; False, and zeros, where it does not serve the call."""
        every = self.samples.every
        served: bool = builder.add_to(sums, every, neurons, self.base, self.high, self.budget, step, report)
        return served

    def piece(self, step: int) -> int | None:
        """Neurons whose sums the first builder makes by themselves before it adds them; None: it makes none."""
        crossed = self.samples.x2 is not None
        found: int | None = self.builders[0].piece(self.samples.every, self.base, step, crossed)
        return found

    def entries_stand_alone(self) -> bool:
        """Whether an entry has the bits that it has in a cross-kernel of its row's sample and its column's."""
        found: bool = self.builders[0].entries_stand_alone(self.samples.every, self.base, self.samples.x2 is not None)
        return found


def each_batch(sums: GramSums) -> list[GramSums]:
    """Sums (batches, ...) as those of every batch: views."""
    return [GramSums(*parts) for parts in zip(*sums, strict=True)]
