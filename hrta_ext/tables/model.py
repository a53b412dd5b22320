"""Regression on a table: a two-layer network together with the scaling of its columns, saved and loaded as one.

A model is a directory with two files that any machine can read: ``model.json`` (columns, base, s) and ``model.pt``
(plain tensors, loaded with ``weights_only=True``, so that opening somebody's model never runs code).
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hrta_ext.files import replaced, write_json
from hrta_ext.network.module import TwoLayerNet

FloatArray = NDArray[np.float64]

MODEL_FILES = ("model.json", "model.pt")
_FORMAT = "hrta_ext regression model"
_VERSION = 1
_TENSORS = ("weight", "output_weight", "x_mean", "x_scale", "y_mean", "y_scale")
# Entries of the (rows, width) activation of one block of predictions: 64 MiB in float32, whatever the table's length.
_BLOCK_ENTRIES = 1 << 24


class ModelError(ValueError):
    """What is wrong with a saved model or with the columns it is to learn from, in one line."""


@dataclass(frozen=True)
class Scaling:
    """Affine maps between a table's units and the network's.

    Features become (x - x_mean) / x_scale with x_scale = standard deviation * sqrt(d): every feature counts alike and a
    sample has mean square norm 1 for every number d of features, so that the network's random start is of the size of
    the standardised target (y - y_mean) / y_scale and does not drown it.

    Attributes:
        x_mean, x_scale: Shape (d,), float64.
        y_mean, y_scale: 0-dim, float64.
    """

    x_mean: Tensor
    x_scale: Tensor
    y_mean: Tensor
    y_scale: Tensor

    @classmethod
    def of(cls, x: Tensor, y: Tensor) -> Scaling:
        """The scaling that the rows x (n, d), y (n,) define; a column that is constant in them is only centred."""
        x_std, y_std = x.std(0, correction=0), y.std(correction=0)
        one = torch.ones((), dtype=x.dtype)
        x_std = torch.where(x.amax(0) > x.amin(0), x_std, one)
        y_std = torch.where(y.amax() > y.amin(), y_std, one)
        scaling = cls(x.mean(0), x_std * math.sqrt(x.shape[1]), y.mean(), y_std)
        if not all(
            bool(t.isfinite().all()) for t in (scaling.x_mean, scaling.x_scale, scaling.y_mean, scaling.y_scale)
        ):
            raise ModelError("the numbers of the table are too large: their variance overflows float64; rescale them")
        return scaling

    def scale_x(self, x: Tensor) -> Tensor:
        """Features (n, d) in the network's units."""
        return (x - self.x_mean) / self.x_scale

    def scale_y(self, y: Tensor) -> Tensor:
        """Targets (n,) in the network's units."""
        return (y - self.y_mean) / self.y_scale


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
        drop = " ".join(f"--drop {name!r}" if " " in name else f"--drop {name}" for name in constant[:8])
        what = "column {} is" if len(constant) == 1 else "columns {} are"
        names = ", ".join(map(repr, constant[:8])) + (f" and {len(constant) - 8} more" if len(constant) > 8 else "")
        raise ModelError(f"{what.format(names)} constant and cannot be standardised; leave out with {drop}")


def split_rows(n_rows: int, fraction: float, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Row numbers for training and for validation, both sorted; ``fraction`` of the rows, at least 1, validate."""
    order = np.random.default_rng(seed).permutation(n_rows)
    n_validation = max(1, round(n_rows * fraction))
    return np.sort(order[n_validation:]), np.sort(order[:n_validation])


@dataclass(frozen=True)
class Score:
    """Root mean square error in the target's units, and R^2 = 1 - MSE / variance of these rows (NaN if that is 0)."""

    rmse: float
    r2: float

    @classmethod
    def of(cls, y: FloatArray, prediction: FloatArray) -> Score:
        """Score of ``prediction`` for ``y``, both of shape (n,)."""
        mse = float(np.mean((y - prediction) ** 2))
        variance = float(np.var(y))
        return cls(math.sqrt(mse), 1.0 - mse / variance if variance > 0.0 else math.nan)


def linear_least_squares(x: FloatArray, y: FloatArray, scaling: Scaling, rows: FloatArray) -> FloatArray:
    """Predictions at ``rows`` (k, d) of the linear model, intercept included, fitted to x (n, d), y (n,)."""

    def design(values: FloatArray) -> FloatArray:
        scaled = scaling.scale_x(torch.from_numpy(np.ascontiguousarray(values))).numpy()
        return np.concatenate([scaled, np.ones((len(values), 1))], axis=1)

    coefficients = np.linalg.lstsq(design(x), y, rcond=None)[0]
    return np.asarray(design(rows) @ coefficients, dtype=np.float64)
