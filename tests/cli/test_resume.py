"""`hrta train` killed at any moment and resumed ends with the files of a run that was never stopped."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("typer")
pytest.importorskip("rich")
pytest.importorskip("tqdm")

from hrta_ext.cli import figures, main
from hrta_ext.files import replaced

# Checkpoints at 1000 and 2000 steps and at the end.
STEPS = ["--steps", "900", "1300", "--width", "6", "--lr", "0.02"]


@pytest.fixture(autouse=True, scope="module")
def picture() -> Iterator[None]:
    """In place of the picture, which takes a second to draw, all that it would show."""

    def write(*shown: object) -> None:
        *what, path = shown
        with replaced(path) as temporary:  # type: ignore[arg-type]
            temporary.write_text(repr([value.tolist() if hasattr(value, "tolist") else value for value in what]))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, "plot_regression", write)
        yield


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    draw = np.random.default_rng(0)
    x = draw.normal(size=(40, 2))
    values = np.column_stack([x, x[:, 0] ** 2 + x[:, 1] + draw.normal(size=40)])
    path = tmp_path_factory.mktemp("table") / "t.csv"
    np.savetxt(path, values, delimiter=",", header="a,b,y", comments="")
    return path


def train(table: Path, out: Path, *options: str) -> int:
    return main(["train", str(table), "--target", "y", *STEPS, "--out", str(out), *options])


def files_of(out: Path) -> dict[str, object]:
    """All that a run wrote, without the time that it took."""
    content: dict[str, object] = {path.name: path.read_bytes() for path in out.iterdir()}
    report = json.loads((out / "report.json").read_text())
    report.pop("seconds")
    return {**content, "report.json": report}


@contextmanager
def watched(out: Path, kept: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Path]]:
    """Copies of ``out`` before and after everything that makes, renames or removes a name: what a kill would leave."""
    copies: list[Path] = []
    last: list[dict[str, bytes] | None] = [None]

    def look() -> None:
        state = {p.name: p.read_bytes() for p in out.iterdir()} if out.is_dir() else None
        if state != last[0]:
            last[0] = state
            copies.append(kept / str(len(copies)))
            if state is not None:
                shutil.copytree(out, copies[-1])

    def around(call: Callable[..., object]) -> Callable[..., object]:
        def wrapped(*arguments: object, **options: object) -> object:
            look()
            result = call(*arguments, **options)
            look()
            return result

        return wrapped

    with monkeypatch.context() as patch:
        for name in ("open", "replace", "rename", "unlink", "mkdir", "fsync"):
            patch.setattr(os, name, around(getattr(os, name)))
        yield copies


@pytest.fixture(scope="module")
def whole(table: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    out = tmp_path_factory.mktemp("whole") / "run"
    assert train(table, out) == 0
    files = files_of(out)
    report = files["report.json"]
    assert isinstance(report, dict)
    assert [step for step, _ in report["validation_loss"]][:2] == [55, 110]
    return files


def moments(table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *options: str) -> list[Path]:
    """The folders that kills at each moment of a run leave; ``tmp_path / "run"`` is its place."""
    (tmp_path / "kept").mkdir()
    with watched(tmp_path / "run", tmp_path / "kept", monkeypatch) as copies:
        assert train(table, tmp_path / "run", *options) == 0
    return copies


def test_a_run_killed_at_any_moment_and_resumed(table, tmp_path, monkeypatch, whole, capsys) -> None:
    copies = moments(table, tmp_path, monkeypatch)
    assert files_of(tmp_path / "run") == whole
    assert len(copies) > 20
    resumed = 0
    for copy in copies:
        if not copy.exists():
            continue
        capsys.readouterr()
        code = train(table, copy, "--resume")
        if code != 0:  # nothing is missing but the table on the terminal
            assert "holds a finished run" in capsys.readouterr().err
        resumed += code == 0
        assert files_of(copy) == whole, copy
    assert resumed >= len(copies) - 3


def test_an_overwriting_run_killed_at_any_moment_and_resumed(table, tmp_path, monkeypatch, whole) -> None:
    """What is there already, files of a finished run and the checkpoint of another one, is never taken for this one."""
    assert train(table, tmp_path / "run", "--seed", "3") == 0
    other = files_of(tmp_path / "run")
    torch.save({"of": "another run"}, tmp_path / "run" / "checkpoint.pt")
    copies = moments(table, tmp_path, monkeypatch, "--overwrite")
    assert files_of(tmp_path / "run") == whole
    started = [copy for copy in copies if (copy / ".hrta_train_begun").exists()]
    assert len(started) > 5
    for copy in started:  # the old run is there until the new one is done
        assert (copy / "model.pt").read_bytes() == other["model.pt"]
    for copy in copies[copies.index(started[0]) :]:
        finished = files_of(copy) == whole
        assert train(table, copy, "--resume") == int(finished and not (copy / "checkpoint.pt").exists())
        assert files_of(copy) == whole, copy


def test_a_killed_run_says_how_to_go_on(table, tmp_path, monkeypatch, capsys) -> None:
    copies = moments(table, tmp_path, monkeypatch)
    stopped = next(copy for copy in reversed(copies) if (copy / "checkpoint.pt").exists())
    assert (stopped / "report.json").exists()
    capsys.readouterr()
    assert train(table, stopped) == 1
    assert "already holds a run (report.json): choose another --out, --resume to go on" in capsys.readouterr().err


def test_a_folder_with_other_files_is_no_run_to_resume(table, tmp_path, capsys) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    assert train(table, tmp_path, "--resume") == 1
    assert "holds no interrupted run, so there is nothing to resume" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_checkpoint_of_the_first_version_gives_no_advice_from_half_a_curve(table, tmp_path, monkeypatch) -> None:
    copies = moments(table, tmp_path, monkeypatch)
    for copy in copies:
        if (copy / "checkpoint.pt").exists():
            content = torch.load(copy / "checkpoint.pt", weights_only=True)
            if content["step"] == 2000:
                break
    del content["callbacks"]
    torch.save(content, copy / "checkpoint.pt")
    assert train(table, copy, "--resume") == 0
    report = json.loads((copy / "report.json").read_text())
    assert report["validation_loss"][0][0] > 2000
    assert len(report["notes"]) == 1  # the comparison with the linear model, which needs no curve
