"""A homotopy that moves: ramps, switches that keep the function, an adaptive path, beside constant s and the paper's.

Every method gets the same grid of learning rates, the same tuning seeds and the same number of steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hrta_ext.plots import new_figure
from hrta_ext.reproduction.claims import ritz
from hrta_ext.reproduction.claims.baselines import best_rate
from hrta_ext.reproduction.claims.motions import (
    BASELINE,
    BESIDE,
    BY_NAME,
    CASES,
    METHODS,
    RATES,
    SWITCH,
    TUNING_SEEDS,
    Case,
    Method,
)
from hrta_ext.reproduction.page.drawing import Runs, draw_dots, save_picture
from hrta_ext.reproduction.page.sections import PROJECT, Claim, Figure, Scale, Section, Table
from hrta_ext.reproduction.page.verdicts import Comparison, Outcome, Spread, compare, number, verdict_of
from hrta_ext.reproduction.runs.homotopies import Homotopy
from hrta_ext.reproduction.runs.tasks import Results, Task

_DECADES = 2  # of the overview's colours
_DIVERGED = 1e30  # ratios beyond come from runs that count as the highest value


@dataclass(frozen=True)
class HomotopyExperiment:
    """The experiment ``homotopy``."""

    name: str = "homotopy"
    title: str = "A homotopy without the jump: ramps, kept functions, an adaptive path"

    def cases(self, scale: Scale) -> tuple[Case, ...]:
        """The problems of this scale."""
        return CASES[:1] if scale.name == "toy" else CASES[:2] if scale.name == "small" else CASES

    def run(self, scale: Scale, case: Case, method: Method, lr: float, seed: int) -> Homotopy:
        """One training."""
        total = scale.pick(toy=20, small=600, full=case.total)
        first = round(SWITCH * total)
        two_stages = len(method.s) == 2 and method.moves in ("stages", "kept")
        given = {"width": 1000, **case.changes}
        width = min(given.pop("width"), scale.pick(toy=8, small=400, full=1000))
        return Homotopy(
            problem=case.problem, width=width, s=method.s, steps=(first, total - first) if two_stages else (total,),
            optimizer=case.optimizer, lr=lr, restart=method.restart, seed=seed, device=scale.device,
            moves=method.moves, ramp_steps=max(1, round(method.ramp * total)) if method.ramp else 0, **given,
        )  # fmt: skip

    def tuning(self, scale: Scale, case: Case, method: Method, results: Results) -> dict[float, list[Homotopy]]:
        """Learning rate -> the runs that judge it, from seeds that are used for nothing else.

        The coarse grid, and once its results are there two rates beside its best one, but for SGD.
        """
        coarse = RATES[case.optimizer]
        rates = scale.pick(toy=coarse[1:3], small=coarse, full=coarse)
        seeds = scale.pick(toy=TUNING_SEEDS[:1], small=TUNING_SEEDS[:2], full=TUNING_SEEDS)

        def runs(lr: float) -> list[Homotopy]:
            return [self.run(scale, case, method, lr, seed) for seed in seeds]

        grid = {lr: runs(lr) for lr in rates}
        if case.optimizer != "sgd" and all(run.task in results for each in grid.values() for run in each):
            best = self._best(case, grid, results)
            grid |= {lr: runs(lr) for lr in (float(f"{best * factor:.2g}") for factor in BESIDE)}
        return grid

    def _best(self, case: Case, grid: Mapping[float, list[Homotopy]], results: Results) -> float:
        return best_rate(grid, results, case.tuned)

    def rate(self, scale: Scale, case: Case, method: Method, results: Results) -> float:
        """The learning rate that the tuning chose."""
        return self._best(case, self.tuning(scale, case, method, results), results)

    def final(self, scale: Scale, case: Case, method: Method, results: Results) -> list[Homotopy]:
        """The runs that are compared."""
        lr = self.rate(scale, case, method, results)
        return [self.run(scale, case, method, lr, seed) for seed in range(scale.seeds)]

    def tasks(self, scale: Scale, results: Results) -> list[Task]:
        """The tuning, and of every method whose tuning is done the runs at the chosen rate."""
        tasks = []
        for case in self.cases(scale):
            for name in case.methods:
                tuning = self.tuning(scale, case, BY_NAME[name], results)
                tasks += [run.task for runs in tuning.values() for run in runs]
                if all(run.task in results for runs in tuning.values() for run in runs):
                    tasks += [run.task for run in self.final(scale, case, BY_NAME[name], results)]
        return tasks + (ritz.tasks(scale, results) if _has_poisson(scale) else [])

    def section(self, scale: Scale, results: Results, folder: Path) -> Section:
        """Every method against s = 1 on every problem."""
        final: dict[Case, dict[str, Runs]] = {}
        rates: dict[Case, dict[str, float]] = {}
        every: list[Mapping[str, Any]] = []
        for case in self.cases(scale):
            final[case], rates[case] = {}, {}
            for name in case.methods:
                method = BY_NAME[name]
                rates[case][name] = self.rate(scale, case, method, results)
                final[case][name] = [results[run.task] for run in self.final(scale, case, method, results)]
                tuning = self.tuning(scale, case, method, results)
                every += [*final[case][name], *(results[run.task] for runs in tuning.values() for run in runs)]
        return Section(
            name=self.name,
            title=self.title,
            setting=_setting(scale),
            readings=["None of these methods is in the paper; its switch 1 → 1.5 stands beside them."],
            claims=[*judge(final), *(of_poisson(ritz.collect(scale, results).final) if _has_poisson(scale) else [])],
            figures=[_draw_overview(final, folder), *_draw(final, rates, folder, scale)],
            tables=[_table(case, final[case], rates[case]) for case in final],
            n_runs=len(every),
            n_diverged=sum(run["diverged"] for run in every),
            seconds=sum(run["seconds"] for run in every),
        )


def _has_poisson(scale: Scale) -> bool:
    return scale.name != "small"


def _setting(scale: Scale) -> list[str]:
    steps, width = scale.pick(toy=(20, 8), small=(600, 400), full=(8000, 1000))
    but = scale.pick(
        toy="", small="",
        full=", but 2000 with SGD, and 1000 at width 200 for diabetes and at width 100 with three layers",
    )  # fmt: skip
    return [
        "Two-layer ReLU networks, but for those of three layers (two hidden ones, both with the same s, by the torch "
        "engine); all samples at once unless SGD is named, the learning rate falling to 0 by a "
        f"cosine, equal steps of every method of a problem: {steps} steps at width {width}{but}. Shares are those of "
        "all steps; the switch comes after 3/16 of them as in the paper. “Restarted”: Adam's moments and the cosine "
        "start anew there. “Function kept”: fit(keep_function=True). “Adaptive”: AdaptiveHomotopy with its defaults; "
        "it may stop short of the last s. Runs of two-layer networks on the paper's points without noise are in "
        "float64 but for SGD, since float32 ends at 1e-14.",
        f"Every method's learning rate is the best of a grid of half decades (Adam {_listed('adam')}; gradient descent "
        f"{_listed('gd')}; SGD {_listed('sgd')}) and, but for SGD, of two more at {BESIDE[0]:g} and {BESIDE[1]:g} "
        "times the best: the lowest median of the final loss, for diabetes of the error on rows kept for that, over "
        f"{scale.pick(toy=1, small=2, full=3)} tuning seeds. The results are those of {scale.seeds} other seeds.",
        "Cut for time: with SGD the rates beside the best, half of the methods and three quarters of the steps; "
        "with 343 points seven of the twelve methods; with three layers eight, nine tenths of the width and seven "
        "eighths of the steps. The Poisson problem is that of the experiment `poisson` (tables there): the same runs, "
        "by Deep Ritz and by the Sobolev loss, give two of the verdicts here. The small scale has Adam on sin alone.",
    ]


def _listed(optimizer: str) -> str:
    return ", ".join(f"{lr:g}" for lr in RATES[optimizer])


def _against(case: Case, methods: Mapping[str, Runs], name: str, other: str, number_of: str = "") -> Comparison:
    key = number_of or case.judged
    return compare([run[key] for run in methods[name]], [run[key] for run in methods[other]])


def _ratio(compared: Comparison) -> str:
    return number(compared.ratio) if compared.ratio < _DIVERGED else "half diverged"


_MOVING = ("switch 1 → 1.5, function kept", "ramp 1 → 1.5 over 1/2", "ramp 1 → 2 over 1/4", "adaptive 1 → 2")
# Claim, the cases that it is about, and which methods end lower than which others if it holds.
_EXACT = ("sin1d_adam", "sin3d_adam")
_DESCENT = ("sin1d_gd", "sin3d_gd", "sin1d_sgd", "sin3d_sgd")
_ELSEWHERE = ("diabetes_adam", "sin1d_noise_adam")
_DEEP = ("deep1d_adam", "deep3d_adam")
_QUESTIONS: tuple[tuple[str, tuple[str, ...], list[tuple[str, str]]], ...] = (
    ("Without the jump, moving s ends lower than the paper's switch (Adam)", _EXACT,
     [(name, "switch 1 → 1.5") for name in _MOVING]),
    ("A ramp 1 → 1.5 over half of the steps ends lower than s = 1 (Adam)", _EXACT,
     [("ramp 1 → 1.5 over 1/2", BASELINE)]),
    ("A ramp 1 → 2 over a quarter of the steps ends lower than s = 1 (Adam)", _EXACT,
     [("ramp 1 → 2 over 1/4", BASELINE)]),
    ("A short ramp 1 → 2, over a sixteenth of the steps, ends lower than s = 1 (Adam)", _EXACT,
     [("ramp 1 → 2 over 1/16", BASELINE)]),
    ("An adaptive path 1 → 2 ends lower than s = 1 (Adam)", _EXACT, [("adaptive 1 → 2", BASELINE)]),
    ("A switch that keeps the function ends lower than s = 1 (Adam)", _EXACT,
     [("switch 1 → 1.5, function kept", BASELINE)]),
    ("It is the motion that helps: a ramp ends lower than its last s kept from the start (Adam)", _EXACT,
     [("ramp 1 → 1.5 over 1/2", "s = 1.5"), ("ramp 1 → 2 over 1/4", "s = 2")]),
    ("A ramp down, 2 → 1, ends lower than s = 1 (Adam)", _EXACT, [("ramp 2 → 1 over 1/4", BASELINE)]),
    ("A ramp in the paper's first direction, 0.5 → 1, ends lower than s = 1 (Adam)", _EXACT,
     [("ramp 0.5 → 1 over 1/4", BASELINE)]),
    ("With gradient descent and SGD, a ramp up ends lower than s = 1", _DESCENT,
     [("ramp 1 → 1.5 over 1/2", BASELINE), ("ramp 1 → 2 over 1/4", BASELINE)]),
    ("With gradient descent and SGD, a ramp ends lower than s = 1.5 from the start", _DESCENT,
     [("ramp 1 → 1.5 over 1/2", "s = 1.5"), ("ramp 1 → 2 over 1/4", "s = 1.5")]),
    ("With 343 points, a ramp up or s = 1.5 from the start ends lower than s = 1 (Adam)", ("sin3d_many_adam",),
     [("ramp 1 → 1.5 over 1/2", BASELINE), ("s = 1.5", BASELINE)]),
    ("With 343 points, an adaptive path 1 → 2 ends lower than s = 1 (Adam)", ("sin3d_many_adam",),
     [("adaptive 1 → 2", BASELINE)]),
    ("With three layers, a ramp 1 → 1.5 over half of the steps ends lower than s = 1 (Adam)", _DEEP,
     [("ramp 1 → 1.5 over 1/2", BASELINE)]),
    ("With three layers, a ramp 1 → 1.5 ends lower than the paper's switch (Adam)", _DEEP,
     [("ramp 1 → 1.5 over 1/2", "switch 1 → 1.5")]),
    ("With three layers, s = 1.5 from the start ends lower than s = 1 (Adam)", _DEEP, [("s = 1.5", BASELINE)]),
    ("On a measured table and with noise, a ramp up gives a lower error than s = 1 (Adam)", _ELSEWHERE,
     [("ramp 1 → 1.5 over 1/2", BASELINE), ("ramp 1 → 2 over 1/4", BASELINE)]),
)  # fmt: skip


# Asked, or asked of these pairs, only once results had been seen; so were the errors off the training points.
_LATER = (
    "A ramp 1 → 1.5 over half of the steps ends lower than s = 1 (Adam)",
    "A short ramp 1 → 2, over a sixteenth of the steps, ends lower than s = 1 (Adam)",
    "With gradient descent and SGD, a ramp up ends lower than s = 1",
    "With gradient descent and SGD, a ramp ends lower than s = 1.5 from the start",
    "With 343 points, a ramp up or s = 1.5 from the start ends lower than s = 1 (Adam)",
    "On a measured table and with noise, a ramp up gives a lower error than s = 1 (Adam)",
)
_ERRORS: tuple[tuple[str, tuple[str, ...], list[tuple[str, str]]], ...] = (
    ("A ramp up has a lower error off the training points than s = 1 (Adam)", _EXACT,
     [("ramp 1 → 1.5 over 1/2", BASELINE), ("ramp 1 → 2 over 1/4", BASELINE)]),
    ("A constant s above 1 has a lower error off the training points than s = 1 (Adam)", _EXACT,
     [("s = 1.5", BASELINE), ("s = 2", BASELINE)]),
)  # fmt: skip


def judge(final: Mapping[Case, Mapping[str, Runs]]) -> list[Claim]:
    """The claims, from the runs at the tuned rates."""
    claims = []
    questions = [(question, "") for question in _QUESTIONS] + [(question, "error") for question in _ERRORS]
    for (text, names, pairs), number_of in questions:
        outcomes, sentences = [], []
        for name, other in pairs:
            compared = {
                case.title: _against(case, methods, name, other, number_of)
                for case, methods in final.items()
                if case.name in names and name in methods and other in methods
            }
            outcomes += [comparison.outcome for comparison in compared.values()]
            seen = "; ".join(f"{_ratio(c)} in {title} ({c.outcome.value})" for title, c in compared.items())
            sentences += [f"{name} over {other}: {seen}."] if seen else []
        evidence = f"Ratios, medians over the seeds. {' '.join(sentences)}" if outcomes else "Not run here."
        place = "seen after the runs" if number_of or text in _LATER else "our question"
        claims.append(Claim(text, place, PROJECT, verdict_of(outcomes), evidence))
    return claims


def of_poisson(final: ritz.Final) -> list[Claim]:
    """The claims on the Poisson problem, from the runs of the experiment ``poisson``."""
    ramp, claims = "ramp 1 → 1.5 over 1/2", []
    for text, other in (("s = 1", ritz.BASELINE), ("the paper's switch 1 → 1.5", "HRTA 1 → 1.5")):
        compared = {
            ritz.TITLES[form]: compare(*([run["error"] for run in methods[name]] for name in (ramp, other)))
            for form, methods in final.items()
        }
        verdict = verdict_of([each.outcome for each in compared.values()])
        seen = "; ".join(f"{_ratio(each)} by {form} ({each.outcome.value})" for form, each in compared.items())
        claims.append(
            Claim(
                f"On the Poisson problem, a ramp 1 → 1.5 has a lower error than {text} (Adam)",
                "seen after the runs",
                PROJECT,
                verdict,
                f"Ratios, medians over the seeds. {ramp} over {other}: {seen}.",
            )
        )
    return claims


def _table(case: Case, methods: Mapping[str, Runs], rates: Mapping[str, float]) -> Table:
    rows = []
    for name, runs in methods.items():
        judged = Spread.of([run[case.judged] for run in runs])
        loss, error = (Spread.of([run[key] for run in runs]).median for key in ("final_loss", "error"))
        against: tuple[object, ...] = ("", "", "")
        if name != BASELINE:
            compared = _against(case, methods, name, BASELINE)
            against = (compared.ratio, compared.p, compared.outcome.value)
        last_s = Spread.of([run["last_s"] for run in runs]).median
        rows.append(
            (
                name,
                rates[name],
                judged.median,
                judged.low,
                judged.high,
                judged.n_diverged,
                loss,
                error,
                last_s,
                *against,
            )
        )
    what = {"final_loss": "final loss", "h1_error": "rel. H1 error", "error": "rel. L2 error"}[case.judged]
    columns = (
        "method", "tuned lr", what, "lower quartile", "upper quartile", "diverged", "median training loss",
        "median test error", "last s", "ratio to s = 1", "p", "outcome",
    )  # fmt: skip
    return Table(f"homotopy_{case.name}", f"{case.title}: at the tuned rate", columns, tuple(rows))


def _draw_overview(final: Mapping[Case, Mapping[str, Runs]], folder: Path) -> Figure:
    """Every method on every problem: the ratio to s = 1, and an arrow where the rule calls it lower or higher."""
    names = [method.name for method in METHODS if method.name != BASELINE]
    figure, (axis,) = new_figure(3.6 + 0.95 * len(final), 0.4 * len(names) + 2.6)
    colors = np.full((len(names), len(final)), np.nan)
    for column, (case, methods) in enumerate(final.items()):
        for row, name in enumerate(names):
            if name in methods:
                compared = _against(case, methods, name, BASELINE)
                colors[row, column] = np.clip(np.log10(max(compared.ratio, 1e-300)), -_DECADES, _DECADES)
                arrow = {Outcome.LOWER: "↓ ", Outcome.HIGHER: "↑ "}.get(compared.outcome, "")
                weight = "bold" if arrow else "normal"
                text = f"{arrow}{_ratio(compared)}"
                axis.text(column, row, text, ha="center", va="center", fontsize=8, fontweight=weight)
    axis.imshow(colors, cmap="PuOr_r", vmin=-2 * _DECADES, vmax=2 * _DECADES, aspect="auto")
    axis.set_xticks(range(len(final)), [case.title for case in final], rotation=35, ha="right", fontsize=8)
    axis.set_yticks(range(len(names)), names)
    axis.grid(False)
    axis.set_title("ratio to s = 1: ↓ lower, ↑ higher", fontsize=10)
    save_picture(figure, folder / "homotopy_overview.png")
    return Figure(
        "homotopy_overview",
        "Ratios to s = 1 of what each problem is judged by, medians over the seeds. Without an arrow: no difference; "
        "white: not run.",
    )


def _draw(
    final: Mapping[Case, Mapping[str, Runs]], rates: Mapping[Case, Mapping[str, float]], folder: Path, scale: Scale
) -> list[Figure]:
    figures = []
    for case, methods in final.items():
        what = {"final_loss": "final training loss R", "h1_error": "relative H1 error"}.get(
            case.judged, "relative L2 error"
        )
        figure, (axis,) = new_figure(8.6, 0.33 * len(methods) + 1.0)
        rows = {f"{name}  (lr {rates[case][name]:g})": [run[case.judged] for run in runs]
                for name, runs in methods.items()}  # fmt: skip
        draw_dots(axis, rows, reference=next(iter(rows)), xlabel=what)
        axis.set_title(f"{case.title}: {scale.seeds} seeds at the tuned learning rate", fontsize=10)
        save_picture(figure, folder / f"homotopy_{case.name}.png")
        caption = f"{case.title}. One dot per seed; bars: medians, lines: quartiles, dashed: s = 1."
        figures.append(Figure(f"homotopy_{case.name}", caption))
    return figures
