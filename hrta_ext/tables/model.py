"""Regression on a table: a two-layer network together with the scaling of its columns, saved and loaded as one.

A model is a directory with two files that any machine can read: ``model.json`` (columns, base, s) and ``model.pt``
(plain tensors, loaded with ``weights_only=True``, so that opening somebody's model never runs code).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hrta_ext.files import replaced, write_json
from hrta_ext.network.module import TwoLayerNet
from hrta_ext.tables.scaling import FloatArray, ModelError, Scaling
from hrta_ext.tables.table import drop_options, list_names

MODEL_FILES = ("model.json", "model.pt")
_FORMAT = "hrta_ext regression model"
_VERSION = 1
_TENSORS = ("weight", "output_weight", "x_mean", "x_scale", "y_mean", "y_scale")
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
        block = max(1, _BLOCK_ENTRIES // self.net.width)
        with torch.no_grad():
            for start in range(0, len(rows), block):
                scaled = self.scaling.scale_x(rows[start : start + block]).to(weight.device, weight.dtype)
                out[start : start + block] = self.net(scaled).double().cpu()
        return (self.scaling.y_mean + self.scaling.y_scale * out).numpy()

    def save(self, directory: str | Path) -> None:
        """Write ``model.json`` and ``model.pt`` into ``directory``, which must exist."""
        directory = Path(directory)
        net = self.net
        description = {
            "format": _FORMAT,
            "version": _VERSION,
            "features": list(self.features),
            "target": self.target,
            "base": net.base,
            "s": float(net.s),
            "width": net.width,
            "bias": net.bias,
        }
        tensors = {
            "weight": net.weight.detach().cpu().clone(),
            "output_weight": net.output_weight.detach().cpu().clone(),
            **{name: getattr(self.scaling, name) for name in ("x_mean", "x_scale", "y_mean", "y_scale")},
        }
        with replaced(directory / "model.pt") as temporary:
            torch.save(tensors, temporary)
        write_json(directory / "model.json", description)

    @classmethod
    def load(cls, directory: str | Path) -> Regression:
        """Read the model in ``directory``.

        Raises:
            ModelError: There is no model there, or its two files do not belong together.
        """
        directory = Path(directory)
        description = _read_description(directory)
        features, width, bias = description["features"], description["width"], description["bias"]
        tensors = _read_tensors(directory / "model.pt")
        inputs = len(features)
        expected = {
            "weight": (width, inputs + bias),
            "output_weight": (width,),
            "x_mean": (inputs,),
            "x_scale": (inputs,),
        }
        for name, shape in {**expected, "y_mean": (), "y_scale": ()}.items():
            if tuple(tensors[name].shape) != shape:
                raise ModelError(
                    f"{directory}: model.pt is of another model than model.json: {name} has shape "
                    f"{tuple(tensors[name].shape)} where {shape} was expected"
                )
        net = TwoLayerNet(inputs, width, s=description["s"], base=description["base"], bias=bias, seed=0)
        with torch.no_grad():
            net.weight.copy_(tensors["weight"])
            net.output_weight.copy_(tensors["output_weight"])
        scaling = Scaling(*(tensors[name] for name in ("x_mean", "x_scale", "y_mean", "y_scale")))
        return cls(net, scaling, tuple(features), description["target"])


def _read_description(directory: Path) -> dict[str, Any]:
    path = directory / "model.json"
    if not path.is_file():
        raise ModelError(f"{directory}: there is no trained model here (no model.json); give the --out of `hrta train`")
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise ModelError(f"{path}: cannot be read: {error}") from error
    if not isinstance(description, dict) or description.get("format") != _FORMAT:
        raise ModelError(f"{path}: is not a model that `hrta train` wrote")
    if description.get("version") != _VERSION:
        raise ModelError(
            f"{path}: has format version {description.get('version')}, this hrta_ext reads {_VERSION}; upgrade hrta_ext"
        )
    return description


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ModelError(f"{path}: no such file; the model is incomplete, train it again") from None
    except Exception as error:  # torch raises whatever its zip reader and unpickler happen to meet
        raise ModelError(f"{path}: is damaged or not a model that `hrta train` wrote") from error
    if not isinstance(content, dict) or any(not isinstance(content.get(name), Tensor) for name in _TENSORS):
        raise ModelError(f"{path}: is not a model that `hrta train` wrote")
    return content


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
