"""Runs of the reproduction that ranks share: all are done once, errors end all, and all must see one folder."""

from __future__ import annotations

from pathlib import Path

import pytest
from distributed.ranks import on_ranks

pytest.importorskip("scipy")

from hrta_ext.groups import ranks_of
from hrta_ext.reproduction.runs import tasks
from hrta_ext.reproduction.runs.tasks import Results, Task, run_tasks


def shared(folder, own_folders):
    """What each rank sees of five runs, of which one more fails on the second call."""
    tasks.MODULES["probe"] = "builtins"
    ranks = ranks_of("world", "test")
    results = Results(Path(folder) / (str(ranks.rank) if own_folders else "runs"))
    runs = [Task.of("probe.dict", {"number": k}, 1.0 + k) for k in range(5)]
    if own_folders and ranks.rank:
        results.put(runs[0], {"number": 0})
    done, ran = [], []
    put = results.put
    results.put = lambda task, result: (ran.append(task.parameters), put(task, result))
    said = None
    try:
        run_tasks(runs, results, 1, lambda state: done.append(state.n_done), ranks)
        if not own_folders:
            run_tasks([*runs, Task.of("probe.int", {}, 1.0)], results, 1, ranks=ranks)
    except Exception as error:
        said = f"{type(error).__name__}: {error}"
    return [task in results for task in runs], [results[task] for task in runs if task in results], done, ran, said


def test_every_run_is_done_once_and_a_failure_ends_all(tmp_path):
    first, second = on_ranks(2, shared, str(tmp_path), False)
    for there, values, done, _, _ in (first, second):
        assert there == [True] * 5
        assert values == [{"number": k} for k in range(5)]
        assert done == [1, 2, 3, 4, 5]
    assert len(first[3]) == 3
    assert len(second[3]) == 2
    assert sorted(first[3] + second[3]) == [f'{{"number": {k}}}' for k in range(5)]
    assert first[4].startswith("TypeError: int()")
    assert second[4].startswith("RankError: hrta reproduce: rank 0 stopped with TypeError: int()")


def test_folders_that_are_not_one_are_found(tmp_path):
    for *_, said in on_ranks(2, shared, str(tmp_path), True):
        assert said.startswith(
            "ValueError: hrta reproduce: the list of runs left, by what lies in --out, must be the same"
        )
