"""Tables with types: NumPy's .npz and Parquet. Arrays and columns that nobody asks for are not read."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hrta_ext.tables.scaling import FloatArray
from hrta_ext.tables.table import Fault, Table, TableError, beyond_exact, list_names, named, refusal, rounding_note


@dataclass(frozen=True)
class _Array:
    """An array of an .npz file, not read: its name, and its shape and dtype as its header has them."""

    name: str
    member: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]


def open_npz(path: Path) -> Table:
    """The columns of an .npz file: one per one-dimensional array, ``name_1, name_2, ...`` for a two-dimensional one.

    A single number is no column. Arrays of more dimensions, of other lengths, or of Python objects, which are never
    unpickled, are refused when they are asked for.
    """
    try:
        arrays = _headers(path)
    except Exception as error:  # zipfile, zlib and NumPy each have their own
        raise TableError(f"{path}: is not a .npz file of plain arrays: {_first_line(error)}") from error
    columns: list[tuple[str, _Array, int]] = []
    for array in arrays:
        if len(array.shape) == 2:
            columns += [(f"{array.name}_{k + 1}", array, k) for k in range(array.shape[1])]
        elif array.shape:
            columns.append((array.name, array, 0))
    if not columns:
        raise TableError(f"{path}: the file holds no arrays of one or two dimensions")

    def read(positions: Sequence[int], notes: list[str], rows_like: int | None) -> FloatArray:
        chosen = [columns[p] for p in positions]
        rows = None if rows_like is None else columns[rows_like][1].shape[0]
        _check_arrays(path, {name: array for name, array, _ in chosen}, rows)
        contents = _contents(path, {array.member: array for _, array, _ in chosen})
        parts = [contents[a.member] if len(a.shape) == 1 else contents[a.member][:, k] for _, a, k in chosen]
        return _finite(path, parts, [name for name, _, _ in chosen], notes)

    names, unnamed = named([name for name, _, _ in columns])
    return Table(path, names, True, read, unnamed=unnamed)


def _headers(path: Path) -> list[_Array]:
    arrays = []
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            if not member.filename.endswith(".npy"):
                continue
            with archive.open(member) as stream:
                version = np.lib.format.read_magic(stream)
                header = (
                    np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                )
                shape, _, dtype = header(stream)
                size = member.file_size - stream.tell()
            name = member.filename[: -len(".npy")]
            # Before anything of that size is allocated.
            if not dtype.hasobject and math.prod(shape) * dtype.itemsize != size:
                raise ValueError(f"array {name!r} should have shape {shape}, its {size} bytes say otherwise")
            arrays.append(_Array(name, member.filename, shape, dtype))
    return arrays


def _check_arrays(path: Path, chosen: dict[str, _Array], rows: int | None) -> None:
    """Refuse what is no column of real numbers, all of it at once, and lengths other than ``rows`` or the largest."""
    faults = {}
    for name, array in chosen.items():
        if len(array.shape) > 2:
            what = f"has {len(array.shape)} dimensions; 1 (a column) or 2 (rows, columns)"
            faults[name] = Fault(what, noun="array")
        elif array.dtype.kind not in "fiub":
            kind = "Python objects" if array.dtype.hasobject else f"{array.dtype} values"
            faults[name] = Fault(f"holds {kind}, not real numbers")
    if faults:
        raise refusal(path, faults)
    lengths = {array.name: array.shape[0] for array in chosen.values()}
    if len(set(lengths.values())) > 1:
        pairs = list_names([f"{name} {length}" for name, length in lengths.items()])
        rows = max(lengths.values()) if rows is None else rows
        others = [name for name, array in chosen.items() if array.shape[0] != rows]
        raise TableError(f"{path}: the arrays differ in their number of rows: {pairs}", others)


def _contents(path: Path, arrays: dict[str, _Array]) -> dict[str, NDArray[Any]]:
    contents = {}
    name = ""
    try:
        with zipfile.ZipFile(path) as archive:
            for member, array in arrays.items():
                name = array.name
                with archive.open(member) as stream:
                    contents[member] = np.lib.format.read_array(stream, allow_pickle=False)
                    stream.read(1)  # to the member's end, where zipfile compares its checksum
    except Exception as error:
        raise TableError(f"{path}: array {name!r} is damaged: {_first_line(error)}") from error
    return contents


def open_parquet(path: Path) -> Table:
    """The columns of a Parquet file; integers, floats, decimals and booleans are numbers."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as parquet
    except ImportError:
        raise TableError(
            f"{path}: reading Parquet needs pyarrow; pip install pyarrow, or save the table as CSV"
        ) from None
    try:
        with path.open("rb") as stream:  # not by its name, which Arrow may take for an address
            schema = parquet.read_schema(stream)
    except Exception as error:  # Arrow's, and what its decoders meet in a damaged file
        raise TableError(f"{path}: is not a Parquet file: {_first_line(error)}") from error
    names = schema.names
    numeric = (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean, pa.types.is_decimal)

    def read(positions: Sequence[int], notes: list[str], _: int | None) -> FloatArray:
        chosen = [names[p] for p in positions]
        types = {name: schema.field(p).type for name, p in zip(chosen, positions, strict=True)}
        faults = {
            name: Fault(f"holds {kind} values, not real numbers")
            for name, kind in types.items()
            if not any(is_type(kind) for is_type in numeric)
        }
        if faults:
            raise refusal(path, faults)
        try:
            with path.open("rb") as stream:
                table = parquet.read_table(stream, columns=chosen)
            parts = [_as_numpy(pa, table.column(name)) for name in chosen]
        except Exception as error:
            raise TableError(f"{path}: is damaged: {_first_line(error)}") from error
        return _finite(path, parts, chosen, notes)

    columns, unnamed = named(names)
    return Table(path, columns, True, read, unnamed=unnamed)


def _as_numpy(pa: Any, column: Any) -> NDArray[Any]:
    """A column as numbers: whole ones where none is missing, so that those beyond 2^53 are noticed."""
    if pa.types.is_integer(column.type) and column.null_count == 0:
        return np.asarray(column.to_numpy())
    values = np.asarray(column.cast(pa.float64(), safe=False).to_numpy())
    if pa.types.is_decimal(column.type) and beyond_exact(values).any() and column.null_count == 0:
        exact = column.to_pylist()
        if all(value == int(value) for value in exact):
            return np.array([int(value) for value in exact], dtype=object)
    return values


def _finite(path: Path, parts: Sequence[NDArray[Any]], names: Sequence[str], notes: list[str]) -> FloatArray:
    """``parts`` as columns of float64; a TableError names all that hold NaN or infinity."""
    values = np.empty((len(parts[0]) if parts else 0, len(parts)))
    faults, rounded = {}, []
    for k, (part, name) in enumerate(zip(parts, names, strict=True)):
        values[:, k] = part
        bad = np.flatnonzero(~np.isfinite(values[:, k]))
        if len(bad):
            value = values[bad[0], k]
            what = f"'{value}' {'is a missing value' if np.isnan(value) else 'is not finite'}"
            faults[name] = Fault(what, f"row {bad[0] + 1}", cells=len(bad))
        elif part.dtype.kind in "iuO" and any(int(v) != int(float(v)) for v in part[beyond_exact(part)]):
            rounded.append(name)
    if faults:
        raise refusal(path, faults)
    if rounded:
        notes.append(rounding_note(rounded))
    return values


def _first_line(error: BaseException) -> str:
    lines = str(error).splitlines()
    return lines[0] if lines else type(error).__name__
