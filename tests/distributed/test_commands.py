"""The command line as torchrun starts it: rank 0 writes and speaks, the files are those of one process."""

from __future__ import annotations

import contextlib
import importlib
import io
import json

import numpy as np
import pytest

pytest.importorskip("typer")
pytest.importorskip("rich")
pytest.importorskip("tqdm")

from distributed.ranks import on_ranks

from hrta_ext.cli import main


def run(*arguments):
    """Exit code, stdout and stderr of the command line."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([str(argument) for argument in arguments])
    return code, out.getvalue(), err.getvalue()


def gram(folder, out, *options):
    importlib.import_module("hrta_ext.cli.gram").can_plot = lambda: False  # pictures have tests of their own
    values = ["--s", "0", "1", "--max-rows", "20", "--width", "2e4", *options]
    return run("gram", folder / "table.csv", *values, "--out", folder / out)


def work(folder):
    doctor = importlib.import_module("hrta_ext.cli.doctor")
    doctor._results = lambda usable: {name: [] for name in usable}
    return {
        "gram": gram(folder, "two"),
        "again": gram(folder, "two"),
        "typed wrong": gram(folder, "three", "--dtype", "float16"),
        "GPU": gram(folder, "three", "--device", "cuda"),
        "doctor": run("doctor", "--out", folder / "doctor.json"),
        "demo": run("demo", "--out", folder / "demo"),
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("table")
    rows = np.random.default_rng(0).normal(size=(30, 3))
    np.savetxt(folder / "table.csv", rows, delimiter=",", header="a,b,y", comments="", fmt="%.17g")
    return folder


@pytest.fixture(scope="module")
def answers(folder):
    return on_ranks(2, work, folder)


def without_times(path):
    content = json.loads(path.read_text())
    del content["seconds"], content["environment"]
    return content


def test_gram_writes_the_files_of_one_process(folder, answers, monkeypatch):
    """Numbers to the last digit, and the same words, once."""
    monkeypatch.setattr(importlib.import_module("hrta_ext.cli.gram"), "can_plot", lambda: False)
    code, alone, _ = gram(folder, "one")
    assert code == 0
    one, two = folder / "one", folder / "two"
    assert answers[0]["gram"][0] == answers[1]["gram"][0] == 0
    assert sorted(path.name for path in one.iterdir()) == sorted(path.name for path in two.iterdir())
    assert (one / "spectrum.csv").read_bytes() == (two / "spectrum.csv").read_bytes()
    assert without_times(one / "results.json") == without_times(two / "results.json")
    assert answers[0]["gram"][1].splitlines()[:-1] == alone.splitlines()[:-1]
    assert answers[0]["gram"][1].splitlines()[-1].startswith("Written to ")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("again", "already holds a run (results.json)"),
        ("typed wrong", "--dtype must be float64 or float32"),
        ("demo", "hrta demo runs in one process, and torchrun started 2: only train, gram, doctor"),
    ],
)
def test_a_mistake_is_one_line_of_rank_0(answers, name, words):
    """Also where only rank 0 finds out: the others end too."""
    code, _, err = answers[0][name]
    assert code != 0
    assert len(err.strip().splitlines()) == 1
    assert words in err
    assert answers[1][name][0] != 0


def test_ranks_without_a_gpu_are_told(answers):
    """The device is looked at when all ranks are there to hear of it."""
    import torch

    if torch.cuda.device_count() > 1:
        pytest.skip("every rank has a GPU of its own here")
    assert "--device cuda" in answers[0]["GPU"][2]
    assert answers[0]["GPU"][0] == answers[1]["GPU"][0] == 1


def test_all_other_ranks_are_silent(answers):
    for _, out, err in answers[1].values():
        assert out == err == ""


def test_doctor_says_what_the_group_is(folder, answers):
    """Backend, ranks, devices, and what a sum over the ranks costs."""
    code, out, err = answers[0]["doctor"]
    assert code == 0, err
    assert "Group of 2 ranks" in out
    assert "all-reduce" in out
    group = json.loads((folder / "doctor.json").read_text())["group"]
    assert [rank["threads"] for rank in group["ranks"]] == [1, 1]
    assert {row["backend"] for row in group["sums"]} >= {"gloo"}
    for row in group["sums"]:
        assert row["all_reduce_seconds"] > 0.0
        assert row["all_reduce_bytes_per_second"] == 8 * row["numbers"] / row["all_reduce_seconds"]


def test_versions_that_differ_are_problems():
    """Ranks with other versions may add other numbers."""
    from hrta_ext.cli.group import differences

    ranks = [{"torch": "2.13.0", "hrta_ext": "0.2.0"}, {"torch": "2.11.0", "hrta_ext": "0.2.0"}]
    assert differences({"ranks": ranks}) == [
        "rank 1 has torch 2.11.0 and rank 0 has 2.13.0; install the same everywhere"
    ]
