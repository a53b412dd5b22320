"""Tables with types, .npz and Parquet: only what is asked for is read, and damage never gives numbers."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import pytest

from hrta_ext.tables import TableError, open_table


def read_all(path: Path) -> np.ndarray:
    """Every column of the table."""
    table = open_table(path)
    return table.values(table.columns)


def outcome(path: Path) -> tuple[np.ndarray | None, str | None]:
    """What is read, or the one line that says why not; any other exception fails the test."""
    try:
        return read_all(path), None
    except TableError as error:
        (line,) = str(error).splitlines()
        return None, line


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
        ({"x": np.array([{}])}, "column 'x' holds Python objects"),  # which are never unpickled
        ({}, "holds no arrays"),
        ({"n": np.array(3.0)}, "holds no arrays"),
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
    damaged = tmp_path / "t.parquet"
    damaged.write_bytes(b"PAR1")
    with pytest.raises(TableError, match="pip install pyarrow"):
        open_table(damaged)


def test_arrays_nobody_asks_for_may_be_anything(tmp_path):
    """Names of features, a scalar, objects and images lie beside X and y; only their headers are looked at."""
    x = np.arange(12.0).reshape(4, 3)
    extra = {"names": np.array(["a", "b", "c"]), "n": np.array(4), "image": np.zeros((2, 2, 2))}
    np.savez(tmp_path / "t.npz", X=x, y=x[:, 0], labels=np.array(["a"] * 4, dtype=object), **extra)
    table = open_table(tmp_path / "t.npz")
    assert table.columns == ("X_1", "X_2", "X_3", "y", "labels", "names", "image")
    assert np.array_equal(table.values(["y", "X_3"]), x[:, [0, 2]])
    with pytest.raises(TableError, match=r"2 columns hold .*'labels' \(holds Python objects") as caught:
        table.values(["X_1", "labels", "image"])
    assert caught.value.columns == ("labels", "image")
    np.savez(tmp_path / "u.npz", X=x, z=np.zeros(3))
    with pytest.raises(TableError, match="X 4, z 3"):
        read_all(tmp_path / "u.npz")


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["<f8", ">f8", "<f4", "<i2", ">u4", "?"])
def test_npz_of_every_layout(tmp_path, order, dtype):
    """Fortran order is Julia's, big-endian numbers come from old machines: the same numbers as NumPy's own view."""
    x = np.array(np.arange(6).reshape(3, 2), dtype=dtype, order=order)
    np.savez_compressed(tmp_path / "t.npz", x=x)
    assert np.array_equal(read_all(tmp_path / "t.npz"), x.astype(np.float64))


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_no_flipped_bit_of_an_npz_changes_a_number(tmp_path, save):
    """Every byte of a small file damaged in turn: an error in one line, or the numbers that were saved."""
    x = np.arange(5.0) + 0.5
    path = tmp_path / "t.npz"
    save(path, x=x)
    whole = path.read_bytes()
    refused = 0
    for k in range(len(whole)):
        path.write_bytes(whole[:k] + bytes([whole[k] ^ (1 << k % 8)]) + whole[k + 1 :])
        values, error = outcome(path)
        refused += error is not None
        assert error is not None or open_table(path).columns != ("x",) or np.array_equal(values[:, 0], x)
    assert refused > len(whole) // 4
    for k in range(0, len(whole), 7):
        path.write_bytes(whole[:k])
        with pytest.raises(TableError):
            read_all(path)


def test_an_npz_whose_header_asks_for_terabytes_is_refused_before_memory_is(tmp_path):
    import zipfile

    path = tmp_path / "t.npz"
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000,), }".ljust(117) + b"\n"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(8))
    with pytest.raises(TableError, match="its 8 bytes say otherwise"):
        open_table(path)


def test_a_damaged_parquet_file_ends_in_one_line(tmp_path):
    """A page, the footer and the end of the file damaged."""
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "t.parquet"
    parquet.write_table(pa.table({"x": np.random.default_rng(0).normal(size=500)}), path)
    whole = path.read_bytes()
    refused = 0
    for start in range(4, len(whole), 97):
        path.write_bytes(whole[:start] + bytes(64) + whole[start + 64 :])
        refused += outcome(path)[1] is not None
        path.write_bytes(whole[:start])
        with pytest.raises(TableError):
            read_all(path)
    assert refused > 0


def test_whole_numbers_that_float64_rounds_are_named(tmp_path):
    """2^53 + 1 is the least that merges with a neighbour; 2^53 and 2^60 are held exactly."""
    table_of = {"exact": [2**53, -(2**60), 0], "merged": [2**53 + 1, 1, 2]}
    np.savez(tmp_path / "t.npz", **{name: np.array(values) for name, values in table_of.items()})
    table = open_table(tmp_path / "t.npz")
    assert table.values(["exact"])[:, 0].tolist() == [2.0**53, -(2.0**60), 0.0]
    assert table.notes == []
    table.values(["exact", "merged"])
    assert len(table.notes) == 1
    assert re.search(r"rounded to float64 in 'merged':", table.notes[0])
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pa.table(table_of), tmp_path / "t.parquet")
    table = open_table(tmp_path / "t.parquet")
    table.values(["exact", "merged"])
    assert "'merged'" in table.notes[0]
    assert "'exact'" not in table.notes[0]
