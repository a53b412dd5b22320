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
from hrta_ext.ntk.expectations import Expectations, Pairs, lengths

_MOST_TERMS = 8192
_REACH = 13.0  # exp(-g^2 / 4) is 4e-19 there; the other half of the weight keeps the polynomials bounded
_CHUNK = 256  # polynomials at a time
_CPU_ENTRIES, _ENTRIES = 2**20, 2**22  # of a temporary


def _nodes(terms: int, steepness: float) -> Tensor:
    """Midpoints of N equal cells of [-13, 13], three to a cell: (3 N,), N even. The cells' own midpoints are the nodes.

    A cell resolves products of two h_k (wave number 2 sqrt(k)) and functions with a pole at distance 1.5 / steepness,
    to e^-36; kinks at 0 fall between two cells. The other points only check that.
    """
    cell = min(2.0 * math.pi / (2.0 * math.sqrt(terms) + 24.0 * steepness + 12.0), 0.25)
    count = 6 * math.ceil(_REACH / cell)
    return (torch.arange(count, dtype=torch.float64, device="cpu") + 0.5) * (2.0 * _REACH / count) - _REACH


def _functions(nodes: Tensor, terms: int) -> Iterator[Tensor]:
    """h_k(g) times the square root of the normal weights, for all k < terms: chunks of (_CHUNK or fewer, N).

    On the CPU for every device: a recurrence over short rows.
    """
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
    device = norms.device
    on_cpu = _nodes(terms, float(norms.max()) if norms.numel() else 0.0)
    points, weights = on_cpu.to(device), next(_functions(on_cpu, 1))[0].to(device)
    found = torch.empty(len(norms), terms, dtype=torch.float64, device=device)
    squares, errors = torch.zeros_like(norms), torch.zeros_like(norms)
    step = max((_CPU_ENTRIES if norms.is_cpu else _ENTRIES) // len(points), 1)
    for begin in range(0, len(norms), step):
        part = slice(begin, begin + step)
        weighted = function(norms[part, None] * points) * weights
        squares[part] = weighted.square().sum(1)
        weighted = math.sqrt(3.0) * weighted[:, 1::3]
        square = weighted.square().sum(1)
        for number, rows in enumerate(_functions(on_cpu[1::3], terms)):
            found[part, number * _CHUNK : (number + 1) * _CHUNK] = weighted @ rows.to(device).mT
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


class Expansion:
    """``base`` in Hermite polynomials at the norms of samples x (n, D) and x2 (n2, D), x itself if None.

    Memory O(n K), time O(n K) and O(K) for each pair, with K <= 8192 terms.

    Attributes:
        error: Estimate of that of E[sigma(u) sigma(v)] and E[sigma'(u) sigma'(v)], relative to their largest possible
            entry.
    """

    def __init__(self, base: Base, x: Tensor, x2: Tensor | None = None) -> None:
        norms = [lengths(x)] if x2 is None else [lengths(x), lengths(x2)]
        terms = _terms_needed(base, torch.cat([*norms, x.new_zeros(1)]).max())
        self._sides, errors = [], [0.0]  # of sigma and of sigma': both samples' coefficients
        for function in (base.value, base.slope):
            sides = [_coefficients(function, norm, terms) for norm in norms]
            self._sides.append((sides[0][0], sides[-1][0]))
            if all(len(norm) for norm in norms):
                scale, tail = ((sides[0][k].max() * sides[-1][k].max()).sqrt() for k in (1, 2))
                errors.append(float(tail / scale.clamp(min=1e-300)))
        self.error = max(errors)

    def find(self, pairs: Pairs, rows: slice, columns: slice) -> Expectations:
        """The expectations of these rows and columns of all pairs."""
        cosine = torch.cos(pairs.angle)
        kernels = serve(native, reference, cosine)
        sums = [kernels.power_sum(left[rows], right[columns].mT, cosine) for left, right in self._sides]
        left, right = self._sides[1]
        return Expectations(sums[0], sums[1], left[rows, :1], right[None, columns, 0])
