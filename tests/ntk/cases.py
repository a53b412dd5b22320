"""Gram problems as data, and the dense float64 formula that every builder is compared with."""

from __future__ import annotations

import torch
from cases import sigma, slope
from torch import Tensor

import hrta_ext as hx

# Relative Frobenius error that each result type promises (hx.gram_path).
CLASSES = {torch.float32: 1e-6, torch.float64: 1e-13}
VALUES = (0.0, 1e-3, 0.5, 1.0, 1.5, 2.0, 3.0)


def problem(n: int, m: int, d: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    """x (n, D) with rows of norm about one, weights (m, D) and output weights (m,) from N(0, 1).

    The first neuron is active for the first sample, so that ReLU leaves something of the smallest networks.
    """
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d, generator=generator, dtype=dtype) / d**0.5
    weight = torch.randn(m, d, generator=generator, dtype=dtype)
    output_weight = torch.randn(m, generator=generator, dtype=dtype)
    if x[0] @ weight[0] < 0:
        weight[0] = -weight[0]
    return x, weight, output_weight


def dense(
    x: Tensor, weight: Tensor, output_weight: Tensor, s: float | tuple[float, ...], base: str = "relu"
) -> hx.Gram:
    """Both matrices by their definition, in float64."""
    x, weight, output_weight = x.double().cpu(), weight.double().cpu(), output_weight.double().cpu()
    z, width = x @ weight.mT, weight.shape[-2]
    parameters = torch.tensor(s, dtype=torch.float64).reshape(-1, *[1] * z.dim())
    value = (1 - parameters) * z + parameters * sigma(z, base)
    rise = ((1 - parameters) + parameters * slope(z, base)) * output_weight[..., None, :]
    a, w = value @ value.mT / width, (x @ x.mT) * (rise @ rise.mT) / width
    return hx.Gram(a, w) if isinstance(s, tuple) else hx.Gram(a[0], w[0])


def relative_error(result: Tensor, exact: Tensor) -> float:
    """Relative Frobenius error."""
    return float((result.double().cpu() - exact).norm() / exact.norm())
