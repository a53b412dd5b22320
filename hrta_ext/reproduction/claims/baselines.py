"""What reviewers of the paper asked for: other optimizers, constant s, more schedules, learned slopes, tuned rates.

Every method gets the same grid of learning rates, the same tuning seeds and the same number of steps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hrta_ext.plots import new_figure
from hrta_ext.reproduction.page.drawing import Runs, draw_against, draw_dots, save_picture
from hrta_ext.reproduction.page.sections import CRITICS, PROJECT, Claim, Figure, Scale, Section, Table
from hrta_ext.reproduction.page.verdicts import Comparison, Spread, compare, number, verdict_of
from hrta_ext.reproduction.runs.tasks import Results, Task
from hrta_ext.reproduction.runs.trainings import Training

RATES = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0, 3.0, 10.0)
BESIDE = (0.56, 1.8)  # quarter decades: gradient descent gains as much as its rate does
TUNING_SEEDS = (1000, 1001, 1002)
BASELINE = "s = 1"


@dataclass(frozen=True)
class Method:
    """A way to train; ``stages`` are shares of all steps."""

    name: str
    group: str
    s: tuple[float, ...] = (1.0,)
    stages: tuple[float, ...] = (1.0,)
    options: Mapping[str, Any] = field(default_factory=dict)

    def training(self, problem: str, total: int, scale: Scale, **changes: Any) -> Training:
        """One run of it in ``total`` steps."""
        ends = [round(total * sum(self.stages[: p + 1])) for p in range(len(self.stages))]
        steps = tuple(end - start for start, end in zip([0, *ends], ends, strict=False))
        return Training(
            problem=problem, width=scale.pick(toy=8, small=400, full=1000), s=self.s, steps=steps, device=scale.device,
            **{**self.options, **changes},
        )  # fmt: skip


TWO = (3 / 16, 13 / 16)  # the paper's 3000 + 13000 steps
METHODS = (
    Method(BASELINE, "constant s"),
    Method("s = 0.5", "constant s", (0.5,)),
    Method("s = 1.5", "constant s", (1.5,)),
    Method("s = 2", "constant s", (2.0,)),
    Method("0.5 → 1", "schedule", (0.5, 1.0), TWO),
    Method("1 → 1.5", "schedule", (1.0, 1.5), TWO),
    Method("0.5 → 1, restarted", "schedule", (0.5, 1.0), TWO, {"restart": True}),
    Method("1 → 1.5, restarted", "schedule", (1.0, 1.5), TWO, {"restart": True}),
    Method("0.5 → 1 → 1.5 → 2", "schedule", (0.5, 1.0, 1.5, 2.0), (0.25,) * 4),
    Method("1.5 → 1", "schedule", (1.5, 1.0), TWO),
    Method("2 → 1.5 → 1 → 0.5", "schedule", (2.0, 1.5, 1.0, 0.5), (0.25,) * 4),
    Method("s = 1, no decay of lr", "optimizer", options={"lr_schedule": None}),
    Method("1 → 1.5, no decay of lr", "optimizer", (1.0, 1.5), TWO, {"lr_schedule": None}),
    Method("gradient descent, s = 1", "optimizer", options={"optimizer": "gd"}),
    Method("gradient descent, s = 1.5", "optimizer", (1.5,), options={"optimizer": "gd"}),
    Method("gradient descent, 1 → 1.5", "optimizer", (1.0, 1.5), TWO, {"optimizer": "gd"}),
    Method("SGD in batches of 25, s = 1", "optimizer", options={"optimizer": "sgd", "batch_size": 25}),
    Method("SGD in batches of 25, s = 1.5", "optimizer", (1.5,), options={"optimizer": "sgd", "batch_size": 25}),
    Method("learned s", "learned", options={"network": "learned_s"}),
    Method("PReLU", "learned", options={"network": "prelu"}),
    Method("Jagtap", "learned", options={"network": "jagtap"}),
)
_SLOW = ("SGD in batches of 25, s = 1", "SGD in batches of 25, s = 1.5", "learned s", "PReLU", "Jagtap")
# What a method is compared with, where that is not Adam at s = 1.
_REFERENCES = {
    "1 → 1.5, no decay of lr": "s = 1, no decay of lr",
    "gradient descent, s = 1.5": "gradient descent, s = 1",
    "gradient descent, 1 → 1.5": "gradient descent, s = 1",
    "SGD in batches of 25, s = 1.5": "SGD in batches of 25, s = 1",
}


@dataclass(frozen=True)
class Case:
    """A problem, and which methods are run on it."""

    problem: str
    title: str
    n: int | None = None
    noise: float = 0.0
    all_methods: bool = True

    def methods(self) -> tuple[Method, ...]:
        """The slow ones only where all are wanted."""
        return METHODS if self.all_methods else tuple(m for m in METHODS if m.name not in _SLOW)


CASES = (
    Case("sin1d", "d = 1, 100 points"),
    Case("sin3d", "d = 3, 125 points"),
    Case("sin3d", "d = 3, 343 points", n=343, all_methods=False),
    Case("sin1d", "d = 1, 100 points, noise 0.1", noise=0.1, all_methods=False),
)


def best_rate(tuning: Mapping[float, Sequence[Training]], results: Results, tuned: str = "final_loss") -> float:
    """The learning rate with the lowest median of the final losses, or of another number; the lower one of equals."""
    medians = {lr: Spread.of([results[run.task][tuned] for run in runs]).median for lr, runs in tuning.items()}
    return min(medians, key=lambda lr: (medians[lr], lr))


@dataclass(frozen=True)
class Baselines:
    """The experiment ``baselines``."""

    name: str = "baselines"
    title: str = "Fair baselines: tuned rates, other optimizers, constant s, learned slopes"

    def cases(self, scale: Scale) -> tuple[Case, ...]:
        """The problems of this scale."""
        return CASES[:1] if scale.name == "toy" else CASES

    def methods(self, scale: Scale, case: Case) -> tuple[Method, ...]:
        """The methods of this scale."""
        few = (BASELINE, "1 → 1.5", "1 → 1.5, restarted", "gradient descent, s = 1", "learned s", "PReLU")
        return tuple(m for m in case.methods() if scale.name != "toy" or m.name in few)

    def total(self, scale: Scale) -> int:
        """Steps of every run."""
        total: int = scale.pick(toy=20, small=600, full=8000)
        return total

    def tuning(self, scale: Scale, case: Case, method: Method, results: Results) -> dict[float, list[Training]]:
        """Learning rate -> the runs that judge it, from seeds that are used for nothing else.

        The coarse grid, and once its results are there two rates beside its best one.
        """
        rates = scale.pick(toy=RATES[2:4], small=RATES, full=RATES)
        seeds = scale.pick(toy=TUNING_SEEDS[:1], small=TUNING_SEEDS[:2], full=TUNING_SEEDS)

        def runs(lr: float) -> list[Training]:
            return [self._run(scale, case, method, lr, seed) for seed in seeds]

        grid = {lr: runs(lr) for lr in rates}
        if all(run.task in results for each in grid.values() for run in each):
            best = best_rate(grid, results)
            grid |= {lr: runs(lr) for lr in (float(f"{best * factor:.2g}") for factor in BESIDE)}
        return grid

    def _run(self, scale: Scale, case: Case, method: Method, lr: float, seed: int) -> Training:
        changes = {"lr": lr, "seed": seed, "n": case.n, "noise": case.noise}
        return method.training(case.problem, self.total(scale), scale, **changes)

    def rate(self, scale: Scale, case: Case, method: Method, results: Results) -> float:
        """The learning rate that the tuning chose."""
        return best_rate(self.tuning(scale, case, method, results), results)

    def final(self, scale: Scale, case: Case, method: Method, results: Results) -> list[Training]:
        """The runs that are compared."""
        lr = self.rate(scale, case, method, results)
        return [self._run(scale, case, method, lr, seed) for seed in range(scale.seeds)]

    def tasks(self, scale: Scale, results: Results) -> list[Task]:
        """The tuning, and of every method whose tuning is done the runs at the chosen rate."""
        tasks = []
        for case in self.cases(scale):
            for method in self.methods(scale, case):
                tuning = self.tuning(scale, case, method, results)
                tasks += [run.task for runs in tuning.values() for run in runs]
                if all(run.task in results for runs in tuning.values() for run in runs):
                    tasks += [run.task for run in self.final(scale, case, method, results)]
        return tasks

    def section(self, scale: Scale, results: Results, folder: Path) -> Section:
        """Every method against its reference on every problem."""
        final = {
            case: {
                m.name: [results[run.task] for run in self.final(scale, case, m, results)]
                for m in self.methods(scale, case)
            }
            for case in self.cases(scale)
        }
        rates = {
            case: {m.name: self.rate(scale, case, m, results) for m in self.methods(scale, case)}
            for case in self.cases(scale)
        }
        tuning = {
            case: {
                m.name: {
                    lr: [results[run.task] for run in runs] for lr, runs in self.tuning(scale, case, m, results).items()
                }
                for m in self.methods(scale, case)
            }
            for case in self.cases(scale)
        }
        tuned = [run for methods in tuning.values() for by in methods.values() for runs in by.values() for run in runs]
        all_runs = [run for methods in final.values() for runs in methods.values() for run in runs] + tuned
        return Section(
            name=self.name,
            title=self.title,
            setting=_setting(self, scale),
            readings=[
                "The paper shows no baseline but Adam on ReLU. The methods and settings here are ours, chosen before "
                "the runs from what its public reviews asked for.",
            ],
            claims=judge(final),
            figures=[*_draw_final(final, rates, folder, scale), _draw_rates(tuning, folder)],
            tables=[_table(case, final[case], rates[case]) for case in final],
            n_runs=len(all_runs),
            n_diverged=sum(run["diverged"] for run in all_runs),
            seconds=sum(run["seconds"] for run in all_runs),
        )


def _setting(experiment: Baselines, scale: Scale) -> list[str]:
    width = METHODS[0].training("sin1d", experiment.total(scale), scale).width
    n_tuning = scale.pick(toy=1, small=2, full=len(TUNING_SEEDS))
    return [
        f"Two-layer ReLU networks of width {width}, {experiment.total(scale)} steps of every method, all samples at "
        "once unless SGD is named, the learning rate falling to 0 by a cosine unless “no decay” is named. Two-stage "
        "schedules change s after 3/16 of the steps as in the paper, four-stage ones after every quarter. “Restarted” "
        "ones start Adam's moments and the cosine anew at the switch; in all others both run on.",
        f"Every method's learning rate is the best of {', '.join(f'{lr:g}' for lr in RATES)} and of two more beside "
        f"the best of these, at {BESIDE[0]:g} and {BESIDE[1]:g} times of it: the lowest median of the final training "
        f"loss over {n_tuning} tuning seeds. The results are those of {scale.seeds} other seeds.",
        "PReLU learns a slope for every neuron, “learned s” one s for the network, Jagtap one scale a of ReLU(10 a z). "
        "“Noise 0.1” adds normal noise of that standard deviation to the targets; errors are measured without it. "
        "Losses near 1e-14 are what float32 rounds to.",
    ]


def _against(methods: Mapping[str, Runs], name: str, other: str, number_of: str = "final_loss") -> Comparison:
    return compare([run[number_of] for run in methods[name]], [run[number_of] for run in methods[other]])


def _claim(
    final: Mapping[Case, Mapping[str, Runs]],
    pairs: list[tuple[str, str]],
    text: str,
    source: str = CRITICS,
    number_of: str = "final_loss",
) -> Claim:
    """A claim that every first of ``pairs`` ends lower than the second, on every problem where both were run."""
    outcomes, sentences = [], []
    for name, other in pairs:
        compared = {
            case.title: _against(methods, name, other, number_of)
            for case, methods in final.items()
            if name in methods and other in methods
        }
        outcomes += [comparison.outcome for comparison in compared.values()]
        seen = "; ".join(f"{number(c.ratio)} in {title} ({c.outcome.value})" for title, c in compared.items())
        sentences += [f"{name} over {other}: {seen}."] if seen else []
    what = "final losses" if number_of == "final_loss" else "errors"
    evidence = f"Ratios of the {what}, medians over the seeds. {' '.join(sentences)}" if outcomes else "Not run here."
    place = "asked for in reviews" if source == CRITICS else "our question"
    return Claim(text, place, source, verdict_of(outcomes), evidence)


_GD, _SGD, _CONSTANT = "gradient descent, s = 1", "SGD in batches of 25, s = 1", "s = 1, no decay of lr"
_LEARNED = ("PReLU", "learned s", "Jagtap")
# Claim, who asked, and which methods end lower than which others if it holds.
_QUESTIONS: tuple[tuple[str, str, list[tuple[str, str]]], ...] = (
    ("Homotopy 0.5 → 1 ends lower than Adam at s = 1 when both rates are tuned", CRITICS, [("0.5 → 1", BASELINE)]),
    ("Relaxation 1 → 1.5 ends lower than Adam at s = 1 when both rates are tuned", CRITICS, [("1 → 1.5", BASELINE)]),
    (
        "Schedules that start Adam and the decay of its rate anew at the switch end lower than s = 1",
        PROJECT,
        [("0.5 → 1, restarted", BASELINE), ("1 → 1.5, restarted", BASELINE)],
    ),
    (
        "It is the switch that helps, not the last s: a schedule ends lower than its last s kept from the start",
        CRITICS,
        [("1 → 1.5", "s = 1.5"), ("0.5 → 1", BASELINE)],
    ),
    ("A constant s above 1 ends lower than s = 1 (Adam)", PROJECT, [("s = 1.5", BASELINE), ("s = 2", BASELINE)]),
    ("Four increasing stages end lower than s = 1", CRITICS, [("0.5 → 1 → 1.5 → 2", BASELINE)]),
    (
        "Decreasing schedules end lower than s = 1",
        CRITICS,
        [("1.5 → 1", BASELINE), ("2 → 1.5 → 1 → 0.5", BASELINE)],
    ),
    (
        "With gradient descent, the setting of the theory, s above 1 ends lower than s = 1",
        CRITICS,
        [("gradient descent, s = 1.5", _GD), ("gradient descent, 1 → 1.5", _GD)],
    ),
    ("With SGD, s = 1.5 ends lower than s = 1", CRITICS, [("SGD in batches of 25, s = 1.5", _SGD)]),
    (
        "Without decay of the learning rate, relaxation 1 → 1.5 ends lower than s = 1",
        CRITICS,
        [("1 → 1.5, no decay of lr", _CONSTANT)],
    ),
    ("Learned activations end lower than s = 1", CRITICS, [(name, BASELINE) for name in _LEARNED]),
    ("Relaxation 1 → 1.5 ends lower than learned activations", CRITICS, [("1 → 1.5", name) for name in _LEARNED]),
)


def judge(final: Mapping[Case, Mapping[str, Runs]]) -> list[Claim]:
    """The claims, from the runs at the tuned rates."""
    clean = {case: methods for case, methods in final.items() if not case.noise}
    noisy = {case: methods for case, methods in final.items() if case.noise}
    claims = [_claim(clean, pairs, text, source) for text, source, pairs in _QUESTIONS]
    if noisy:
        text = "With noise in the targets, s above 1 gives a lower error against the true function"
        pairs = [("1 → 1.5", BASELINE), ("s = 1.5", BASELINE)]
        claims.append(_claim(noisy, pairs, text, number_of="error"))
    return claims


def _table(case: Case, methods: Mapping[str, Runs], rates: Mapping[str, float]) -> Table:
    rows = []
    for name, runs in methods.items():
        loss = Spread.of([run["final_loss"] for run in runs])
        error = Spread.of([run["error"] for run in runs])
        reference = _REFERENCES.get(name, BASELINE)
        against: tuple[object, ...] = ("", "", "", "")
        if name != reference and reference in methods:
            compared = _against(methods, name, reference)
            against = (reference, compared.ratio, compared.p, compared.outcome.value)
        rows.append((name, rates[name], loss.median, loss.low, loss.high, error.median, loss.n_diverged, *against))
    columns = (
        "method", "tuned lr", "final loss", "lower quartile", "upper quartile", "rel. L2 error", "diverged",
        "compared with", "ratio", "p", "outcome",
    )  # fmt: skip
    name = f"baselines_{_slug(case)}"
    return Table(name, f"{case.title}: final training loss at the tuned rate", columns, tuple(rows))


def _slug(case: Case) -> str:
    return case.problem + (f"_n{case.n}" if case.n else "") + ("_noise" if case.noise else "")


def _draw_final(
    final: Mapping[Case, Mapping[str, Runs]], rates: Mapping[Case, Mapping[str, float]], folder: Path, scale: Scale
) -> list[Figure]:
    figures = []
    for case, methods in final.items():
        key, what = (
            ("error", "relative L2 error against sin") if case.noise else ("final_loss", "final training loss R")
        )
        figure, (axis,) = new_figure(8.6, 0.33 * len(methods) + 1.0)
        rows = {f"{name}  (lr {rates[case][name]:g})": [run[key] for run in runs] for name, runs in methods.items()}
        draw_dots(axis, rows, reference=next(iter(rows)), xlabel=what)
        axis.set_title(f"{case.title}: {scale.seeds} seeds at the tuned learning rate", fontsize=10)
        name = f"baselines_{_slug(case)}"
        save_picture(figure, folder / f"{name}.png")
        caption = f"{case.title}. One dot per seed; bars: medians, lines: quartiles, dashed: Adam at s = 1."
        figures.append(Figure(name, caption))
    return figures


def _draw_rates(tuning: Mapping[Case, Mapping[str, Mapping[float, Runs]]], folder: Path) -> Figure:
    """Final loss against learning rate for the methods with constant s and the paper's schedules."""
    shown = ("s = 1", "s = 0.5", "s = 1.5", "s = 2", "0.5 → 1", "1 → 1.5")
    n_rows = (len(tuning) + 1) // 2
    figure, axes = new_figure(11.0, 4.0 * n_rows, rows=n_rows, columns=min(2, len(tuning)))
    for axis, (case, methods) in zip(axes, tuning.items(), strict=False):
        rates = [lr for lr in RATES if lr in next(iter(methods.values()))]
        losses = {name: [[run["final_loss"] for run in by[lr]] for lr in rates] for name, by in methods.items()}
        draw_against(axis, rates, {name: losses[name] for name in shown if name in losses})
        axis.set_xlabel("learning rate")
        axis.set_ylabel("final training loss R")
        axis.set_title(case.title, fontsize=10)
    save_picture(figure, folder / "baselines_rates.png")
    return Figure("baselines_rates", "The coarse tuning: median final loss against Adam's rate, quartiles as bars.")
