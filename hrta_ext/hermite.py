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

from hrta_ext.backends import gram_kernels_for
from hrta_ext.bases import Base
from hrta_ext.expectations import Expectations, Pairs

_MOST_TERMS = 8192
_REACH = 13.0  # exp(-g^2 / 4) is 4e-19 there; the other half of the weight keeps the polynomials bounded
_CHUNK = 256  # polynomials at a time
_BLOCK_ENTRIES = 2**22  # of temporaries


def _nodes(terms: int, steepness: float, device: torch.device) -> Tensor:
    """Nodes of the trapezoid rule, (N,), N even.

    The step resolves h_k (wave number sqrt(k)) and functions with a pole at distance 1.5 / steepness, to e^-36.
    """
    step = min(2.0 * math.pi / (math.sqrt(terms) + 24.0 * steepness + 12.0), 0.25)
    count = 2 * math.ceil(_REACH / step)
    return torch.linspace(-_REACH, _REACH, count, dtype=torch.float64, device=device)


def _functions(nodes: Tensor, terms: int) -> Iterator[Tensor]:
    """h_k(g) times the square root of the rule's weights, for all k < terms: chunks of (_CHUNK or fewer, N)."""
    step = 2.0 * _REACH / (len(nodes) - 1)
    last, row = torch.zeros_like(nodes), torch.exp(-0.25 * nodes.square()) * math.sqrt(step / math.sqrt(2.0 * math.pi))
    for begin in range(0, terms, _CHUNK):
        rows = []
        for k in range(begin, min(begin + _CHUNK, terms)):
            rows.append(row)
            last, row = row, (nodes * row - math.sqrt(k) * last) / math.sqrt(k + 1)
        yield torch.stack(rows)


def _coefficients(function: Callable[[Tensor], Tensor], norms: Tensor, terms: int) -> tuple[Tensor, Tensor, Tensor]:
    """f_k(r) (n, terms), E f(r g)^2 (n,), and its error (n,): the tail and the quadrature's own error."""
    nodes = _nodes(terms, float(norms.max()) if norms.numel() else 0.0, norms.device)
    found = torch.empty(len(norms), terms, dtype=torch.float64, device=norms.device)
    squares, quadrature_errors = torch.zeros_like(norms), torch.zeros_like(norms)
    step = max(_BLOCK_ENTRIES // len(nodes), 1)
    for begin in range(0, len(norms), step):
        part = slice(begin, begin + step)
        values = function(norms[part, None] * nodes)
        for number, rows in enumerate(_functions(nodes, terms)):
            if number == 0:
                weighted = values * rows[0]
                squares[part] = weighted.square().sum(1)
                # Twice the step, twice the weight.
                quadrature_errors[part] = (squares[part] - 2.0 * weighted[:, ::2].square().sum(1)).abs()
            found[part, number * _CHUNK : (number + 1) * _CHUNK] = weighted @ rows.mT
    return found, squares, (squares - found.square().sum(1)).clamp(min=0.0) + quadrature_errors


def expanded(base: Base, pairs: Pairs) -> Expectations:
    """The expectations of ``base``; memory O(n K) with K <= 8192 terms."""
    norm, norm2 = pairs.norm[:, 0], pairs.norm2[0]
    largest = max((float(r.max()) for r in (norm, norm2) if r.numel()), default=0.0)
    # Coefficients of a function with a pole at distance d fall like exp(-d sqrt(2 k)), d = 1.5 / r for tanh.
    terms = int(min(110.0 * (1.0 + largest) ** 2, _MOST_TERMS))
    cosine = torch.cos(pairs.angle)
    sums, error, means = [], 0.0, []
    for function in (base.value, base.slope):
        left, square, tail = _coefficients(function, norm, terms)
        right, square2, tail2 = (left, square, tail) if pairs.same else _coefficients(function, norm2, terms)
        sums.append(gram_kernels_for(cosine, "relu").power_sum(left, right.mT, cosine))
        means = [left[:, :1].clone(), right[None, :, 0].clone()]
        if square.numel() and square2.numel():
            scale = float((square.max() * square2.max()).sqrt())
            error = max(error, float((tail.max() * tail2.max()).sqrt()) / max(scale, 1e-300))
    return Expectations(sums[0], sums[1], means[0], means[1], error)
