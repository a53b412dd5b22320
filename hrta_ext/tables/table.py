"""A table whose column names are known: names are looked up, numbers are read, and what is wrong is one line."""

from __future__ import annotations

import difflib
import re
import shlex
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hrta_ext.tables.scaling import FloatArray

# How pandas and pyarrow name the index of a frame when they write it.
_NUMBERED = re.compile(r"column_[1-9]\d*")
_INDEX_NAME = re.compile(r"Unnamed: \d+(_level_\d+)?|__index_level_\d+__")
# Columns whose fault is told; the command that drops them names all.
_TOLD = 8
_EXACT = 2**53


class TableError(ValueError):
    """What is wrong with a table, and where, in one line.

    Attributes:
        columns: Those that cannot be read as numbers, where leaving them out would help.
    """

    def __init__(self, message: str, columns: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.columns = tuple(columns)


@dataclass(frozen=True)
class Table:
    """A table on disk, its column names known, its numbers not read yet.

    Attributes:
        path: The file.
        columns: Names in Unicode's composed form; ``column_1, column_2, ...`` where the file has none.
        has_header: The names come from the file.
        header_is_known: It was asked for, or named columns were found in it, or the format has names; False: guessed.
        unnamed: Columns without a name in a file that has names.
        layout: How the file is written, for :meth:`summary`.
        notes: What the user should be told about the numbers that were read.
    """

    path: Path
    columns: tuple[str, ...]
    has_header: bool
    _read: Callable[[Sequence[int], list[str], int | None], FloatArray]
    header_is_known: bool = True
    unnamed: frozenset[str] = frozenset()
    layout: str = ""
    notes: list[str] = field(default_factory=list)

    def values(self, names: Sequence[str], rows_of: str | None = None) -> FloatArray:
        """The columns ``names``, in this order.

        Args:
            rows_of: The one of them whose number of rows counts, where they may differ.
        Returns:
            Shape (rows, len(names)), float64, at least one row, every value finite.
        Raises:
            TableError: No such column, no rows, or a cell that is empty, text, NaN or infinite; all such columns are
                named.
        """
        rows_like = None if rows_of is None else self._position(rows_of)
        values = self._read([self._position(name) for name in names], self.notes, rows_like)
        if len(values) == 0:
            what = "a header but no rows of data" if self.has_header else "no rows of data"
            raise TableError(f"{self.path}: the table has {what}")
        return values

    def require(self, names: Sequence[str]) -> None:
        """Raise a TableError, with the columns there are, unless the table has all of ``names``."""
        for name in names:
            if composed(name) not in self._positions:
                raise self._unknown(name)

    def missing(self, names: Sequence[str]) -> list[str]:
        """Those of ``names`` that the table does not have."""
        return [name for name in names if composed(name) not in self._positions]

    def features(self, left_out: Sequence[str]) -> tuple[str, ...]:
        """All columns but ``left_out``, and but those that number or name the rows: a note says so.

        A column counts as such an index when it has no name in a table of names, or the name that pandas gives an
        index; it is kept where nothing else would be left.
        """
        out = {composed(name) for name in left_out}
        kept = [name for name in self.columns if name not in out]
        indexes = {name: None for name in kept if name in self.unnamed or _INDEX_NAME.fullmatch(name)}
        if not indexes or len(indexes) == len(kept):
            return tuple(kept)
        without = ", ".join(f"{name} (no name in the file)" if name in self.unnamed else name for name in indexes)
        self.notes.append(f"Left out as an index of the rows: {without}; a name of its own makes a column a feature.")
        return tuple(name for name in kept if name not in indexes)

    def summary(self, n_rows: int) -> str:
        """What was read and how, in a line."""
        return f"Read {self.path}: {plural(n_rows, 'row')} of {plural(len(self.columns), 'column')}{self.layout}."

    @cached_property
    def _positions(self) -> dict[str, list[int]]:
        positions = defaultdict(list)
        for k, name in enumerate(self.columns):
            positions[name].append(k)
        return dict(positions)

    def _position(self, name: str) -> int:
        positions = self._positions.get(composed(name))
        if positions is None:
            raise self._unknown(name)
        if len(positions) > 1:
            raise TableError(
                f"{self.path}: column {name!r} is listed twice (columns {positions[0] + 1} and {positions[1] + 1}); "
                "rename one of them",
                [name],
            )
        return positions[0]

    def _unknown(self, name: str) -> TableError:
        folded = {column.casefold(): column for column in reversed(self.columns)}
        close = [folded[match] for match in difflib.get_close_matches(name.casefold(), list(folded), n=3)]
        did_you_mean = f"did you mean {' or '.join(map(repr, close))}? " if close else ""
        hint = "" if self.has_header else " (no header row, so they are numbered)"
        if not self.header_is_known and self.has_header and _NUMBERED.fullmatch(name):
            hint = ", the cells of its first row; --no-header numbers the columns"
        if self.layout and len(self.columns) == 1:
            hint += "; if its cells are separated by another character, --delimiter says which"
        return TableError(
            f"{self.path}: there is no column {name!r}; {did_you_mean}it has {list_names(self.columns)}{hint}"
        )


@dataclass
class Fault:
    """Why a column cannot be read as numbers.

    Attributes:
        place: Row of the first cell that is none; empty where the whole column is none.
        cells: How many cells are none.
        noun: What the file calls a column.
    """

    what: str
    place: str = ""
    advice: str = ""
    droppable: bool = True
    cells: int = 1
    noun: str = "column"


def refusal(path: Path, faults: dict[str, Fault], hint: str = "") -> TableError:
    """The error for all columns that cannot be read, by name; it ends with ``hint``."""
    droppable = [name for name, fault in faults.items() if fault.droppable]
    if len(faults) == 1:
        ((name, fault),) = faults.items()
        more = f" (and {plural(fault.cells - 1, 'more cell')} of the column)" if fault.cells > 1 else ""
        advice = f"; {fault.advice}" if fault.advice else ""
        subject = f"{fault.place}, column {name!r}:" if fault.place else f"{fault.noun} {name!r}"
        return TableError(f"{path}: {subject} {fault.what}{more}{advice}{hint}", droppable)
    told = [
        f"{name!r} ({fault.place}{': ' if fault.place else ''}{fault.what})"
        for name, fault in list(faults.items())[:_TOLD]
    ]
    advice = "; ".join(dict.fromkeys(fault.advice for fault in list(faults.values())[:_TOLD] if fault.advice))
    return TableError(
        f"{path}: {len(faults)} columns hold something that is not a number: {list_names(told, _TOLD, len(faults))}"
        + (f"; {advice}" if advice else "")
        + hint,
        droppable,
    )


def counting_columns(values: FloatArray, names: Sequence[str]) -> list[str]:
    """Those of the columns ``values`` (rows, len(names)) that only count the rows, up or down by one."""
    if len(values) < 3:
        return []
    steps = values[1:] - values[:-1]
    whole = values[0] == np.floor(values[0])
    counting = whole & ((steps == 1.0).all(0) | (steps == -1.0).all(0))
    return [name for name, counts in zip(names, counting, strict=True) if counts]


def rounding_note(names: Sequence[str]) -> str:
    """The note about columns whose whole numbers float64 rounds."""
    return (
        f"Whole numbers beyond 2^53 = {_EXACT} are rounded to float64 in {list_names(list(map(repr, names)))}: "
        "different ones, such as long identifiers, may become equal."
    )


def beyond_exact(values: NDArray[Any]) -> NDArray[np.bool_]:
    """Where whole numbers are too large for float64 to hold each of them."""
    return np.asarray((values >= _EXACT) | (values <= -_EXACT))


def drop_options(names: Sequence[str]) -> str:
    """``names`` as options of a command line, ready to paste into a shell."""
    return " ".join(f"--drop{'=' if name.startswith('-') else ' '}{_quoted(name)}" for name in names)


def _quoted(name: str) -> str:
    if name.isprintable():
        return shlex.quote(name)
    return "$'" + name.encode("unicode_escape").decode().replace("'", "\\'") + "'"  # bash, zsh: line breaks, tabs, ...


def is_numbered(name: str) -> bool:
    """Whether ``name`` is one that a column without a name gets."""
    return _NUMBERED.fullmatch(name) is not None


def named(names: Sequence[str]) -> tuple[tuple[str, ...], frozenset[str]]:
    """``names`` in composed form, ``column_3`` for the third if it is empty; and which of them were."""
    given = {composed(name) for name in names}
    columns, unnamed = [], set()
    for k, name in enumerate(names):
        column = composed(name)
        if not name:
            column = f"column_{k + 1}"
            while column in given:
                column += "_"
            unnamed.add(column)
        columns.append(column)
    return tuple(columns), frozenset(unnamed)


def composed(name: str) -> str:
    """A name in Unicode's composed form: an umlaut is one name whether it came as one character or as two."""
    return unicodedata.normalize("NFC", name)


def list_names(names: Sequence[str], most: int = 12, total: int | None = None) -> str:
    """``names`` joined by commas, the tail counted where there are more than ``most`` of ``total``."""
    total = len(names) if total is None else total
    shown = ", ".join(names[:most])
    return shown if total <= most else f"{shown} and {total - most} more"


def plural(count: int, noun: str) -> str:
    """``1 row``, ``2 rows``."""
    return f"{count} {noun}" + ("" if count == 1 else "s")
