"""Gaussian expectations of any base through Hermite polynomials, with an estimate of the error.

sum_k f_k(r) f_k(r2) cos(angle)^k = E[f(u) f(v)], f_k(r) = E[f(r g) h_k(g)], h_k the normalised Hermite polynomials.
Cut off at K, the error is at most (tail(r) tail(r2))^(1/2), tail(r) = E f(r g)^2 - sum_{k<K} f_k(r)^2, by Parseval's
identity and Cauchy-Schwarz.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from hrta_ext.backends import serve
from hrta_ext.bases import Base
from hrta_ext.ntk import native, reference
from hrta_ext.ntk.expectations import Expectations, Pairs

_MOST_TERMS = 8192
_REACH = 13.0  # exp(-g^2 / 4) is 4e-19 there; the other half of the weight keeps the polynomials bounded
_CHUNK = 256  # polynomials at a time
_BLOCK_ENTRIES = 2**20  # of temporaries


def _nodes(terms: int, steepness: float, device: torch.device) -> Tensor:
    """Midpoints of N equal cells of [-13, 13], three to a cell: (3 N,), N even. The cells' own midpoints are the nodes.

    A cell resolves products of two h_k (wave number 2 sqrt(k)) and functions with a pole at distance 1.5 / steepness,
    to e^-36; kinks at 0 fall between two cells. The other points only check that.
    """
    cell = min(2.0 * math.pi / (2.0 * math.sqrt(terms) + 24.0 * steepness + 12.0), 0.25)
    count = 6 * math.ceil(_REACH / cell)
    return (torch.arange(count, dtype=torch.float64, device=device) + 0.5) * (2.0 * _REACH / count) - _REACH


def _functions(nodes: Tensor, terms: int) -> Iterator[Tensor]:
    """h_k(g) times the square root of the normal weights, for all k < terms: chunks of (_CHUNK or fewer, N)."""
    step = 2.0 * _REACH / len(nodes)
    last, row = torch.zeros_like(nodes), torch.exp(-0.25 * nodes.square()) * math.sqrt(step / math.sqrt(2.0 * math.pi))
    for begin in range(0, terms, _CHUNK):
        rows = []
        for k in range(begin, min(begin + _CHUNK, terms)):
            rows.append(row)
            last, row = row, (nodes * row - math.sqrt(k) * last) / math.sqrt(k + 1)
        yield torch.stack(rows)


def _coefficients(function: Callable[[Tensor], Tensor], norms: Tensor, terms: int) -> tuple[Tensor, Tensor, Tensor]:
    """f_k(r) (n, terms), E f(r g)^2 (n,), and its error (n,): the tail and the quadrature's own error."""
    points = _nodes(terms, float(norms.max()) if norms.numel() else 0.0, norms.device)
    weights = next(_functions(points, 1))[0]
    found = torch.empty(len(norms), terms, dtype=torch.float64, device=norms.device)
    squares, errors = torch.zeros_like(norms), torch.zeros_like(norms)
    step = max(_BLOCK_ENTRIES // len(points), 1)
    for begin in range(0, len(norms), step):
        part = slice(begin, begin + step)
        weighted = function(norms[part, None] * points) * weights
        squares[part] = weighted.square().sum(1)
        weighted = math.sqrt(3.0) * weighted[:, 1::3]
        square = weighted.square().sum(1)
        for number, rows in enumerate(_functions(points[1::3], terms)):
            found[part, number * _CHUNK : (number + 1) * _CHUNK] = weighted @ rows.mT
        tail = (square - found[part].square().sum(1)).clamp(min=0.0)
        errors[part] = tail + (square - squares[part]).abs()
    return found, squares, errors


def _terms_needed(base: Base, largest: Tensor) -> int:
    """How many terms bring the error at norm ``largest`` () to rounding, as a power of 2 up to _MOST_TERMS."""
    terms = 128
    while terms < _MOST_TERMS:
        checks = (_coefficients(function, largest[None], terms) for function in (base.value, base.slope))
        if all(bool(error <= 1e-15 * square) for _, square, error in checks):
            break
        terms *= 2
    return terms


def expanded(base: Base, pairs: Pairs) -> Expectations:
    """The expectations of ``base``; memory O(n K), time O(n n2 K) with K <= 8192 terms."""
    norm, norm2 = pairs.norm[:, 0], pairs.norm2[0]
    largest = torch.cat([norm, norm2, norm.new_zeros(1)]).max()
    terms = _terms_needed(base, largest)
    cosine = torch.cos(pairs.angle)
    sums, error, means = [], 0.0, []
    for function in (base.value, base.slope):
        left, square, tail = _coefficients(function, norm, terms)
        right, square2, tail2 = (left, square, tail) if pairs.same else _coefficients(function, norm2, terms)
        sums.append(serve(native, reference, cosine).power_sum(left, right.mT, cosine))
        means = [left[:, :1].clone(), right[None, :, 0].clone()]
        if square.numel() and square2.numel():
            scale = float((square.max() * square2.max()).sqrt())
            error = max(error, float((tail.max() * tail2.max()).sqrt()) / max(scale, 1e-300))
    return Expectations(sums[0], sums[1], means[0], means[1], error)
