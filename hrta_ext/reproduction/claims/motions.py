"""What ``homotopy`` runs: the ways in which s moves, and the problems that it moves on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

TUNING_SEEDS = (1000, 1001, 1002)
BASELINE = "s = 1"
BESIDE = (0.56, 1.8)  # quarter decades, beside the best rate of a grid of half decades
# The coarse grids; for SGD, which costs ten times as much, rates were cut before seeds.
RATES = {
    "adam": (1e-3, 3e-3, 1e-2, 3e-2, 1e-1),
    "gd": (3e-1, 1.0, 3.0, 10.0),
    "sgd": (1.0, 3.0, 10.0),
}


@dataclass(frozen=True)
class Method:
    """How s moves; ``ramp`` is a share of all steps."""

    name: str
    s: tuple[float, ...] = (1.0,)
    moves: str = "stages"
    ramp: float = 0.0
    restart: bool = False


METHODS = (
    Method(BASELINE),
    Method("s = 1.5", (1.5,)),
    Method("s = 2", (2.0,)),
    Method("switch 1 → 1.5", (1.0, 1.5)),
    Method("switch 1 → 1.5, restarted", (1.0, 1.5), restart=True),
    Method("switch 1 → 1.5, function kept", (1.0, 1.5), "kept"),
    Method("ramp 1 → 1.5 over 1/2", (1.0, 1.5), "ramp", 1 / 2),
    Method("ramp 1 → 2 over 1/16", (1.0, 2.0), "ramp", 1 / 16),
    Method("ramp 1 → 2 over 1/4", (1.0, 2.0), "ramp", 1 / 4),
    Method("ramp 0.5 → 1 over 1/4", (0.5, 1.0), "ramp", 1 / 4),
    Method("ramp 2 → 1 over 1/4", (2.0, 1.0), "ramp", 1 / 4),
    Method("adaptive 1 → 2", (1.0, 2.0), "adaptive"),
)
SWITCH = 3 / 16  # the paper's 3000 of 16 000 steps
_FEW = (BASELINE, "s = 1.5", "s = 2", "switch 1 → 1.5", "switch 1 → 1.5, function kept", "ramp 1 → 2 over 1/4")


@dataclass(frozen=True)
class Case:
    """A problem with an optimizer, and which methods are run on it.

    Attributes:
        judged: The number that methods are compared by.
        tuned: The number that chooses the learning rate.
        changes: Of the training.
    """

    name: str
    title: str
    problem: str
    optimizer: str = "adam"
    methods: tuple[str, ...] = tuple(method.name for method in METHODS)
    judged: str = "final_loss"
    tuned: str = "final_loss"
    total: int = 8000
    changes: Mapping[str, Any] = field(default_factory=dict)

    def __hash__(self) -> int:
        return hash(self.name)


_CHOSEN = (BASELINE, "s = 1.5", "switch 1 → 1.5", "ramp 1 → 1.5 over 1/2")
_DOUBLE = {"dtype": "float64"}
_BATCHES = {"batch_size": 25}
_DEEP = {"network": "three_layer", "width": 100}
CASES = (
    Case("sin1d_adam", "d = 1, 100 points, Adam", "sin1d", changes=_DOUBLE),
    Case("sin3d_adam", "d = 3, 125 points, Adam", "sin3d", changes=_DOUBLE),
    Case("sin1d_gd", "d = 1, 100 points, gradient descent", "sin1d", "gd", changes=_DOUBLE),
    Case("sin3d_gd", "d = 3, 125 points, gradient descent", "sin3d", "gd", changes=_DOUBLE),
    Case("sin3d_sgd", "d = 3, 125 points, SGD in batches of 25", "sin3d", "sgd", _FEW, total=2000,
         changes=_BATCHES),
    Case("sin1d_sgd", "d = 1, 100 points, SGD in batches of 25", "sin1d", "sgd", _FEW, total=2000,
         changes=_BATCHES),
    Case("diabetes_adam", "diabetes, Adam", "diabetes", judged="error", tuned="validation_error", total=1000,
         changes={"width": 200}),
    Case("sin1d_noise_adam", "d = 1, noise 0.1, Adam", "sin1d", judged="error", changes={"noise": 0.1}),
    Case("sin3d_many_adam", "d = 3, 343 points, Adam", "sin3d", methods=(*_CHOSEN, "adaptive 1 → 2"),
         changes={"n": 343}),
    Case("deep1d_adam", "d = 1, 100 points, three layers, Adam", "sin1d", methods=_CHOSEN, total=1000, changes=_DEEP),
    Case("deep3d_adam", "d = 3, 125 points, three layers, Adam", "sin3d", methods=_CHOSEN, total=1000, changes=_DEEP),
)  # fmt: skip
BY_NAME = {method.name: method for method in METHODS}
