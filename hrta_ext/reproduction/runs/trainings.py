"""One training of one network: what determines its numbers, and the numbers that are kept of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from hrta_ext import FitResult, PlateauHomotopyScheduler, TwoLayerNet, fit, two_layer_with_gradient, with_bias
from hrta_ext.reproduction.runs.networks import make_network
from hrta_ext.reproduction.runs.problems import Problem, make_problem
from hrta_ext.reproduction.runs.tasks import Task

# "When the loss function does not decay rapidly" (section 4.1), as we read it: less than 10% in 1/32 of all steps.
PLATEAU_SHARE = 32
PLATEAU_THRESHOLD = 0.1
CURVE_POINTS = 160
_DIGITS = 5


@dataclass(frozen=True)
class Training:
    """Everything that determines the numbers of one run.

    Attributes:
        problem, n, noise: As in :func:`make_problem`.
        network: Kind of network, as in :func:`make_network`.
        base, width: Of the network.
        s: Homotopy parameter of each stage.
        steps: Steps of each stage. With ``switch`` "plateau" their sum is what counts.
        switch: "milestone"; or "plateau", for two stages: the first ends when its loss stops to decay rapidly.
        optimizer, lr, lr_schedule, batch_size: As in :func:`hrta_ext.fit`.
        restart: Every stage starts the optimizer and the schedule of the learning rate anew.
        seed: Of the starting weights, the noise, the split of a table and the order of batches.
        device: Where to train.
    """

    problem: str
    n: int | None = None
    noise: float = 0.0
    network: str = "two_layer"
    base: str = "relu"
    width: int = 1000
    s: tuple[float, ...] = (1.0,)
    steps: tuple[int, ...] = (16000,)
    switch: str = "milestone"
    optimizer: str = "adam"
    lr: float = 1e-3
    lr_schedule: str | None = "cosine"
    batch_size: int | None = None
    restart: bool = False
    seed: int = 0
    device: str = "cpu"

    @property
    def task(self) -> Task:
        """The task whose result :func:`train` describes."""
        return Task.of("trainings.train", asdict(self), self._seconds())

    def _seconds(self) -> float:
        """About how long the run takes on one core."""
        n, features = {"sin1d": (100, 2), "sin3d": (125, 4), "poisson": (400, 3), "diabetes": (265, 11)}.get(
            self.problem, (1078, 65)
        )
        n = self.n or n
        pairs = n * self.width
        if self.network == "three_layer":
            step = 2e-4 + 5e-9 * pairs + 5e-9 * self.width**2
        elif self.network == "two_layer" and self.batch_size is None:
            step = 4e-11 * pairs * (features + 1) * (4 if self.problem == "poisson" else 1) + 2e-9 * self.width
        else:
            step = 2e-4 + 6e-11 * pairs * (features + 1)
        return step * sum(self.steps) * (1.5 if self.switch == "plateau" else 1)


def train(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Run the :class:`Training` of these parameters.

    Returns:
        ``final_loss``, R after the last update; ``error``, the relative L2 error |f - u| / |u| on the test points;
        ``h1_error``, the same of (f, grad f) where the problem has gradients; ``validation_error`` where it has such
        rows; ``diverged``; ``switch_steps``; ``seconds``; ``curve``, (step, geometric mean of the losses around it).
        Numbers of a diverged run are null.
    """
    training = read(parameters)
    problem = make_problem(training.problem, n=training.n, noise=training.noise, seed=training.seed)
    steps = _plateau_steps(training, problem) if training.switch == "plateau" else training.steps
    net, result = train_network(training, problem, steps)
    kept = {
        "switch_steps": [sum(steps[:p]) for p in range(1, len(steps))],
        "seconds": result.seconds,
        "curve": _curve(result.loss),
        "diverged": result.stop_reason == "diverged",
    }
    return {**kept, **measure(net, problem, training.device)}


def read(parameters: Mapping[str, Any]) -> Training:
    """The training of parameters that were written as JSON."""
    return Training(**{**parameters, "s": tuple(parameters["s"]), "steps": tuple(parameters["steps"])})


def train_network(
    training: Training, problem: Problem, steps: tuple[int, ...] | None = None
) -> tuple[nn.Module, FitResult]:
    """Train; ``steps`` of as many of the first stages, None for what the training says."""
    steps = steps or training.steps
    s = training.s[: len(steps)]
    net = make_network(training.network, problem.x.shape[1], training.width, s[0], training.base, training.seed)
    net = net.to(training.device)
    torch.manual_seed(training.seed)  # the order of batches
    options: dict[str, Any] = {}
    if problem.gradient is not None:
        options["target_gradient"] = problem.gradient.to(training.device)
    # Adam's moments of silent neurons shrink into the subnormal numbers, where a wide deep network takes three times as
    # long; as zeros they give the same weights.
    torch.set_flush_denormal(True)
    stages = [((s_p,), (steps_p,)) for s_p, steps_p in zip(s, steps, strict=True)] if training.restart else [(s, steps)]
    results: list[FitResult] = []
    try:
        for s_of_fit, steps_of_fit in stages:
            result = fit(
                net,
                problem.x.to(training.device),
                problem.y.to(training.device),
                s=s_of_fit,
                steps=steps_of_fit,
                optimizer=training.optimizer,
                lr=training.lr,
                lr_schedule=training.lr_schedule,
                batch_size=training.batch_size,
                **options,
            )
            if result.stop_reason == "interrupted":
                raise KeyboardInterrupt
            results.append(result)
            if result.stop_reason == "diverged":
                break
    finally:
        torch.set_flush_denormal(False)
    loss, seconds = torch.cat([result.loss for result in results]), sum(result.seconds for result in results)
    return net, replace(results[-1], loss=loss, s=torch.cat([result.s for result in results]), seconds=seconds)


def _plateau_steps(training: Training, problem: Problem) -> tuple[int, ...]:
    """The steps of both stages, the first found by training at s_1 all the way and looking where the loss levels off.

    The run that then switches there repeats the first stage bit by bit, learning rates included.
    """
    total = sum(training.steps)
    net, result = train_network(training, problem, (total,))
    scheduler = PlateauHomotopyScheduler(
        net, training.s, patience=max(1, total // PLATEAU_SHARE), threshold=PLATEAU_THRESHOLD
    )
    for step, loss in enumerate(result.loss.tolist()):
        if not math.isfinite(loss):
            break
        scheduler.step(loss)
        if scheduler.stage > 0 and step + 1 < total:
            return step + 1, total - step - 1
    return (total,)


@torch.no_grad()
def measure(net: nn.Module, problem: Problem, device: str = "cpu") -> dict[str, float]:
    """Loss and errors of a network as it is, in float64; NaN where they are not finite."""

    def relative(x: Tensor, y: Tensor) -> float:
        return float((net(x.to(device)).double().cpu() - y.double()).norm() / y.double().norm())

    residual = (net(problem.x.to(device)).double().cpu() - problem.y.double()).square()
    numbers = {"error": relative(problem.x_test, problem.y_test)}
    if problem.gradient is not None and problem.gradient_test is not None:
        residual = residual + (_gradient(net, problem.x) - problem.gradient.double()).square().sum(1)
        gradient, exact = _gradient(net, problem.x_test), problem.gradient_test.double()
        size = problem.y_test.double().square().sum()
        square = (numbers["error"] ** 2 * size + (gradient - exact).square().sum()) / (size + exact.square().sum())
        numbers["h1_error"] = math.sqrt(square)
    if problem.x_validation is not None and problem.y_validation is not None:
        numbers["validation_error"] = relative(problem.x_validation, problem.y_validation)
    numbers["final_loss"] = float(0.5 * residual.mean())
    return numbers


def _gradient(net: nn.Module, x: Tensor) -> Tensor:
    """Gradient of the outputs in x, float64, shape (n, d)."""
    assert isinstance(net, TwoLayerNet)
    samples = with_bias(x.to(net.weight.device))
    _, gradient = two_layer_with_gradient(samples, net.weight, net.output_weight, net.s, base=net.base)
    return gradient[:, : x.shape[1]].double().cpu()


def _curve(loss: Tensor) -> dict[str, list[float]]:
    """About CURVE_POINTS groups of steps and the geometric means of their losses, in which spikes hide no trend."""
    loss = loss[loss.isfinite()]
    group = max(1, -(-loss.numel() // CURVE_POINTS))
    whole = loss[: loss.numel() // group * group].clamp_min(1e-300).log().view(-1, group).mean(1).exp()
    step = torch.arange(len(whole), dtype=torch.float64) * group + (group - 1) / 2
    return {"step": step.tolist(), "loss": [float(f"{value:.{_DIGITS - 1}e}") for value in whole.tolist()]}
