"""Results are written once, survive any stop, and are the same numbers wherever they are computed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from processes import line_of, running

from hrta_ext.reproduction.page.sections import Scale
from hrta_ext.reproduction.reproduce import EXPERIMENTS, reproduce
from hrta_ext.reproduction.runs.tasks import Progress, Results, Task, run_tasks
from hrta_ext.reproduction.runs.trainings import Training

TRAININGS = [Training("sin1d", width=16, steps=(40,), lr=lr, seed=seed) for lr in (1e-3, 1e-2) for seed in (0, 1, 2)]
TASKS = [training.task for training in TRAININGS]


def without_seconds(results, tasks=TASKS):
    return [{name: value for name, value in results[task].items() if name != "seconds"} for task in tasks]


def test_worker_processes_give_the_same_numbers(tmp_path):
    here, there = Results(tmp_path / "here"), Results(tmp_path / "there")
    seen: list[Progress] = []
    run_tasks(TASKS, here, 1, seen.append)
    run_tasks([*TASKS, *TASKS], there, 2)
    assert without_seconds(here) == without_seconds(there)
    assert [state.n_done for state in seen] == [1, 2, 3, 4, 5, 6]
    assert seen[-1].seconds_left == pytest.approx(0.0, abs=1e-6)
    assert len(list((tmp_path / "there").iterdir())) == len(TASKS)


SCRIPT = """
import signal
import sys
from pathlib import Path
from hrta_ext.reproduction.runs.tasks import Results, run_tasks
from hrta_ext.reproduction.runs.trainings import Training
if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored under nohup
    tasks = [Training("sin1d", width=200, steps=(4000,), seed=seed).task for seed in range(40)]
    print("started", flush=True)
    run_tasks(tasks, Results(Path(sys.argv[1])), int(sys.argv[2]), lambda state: print(state.n_done, flush=True))
"""


@contextmanager
def started(tmp_path, workers):
    """The script, once it has done three tasks."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    command = [sys.executable, str(script), str(tmp_path / "runs"), str(workers)]
    with running(command) as process:
        while (line := line_of(process)) != "3":
            assert line
        yield process


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_stopped_run_leaves_whole_results_and_goes_on(tmp_path, workers, number):
    with started(tmp_path, workers) as process:
        os.kill(process.pid, number)
        assert process.wait(30) != 0
    kept = {path: path.read_bytes() for path in (tmp_path / "runs").glob("[!.]*.json")}
    assert 3 <= len(kept) < 40
    assert all("result" in json.loads(content) for content in kept.values())
    tasks = [Training("sin1d", width=200, steps=(4000,), seed=seed).task for seed in range(40)]
    results = Results(tmp_path / "runs")
    seen: list[Progress] = []
    run_tasks(tasks, results, 1, seen.append)
    assert seen[-1].n_done == 40 - len(kept)
    assert all(path.read_bytes() == content for path, content in kept.items())
    fresh = Results(tmp_path / "fresh")
    run_tasks(tasks[:3], fresh, 1)
    assert without_seconds(results, tasks[:3]) == without_seconds(fresh, tasks[:3])


@pytest.mark.skipif(not hasattr(os, "getpgid"), reason="needs POSIX")
def test_workers_do_not_outlive_a_killed_parent(tmp_path):
    with started(tmp_path, 2) as process:
        children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True)
        pids = [int(pid) for pid in children.stdout.split()]
        assert pids
        os.kill(process.pid, signal.SIGKILL)
        process.wait(30)
    end = time.monotonic() + 30
    while time.monotonic() < end and any(_alive(pid) for pid in pids):
        time.sleep(0.1)
    assert not any(_alive(pid) for pid in pids)


def _alive(pid):
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_a_failing_task_is_an_error_and_the_others_are_kept(tmp_path):
    broken = Task.of("trainings.train", {**json.loads(TASKS[0].parameters), "problem": "nothing"}, 1e9)
    results = Results(tmp_path)
    with pytest.raises(ValueError, match="name must be one of"):
        run_tasks([*TASKS[:2], broken], results, 2)
    assert broken not in results


def test_the_key_tells_parameters_and_functions_apart():
    assert len({task.key for task in TASKS}) == len(TASKS)
    assert Training("sin1d").task.key == Training("sin1d").task.key
    assert Task.of("a.b", {"x": 1, "y": 2}, 1.0).key == Task.of("a.b", {"y": 2, "x": 1}, 5.0).key
    assert Task.of("a.b", {"x": 1}, 1.0).key != Task.of("a.c", {"x": 1}, 1.0).key


def test_a_broken_result_is_named(tmp_path):
    results = Results(tmp_path)
    run_tasks(TASKS[:1], results, 1)
    path = next(tmp_path.iterdir())
    path.write_text("{")
    with pytest.raises(ValueError, match=rf"{path.name} is not a result of this program"):
        Results(tmp_path)[TASKS[0]]


# --- devices ----------------------------------------------------------------------------------------------------------

ON_THE_CPU = {"real.linear_regression"}  # torch's solver for tables of deficient rank is there alone


def kinds(device: str, tmp_path) -> dict[str, Task]:
    """The first task of every kind at toy size."""
    scale, results = Scale("toy", 1, device), Results(tmp_path / "none")
    tasks = [task for experiment in EXPERIMENTS.values() for task in experiment.tasks(scale, results)]
    return {task.function: task for task in reversed(tasks)}


def test_every_task_names_its_device(tmp_path):
    """Two devices give two results; on the CPU a key that was stored without one stays what it was."""
    for function, task in kinds("cuda", tmp_path).items():
        assert json.loads(task.parameters).get("device") == (None if function in ON_THE_CPU else "cuda")
    assert "device" not in json.loads(kinds("cpu", tmp_path)["theorem31.spectra"].parameters)


@pytest.mark.parametrize("function", sorted(kinds("cpu", Path()).keys() - ON_THE_CPU))
def test_every_task_goes_to_its_device(function, tmp_path, monkeypatch):
    """Its tensors are sent where its parameters say, here by another name of the one device there is."""
    sent, to = set(), torch.Tensor.to

    def spy(tensor, *arguments, **options):
        sent.update(str(value) for value in (*arguments, *options.values()))
        return to(tensor, *arguments, **options)

    monkeypatch.setattr(torch.Tensor, "to", spy)
    kinds("cpu:0", tmp_path)[function].run()
    assert "cpu:0" in sent


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_experiments_run_on_a_gpu(name, tmp_path):
    """Nothing of them is left on another device, where an operation would raise; and memory there was used."""
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.max_memory_allocated()
    report = reproduce([name], tmp_path / "report", Scale("toy", 2, "cuda"))
    assert report.sections[0].claims
    assert torch.cuda.max_memory_allocated() > before
    assert torch.cuda.get_device_name() in report.environment.values()
