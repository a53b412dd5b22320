"""Example 3: the Poisson equation with the smoother base ReLU^2 / 2, by the Sobolev form and by Deep Ritz itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from hrta_ext.plots import new_figure
from hrta_ext.reproduction.claims import ritz
from hrta_ext.reproduction.page.drawing import Runs, draw_curves, draw_dots, save_picture
from hrta_ext.reproduction.page.sections import CRITICS, PAPER, Claim, Figure, Scale, Section, Table
from hrta_ext.reproduction.page.verdicts import Comparison, Spread, compare, number, verdict_of
from hrta_ext.reproduction.runs.problems import grid, make_problem
from hrta_ext.reproduction.runs.tasks import Results, Task
from hrta_ext.reproduction.runs.trainings import Training, read, train_network

RATES = (1e-3, 1e-2)
BASELINE = "s = 1"
METHODS = {
    BASELINE: (1.0,),
    "HRTA 0.5 → 1": (0.5, 1.0),
    "HRTA 1 → 1.5": (1.0, 1.5),
    "s = 0.5": (0.5,),
    "s = 1.5": (1.5,),
}
PAPER_STEPS = (16000, 13000)
PICTURE_SIDE = 61
_QUANTITIES = {"final_loss": "final loss", "error": "relative L2 error", "h1_error": "relative H1 error"}


@dataclass(frozen=True)
class Poisson:
    """The experiment ``poisson``."""

    name: str = "poisson"
    title: str = "Example 3: the Poisson equation"

    def steps(self, scale: Scale) -> tuple[int, int]:
        """Steps of both stages."""
        steps: tuple[int, int] = scale.pick(toy=(8, 6), small=(1000, 812), full=PAPER_STEPS)
        return steps

    def runs(self, scale: Scale, lr: float, method: str) -> list[Training]:
        """One training per seed."""
        s, steps = METHODS[method], self.steps(scale)
        training = Training(
            "poisson", base="relu2", width=scale.pick(toy=16, small=1000, full=1000), s=s,
            steps=steps if len(s) == 2 else (sum(steps),), lr=lr, device=scale.device,
        )  # fmt: skip
        return [replace(training, seed=seed) for seed in range(scale.seeds)]

    def picture(self, scale: Scale, method: str) -> Task:
        """The network of seed 0 at the higher rate, on a grid."""
        training = self.runs(scale, RATES[-1], method)[0]
        return Task.of("poisson.solve", asdict(training), training.task.seconds)

    def tasks(self, scale: Scale, results: Results) -> list[Task]:
        """Every method at every rate from every seed, and the pictures; and what solves the equation itself."""
        runs = [run.task for lr in RATES for method in METHODS for run in self.runs(scale, lr, method)]
        pictures = [self.picture(scale, method) for method in list(METHODS)[:3]]
        return runs + pictures + ritz.tasks(scale, results)

    def section(self, scale: Scale, results: Results, folder: Path) -> Section:
        """Compare every method with s = 1."""
        done: dict[float, dict[str, Runs]] = {
            lr: {method: [results[run.task] for run in self.runs(scale, lr, method)] for method in METHODS}
            for lr in RATES
        }
        pictures = {method: results[self.picture(scale, method)] for method in list(METHODS)[:3]}
        all_runs = [run for methods in done.values() for runs in methods.values() for run in runs]
        solved = ritz.collect(scale, results)
        first, second = self.steps(scale)
        return Section(
            name=self.name,
            title=self.title,
            setting=[
                "-Δu = π² u* on [0, 1]² without flux through the boundary, solution u* = cos(πx₁) + cos(πx₂); loss "
                "1/(2n) Σ |f - u*|² + |∇f - ∇u*|² on a 20 x 20 grid; base ReLU²/2, width 1000, full-batch Adam, "
                f"{first} + {second} steps (constant s: {first + second}), the rate falling to 0 by a cosine; "
                f"{scale.seeds} seeds. Errors on a 101 x 101 grid; the H1 error is that of f and ∇f together.",
                ritz.setting(scale),
            ],
            readings=[
                "Domain, boundary condition and solution are our reading, and so are both rates. The supervised "
                "Sobolev loss uses u* itself, as the paper does by Proposition 1 of Lu, Lu, Wang 2021; it measures "
                "training, not a solver that knows the source alone; that is what the Deep Ritz form is for.",
            ],
            claims=[*judge(done), *ritz.judge(solved.final)],
            figures=[
                _draw_curves(done, folder, scale),
                _draw_errors(done, folder, scale),
                _draw_solutions(pictures, folder),
                *ritz.draw(solved, folder, scale),
            ],
            tables=[_table(done), ritz.table(solved)],
            n_runs=len(all_runs) + len(pictures) + len(solved.every),
            n_diverged=sum(run["diverged"] for run in (*all_runs, *solved.every)),
            seconds=sum(run["seconds"] for run in (*all_runs, *solved.every)),
        )


def solve(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Train as :func:`trainings.train` does; the network on a uniform grid, row by row of x_1, to four digits."""
    training = read(parameters)
    net, _ = train_network(training, make_problem("poisson"))
    with torch.no_grad():
        values = net(grid(PICTURE_SIDE, 2).to(training.device)).double().cpu()
    return {"values": [round(value, 5) for value in values.tolist()]}


def judge(done: Mapping[float, Mapping[str, Runs]]) -> list[Claim]:
    """HRTA and constant s against s = 1, by loss and by H1 error."""

    def compared(method: str, quantity: str) -> dict[float, Comparison]:
        return {
            lr: compare([run[quantity] for run in methods[method]], [run[quantity] for run in methods[BASELINE]])
            for lr, methods in done.items()
        }

    def claim(text: str, place: str, source: str, method: str) -> Claim:
        loss, error = compared(method, "final_loss"), compared(method, "h1_error")
        evidence = " ".join(
            f"lr {lr:g}: final loss {number(c.ratio)} times that of s = 1 ({c.outcome.value}, p = {number(c.p)}), "
            f"H1 error {number(error[lr].ratio)} times ({error[lr].outcome.value})."
            for lr, c in loss.items()
        )
        outcomes = [c.outcome for c in (*loss.values(), *error.values())]
        return Claim(text, place, source, verdict_of(outcomes), evidence)

    effective = "“HRTA remains effective” with a smoother activation"
    return [
        claim(f"{effective}: 0.5 → 1 ends lower than s = 1", "Section 4.2, Example 3", PAPER, "HRTA 0.5 → 1"),
        claim(f"{effective}: 1 → 1.5 ends lower than s = 1", "Section 4.2, Example 3", PAPER, "HRTA 1 → 1.5"),
        claim("s = 0.5 for the whole run ends lower than s = 1", "asked for in reviews", CRITICS, "s = 0.5"),
        claim("s = 1.5 for the whole run ends lower than s = 1", "asked for in reviews", CRITICS, "s = 1.5"),
    ]


def _table(done: Mapping[float, Mapping[str, Runs]]) -> Table:
    rows = []
    for lr, methods in done.items():
        for method, runs in methods.items():
            spreads = [Spread.of([run[quantity] for run in runs]) for quantity in _QUANTITIES]
            against = compare([r["final_loss"] for r in runs], [r["final_loss"] for r in methods[BASELINE]])
            numbers = [number_ for spread in spreads for number_ in (spread.median, spread.low, spread.high)]
            last = ("", "") if method == BASELINE else (against.ratio, against.outcome.value)
            rows.append((lr, method, *numbers, spreads[0].n_diverged, *last))
    columns = [
        f"{name}{part}" for name in _QUANTITIES.values() for part in ("", ", lower quartile", ", upper quartile")
    ]
    head = ("lr", "method", *columns, "diverged", "loss ratio to s = 1", "against s = 1")
    return Table("poisson", "Medians and quartiles over the seeds", head, tuple(rows))


def _draw_curves(done: Mapping[float, Mapping[str, Runs]], folder: Path, scale: Scale) -> Figure:
    figure, axes = new_figure(11.0, 4.2, columns=len(done))
    for axis, (lr, methods) in zip(axes, done.items(), strict=True):
        draw_curves(axis, methods)
        axis.set_ylabel("Sobolev training loss")
        axis.set_title(f"lr {lr:g}", fontsize=10)
    save_picture(figure, folder / "poisson_loss.png")
    return Figure("poisson_loss", f"Training loss: medians of {scale.seeds} seeds, quartiles as bands.")


def _draw_errors(done: Mapping[float, Mapping[str, Runs]], folder: Path, scale: Scale) -> Figure:
    figure, axes = new_figure(11.0, 5.0, rows=2, columns=2)
    places = [(lr, quantity) for quantity in ("final_loss", "h1_error") for lr in RATES]
    for axis, (lr, quantity) in zip(axes, places, strict=True):
        rows = {method: [run[quantity] for run in runs] for method, runs in done[lr].items()}
        draw_dots(axis, rows, reference=BASELINE, xlabel=_QUANTITIES[quantity])
        axis.set_title(f"lr {lr:g}", fontsize=10)
    save_picture(figure, folder / "poisson_errors.png")
    caption = f"One dot per seed ({scale.seeds}); bars: medians, lines: quartiles, dashed: s = 1."
    return Figure("poisson_errors", caption)


def _draw_solutions(pictures: Mapping[str, Mapping[str, Any]], folder: Path) -> Figure:
    """u* and the size of the networks' errors, all errors on one scale; both scales keep their order in grey."""
    points = grid(PICTURE_SIDE, 2).double()
    exact = torch.cos(torch.pi * points).sum(1).view(PICTURE_SIDE, PICTURE_SIDE)
    panels = {"u*": exact}
    for name, picture in pictures.items():
        values = torch.tensor(picture["values"], dtype=torch.float64).view(PICTURE_SIDE, PICTURE_SIDE)
        panels[f"|f - u*|, {name}"] = (values - exact).abs()
    largest = max(float(panel.max()) for panel in list(panels.values())[1:])
    figure, axes = new_figure(11.0, 2.9, columns=len(panels))
    box = (0.0, 1.0, 0.0, 1.0)
    for axis, (name, panel) in zip(axes, panels.items(), strict=True):
        colors = "cividis" if panel is exact else "cividis_r"
        low, high = (None, None) if panel is exact else (0.0, largest)
        shown = axis.imshow(panel.T.numpy(), origin="lower", extent=box, cmap=colors, vmin=low, vmax=high)
        axis.set_title(name, fontsize=10)
        axis.grid(False)
        axis.set_xlabel("x₁")
        axis.set_xticks([0.0, 0.5, 1.0])
        axis.set_yticks([0.0, 0.5, 1.0])
        axis.tick_params(labelleft=axis is axes[0])
        if axis in (axes[0], axes[-1]):
            figure.colorbar(shown, ax=axis, shrink=0.8)
    axes[0].set_ylabel("x₂")
    save_picture(figure, folder / "poisson_solution.png")
    return Figure(
        "poisson_solution", f"The solution u*, and how far the networks of seed 0 at lr {RATES[-1]:g} are from it."
    )
