"""All experiments by name, and the run that makes a report of them."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from hrta_ext import build_info
from hrta_ext.groups import Ranks
from hrta_ext.reproduction.claims.baselines import Baselines
from hrta_ext.reproduction.claims.decay import Decay
from hrta_ext.reproduction.claims.homotopy import HomotopyExperiment
from hrta_ext.reproduction.claims.lazy import Lazy
from hrta_ext.reproduction.claims.poisson import Poisson
from hrta_ext.reproduction.claims.real import Real
from hrta_ext.reproduction.claims.sin import SinExperiment
from hrta_ext.reproduction.claims.table1 import Table1
from hrta_ext.reproduction.claims.theorem31 import Theorem31
from hrta_ext.reproduction.page.report import Report, write_report
from hrta_ext.reproduction.page.sections import Experiment, Scale
from hrta_ext.reproduction.page.verdicts import FEWEST_PAIRS
from hrta_ext.reproduction.runs.tasks import Progress, Results, run_tasks

# In the order of the page.
EXPERIMENTS: dict[str, Experiment] = {
    experiment.name: experiment
    for experiment in (
        Theorem31(),
        Decay(),
        Lazy(),
        SinExperiment(1),
        SinExperiment(3),
        Table1(),
        Baselines(),
        HomotopyExperiment(),
        Poisson(),
        Real(),
    )
}
SEEDS = {"toy": 2, "small": FEWEST_PAIRS, "full": 20}
RUNS = "runs"


def reproduce(
    names: Sequence[str],
    out: Path,
    scale: Scale,
    *,
    workers: int = 1,
    command: str = "hrta reproduce",
    options: str = "",
    progress: Callable[[Progress], object] = lambda _: None,
    ranks: Ranks | None = None,
) -> Report | None:
    """Run experiments and write their report; results that ``out`` holds already are taken as they are.

    Args:
        names: Keys of EXPERIMENTS.
        out: Folder of the report; made if it is not there.
        scale: How much to do.
        workers: Processes of one thread each.
        command, options: What the page names as its origin, as in :class:`Report`.
        progress: Called after every task.
        ranks: Processes that share the runs, in place of ``workers``; rank 0 writes the report.
    Returns:
        The report as it was written; None on the other ranks.
    """
    out = out.absolute()  # progress may change the working directory
    results = Results(out / RUNS)
    experiments = [EXPERIMENTS[name] for name in names]
    while True:  # tuned runs follow once their tuning is done
        tasks = [task for experiment in experiments for task in experiment.tasks(scale, results)]
        if all(task in results for task in tasks):
            break
        run_tasks(tasks, results, workers, progress, ranks)
    if ranks is not None and ranks.rank != 0:
        return None
    sections = []
    for experiment in experiments:
        folder = out / experiment.name
        folder.mkdir(parents=True, exist_ok=True)
        sections.append(experiment.section(scale, results, folder))
    report = Report(tuple(sections), scale, environment(workers, scale.device), command, options)
    write_report(report, out)
    return report


def environment(workers: int, device: str) -> dict[str, str]:
    """The machine and the versions, without the machine's name."""
    build = build_info()
    kernels = build.get("simd") or "no compiled kernels"
    card = {"GPU": torch.cuda.get_device_name(device)} if device.startswith("cuda") else {}
    return {
        "hrta_ext": build["version"],
        "torch": torch.__version__,
        "Python": platform.python_version(),
        "machine": f"{platform.machine()} ({kernels}), {os.cpu_count()} cores, {workers} used",
        **card,
    }
