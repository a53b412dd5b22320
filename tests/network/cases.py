"""The dense two-layer network in float64, neuron by neuron where it matters: the oracle of the fused op's tests."""

from __future__ import annotations

import torch
from cases import curvature, homotopy
from cases import slope as base_slope
from torch import Tensor


def problem(
    n: int, m: int, features: int, dtype: torch.dtype = torch.float64, networks: tuple[int, ...] = (), seed: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """x (n, D), weight (..., m, D), output_weight (..., m), N(0, 1); the first sample is zero, where n > 2."""
    generator = torch.Generator().manual_seed(seed)
    shapes = ((n, features), (*networks, m, features), (*networks, m))
    x, weight, output_weight = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes)
    if n > 2:
        x[0] = 0.0
    return x.to(dtype), weight.to(dtype), output_weight.to(dtype)


def in_the_plane(kind: str, n: int, dtype: torch.dtype) -> Tensor:
    """Rows of zeros and ties among them, but for the grid of the paper's first example."""
    generator = torch.Generator().manual_seed(n)
    if kind == "grid":
        return torch.stack((torch.linspace(0, 1, n, dtype=torch.float64), torch.ones(n)), 1).to(dtype)
    if kind == "integers":  # parallel, antiparallel, on the axes
        return torch.randint(-3, 4, (n, 2), generator=generator).to(dtype)
    x = torch.randn(n, 2, generator=generator, dtype=torch.float64)
    if kind == "spread":  # over 30 orders of magnitude
        x *= 10.0 ** (30 * torch.rand(n, 2, generator=generator, dtype=torch.float64) - 15)
    return x.to(dtype)


def dense(x: Tensor, weight: Tensor, output_weight: Tensor, s: float | Tensor, base: str) -> Tensor:
    """f (..., n) in float64, from the n x m matrix."""
    z = x.double() @ weight.double().mT
    return (homotopy(z, s, base) * output_weight.double().unsqueeze(-2)).sum(-1) / weight.shape[-2] ** 0.5


def dense_gradient(x: Tensor, weight: Tensor, output_weight: Tensor, s: float | Tensor, base: str) -> Tensor:
    """df/dx (..., n, D) in float64."""
    z = x.double() @ weight.double().mT
    factor = homotopy(z, s, base, 1) * output_weight.double().unsqueeze(-2)
    return factor @ weight.double() / weight.shape[-2] ** 0.5


def dense_weight_gradients(
    grad_f: Tensor, grad_df_dx: Tensor | None, x: Tensor, weight: Tensor, output_weight: Tensor, s: float, base: str
) -> tuple[Tensor, Tensor]:
    """The gradients of sum_i grad_f_i f_i + grad_df_dx_i . df_dx_i in the weights, written out, in float64."""
    x, w, a, g = (t.double() for t in (x, weight, output_weight, grad_f))
    z, scale = x @ w.mT, w.shape[-2] ** -0.5
    slope = (1 - s) + s * base_slope(z, base)
    factor, value = g.unsqueeze(-1) * slope, g.unsqueeze(-1) * homotopy(z, s, base)
    rows = factor.mT @ x
    if grad_df_dx is not None:
        along = grad_df_dx.double() @ w.mT
        rows = (factor + along * s * curvature(z, base)).mT @ x + slope.mT @ grad_df_dx.double()
        value = value + along * slope
    return scale * a.unsqueeze(-1) * rows, scale * value.sum(-2)
