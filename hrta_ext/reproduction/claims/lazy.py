"""Lazy training (Propositions 1 to 3): how far the weights and the kernel travel as the width grows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hrta_ext import TwoLayerNet, fit
from hrta_ext.plots import new_figure
from hrta_ext.reproduction.page.drawing import draw_against, save_picture
from hrta_ext.reproduction.page.sections import PAPER, PROJECT, Claim, Figure, Scale, Section, Table
from hrta_ext.reproduction.page.verdicts import Spread, number, verdict_of_checks
from hrta_ext.reproduction.runs.problems import make_problem
from hrta_ext.reproduction.runs.tasks import Results, Task

SCHEDULES: dict[str, tuple[float, ...]] = {"s = 0.5": (0.5,), "s = 1": (1.0,), "s = 1.5": (1.5,), "1 → 1.5": (1.0, 1.5)}
OPTIMIZERS = {"gd": "gradient descent, lr 0.5", "adam": "Adam, lr 0.001"}
_RATES = {"gd": 0.5, "adam": 1e-3}
_SLOPE = (-0.6, -0.4)
_QUANTITIES = ("weights", "kernel")
Runs = Sequence[Mapping[str, Any]]
Key = tuple[str, str, int]  # optimizer, schedule, width


@dataclass(frozen=True)
class Lazy:
    """The experiment ``lazy``."""

    name: str = "lazy"
    title: str = "Propositions 1 to 3: lazy training"

    def widths(self, scale: Scale) -> tuple[int, ...]:
        """Evenly spread on a log axis."""
        widths: tuple[int, ...] = scale.pick(
            toy=(20, 40), small=(100, 400, 1600, 6400), full=(100, 400, 1600, 6400, 25_600, 102_400)
        )
        return widths

    def runs(self, scale: Scale, key: Key) -> list[Task]:
        """One task per seed; few for the widest networks, which differ little."""
        optimizer, schedule, width = key
        steps = scale.pick(toy=20, small=1000, full=2000)
        seeds = min(scale.seeds, 8) if width > 10_000 else scale.seeds
        common = {"optimizer": optimizer, "s": SCHEDULES[schedule], "width": width, "steps": steps}
        seconds = 0.05 + (2e-5 + 2e-8 * width) * steps
        return [
            Task.of("lazy.travel", {**common, "seed": seed, "device": scale.device}, seconds) for seed in range(seeds)
        ]

    def keys(self, scale: Scale) -> list[Key]:
        """Every optimizer, schedule and width."""
        return [(o, name, width) for o in OPTIMIZERS for name in SCHEDULES for width in self.widths(scale)]

    def tasks(self, scale: Scale, results: Results) -> list[Task]:
        """Everything."""
        return [task for key in self.keys(scale) for task in self.runs(scale, key)]

    def section(self, scale: Scale, results: Results, folder: Path) -> Section:
        """Slopes on log axes."""
        done = {key: [results[task] for task in self.runs(scale, key)] for key in self.keys(scale)}
        steps = scale.pick(toy=20, small=1000, full=2000)
        return Section(
            name=self.name,
            title=self.title,
            setting=[
                f"sin(2πx), 100 points, N(0, 1) weights, {steps} full-batch steps of gradient descent at rate 0.5 or "
                f"of Adam at 0.001, half of them before a switch of s; {scale.seeds} seeds, at most 8 above 10 000 "
                "neurons. Movement is |θ(end) - θ(0)| / |θ(0)| of all weights together; change of the kernel "
                "|NTK(end) - NTK(0)| / |NTK(0)| in the Frobenius norm, both NTKs at the last s.",
                "Slopes are least squares of the log medians against log width; lazy training means -1/2.",
            ],
            readings=[
                "The propositions lost their formulas; they go back to Luo, Xu, Ma, Zhang 2021, who prove m^(-1/2)."
            ],
            claims=judge(done),
            figures=[_draw(done, self.widths(scale), folder)],
            tables=[_table(done)],
            n_runs=sum(map(len, done.values())),
            seconds=sum(run["seconds"] for runs in done.values() for run in runs),
        )


def travel(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Train, and measure how far weights and kernel have come."""
    problem, s = make_problem("sin1d"), tuple(parameters["s"])
    x, y = problem.x.to(parameters["device"]), problem.y.to(parameters["device"])
    net = TwoLayerNet(1, parameters["width"], s=s[0], seed=parameters["seed"]).to(x.device)
    start = [p.detach().double().clone() for p in net.parameters()]
    kernel = net.gram(x, s[-1]).ntk.double()
    steps = parameters["steps"]
    stages = (steps // 2, steps - steps // 2) if len(s) == 2 else (steps,)
    optimizer = parameters["optimizer"]
    result = fit(net, x, y, s=s, steps=stages, optimizer=optimizer, lr=_RATES[optimizer])
    if result.stop_reason == "interrupted":
        raise KeyboardInterrupt
    moved = [p.detach().double() - p0 for p, p0 in zip(net.parameters(), start, strict=True)]

    def size(tensors: Sequence[torch.Tensor]) -> float:
        return float(torch.stack([t.square().sum() for t in tensors]).sum().sqrt())

    change = net.gram(x, s[-1]).ntk.double() - kernel
    return {
        "weights": size(moved) / size(start),
        "first_layer": size(moved[:1]) / size(start[:1]),
        "second_layer": size(moved[1:]) / size(start[1:]),
        "kernel": float(change.norm() / kernel.norm()),
        "loss": float(result.loss[-1]),
        "seconds": result.seconds,
    }


def slope(widths: Sequence[int], values: Sequence[float]) -> float:
    """Least squares of log values against log widths."""
    return float(np.polyfit(np.log(widths), np.log(values), 1)[0])


def judge(done: Mapping[Key, Runs]) -> list[Claim]:
    """Lazy where the slope is that of the theory."""
    widths = sorted({width for _, _, width in done})
    slopes = {
        (optimizer, schedule, quantity): slope(
            widths, [Spread.of([run[quantity] for run in done[optimizer, schedule, w]]).median for w in widths]
        )
        for optimizer in OPTIMIZERS
        for schedule in SCHEDULES
        for quantity in _QUANTITIES
    }

    def listed(optimizer: str, quantity: str) -> str:
        return "; ".join(f"{schedule} {slopes[optimizer, schedule, quantity]:.2f}" for schedule in SCHEDULES)

    def lazy(optimizer: str) -> list[bool]:
        return [_SLOPE[0] <= slopes[optimizer, schedule, "weights"] <= _SLOPE[1] for schedule in SCHEDULES]

    widest = {o: number(Spread.of([r["weights"] for r in done[o, "s = 1", widths[-1]]]).median) for o in OPTIMIZERS}
    at_1000 = min(widths, key=lambda w: abs(np.log(w / 1000)))
    near = {o: number(Spread.of([r["weights"] for r in done[o, "s = 1", at_1000]]).median) for o in OPTIMIZERS}
    rule = f"Rule: slopes of the relative movement between {_SLOPE[0]:g} and {_SLOPE[1]:g}."
    return [
        Claim(
            "Under gradient descent the weights travel the less the wider the network, like m^(-1/2)",
            "Propositions 1 to 3",
            PAPER,
            verdict_of_checks(lazy("gd")),
            f"{rule} Slopes: {listed('gd', 'weights')}. At s = 1: {near['gd']} of their size at width {at_1000:,}, "
            f"{widest['gd']} at {widths[-1]:,}.",
        ),
        Claim(
            "So does the kernel under gradient descent: its relative change falls with the width",
            "Propositions 3 and 4",
            PAPER,
            verdict_of_checks([slopes["gd", schedule, "kernel"] < -0.25 for schedule in SCHEDULES]),
            f"Rule: slopes below -1/4. Slopes: {listed('gd', 'kernel')}.",
        ),
        Claim(
            "The same holds for Adam, with which the paper trains",
            "our question",
            PROJECT,
            verdict_of_checks(lazy("adam")),
            f"{rule} Slopes: {listed('adam', 'weights')}; of the kernel: {listed('adam', 'kernel')}. At s = 1: "
            f"{near['adam']} of their size at width {at_1000:,}, {widest['adam']} at {widths[-1]:,}.",
        ),
    ]


def _table(done: Mapping[Key, Runs]) -> Table:
    names = ("weights", "first_layer", "second_layer", "kernel", "loss")
    rows = [
        (OPTIMIZERS[o], schedule, width, *(float(np.median([run[name] for run in runs])) for name in names))
        for (o, schedule, width), runs in done.items()
    ]
    columns = (
        "optimizer",
        "s",
        "width",
        "movement",
        "of the first layer",
        "of the second",
        "change of the NTK",
        "last loss",
    )
    return Table("lazy", "Relative movement: medians over the seeds", columns, tuple(rows))


def _draw(done: Mapping[Key, Runs], widths: Sequence[int], folder: Path) -> Figure:
    figure, axes = new_figure(11.0, 7.2, rows=2, columns=2)
    labels = {"weights": "relative movement of the weights", "kernel": "relative change of the NTK"}
    places = [(optimizer, quantity) for quantity in _QUANTITIES for optimizer in OPTIMIZERS]
    for axis, (optimizer, quantity) in zip(axes, places, strict=True):
        curves = {
            name: [[run[quantity] for run in done[optimizer, name, width]] for width in widths] for name in SCHEDULES
        }
        draw_against(axis, widths, curves)
        axis.set_xlabel("width m")
        axis.set_ylabel(labels[quantity])
        axis.set_title(OPTIMIZERS[optimizer], fontsize=10)
    save_picture(figure, folder / "lazy.png")
    return Figure("lazy", "Movement of the weights and of the kernel against the width: medians, quartiles as bars.")
