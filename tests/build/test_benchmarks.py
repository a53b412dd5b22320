"""The benchmarks, and the programs under benchmarks/ that a GPU machine runs once, rehearsed where there is none."""

from __future__ import annotations

import importlib
import os
import subprocess
import time
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

import hrta_ext as hx

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
pytestmark = pytest.mark.skipif(not BENCHMARKS.exists(), reason="needs the sources")
REACHED = {"copy_bytes_per_second": 4e12, "matmul_flops_per_second": 8e14, "matmul_dtype": "bfloat16"}


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function that imports a module of the benchmarks; what is for a GPU machine alone is outside the package."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    inside = lambda name: (Path(hx.__file__).parent / "benchmarks" / f"{name}.py").exists()  # noqa: E731
    return lambda name: importlib.import_module(f"hrta_ext.benchmarks.{name}" if inside(name) else name)


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


@pytest.mark.parametrize("program", sorted(BENCHMARKS.glob("bench_*.py")), ids=lambda path: path.stem)
def test_programs_in_the_checkout_are_those_of_the_package(program: Path, module) -> None:
    """`python benchmarks/bench_gram.py` runs what `hrta bench gram` runs."""
    assert callable(module(program.stem).main)
    assert f"from hrta_ext.benchmarks.{program.stem} import main" in program.read_text()
    assert {path.name for path in Path(module(program.stem).__file__).parent.glob("bench_*.py")} == {
        path.name for path in BENCHMARKS.glob("bench_*.py")
    }


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
    python.write_text('#!/bin/sh\ncase "$*" in *doctor*) echo broken; exit 3;; *cli\\ bench*) sleep 60;; esac\n')
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
