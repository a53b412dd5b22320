"""Gaussian expectations E[sigma(u) sigma(v)], E[sigma'(u) sigma'(v)] and E sigma'(u) of every built-in base, float64.

u = w . x and v = w . y with w ~ N(0, I) enter through x . y, |x|, |y| and the angle between x and y.
csrc/math/expectations.h has the same formulas for the compiled kernels.

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


@dataclass(frozen=True)
class Pairs:
    """All pairs of two sets of vectors: what the expectations depend on."""

    inner: Tensor  # (n, n2)  p = x . y
    angle: Tensor  # (n, n2)  in [0, pi], to full relative accuracy near 0 and pi
    norm: Tensor  # (n, 1)  |x|
    norm2: Tensor  # (1, n2)  |y|

    @property
    def cosine(self) -> Tensor:
        """Of the angle; of a nearly right one from the inner product, which may be exact where the angle is not."""
        cosine, product = torch.cos(self.angle), self.norm * self.norm2
        usable = (cosine.abs() < 0.25) & (product > 1e-290) & (product < 1e290)
        return torch.where(usable, self.inner / torch.where(usable, product, 1.0), cosine)


@dataclass(frozen=True)
class Expectations:
    """Of one layer."""

    values: Tensor  # (n, n2)  E[sigma(u) sigma(v)]
    slopes: Tensor  # (n, n2)  E[sigma'(u) sigma'(v)]
    mean_slope: Tensor  # (n, 1)  E sigma'(u)
    mean_slope2: Tensor  # (1, n2)


def lengths(x: Tensor) -> Tensor:
    """|x| of samples (n, D), also where their squares leave the range of float64: (n,)."""
    scale = x.abs().amax(1).clamp(min=torch.finfo(x.dtype).tiny)
    return scale * torch.linalg.vector_norm(x / scale[:, None], dim=1)


def pairs_of_samples(x: Tensor, y: Tensor) -> Pairs:
    """All pairs of samples x (n, D) and y (n2, D), float64."""
    norm, norm2 = lengths(x), lengths(y)
    # Directions of length 1; zero vectors stay zero, and whatever their angle, their norm makes the entry right.
    u, v = x / norm.clamp(min=1e-300)[:, None], y / norm2.clamp(min=1e-300)[:, None]
    # Differences first, not |u|^2 + |v|^2 - 2 u . v, which loses half the digits of a small angle.
    apart, together = (torch.cdist(u, z, compute_mode="donot_use_mm_for_euclid_dist") for z in (v, -v))
    return Pairs(x @ y.mT, 2.0 * torch.atan2(apart, together), norm[:, None], norm2[None, :])


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
# Sums over two widths a and b. With a^2 and b^2 added to the variances of u and v their correlation is
# rho = cos(angle) (share_a share_b)^(1/2), and 1 - rho^2 comes without cancellation from ratios that do not overflow.
# E[Phi(u / a) Phi(v / b)] = 1/4 + asin(rho) / (2 pi).


@dataclass(frozen=True)
class Mixture:
    """Weights that sum to 1, and squares of the widths; on the CPU."""

    weights: Tensor  # (N,)
    squares: Tensor  # (N,)


@cache
def _kolmogorov(factor: float) -> Mixture:
    """Quadrature over the width factor K: the trapezoid rule in log K.

    The integrands are analytic for |arg K| < pi/4, whatever x and y, and the density of K vanishes doubly exponentially
    at both ends, so 28 nodes leave 1e-15 (26 leave 7e-15, 24 leave 2e-13).
    """
    k = torch.exp(torch.linspace(-1.7, 1.45, 28, dtype=torch.float64, device="cpu"))
    j = torch.arange(1.0, 8.0, dtype=torch.float64, device="cpu")[:, None]
    # Two series of K times its density; the first converges fast for K > 1, the second for K < 1.
    above = 8.0 * k.square() * ((-1.0) ** (j - 1.0) * j.square() * torch.exp(-2.0 * (j * k).square())).sum(0)
    rate = ((2.0 * j - 1.0) * math.pi / k).square() / 8.0
    below = math.sqrt(2.0 * math.pi) / k * (torch.exp(-rate) * (2.0 * rate - 1.0)).sum(0)
    weights = torch.where(k > 1.0, above, below)
    return Mixture(weights / weights.sum(), (factor * k).square())


@cache
def _single(square: float) -> Mixture:
    one = torch.ones(1, dtype=torch.float64, device="cpu")
    return Mixture(one, square * one)


def widths_of(base: str) -> Mixture:
    """The widths of a built-in base, one where it is no mixture: any for a base without a width.

    tanh(z) = 2 E Phi(z / K) - 1, silu(z) = z E Phi(z / (2 K)), softplus(z) = E ReLU(z + 2 K g).
    """
    if base in MIXTURES:
        return _kolmogorov(1.0 if base == "tanh" else 2.0)
    return _single(0.5 if base == "erf" else 1.0)


@dataclass(frozen=True)
class _Side:
    """Of norms r at widths a, which broadcast."""

    length: Tensor  # (r^2 + a^2)^(1/2)
    root: Tensor  # r / length
    share: Tensor  # its square
    rest: Tensor  # 1 - share

    @classmethod
    def of(cls, norm: Tensor, square: Tensor) -> _Side:
        length = torch.hypot(norm, square.sqrt())
        root = norm / length
        return cls(length, root, root.square(), (square.sqrt() / length).square())


# What to sum, from asin(rho), (1 - rho^2)^(1/2) and both sides.
_Terms = Callable[[Tensor, Tensor, _Side, _Side], tuple[Tensor, ...]]


def _sums(pairs: Pairs, mixture: Mixture, terms: _Terms, count: int) -> list[Tensor]:
    """Each of the ``count`` terms summed over both widths: (n, n2) each; holds N times as many numbers."""
    device, cosine, sine2 = pairs.inner.device, pairs.cosine, torch.sin(pairs.angle).square()
    weights, squares = mixture.weights.to(device), mixture.squares.to(device)
    v = _Side.of(pairs.norm2, squares[:, None, None])
    tilted = torch.addcmul(v.rest, v.share, sine2)
    totals = [torch.zeros_like(cosine) for _ in range(count)]
    for k in range(len(weights)):
        u = _Side.of(pairs.norm, squares[k])
        root = torch.addcmul(u.rest, u.share, tilted).clamp_(min=1e-290).sqrt_()
        asin = torch.atan2(cosine * u.root * v.root, root)
        for total, term in zip(totals, terms(asin, root, u, v), strict=True):
            total += weights[k] * torch.tensordot(weights, term, dims=1)
    return totals


def _erf_like(pairs: Pairs, mixture: Mixture) -> Expectations:
    """sigma(z) = erf(z / (sqrt(2) a)): erf, tanh."""
    asin, inverse = _sums(pairs, mixture, lambda asin, root, u, v: (asin, 1.0 / (root * u.length * v.length)), 2)
    weights, squares = (z.to(asin.device) for z in (mixture.weights, mixture.squares))
    mean, mean2 = (
        (weights / _Side.of(z[..., None], squares).length).sum(-1) * math.sqrt(2.0 / math.pi)
        for z in (pairs.norm, pairs.norm2)
    )
    return Expectations(asin * (2.0 / math.pi), inverse * (2.0 / math.pi), mean, mean2)


def _gelu_like(pairs: Pairs, mixture: Mixture) -> Expectations:
    """sigma(z) = z Phi(z / a): gelu, silu."""

    def terms(asin: Tensor, root: Tensor, u: _Side, v: _Side) -> tuple[Tensor, ...]:
        first = u.root * v.root / root
        return asin, first, first * (u.rest + v.rest), first * (u.rest * v.rest / root.square())

    asin, first, second, cube = _sums(pairs, mixture, terms, 4)
    cosine, sine2, both = pairs.cosine, torch.sin(pairs.angle).square(), 0.25 + asin / (2.0 * math.pi)
    values = cosine * both + (sine2 * first + cosine.square() * second) / (2.0 * math.pi)
    slopes = both + cosine * (second + cube) / (2.0 * math.pi)
    return Expectations(pairs.norm * pairs.norm2 * values, slopes, *_constant(pairs, 0.5))


def _ramp_like(pairs: Pairs, mixture: Mixture) -> Expectations:
    """sigma(z) = E ReLU(z + a g): softplus, by the arc-cosine kernel with a^2 and b^2 added to the variances."""
    asin, root = _sums(pairs, mixture, lambda asin, root, u, v: (asin, root * u.length * v.length), 2)
    both = 0.25 + asin / (2.0 * math.pi)
    values = pairs.norm * pairs.norm2 * pairs.cosine * both + root / (2.0 * math.pi)
    return Expectations(values, both, *_constant(pairs, 0.5))


CLOSED_FORMS: dict[str, Callable[[Pairs], Expectations]] = {
    "relu": _relu,
    "relu2": _relu2,
    "erf": lambda pairs: _erf_like(pairs, widths_of("erf")),
    "gelu": lambda pairs: _gelu_like(pairs, widths_of("gelu")),
    "sin": _sin,
}

MIXTURES: dict[str, Callable[[Pairs], Expectations]] = {
    "tanh": lambda pairs: _erf_like(pairs, widths_of("tanh")),
    "silu": lambda pairs: _gelu_like(pairs, widths_of("silu")),
    "softplus": lambda pairs: _ramp_like(pairs, widths_of("softplus")),
}
