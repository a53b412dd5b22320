"""Checkpoints of ranks: resumed on as many ranks, on others, and by one process; whole or not at all."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from distributed.ranks import on_ranks, said

import hrta_ext as hx
from hrta_ext import groups

STEPS = 20
STOP = 9  # steps of the runs that are resumed
WIDTH = 4  # of three ranks the last one has none


def trained(
    group: Any, checkpoint: Any, stop: int | None = None, resume: bool = False, others: Any = (), **options: Any
) -> Any:
    """A run to which all in a checkpoint matters: Adam's moments, skip, roundings, shuffles of batches."""
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(11)
    x = torch.linspace(-1.0, 1.0, 10)[:, None]

    def callback(info: hx.StepInfo) -> None:
        if stop is not None and info.step + 1 == stop:
            raise StopIteration

    net = hx.TwoLayerNet(1, WIDTH, seed=3, draw="counter", group=group)
    options = {"s": hx.ramp(0.5, 1.5, 15), "steps": STEPS, "keep_function": True, "batch_size": 4, **options}
    files = {"checkpoint": checkpoint, "checkpoint_every": 4, "resume": resume} if checkpoint else {}
    result = hx.fit(net, x, torch.sin(3.0 * x[:, 0]), lr=1e-2, callbacks=[callback, *others], **files, **options)
    return result.loss.tolist(), net(x).tolist(), list(net.state_dict())


class Forgetful:
    """A callback that rank 1 cannot hand back what it kept."""

    every = 4

    def __call__(self, info: hx.StepInfo) -> None:
        pass

    def state_dict(self) -> dict[str, Any]:
        return {"seen": 1}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if dist.get_rank() == 1:
            raise KeyError("lost")


def two_ranks(folder: str) -> dict[str, Any]:
    path = Path(folder)
    whole = trained("world", path / "whole")
    trained("world", path / "half", stop=STOP)
    if dist.get_rank() == 0:
        for name in ("alone", "three", "damaged", "missing"):
            copy(path, "half", name)
        (next((path).glob("missing.9-*")) / "__1_0.distcp").unlink()
        part = next((path).glob("damaged.9-*")) / "__1_0.distcp"
        content = bytearray(part.read_bytes())
        content[len(content) // 2] ^= 1
        part.write_bytes(content)
    dist.barrier()
    answers = {
        "whole": whole,
        "resumed": trained("world", path / "half", resume=True),
        "lost": [said(trained, "world", path / "lost", stop, True, [Forgetful()]) for stop in (STOP, None)],
        "of one": trained("world", path / "one", resume=True),
        "exists": said(trained, "world", path / "half"),
        "other": said(trained, "world", path / "three", resume=True, optimizer="sgd"),
        "damaged": said(trained, "world", path / "damaged", resume=True),
        "missing": said(trained, "world", path / "missing", resume=True),
        "full": full_disk(path / "full"),
        "unshared": said(trained, "world", path / f"rank{dist.get_rank()}" / "half"),
        "fused": trained("world", path / "fused", stop=STOP, batch_size=None),
        "fused resumed": trained("world", path / "fused", resume=True, batch_size=None),
        "fused whole": trained("world", None, batch_size=None),
    }
    dist.barrier()
    return answers


def full_disk(path: Path) -> list[Any]:
    """What is said where rank 1 cannot write its second checkpoint; what lies there then, and goes on from there."""
    fsync, calls = os.fsync, []

    def no_room(file: Any) -> None:
        calls.append(file)
        if dist.get_rank() == 1 and len(calls) > 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(file)

    os.fsync = no_room
    try:
        refused = said(trained, "world", path)
    finally:
        os.fsync = fsync
    left = sorted(file.name.split("-")[0] for file in path.parent.glob(f"{path.name}*"))
    dist.barrier()
    return [refused, left, trained("world", path, resume=True)]


def three_ranks(path: str) -> Any:
    return trained("world", path, resume=True)


def copy(folder: Path, name: str, other: str) -> None:
    """The same checkpoint by another name: the file, and the folder that it names."""
    pointer = json.loads((folder / name).read_text())
    renamed = pointer["folder"].replace(name, other, 1)
    shutil.copytree(folder / pointer["folder"], folder / renamed)
    from hrta_ext.files import write_json

    pointer.pop("crc32")
    write_json(folder / other, {**pointer, "folder": renamed}, checksum=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ranks")


@pytest.fixture(scope="module")
def alone(folder: Path) -> Any:
    """One process: the whole run, and a checkpoint of a part of it."""
    before = torch.get_default_dtype()
    try:
        trained(None, folder / "one", stop=STOP)
        return trained(None, None)
    finally:
        torch.set_default_dtype(before)


@pytest.fixture(scope="module")
def answers(folder: Path, alone: Any) -> list[dict[str, Any]]:
    return on_ranks(2, two_ranks, str(folder))


@pytest.fixture
def in_float64() -> Any:
    before = torch.get_default_dtype()
    yield
    torch.set_default_dtype(before)


def assert_same(found: Any, expected: Any) -> None:
    for one, other in zip(found[:2], expected[:2], strict=True):
        torch.testing.assert_close(torch.tensor(one), torch.tensor(other), rtol=1e-9, atol=1e-9)
    assert found[2] == expected[2]


def test_resumed_on_as_many_ranks(answers: list[dict[str, Any]]):
    """The bits of a run that never stopped, on both engines."""
    for answer in answers:
        assert answer["resumed"] == answer["whole"] == answers[0]["whole"]
        assert answer["fused resumed"] == answer["fused whole"]


def test_resumed_on_other_ranks(folder: Path, alone: Any, answers: list[dict[str, Any]]):
    """Three ranks go on with what two have written, two with what one process has."""
    for found in (*on_ranks(3, three_ranks, str(folder / "three")), *(answer["of one"] for answer in answers)):
        assert_same(found, alone)
    for name in ("three", "one"):
        assert len(list(folder.glob(f"{name}.{STEPS}-*"))) == 1
        assert not list(folder.glob(f"{name}.{STOP}-*"))


def test_resumed_by_one_process(folder: Path, alone: Any, answers: list[dict[str, Any]], in_float64: None):
    """Without a process group; what it writes is one file, and the folder goes."""
    assert not dist.is_initialized()
    assert_same(trained(None, folder / "alone", resume=True), alone)
    assert (folder / "alone").read_bytes()[:2] == b"PK"
    assert not list(folder.glob("alone.*"))


def test_a_full_disk_leaves_the_last_checkpoint(answers: list[dict[str, Any]]):
    """One rank's: both end at the same step, by name, and the checkpoint of before goes on to the same bits."""
    words = "OSError: [Errno 28] No space left on device"
    for number, answer in enumerate(answers):
        refused, left, resumed = answer["full"]
        assert refused == (words if number == 1 else f"RankError: fit: rank 1 stopped with {words}")
        assert left == ["full", "full.4"]
        assert resumed == answer["whole"]


def test_refusals(folder: Path, answers: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch, in_float64: None):
    """A run that is there, another one, damage, a path that ranks do not share, a callback: on every rank, by name."""
    for answer in answers:
        assert answer["exists"].startswith("FileExistsError: ")
        assert "of another run (optimizer: adam became sgd)" in answer["other"]
        assert "checkpoint must be the same on every rank" in answer["unshared"]
        assert "__1_0.distcp does not fit" in answer["damaged"]
        assert "__1_0.distcp is missing" in answer["missing"]
    lost = ["RankError: fit: rank 1 stopped with KeyError: 'lost'", "KeyError: 'lost'"]
    assert [answer["lost"] for answer in answers] == [[None, found] for found in lost]
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(groups, "_warned", True)  # test_network.py has the warning
    copy(folder, "half", "again")
    with pytest.raises(ValueError, match='make it with group="world"'):
        trained(None, folder / "again", resume=True)
