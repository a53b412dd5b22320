"""`hrta demo`, `doctor`, the help, and the command line as a whole."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

pytest.importorskip("typer")
pytest.importorskip("rich")
pytest.importorskip("tqdm")

import torch
from processes import same_package

import hrta_ext
from hrta_ext import cli
from hrta_ext.cli import main
from hrta_ext.cli.arguments import repeat_list_options

import_module("hrta_ext.cli.commands")  # and with it every command's module, which tests look up by name
TINY = ["--steps", "4", "6", "--width", "10", "--seeds", "2"]
COMMANDS = ("demo", "train", "predict", "gram", "doctor", "bench")


def test_demo_writes_results_and_pictures(tmp_path, capsys):
    assert main(["demo", *TINY, "--out", str(tmp_path / "demo")]) == 0
    captured = capsys.readouterr()
    methods = ("ReLU (s = 1)", "HRTA 0.5 → 1", "HRTA 1 → 1.5", "ramp 1 → 1.5")
    for expected in (*methods, "4 + 6 steps, 2 seeds", "too few seeds"):
        assert expected in captured.out
    results = json.loads((tmp_path / "demo" / "results.json").read_text())
    assert len(results["runs"]) == 8
    assert results["settings"]["seeds"] == [0, 1]
    assert captured.err.count("seed ") == 8  # plain lines where there is no terminal
    assert "\x1b" not in captured.out + captured.err
    pytest.importorskip("matplotlib")
    assert (tmp_path / "demo" / "loss.png").stat().st_size > 1000
    assert (tmp_path / "demo" / "fitted.png").stat().st_size > 1000


def test_demo_without_matplotlib_says_so(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("hrta_ext.cli.demo.can_plot", lambda: False)
    assert main(["demo", *TINY, "--out", str(tmp_path / "demo")]) == 0
    assert "hrta_ext[plot]" in capsys.readouterr().out
    assert [path.name for path in (tmp_path / "demo").iterdir()] == ["results.json"]


def test_demo_keeps_earlier_results_unless_overwrite(tmp_path, capsys):
    out = tmp_path / "demo"
    out.mkdir()
    (out / "results.json").write_text("mine")
    assert main(["demo", *TINY, "--out", str(out)]) == 1
    assert "already holds a run" in capsys.readouterr().err
    assert (out / "results.json").read_text() == "mine"
    assert main(["demo", *TINY, "--out", str(out), "--overwrite"]) == 0
    assert (out / "results.json").read_text() != "mine"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--full", "--steps", "1", "2"], "exclude each other"),
        (["--steps", "5"], "steps of both stages"),
        (["--seeds", "0"], "--seeds"),
        (["--width", "wide"], "--width"),
        (["--lr", "-1"], "lr"),
    ],
)
def test_demo_refuses_bad_options(tmp_path, capsys, options, message):
    assert main(["demo", *options, "--out", str(tmp_path / "demo")]) != 0
    error = capsys.readouterr().err
    assert message in error
    assert len(error.strip().splitlines()) == 1
    assert not (tmp_path / "demo").exists()


def test_demo_reports_a_diverged_run(tmp_path, capsys):
    assert (
        main(["demo", "--steps", "10", "300", "--width", "4", "--seeds", "1", "--lr", "1e30", "--out", str(tmp_path)])
        == 1
    )
    assert "diverged" in capsys.readouterr().err


def test_too_little_gpu_memory_is_a_line_with_the_size(capsys, monkeypatch):
    def full():
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of")

    monkeypatch.setattr(sys.modules["hrta_ext.cli.doctor"], "build_info", full)
    assert main(["doctor"]) == 1
    assert "not enough GPU memory (it wanted another 20.00 GiB)" in capsys.readouterr().err


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(command, capsys):
    assert main([command, "--help"]) == 0
    text = capsys.readouterr().out
    assert f"Example: hrta {command}" in text.replace("`", "")


def test_help_and_version(capsys):
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(command in text for command in COMMANDS)
    assert main(["--version"]) == 0
    assert hrta_ext.__version__ in capsys.readouterr().out
    assert main([]) == 2
    captured = capsys.readouterr()
    assert all(command in captured.out + captured.err for command in COMMANDS)
    assert "error" not in captured.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["trian"], "'trian'"), (["--frob"], "--frob"), (["demo", "--frob"], "hrta demo --help")],
)
def test_mistyped_commands_get_one_line(capsys, arguments, message):
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.strip().splitlines()) == 1


def test_unexpected_errors_get_one_line(capsys, monkeypatch, tmp_path):
    def broken(*args):
        raise RuntimeError("two\nlines")

    monkeypatch.setattr("hrta_ext.cli.demo._train", broken)
    assert main(["demo", "--out", str(tmp_path / "a")]) == 1
    assert (
        capsys.readouterr().err
        == "hrta: error: internal error: RuntimeError: two lines; HRTA_TRACEBACK=1 shows where\n"
    )
    monkeypatch.setenv("HRTA_TRACEBACK", "1")
    with pytest.raises(RuntimeError):
        main(["demo", "--out", str(tmp_path / "b")])


@pytest.mark.parametrize("command", ["--help", "demo"])
def test_a_reader_that_has_gone_is_no_error(command, tmp_path):
    """`hrta ... | head`: click and rich would end with 1, and with pipefail a script with it."""
    arguments = [command] if command == "--help" else [command, *TINY, "--out", str(tmp_path / "a")]
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "wb") as out:
        done = subprocess.run(
            [sys.executable, "-m", "hrta_ext.cli", *arguments], stdout=out, stderr=subprocess.PIPE, env=same_package()
        )
    assert done.returncode == 0
    assert b"rror" not in done.stderr


def test_ctrl_c_gets_one_line(capsys, monkeypatch, tmp_path):
    def interrupted(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr("hrta_ext.cli.demo._train", interrupted)
    assert main(["demo", "--out", str(tmp_path / "a")]) == 130
    assert "interrupted" in capsys.readouterr().err


def test_without_the_extra_main_says_what_to_install(capsys, monkeypatch):
    monkeypatch.setattr(cli, "find_spec", lambda name: None if name == "typer" else object())
    assert main([]) == 1
    assert capsys.readouterr().err == "hrta: the command line needs typer: pip install 'hrta_ext[cli]'\n"


def test_reproduce_without_its_extra_says_what_to_install():
    script = (
        "import sys; sys.modules['scipy'] = sys.modules['jinja2'] = None\n"
        "from hrta_ext.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", script, "reproduce", "all", "--full", "--out", "report"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, env=same_package())
    assert ended.returncode == 1
    expected = "hrta: error: hrta reproduce needs scipy, jinja2: pip install 'hrta_ext[reproduce]'\n"
    assert (ended.stdout, ended.stderr) == ("", expected)


def test_list_options_are_repeated():
    assert repeat_list_options(["--s", "0.5", "1", "t.csv"]) == ["--s", "0.5", "--s", "1", "t.csv"]
    assert repeat_list_options(["--s", "0.5", "--s", "1"]) == ["--s", "0.5", "--s", "1"]
    assert repeat_list_options(["--s", "0.5", "1:2", "t.csv"]) == ["--s", "0.5", "--s", "1:2", "t.csv"]
    assert repeat_list_options(["--s=0.5", "1", "--width", "3"]) == ["--s=0.5", "--s", "1", "--width", "3"]
    assert repeat_list_options(["--s", "-0.5", "-1", "--steps", "1", "2"]) == [
        "--s", "-0.5", "--s", "-1", "--steps", "1", "--steps", "2"]  # fmt: skip
    assert repeat_list_options(["--width", "3", "4", "--", "--s", "1", "2"]) == [
        "--width",
        "3",
        "4",
        "--",
        "--s",
        "1",
        "2",
    ]


def test_as_a_process(tmp_path):
    """The command line in a process of its own, with an ASCII terminal: no traceback, no escape codes."""
    root = str(Path(hrta_ext.__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": root, "PYTHONIOENCODING": "ascii", "COLUMNS": "80"}
    command = [sys.executable, "-m", "hrta_ext.cli", "demo", *TINY, "--out", str(tmp_path / "demo")]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout
    assert all(len(line) <= 80 for line in done.stdout.splitlines()[:9])
    again = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert again.returncode == 1
    assert again.stderr.startswith("hrta: error: ")
