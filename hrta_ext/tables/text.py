"""Tables as text: names from :mod:`layout <hrta_ext.tables.layout>`, numbers block by block."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from hrta_ext.tables.cells import Numbers
from hrta_ext.tables.layout import DELIMITERS, Layout, find_layout
from hrta_ext.tables.lines import MalformedRow, Row, TextFile, TextFormat, cells_of
from hrta_ext.tables.scaling import FloatArray
from hrta_ext.tables.table import Fault, Table, TableError, beyond_exact, composed, refusal, rounding_note

# Rows and cells parsed at a time: the strings of one block take some 50 MB, whatever the size of the file.
_BLOCK_ROWS = 8192
_BLOCK_CELLS = 1 << 19


def open_text(path: Path, text: TextFormat, wanted: Sequence[str]) -> Table:
    """Find out how the text in ``path`` is written, and what its columns are called."""
    file = TextFile(path)
    layout = find_layout(file, text, {composed(name) for name in wanted})
    return Table(
        path,
        layout.columns,
        layout.has_header,
        lambda positions, notes, _: _read(file, layout, text.numbers, positions, notes),
        layout.header_is_known,
        layout.unnamed,
        layout.text,
    )


def _read(file: TextFile, layout: Layout, numbers: Numbers, positions: Sequence[int], notes: list[str]) -> FloatArray:
    """The columns at ``positions`` as (rows, len(positions)); cells are counted in every row."""
    rows = _data_rows(file, layout)
    blocks: list[FloatArray] = []
    faults: dict[str, Fault] = {}
    rounded: dict[str, None] = {}
    n_rows = 0
    block_rows = max(1, min(_BLOCK_ROWS, _BLOCK_CELLS // len(layout.columns)))
    while block := list(itertools.islice(rows, block_rows)):
        cells = [row[p] for _, row in block for p in positions]
        values = numbers.read(cells).reshape(len(block), len(positions))
        for i, j in np.argwhere(np.isnan(values)):
            name = layout.columns[positions[j]]
            if name in faults:
                faults[name].cells += 1
                continue
            complaint = numbers.complaint(cells[i * len(positions) + j])
            place = f"row {n_rows + i + 1} (line {block[i][0]})"
            faults[name] = Fault(complaint.what, place, complaint.advice, droppable=not complaint.by_option)
        for i, j in np.argwhere(beyond_exact(values)):
            if numbers.is_rounded(cells[i * len(positions) + j], values[i, j]):
                rounded[layout.columns[positions[j]]] = None
        blocks.append(values)
        n_rows += len(block)
    if faults:
        guessed = not (layout.has_header or layout.header_is_known)
        in_first_row = any(fault.place.startswith("row 1 ") for fault in faults.values())
        raise refusal(file.path, faults, "; --header if the first row holds names" if guessed and in_first_row else "")
    if rounded:
        notes.append(rounding_note(list(rounded)))
    return np.concatenate(blocks) if blocks else np.empty((0, len(positions)))


def _data_rows(file: TextFile, layout: Layout) -> Iterator[Row]:
    """The rows of data, as many cells in each as there are columns, no blank ones."""
    lines = itertools.islice(file.lines(), layout.before, None)
    n_columns, row, blank = len(layout.columns), 0, 0
    try:
        for line, cells in cells_of(lines, layout.delimiter, layout.multiline, layout.before):
            if not cells:
                blank += 1
                continue
            if blank and row and n_columns == 1:  # in a table of one column a blank line is an empty cell
                cells, line = [""], line - blank
            blank = 0
            row += 1
            if len(cells) != n_columns:
                cells = _unpadded(file.path, layout, row, line, cells)
            yield line, cells
    except MalformedRow as error:
        raise TableError(f"{file.path}: row {row + 1} (line {error.line}): {error.what}") from None


def _unpadded(path: Path, layout: Layout, row: int, line: int, cells: list[str]) -> list[str]:
    """``cells`` without the empty ones that every row ends with."""
    n_columns = len(layout.columns)
    if layout.padding and len(cells) == n_columns + layout.padding and not any(c.strip() for c in cells[n_columns:]):
        return cells[:n_columns]
    hint = "; comments are skipped at the top of the file only" if cells[0].lstrip().startswith("#") else ""
    if n_columns == 1 and layout.delimiter == ",":
        hint = "; if the comma is a decimal one: --decimal ,"
    by = DELIMITERS.get(layout.delimiter, repr(layout.delimiter))
    raise TableError(
        f"{path}: row {row} (line {line}) has {len(cells)} cells where {n_columns} columns were "
        f"expected (separated by {by}){hint}"
    )
