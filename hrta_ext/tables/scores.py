"""How well a model predicts rows that it has not seen: the split, the score, the linear model beside it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from hrta_ext.tables.scaling import FloatArray, Scaling


def split_rows(n_rows: int, fraction: float, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Row numbers for training and for validation, both sorted; ``fraction`` of the rows, at least 1, validate."""
    order = np.random.default_rng(seed).permutation(n_rows)
    n_validation = max(1, round(n_rows * fraction))
    return np.sort(order[n_validation:]), np.sort(order[:n_validation])


@dataclass(frozen=True)
class Score:
    """Root mean square error in the target's units, and R^2 = 1 - MSE / variance of these rows (NaN if that is 0)."""

    rmse: float
    r2: float

    @classmethod
    def of(cls, y: FloatArray, prediction: FloatArray) -> Score:
        """Score of ``prediction`` for ``y``, both of shape (n,)."""
        mse = float(np.mean((y - prediction) ** 2))
        variance = float(np.var(y))
        return cls(math.sqrt(mse), 1.0 - mse / variance if variance > 0.0 else math.nan)


def linear_least_squares(x: FloatArray, y: FloatArray, scaling: Scaling, rows: FloatArray) -> FloatArray:
    """Predictions at ``rows`` (k, d) of the linear model, intercept included, fitted to x (n, d), y (n,)."""

    def design(values: FloatArray) -> FloatArray:
        scaled = scaling.scale_x(torch.from_numpy(np.ascontiguousarray(values))).numpy()
        return np.concatenate([scaled, np.ones((len(values), 1))], axis=1)

    coefficients = np.linalg.lstsq(design(x), y, rcond=None)[0]
    return np.asarray(design(rows) @ coefficients, dtype=np.float64)
