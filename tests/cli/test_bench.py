"""`hrta bench`: which programs it runs, with what, and that they come with the package."""

from __future__ import annotations

import json
import sys
from importlib import import_module
from pathlib import Path

import pytest

pytest.importorskip("typer")
pytest.importorskip("rich")
pytest.importorskip("tqdm")

import torch

import hrta_ext
from hrta_ext.benchmarks import bench_compile
from hrta_ext.cli import main

import_module("hrta_ext.cli.commands")
module = sys.modules["hrta_ext.cli.bench"]


def test_programs_and_options(tmp_path, capfd, monkeypatch):
    script = tmp_path / "bench_toy.py"
    script.write_text("import pathlib, sys\npathlib.Path(sys.argv[2], 'toy.json').write_text(sys.argv[1])\n")
    bad = tmp_path / "bench_bad.py"
    bad.write_text("raise SystemExit(3)")
    monkeypatch.setattr(module, "_programs", lambda: {"toy": script, "bad": bad})
    out = tmp_path / "out"
    assert main(["bench", "toy", "--out", str(out)]) == 0
    assert (out / "toy.json").read_text() == "--out"
    assert main(["bench", "bad", "--out", str(out)]) == 1
    assert "failed: bad" in capfd.readouterr().err
    assert main(["bench", "none", "--out", str(out)]) == 1
    assert "there are toy, bad" in capfd.readouterr().err
    assert main(["bench", "--out", str(script)]) == 1
    assert "cannot be made" in capfd.readouterr().err
    assert main(["bench", "toy", "--draw", str(out)]) == 1
    assert "exclude each other" in capfd.readouterr().err


def test_device_and_shares_of_the_budget(tmp_path, capfd, monkeypatch):
    """Two benchmarks that take no time get half of 100 s and then all of it."""
    code = "import pathlib, sys\npathlib.Path(sys.argv[2], '{}').write_text(' '.join(sys.argv[3:]))\n"
    scripts = {name: tmp_path / f"bench_{name}.py" for name in ("a", "b")}
    for name, script in scripts.items():
        script.write_text(code.format(name))
    monkeypatch.setattr(module, "_programs", lambda: scripts)
    out = tmp_path / "out"
    assert main(["bench", "--out", str(out), "--device", "cpu", "--budget", "100"]) == 0
    (first, second) = ((out / name).read_text().split() for name in scripts)
    assert first[:3] == second[:3] == ["--device", "cpu", "--budget"]
    assert 45 <= int(first[3]) <= 50
    assert 90 <= int(second[3]) <= 100
    assert main(["bench", "--out", str(out), "--device", "tpu"]) == 1
    assert "--device must be cpu or cuda" in capfd.readouterr().err


def test_the_gpu_is_taken_where_its_kernels_are_usable(tmp_path, monkeypatch):
    script = tmp_path / "bench_a.py"
    script.write_text("import pathlib, sys\npathlib.Path(sys.argv[2], 'a').write_text(' '.join(sys.argv[3:]))\n")
    monkeypatch.setattr(module, "_programs", lambda: {"a": script})
    monkeypatch.setattr(module, "check_device", lambda device: None)
    for usable, expected in ((True, "--device cuda --budget 300"), (False, "--device cpu")):
        monkeypatch.setattr(module, "backends", lambda usable=usable: {"cuda": usable})
        assert main(["bench", "--out", str(tmp_path)]) == 0
        assert (tmp_path / "a").read_text() == expected


def test_a_benchmark_without_its_peer_is_left_out_unless_asked_for(tmp_path, capfd, monkeypatch):
    """One package that is not there is no failure of all the others."""
    scripts = {name: tmp_path / f"bench_{name}.py" for name in ("a", "physics")}
    for name, script in scripts.items():
        script.write_text(f"raise SystemExit({int(name == 'physics')})")
    monkeypatch.setattr(module, "_programs", lambda: scripts)
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    assert main(["bench", "--out", str(tmp_path)]) == 0
    assert "Left out: physics, which is beside deepxde (pip install deepxde)" in capfd.readouterr().out
    assert main(["bench", "physics", "--out", str(tmp_path)]) == 1


def test_a_real_benchmark_runs_from_anywhere_and_keeps_its_repeats(tmp_path, monkeypatch):
    """The programs come with the package: here the quickest one, in a folder that is no checkout."""
    programs = module._programs()
    assert {"activation", "compile", "gram", "physics", "training", "two_layer"} <= set(programs)
    assert all(path.parent == Path(hrta_ext.__file__).parent / "benchmarks" for path in programs.values())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(bench_compile, "NETWORKS", {"MLP": (bench_compile.mlp, (16, 64))})
    threads = str(torch.get_num_threads())
    monkeypatch.setattr(
        sys, "argv", ["", "--out", ".", "--device", "cpu", "--quick", "--no-compile", "--threads", threads]
    )
    assert bench_compile.main() == 0
    content = json.loads((tmp_path / "compile.json").read_text())
    assert len(content["cases"]) == 2
    for case in content["cases"]:
        for times in (case["ours"], case["torch"]):
            assert 0 < times["lower_quartile"] <= times["median"] <= times["upper_quartile"]
