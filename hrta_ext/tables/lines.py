"""The lines of a text table and their cells: files, pipes and compressed files, split strictly.

Cells are split by the standard library's ``csv``. A quoted cell that goes on after its closing quote, or that is still
open at the end of its line, is an error, since a stray quote would swallow rows in silence.
"""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import lzma
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, cast

from hrta_ext.tables.cells import Numbers
from hrta_ext.tables.table import TableError

Row = tuple[int, list[str]]

_COMPRESSED: dict[bytes, tuple[str, Callable[[Any], Any]]] = {
    b"\x1f\x8b": ("gzip", gzip.open),
    b"BZh": ("bzip2", bz2.open),
    b"\xfd7zXZ": ("xz", lzma.open),
}
_UNREADABLE = (OSError, EOFError, zlib.error, lzma.LZMAError)
_OPEN_QUOTE = (
    "a quoted cell is still open at the end of the line; close the quote, or --multiline if cells hold line breaks"
)


@dataclass(frozen=True)
class TextFormat:
    """What the user says of a text table; None: found out from the file.

    Attributes:
        header: The first row holds the names of the columns.
        delimiter: The character between cells; a space stands for any run of spaces and tabs.
        numbers: Decimal point or comma, and what separates thousands.
        multiline: A quoted cell may hold line breaks.
    """

    header: bool | None = None
    delimiter: str | None = None
    numbers: Numbers = field(default_factory=Numbers)
    multiline: bool = False

    def __post_init__(self) -> None:
        if self.delimiter is not None and (len(self.delimiter) != 1 or self.delimiter in '"\r\n'):
            raise ValueError(
                f"delimiter must be one character and neither a quote nor a line's end, got {self.delimiter!r}"
            )


class MalformedRow(Exception):
    """A line that is no row of a table."""

    def __init__(self, line: int, what: str) -> None:
        self.line, self.what = line, what


class TextFile:
    """A text file that can be read again and again; a pipe, which cannot, is kept in memory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.compression = ""
        try:
            self._content = None if path.is_file() else path.read_bytes()
            with self._binary() as stream:
                head = stream.read(4096)
        except _UNREADABLE as error:
            raise _unreadable(path, error) from error
        if not head:
            raise TableError(f"{path}: the file is empty")
        if head.startswith((b"\xff\xfe", b"\xfe\xff")):
            raise TableError(f"{path}: is UTF-16 text or the like; save it as UTF-8")
        if head.lstrip().startswith((b"{", b"[{")):
            raise TableError(f"{path}: is JSON, not a table; save it as CSV")
        if head.startswith(b"PK\x03\x04"):
            raise TableError(f"{path}: is a ZIP archive; unzip it, or if it is a spreadsheet save the sheet as CSV")
        if head.startswith(b"\x28\xb5\x2f\xfd"):
            raise TableError(f"{path}: is compressed by zstd; decompress it first (gzip, bzip2 and xz are read)")
        if b"\0" in head:
            raise TableError(f"{path}: is a binary file, not a table; give .csv, .tsv, .npz or .parquet")

    def _binary(self) -> BinaryIO:
        content = self.path.open("rb") if self._content is None else io.BytesIO(self._content)
        start = content.read(6)
        for magic, (name, opened) in _COMPRESSED.items():
            if start.startswith(magic):
                content.close()  # what decompresses opens, and later closes, a file of its own
                self.compression = name
                return cast(BinaryIO, opened(self.path if self._content is None else io.BytesIO(self._content)))
        content.seek(0)
        return content

    def lines(self) -> Iterator[str]:
        """The lines with their ends."""
        try:
            with self._binary() as binary, io.TextIOWrapper(binary, encoding="utf-8-sig", newline="") as stream:
                yield from stream
        except UnicodeDecodeError as error:
            raise self._not_utf8(error) from error
        except _UNREADABLE as error:
            raise _unreadable(self.path, error) from error

    def _not_utf8(self, error: UnicodeDecodeError) -> TableError:
        """Decoders work on pieces of the file: where the byte stands is looked up again."""
        with self._binary() as stream:
            content = stream.read()
        try:
            content.decode()
        except UnicodeDecodeError as found:
            error = found
        line = error.object[: error.start].count(b"\n") + 1
        byte = error.object[error.start]
        return TableError(f"{self.path}: is not UTF-8 text (byte 0x{byte:02x} in line {line}); save it as UTF-8")


def _unreadable(path: Path, error: Exception) -> TableError:
    return TableError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}")


def cells_of(lines: Iterable[str], delimiter: str, multiline: bool, lines_before: int = 0) -> Iterator[Row]:
    """(line in the file, cells) of every row, no cells in a blank one."""
    line, taken, size = lines_before, 0, 0
    after_quote = re.compile(rf'" +(?={re.escape(delimiter)}|\s*$)') if delimiter != " " else re.compile(r'" +(?=\s*$)')

    def feed() -> Iterator[str]:
        nonlocal line, taken, size
        for text in lines:
            if taken and not multiline:
                raise MalformedRow(line, _OPEN_QUOTE)
            line, taken, size = line + 1, taken + 1, size + len(text)
            if size > csv.field_size_limit():
                csv.field_size_limit(2 * size)  # rows end with their lines, so that the limit protects from nothing
            if '" ' in text and not multiline:  # spaces after a closing quote
                text = after_quote.sub('"', text)
            yield text.replace("\t", " ").strip() if delimiter == " " else text

    try:
        for cells in csv.reader(feed(), delimiter=delimiter, strict=True, skipinitialspace=True):
            yield line - taken + 1, cells if len(cells) > 1 or (cells and cells[0].strip()) else []
            taken = size = 0
    except csv.Error as error:
        what = str(error)
        if what.startswith("unexpected end"):
            what = _OPEN_QUOTE
        elif "expected after" in what:
            what = "a cell goes on after its closing quote; double a quote that belongs to the text"
        raise MalformedRow(line - taken + 1, what) from error
