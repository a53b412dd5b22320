"""Example 3 as an equation to solve: by the Deep Ritz energy, which knows the source alone, or by the Sobolev loss."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from hrta_ext import Box, DeepRitz, Sampler, TwoLayerNet, fit, ramp, two_layer_with_gradient, with_bias
from hrta_ext.reproduction.runs.problems import Problem, grid, make_problem
from hrta_ext.reproduction.runs.tasks import Task
from hrta_ext.reproduction.runs.trainings import Training

RITZ, SOBOLEV = "ritz", "sobolev"
_CURVE_POINTS = 60
_CURVE_SIDE = 41


@dataclass(frozen=True)
class EquationTraining(Training):
    """A :class:`Training` on the Poisson problem.

    Attributes:
        form: "ritz", on new points at every step; "sobolev", on the problem's grid, with its solution.
        ramp_steps: s moves from the first to the second in so many steps and stays; 0: stages.
        points: Of a draw of the energy; the grid has 400.
    """

    form: str = RITZ
    ramp_steps: int = 0
    points: int = 400

    @property
    def task(self) -> Task:
        """The task whose result :func:`train` describes."""
        return Task.of("equations.train", asdict(self), self._seconds())

    def _seconds(self) -> float:
        step = 1.3e-3 + 2e-9 * self.points * self.width if self.form == RITZ else 1.2e-9 * 400 * self.width
        return sum(self.steps) * step


def source(x: Tensor) -> Tensor:
    """-Laplace u* = pi^2 (cos(pi x_1) + cos(pi x_2)) at points (n, 2), shape (n,)."""
    return math.pi**2 * torch.cos(math.pi * x).sum(1)


def train(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Run the :class:`EquationTraining` of these parameters.

    Returns:
        ``error`` and the like as of :func:`errors`; ``energy``, the mean on new points, whose noise is larger than what
        methods differ by (null for the Sobolev form); ``diverged``; ``seconds``; ``curve``, (step, error after so many
        steps on a coarse grid).
    Raises:
        ValueError: ``form`` is neither "ritz" nor "sobolev".
    """
    training = EquationTraining(**{**parameters, "s": tuple(parameters["s"]), "steps": tuple(parameters["steps"])})
    if training.form not in (RITZ, SOBOLEV):
        raise ValueError(f'train: form must be "{RITZ}" or "{SOBOLEV}", got {training.form!r}')
    problem, device, s = make_problem("poisson"), training.device, training.s
    net = TwoLayerNet(2, training.width, s=s[0], base=training.base, seed=training.seed).to(device)
    total = sum(training.steps)
    watch = _Watch(device, every=max(1, total // _CURVE_POINTS))
    options: dict[str, Any] = {
        "s": ramp(s[0], s[1], training.ramp_steps) if training.ramp_steps else s,
        "steps": total if training.ramp_steps else training.steps,
        "optimizer": training.optimizer,
        "lr": training.lr,
        "lr_schedule": training.lr_schedule,
        "callbacks": (watch,),
    }
    torch.set_flush_denormal(True)  # as in trainings.train
    try:
        if training.form == RITZ:
            square = Box([0.0, 0.0], [1.0, 1.0])
            sampler = Sampler(square, training.points, method="sobol", seed=training.seed)
            result = fit(net, sampler, loss=DeepRitz(source), **options)
        else:
            assert problem.gradient is not None
            x, y, gradient = problem.x.to(device), problem.y.to(device), problem.gradient.to(device)
            result = fit(net, x, y, target_gradient=gradient, **options)
    finally:
        torch.set_flush_denormal(False)
    if result.stop_reason == "interrupted":
        raise KeyboardInterrupt
    energy = result.settings.get("loss_on_new_points")
    return {
        **errors(net, problem),
        "energy": None if energy is None else energy["mean"],
        "diverged": result.stop_reason == "diverged",
        "seconds": result.seconds,
        "curve": {"step": watch.step, "error": watch.error},
    }


@torch.no_grad()
def errors(net: TwoLayerNet, problem: Problem) -> dict[str, float]:
    """How far a network is from the solution on the test grid, in float64.

    Returns:
        ``error``, relative in L2 after removing the mean of both, since the equation knows u up to a constant;
        ``gradient_error``, relative in L2: the energy exceeds its least value by half of the integral of
        |grad f - grad u*|^2, and (mean f)^2 / 2; ``mean`` of the network.
    """
    assert problem.gradient_test is not None
    samples = with_bias(problem.x_test.to(net.weight.device))
    value, slope = two_layer_with_gradient(samples, net.weight, net.output_weight, net.s, base=net.base)
    gradient, exact = slope[:, :2].double().cpu(), problem.gradient_test.double()
    return {
        "error": _centred(value, problem.y_test),
        "gradient_error": float((gradient - exact).norm() / exact.norm()),
        "mean": float(value.double().mean()),
    }


def _centred(value: Tensor, exact: Tensor) -> float:
    f, u = value.double().cpu(), exact.double()
    return float(((f - f.mean()) - (u - u.mean())).norm() / (u - u.mean()).norm())


class _Watch:
    """Notes the error in the course of a training."""

    def __init__(self, device: str, every: int) -> None:
        self.every = every
        self.points = grid(_CURVE_SIDE, 2).to(device)
        self.exact = torch.cos(math.pi * self.points.double()).sum(1).cpu()
        self.step: list[int] = []
        self.error: list[float] = []

    @torch.no_grad()
    def __call__(self, info: Any) -> None:
        self.step.append(info.step + 1)
        self.error.append(float(f"{_centred(info.net(self.points), self.exact):.4e}"))
