"""fit: what it tells: JSON, progress, the result's repr."""

import json
import pickle
import sys

import pytest
import torch
from training.cases import QUICK, net64

import hrta_ext
from hrta_ext.training.fit import fit


def test_json_holds_the_whole_story(data, tmp_path) -> None:
    result = fit(net64(), *data, **QUICK, batch_size=5)
    result.to_json(tmp_path / "run.json")
    content = json.loads((tmp_path / "run.json").read_text())
    assert content["loss"] == result.loss.tolist()
    assert content["s"] == result.s.tolist()
    assert content["final_loss"] == result.loss[-1].item()
    assert (content["stop_reason"], content["steps"], content["seconds"]) == ("finished", 10, result.seconds)
    assert content["versions"]["torch"] == torch.__version__
    assert content["versions"]["hrta_ext"] == hrta_ext.__version__
    settings = content["settings"]
    assert (settings["s"], settings["steps"], settings["optimizer"]) == ([0.5, 1.5], [4, 6], "adam")
    assert (settings["lr"], settings["batch_size"], settings["lr_schedule"]) == (0.01, 5, "constant")
    assert (settings["n_samples"], settings["n_parameters"], settings["network"]) == (12, 27, "TwoLayerNet")


def test_json_of_a_diverged_run_has_null_for_what_is_not_finite(data, tmp_path) -> None:
    fit(net64(), *data, s=0.5, steps=200, optimizer="gd", lr=1e6).to_json(tmp_path / "run.json")
    content = json.loads((tmp_path / "run.json").read_text())
    assert content["stop_reason"] == "diverged"
    assert content["final_loss"] is None


def test_result_prints_as_one_short_line(data) -> None:
    assert len(repr(fit(net64(), *data, **QUICK))) < 100


def test_pickles_of_the_first_version_find_their_classes(data) -> None:
    for name in ("FitResult", "StepInfo"):
        assert pickle.loads(f"chrta_ext.training\n{name}\n.".encode()).__name__ == name
    result = fit(net64(), *data, **QUICK)
    assert b"chrta_ext\nFitResult\n" in pickle.dumps(result, protocol=0)
    assert torch.equal(pickle.loads(pickle.dumps(result)).loss, result.loss)


def test_progress_off_a_terminal_is_a_few_plain_lines(data, capsys) -> None:
    fit(net64(), *data, s=(0.5, 1.0), steps=(400, 600), progress=True)
    captured = capsys.readouterr()
    lines = captured.err.splitlines()
    assert captured.out == ""
    assert len(lines) == 10
    assert lines[0].startswith("step 100/1000  s = 0.5  loss ")
    assert lines[-1].startswith("step 1000/1000  s = 1  loss ")


def test_progress_on_a_terminal_is_a_bar(data, capsys, monkeypatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    fit(net64(), *data, **QUICK, progress=True)
    text = capsys.readouterr().err
    assert "10/10" in text
    assert "s=1.5 loss=" in text


def test_progress_is_silent_by_default_and_on_other_ranks(data, capsys, monkeypatch) -> None:
    fit(net64(), *data, **QUICK)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 1)
    fit(net64(), *data, **QUICK, progress=True)
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""


def test_progress_without_tqdm_names_the_cure(data, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "tqdm", None)
    with pytest.raises(ModuleNotFoundError, match=r"progress=True needs tqdm: pip install 'hrta_ext\[cli\]'"):
        fit(net64(), *data, **QUICK, progress=True)
