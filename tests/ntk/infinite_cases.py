"""Samples that hurt, and the kernels of infinite width by ways of their own."""

from __future__ import annotations

import math

import cases
import mpmath
import torch
from torch import Tensor


def awkward(n: int = 9, d: int = 3, seed: int = 0) -> Tensor:
    """Random samples with a duplicate, a multiple, an antiparallel pair, nearly parallel ones and a zero row."""
    x = torch.randn(n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    x[3], x[4], x[5], x[6], x[7] = x[2], 2 * x[2], -x[2], x[2] * (1 + 1e-9) + 1e-9, 0
    return x


def by_quadrature(x: Tensor, y: Tensor, base: str, s: float) -> tuple[float, float]:
    """K^[a] and the sigma' factor for one pair, by the trapezoid rule in two dimensions: nothing of the package.

    The integrands are analytic up to pi / (2 |x|) from the real axis at least, so on [-9, 9] a step of 1 / (4 |x|)
    leaves exp(-39), and exp(-40) lies outside.
    """
    norm, norm2 = float(x.norm()), float(y.norm())
    cosine = float(x @ y) / (norm * norm2)
    g = torch.linspace(-9, 9, 2 * int(36 * max(norm, norm2, 4.0)) + 1, dtype=torch.float64)
    weight = torch.exp(-g * g / 2) * (g[1] - g[0]) / math.sqrt(2 * math.pi)
    sine_g = math.sqrt((1 - cosine) * (1 + cosine)) * g
    value, slope = 0.0, 0.0
    for part, part_weight in zip(g.split(500), weight.split(500), strict=True):
        u, v = norm * part, norm2 * (cosine * part[:, None] + sine_g)
        for order, sum_ in ((0, cases.homotopy(v, s, base, 0) @ weight), (1, cases.homotopy(v, s, base, 1) @ weight)):
            total = float((part_weight * cases.homotopy(u, s, base, order)) @ sum_)
            value, slope = (value + total, slope) if order == 0 else (value, slope + total)
    return value, slope


def relu_recursion(angle: float, s: float, depth: int) -> tuple[float, float]:
    """K^[a] and K^[w] of two samples of length 1 at this angle, in 50 digits."""
    with mpmath.workdps(50):
        s_, cosine = mpmath.mpf(s), mpmath.cos(mpmath.mpf(angle))
        tangent, variance = cosine, mpmath.mpf(1)
        for _ in range(depth):
            theta = mpmath.acos(min(max(cosine, -1), 1))
            kappa1 = (mpmath.sin(theta) + (mpmath.pi - theta) * mpmath.cos(theta)) / (2 * mpmath.pi)
            sigma = variance * ((1 - s_) * cosine + s_**2 * kappa1)
            rest = tangent * ((1 - s_) + s_**2 * (mpmath.pi - theta) / (2 * mpmath.pi))
            variance *= 1 - s_ + s_**2 / 2
            tangent, cosine = sigma + rest, sigma / variance
        return float(sigma), float(rest)
