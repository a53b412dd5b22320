"""Regression on a table: a two-layer network together with the scaling of its columns, saved and loaded as one.

A model is a directory with two files that any machine can read: ``model.json`` (columns, base, s) and ``model.pt``
(plain tensors, loaded with ``weights_only=True``, so that opening somebody's model never runs code). Checksums show
damage, and that the two belong together.
"""

from __future__ import annotations

import math
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hrta_ext.bases import get_base
from hrta_ext.files import DamagedFile, checksum_of, load_tensors, read_json, save_tensors, write_json
from hrta_ext.network.module import TwoLayerNet
from hrta_ext.tables.scaling import FloatArray, ModelError, Scaling
from hrta_ext.tables.table import drop_options, list_names

MODEL_FILES = ("model.json", "model.pt")
_FORMAT = "hrta_ext regression model"
_VERSION = 1
_SCALING = ("x_mean", "x_scale", "y_mean", "y_scale")
_TENSORS = ("weight", "output_weight", *_SCALING)
# Entries of the (rows, width) activation of one block of predictions: 64 MiB in float32, whatever the table's length.
_BLOCK_ENTRIES = 1 << 24


@dataclass(frozen=True)
class Regression:
    """A network that predicts one column of a table from others.

    Attributes:
        net: The network, in the scaled units.
        scaling: From the table's units to the network's.
        features: Names of the columns it reads, in the network's order.
        target: Name of the column it predicts.
    """

    net: TwoLayerNet
    scaling: Scaling
    features: tuple[str, ...]
    target: str

    def predict(self, x: FloatArray) -> FloatArray:
        """Predictions in the target's units.

        Args:
            x: Rows in the table's units, shape (n, d), columns in the order of ``features``.
        Returns:
            Shape (n,), float64.
        """
        rows = torch.from_numpy(np.ascontiguousarray(x, dtype=np.float64))
        weight = self.net.weight
        out = torch.empty(len(rows), dtype=torch.float64)
        ranks = 1 if self.net.ranks is None else self.net.ranks.size
        block = max(1, _BLOCK_ENTRIES * ranks // self.net.width)
        with torch.no_grad():
            for start in range(0, len(rows), block):
                scaled = self.scaling.scale_x(rows[start : start + block]).to(weight.device, weight.dtype)
                out[start : start + block] = self.net(scaled).double().cpu()
        return (self.scaling.y_mean + self.scaling.y_scale * out).numpy()

    def save(self, directory: str | Path) -> None:
        """Write ``model.json`` and ``model.pt`` into ``directory``, which must exist.

        Where ranks share the neurons all of them call, and rank 0 writes the same files, a share at a time.
        """
        directory = Path(directory)
        net = self.net
        if net.ranks is None:
            self._write(directory, net.weight.detach().cpu().clone(), net.output_weight.detach().cpu().clone())
            return
        with tempfile.TemporaryDirectory(dir=directory if net.ranks.rank == 0 else None) as scratch:
            weights = [_collected(net, weight, Path(scratch)) for weight in (net.weight, net.output_weight)]
            with net.ranks.together("hrta train"):
                if net.ranks.rank == 0:
                    self._write(directory, *weights)
            del weights  # before their file goes

    def _write(self, directory: Path, weight: Tensor, output_weight: Tensor) -> None:
        net = self.net
        tensors = {
            "weight": weight,
            "output_weight": output_weight,
            **{name: getattr(self.scaling, name) for name in _SCALING},
        }
        description = {
            "format": _FORMAT,
            "version": _VERSION,
            "features": list(self.features),
            "target": self.target,
            "base": net.base,
            "s": float(net.s),
            "width": net.width,
            "bias": net.bias,
            "tensors_crc32": checksum_of("", tensors),
        }
        save_tensors(directory / "model.pt", tensors)
        write_json(directory / "model.json", description, checksum=True)

    @classmethod
    def load(cls, directory: str | Path) -> Regression:
        """Read the model in ``directory``.

        Raises:
            ModelError: There is no model there, it is damaged, or its two files do not belong together.
        """
        directory = Path(directory)
        description = _read_description(directory / "model.json")
        width, inputs, bias = description["width"], len(description["features"]), description["bias"]
        tensors = _read_tensors(directory / "model.pt")
        expected = {
            "weight": (width, inputs + bias),
            "output_weight": (width,),
            "x_mean": (inputs,),
            "x_scale": (inputs,),
        }
        other = f"{directory}: model.pt is of another model than model.json"
        for name, shape in {**expected, "y_mean": (), "y_scale": ()}.items():
            if tuple(tensors[name].shape) != shape:
                raise ModelError(
                    f"{other}: {name} has shape {tuple(tensors[name].shape)} where {shape} was expected; train it again"
                )
        if description.get("tensors_crc32") not in (None, checksum_of("", tensors)):
            raise ModelError(f"{other}: its checksum is not the one noted there; train it again")
        try:
            net = TwoLayerNet(inputs, width, s=description["s"], base=description["base"], bias=bias, seed=0)
        except (TypeError, ValueError) as error:
            raise ModelError(f"{directory / 'model.json'}: {error}; train it again") from error
        net.to(tensors["weight"].dtype)
        with torch.no_grad():
            net.weight.copy_(tensors["weight"])
            net.output_weight.copy_(tensors["output_weight"])
        scaling = Scaling(*(tensors[name] for name in _SCALING))
        return cls(net, scaling, tuple(description["features"]), description["target"])


def _collected(net: TwoLayerNet, weight: Tensor, scratch: Path) -> Tensor:
    """On rank 0 the rows of all ranks, in a file that is mapped, so that memory holds one share; elsewhere nothing."""
    ranks = net.ranks
    assert ranks is not None
    shape = (net.width, *weight.shape[1:])
    whole = torch.empty(0)
    with ranks.together("hrta train"):
        if ranks.rank == 0:
            file, count = scratch / f"{weight.dim()}", math.prod(shape)
            whole = torch.from_file(str(file), shared=True, size=count, dtype=weight.dtype).view(shape)
    for rank in range(ranks.size):
        first, count = ranks.share(net.width, rank)
        rows = weight.detach().cpu() if rank == ranks.rank else torch.empty((count, *shape[1:]), dtype=weight.dtype)
        ranks.broadcast(rows, rank)
        if ranks.rank == 0:
            whole[first : first + count] = rows
    return whole


def _read_description(path: Path) -> dict[str, Any]:
    """model.json, every entry of the kind it must be; entries that are unknown are left to those who know them."""
    if not path.is_file():
        raise ModelError(
            f"{path.parent}: there is no trained model here (no model.json); give the --out of `hrta train`"
        )
    try:
        description = read_json(path)
    except DamagedFile as error:
        raise ModelError(f"{path}: cannot be read, {error}; train it again") from error
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}") from error
    if description.get("format") != _FORMAT:
        raise ModelError(f"{path}: is not a model that `hrta train` wrote")
    version = description.get("version")
    if type(version) is int and version > _VERSION:
        raise ModelError(f"{path}: has format version {version}, this hrta_ext reads {_VERSION}; upgrade hrta_ext")
    features, base, s, width = (description.get(name) for name in ("features", "base", "s", "width"))
    checks = {
        "version": type(version) is int and version == _VERSION,
        "features": isinstance(features, list) and _are_names(features),
        "target": isinstance(description.get("target"), str),
        "base": isinstance(base, str) and len(base) < 100,
        "s": isinstance(s, (int, float)) and not isinstance(s, bool) and abs(s) <= torch.finfo(torch.float32).max,
        "width": type(width) is int and width >= 1,
        "bias": isinstance(description.get("bias"), bool),
        "tensors_crc32": isinstance(description.get("tensors_crc32", ""), str),
    }
    for name, fits in checks.items():
        if not fits:
            what = f"{str(description[name])[:40]!r}" if name in description else "nothing"
            raise ModelError(f"{path}: is damaged: {name} cannot be {what}; train it again")
    try:
        get_base(str(base))
    except ValueError as error:
        raise ModelError(f"{path}: {error}") from error
    return description


def _are_names(features: list[object]) -> bool:
    return len(features) > 0 and all(isinstance(name, str) for name in features) and len({*features}) == len(features)


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        content = load_tensors(path)
    except FileNotFoundError:
        raise ModelError(f"{path}: no such file; the model is incomplete, train it again") from None
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}") from error
    except DamagedFile as error:
        raise ModelError(
            f"{path}: is damaged or not a model that `hrta train` wrote ({error}); train it again"
        ) from error
    if not isinstance(content, dict) or any(not isinstance(content.get(name), Tensor) for name in _TENSORS):
        raise ModelError(f"{path}: is not a model that `hrta train` wrote")
    for name in _TENSORS:
        tensor = content[name]
        right = tensor.layout is torch.strided and tensor.device.type == "cpu" and tensor.is_floating_point()
        if not right or (name in _SCALING and tensor.dtype is not torch.float64):
            raise ModelError(f"{path}: is damaged: {name} cannot be {tensor.dtype}, {tensor.layout}; train it again")
        if not bool(tensor.isfinite().all()) or (name.endswith("_scale") and not bool((tensor > 0).all())):
            raise ModelError(f"{path}: is damaged: {name} holds numbers that cannot be; train it again")
    return {name: content[name] for name in _TENSORS}


def check_columns(x: FloatArray, y: FloatArray, features: tuple[str, ...], target: str) -> None:
    """Refuse a table that nothing can be learnt from.

    Args:
        x: Shape (n, d).
        y: Shape (n,).
    Raises:
        ModelError: The target or a feature is constant.
    """
    if np.ptp(y) == 0.0:
        raise ModelError(f"the target {target!r} is constant ({y[0]:g} in every row): there is nothing to learn")
    constant = [name for name, spread in zip(features, np.ptp(x, axis=0), strict=True) if spread == 0.0]
    if constant:
        what = "column {} is" if len(constant) == 1 else "columns {} are"
        names = list_names(list(map(repr, constant)), 8)
        raise ModelError(
            f"{what.format(names)} constant and cannot be standardised; leave out with {drop_options(constant)}"
        )
