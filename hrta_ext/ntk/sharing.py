"""The six sums over neurons that the ranks of a group share.

Float64 sums depend on their order, so what one process adds up in one go, one rank adds up too: a whole batch of drawn
neurons, or a piece whose sums one process makes by themselves; then every rank adds the pieces in the order of one
process. Batches beyond a multiple of the ranks are cut into such pieces, or by the entries of the matrices.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

import torch

from hrta_ext.groups import Ranks
from hrta_ext.ntk.building import Building, Samples, each_batch
from hrta_ext.ntk.types import GramSums, Neurons

Progress = Callable[[int], object]
_TILE = 32  # samples of the kernels' tiles
_ROWS_SENT = 64  # at once, of a triangle
_RESPONSE = 80.0  # pairs of samples whose products cost what a sample's responses do: 60 to 200 where there are tiles
_PER_SAMPLE, _SQUARE_SUM, _PRODUCTS = (0, 1, 3), 2, (4, 5)  # members of GramSums


# --- drawn neurons ----------------------------------------------------------------------------------------------------


def add_drawn(
    building: Building,
    sums: GramSums,
    batches: Sequence[Neurons],
    step: int,
    ranks: Ranks,
    function: str,
    progress: Progress | None,
) -> None:
    """Add every batch of drawn neurons to its sums (batches, ...) of zeros, with the bits of one process.

    Args:
        building: The same on every rank.
        step: Neurons between two reports.
        function: Named in errors.
        progress: Called with the neurons that all ranks have done.
    """
    drawing = _Drawing(building, ranks, step, function, progress)
    rest = len(batches) % ranks.size
    piece, apart = building.piece(step), building.entries_stand_alone()
    cut = apart or (piece is not None and piece < max(batch.count for batch in batches))
    whole = len(batches) - rest if cut else len(batches)
    drawing.add_whole(GramSums(*(value[:whole] for value in sums)), batches[:whole])
    for one, batch in zip(each_batch(sums)[whole:], batches[whole:], strict=True):
        if apart:
            drawing.add_entries(one, batch)
        elif piece is None or not drawing.add_pieces(one, batch, piece):
            drawing.add_whole(GramSums(*(value[None] for value in one)), [batch])


class _Drawing:
    """One call's way through its batches."""

    def __init__(self, building: Building, ranks: Ranks, step: int, function: str, progress: Progress | None) -> None:
        self.building, self.ranks, self.step, self.function, self.progress = building, ranks, step, function, progress
        self.before = 0  # neurons of the stages before

    def add_whole(self, sums: GramSums, batches: Sequence[Neurons]) -> None:
        """Batches as they are, about as many to each rank."""
        ranks, done, each = self.ranks, 0, each_batch(sums)
        edges = edges_of(len(batches), ranks.size)
        with ranks.side_by_side(self.function, self._told) as tick:
            for batch in range(edges[ranks.rank], edges[ranks.rank + 1]):
                self.building.add(each[batch], batches[batch], self.step, partial(_after, tick, done))
                done += batches[batch].count
        for rank, (begin, end) in enumerate(pairwise(edges)):
            for value in sums if begin < end else ():
                ranks.broadcast(value[begin:end], rank)
        self.before += sum(batch.count for batch in batches)

    def add_pieces(self, total: GramSums, neurons: Neurons, piece: int) -> bool:
        """One batch, its pieces by turns; False, and zeros, where the first builder does not serve them all."""
        ranks, one, served = self.ranks, self.building.samples.zero_sums(), True
        for first in range(0, neurons.count, piece * ranks.size):
            begin = first + piece * ranks.rank
            count = max(min(piece, neurons.count - begin), 0)
            for value in one:
                value.zero_()
            with ranks.side_by_side(self.function, self._told) as tick:
                if count:
                    part = neurons.part(begin, begin + count)
                    served = self.building.add_by(self.building.builders[0], one, part, self.step, tick)
            if ranks.total(int(not served)):
                for value in total:
                    value.zero_()
                return False
            for to, value in zip(total, one, strict=True):
                ranks.add(to, value)
            self.before += min(piece * ranks.size, neurons.count - first)
        return True

    def add_entries(self, total: GramSums, neurons: Neurons) -> None:
        """One batch, whose matrices the ranks divide."""
        ranks, samples = self.ranks, self.building.samples
        parts = rectangles(self.building, ranks.size)
        with ranks.side_by_side(self.function, self._told) as tick:
            mine = parts[ranks.rank]
            all_pairs, before = sum(part.samples.pairs for part in mine), 0
            for part in mine:
                one = part.samples.zero_sums()
                building = replace(self.building, samples=part.samples)
                each = ranks.size * all_pairs
                report = partial(_partly, tick, before * neurons.count // each, part.samples.pairs, each)
                building.add(one, neurons, self.step, report)
                before += part.samples.pairs
                for k in _PRODUCTS if samples.x2 is None and part.begins_on_diagonal else ():
                    one[k].triu_()
                for k, to, own in part.places:
                    total[k][to] = one[k][own]
        for rank, of_rank in enumerate(parts):
            places = [total[k][to] for part in of_rank for k, to, _ in part.places]
            if places:
                sent = torch.cat([place.reshape(-1) for place in places])
                ranks.broadcast(sent, rank)
                for place, value in zip(places, sent.split([place.numel() for place in places]), strict=True):
                    place.copy_(value.view(place.shape))
        self.before += neurons.count

    def _told(self, done: int) -> None:
        if self.progress is not None:
            self.progress(self.before + done)


def _after(tick: Callable[[int], None], before: int, done: int) -> None:
    tick(before + done)


def _partly(tick: Callable[[int], None], before: int, pairs: int, all_pairs: int, done: int) -> None:
    tick(before + done * pairs // all_pairs)


class Rectangle(NamedTuple):
    """Some rows and columns of the matrices: cross-kernels of samples of their own.

    Attributes:
        samples: Of the rows and of the columns.
        places: Members of the sums: which, where in the whole, where in those of the rectangle.
        begins_on_diagonal: Of a symmetric matrix, whose lower triangle is left zero.
    """

    samples: Samples
    places: list[tuple[int, Any, Any]]
    begins_on_diagonal: bool = False


def rectangles(building: Building, size: int) -> list[list[Rectangle]]:
    """The entries of the matrices for so many ranks, who have about the same to do; some may have none."""
    samples = building.samples
    n, n2 = samples.x.shape[0], samples.n2
    half = n // 2 // _TILE * _TILE
    if samples.x2 is None and size == 2 and _stands_alone(building, half):
        return _halves(samples, half)
    if samples.x2 is None:
        return [_strip(building, begin, end) for begin, end in pairwise(_edges_of_strips(building, size))]
    edges = [max(n, n2) * rank // size // _TILE * _TILE for rank in range(size)] + [max(n, n2)]
    found = []
    for begin, end in pairwise(edges):
        rows, columns = (slice(begin, end), slice(0, n2)) if n >= n2 else (slice(0, n), slice(begin, end))
        places: list[tuple[int, Any, Any]] = [(k, (rows, columns), ...) for k in _PRODUCTS]
        if columns.start == 0:
            places += [(k, rows, slice(0, rows.stop - rows.start)) for k in _PER_SAMPLE]
        if rows.start == 0:
            at = slice(n + columns.start, n + columns.stop)
            places += [(k, at, slice(rows.stop - rows.start, None)) for k in _PER_SAMPLE]
        if rows.start == columns.start == 0:
            places.append((_SQUARE_SUM, ..., ...))
        found.append([Rectangle(Samples(samples.x[rows], samples.x2[columns]), places)] if begin < end else [])
    return found


def _strip(building: Building, begin: int, end: int) -> list[Rectangle]:
    """Rows of a symmetric matrix from the diagonal on: a triangle and a rectangle, few rows as one rectangle."""
    x, rows, found = building.samples.x, slice(begin, end), []
    n, count = len(x), end - begin
    if count == 0:
        return []
    places: list[tuple[int, Any, Any]] = [(k, rows, slice(0, count)) for k in _PER_SAMPLE]
    if begin == 0:
        places.append((_SQUARE_SUM, ..., ...))
    apart = _stands_alone(building, count)
    places += _upper(begin, count, end if apart else n)
    found.append(Rectangle(Samples(x[rows], None if apart else x[begin:]), places, begins_on_diagonal=True))
    if apart and end < n:
        found.append(Rectangle(Samples(x[rows], x[end:]), [(k, (rows, slice(end, None)), ...) for k in _PRODUCTS]))
    return found


def _halves(samples: Samples, half: int) -> list[list[Rectangle]]:
    """A symmetric matrix for two ranks: the square beside the diagonal, both triangles; as many responses to each."""
    x, first, second = samples.x, slice(0, half), slice(half, len(samples.x))
    square: list[tuple[int, Any, Any]] = [(k, (first, second), ...) for k in _PRODUCTS]
    square += [(k, ..., ...) for k in (*_PER_SAMPLE, _SQUARE_SUM)]
    triangles = [
        Rectangle(Samples(x[at], None), _upper(at.start, at.stop - at.start, at.stop), begins_on_diagonal=True)
        for at in (first, second)
    ]
    return [[Rectangle(Samples(x[first], x[second]), square)], triangles]


def _upper(begin: int, count: int, end: int) -> list[tuple[int, Any, Any]]:
    """Places of so many rows from the diagonal on; a few of the lower triangle are sent too."""
    places: list[tuple[int, Any, Any]] = []
    for first in range(0, count, _ROWS_SENT):
        own = slice(first, min(first + _ROWS_SENT, count)), slice(first, None)
        to = slice(begin + own[0].start, begin + own[0].stop), slice(begin + first, end)
        places += [(k, to, own) for k in _PRODUCTS]
    return places


def _stands_alone(building: Building, count: int) -> bool:
    """Whether a triangle of so many samples has the bits that it has in a larger one."""
    found: bool = building.builders[0].entries_stand_alone(building.samples.x[:count], building.base, False)
    return found


def _edges_of_strips(building: Building, size: int) -> list[int]:
    """Where the strips of rows of a triangle begin and end, so that all take as long."""
    n = len(building.samples.x)

    def cost(begin: int, end: int) -> float:
        rows, left = end - begin, n - begin
        if _stands_alone(building, rows):
            return rows * (left - 0.5 * rows) + _RESPONSE * (left + (rows if end < n else 0))
        return rows * left + _RESPONSE * left

    def edges_at(most: float) -> list[int]:
        edges = [0]
        for _ in range(size - 1):
            end = edges[-1]
            while end < n and cost(edges[-1], min(end + _TILE, n)) <= most:
                end = min(end + _TILE, n)
            edges.append(end)
        return [*edges, n]

    low, high = 0.0, cost(0, n)
    for _ in range(20):
        middle = 0.5 * (low + high)
        *_, last, end = edges_at(middle)
        low, high = (low, middle) if last == end or cost(last, end) <= middle else (middle, high)
    return edges_at(high)


# --- neurons in memory ------------------------------------------------------------------------------------------------


def edges_of(width: int, parts: int) -> list[int]:
    """Where so many parts of a width begin and end."""
    return [width * part // parts for part in range(parts + 1)]


def add_held(
    building: Building, sums: GramSums, neurons: Neurons, parts: int, ranks: Ranks, counts: Sequence[int], function: str
) -> None:
    """Add the neurons that the ranks hold to sums of zeros.

    Where every share ends at an edge of the ``parts`` in which one process adds all of them, the ranks add those, with
    the same bits; else each adds its share as one.

    Args:
        neurons: This rank's, in memory.
        parts: Of all neurons, in one process.
        counts: Neurons of every rank.
        function: Named in errors.
    """
    ends = [0, *accumulate(counts)]
    edges = edges_of(ends[-1], parts)
    if not set(ends) <= set(edges):
        edges = sorted(set(ends))
    owners = [next(r for r in range(ranks.size) if begin < ends[r + 1]) for begin in edges[:-1]]
    here, mine = ends[ranks.rank], {}
    with ranks.side_by_side(function) as tick:
        for part, (begin, end) in enumerate(pairwise(edges)):
            if owners[part] == ranks.rank:
                mine[part] = building.samples.zero_sums()
                building.add(mine[part], neurons.part(begin - here, end - here), end - begin)
                tick(end)
    scratch = building.samples.zero_sums()
    for part, owner in enumerate(owners):
        for total, value in zip(sums, mine.pop(part, scratch), strict=True):
            ranks.broadcast(value, owner)
            total += value
