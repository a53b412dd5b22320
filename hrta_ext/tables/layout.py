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

from hrta_ext.tables.cells import Numbers, is_word, looks_like_number
from hrta_ext.tables.lines import MalformedRow, Row, TextFile, TextFormat, cells_of
from hrta_ext.tables.table import TableError, composed, is_numbered, list_names, named, plural

# Rows that delimiter, header and width are found out from; lines where cells may hold line breaks.
_SAMPLE_ROWS = 32
_SAMPLE_LINES_MULTILINE = 1024
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
    delimiter, before, comments, sample = _head(file, text)
    if delimiter is None:
        candidates = _candidates(sample, text.numbers)
        delimiter = max(candidates, key=lambda candidate: _fitness(sample, candidate, text.multiline, wanted))
    rows, fault = _parse(sample, delimiter, text.multiline, before)
    if fault is not None and not (rows and rows[0][0] < fault.line):
        raise TableError(f"{file.path}: row 1 (line {fault.line}): {fault.what}")
    first, data = _stripped(rows[0][1]), [cells for _, cells in rows[1:]]
    has_header, known = _has_header(file.path, first, data, text, wanted)
    header, titled = first, False
    if not has_header and text.header is None:
        title = _title(comments, [first, *data], delimiter, wanted)
        if title is not None:
            header, titled, known = title, True, not wanted.isdisjoint(title)
    if not known and not titled:
        _check_preamble(file.path, rows, wanted)
    if has_header:
        following = [line for line, _ in rows[1:]] + ([fault.line] if fault else [])
        before = (min(following) if following else before + len(sample) + 1) - 1
    else:
        data = [first, *data]
    quoted = bool(sample) and all(line.startswith('"') for line in sample if line.strip())
    names, padding = _names(header, data, quoted) if has_header or titled else _numbered(data)
    columns, unnamed = named(names)
    skipped = len(comments) - titled
    _check_comments(file.path, comments[:skipped], delimiter, len(columns))
    told = known or (has_header and not any(map(looks_like_number, first)))  # words alone are hardly numbers
    words = _words(columns, has_header, titled, told, delimiter, skipped, file.compression)
    if not (has_header or titled):
        unnamed = frozenset()
    return Layout(delimiter, text.multiline, before, columns, padding, has_header or titled, known, unnamed, words)


def _words(
    columns: Sequence[str], has_header: bool, titled: bool, known: bool, delimiter: str, skipped: int, compression: str
) -> str:
    """The layout for the user, to follow "3 columns"."""
    if titled:
        words = ", named by the last line that begins with #"
    elif has_header:
        words = ", named by its first row" + ("" if known else " (--no-header if that holds numbers)")
    else:
        hint = "" if known else "; --header if the first row holds names"
        words = f" without a header row (called {list_names(columns, 4)}{hint})"
    if len(columns) > 1:
        words += f", separated by {DELIMITERS.get(delimiter, repr(delimiter))}"
    if compression:
        words += f", compressed by {compression}"
    if skipped:
        words += f", {plural(skipped, 'line')} that begin{'s' if skipped == 1 else ''} with # skipped"
    return words


def _head(file: TextFile, text: TextFormat) -> tuple[str | None, int, list[str], list[str]]:
    """(delimiter of a ``sep=`` line, lines before the first row, comments among them, first lines from there on)."""
    delimiter, before = text.delimiter, 0
    comments: list[str] = []
    sample: list[str] = []
    for line in file.lines():
        if sample or (line.strip() and not line.lstrip().startswith("#")):
            sep = None if sample or comments else _SEP_LINE.fullmatch(line)
            if sep is None:
                sample.append(line)
                if len(sample) == (_SAMPLE_LINES_MULTILINE if text.multiline else _SAMPLE_ROWS):
                    break
                continue
            delimiter = delimiter or sep[1]
        elif line.strip():
            comments.append(line.strip())
        before += 1
    if not sample:
        what = "every line begins with #" if comments else "the file is empty"
        raise TableError(f"{file.path}: {what}")
    return delimiter, before, comments, sample


def _parse(
    sample: Sequence[str], delimiter: str, multiline: bool, before: int
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


def _stripped(cells: Sequence[str]) -> list[str]:
    return [composed(cell.strip()) for cell in cells]


# ---- the delimiter ----


def _candidates(sample: Sequence[str], numbers: Numbers) -> list[str]:
    """Delimiters to try: none that the numbers are written with, unless such numbers stand in quotes."""
    marks = {numbers.decimal, numbers.thousands} & set(DELIMITERS)
    quoted = re.compile(rf'"[\d.\' ]*[{re.escape("".join(marks))}][\d.,\' ]*"') if marks else None
    in_quotes = quoted is not None and any(quoted.search(line) for line in sample)
    return [delimiter for delimiter in DELIMITERS if in_quotes or delimiter not in marks]


def _fitness(
    sample: Sequence[str], delimiter: str, multiline: bool, wanted: set[str]
) -> tuple[bool, bool, float, float]:
    """How well ``delimiter`` splits the lines: into names that are wanted, as many names as cells, and numbers."""
    rows = [cells for _, cells in _parse(sample, delimiter, multiline, 0)[0]]
    data = rows[1:] or rows
    if not data:
        return False, False, 0.0, 0.0
    first = _stripped(rows[0])
    is_named = len(first) > 1 and not wanted.isdisjoint(first)
    width, n_rows = Counter(map(len, data)).most_common(1)[0]
    if width == 1:
        return is_named, False, 0.0, 0.0
    cells = [cell for row in data if len(row) == width for cell in row if cell.strip()]
    share = n_rows / len(data)
    fits = _fits(first, data, width)
    return is_named, fits, share * sum(map(looks_like_number, cells)) / max(1, len(cells)), share


def _fits(first: Sequence[str], data: Sequence[Sequence[str]], width: int) -> bool:
    """Whether the first row has as many cells as the others, but for empty ones at the end or a name of R's rows."""
    padded = min(_trailing(row) for row in data if len(row) == width)
    columns = len(first) - _trailing(first)
    return len(first) == width or width - padded <= columns <= width or (len(first) > 1 and len(first) + 1 == width)


# ---- the header ----


def _has_header(
    path: Path, first: Sequence[str], data: Sequence[Sequence[str]], text: TextFormat, wanted: set[str]
) -> tuple[bool, bool]:
    """(the first row holds names, this is known and not guessed)."""
    if text.header is not None:
        return text.header, True
    words = [is_word(cell) for cell in first]
    if any(words):
        names, _ = named(first)
        if not wanted.isdisjoint(names):
            return True, True
        if not any(map(looks_like_number, first)):
            return True, False
        second = data[0] if data else []
        return any(word and looks_like_number(below) for word, below in zip(words, second, strict=False)), False
    # Numbers alone, such as wavelengths, years or 0, 1, 2: names where all that is wanted is there and nothing twice.
    counting = _is_counting(first, text.numbers) and not all(_is_counting(row, text.numbers) for row in data)
    if not wanted.isdisjoint(first):
        many = len(wanted) > 2 and wanted.issubset(first) and len(set(first)) == len(first)
        if (counting and len(first) > 2) or many:
            return True, True
    elif not counting and (first[0] or not any(first)):
        return False, False
    raise TableError(
        f"{path}: the first row ({list_names(first, 3)}) may hold names or numbers; say which with --header or "
        "--no-header"
    )


def _is_counting(cells: Sequence[str], numbers: Numbers) -> bool:
    """Numbers that go up or down like years and wavelengths: names of columns rather than a sample."""
    values = [numbers.value(cell.strip()) for cell in cells if cell.strip()]
    if len(values) < 2 or any(value is None for value in values):
        return False
    steps = np.diff(np.array(values, dtype=np.float64))
    if len(steps) == 1:  # 2019, 2020
        return bool(abs(steps[0]) == 1.0 and values[0] == int(values[0] or 0))
    if not ((steps > 0.0).all() or (steps < 0.0).all()):
        return False
    return len(values) > 4 or bool(np.ptp(steps) <= 0.05 * abs(steps[0]))


def _title(
    comments: Sequence[str], rows: Sequence[Sequence[str]], delimiter: str, wanted: set[str]
) -> list[str] | None:
    """The names in a comment, as NumPy writes them, with as many cells as the rows: one that is wanted, or the last."""
    width = len(rows[0])
    padded = min(_trailing(row) for row in rows)
    if any(len(row) != width for row in rows):
        return None
    found = None
    for comment in comments:
        if comment.startswith("##"):
            continue
        for written in (comment[1:].strip() if comment[1:2].isspace() else comment, comment):
            parsed, _ = _parse([written], delimiter, False, 0)
            cells = _stripped(parsed[0][1]) if parsed else []
            if len(cells) < 2 or not width - padded <= len(cells) - _trailing(cells) <= width:
                continue
            if not wanted.isdisjoint(cells):
                return cells
            if comment is comments[-1] and any(map(is_word, cells)):
                found = cells
            break
    return found


def _check_preamble(path: Path, rows: Sequence[Row], wanted: set[str]) -> None:
    """Say so when the names stand farther down, below lines that are no part of the table."""
    names = {name for name in wanted if is_word(name) and not is_numbered(name)}
    for line, cells in rows[1:]:
        if not names.isdisjoint(_stripped(cells)):
            raise TableError(
                f"{path}: its first row ({list_names(_stripped(rows[0][1]), 3)}) names none of the columns asked for, "
                f"line {line} does; take away the lines above it"
            )


def _check_comments(path: Path, comments: Sequence[str], delimiter: str, n_columns: int) -> None:
    """Refuse to take a row such as ``#ff0000,1,2`` for a comment."""
    for comment in comments:
        parsed, _ = _parse([comment], delimiter, False, 0)
        cells = parsed[0][1] if parsed else []
        if 1 < n_columns == len(cells) and not comment[1:2].isspace() and any(map(looks_like_number, cells[1:])):
            raise TableError(
                f"{path}: the line {comment.strip()[:40]!r} begins with # and has {n_columns} cells like a row; take "
                "away the # or the line"
            )


# ---- the columns ----


def _names(header: list[str], data: Sequence[Sequence[str]], quoted: bool) -> tuple[list[str], int]:
    """(names, empty cells after the columns), for lines that end in delimiters too, and for R's row names, which have
    no name and, as the names of columns, quotes."""
    width = Counter(map(len, data)).most_common(1)[0][0] if data else len(header)
    columns = len(header) - _trailing(header)
    padded = min((_trailing(row) for row in data if len(row) == width), default=0)
    if 0 < columns < width and columns >= width - padded:
        return header[:columns], width - columns
    if data and columns == width:
        return header[:columns], 0
    if width == len(header) + 1 and not padded and quoted:
        return ["", *header], 0
    return header, 0


def _numbered(data: Sequence[Sequence[str]]) -> tuple[list[str], int]:
    width = Counter(map(len, data)).most_common(1)[0][0]
    padded = min(_trailing(row) for row in data if len(row) == width)
    return [""] * max(1, width - padded), min(padded, width - 1)


def _trailing(cells: Sequence[str]) -> int:
    """How many cells at the end are empty."""
    return sum(1 for _ in itertools.takewhile(lambda cell: not cell.strip(), reversed(cells)))
