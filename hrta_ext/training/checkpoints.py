"""Checkpoints of a training run: one file, replaced as a whole, that only the run which wrote it may continue.

Where the neurons are divided among ranks, the file names a folder (folders.py).

A checkpoint is ``torch.save`` of tensors and plain Python containers, so that ``torch.load(weights_only=True)`` reads
it and no code in it is ever executed.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from hrta_ext.activation.modules import homotopy_layers
from hrta_ext.files import DamagedFile, destination, load_tensors, replaces, save_tensors
from hrta_ext.groups import together
from hrta_ext.network.module import TwoLayerNet
from hrta_ext.training.data import Samples
from hrta_ext.training.folders import is_pointer, load_folder, read_rows, remove_folders, rows_of_rank, save_folder
from hrta_ext.training.run import Run

_FORMAT = 1
_DATA = frozenset(field.name for field in fields(Samples))
_KEYS = frozenset(
    {"format", "fingerprint", "step", "loss", "seconds", "model", "optimizer", "homotopy", "rng", "shuffle"}
)
# How an update is computed, not what it computes: a run may continue on a machine where these differ.
_IMPLEMENTATION_FLAGS = frozenset({"params", "fused", "foreach", "capturable"})


def prepare_checkpoint(path: str | os.PathLike[str], *, resume: bool) -> Path:
    """Find out before any work whether a checkpoint can be written at ``path``; creates its folder.

    Returns:
        The file itself, absolute and with links resolved: the working directory may change while the run goes on.

    Raises:
        FileExistsError: There is a file already and ``resume`` is False. Nothing is ever overwritten unasked.
        IsADirectoryError, NotADirectoryError, PermissionError: Nothing can be written there.
        ValueError: What is there is no file that could be read back, but a device or a FIFO.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"fit: checkpoint must be a path or None, got {type(path).__name__}")
    try:
        target = destination(path)
    except IsADirectoryError:
        raise IsADirectoryError(f"fit: checkpoint must name a file, {os.fspath(path)} is a folder") from None
    except OSError as error:
        raise type(error)(f"fit: checkpoint {os.fspath(path)} cannot be written: {error.strerror}") from None
    if target.exists() and not replaces(target):
        raise ValueError(f"fit: checkpoint must name a file that can be read back, {os.fspath(path)} is a device")
    if target.exists() and not resume:
        raise FileExistsError(
            f"fit: checkpoint {target} exists already; pass resume=True to continue that run, or remove the file"
        )
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise NotADirectoryError(f"fit: checkpoint {target} has a file where its folder should be") from None
    if not os.access(target.parent, os.W_OK):
        raise PermissionError(f"fit: checkpoint {target} cannot be written, no permission in {target.parent}")
    return target


def fingerprint(
    net: nn.Module, optimizer: Optimizer, hashes: Mapping[str, Any], settings: Mapping[str, Any]
) -> dict[str, Any]:
    """What makes two runs the same run: the kind of model, the data, the optimizer and the settings. Not the weights.

    Args:
        net: Its modules, the base of every homotopy layer, and name, shape and dtype of every entry of its state.
        optimizer: Its class and hyperparameters, freshly built.
        hashes: Of each tensor of data that is there, so that older checkpoints without sample weights stay valid.
        settings: Further plain values, compared one by one.
    """
    hyperparameters = [
        sorted((key, repr(value)) for key, value in group.items() if key not in _IMPLEMENTATION_FLAGS)
        for group in optimizer.param_groups
    ]
    state = net.state_dict()
    if "skip" in net._buffers and isinstance(net, TwoLayerNet):
        state.pop("skip", None)  # comes with the first change of s that keeps the function
    return {
        **settings,
        "modules": [type(module).__name__ for module in net.modules()],
        "bases": [layer.base for layer in homotopy_layers(net)],
        "parameters": [
            f"{name} {tuple(value.shape)} {value.dtype}" for name, value in state.items() if isinstance(value, Tensor)
        ],
        "optimizer class": type(optimizer).__name__,
        "optimizer hyperparameters": [[f"{key}={value}" for key, value in group] for group in hyperparameters],
        **hashes,
    }


def load_checkpoint(path: Path, expected: Mapping[str, Any], net: nn.Module, optimizer: Optimizer) -> dict[str, Any]:
    """Read a checkpoint, onto the CPU, whose checksums hold and that carries the fingerprint ``expected``.

    Of a network whose neurons are divided among ranks it holds the rows of this rank, whoever wrote it; no rank waits
    for another.

    Raises:
        ValueError: The file is damaged, no checkpoint of this version of ``fit``, or of another run. It is left as it
            is.
    """
    ranks, folder = net.ranks if isinstance(net, TwoLayerNet) else None, None
    try:
        if is_pointer(path):
            if ranks is None and os.environ.get("WORLD_SIZE", "1") != "1":
                raise ValueError(
                    f"fit: checkpoint {path} is of ranks that share the neurons, and net has no group, though there "
                    'are several processes; make it with group="world"'
                )
            content, folder = load_folder(path, ranks)
        else:
            content = load_tensors(path, mmap=ranks is not None)
    except DamagedFile as error:
        raise _unreadable(path, error) from error
    if not _is_checkpoint(content):
        raise ValueError(f"fit: {path} is not a checkpoint of this version of fit; remove it or use another path")
    found = content["fingerprint"]
    differing = [key for key in (*expected, *found) if expected.get(key) != found.get(key)]
    if differing:
        difference = _difference(differing[0], found, expected)
        raise ValueError(
            f"fit: checkpoint {path} is of another run ({difference}); it was left as it is. "
            "Use another path, or the model, data and settings that it was made with"
        )
    if folder is not None:
        assert isinstance(net, TwoLayerNet)  # as that of the fingerprint
        try:
            read_rows(folder, content, optimizer, net)
        except DamagedFile as error:
            raise _unreadable(path, error) from error
    elif ranks is not None:
        assert isinstance(net, TwoLayerNet)
        content = rows_of_rank(content, optimizer, net)
    return content


def _unreadable(path: Path, error: DamagedFile) -> ValueError:
    return ValueError(f"fit: {path} is not a checkpoint that can be read; remove it or use another path ({error})")


def remove_checkpoint(path: Path) -> None:
    """Remove a checkpoint, and its folder where ranks have written it."""
    path.unlink(missing_ok=True)
    remove_folders(path)


def _is_checkpoint(content: object) -> bool:
    return (
        isinstance(content, dict)
        and set(content) - {"callbacks"} == _KEYS
        and type(content["format"]) is int
        and content["format"] == _FORMAT
        and isinstance(content["fingerprint"], dict)
        and type(content["step"]) is int
        and isinstance(content["loss"], Tensor)
        and content["loss"].shape == (content["step"],)
        and isinstance(content["seconds"], float)
        and isinstance(content.get("callbacks", {}), dict)
    )


def _difference(key: str, found: Mapping[str, Any], expected: Mapping[str, Any]) -> str:
    """One difference, short enough for one line."""
    old, new = found.get(key), expected.get(key)
    if key in _DATA:
        if old is None or new is None:
            return f"{key} was given" if new is None else f"{key} was not given"
        return f"{key} holds other numbers"
    while isinstance(old, list) and isinstance(new, list):
        if len(old) != len(new):
            return f"{key}: {len(old)} entries became {len(new)}"
        old, new = next(pair for pair in zip(old, new, strict=True) if pair[0] != pair[1])
    return f"{key}: {old} became {new}"


@dataclass(frozen=True)
class Keeper:
    """Writes the checkpoints of one run, and what its callbacks want to keep."""

    path: Path
    every: int
    mark: dict[str, Any]
    callbacks: Sequence[object] = ()

    def __post_init__(self) -> None:
        for name, callback in self._stateful().items():
            if not _is_plain(callback.state_dict()):
                raise TypeError(
                    f"fit: state_dict() of callback {name} must hold tensors and plain values alone, for the checkpoint"
                )

    def save(self, run: Run) -> None:
        """Replace the file by the present state of ``run``; a crash at any moment leaves the old one or the new one."""
        with together(run.ranks, "fit"):
            states = {name: callback.state_dict() for name, callback in self._stateful().items()}
            content = {"format": _FORMAT, "fingerprint": self.mark, **run.state()}
            content |= {"callbacks": states} if states else {}
        if run.ranks is not None:
            assert isinstance(run.net, TwoLayerNet)
            save_folder(self.path, content, run.optimizer, run.net)
            return
        pointed = self.path.exists() and is_pointer(self.path)
        save_tensors(self.path, content)
        if pointed:
            remove_folders(self.path)

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Hand the callbacks what a checkpoint kept for them; older ones kept nothing."""
        states = saved.get("callbacks", {})
        for name, callback in self._stateful().items():
            if name in states:
                callback.load_state_dict(states[name])

    def _stateful(self) -> dict[str, Any]:
        """Callbacks with ``state_dict`` and ``load_state_dict``, named by their class and place."""
        return {
            f"{k} {type(callback).__qualname__}": callback
            for k, callback in enumerate(self.callbacks)
            if hasattr(callback, "state_dict") and hasattr(callback, "load_state_dict")
        }


def _is_plain(value: object) -> bool:
    """What ``torch.load(weights_only=True)`` reads."""
    if isinstance(value, dict) and type(value) in (dict, OrderedDict):
        return all(map(_is_plain, value)) and all(map(_is_plain, value.values()))
    if isinstance(value, (list, tuple)) and type(value) in (list, tuple):
        return all(map(_is_plain, value))
    return value is None or type(value) in (bool, int, float, complex, str, Tensor, nn.Parameter)
