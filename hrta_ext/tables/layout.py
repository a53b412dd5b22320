"""How a text table is written: its delimiter, its header and its columns, found out from its first rows.

What was decided is put into words for the user; where names and numbers look alike the user is asked.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hrta_ext.tables.cells import Numbers, looks_like_number
from hrta_ext.tables.lines import MalformedRow, Row, TextFile, TextFormat, cells_of
from hrta_ext.tables.table import TableError, composed, list_names, plural

# Rows that delimiter, header and width are found out from.
_SAMPLE_ROWS = 32
DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars", " ": "spaces"}
_SEP_LINE = re.compile(r'"?sep=(.)"?\s*', re.IGNORECASE)


@dataclass(frozen=True)
class Layout:
    """Where the rows of data are and how many cells they have.

    Attributes:
        before: Lines before the first row of data, header and comments among them.
        columns: Names of the columns.
        padding: Empty cells at the end of each row, beyond the columns.
        unnamed: Columns without a name in a table of names.
        text: How the file is written, in words.
    """

    delimiter: str
    multiline: bool
    before: int
    columns: tuple[str, ...]
    padding: int
    has_header: bool
    header_is_known: bool
    unnamed: frozenset[str]
    text: str


def find_layout(file: TextFile, text: TextFormat, wanted: set[str]) -> Layout:
    """What ``text`` leaves open is found out from the first rows; see :func:`hrta_ext.tables.reading.open_table`."""
    delimiter, before, comments, sample = _head(file, text.delimiter)
    if delimiter is None:
        candidates = list(DELIMITERS)
        if text.numbers.decimal == "," and not any('"' in line for line in sample):
            candidates.remove(",")
        delimiter = max(candidates, key=lambda candidate: _fitness(sample, candidate, text.multiline))
    rows, fault = _parse(sample, delimiter, text.multiline, before)
    if fault is not None and not (rows and rows[0][0] < fault.line):
        raise TableError(f"{file.path}: row 1 (line {fault.line}): {fault.what}")
    (line, first), data = rows[0], [cells for _, cells in rows[1:]]
    first = [composed(cell.strip()) for cell in first]
    width = Counter(map(len, data)).most_common(1)[0][0] if data else len(first)
    has_header, known = _has_header(file.path, first, data, text.header, wanted)
    titled = None if has_header or text.header is False else _title(comments, [first, *data], delimiter, wanted)
    if titled is not None:
        header, has_header, known, data = titled, True, known or not wanted.isdisjoint(titled), [first, *data]
        width = len(first)
    else:
        header = first
        before = line + "".join(rows[0][1]).count("\n") if has_header else before
        data = data if has_header else [first, *data]
    names, padding = _names(header, data, width) if has_header else _numbered(data, width)
    columns = tuple(name or f"column_{k + 1}" for k, name in enumerate(names))
    unnamed = frozenset(column for column, name in zip(columns, names, strict=True) if has_header and not name)
    _check_comments(file.path, comments[: len(comments) - (titled is not None)], delimiter, len(columns))
    words = ", named by its first row" if has_header else " without a header row"
    if titled is not None:
        words = ", named by the last line that begins with #"
    elif not has_header:
        hint = "" if known else "; --header if the first row holds names"
        words += f" (called {list_names(columns, 4)}{hint})"
    if len(columns) > 1:
        words += f", separated by {DELIMITERS.get(delimiter, repr(delimiter))}"
    if file.compression:
        words += f", compressed by {file.compression}"
    skipped = len(comments) - (titled is not None)
    if skipped:
        words += f", {plural(skipped, 'line')} that begin{'s' if skipped == 1 else ''} with # skipped"
    return Layout(delimiter, text.multiline, before, columns, padding, has_header, known, unnamed, words)


def _head(file: TextFile, delimiter: str | None) -> tuple[str | None, int, list[str], list[str]]:
    """(delimiter of a ``sep=`` line, lines before the first row, comments among them, first lines from there on)."""
    before = 0
    comments: list[str] = []
    sample: list[str] = []
    for line in file.lines():
        if sample or (line.strip() and not line.startswith("#")):
            sep = None if sample or comments else _SEP_LINE.fullmatch(line)
            if sep is None:
                sample.append(line)
                if len(sample) == _SAMPLE_ROWS:
                    break
                continue
            delimiter = delimiter or sep[1]
        elif line.strip():
            comments.append(line)
        before += 1
    if not sample:
        what = "every line begins with #" if comments else "the file is empty"
        raise TableError(f"{file.path}: {what}")
    return delimiter, before, comments, sample


def _parse(
    sample: Sequence[str], delimiter: str, multiline: bool, before: int = 0
) -> tuple[list[Row], MalformedRow | None]:
    """The rows of ``sample`` that are not blank, and the first line that is none."""
    rows: list[Row] = []
    fault = None
    for k, lines in enumerate([sample] if multiline else [[line] for line in sample]):
        try:
            rows.extend(row for row in cells_of(lines, delimiter, multiline, before + k) if row[1])
        except MalformedRow as error:
            fault = fault or error
    return rows, fault


def _fitness(sample: Sequence[str], delimiter: str, multiline: bool) -> tuple[float, float]:
    """How well ``delimiter`` splits the lines: rows of as many cells, and numbers in them."""
    rows = [cells for _, cells in _parse(sample, delimiter, multiline)[0]]
    data = rows[1:] or rows
    if not data:
        return 0.0, 0.0
    width, n_rows = Counter(map(len, data)).most_common(1)[0]
    if width == 1:
        return 0.0, 0.0
    cells = [cell for row in data if len(row) == width for cell in row]
    share = n_rows / len(data)
    return share * sum(map(looks_like_number, cells)) / len(cells), share


def _has_header(
    path: Path, first: Sequence[str], data: Sequence[Sequence[str]], asked: bool | None, wanted: set[str]
) -> tuple[bool, bool]:
    """(the first row holds names, this is known and not guessed)."""
    if asked is not None:
        return asked, True
    if not wanted.isdisjoint(first):
        return True, True
    if not any(map(looks_like_number, first)):
        return any(first), False
    second = data[0] if data else []
    if any(
        cell and not looks_like_number(cell) and looks_like_number(b) for cell, b in zip(first, second, strict=False)
    ):
        return True, False
    if _is_counting(first) and not _is_counting(second):
        raise TableError(
            f"{path}: the first row ({list_names(first, 3)}) may hold names or numbers; say which with --header or "
            "--no-header"
        )
    return False, False


def _is_counting(cells: Sequence[str]) -> bool:
    """Numbers with equal steps, such as years and wavelengths: names of columns rather than a sample."""
    values = [Numbers().value(cell) for cell in cells]
    if len(values) < 3 or any(value is None for value in values):
        return False
    steps = np.diff(np.array(values, dtype=np.float64))
    return bool(steps[0] != 0.0 and np.allclose(steps, steps[0], rtol=1e-9, atol=0.0))


def _title(
    comments: Sequence[str], rows: Sequence[Sequence[str]], delimiter: str, wanted: set[str]
) -> list[str] | None:
    """The names in the last comment, as NumPy writes them, where it has as many cells as the rows."""
    if not comments or comments[-1].startswith("##"):
        return None
    line = comments[-1].strip()
    for written in (line[1:].strip() if line[1:2].isspace() else line, line):
        parsed, _ = _parse([written], delimiter, False)
        cells = [composed(cell.strip()) for cell in parsed[0][1]] if parsed else []
        named = not wanted.isdisjoint(cells) or not any(map(looks_like_number, cells))
        if named and len(cells) > 1 and all(len(cells) == len(row) for row in rows):
            return cells
    return None


def _check_comments(path: Path, comments: Sequence[str], delimiter: str, n_columns: int) -> None:
    """Refuse to take a row such as ``#ff0000,1,2`` for a comment."""
    for comment in comments:
        parsed, _ = _parse([comment], delimiter, False)
        cells = parsed[0][1] if parsed else []
        if 1 < n_columns == len(cells) and not comment[1:2].isspace() and any(map(looks_like_number, cells[1:])):
            raise TableError(
                f"{path}: the line {comment.strip()[:40]!r} begins with # and has {n_columns} cells like a row; take "
                "away the # or the line"
            )


def _names(header: list[str], data: Sequence[Sequence[str]], width: int) -> tuple[list[str], int]:
    """(names, empty cells after the columns), for lines that end in delimiters and for R's row names too."""
    named = len(header) - _trailing(header)
    padded = min((_trailing(row) for row in data if len(row) == width), default=0)
    if 0 < named < width and named >= width - padded:
        return header[:named], width - named
    if data and named == width:
        return header[:named], 0
    if width == len(header) + 1 and not padded and _are_row_names([row[0] for row in data if len(row) == width]):
        return ["", *header], 0
    return header, 0


def _numbered(data: Sequence[Sequence[str]], width: int) -> tuple[list[str], int]:
    padded = min((_trailing(row) for row in data if len(row) == width), default=0)
    return [""] * max(1, width - padded), min(padded, width - 1)


def _trailing(cells: Sequence[str]) -> int:
    """How many cells at the end are empty."""
    return sum(1 for _ in itertools.takewhile(lambda cell: not cell.strip(), reversed(cells)))


def _are_row_names(cells: Sequence[str]) -> bool:
    """Text, or the numbers 1, 2, 3, ..."""
    return not any(map(looks_like_number, cells)) or list(cells) == [str(k + 1) for k in range(len(cells))]
