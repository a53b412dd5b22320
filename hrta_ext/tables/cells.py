"""What a cell of a text table says: the grammar of its numbers, and what to say of a cell that holds none.

One grammar on every machine: a sign, digits of ASCII, a decimal point, an exponent. Python's own ``float`` takes more
(``1_7`` is 17 to it, and so are other scripts' digits) and is only called on what this grammar has passed.
"""

from __future__ import annotations

import itertools
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from hrta_ext.tables.scaling import FloatArray

_DECIMALS = (".", ",")
_THOUSANDS = ("", ",", ".", " ", "'")
# What stands for one separator in print: a space may be a no-break one, an apostrophe a typographic one.
_SPELLINGS = {" ": "[ \u00a0\u2009\u202f]", "'": "['\u2019]"}
_MISSING = frozenset(
    {
        "na",
        "n/a",
        "n.a.",
        "n.d.",
        "k.a.",
        "n. def.",
        "#n/a",
        "<na>",
        "#na",
        "#nv",
        "nan",
        "-nan",
        "null",
        "(null)",
        "\\n",
    }
    | {"none", "nil", "missing", "?", "-", "--", ".", "..", "*", "#value!", "#null!", "#num!", "#div/0!"}
    | {"1.#ind", "-1.#ind", "1.#qnan", "-1.#qnan"}
)
_INFINITE = frozenset({"inf", "+inf", "-inf", "infinity", "+infinity", "-infinity"})
_TRUTH = {"true": 1.0, "false": 0.0}
# Cells of these characters alone are read by one call of NumPy's, whose grammar on them is this one.
_NOT_PLAIN = re.compile(r"[^0-9eE+\-. ]")


@dataclass(frozen=True)
class Complaint:
    """Why a cell is no number, and what to do.

    Attributes:
        what: Such as "'x' is not a number".
        advice: What to do about it in the file, perhaps nothing.
        by_option: Another decimal or thousands separator reads the cell: dropping its column would be wrong advice.
    """

    what: str
    advice: str = ""
    by_option: bool = False

    def __str__(self) -> str:
        return f"{self.what}; {self.advice}" if self.advice else self.what


@dataclass(frozen=True)
class Numbers:
    """How a table writes its numbers.

    Attributes:
        decimal: "." or ",".
        thousands: What separates groups of three digits: nothing, or one of , . ' and space.
    """

    decimal: str = "."
    thousands: str = ""

    def __post_init__(self) -> None:
        if self.decimal not in _DECIMALS:
            raise ValueError(f"decimal must be . or , (got {self.decimal!r})")
        if self.thousands not in _THOUSANDS:
            raise ValueError(f"thousands must be one of , . ' and space, or nothing (got {self.thousands!r})")
        if self.thousands == self.decimal:
            raise ValueError(f"decimal and thousands must differ, got {self.decimal!r} for both")

    @cached_property
    def _grammar(self) -> re.Pattern[str]:
        point, group = re.escape(self.decimal), self._group
        whole = rf"(?:[1-9]\d{{0,2}}(?:{group}\d{{3}})+|\d+)" if group else r"\d+"
        return re.compile(rf"[+-]?(?:{whole}(?:{point}\d*)?|{point}\d+)(?:[eE][+-]?\d+)?", re.ASCII)

    @property
    def _group(self) -> str:
        return _SPELLINGS.get(self.thousands, re.escape(self.thousands))

    def value(self, cell: str) -> float | None:
        """The number in ``cell``, True and False as 1 and 0; None where there is none."""
        if self._grammar.fullmatch(cell) is None:
            return _TRUTH.get(cell.casefold())
        plain = re.sub(self._group, "", cell) if self.thousands else cell
        return float(plain.replace(self.decimal, "."))

    def read(self, cells: Sequence[str]) -> FloatArray:
        """The numbers in ``cells``, NaN where there is none that is finite."""
        if self.decimal == "." and not _NOT_PLAIN.search("".join(cells)):
            try:
                values = np.array(cells, dtype=np.float64)
            except ValueError:
                pass  # "1 2", "--", "": one by one
            else:
                return np.where(np.isfinite(values), values, np.nan)
        read = (self.value(cell.strip()) for cell in cells)
        return np.array([v if v is not None and np.isfinite(v) else np.nan for v in read], dtype=np.float64)

    def is_rounded(self, cell: str, value: float) -> bool:
        """Whether ``cell`` is a whole number that float64 does not hold."""
        digits = re.sub(self._group, "", cell.strip()) if self.thousands else cell.strip()
        whole, _, rest = digits.lstrip("+-0").partition(self.decimal)
        return whole.isdecimal() and not rest.strip("0") and int(whole) != abs(int(value))

    def complaint(self, cell: str) -> Complaint:
        """What is wrong with a ``cell`` that :meth:`read` makes NaN."""
        if not cell.strip():
            return Complaint("the cell is empty", "fill it in or remove the row")
        cell = cell.strip()
        shown = repr(cell if len(cell) <= 40 else cell[:37] + "...")
        if cell.casefold() in _MISSING:
            return Complaint(f"{shown} is a missing value", "fill it in or remove the row")
        if cell.casefold() in _INFINITE or self.value(cell) is not None:
            return Complaint(f"{shown} is not finite")
        if self.value(cell.replace("\u2212", "-")) is not None:
            return Complaint(f"{shown} has a minus sign that is no hyphen", "write -")
        if self.value(cell.rstrip("% ")) is not None:
            return Complaint(f"{shown} has a percent sign", "take it away")
        return _other_writing(cell, shown, self) or Complaint(f"{shown} is not a number")


def _other_writing(cell: str, shown: str, asked: Numbers) -> Complaint | None:
    """The complaint for a number in another writing: the options that read it, all of them where they disagree."""
    meanings: dict[float, Numbers] = {}
    for thousands, decimal in itertools.product(_THOUSANDS, _DECIMALS):
        if thousands != decimal:
            numbers = Numbers(decimal, thousands)
            value = numbers.value(cell)
            if value is not None:
                meanings.setdefault(value, numbers)
    if not meanings:
        return None
    ways = [(_mark(numbers), _options(numbers), value) for value, numbers in meanings.items()]
    if len(ways) > 1:
        each = " or ".join(f"{mark} ({option} reads {value:.15g})" for mark, option, value in ways)
        return Complaint(f"{shown} has {each}", "say which", by_option=True)
    ((mark, option, _),) = ways
    advice = "write all numbers of the table alike" if asked != Numbers() else f"{option} reads it"
    return Complaint(f"{shown} has {mark}", advice, by_option=True)


def _mark(numbers: Numbers) -> str:
    if numbers.thousands:
        return "separators of thousands" if numbers.decimal == "." else "a decimal comma and separators of thousands"
    return "a decimal comma" if numbers.decimal == "," else "a decimal point"


def _options(numbers: Numbers) -> str:
    options = [f"--decimal {numbers.decimal}"] if numbers.decimal != "." else []
    if numbers.thousands:
        quoted = '"\'"' if numbers.thousands == "'" else shlex.quote(numbers.thousands)
        options.append(f"--thousands {quoted}")
    return " ".join(options) or "--decimal ."


def is_word(cell: str) -> bool:
    """Whether ``cell`` may be a name: no number in any writing, and not what stands for a missing or a truth value."""
    word = cell.strip().casefold()
    return bool(word) and word not in _MISSING and word not in _TRUTH and not looks_like_number(cell)


def looks_like_number(cell: str) -> bool:
    """Whether ``cell`` is a number in any writing, or a word for infinity or NaN."""
    cell = cell.strip()
    if cell.casefold() in _INFINITE or cell.casefold() in ("nan", "-nan"):
        return True
    return _NUMBER_OF_ANY_KIND.fullmatch(cell) is not None


_NUMBER_OF_ANY_KIND = re.compile(
    "|".join(
        Numbers(decimal, thousands)._grammar.pattern
        for thousands, decimal in itertools.product(_THOUSANDS, _DECIMALS)
        if thousands != decimal
    ),
    re.ASCII,
)
