"""Gaussian expectations E[sigma(u) sigma(v)], E[sigma'(u) sigma'(v)] and E sigma'(u) of every built-in base, float64.

u = w . x and v = w . y with w ~ N(0, I) enter through p = x . y, q = |x|^2, q2 = |y|^2 and area = q q2 - p^2.

ReLU, ReLU^2/2, erf, exact GELU and sin have closed forms (Cho and Saul 2009; Williams 1997; Tsuchida, Pearce, van der
Heide, Roosta, Gallagher 2020). The logistic bases are mixtures of them: a logistic variable is 2 K g with g ~ N(0, 1)
and K of Kolmogorov's distribution (Andrews and Mallows 1974), so with Phi the normal distribution function

    tanh(z) = E erf(z / (sqrt(2) K)),  silu(z) = E z Phi(z / (2 K)),  softplus(z) = E ReLU(z + 2 K g),

and their kernels are the closed ones averaged over two such K. The quadrature over K does not know x and y: it
replaces sigma by a mixture of 28 terms that equals it to 1e-15 everywhere, so it serves every norm and angle, and the
kernels stay positive semidefinite.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

MIXTURE_ERROR = 2e-15  # of a base and its slope as mixtures, at any z, relative
_BLOCK_ENTRIES = 2**16  # of temporaries, so that they stay in the cache


@dataclass(frozen=True)
class Pairs:
    """All pairs of two sets of vectors: what the expectations depend on."""

    inner: Tensor  # (n, n2)  p = x . y
    angle: Tensor  # (n, n2)  in [0, pi], to full relative accuracy near 0 and pi
    norm: Tensor  # (n, 1)  |x|
    norm2: Tensor  # (1, n2)  |y|
    same: bool = False  # the two sets are one, so that the kernels are symmetric

    @property
    def area(self) -> Tensor:
        """|x|^2 |y|^2 - (x . y)^2 without cancellation."""
        return (self.norm * self.norm2 * torch.sin(self.angle)).square()


@dataclass(frozen=True)
class Expectations:
    """Of one layer; ``error`` estimates the error of the first two, relative to their largest possible entry."""

    values: Tensor  # (n, n2)  E[sigma(u) sigma(v)]
    slopes: Tensor  # (n, n2)  E[sigma'(u) sigma'(v)]
    mean_slope: Tensor  # (n, 1)  E sigma'(u)
    mean_slope2: Tensor  # (1, n2)
    error: float = 0.0


def pairs_of_samples(x: Tensor, x2: Tensor | None = None) -> Pairs:
    """All pairs of samples x (n, D) and x2 (n2, D), x itself if None; float64."""
    y = x if x2 is None else x2
    norm, norm2 = (torch.linalg.vector_norm(z, dim=1) for z in (x, y))
    # Directions of length 1; zero vectors stay zero, and whatever their angle, their norm makes the entry right.
    u, v = x / norm.clamp(min=1e-300)[:, None], y / norm2.clamp(min=1e-300)[:, None]
    # Differences first, not |u|^2 + |v|^2 - 2 u . v, which loses half the digits of a small angle.
    apart, together = (torch.cdist(u, z, compute_mode="donot_use_mm_for_euclid_dist") for z in (v, -v))
    return Pairs(x @ y.mT, 2.0 * torch.atan2(apart, together), norm[:, None], norm2[None, :], x2 is None)


# --- closed forms -----------------------------------------------------------------------------------------------------


def _constant(pairs: Pairs, value: float) -> tuple[Tensor, Tensor]:
    return torch.full_like(pairs.norm, value), torch.full_like(pairs.norm2, value)


def _arc_cosine(angle: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """J_0, J_1, J_2 of Cho and Saul (2009)."""
    rest, sine, cosine = math.pi - angle, torch.sin(angle), torch.cos(angle)
    return rest, sine + rest * cosine, 3.0 * sine * cosine + rest * (1.0 + 2.0 * cosine.square())


def _relu(pairs: Pairs) -> Expectations:
    j0, j1, _ = _arc_cosine(pairs.angle)
    values = pairs.norm * pairs.norm2 * j1 / (2.0 * math.pi)
    return Expectations(values, j0 / (2.0 * math.pi), *_constant(pairs, 0.5))


def _relu2(pairs: Pairs) -> Expectations:
    _, j1, j2 = _arc_cosine(pairs.angle)
    product = pairs.norm * pairs.norm2
    means = pairs.norm / math.sqrt(2.0 * math.pi), pairs.norm2 / math.sqrt(2.0 * math.pi)
    return Expectations(product.square() * j2 / (8.0 * math.pi), product * j1 / (2.0 * math.pi), *means)


def _sin(pairs: Pairs) -> Expectations:
    p, difference, product = pairs.inner, (pairs.norm - pairs.norm2).square(), 4.0 * pairs.norm * pairs.norm2
    distance = difference + product * torch.sin(0.5 * pairs.angle).square()  # |x - y|^2
    total = difference + product * torch.cos(0.5 * pairs.angle).square()  # |x + y|^2
    # (exp(-|x - y|^2 / 2) - exp(-|x + y|^2 / 2)) / 2: the larger exponential times an expm1.
    larger = 0.5 * torch.exp(-0.5 * torch.minimum(distance, total))
    values = -torch.sign(p) * larger * torch.expm1(-2.0 * p.abs())
    slopes = 0.5 * (torch.exp(-0.5 * distance) + torch.exp(-0.5 * total))
    return Expectations(values, slopes, torch.exp(-0.5 * pairs.norm.square()), torch.exp(-0.5 * pairs.norm2.square()))


# --- mixtures ---------------------------------------------------------------------------------------------------------
# Sums over two widths a and b of functions of D = (q + a^2) (q2 + b^2) - p^2 = area + a^2 q2 + b^2 q + a^2 b^2, which
# does not cancel. E[Phi(u / a) Phi(v / b)] = 1/4 + atan(p / sqrt(D)) / (2 pi).


@dataclass(frozen=True)
class _Mixture:
    """Weights that sum to 1, and squares of the widths."""

    weights: Tensor  # (N,)
    squares: Tensor  # (N,)


@cache
def _kolmogorov(factor: float) -> _Mixture:
    """Quadrature over the width factor K: the trapezoid rule in log K.

    The integrands are analytic for |arg K| < pi/4, whatever x and y, and the density of K vanishes doubly exponentially
    at both ends, so 28 nodes leave 1e-15 (26 leave 7e-15, 24 leave 2e-13).
    """
    k, j = torch.exp(torch.linspace(-1.7, 1.45, 28, dtype=torch.float64)), torch.arange(1.0, 8.0).double()[:, None]
    # Two series of K times its density; the first converges fast for K > 1, the second for K < 1.
    above = 8.0 * k.square() * ((-1.0) ** (j - 1.0) * j.square() * torch.exp(-2.0 * (j * k).square())).sum(0)
    rate = ((2.0 * j - 1.0) * math.pi / k).square() / 8.0
    below = math.sqrt(2.0 * math.pi) / k * (torch.exp(-rate) * (2.0 * rate - 1.0)).sum(0)
    weights = torch.where(k > 1.0, above, below)
    return _Mixture(weights / weights.sum(), (factor * k).square())


def _single(square: float) -> _Mixture:
    return _Mixture(torch.ones(1, dtype=torch.float64), torch.tensor([square], dtype=torch.float64))


# What to sum, from p, q, q2, a^2, b^2 and D, which broadcast.
_Terms = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor], tuple[Tensor, ...]]


def _sums(pairs: Pairs, mixture: _Mixture, terms: _Terms, count: int) -> list[Tensor]:
    """Each of the ``count`` terms summed over both widths: (n, n2) each."""
    p, area = pairs.inner, pairs.area
    q, q2 = (z.square().expand_as(p) for z in (pairs.norm, pairs.norm2))
    weights, squares = mixture.weights.to(p.device), mixture.squares.to(p.device)[:, None, None]
    totals = [torch.zeros_like(p) for _ in range(count)]
    step = max(_BLOCK_ENTRIES // max(len(weights) * p.shape[1], 1), 1)
    for begin in range(0, p.shape[0], step):
        block = slice(begin, begin + step), slice(begin if pairs.same else 0, None)
        for weight, a in zip(weights, squares, strict=True):
            d = torch.addcmul(area[block] + a * q2[block], a + q[block], squares)
            for total, term in zip(totals, terms(p[block], q[block], q2[block], a, squares, d), strict=True):
                total[block] += weight * torch.tensordot(weights, term, dims=1)
    return [torch.triu(total) + torch.triu(total, 1).mT for total in totals] if pairs.same else totals


def _erf_like(pairs: Pairs, mixture: _Mixture) -> Expectations:
    """sigma(z) = erf(z / (sqrt(2) a)): erf, tanh."""

    def terms(p: Tensor, q: Tensor, q2: Tensor, a: Tensor, b: Tensor, d: Tensor) -> tuple[Tensor, ...]:
        inverse = d.rsqrt_()
        return (p * inverse).atan_(), inverse

    angle, inverse = _sums(pairs, mixture, terms, 2)
    weights, squares = (z.to(angle.device) for z in (mixture.weights, mixture.squares))
    mean, mean2 = (
        (weights / (squares + z.square()[..., None]).sqrt()).sum(-1) * math.sqrt(2.0 / math.pi)
        for z in (pairs.norm, pairs.norm2)
    )
    return Expectations(angle * (2.0 / math.pi), inverse * (2.0 / math.pi), mean, mean2)


def _gelu_like(pairs: Pairs, mixture: _Mixture) -> Expectations:
    """sigma(z) = z Phi(z / a): gelu, silu."""

    def terms(p: Tensor, q: Tensor, q2: Tensor, a: Tensor, b: Tensor, d: Tensor) -> tuple[Tensor, ...]:
        inverse = d.rsqrt_()
        return (p * inverse).atan_(), inverse, (a / (a + q) + b / (b + q2)) * inverse, a * b * inverse**3

    angle, inverse, gain, cube = _sums(pairs, mixture, terms, 4)
    p, both = pairs.inner, 0.25 + angle / (2.0 * math.pi)
    values = p * both + (pairs.area * inverse + p.square() * gain) / (2.0 * math.pi)
    return Expectations(values, both + p * (gain + cube) / (2.0 * math.pi), *_constant(pairs, 0.5))


def _ramp_like(pairs: Pairs, mixture: _Mixture) -> Expectations:
    """sigma(z) = E ReLU(z + a g): softplus, by the arc-cosine kernel with a^2 and b^2 added to the variances."""

    def terms(p: Tensor, q: Tensor, q2: Tensor, a: Tensor, b: Tensor, d: Tensor) -> tuple[Tensor, ...]:
        root = d.sqrt_()
        return (p / root).atan_(), root

    angle, root = _sums(pairs, mixture, terms, 2)
    both = 0.25 + angle / (2.0 * math.pi)
    return Expectations(pairs.inner * both + root / (2.0 * math.pi), both, *_constant(pairs, 0.5))


CLOSED_FORMS: dict[str, Callable[[Pairs], Expectations]] = {
    "relu": _relu,
    "relu2": _relu2,
    "erf": lambda pairs: _erf_like(pairs, _single(0.5)),
    "gelu": lambda pairs: _gelu_like(pairs, _single(1.0)),
    "sin": _sin,
}

# tanh(z) = 2 E Phi(z / K) - 1, silu(z) = z E Phi(z / (2 K)), softplus(z) = E ReLU(z + 2 K g).
MIXTURES: dict[str, Callable[[Pairs], Expectations]] = {
    "tanh": lambda pairs: _erf_like(pairs, _kolmogorov(1.0)),
    "silu": lambda pairs: _gelu_like(pairs, _kolmogorov(2.0)),
    "softplus": lambda pairs: _ramp_like(pairs, _kolmogorov(2.0)),
}
