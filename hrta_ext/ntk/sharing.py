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

from hrta_ext.groups import Ranks
from hrta_ext.ntk.building import Building, Samples, each_batch
from hrta_ext.ntk.types import GramSums, Neurons

Progress = Callable[[int], object]
_TILE = 32  # samples of the kernels' tiles
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
            if mine.samples.pairs:
                one = mine.samples.zero_sums()
                building = replace(self.building, samples=mine.samples)
                building.add(one, neurons, self.step, lambda count: tick(count // ranks.size))
                for k in _PRODUCTS if samples.x2 is None else ():
                    one[k].triu_()
                for k, to, own in mine.places:
                    total[k][to] = one[k][own]
        for rank, part in enumerate(parts):
            for k, to, _ in part.places if part.samples.pairs else ():
                value = total[k][to].contiguous()
                ranks.broadcast(value, rank)
                total[k][to] = value
        self.before += neurons.count

    def _told(self, done: int) -> None:
        if self.progress is not None:
            self.progress(self.before + done)


def _after(tick: Callable[[int], None], before: int, done: int) -> None:
    tick(before + done)


class Rectangle(NamedTuple):
    """Some rows and columns of the matrices: cross-kernels of samples of their own.

    Attributes:
        samples: Of the rows and of the columns.
        places: Members of the sums: which, where in the whole, where in those of the rectangle.
    """

    samples: Samples
    places: list[tuple[int, Any, Any]]


def rectangles(building: Building, size: int) -> list[Rectangle]:
    """The entries of the matrices for so many ranks, who have about the same to do; some may have none."""
    samples = building.samples
    n, n2 = samples.x.shape[0], samples.n2
    if samples.x2 is None:
        edges = [min(round((n - left) / _TILE) * _TILE, n) for left in _left(n, size)] + [n]
        return [_strip(building, begin, end) for begin, end in pairwise(edges)]
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
        found.append(Rectangle(Samples(samples.x[rows], samples.x2[columns]), places))
    return found


def _strip(building: Building, begin: int, end: int) -> Rectangle:
    """Rows of a symmetric matrix from the diagonal on."""
    x, rows = building.samples.x, slice(begin, end)
    samples = Samples(x[rows], x[begin:])
    last = replace(building, samples=Samples(x[rows], None))
    if end == len(x) and last.entries_stand_alone():  # nothing but the triangle
        samples = last.samples
    places: list[tuple[int, Any, Any]] = [(k, (rows, slice(begin, None)), ...) for k in _PRODUCTS]
    places += [(k, rows, slice(0, end - begin)) for k in _PER_SAMPLE]
    return Rectangle(samples, [*places, (_SQUARE_SUM, ..., ...)] if begin == 0 else places)


def _left(n: int, size: int) -> list[float]:
    """Columns left at the begin of each strip of rows of a triangle, so that all take as long.

    A strip is a rectangle, but for the last, which is a triangle.
    """
    low, high = 0.0, float(n * n)
    left = [float(n)] * size
    for _ in range(60):
        area = 0.5 * (low + high)
        for rank in range(1, size):
            left[rank] = left[rank - 1] - min(area / max(left[rank - 1], 1e-9), left[rank - 1])
        low, high = (area, high) if 0.5 * left[-1] ** 2 > area else (low, area)
    return left


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
