"""Files of a GramPath: NumPy's format and safetensors, and the checks of what is read."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hrta_ext.bases import get_base
from hrta_ext.files import checksum_of, replaced
from hrta_ext.inputs import WIDEST, check_draw
from hrta_ext.ntk.types import Drawn, GramSums, sum_shapes

if TYPE_CHECKING:
    from hrta_ext.ntk.path import GramPath


def save_path(gram_path: GramPath, path: str | os.PathLike[str]) -> None:
    """Write ``gram_path`` to ``path``, whose suffix names the format."""
    parts = {"x": gram_path.x, "x2": gram_path.x2, **gram_path.sums._asdict()}
    tensors = {name: value.cpu() for name, value in parts.items() if value is not None}
    dtype = str(gram_path.dtype).removeprefix("torch.")
    entries = {"base": gram_path.base, "dtype": dtype, "widths": list(gram_path.widths)}
    about = json.dumps(entries if gram_path.drawn is None else {**entries, "drawn": gram_path.drawn})
    _check_suffix(path, "GramPath.save")
    safetensors = _safetensors() if Path(path).suffix == ".safetensors" else None
    with replaced(path) as temporary, temporary.open("wb") as stream:
        if safetensors is None:
            import numpy as np

            np.savez(stream, about=np.array(about), **{k: v.numpy() for k, v in tensors.items()})
        else:  # through memory: its writer to files has a temporary file of its own, and other words for a full disk
            contiguous = {name: value.contiguous() for name, value in tensors.items()}
            metadata = {"about": about, "crc32": checksum_of(about, tensors)}
            stream.write(safetensors.torch.save(contiguous, metadata=metadata))


def load_path(
    path: str | os.PathLike[str],
) -> tuple[Tensor, str, torch.dtype, tuple[int, ...], GramSums, Tensor | None, tuple[Drawn, ...] | None]:
    """Read what :func:`save_path` wrote: the arguments of GramPath. NumPy's reader verifies the checksums of ``.npz``.

    Files of symmetric matrices have no ``x2``; those of 0.1.0, and of given weights, say nothing of drawn neurons.

    Raises:
        ValueError: The file is not a saved GramPath, or damaged.
        OSError: It cannot be read.
    """
    _check_suffix(path, "GramPath.load")
    with open(path, "rb") as stream:
        empty = not stream.read(1)
    try:
        if empty:
            raise ValueError("it is empty")
        if Path(path).suffix == ".npz":
            import numpy as np

            with np.load(path, allow_pickle=False) as file:
                about = json.loads(str(file["about"]))
                # Other writers may choose Fortran's order, or the other order of bytes.
                arrays = {name: file[name] for name in _names(file.files)}
                tensors = {
                    name: torch.from_numpy(array.astype(array.dtype.newbyteorder("="), order="C"))
                    for name, array in arrays.items()
                }
        else:
            with _safetensors().safe_open(str(path), "pt") as file:
                metadata = file.metadata()
                tensors = {name: file.get_tensor(name) for name in _names(file.keys())}
            about = json.loads(metadata["about"])
            if metadata.get("crc32") not in (None, checksum_of(metadata["about"], tensors)):
                raise ValueError("it is damaged: its checksum does not fit")
        sums = GramSums(*(tensors[name] for name in GramSums._fields))
        dtype = {"float32": torch.float32, "float64": torch.float64}[about["dtype"]]
        get_base(about["base"])
        x, x2, widths = tensors["x"], tensors.get("x2"), about["widths"]
        _check_loaded(x, x2, sums, widths)
        return x, about["base"], dtype, tuple(widths), sums, x2, _checked_draws(about.get("drawn"), sum(widths))
    except Exception as error:
        raise ValueError(
            f"GramPath.load: {os.fspath(path)} is not a saved GramPath ({error}); compute it anew"
        ) from error


def _names(present: Iterable[str]) -> list[str]:
    return ["x", *(["x2"] if "x2" in present else []), *GramSums._fields]


def _checked_draws(drawn: Any, width: int) -> tuple[Drawn, ...] | None:
    if drawn is None:
        return None
    draws = tuple(Drawn(*draw) for draw in drawn)
    for draw in draws:
        check_draw(*draw, "width", "drawn")
    if sum(draw.width for draw in draws) != width:
        raise ValueError("the drawn neurons must be as many as the widths say")
    return draws


def _check_loaded(x: Tensor, x2: Tensor | None, sums: GramSums, widths: list[int]) -> None:
    """Compiled code reads the sums by address, so shapes and types of a file are checked."""
    if not widths or any(not isinstance(width, int) or not 1 <= width <= WIDEST for width in widths):
        raise ValueError("widths must be from 1 to 2^48")
    leading = (len(widths), *sums.square_sum.shape[1:-1])
    if x2 is not None and (x2.dtype != torch.float64 or x2.dim() != 2 or x2.shape[1] != x.shape[1]):
        raise ValueError(f"x2 must be float64 (n2, {x.shape[1]}), got {x2.dtype} {tuple(x2.shape)}")
    for name, tensor, shape in zip(("x", *sums._fields), (x, *sums), (x.shape, *sum_shapes(x, x2)), strict=True):
        expected = tuple(shape) if name == "x" else (*leading, *shape)
        if tensor.dtype != torch.float64 or tuple(tensor.shape) != expected:
            raise ValueError(f"{name} must be float64 {expected}, got {tensor.dtype} {tuple(tensor.shape)}")


def _check_suffix(path: str | os.PathLike[str], function: str) -> None:
    if Path(path).suffix not in (".npz", ".safetensors"):
        raise ValueError(f"{function}: path must end in .npz or .safetensors, got {os.fspath(path)}")


def _safetensors() -> Any:
    try:
        import safetensors
        import safetensors.torch
    except ImportError as error:
        raise ValueError("GramPath: .safetensors files need the package safetensors; .npz files need none") from error
    return safetensors
