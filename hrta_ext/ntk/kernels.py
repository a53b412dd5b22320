"""The kernels that KernelRegression takes: of infinite width, of a network's weights, of drawn neurons."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hrta_ext.inputs import shown
from hrta_ext.ntk.gram import gram, random_gram_path
from hrta_ext.ntk.infinite import infinite_gram
from hrta_ext.ntk.path import GramPath
from hrta_ext.ntk.types import Drawn, Gram

_ERRORS = {torch.float32: 1e-6, torch.float64: 1e-13}  # of the classes of accuracy, relative to the matrix's norm


@dataclass(frozen=True)
class InfiniteKernel:
    """Of infinitely wide networks."""

    base: str
    depth: int
    s: float
    error = 0.0  # relative, beside rounding

    def between(self, x: Tensor, x2: Tensor | None = None) -> Gram:
        """Both matrices on samples x (n, D) and x2 (n2, D), x itself if None: float64, on the CPU."""
        return infinite_gram(x, self.s, base=self.base, depth=self.depth, x2=x2)


@dataclass(frozen=True)
class NetworkKernel:
    """Of a network's weights as they were: training may change them afterwards."""

    weight: Tensor  # (m, D) float64
    output_weight: Tensor  # (m)
    base: str
    s: float
    group: Any = None  # whose ranks have the other neurons
    error = _ERRORS[torch.float64]

    @property
    def n_features(self) -> int:
        """D."""
        return self.weight.shape[1]

    def between(self, x: Tensor, x2: Tensor | None = None) -> Gram:
        """As above, computed where the weights are."""
        there = self.weight.device
        others = None if x2 is None else x2.to(there)
        weights = self.weight, self.output_weight
        found = gram(x.to(there), *weights, self.s, base=self.base, x2=others, group=self.group)
        return Gram(*(part.cpu() for part in found))


@dataclass(frozen=True)
class DrawnKernel:
    """Of the neurons of a path, drawn again for new samples."""

    path: GramPath
    drawn: tuple[Drawn, ...]
    s: float

    @property
    def error(self) -> float:
        """Of the path's class."""
        return _ERRORS[self.path.dtype]

    @property
    def base(self) -> str:
        """The path's."""
        return self.path.base

    @property
    def n_features(self) -> int:
        """D."""
        return self.path.x.shape[1]

    def between(self, x: Tensor, x2: Tensor | None = None) -> Gram:
        """As above; without x2 for the path's own samples alone, with x2 = those."""
        path, own = self.path, self.path.x
        if x2 is not None:
            parts = [self._drawn_again(x.to(own.device), drawn) for drawn in self.drawn]
            path = sum(parts[1:], parts[0])
        elif x.shape != own.shape or not torch.equal(x, own.cpu()):
            came = "others" if x.shape == own.shape else f"samples of shape {tuple(x.shape)}"
            raise ValueError(
                "KernelRegression: x must be the samples of the path, with the constant 1 appended where bias=True, "
                f"{tuple(own.shape)}, got {came}"
            )
        whole = GramPath(path.x, path.base, torch.float64, path.widths, path.sums, path.x2)
        return Gram(*(part.cpu() for part in whole(self.s)))

    def _drawn_again(self, x: Tensor, drawn: Drawn) -> GramPath:
        seed, first, width = drawn
        options: dict[str, Any] = {"base": self.base, "dtype": self.path.dtype, "batches": 1}
        return random_gram_path(x, width, seed=seed, first_neuron=first, x2=self.path.x, **options)


def finite_kernel(network: Any, s: float | None) -> NetworkKernel | DrawnKernel:
    """The kernel of a TwoLayerNet (or what has its attributes) or of a GramPath; an error that says what is missing."""
    if isinstance(network, GramPath):
        if network.drawn is None or network.x2 is not None:
            what = "of cross-kernels (x2)"
            if network.drawn is None:
                what = "of given weights or of one batch of neurons (GramPath.batch), which it does not hold"
            raise ValueError(
                "KernelRegression: network must be a path of random_gram_path on the training samples, to be drawn "
                f"again for new ones, got a path {what}; a TwoLayerNet has its weights"
            )
        return DrawnKernel(network, network.drawn, 1.0 if s is None else s)
    weights: list[Any] = [getattr(network, name, None) for name in ("weight", "output_weight")]
    base = getattr(network, "base", None)
    if not (all(isinstance(part, Tensor) for part in weights) and weights[0].dim() == 2 and isinstance(base, str)):
        raise TypeError(
            f"KernelRegression: network must be a TwoLayerNet, a path of random_gram_path or None, got {shown(network)}"
        )
    weight, output_weight = (part.detach().double().clone() for part in weights)
    group = getattr(network, "group", None)
    return NetworkKernel(weight, output_weight, base, float(network.s) if s is None else s, group)
