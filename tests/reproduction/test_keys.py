"""Results that an earlier version stored are found: keys are those of 5d84876, and every task's function is there."""

from __future__ import annotations

import importlib
from typing import Any

import pytest

from hrta_ext.reproduction.page.sections import Scale
from hrta_ext.reproduction.reproduce import EXPERIMENTS
from hrta_ext.reproduction.runs.equations import EquationTraining
from hrta_ext.reproduction.runs.homotopies import Homotopy
from hrta_ext.reproduction.runs.tasks import MODULES, Results, Task
from hrta_ext.reproduction.runs.trainings import Training

# Function, parameters, key: written by 5d84876, whose modules stood in hrta_ext.experiments.
KEYS: list[tuple[str, dict[str, Any], str]] = [
    ("theorem31.spectra", {"d": 1, "seed": 0, "width": None}, "2c512b1e95a5a5d6540a"),
    (
        "descents.descend",
        {"d": 1, "device": "cpu", "s": [0.5], "seed": 0, "steps": 600, "width": 200},
        "0bdf30166e03209ed405",
    ),
    (
        "descents.switch",
        {"d": 1, "device": "cpu", "s": [1.0, 1.5], "seed": 0, "steps": 600, "width": 200},
        "a32df279891b599d70e2",
    ),
    (
        "lazy.travel",
        {"device": "cpu", "optimizer": "gd", "s": [0.5], "seed": 0, "steps": 1000, "width": 100},
        "cdc6f20d896629dd4893",
    ),
    ("real.linear_regression", {"problem": "diabetes", "seed": 0}, "51914c20bf61cf0b2278"),
]
TRAINING = Training("sin1d", width=200, steps=(2000,))
POISSON = Training("poisson", base="relu2", steps=(1812,), lr=0.01)
HOMOTOPY = Homotopy(
    "sin1d", width=400, s=(1.0, 2.0), steps=(600,), lr=0.01, moves="ramp", ramp_steps=150, dtype="float64"
)
EQUATION = EquationTraining("poisson", base="relu2", width=200, steps=(300,), lr=0.1, seed=1000)
SMALL = Scale("small", 11, "cpu")


@pytest.mark.parametrize(("function", "parameters", "key"), KEYS)
def test_keys_are_those_of_stored_results(function, parameters, key):
    assert Task.of(function, parameters, 1.0).key == key


def test_keys_of_trainings_are_those_of_stored_results(tmp_path):
    """Their parameters are the fields of Training: a new field, or another default, would lose every stored one."""
    assert TRAINING.task.key == "247e66b5e8dca3c47b9c"
    assert HOMOTOPY.task.key == "2fdab2588d51c423a923"  # a Homotopy is another kind of task, so those above stay
    assert EQUATION.task.key == "8936350666482af50acf"
    poisson = EXPERIMENTS["poisson"].tasks(SMALL, Results(tmp_path))
    solve = Task.of("poisson.solve", {**vars(POISSON), "s": [1.0], "steps": [1812]}, 1.0)
    assert solve.key == "b635bf739a054e69d4e3"
    assert solve.key in {task.key for task in poisson}


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_task_of_a_claim_is_found_by_its_name(name, tmp_path):
    known = {
        "trainings.train",
        "homotopies.train",
        "equations.train",
        "poisson.solve",
        *(function for function, _, _ in KEYS),
    }
    functions = {task.function for task in EXPERIMENTS[name].tasks(SMALL, Results(tmp_path))}
    assert functions
    assert functions <= known, "a key of each kind of task stands above"
    for function in functions:
        module, attribute = function.rsplit(".", 1)
        assert callable(getattr(importlib.import_module(MODULES[module]), attribute))


def test_small_tasks_of_each_kind_are_among_the_stored_ones(tmp_path):
    keys = {task.key for claim in EXPERIMENTS.values() for task in claim.tasks(SMALL, Results(tmp_path))}
    assert {key for _, _, key in KEYS} | {TRAINING.task.key, EQUATION.task.key} <= keys
