"""``hrta train`` as torchrun starts it: ranks share the neurons, rank 0 writes and speaks."""

from __future__ import annotations

import contextlib
import functools
import importlib
import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("typer")
pytest.importorskip("rich")
pytest.importorskip("tqdm")

import torch
from distributed.ranks import on_ranks

from hrta_ext.cli import main
from hrta_ext.network.module import TwoLayerNet
from hrta_ext.tables.model import Regression


def run(*arguments: Any) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of the command line."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([str(argument) for argument in arguments])
    return code, out.getvalue(), err.getvalue()


def train(folder: Path, out: str, *options: Any) -> tuple[int, str, str]:
    command = importlib.import_module("hrta_ext.cli.train")
    command.can_plot = lambda: False  # pictures have tests of their own
    steps = ["--s", "0.5", "1", "--steps", "20", "20", "--lr", "0.01"]
    return run("train", folder / "table.csv", "--target", "y", "--width", 7, *steps, "--out", folder / out, *options)


def interrupted_and_resumed(folder: Path) -> list[Any]:
    """One rank is told to end in the middle; the same command goes on."""
    command = importlib.import_module("hrta_ext.cli.train")
    call = command._ValidationLoss.__call__

    def ending(self: Any, info: Any) -> None:
        call(self, info)
        if info.step + 1 == 25 and os.environ["RANK"] == "1":
            raise StopIteration

    def stopped(result: Any, *_: Any) -> None:
        raise command.Interrupted(result.stop_reason)

    finished = command._check_finished
    command._ValidationLoss.__call__, command._check_finished = ending, stopped
    first = train(folder, "resumed")
    command._ValidationLoss.__call__, command._check_finished = call, finished
    torch.distributed.barrier()  # rank 0 has left the directory
    between = sorted(path.name.split(".25-")[0] for path in (folder / "resumed").iterdir())
    torch.distributed.barrier()
    return [first, between, train(folder, "resumed", "--resume")]


def work(folder: Path) -> dict[str, Any]:
    return {
        "train": train(folder, "two"),
        "again": train(folder, "two"),
        "wrong": train(folder, "three", "--validation", "2"),
        "diverged": train(folder, "three", "--lr", "1e30", "--optimizer", "gd"),
        "resumed": interrupted_and_resumed(folder),
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("table")
    rows = np.random.default_rng(0).normal(size=(30, 3))
    np.savetxt(folder / "table.csv", rows, delimiter=",", header="a,b,y", comments="", fmt="%.17g")
    return folder


@pytest.fixture(scope="module")
def answers(folder: Path) -> list[dict[str, Any]]:
    return on_ranks(2, work, folder)


def test_ranks_write_what_one_process_writes(folder: Path, answers: Any, monkeypatch: pytest.MonkeyPatch):
    """The same files, words and scores, from the same start, which one process is made to draw alike."""
    command = importlib.import_module("hrta_ext.cli.train")
    monkeypatch.setattr(command, "can_plot", lambda: False)
    monkeypatch.setattr(command, "TwoLayerNet", functools.partial(TwoLayerNet, draw="counter"))
    code, alone, _ = train(folder, "one")
    assert code == answers[0]["train"][0] == answers[1]["train"][0] == 0
    names = [sorted(path.name for path in (folder / run).iterdir()) for run in ("one", "two", "resumed")]
    assert names[0] == names[1] == names[2]
    assert answers[0]["train"][1].splitlines()[:-1] == alone.splitlines()[:-1]
    one, two, resumed = (Regression.load(folder / run) for run in ("one", "two", "resumed"))
    torch.testing.assert_close(two.net.weight, one.net.weight, rtol=1e-4, atol=1e-5)
    assert torch.equal(two.net.weight, resumed.net.weight)
    settings = json.loads((folder / "two" / "report.json").read_text())["settings"]
    assert (settings["width"], settings["ranks"], settings["n_parameters"]) == (7, 2, 28)


def test_the_other_rank_is_silent(folder: Path, answers: Any):
    """It ends with the exit code of rank 0."""
    for name in ("train", "again", "wrong", "diverged"):
        assert answers[1][name] == (answers[0][name][0], "", "")
    assert "already holds a run (report.json)" in answers[0]["again"][2]
    assert "--validation must be between 0 and 1" in answers[0]["wrong"][2]
    assert "the training diverged within" in answers[0]["diverged"][2]
    assert not (folder / "three").exists()


def test_a_run_that_was_stopped_goes_on(answers: Any):
    """A checkpoint folder lies beside the file that names it until the run is done."""
    for rank, answer in enumerate(answers):
        first, between, second = answer["resumed"]
        assert (first[0], second[0]) == (130, 0)
        assert between == ["checkpoint.pt", "checkpoint.pt"]
        assert (second[1] == "") == (rank == 1)
