"""Tables are read exactly, and everything wrong with one ends in a line that names the place."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from hrta_ext.tables import TableError, open_table, text
from hrta_ext.tables.table import list_names


def read_all(path: Path) -> np.ndarray:
    """Every column of the table."""
    table = open_table(path)
    return table.values(table.columns)


def write(directory: Path, content: str | bytes, name: str = "table.csv") -> Path:
    path = directory / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|", " ", "   "])
def test_text_of_every_delimiter_is_read_exactly(tmp_path, delimiter):
    values = np.random.default_rng(0).normal(size=(50, 3))
    rows = [delimiter.join(("a", "b", "c"))] + [delimiter.join(repr(float(v)) for v in row) for row in values]
    table = open_table(write(tmp_path, "\n".join(rows)))
    assert table.columns == ("a", "b", "c")
    assert table.has_header
    assert np.array_equal(table.values(["c", "a"]), values[:, [2, 0]])


@pytest.mark.parametrize("style", [np.asfortranarray, lambda a: a.astype(">f8"), lambda a: a[::-1, ::2].copy()[::-1]])
def test_arrays_of_any_order_are_read_exactly(tmp_path, style):
    values = style(np.random.default_rng(0).normal(size=(50, 4)))
    np.savez(tmp_path / "table.npz", x=values, y=values[:, 0])
    read = read_all(tmp_path / "table.npz")
    assert np.array_equal(read, np.column_stack([values, values[:, 0]]))
    assert (read.dtype, read.dtype.isnative, read.flags.c_contiguous) == (np.float64, True, True)


def test_blocks_do_not_lose_or_repeat_rows(tmp_path, monkeypatch):
    path = write(tmp_path, "x\n" + "\n".join(map(str, range(20))) + "\n")
    for block in (1, 3, 20, 21):
        monkeypatch.setattr(text, "_BLOCK_ROWS", block)
        assert open_table(path).values(["x"])[:, 0].tolist() == list(range(20))


@pytest.mark.parametrize(
    ("content", "columns", "n_rows"),
    [
        ("a,b\n1,2\n", ("a", "b"), 1),
        ("1,2\n3,4\n", ("column_1", "column_2"), 2),
        ("2019,2020,name\n1,2,3\n", ("2019", "2020", "name"), 1),  # numbers as names: text stands above a number
        ('"a, b",c\n1,2\n', ("a, b", "c"), 1),
        (",a\n0,1\n", ("column_1", "a"), 1),  # pandas' unnamed index
        (" a , b \n 1 , 2 \n", ("a", "b"), 1),
        ("\ufeffa,b\r\n1,2\r\n\r\n3,4\r\n", ("a", "b"), 2),  # byte order mark, Windows line ends, blank line
    ],
)
def test_header_detection(tmp_path, content, columns, n_rows):
    table = open_table(write(tmp_path, content))
    assert table.columns == columns
    assert len(table.values(columns)) == n_rows


def test_columns_nobody_asks_for_may_hold_text(tmp_path):
    table = open_table(write(tmp_path, "name,x\nann,1\n,2\n"))
    assert table.values(["x"])[:, 0].tolist() == [1.0, 2.0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "the file is empty"),
        ("\n\n", "the file is empty"),
        ("a,b\n", "a header but no rows"),
        ("a,b,a\n1,2,3\n", "column 'a' is listed twice (columns 1 and 3)"),
        ("a,b\n1,x\n2,y\n3,z\n", "'x' is not a number (and 2 more cells of the column)"),
        ("a,b,c\n1,x,\n2,y,3\n", "2 columns hold something that is not a number: 'b' (row 1 (line 2): 'x' is not a "),
        ("a,b\n1,2\n3,x\n", "row 2 (line 3), column 'b': 'x' is not a number"),
        ("a,b\n1,2\n\n3,\n", "row 2 (line 4), column 'b': the cell is empty"),
        ("a,b\n1,nan\n", "row 1 (line 2), column 'b': 'nan' is a missing value"),
        ("a,b\n1,NA\n", "row 1 (line 2), column 'b': 'NA' is a missing value"),
        ("a,b\n1,-inf\n", "row 1 (line 2), column 'b': '-inf' is not finite"),
        ("a,b\n1,1e999\n", "row 1 (line 2), column 'b': '1e999' is not finite"),
        ("a;b\n1;2,5\n", "'2,5' has a decimal comma; --decimal , reads it"),
        ("a,b\n1,2\n3\n", "row 2 (line 3) has 1 cells where 2 columns were expected"),
        ("a,b\n1,2\n3,4,5\n", "row 2 (line 3) has 3 cells where 2 columns were expected"),
        (b"a,b\n1,2\n\xe9,3\n", "is not UTF-8 text (byte 0xe9"),
        ("a,b\n1,2\n".encode("utf-16"), "is UTF-16 text"),
        (b"\x7fELF\0\0\0", "is a binary file"),
    ],
)
def test_errors_in_text(tmp_path, content, message):
    path = write(tmp_path, content)
    with pytest.raises(TableError, match=re.escape(message)) as caught:
        read_all(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_errors_of_paths(tmp_path):
    with pytest.raises(TableError, match="no such file"):
        open_table(tmp_path / "absent.csv")
    with pytest.raises(TableError, match="is a directory"):
        open_table(tmp_path)
    with pytest.raises(TableError, match="save the sheet as CSV"):
        open_table(write(tmp_path, b"PK", "sheet.xlsx"))


def test_unknown_column_suggests_and_lists(tmp_path):
    table = open_table(write(tmp_path, "Glucose,age\n1,2\n"))
    with pytest.raises(TableError, match=r"no column 'glucos'; did you mean 'Glucose'\? it has Glucose, age$"):
        table.values(["glucos"])
    with pytest.raises(TableError, match="no column 'weight'; it has Glucose, age"):
        table.require(["age", "weight"])
    assert table.missing(["age", "weight"]) == ["weight"]
    headless = open_table(write(tmp_path, "1,2\n3,4\n", "headless.csv"))
    with pytest.raises(TableError, match=r"column_1, column_2 [(]no header row"):
        headless.values(["y"])
    assert list_names([str(k) for k in range(14)], 12).endswith("10, 11 and 2 more")
