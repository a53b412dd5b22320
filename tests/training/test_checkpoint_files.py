"""Checkpoints: where their file is, what damage to it says, and what callbacks keep in it."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from hrta_ext.network.module import TwoLayerNet
from hrta_ext.training.fit import fit
from hrta_ext.training.results import FitResult, StepInfo

X = torch.linspace(0.0, 1.0, 13)[:, None]
STAGES: dict[str, Any] = {"s": (0.5, 1.0), "steps": (7, 9), "lr": 1e-2, "checkpoint_every": 4}


def train(path: str | Path, *, resume: bool = False, callbacks: tuple[Any, ...] = (), seed: int = 0) -> FitResult:
    net = TwoLayerNet(1, 6, seed=seed)
    return fit(net, X, X[:, 0], **STAGES, checkpoint=path, resume=resume, callbacks=callbacks)


def stop_after(step: int) -> Any:
    def stop(info: StepInfo) -> None:
        if info.step + 1 == step:
            raise StopIteration

    return stop


class Watch:
    """A callback that has something to remember."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, float]] = []
        self.sum = torch.zeros(())

    def __call__(self, info: StepInfo) -> None:
        self.seen.append((info.step, info.loss))
        self.sum += info.loss_tensor

    def state_dict(self) -> dict[str, Any]:
        return {"seen": self.seen, "sum": self.sum}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.seen, self.sum = list(state["seen"]), state["sum"].clone()


def test_a_callback_goes_on_with_what_it_had_seen_at_the_checkpoint(tmp_path: Path) -> None:
    whole, first, rest = Watch(), Watch(), Watch()
    train(tmp_path / "whole.pt", callbacks=(whole,))
    train(tmp_path / "run.pt", callbacks=(first, stop_after(10)))
    train(tmp_path / "run.pt", callbacks=(rest,), resume=True, seed=1)
    assert rest.seen == whole.seen
    assert len(rest.seen) == 16
    assert torch.equal(rest.sum, whole.sum)
    other = Watch()  # in another place: not taken for the one that was kept
    train(tmp_path / "run.pt", callbacks=(stop_after(0), other), resume=True)
    assert other.seen == []


def test_a_callback_that_keeps_more_than_plain_values_is_refused_before_training(tmp_path: Path) -> None:
    for state in ({"a": object()}, {"a": [{1: Path("x")}]}, {"a": torch.float32}):
        watch = Watch()
        watch.state_dict = lambda state=state: state  # type: ignore[method-assign]
        with pytest.raises(TypeError, match=r"^fit: state_dict\(\) of callback 0 Watch must hold tensors and plain"):
            train(tmp_path / "run.pt", callbacks=(watch,))
        assert watch.seen == []
    assert list(tmp_path.iterdir()) == []


def test_a_relative_path_is_that_of_the_start(tmp_path: Path, monkeypatch) -> None:
    """Callbacks, notebooks and frameworks change the working directory while a run goes on."""
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path)

    def move(info: StepInfo) -> None:
        if info.step == 5:
            os.chdir("other")

    train("folder/run.pt", callbacks=(move,))
    assert torch.load(tmp_path / "folder" / "run.pt", weights_only=True)["step"] == 16
    assert list((tmp_path / "other").iterdir()) == []
    monkeypatch.chdir(tmp_path)
    assert train("folder/run.pt", resume=True, seed=1).loss.shape == (16,)


def test_a_link_to_a_checkpoint_stays_one(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "run.pt").symlink_to(Path("disk", "run 1.pt"))
    train(tmp_path / "run.pt", callbacks=(stop_after(10),))
    assert train(tmp_path / "run.pt", resume=True, seed=1).loss.shape == (16,)
    assert [path.name for path in (tmp_path / "disk").iterdir()] == ["run 1.pt"]
    assert (tmp_path / "run.pt").is_symlink()


def test_what_cannot_be_read_back_is_refused_before_training(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.pt")
    (tmp_path / "circle.pt").symlink_to("circle.pt")
    for resume in (False, True):
        with pytest.raises(ValueError, match=r"fit: checkpoint must name a file that can be read back, .* is a device"):
            train(tmp_path / "pipe.pt", resume=resume)
        with pytest.raises(OSError, match=r"^fit: checkpoint .*circle.pt cannot be written: Too many levels of"):
            train(tmp_path / "circle.pt", resume=resume)


def test_a_damaged_checkpoint_is_refused_in_one_line_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "run.pt"
    train(path)
    whole = path.read_bytes()
    place = whole.index(torch.load(path, weights_only=True)["loss"].numpy().tobytes())
    draw = random.Random(0)
    for cut, reason in (
        (0, "it is empty"),
        (len(whole) // 2, "it is cut off or damaged"),
        (None, "its part '.*' does"),
    ):
        content = bytearray(whole[:cut])
        if cut is None:
            content[place + draw.randrange(100)] ^= 1 << draw.randrange(8)
        path.write_bytes(content)
        with pytest.raises(
            ValueError, match=rf"^fit: .*run.pt is not a checkpoint that can be read; remove .*\(.*{reason}"
        ):
            train(path, resume=True)
        assert path.read_bytes() == content


@pytest.mark.parametrize(
    "change",
    [{"step": 16.0}, {"step": True}, {"loss": [0.0]}, {"loss": torch.ones(3)}, {"seconds": "1"}, {"callbacks": []}]
    + [{"fingerprint": "x"}, {"format": torch.ones(2)}, {"format": 2}, {"more": 1}],
)
def test_entries_of_other_kinds_are_refused(change: dict[str, Any], tmp_path: Path) -> None:
    train(tmp_path / "run.pt")
    torch.save({**torch.load(tmp_path / "run.pt", weights_only=True), **change}, tmp_path / "run.pt")
    with pytest.raises(ValueError, match=r"^fit: .*run.pt is not a checkpoint of this version of fit; remove it"):
        train(tmp_path / "run.pt", resume=True)
