"""Names of columns are no markup in pictures and on the terminal, and a picture that fails is no failure of a run."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("typer")
pytest.importorskip("rich")
pytest.importorskip("tqdm")
pytest.importorskip("matplotlib")

from hrta_ext.cli import main
from hrta_ext.cli.output import print_line, print_note, print_table

FAST = ["--steps", "3", "4", "--width", "5"]


def table(folder: Path, target: str = "y") -> Path:
    values = np.random.default_rng(0).normal(size=(20, 3))
    np.savez(folder / "t.npz", **{"a": values[:, 0], "b": values[:, 1], target: values[:, 2]})
    return folder / "t.npz"


@pytest.mark.parametrize("target", ["cost_$_per_$", r"$\frac{a", "温度", "_y", "x\n\x1b[31m", "n" * 300, r"\$$"])
def test_a_target_may_have_any_name(target: str, tmp_path: Path, capsys) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        command = ["train", str(table(tmp_path, target)), "--target", target, *FAST, "--out", str(tmp_path / "run")]
        assert main(command) == 0
    captured = capsys.readouterr()
    assert "\x1b[31m" not in captured.out + captured.err
    assert "Warning" not in captured.err
    assert (tmp_path / "run" / "training.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((tmp_path / "run" / "report.json").read_text())["data"]["target"] == target


@pytest.mark.parametrize(
    ("command", "where", "written"),
    [
        (["train", "--target", "y", *FAST], "hrta_ext.cli.figures", ["model.json", "model.pt", "report.json"]),
        (["gram", "--width", "50", "--s", "1"], "hrta_ext.ntk.figures", ["results.json", "spectrum.csv"]),
        (["demo", "--steps", "5", "5", "--width", "8", "--seeds", "1"], "hrta_ext.cli.figures", ["results.json"]),
    ],
)
def test_a_picture_that_fails_is_one_line_and_no_failure(
    command: list[str], where: str, written: list[str], tmp_path: Path, capsys, monkeypatch
) -> None:
    data = [] if command[0] == "demo" else [str(table(tmp_path))]
    out = ["--out", str(tmp_path / "out")]
    assert main([command[0], *data, *command[1:], *out]) == 0
    pictures = {path.name for path in (tmp_path / "out").iterdir()} - set(written)
    assert pictures
    capsys.readouterr()

    def fail(*_: object) -> None:
        raise RuntimeError("the font\nis broken")

    monkeypatch.setattr(f"{where}.save_figure", fail)
    assert main([command[0], *data, *command[1:], *out, "--overwrite"]) == 0
    captured = capsys.readouterr()
    lines = [line for line in captured.err.splitlines() if line.startswith("hrta: ")]
    assert len(lines) == len(pictures)
    assert all("could not be drawn (the font is broken); all other results are written" in line for line in lines)
    # Pictures of the run before are gone: they would be taken for this one's.
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == written
    assert all(name not in captured.out for name in pictures)


def test_text_is_no_order_to_the_terminal(capsys) -> None:
    print_line("[bold]a[/bold] \x1b[2J\x07 b\x9bm\nc")
    print_note("\x1b]0;title\x07")
    print_table("\x1b[1m", ["\x08"], [["\x1b[31mred"]])
    captured = capsys.readouterr()
    assert captured.out.startswith("[bold]a[/bold] �[2J� b�m\nc\n")
    assert not {"\x1b", "\x07", "\x08", "\x9b"} & set(captured.out + captured.err)


def test_predictions_go_to_what_out_names(tmp_path: Path, capfd) -> None:
    """A device or /dev/stdout holds nothing that could be lost, so no --overwrite is asked for."""
    data = str(table(tmp_path))
    assert main(["train", data, "--target", "y", *FAST, "--out", str(tmp_path / "run")]) == 0
    capfd.readouterr()
    assert main(["predict", str(tmp_path / "run"), data]) == 0
    plain = capfd.readouterr().out
    assert plain.startswith("prediction\n")
    assert main(["predict", str(tmp_path / "run"), data, "--out", "/dev/stdout"]) == 0
    assert capfd.readouterr().out == plain
    (tmp_path / "link.csv").symlink_to(tmp_path / "p.csv")
    (tmp_path / "p.csv").write_text("mine")
    assert main(["predict", str(tmp_path / "run"), data, "--out", str(tmp_path / "link.csv")]) == 1
    assert "exists already" in capfd.readouterr().err
    assert main(["predict", str(tmp_path / "run"), data, "--out", str(tmp_path / "link.csv"), "--overwrite"]) == 0
    assert (tmp_path / "p.csv").read_text() == plain
