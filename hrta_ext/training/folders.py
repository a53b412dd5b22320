"""Checkpoints of a network whose neurons are divided among ranks: a folder that every rank writes its part of.

What has a row for each neuron (weights, their moments) goes through torch.distributed.checkpoint, all else into a file
``run.pt``, both in a new folder beside the path of the checkpoint. Once all is on the disk the file at that path is
replaced by one that names the folder: a crash at any moment leaves the last one whole. Folders are read on any number
of ranks, and by a process without a group.
"""

from __future__ import annotations

import json
import os
import pickle
import re
import secrets
import shutil
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from hrta_ext.files import DamagedFile, load_tensors, read_json, save_tensors, write_json
from hrta_ext.groups import RankError, Ranks, words
from hrta_ext.network.module import TwoLayerNet
from hrta_ext.network.rows import as_sharded, local_rows

_KIND = "hrta_ext checkpoint folder"
_RUN = "run.pt"
_ROWS = "rows of neurons"  # marks, in run.pt, what lies beside it
_AT_ONCE = 1 << 24  # bytes

# All that the pickle of torch.distributed.checkpoint's .metadata may name: descriptions of tensors, no code.
_DESCRIPTIONS = {
    "torch.distributed.checkpoint.metadata": {
        "BytesStorageMetadata",
        "ChunkStorageMetadata",
        "Metadata",
        "MetadataIndex",
        "StorageMeta",
        "TensorProperties",
        "TensorStorageMetadata",
        "_MEM_FORMAT_ENCODING",
    },
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo"},
    "torch.serialization": {"_get_layout"},
    "torch": {"Size", "float16", "bfloat16", "float32", "float64"},
    "pathlib": {"PosixPath", "WindowsPath"},
    "pathlib._local": {"PosixPath", "WindowsPath"},
}


def is_pointer(path: Path) -> bool:
    """Whether a file names a folder instead of being the checkpoint."""
    with path.open("rb") as stream:
        return stream.read(1) == b"{"


# --- rows -------------------------------------------------------------------------------------------------------------


def _places(content: dict[str, Any], optimizer: Optimizer, net: TwoLayerNet) -> Iterator[tuple[Any, Any, str, Any]]:
    """What has a row per neuron: its container in ``content``, its key there, a name, and the shape of a row."""
    model, homotopy = content["model"], content["homotopy"]
    for name in ("weight", "output_weight"):
        yield model, name, f"model.{name}", getattr(net, name).shape[1:]
    trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for number, parameter in enumerate(trained):
        if parameter is net.weight or parameter is net.output_weight:
            state = content["optimizer"]["state"].get(number, {})
            for name, value in state.items():
                of_neurons = isinstance(value, Tensor) and value.dim() > 0 and value.shape[1:] == parameter.shape[1:]
                if of_neurons or _is_mark(value):
                    yield state, name, f"optimizer.{number}.{name}", parameter.shape[1:]
    if homotopy.get("rest") is not None:
        yield homotopy["rest"], 0, "homotopy.rest", torch.Size(())


def _is_mark(value: object) -> bool:
    return isinstance(value, tuple) and len(value) == 3 and value[0] == _ROWS


def _copied(content: dict[str, Any]) -> dict[str, Any]:
    """The same tensors in containers of its own, as far as :func:`_places` reaches."""
    optimizer = content["optimizer"]
    homotopy = dict(content["homotopy"])
    if homotopy.get("rest") is not None:
        homotopy["rest"] = list(homotopy["rest"])
    states = {number: dict(state) for number, state in optimizer["state"].items()}
    return {
        **content,
        "model": dict(content["model"]),
        "optimizer": {**optimizer, "state": states},
        "homotopy": homotopy,
    }


def rows_of_rank(content: dict[str, Any], optimizer: Optimizer, net: TwoLayerNet) -> dict[str, Any]:
    """What a single process saved, with the rows of this rank in place of those of all neurons."""
    assert net.ranks is not None
    content = _copied(content)
    for container, key, name, row in _places(content, optimizer, net):
        if name.startswith("model."):
            continue  # the network takes its rows itself
        container[key] = local_rows(net.ranks, container[key], (net.width, *row)).clone()
    return content


# --- writing ----------------------------------------------------------------------------------------------------------


def check_common(path: Path, ranks: Ranks) -> None:
    """ValueError on every rank where one of them does not see what rank 0 writes beside ``path``."""
    token = path.parent / ranks.texts(f".hrta_ext-{secrets.token_hex(8)}.shared")[0]
    try:
        with ranks.together("fit"):
            if ranks.rank == 0:
                token.touch()
        with ranks.together("fit"):
            if not token.exists():
                raise ValueError(
                    f"fit: checkpoint {path} must be on a file system of all ranks: rank {ranks.rank} does not see "
                    "what rank 0 writes there"
                )
    finally:
        if ranks.rank == 0:
            token.unlink(missing_ok=True)


def save_folder(path: Path, content: dict[str, Any], optimizer: Optimizer, net: TwoLayerNet) -> None:
    """Write a checkpoint by all ranks; each holds the replicated part of ``content``, and rank 0 writes it."""
    from torch.distributed.checkpoint import CheckpointException, FileSystemWriter, save

    ranks = net.ranks
    assert ranks is not None
    content = _copied(content)
    rows: dict[str, Tensor] = {}
    for container, key, name, row in _places(content, optimizer, net):
        value = container[key]
        rows[name] = value if name.startswith("model.") else as_sharded(ranks, value.contiguous(), net.width)
        container[key] = (_ROWS, [net.width, *row], str(value.dtype).removeprefix("torch."))
    name = ranks.texts(f"{path.name}.{content['step']}-{secrets.token_hex(4)}")[0]
    folder = path.parent / name
    try:
        save(rows, storage_writer=FileSystemWriter(folder, sync_files=True), process_group=ranks.group)
    except CheckpointException as error:  # no Exception, and on all ranks
        if ranks.rank == 0:
            shutil.rmtree(folder, ignore_errors=True)
        failed = {rank: failure for rank, (failure, _) in error.failures.items()}
        if ranks.rank in failed:
            raise failed[ranks.rank] from error
        rank = min(failed)
        raise RankError(f"fit: rank {rank} stopped with {words(failed[rank])}") from error
    written: dict[str, int] = {}
    with ranks.together("fit"):
        written = {file.name: _crc(file) for file in sorted(folder.glob(f"__{ranks.rank}_*.distcp"))}
    every = [json.loads(text) for text in ranks.texts(json.dumps(written))]
    with ranks.together("fit"):
        if ranks.rank == 0:
            save_tensors(folder / _RUN, content)
            files = {name: crc for of_rank in every for name, crc in of_rank.items()}
            files |= {name: _crc(folder / name) for name in (_RUN, ".metadata")}
            _sync(folder)
            _sync(path.parent)
            pointer = {"kind": _KIND, "version": 1, "folder": name, "step": content["step"], "files": files}
            write_json(path, pointer, checksum=True)
            remove_folders(path, besides=name)


def remove_folders(path: Path, besides: str | None = None) -> None:
    """Remove the folders of earlier checkpoints, and what killed runs left of theirs."""
    ours = re.compile(re.escape(path.name) + r"\.\d+-[0-9a-f]{8}")
    for entry in path.parent.iterdir():
        if ours.fullmatch(entry.name) and entry.name != besides and entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry, ignore_errors=True)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _crc(file: Path) -> int:
    crc = 0
    with file.open("rb") as stream:
        while block := stream.read(_AT_ONCE):
            crc = zlib.crc32(block, crc)
    return crc


# --- reading ----------------------------------------------------------------------------------------------------------


def load_folder(path: Path, ranks: Ranks | None) -> tuple[Any, Path]:
    """The content of the checkpoint that the file at ``path`` names, without rows, and its folder.

    No rank waits for another. Each checks the checksums of its part of the files.

    Raises:
        DamagedFile: Something is not what was written, or missing.
    """
    pointer = read_json(path)
    files, name = pointer.get("files"), pointer.get("folder")
    if pointer.get("kind") != _KIND or not isinstance(files, dict) or not isinstance(name, str) or "/" in name:
        raise DamagedFile("it is JSON of another kind")
    if pointer.get("version") != 1:
        raise DamagedFile("it is of a later version of hrta_ext")
    folder = path.parent / name
    mine = sorted(files) if ranks is None else sorted(files)[ranks.rank :: ranks.size]
    for file in dict.fromkeys((_RUN, ".metadata", *files)):
        if "/" in file or not (folder / file).is_file():
            raise DamagedFile(f"its part {name}/{file} is missing")
    for file in dict.fromkeys((_RUN, ".metadata", *mine)):
        if _crc(folder / file) != files.get(file):
            raise DamagedFile(f"the checksum of its part {name}/{file} does not fit")
    return load_tensors(folder / _RUN), folder


def read_rows(folder: Path, content: dict[str, Any], optimizer: Optimizer, net: TwoLayerNet) -> None:
    """Put into ``content`` what lies beside it: the rows of this rank, or all of them without a group."""
    from torch.distributed.checkpoint import CheckpointException, FileSystemReader, load

    class Reader(FileSystemReader):
        """Reads descriptions alone."""

        def read_metadata(self, *_: Any, **__: Any) -> Any:
            """Those of the tensors."""
            with (folder / ".metadata").open("rb") as stream:
                metadata = _Descriptions(stream).load()
            metadata.storage_meta = None
            return metadata

    ranks = net.ranks
    rows: dict[str, Tensor] = {}
    for container, key, name, _ in list(_places(content, optimizer, net)):
        if not _is_mark(container[key]):
            raise DamagedFile(f"its entry {name} is no longer what was written")
        _, shape, kind = container[key]
        dtype = getattr(torch, kind)
        if ranks is None:
            rows[name] = container[key] = torch.empty(shape, dtype=dtype)
        else:
            local = torch.empty((ranks.share(shape[0])[1], *shape[1:]), dtype=dtype)
            rows[name] = as_sharded(ranks, local, shape[0])
            container[key] = rows[name] if name.startswith("model.") else local
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # that there is one process: what no_dist says
            load(rows, storage_reader=Reader(folder), no_dist=True)
    except (Exception, CheckpointException) as error:  # the second is no Exception, and its words are a traceback
        found = (
            [failure for failure, _ in error.failures.values()] if isinstance(error, CheckpointException) else [error]
        )
        raise DamagedFile(f"torch.distributed.checkpoint cannot read {folder.name}: {words(found[0])}") from error


class _Descriptions(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if name not in _DESCRIPTIONS.get(module, ()):
            raise DamagedFile(f".metadata names {module}.{name}, which describes no tensor")
        return super().find_class(module, name)
