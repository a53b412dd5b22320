"""Kernels of infinite width in plain PyTorch, a block of rows at a time: the torch backend, and bases of your own."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from hrta_ext.ntk.expectations import CLOSED_FORMS, MIXTURES, Expectations, Pairs, pairs_of_samples, widths_of
from hrta_ext.ntk.types import Gram

# Of a temporary: on the CPU it stays in the cache, elsewhere it fills the device.
_CPU_ENTRIES, _ENTRIES = 2**16, 2**22

# The expectations of a block of pairs, given the rows and columns that it consists of.
Finder = Callable[[Pairs, slice, slice], Expectations]


def infinite_gram(x: Tensor, x2: Tensor | None, s: Tensor, base: str, depth: int) -> Gram:
    """Both kernels of the samples x (n, D) and x2 (n2, D), float64, at s () or (S,): (n, n2) or (S, n, n2)."""
    exact = CLOSED_FORMS.get(base) or MIXTURES[base]
    return in_blocks(x, x2, s, base, depth, lambda pairs, rows, columns: exact(pairs), len(widths_of(base).weights))


def in_blocks(x: Tensor, x2: Tensor | None, s: Tensor, base: str, depth: int, find: Finder, held: int = 1) -> Gram:
    """The kernels from expectations of blocks, which hold ``held`` numbers a pair; depth > 1 for closed forms.

    Of a symmetric kernel the blocks cover the upper triangle.
    """
    y = x if x2 is None else x2
    values = s.to(x.device)
    n, n2 = len(x), len(y)
    a, w = (x.new_empty(*s.shape, n, n2) for _ in range(2))
    step = max((_CPU_ENTRIES if x.is_cpu else _ENTRIES) // max(n2 * max(held, s.numel()), 1), 1)
    for begin in range(0, n if a.numel() else 0, step):
        rows, columns = slice(begin, begin + step), slice(begin if x2 is None else 0, None)
        pairs = pairs_of_samples(x[rows], y[columns])
        if depth == 1:
            block = _shallow(pairs, find(pairs, rows, columns), values[..., None, None])
        else:
            layers = [_deep(base, pairs, value, depth) for value in values.reshape(-1)]
            block = Gram(
                *(torch.stack(parts).reshape(*s.shape, *pairs.inner.shape) for parts in zip(*layers, strict=True))
            )
        for whole, part in zip((a, w), block, strict=True):
            if x2 is None:  # libraries round entries (i, j) and (j, i) alike only up to the last bit
                square = part[..., : part.shape[-2]]
                square.copy_(torch.triu(square) + torch.triu(square, 1).mT)
                whole[..., columns, rows] = part.mT
            whole[..., rows, columns] = part
    return Gram(a, w)


def _layer(inner: Tensor, e: Expectations, s: Tensor) -> tuple[Tensor, Tensor]:
    """K^[a] and the sigma' factor of K^[w] at s (..., 1, 1)."""
    linear, mixed = (1.0 - s) ** 2, s * (1.0 - s)
    means = e.mean_slope + e.mean_slope2
    return inner * (linear + mixed * means) + s**2 * e.values, linear + mixed * means + s**2 * e.slopes


def _shallow(pairs: Pairs, e: Expectations, s: Tensor) -> Gram:
    a, factor = _layer(pairs.inner, e, s)
    return Gram(a, pairs.inner * factor)


def _variances(base: str, norm: Tensor, s: Tensor) -> Tensor:
    """K^[a] of each sample with itself, from |x|: same shape."""
    r = norm.reshape(-1, 1)
    pairs = Pairs(r.square(), torch.zeros_like(r), r, r)
    return _layer(pairs.inner, CLOSED_FORMS[base](pairs), s)[0].clamp(min=0.0).reshape(norm.shape)


def _half_angle(apart: Tensor, together: Tensor) -> Tensor:
    """The angle whose 1 - cos and 1 + cos are proportional to the arguments."""
    return 2.0 * torch.atan2(apart.clamp(min=0.0).sqrt(), together.clamp(min=0.0).sqrt())


def _next_angle(base: str, pairs: Pairs, sigma: Tensor, norm: Tensor, norm2: Tensor, s: Tensor) -> Tensor:
    """The angle between hidden layers of covariance sigma (n, n2)."""
    if base == "relu":
        # sigma_s(z) = (1 - s/2) z + (s/2) |z|; the odd and the even part are uncorrelated, and with the angle phi
        # between the lines 1 - cos of the even part is (1 - cos phi) - (2 / pi) (sin phi - phi cos phi).
        odd, even, half = (1.0 - 0.5 * s) ** 2, (0.5 * s) ** 2, 0.5 * pairs.angle
        phi = torch.minimum(pairs.angle, math.pi - pairs.angle)
        lost = 2.0 * torch.sin(0.5 * phi).square() - (2.0 / math.pi) * (torch.sin(phi) - phi * torch.cos(phi))
        return _half_angle(
            odd * 2.0 * torch.sin(half).square() + even * lost,
            odd * 2.0 * torch.cos(half).square() + even * (2.0 - lost),
        )
    product = norm * norm2
    duplicates = (pairs.angle == 0.0) & (pairs.norm == pairs.norm2)
    return torch.where(duplicates, 0.0, _half_angle(product - sigma, product + sigma))


def _deep(base: str, pairs: Pairs, s: Tensor, depth: int) -> Gram:
    tangent = pairs.inner
    for layer in range(1, depth + 1):
        sigma, factor = _layer(pairs.inner, CLOSED_FORMS[base](pairs), s)
        rest = tangent * factor
        if layer < depth:
            tangent = sigma + rest
            norm, norm2 = (_variances(base, z, s).sqrt() for z in (pairs.norm, pairs.norm2))
            pairs = Pairs(sigma, _next_angle(base, pairs, sigma, norm, norm2, s), norm, norm2)
    return Gram(sigma, rest)
