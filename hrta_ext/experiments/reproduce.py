"""All experiments by name, and the run that makes a report of them."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from hrta_ext import __version__, build_info
from hrta_ext.experiments.report import Report, write_report
from hrta_ext.experiments.sections import Experiment, Scale, Section
from hrta_ext.experiments.sin import SinExperiment
from hrta_ext.experiments.tasks import Progress, Results, run_tasks

EXPERIMENTS: dict[str, Experiment] = {
    experiment.name: experiment
    for experiment in (
        SinExperiment(1),
        SinExperiment(3),
    )
}
SEEDS = {"toy": 2, "small": 8, "full": 20}


def reproduce(
    names: Sequence[str],
    out: Path,
    scale: Scale,
    *,
    workers: int = 1,
    command: str = "hrta reproduce",
    progress: Callable[[str, Progress], object] = lambda name, progress: None,
) -> Report:
    """Run experiments and write their report; results that ``out`` holds already are taken as they are.

    Args:
        names: Keys of EXPERIMENTS.
        out: Folder of the report; made if it is not there.
        scale: How much to do.
        workers: Processes of one thread each.
        command: What the page names as its origin.
        progress: Called with the experiment's name after every task.
    Returns:
        The report as it was written.
    """
    results = Results(out / "runs")
    start = time.perf_counter()
    sections: list[Section] = []
    for name in names:
        experiment = EXPERIMENTS[name]
        _complete(experiment, scale, results, workers, progress)
        folder = out / name
        folder.mkdir(parents=True, exist_ok=True)
        sections.append(experiment.section(scale, results, folder))
    report = Report(tuple(sections), scale, environment(workers), command, time.perf_counter() - start)
    write_report(report, out)
    return report


def _complete(
    experiment: Experiment,
    scale: Scale,
    results: Results,
    workers: int,
    progress: Callable[[str, Progress], object],
) -> None:
    """Do the tasks of an experiment, and those that follow from their results, until there are no new ones."""
    while True:
        tasks = experiment.tasks(scale, results)
        if all(task in results for task in tasks):
            return
        run_tasks(tasks, results, workers, lambda state: progress(experiment.name, state))


def environment(workers: int) -> dict[str, str]:
    """The machine and the versions, without the machine's name."""
    info = build_info()
    return {
        "hrta_ext": __version__,
        "torch": torch.__version__,
        "Python": platform.python_version(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {info.get('simd', 'no compiled kernels')}",
        "processes": str(workers),
    }
