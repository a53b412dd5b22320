"""Between a table's units and the network's."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

FloatArray = NDArray[np.float64]


class ModelError(ValueError):
    """What is wrong with a saved model or with the columns it is to learn from, in one line."""


@dataclass(frozen=True)
class Scaling:
    """Affine maps between a table's units and the network's.

    Features become (x - x_mean) / x_scale with x_scale = standard deviation * sqrt(d): every feature counts alike and a
    sample has mean square norm 1 for every number d of features, so that the network's random start is of the size of
    the standardised target (y - y_mean) / y_scale and does not drown it.

    Attributes:
        x_mean, x_scale: Shape (d,), float64.
        y_mean, y_scale: 0-dim, float64.
    """

    x_mean: Tensor
    x_scale: Tensor
    y_mean: Tensor
    y_scale: Tensor

    @classmethod
    def of(cls, x: Tensor, y: Tensor) -> Scaling:
        """The scaling that the rows x (n, d), y (n,) define; a column that is constant in them is only centred."""
        y_std = _one_if_constant(y.std(correction=0), y)
        return cls(x.mean(0), _feature_scale(x), y.mean(), y_std)._checked()

    @classmethod
    def of_samples(cls, x: Tensor) -> Scaling:
        """The scaling that the rows x (n, d) define; targets, of which there are none, would stay as they are."""
        return cls(x.mean(0), _feature_scale(x), x.new_zeros(()), x.new_ones(()))._checked()

    def _checked(self) -> Scaling:
        if not all(bool(t.isfinite().all()) for t in (self.x_mean, self.x_scale, self.y_mean, self.y_scale)):
            raise ModelError("the numbers of the table are too large: their variance overflows float64; rescale them")
        return self

    def scale_x(self, x: Tensor) -> Tensor:
        """Features (n, d) in the network's units."""
        return (x - self.x_mean) / self.x_scale

    def scale_y(self, y: Tensor) -> Tensor:
        """Targets (n,) in the network's units."""
        return (y - self.y_mean) / self.y_scale


def _feature_scale(x: Tensor) -> Tensor:
    return _one_if_constant(x.std(0, correction=0), x) * math.sqrt(x.shape[1])


def _one_if_constant(deviation: Tensor, values: Tensor) -> Tensor:
    return torch.where(values.amax(0) > values.amin(0), deviation, torch.ones((), dtype=values.dtype))
