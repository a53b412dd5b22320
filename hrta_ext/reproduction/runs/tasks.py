"""Units of work of the experiments: pure functions of plain parameters, whose results are files that are written once.

A stopped reproduction goes on where it was because a result that is on disk is never computed again.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from hrta_ext.files import read_json, write_json
from hrta_ext.groups import Ranks

# Part of every key: the format of the results, named after the version that set it, and a number to be raised when a
# task's function computes something else from the same parameters.
_FORMAT = "0.1.0 1"
# Where the functions live. Their names are part of every key, so they outlast moves.
MODULES = {
    "descents": "hrta_ext.reproduction.runs.descents",
    "equations": "hrta_ext.reproduction.runs.equations",
    "homotopies": "hrta_ext.reproduction.runs.homotopies",
    "lazy": "hrta_ext.reproduction.claims.lazy",
    "poisson": "hrta_ext.reproduction.claims.poisson",
    "real": "hrta_ext.reproduction.claims.real",
    "theorem31": "hrta_ext.reproduction.claims.theorem31",
    "trainings": "hrta_ext.reproduction.runs.trainings",
}


@dataclass(frozen=True)
class Task:
    """``function(parameters)``, which returns plain values and depends on nothing else.

    Attributes:
        function: "module.name", the module a key of ``MODULES``, so that another process finds it.
        parameters: Canonical JSON of a dict; :meth:`of` makes it.
        seconds: About how long it takes on one core; only the estimate of the time left hangs on it.
    """

    function: str
    parameters: str
    seconds: float

    @classmethod
    def of(cls, function: str, parameters: Mapping[str, Any], seconds: float) -> Task:
        """The task of a dict of plain values."""
        return cls(function, json.dumps(parameters, sort_keys=True), seconds)

    @property
    def key(self) -> str:
        """Name of the result's file: equal for equal work, whatever the version of the package."""
        words = f"{_FORMAT} {self.function} {self.parameters}"
        return hashlib.sha256(words.encode()).hexdigest()[:20]

    def run(self) -> dict[str, Any]:
        """Do the work."""
        module, name = self.function.rsplit(".", 1)
        function = getattr(importlib.import_module(MODULES[module]), name)
        result: dict[str, Any] = function(json.loads(self.parameters))
        return result


class Results:
    """The results in a folder, one file per task, each there as a whole or not at all."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self._read: dict[str, dict[str, Any]] = {}

    def __contains__(self, task: Task) -> bool:
        return task.key in self._read or self._path(task).exists()

    def __getitem__(self, task: Task) -> dict[str, Any]:
        if task.key not in self._read:
            path = self._path(task)
            try:
                content = read_json(path)
                if (content["function"], content["parameters"]) != (task.function, json.loads(task.parameters)):
                    raise ValueError("it is that of another task")
                self._read[task.key] = content["result"]
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(
                    f"{path} is not a result of this program; remove it, and it is made anew ({error})"
                ) from error
        return self._read[task.key]

    def put(self, task: Task, result: dict[str, Any]) -> None:
        """Keep a result. It is read back from its file, so that a resumed run sees the same numbers."""
        self.folder.mkdir(parents=True, exist_ok=True)
        content = {"function": task.function, "parameters": json.loads(task.parameters), "result": result}
        write_json(self._path(task), content, checksum=True)

    def _path(self, task: Task) -> Path:
        return self.folder / f"{task.key}.json"


@dataclass(frozen=True)
class Progress:
    """How far a list of tasks has come, in estimated seconds of one core."""

    n_done: int
    n_tasks: int
    seconds_left: float


def run_tasks(
    tasks: Iterable[Task],
    results: Results,
    workers: int,
    progress: Callable[[Progress], object] = lambda _: None,
    ranks: Ranks | None = None,
) -> None:
    """Do those of ``tasks`` that have no result yet, the longest first.

    Args:
        tasks: A task may come up more than once; it is done once.
        results: Where results are looked for and kept.
        workers: Processes of one thread each; 1 stays in this process.
        progress: Called after every task.
        ranks: Processes that share the tasks, each in one process of its own; all see the folder of ``results``.
    Raises:
        KeyboardInterrupt: Ctrl-C; what was finished is kept.
        ValueError: Not every rank finds the same results.
    """
    pending = list({task.key: task for task in tasks if task not in results}.values())
    pending.sort(key=lambda task: -task.seconds)
    clock = _Clock(pending, progress)
    if ranks is not None:
        _share(pending, results, clock, ranks)
        return
    if workers == 1 or len(pending) < 2:
        for task in pending:
            results.put(task, task.run())
            clock.done(task)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(pending)), mp_context=context, initializer=_prepare_worker) as pool:
        try:
            futures = {pool.submit(task.run): task for task in pending}
            for future in as_completed(futures):
                results.put(futures[future], future.result())
                clock.done(futures[future])
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for child in multiprocessing.active_children():
                child.terminate()
            raise


def _share(pending: Sequence[Task], results: Results, clock: _Clock, ranks: Ranks) -> None:
    """One task a rank, those of like length together, and all meet after each: an error ends all."""
    with ranks.together("hrta reproduce") as facts:
        facts["the list of runs left, by what lies in --out,"] = sorted(task.key for task in pending)
    for first in range(0, len(pending), ranks.size):
        now = pending[first : first + ranks.size]
        with ranks.together("hrta reproduce"):
            for task in now[ranks.rank : ranks.rank + 1]:
                results.put(task, task.run())
        for task in now:
            clock.done(task)


class _Clock:
    """Estimates the time left."""

    def __init__(self, tasks: Sequence[Task], progress: Callable[[Progress], object]) -> None:
        self.progress, self.start = progress, time.perf_counter()
        self.n_done, self.n_tasks = 0, len(tasks)
        self.done_seconds, self.all_seconds = 0.0, sum(task.seconds for task in tasks)

    def done(self, task: Task) -> None:
        self.n_done += 1
        self.done_seconds += task.seconds
        elapsed = time.perf_counter() - self.start
        left = elapsed * (self.all_seconds - self.done_seconds) / max(self.done_seconds, 1e-9)
        self.progress(Progress(self.n_done, self.n_tasks, left))


def _prepare_worker() -> None:
    """One thread, Ctrl-C left to the parent, and no life after it."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end_with_parent() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
