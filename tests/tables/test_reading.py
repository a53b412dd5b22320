"""Tables are read exactly, and everything wrong with one ends in a line that names the place."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import pytest

from hrta_ext.tables import reading as tables
from hrta_ext.tables.reading import TableError, list_names, open_table


def read_all(path: Path) -> np.ndarray:
    """Every column of the table."""
    table = open_table(path)
    return table.values(table.columns)


def write(directory: Path, content: str | bytes, name: str = "table.csv") -> Path:
    path = directory / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
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
        monkeypatch.setattr(tables, "_BLOCK_ROWS", block)
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
        ("a,b\n1,2\n3,x\n", "row 2 (line 3), column 'b': 'x' is not a number"),
        ("a,b\n1,2\n\n3,\n", "row 2 (line 4), column 'b': the cell is empty"),
        ("a,b\n1,nan\n", "row 1 (line 2), column 'b': 'nan' is a missing value"),
        ("a,b\n1,NA\n", "row 1 (line 2), column 'b': 'NA' is a missing value"),
        ("a,b\n1,-inf\n", "row 1 (line 2), column 'b': '-inf' is not finite"),
        ("a,b\n1,1e999\n", "row 1 (line 2), column 'b': '1e999' is not finite"),
        ("a;b\n1;2,5\n", "'2,5' has a decimal comma"),
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


def test_npz(tmp_path):
    x, y = np.arange(6.0).reshape(3, 2), np.array([1, 2, 3])
    np.savez(tmp_path / "t.npz", x=x, y=y)
    table = open_table(tmp_path / "t.npz")
    assert table.columns == ("x_1", "x_2", "y")
    assert table.values(["y", "x_2"]).tolist() == [[1, 1], [2, 3], [3, 5]]


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": np.zeros((2, 2, 2))}, "array 'x' has 3 dimensions"),
        ({"x": np.zeros(2), "y": np.zeros(3)}, "differ in their number of rows: x 2, y 3"),
        ({"x": np.array(["a", "b"])}, "column 'x' holds"),
        ({"x": np.array([1.0, np.nan])}, "row 2, column 'x': 'nan' is a missing value"),
        ({"x": np.array([1.0, np.inf])}, "row 2, column 'x': 'inf' is not finite"),
        ({"x": np.array([{}])}, "not a .npz file of plain arrays"),  # pickled objects are never loaded
        ({}, "holds no arrays"),
        ({"x": np.zeros(0)}, "no rows of data|a header but no rows"),
    ],
)
def test_errors_in_npz(tmp_path, arrays, message):
    path = tmp_path / "t.npz"
    np.savez(path, **arrays)
    with pytest.raises(TableError, match=message):
        read_all(path)
    path.write_bytes(b"junk")
    with pytest.raises(TableError, match=r"not a \.npz file"):
        open_table(path)


def test_parquet(tmp_path):
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "t.parquet"
    parquet.write_table(pa.table({"x": [1, 2], "y": [0.5, None], "name": ["a", "b"], "flag": [True, False]}), path)
    table = open_table(path)
    assert table.values(["flag", "x"]).tolist() == [[1, 1], [0, 2]]
    with pytest.raises(TableError, match="row 2, column 'y': 'nan' is a missing value"):
        table.values(["y"])
    with pytest.raises(TableError, match="column 'name' holds string values"):
        table.values(["name"])
    path.write_bytes(b"junk")
    with pytest.raises(TableError, match="not a Parquet file"):
        open_table(path)


def test_parquet_without_pyarrow_names_the_cure(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(TableError, match="pip install pyarrow"):
        open_table(write(tmp_path, b"PAR1", "t.parquet"))
