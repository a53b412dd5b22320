"""One training along a homotopy that moves: ramps, switches that keep the function, s that finds its own way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import torch

from hrta_ext import AdaptiveHomotopy, FitResult, fit, ramp
from hrta_ext.reproduction.runs.networks import make_network
from hrta_ext.reproduction.runs.problems import Problem, make_problem
from hrta_ext.reproduction.runs.tasks import Task
from hrta_ext.reproduction.runs.trainings import Training, measure

MOVES = ("stages", "kept", "ramp", "adaptive")


@dataclass(frozen=True)
class Homotopy(Training):
    """A :class:`Training` whose s moves in another way.

    Attributes:
        moves: "stages", as there; "kept", the same with ``keep_function``; "ramp", from the first s to the second in
            ``ramp_steps`` and constant from there on; "adaptive", :class:`hrta_ext.AdaptiveHomotopy` between the two.
        ramp_steps: Of "ramp".
        dtype: Of the network and the data, which are those of float32.
    """

    moves: str = "stages"
    ramp_steps: int = 0
    dtype: str = "float32"

    @property
    def task(self) -> Task:
        """The task whose result :func:`train` describes."""
        return Task.of("homotopies.train", asdict(self), self._seconds() * (2 if self.dtype == "float64" else 1))


def train(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Run the :class:`Homotopy` of these parameters.

    Returns:
        ``final_loss``, ``error`` and the like as of :func:`trainings.train`; ``last_s``; ``diverged``; ``seconds``.
    Raises:
        ValueError: ``moves`` is none of MOVES.
    """
    training = Homotopy(**{**parameters, "s": tuple(parameters["s"]), "steps": tuple(parameters["steps"])})
    if training.moves not in MOVES:
        raise ValueError(f"train: moves must be one of {', '.join(MOVES)}, got {training.moves!r}")
    problem = make_problem(training.problem, n=training.n, noise=training.noise, seed=training.seed)
    dtype: torch.dtype = getattr(torch, training.dtype)
    tensors = {field.name: getattr(problem, field.name) for field in fields(Problem)}
    problem = replace(problem, **{name: t.to(dtype) for name, t in tensors.items() if t is not None})
    features, s = problem.x.shape[1], training.s
    net = make_network(training.network, features, training.width, s[0], training.base, training.seed)
    net = net.to(training.device, dtype)
    torch.manual_seed(training.seed)  # the order of batches
    total = sum(training.steps)
    options: dict[str, Any] = {}
    if problem.gradient is not None:
        options["target_gradient"] = problem.gradient.to(training.device)
    stages: list[tuple[Any, Any]] = [(s, training.steps)]
    if training.moves == "ramp":
        stages = [(ramp(s[0], s[1], training.ramp_steps), total)]
    elif training.moves == "adaptive":
        stages = [(AdaptiveHomotopy(s[0], s[1]), total)]
    elif training.restart:
        stages = [((value,), (steps,)) for value, steps in zip(s, training.steps, strict=True)]
    results: list[FitResult] = []
    torch.set_flush_denormal(True)  # as in trainings.train
    try:
        for of_stage, steps in stages:
            results.append(
                fit(
                    net,
                    problem.x.to(training.device),
                    problem.y.to(training.device),
                    s=of_stage,
                    steps=steps,
                    keep_function=training.moves == "kept",
                    optimizer=training.optimizer,
                    lr=training.lr,
                    lr_schedule=training.lr_schedule,
                    batch_size=training.batch_size,
                    **options,
                )
            )
            if results[-1].stop_reason == "interrupted":
                raise KeyboardInterrupt
            if results[-1].stop_reason == "diverged":
                break
    finally:
        torch.set_flush_denormal(False)
    return {
        "last_s": float(results[-1].s[-1]),
        "seconds": sum(result.seconds for result in results),
        "diverged": results[-1].stop_reason == "diverged",
        **measure(net, problem, training.device),
    }
