"""Spectra of Gram matrices: what Theorem 3.1 of the paper is about, on the user's own data."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from hrta_ext.ntk.types import Gram


def _check_matrix(matrix: object, function: str) -> Tensor:
    if not isinstance(matrix, Tensor):
        hint = "; its ntk is one" if isinstance(matrix, Gram) else ""
        raise TypeError(f"{function}: matrix must be a tensor, got {type(matrix).__name__}{hint}")
    if matrix.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"{function}: matrix must be float32 or float64, got {matrix.dtype}")
    if matrix.dim() < 2 or matrix.shape[-1] != matrix.shape[-2]:
        raise ValueError(f"{function}: matrix must have shape (..., n, n), got {tuple(matrix.shape)}")
    if matrix.shape[-1] == 0:
        raise ValueError(f"{function}: matrix must have at least one row, got shape {tuple(matrix.shape)}")
    wide = matrix.detach().double()
    scale = wide.abs().amax(dim=(-2, -1))
    finite = torch.isfinite(scale).all()
    symmetric = ((wide - wide.mT).abs().amax(dim=(-2, -1)) <= 1e-5 * scale).all()
    finite, symmetric = torch.stack([finite, symmetric]).tolist()  # one wait for a device
    if not finite:
        raise ValueError(f"{function}: matrix must be finite")
    if not symmetric:
        raise ValueError(f"{function}: matrix must be symmetric")
    return wide


def eigenvalues(matrix: Tensor) -> Tensor:
    """Eigenvalues of symmetric matrices (..., n, n) in ascending order: (..., n), float64.

    Raises:
        TypeError, ValueError: Not a floating-point tensor, not square, empty, not finite, not symmetric to 1e-5.

    Example:
        >>> import torch, hrta_ext as hx
        >>> hx.eigenvalues(torch.tensor([[2.0, 1.0], [1.0, 2.0]]))
        tensor([1., 3.], dtype=torch.float64)
    """
    return torch.linalg.eigvalsh(_check_matrix(matrix, "eigenvalues"))


def lambda_min(matrix: Tensor) -> Tensor:
    """Smallest eigenvalue of symmetric matrices (..., n, n): (...), float64.

    Accurate to about 1e-16 lambda_max, so a matrix in float32 shows only what stands above 1e-7 lambda_max.

    Raises:
        TypeError, ValueError: As :func:`eigenvalues`.

    Example:
        >>> import torch, hrta_ext as hx
        >>> hx.lambda_min(torch.tensor([[2.0, 1.0], [1.0, 2.0]]))
        tensor(1., dtype=torch.float64)
    """
    return torch.linalg.eigvalsh(_check_matrix(matrix, "lambda_min"))[..., 0]


def decay_rate(matrix: Tensor) -> Tensor:
    """2 lambda_min / n of an NTK (..., n, n): gradient flow brings the loss down at least like exp(-rate t).

    d/dt (f - y) = -(1/n) NTK (f - y) for R = 1/(2n) sum (f - y)^2 (docs/theory.md 3), and R is quadratic in f - y.

    Example:
        >>> import torch, hrta_ext as hx
        >>> hx.decay_rate(torch.eye(4))
        tensor(0.5000, dtype=torch.float64)
    """
    return 2.0 * lambda_min(matrix) / matrix.shape[-1]


class SquareLaw(NamedTuple):
    """Whether lambda_min grows like s^2: the fitted exponent, and a sentence."""

    exponent: float
    holds: bool
    sentence: str


def square_law(s: Tensor, smallest: Tensor, n_samples: int, n_features: int, tolerance: float = 0.05) -> SquareLaw:
    """Fit log lambda_min against log s over s > 0, and compare the exponent with 2 (docs/theory.md, section 3.4).

    The law is about n > D: the part of the kernel that is linear in s has rank D.

    Args:
        s: (S,).
        smallest: lambda_min at each s, (S,).
        n_samples: n.
        n_features: D, the bias included.
        tolerance: Largest deviation from 2 that still counts as the law.

    Example:
        >>> import torch, hrta_ext as hx
        >>> s = torch.tensor([0.5, 1.0, 2.0])
        >>> hx.square_law(s, 3e-4 * s**2, 100, 2).holds
        True
    """
    s, smallest = s.to("cpu", torch.float64), smallest.to("cpu", torch.float64)  # of two devices, or one
    if n_samples <= n_features:
        sentence = f"The s^2 law needs n > D; here n = {n_samples} and D = {n_features}."
        return SquareLaw(math.nan, False, sentence)
    usable = (s > 0) & (smallest > 0)
    if int(usable.sum()) < 2:
        return SquareLaw(math.nan, False, "lambda_min is not positive at two values s > 0, so it has no power law.")
    x, y = s[usable].log(), smallest[usable].log()
    x, y = x - x.mean(), y - y.mean()
    if not bool(x.abs().max() > 0):
        return SquareLaw(math.nan, False, "A power law needs two different values s > 0.")
    exponent = float((x * y).sum() / x.square().sum())
    holds = abs(exponent - 2.0) <= tolerance
    verdict = "grows like s^2" if holds else "does not grow like s^2"
    sentence = f"lambda_min {verdict} on these data: fitted exponent {exponent:.3f} (2 within {tolerance:g} wanted)."
    return SquareLaw(exponent, holds, sentence)
