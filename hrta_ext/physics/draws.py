"""Points of the unit cube: what a draw is, before a region maps it to where it belongs."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.quasirandom import SobolEngine

METHODS = ("uniform", "latin", "sobol")
_MASK = 2**64 - 1


class UnitPoints:
    """The points of one draw in [0, 1)^d, float64 on the CPU, a function of (method, d, seed, draw) and of the counts.

    Philox with the key (seed, draw) makes "uniform" and "latin", and the seed of the scrambling of "sobol": no state,
    any draw at once. Asked again, "uniform" and "sobol" go on in their sequence; "latin" makes one more hypercube.
    """

    def __init__(self, method: str, dimension: int, seed: int, draw: int) -> None:
        self.method, self.dimension = method, dimension
        self._philox = np.random.Philox(key=np.array([seed & _MASK, draw & _MASK], dtype=np.uint64))
        if method == "sobol":
            self._engine = SobolEngine(dimension, scramble=True, seed=int(self._philox.random_raw()) >> 1)
        else:
            self._generator = np.random.Generator(self._philox)

    def take(self, count: int) -> Tensor:
        """The next points, shape (count, d)."""
        if self.method == "sobol":
            return self._engine.draw(count, dtype=torch.float64)
        points = self._generator.random((count, self.dimension))
        if self.method == "latin":
            # One point in each of count slices of every axis: the ranks of random numbers are a random permutation.
            ranks = self._generator.random((count, self.dimension)).argsort(axis=0, kind="stable")
            points = np.minimum((ranks + points) / count, 1 - 2.0**-53)  # the sum may round up to count
        return torch.from_numpy(points)


class EvenPoints:
    """The middles of equal parts of [0, 1), for sets of a few points."""

    def take(self, count: int) -> Tensor:
        """Shape (count, 1)."""
        return (torch.arange(count, dtype=torch.float64, device="cpu")[:, None] + 0.5) / count
