"""Reading a user's table: text with commas, semicolons or tabs, NumPy's .npz, Parquet.

Two steps, so that columns nobody asks for may hold anything: :func:`open_table` finds the column names,
:meth:`Table.values` reads the columns asked for as float64. Whatever is wrong with the file ends in a
:class:`TableError`, one line that names the row and the column.
"""

from __future__ import annotations

import csv
import difflib
import itertools
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import numpy as np
from numpy.typing import NDArray

from hrta_ext.tables.scaling import FloatArray

Row = tuple[int, list[str]]

# Rows parsed at a time: the strings of one block take a few MB, whatever the length of the file.
_BLOCK_ROWS = 8192
_MISSING = ("na", "n/a", "nan", "null", "none", "?", "-")


class TableError(ValueError):
    """What is wrong with a table, and where, in one line."""


@dataclass(frozen=True)
class Table:
    """A table on disk, its column names known, its numbers not read yet.

    Attributes:
        path: The file.
        columns: Names, all different; ``column_1, column_2, ...`` where the file has no header.
        has_header: The names come from the file.
    """

    path: Path
    columns: tuple[str, ...]
    has_header: bool
    _read: Callable[[Sequence[int]], FloatArray]

    def values(self, names: Sequence[str]) -> FloatArray:
        """The columns ``names``, in this order.

        Returns:
            Shape (rows, len(names)), float64, at least one row, every value finite.
        Raises:
            TableError: No such column, no rows, or a cell that is empty, text, NaN or infinite.
        """
        positions = [self._position(name) for name in names]
        values = self._read(positions)
        if len(values) == 0:
            what = "a header but no rows of data" if self.has_header else "no rows of data"
            raise TableError(f"{self.path}: the table has {what}")
        return values

    def require(self, names: Sequence[str]) -> None:
        """Raise a TableError, with the columns there are, unless the table has all of ``names``."""
        for name in names:
            self._position(name)

    def missing(self, names: Sequence[str]) -> list[str]:
        """Those of ``names`` that the table does not have."""
        return [name for name in names if name not in self.columns]

    def _position(self, name: str) -> int:
        if name in self.columns:
            return self.columns.index(name)
        folded = {column.casefold(): column for column in reversed(self.columns)}
        close = [folded[match] for match in difflib.get_close_matches(name.casefold(), list(folded), n=3)]
        did_you_mean = f"did you mean {' or '.join(map(repr, close))}? " if close else ""
        no_header = "" if self.has_header else " (no header row, so they are numbered)"
        raise TableError(
            f"{self.path}: there is no column {name!r}; {did_you_mean}it has {list_names(self.columns)}{no_header}"
        )


def list_names(names: Sequence[str], most: int = 12) -> str:
    """``names`` joined by commas, the tail counted where there are more than ``most``."""
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def open_table(path: str | Path) -> Table:
    """Find the columns of a table; the format follows the suffix: .npz, .parquet or .pq, anything else is text.

    Text is UTF-8 with cells separated by comma, semicolon or tab (whichever splits the first line into most cells). The
    first row is a header when none of its cells is a number, or when it has text where the second row has a number.
    An .npz file gives one column per one-dimensional array and ``name_1, name_2, ...`` for a two-dimensional one.

    Raises:
        TableError: The file is missing, empty, not a table, or names a column twice.
    """
    path = Path(path)
    if path.is_dir():
        raise TableError(f"{path}: this is a directory, not a table")
    if not path.exists():
        raise TableError(f"{path}: no such file")
    suffix = path.suffix.lower()
    if suffix in (".xls", ".xlsx", ".ods"):
        raise TableError(f"{path}: spreadsheets are not read; save the sheet as CSV")
    try:
        if path.stat().st_size == 0:
            raise TableError(f"{path}: the file is empty")
        if suffix == ".npz":
            return _open_npz(path)
        return _open_parquet(path) if suffix in (".parquet", ".pq") else _open_text(path)
    except OSError as error:
        raise TableError(f"{path}: cannot be read: {error.strerror or error}") from error


def _check_names(path: Path, names: Sequence[str]) -> tuple[str, ...]:
    for position, name in enumerate(names):
        first = names.index(name)
        if first != position:
            raise TableError(
                f"{path}: column {name!r} is listed twice (columns {first + 1} and {position + 1}); rename one of them"
            )
    return tuple(names)


# ---- text ----


def _open_text(path: Path) -> Table:
    with path.open("rb") as stream:
        head = stream.read(4096)
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise TableError(f"{path}: is UTF-16 text; save it as UTF-8")
    if b"\0" in head:
        raise TableError(f"{path}: is a binary file, not a table; give .csv, .tsv, .npz or .parquet")
    delimiter = max(",;\t", key=lambda candidate: len(next(_rows(path, candidate), (0, []))[1]))
    rows = _rows(path, delimiter)
    first = next(rows, None)
    if first is None:
        raise TableError(f"{path}: the file is empty")
    second = next(rows, (0, []))[1]
    cells = [cell.strip() for cell in first[1]]
    has_header = _is_header(cells, second)
    names = [cell if has_header and cell else f"column_{k + 1}" for k, cell in enumerate(cells)]
    columns = _check_names(path, names)
    return Table(
        path, columns, has_header, lambda positions: _read_text(path, delimiter, has_header, columns, positions)
    )


def _rows(path: Path, delimiter: str) -> Iterator[Row]:
    """(line in the file, cells) of every row that is not blank."""
    with path.open(encoding="utf-8-sig", newline="") as stream:
        yield from _parsed(path, stream, delimiter)


def _parsed(path: Path, stream: TextIO, delimiter: str) -> Iterator[Row]:
    reader = csv.reader(stream, delimiter=delimiter)
    try:
        for cells in reader:
            if len(cells) > 1 or (cells and cells[0].strip()):
                yield reader.line_num, cells
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise TableError(
            f"{path}: is not UTF-8 text (byte 0x{byte:02x} after line {reader.line_num}); save it as UTF-8"
        ) from error
    except csv.Error as error:
        raise TableError(f"{path}: line {reader.line_num}: not a row of a table: {error}") from error


def is_number(cell: str) -> bool:
    """Whether ``cell`` is a number to Python."""
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _is_header(first: Sequence[str], second: Sequence[str]) -> bool:
    """No number in the first row, or text above a number; cells that are empty say nothing."""
    if not any(is_number(cell) for cell in first):
        return True
    return any(cell and not is_number(cell) and is_number(below) for cell, below in zip(first, second, strict=False))


def _read_text(
    path: Path, delimiter: str, has_header: bool, columns: Sequence[str], positions: Sequence[int]
) -> FloatArray:
    rows = _rows(path, delimiter)
    if has_header:
        next(rows)
    blocks: list[FloatArray] = []
    n_rows = 0
    while block := _next_block(rows):
        for k, (line, cells) in enumerate(block, start=n_rows + 1):
            if len(cells) != len(columns):
                raise TableError(
                    f"{path}: row {k} (line {line}) has {len(cells)} cells where {len(columns)} columns were expected"
                )
        cells_asked_for = [[cells[p] for p in positions] for _, cells in block]
        try:
            values = np.array(cells_asked_for, dtype=np.float64)
        except ValueError:
            values = np.array([[np.nan]])
        if not np.isfinite(values).all():
            raise _bad_cell(path, block, n_rows, columns, positions)
        blocks.append(values)
        n_rows += len(block)
    return np.concatenate(blocks) if blocks else np.empty((0, len(positions)))


def _next_block(rows: Iterator[Row]) -> list[Row]:
    return list(itertools.islice(rows, _BLOCK_ROWS))


def _bad_cell(
    path: Path, block: Sequence[Row], rows_before: int, columns: Sequence[str], positions: Sequence[int]
) -> TableError:
    """The error for the first cell of ``block`` that is no finite number."""
    for k, (line, cells) in enumerate(block, start=rows_before + 1):
        for p in positions:
            cell = cells[p].strip()
            if not (is_number(cell) and np.isfinite(float(cell))):
                return TableError(f"{path}: row {k} (line {line}), column {columns[p]!r}: {_complaint(cell)}")
    return TableError(f"{path}: rows {rows_before + 1} to {rows_before + len(block)} hold something that is no number")


def _complaint(cell: str) -> str:
    if not cell:
        return "the cell is empty; fill it in or remove the row"
    shown = repr(cell if len(cell) <= 40 else cell[:37] + "...")
    if cell.casefold() in _MISSING:
        return f"{shown} is a missing value; fill it in or remove the row"
    if is_number(cell):
        return f"{shown} is not finite"
    if cell.count(",") == 1 and is_number(cell.replace(",", ".")):
        return f"{shown} has a decimal comma; write a decimal point"
    return f"{shown} is not a number"


# ---- NumPy and Parquet ----


def _check_finite(path: Path, values: FloatArray, names: Sequence[str]) -> FloatArray:
    bad = np.argwhere(~np.isfinite(values))
    if len(bad):
        row, column = bad[0]
        value = values[row, column]
        what = "is a missing value" if np.isnan(value) else "is not finite"
        raise TableError(f"{path}: row {row + 1}, column {names[column]!r}: '{value}' {what}")
    return values


def _open_npz(path: Path) -> Table:
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (ValueError, zipfile.BadZipFile, EOFError) as error:
        raise TableError(f"{path}: is not a .npz file of plain arrays: {_first_line(error)}") from error
    columns: dict[str, NDArray[np.generic]] = {}
    names: list[str] = []
    for name, array in arrays.items():
        if array.ndim not in (1, 2):
            raise TableError(f"{path}: array {name!r} has {array.ndim} dimensions; 1 (a column) or 2 (rows, columns)")
        parts = [(name, array)] if array.ndim == 1 else [(f"{name}_{k + 1}", c) for k, c in enumerate(array.T)]
        names += [part for part, _ in parts]
        columns.update(parts)
    if not columns:
        raise TableError(f"{path}: the file holds no arrays")
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        pairs = ", ".join(f"{name} {length}" for name, length in list(lengths.items())[:12])
        raise TableError(f"{path}: the arrays differ in their number of rows: {pairs}")

    def read(positions: Sequence[int]) -> FloatArray:
        chosen = [names[p] for p in positions]
        for name in chosen:
            if columns[name].dtype.kind not in "fiub":
                raise TableError(f"{path}: column {name!r} holds {columns[name].dtype} values, not real numbers")
        return _check_finite(path, np.stack([columns[name].astype(np.float64) for name in chosen], axis=1), chosen)

    return Table(path, _check_names(path, names), True, read)


def _open_parquet(path: Path) -> Table:
    try:
        import pyarrow as pa
        import pyarrow.parquet as parquet
    except ImportError:
        raise TableError(
            f"{path}: reading Parquet needs pyarrow; pip install pyarrow, or save the table as CSV"
        ) from None
    try:
        names = parquet.read_schema(path).names
    except pa.ArrowInvalid as error:
        raise TableError(f"{path}: is not a Parquet file: {_first_line(error)}") from error

    def read(positions: Sequence[int]) -> FloatArray:
        chosen = [names[p] for p in positions]
        table = parquet.read_table(path, columns=chosen)
        parts = []
        for name in chosen:
            column = table.column(name)
            numeric = (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean, pa.types.is_decimal)
            if not any(is_type(column.type) for is_type in numeric):
                raise TableError(f"{path}: column {name!r} holds {column.type} values, not real numbers")
            parts.append(column.cast(pa.float64(), safe=False).to_numpy())
        return _check_finite(path, np.stack(parts, axis=1), chosen)

    return Table(path, _check_names(path, names), True, read)


def _first_line(error: BaseException) -> str:
    lines = str(error).splitlines()
    return lines[0] if lines else type(error).__name__
