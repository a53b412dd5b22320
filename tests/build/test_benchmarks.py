"""The programs under benchmarks/ that a GPU machine runs once, rehearsed where there is none."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import time
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import pytest

import hrta_ext as hx

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
pytestmark = pytest.mark.skipif(not BENCHMARKS.exists(), reason="needs the sources")
UNSAFE = os.environ | {"PYTHONSAFEPATH": ""}  # a program finds the modules beside it
REACHED = {"copy_bytes_per_second": 4e12, "matmul_flops_per_second": 8e14, "matmul_dtype": "bfloat16"}


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function that imports a module of the benchmarks."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module


# ---- the harness ----


def test_floors_of_a_step_are_what_the_sizes_say(module) -> None:
    """At D = 2 a neuron is 3 numbers: 36 bytes for reading twice and writing gradients, 72 with both moments."""
    floor = module("ceilings").two_layer_floor
    assert (floor(1000, 2, 10**8, "relu", True).bytes, floor(100, 2, 10**8, "relu", False).bytes) == (72e8, 36e8)
    assert floor(1000, 2, 10**8, "relu", True).flops == 0  # arcs
    wide = floor(1000, 4, 10**7, "relu", False)
    assert wide.flops == 2 * 13 * 1e10
    assert floor(1000, 2, 10**6, "tanh", False).flops == 2 * 7 * 1e9


def test_a_floor_is_the_longer_of_two_and_says_nothing_about_small_calls(module) -> None:
    ceilings = module("ceilings")
    memory = ceilings.Floor(4e9, 8e10).record(2e-3, REACHED)
    assert (memory["bound"], memory["seconds"], memory["share"], memory["per_second"]) == ("memory", 1e-3, 0.5, 2e12)
    arithmetic = ceilings.Floor(4e6, 8e11).record(4e-3, REACHED)
    assert (arithmetic["bound"], arithmetic["share"], arithmetic["per_second"]) == ("arithmetic", 0.25, 2e14)
    assert ceilings.Floor(4e7).record(1e-3, REACHED) is None  # stays in a cache
    assert ceilings.Floor(4e6, 1e9).record(1e-3, REACHED) is None  # a launch takes longer


def test_a_budget_is_shared_by_the_cases_to_come(module) -> None:
    timing = module("timing")
    effort = timing.Effort(rounds=7)
    assert timing.Budget(None).share(effort, 3).most_seconds is None
    budget = timing.Budget(60.0)
    assert 9.9 < budget.share(effort, 3).most_seconds <= 10.0  # half of 20 s
    assert budget.used_up is None
    assert timing.Budget(0.0).used_up == "the budget of 0 s was used up"
    calls = {"sleep": lambda: time.sleep(2e-3)}
    few = timing.Effort(rounds=50, sample_seconds=0.0, warm_up_seconds=0.0, most_seconds=0.0)
    assert len(timing.measure(calls, few)["sleep"].seconds) == timing.FEWEST_ROUNDS


def test_ours_is_checked_at_the_full_width(module, monkeypatch) -> None:
    """In stretches of the peers' width; a result that is off by one neuron's share is found."""
    bench, cases = module("bench_two_layer"), module("two_layer_cases")
    case = cases.Case(40, 4, 700, peer_width=300)
    whole = cases.problem(case, case.width, "cpu")
    bench.check_all(case, whole)
    right = bench.ours(case)
    monkeypatch.setattr(bench, "ours", lambda case: lambda x, w, a: (right(x, w[:-1], a[:-1])[0],))
    with pytest.raises(AssertionError, match="differ in result"):
        bench.check_all(case, whole)


# ---- the picture ----


def result(path: Path, benchmark: str, **floors: dict[str, Any] | None) -> Path:
    environment = {"gpu": "NVIDIA H200", "torch": "2.11", "cpu": "a processor", "threads": 2}
    cases = [{"name": name, "floor": floor} for name, floor in floors.items()]
    content = {"benchmark": benchmark, "environment": environment, "ceilings": REACHED, "cases": cases}
    path.write_text(json.dumps(content))
    return path


def test_the_roofline_shows_every_case_with_a_floor(module, tmp_path) -> None:
    pytest.importorskip("matplotlib")
    roofline, floor = module("roofline"), module("ceilings").Floor
    files = [
        result(tmp_path / "a.json", "activation", relu=floor(8e9).record(2.1e-3, REACHED), small=None),
        result(tmp_path / "t.json", "training", wide=floor(1e8, 8e11).record(2e-3, REACHED)),
    ]
    contents = [json.loads(path.read_text()) for path in files]
    assert [bar.name for bar in roofline.bars(contents, "memory")] == ["relu"]
    assert [(bar.name, round(bar.share, 2)) for bar in roofline.bars(contents, "arithmetic")] == [("wide", 0.5)]
    command = [sys.executable, str(BENCHMARKS / "roofline.py"), *map(str, files), "--out", str(tmp_path)]
    done = subprocess.run(command, env=UNSAFE, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "roofline_nvidia_h200.png").read_bytes().startswith(b"\x89PNG")


def test_labels_of_the_roofline_do_not_touch(module, tmp_path, monkeypatch) -> None:
    """The texts beside and inside the bars of forty cases, near the ceiling and far below it."""
    pytest.importorskip("matplotlib")
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    roofline, floor = module("roofline"), module("ceilings").Floor
    floors = {f"a case with a long name, n 1000, D {i}": floor(8e9).record(2e-3 * 1.1**i, REACHED) for i in range(40)}
    drawn = []
    monkeypatch.setattr(roofline, "save_figure", lambda figure, path: drawn.append(figure))
    assert roofline.draw([json.loads(result(tmp_path / "a.json", "gram", **floors).read_text())], tmp_path / "x.png")
    figure = drawn[0]
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw(renderer)
    (axis,) = figure.axes
    for texts in (axis.texts, axis.get_yticklabels()):
        boxes = sorted((text.get_window_extent(renderer) for text in texts), key=lambda box: box.y0)
        assert len(boxes) == 40
        assert all(low.y1 <= high.y0 + 1 for low, high in pairwise(boxes))
        assert all(box.x0 >= 0 and box.x1 <= figure.bbox.x1 for box in boxes)


# ---- the checks for a GPU machine ----


@pytest.mark.skipif(not hx.backends()["cpp"], reason="needs compiled kernels")
@pytest.mark.parametrize("room", ["activation", "network", "training", "gram", "smaller_cards"])
def test_the_sanitizers_cases_agree_with_their_formulas_on_the_cpu(module, room: str) -> None:
    """Sizes and float64 formulas are right, so what is wrong on a GPU is its kernels; and a wrong result is found."""
    cases = module("gpu_sanitizer_cases")
    assert room in cases.ROOMS
    found = list(islice(cases.ROOMS[room]("cpu"), 6))
    assert len(found) == 6
    assert [line for result in found for line in cases.wrong(result)] == []
    what, got, exact, tolerance = found[0]
    assert cases.wrong((what, got * float("nan"), exact, tolerance))
    assert cases.wrong((what, got + 1.0, exact, tolerance))


def test_rooms_take_turns(module, monkeypatch) -> None:
    """The first room of many does not use up the time alone; every result comes once."""
    cases = module("gpu_sanitizer_cases")
    monkeypatch.setattr(cases, "ROOMS", {"a": lambda device: iter("a" * 20), "b": lambda device: iter("b" * 3)})
    order = "".join(cases.taking_turns(["a", "b"], "cpu"))
    assert order == "a" * 8 + "b" * 3 + "a" * 12


def checks(tmp_path: Path, *steps: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = ["bash", str(BENCHMARKS / "run_gpu_checks.sh"), "--out", str(tmp_path / "out"), *steps]
    variables = os.environ | environment
    return subprocess.run(command, env=variables, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.skipif(not Path("/bin/bash").exists(), reason="needs bash")
def test_the_checks_go_on_after_a_failure_and_say_so_at_the_end(tmp_path) -> None:
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\ncase "$*" in *doctor*) echo broken; exit 3;; *bench*) sleep 60;; esac\n')
    python.chmod(0o755)
    done = checks(tmp_path, "doctor", "test", "bench", PYTHON=str(python), SECONDS_ALL="8")
    assert done.returncode == 1
    rows = {line.split()[0]: line for line in (tmp_path / "out" / "summary.txt").read_text().splitlines()}
    assert "FAILED (3)" in rows["doctor"]
    assert " ok " in rows["test"]
    assert "CUT OFF" in rows["bench"]
    assert "broken" in (tmp_path / "out" / "log.txt").read_text()
    assert checks(tmp_path, "test", PYTHON=str(python)).returncode == 0
    wrong = checks(tmp_path, "tests")
    assert wrong.returncode == 2
    assert "no such step: tests" in wrong.stderr
