"""Opening a user's table: text, NumPy's .npz, Parquet.

Two steps, so that columns nobody asks for may hold anything: :func:`open_table` finds the column names,
:meth:`Table.values` reads the columns asked for as float64. Whatever is wrong with the file ends in a
:class:`TableError`, one line that names the row and the column.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hrta_ext.tables.arrays import open_npz, open_parquet
from hrta_ext.tables.lines import TextFormat
from hrta_ext.tables.table import Table, TableError
from hrta_ext.tables.text import open_text


def open_table(path: str | Path, text: TextFormat | None = None, wanted: Sequence[str] = ()) -> Table:
    """Find the columns of a table; the format follows the suffix: .npz, .parquet or .pq, anything else is text.

    Text is UTF-8, plain or compressed by gzip, bzip2 or xz, in a file or from a pipe. What ``text`` leaves open is
    found out from the first rows: the delimiter is the one of comma, semicolon, tab, bar and space that splits them
    best into numbers; lines at the top that begin with ``#`` are skipped, but for a last one that has names; and the
    first row is a header when it has one of ``wanted``, or none of its cells is a number, or text stands above a
    number.

    Args:
        wanted: Names of columns that the caller knows.
    Raises:
        TableError: The file is missing, empty or not a table, or its first row may be names or numbers.
    """
    path = Path(path)
    try:
        if path.is_dir():
            raise TableError(f"{path}: this is a directory, not a table")
        if not path.exists():
            raise TableError(f"{path}: no such file")
        suffix = path.suffix.lower()
        if suffix in (".xls", ".xlsx", ".ods"):
            raise TableError(f"{path}: spreadsheets are not read; save the sheet as CSV")
        if suffix in (".npz", ".parquet", ".pq") and path.stat().st_size == 0:
            raise TableError(f"{path}: the file is empty")
    except OSError as error:
        raise TableError(f"{path}: cannot be read: {error.strerror or error}") from error
    if suffix == ".npz":
        return open_npz(path)
    return open_parquet(path) if suffix in (".parquet", ".pq") else open_text(path, text or TextFormat(), wanted)
