"""The part of ``poisson`` that solves the equation: Deep Ritz beside the Sobolev loss, alike in all but the loss.

Both forms and all methods get the same width, steps, learning rates to choose from and tuning seeds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hrta_ext.plots import new_figure
from hrta_ext.reproduction.claims.baselines import best_rate
from hrta_ext.reproduction.page.drawing import Runs, draw_curves, draw_dots, save_picture
from hrta_ext.reproduction.page.sections import CRITICS, PAPER, PROJECT, Claim, Figure, Scale, Table
from hrta_ext.reproduction.page.verdicts import (
    Comparison,
    Outcome,
    Spread,
    Verdict,
    compare,
    number,
    verdict_of,
    verdict_of_checks,
)
from hrta_ext.reproduction.runs.equations import RITZ, SOBOLEV, EquationTraining
from hrta_ext.reproduction.runs.tasks import Results, Task

TITLES = {RITZ: "Deep Ritz", SOBOLEV: "Sobolev"}
RATES = (1e-2, 3e-2, 1e-1, 3e-1)
TUNING_SEEDS = (1000, 1001)
BASELINE = "s = 1"


@dataclass(frozen=True)
class Method:
    """How s moves; ``ramp`` is a share of all steps."""

    s: tuple[float, ...]
    ramp: float = 0.0


METHODS = {
    BASELINE: Method((1.0,)),
    "HRTA 0.5 → 1": Method((0.5, 1.0)),
    "HRTA 1 → 1.5": Method((1.0, 1.5)),
    "s = 0.5": Method((0.5,)),
    "s = 1.5": Method((1.5,)),
    "ramp 1 → 1.5 over 1/2": Method((1.0, 1.5), 1 / 2),
}
_FIRST = 16 / 29  # of all steps: the paper's 16 000 + 13 000
Final = Mapping[str, Mapping[str, Runs]]  # form -> method -> results of the seeds


@dataclass(frozen=True)
class Solved:
    """Everything that was run: results at the tuned rates, the rates, and how much work it was."""

    final: Final
    rates: Mapping[str, Mapping[str, float]]
    every: Runs


def total_steps(scale: Scale) -> int:
    """Steps of every run."""
    steps: int = scale.pick(toy=8, small=300, full=500)
    return steps


def run(scale: Scale, form: str, name: str, lr: float, seed: int) -> EquationTraining:
    """One training."""
    method, total = METHODS[name], total_steps(scale)
    first = round(_FIRST * total)
    two_stages = len(method.s) == 2 and not method.ramp
    return EquationTraining(
        "poisson", base="relu2", width=scale.pick(toy=8, small=200, full=1000), s=method.s, lr=lr, seed=seed,
        steps=(first, total - first) if two_stages else (total,), ramp_steps=round(method.ramp * total), form=form,
        device=scale.device, points=scale.pick(toy=16, small=400, full=400),
    )  # fmt: skip


def tuning(scale: Scale, form: str, name: str) -> dict[float, list[EquationTraining]]:
    """Learning rate -> the runs that judge it, from seeds that are used for nothing else."""
    rates = scale.pick(toy=RATES[2:3], small=RATES, full=RATES)
    seeds = scale.pick(toy=TUNING_SEEDS[:1], small=TUNING_SEEDS, full=TUNING_SEEDS)
    return {lr: [run(scale, form, name, lr, seed) for seed in seeds] for lr in rates}


def final_runs(scale: Scale, form: str, name: str, results: Results) -> list[EquationTraining]:
    """The runs that are compared, at the rate that the tuning chose; none as long as that is not done."""
    grid = tuning(scale, form, name)
    if not all(each.task in results for runs in grid.values() for each in runs):
        return []
    lr = best_rate(grid, results, "error")
    return [run(scale, form, name, lr, seed) for seed in range(scale.seeds)]


def tasks(scale: Scale, results: Results) -> list[Task]:
    """The tuning, and of every method whose tuning is done the runs at the chosen rate."""
    found = []
    for form in TITLES:
        for name in METHODS:
            found += [each.task for runs in tuning(scale, form, name).values() for each in runs]
            found += [each.task for each in final_runs(scale, form, name, results)]
    return found


def collect(scale: Scale, results: Results) -> Solved:
    """All results, once every task has one."""
    chosen = {form: {name: final_runs(scale, form, name, results) for name in METHODS} for form in TITLES}
    final = {
        form: {name: [results[each.task] for each in runs] for name, runs in methods.items()}
        for form, methods in chosen.items()
    }
    rates = {form: {name: runs[0].lr for name, runs in methods.items()} for form, methods in chosen.items()}
    tuned = [
        results[each.task]
        for form in TITLES
        for name in METHODS
        for runs in tuning(scale, form, name).values()
        for each in runs
    ]
    return Solved(final, rates, [*tuned, *(each for m in final.values() for runs in m.values() for each in runs)])


def setting(scale: Scale) -> str:
    """What was run, for the page."""
    rates = ", ".join(f"{lr:g}" for lr in tuning(scale, RITZ, BASELINE))
    width = run(scale, RITZ, BASELINE, 1.0, 0).width
    return (
        "By the Deep Ritz form, which knows -Δu alone: the energy |∇f|²/2 - π²(cos πx₁ + cos πx₂) f, integrated over "
        "400 new points of a scrambled Sobol' sequence at every step, and (mean f)²/2, since without a condition on "
        "the boundary u is known up to a constant. Beside it the Sobolev loss above, which is given u* and ∇u* on its "
        f"grid. Both forms: width {width}, {total_steps(scale)} steps of Adam, the rate falling to 0 by a cosine, the "
        f"rate of each method and form the best of {rates} by the median error of "
        f"{len(next(iter(tuning(scale, RITZ, BASELINE).values())))} tuning seeds; {scale.seeds} other seeds are "
        "compared. Errors are relative in L2 on a 101 x 101 grid, after removing the means of f and u*. Cut for time: "
        "the steps, which are far fewer than those above."
    )


def _against(final: Final, form: str, name: str, quantity: str = "error") -> Comparison:
    ours, theirs = final[form][name], final[form][BASELINE]
    return compare([each[quantity] for each in ours], [each[quantity] for each in theirs])


def judge(final: Final) -> list[Claim]:
    """Every method against s = 1 by the error of the Deep Ritz form, and Deep Ritz against Sobolev."""

    def claim(text: str, place: str, source: str, *names: str, form: str = RITZ) -> Claim:
        other = RITZ if form == SOBOLEV else SOBOLEV
        sentences, outcomes = [], []
        for name in names:
            error, slope = (_against(final, form, name, key) for key in ("error", "gradient_error"))
            beside = _against(final, other, name)
            outcomes.append(error.outcome)
            sentences.append(
                f"{name}: error {number(error.ratio)} times that of s = 1 ({error.outcome.value}, "
                f"p = {number(error.p)}), of the gradient {number(slope.ratio)} times ({slope.outcome.value}); by "
                f"{TITLES[other]} at this size {number(beside.ratio)} times ({beside.outcome.value})."
            )
        return Claim(text, place, source, verdict_of(outcomes), " ".join(sentences))

    paper = "Section 4.2, Example 3"
    claims = [
        claim("By Deep Ritz, 0.5 → 1 has a lower error than s = 1", paper, PAPER, "HRTA 0.5 → 1"),
        claim("By Deep Ritz, 1 → 1.5 has a lower error than s = 1", paper, PAPER, "HRTA 1 → 1.5"),
        claim("By Deep Ritz, another constant s has a lower error than s = 1", "asked for in reviews", CRITICS,
              "s = 0.5", "s = 1.5"),
        claim("By Deep Ritz, a ramp up has a lower error than s = 1", "our question", PROJECT,
              "ramp 1 → 1.5 over 1/2"),
        claim("By the Sobolev loss in as few steps, a ramp up has a lower error than s = 1", "seen after the runs",
              PROJECT, "ramp 1 → 1.5 over 1/2", form=SOBOLEV),
    ]  # fmt: skip
    compared = {
        name: compare([each["error"] for each in final[RITZ][name]], [each["error"] for each in final[SOBOLEV][name]])
        for name in METHODS
    }
    outcomes = [each.outcome for each in compared.values()]
    known = [outcome is not Outcome.HIGHER for outcome in outcomes]
    verdict = Verdict.OPEN if Outcome.OPEN in outcomes else verdict_of_checks(known)
    evidence = "Error over that of the Sobolev loss, in as many steps: " + "; ".join(
        f"{name}: {number(each.ratio)} ({each.outcome.value})" for name, each in compared.items()
    )
    text = "The energy, which does not know the solution, leaves no higher error than the loss that is given it"
    return [*claims, Claim(text, "our question", PROJECT, verdict, f"{evidence}.")]


def table(solved: Solved) -> Table:
    """Both forms, every method at its tuned rate."""
    rows: list[tuple[Any, ...]] = []
    for form, methods in solved.final.items():
        for name, runs in methods.items():
            error, slope = (Spread.of([each[key] for each in runs]) for key in ("error", "gradient_error"))
            against: tuple[Any, ...] = ("", "", "")
            if name != BASELINE:
                compared = _against(solved.final, form, name)
                against = (compared.ratio, compared.p, compared.outcome.value)
            of_error, of_slope = ((each.median, each.low, each.high) for each in (error, slope))
            lr = solved.rates[form][name]
            rows.append((TITLES[form], name, lr, *of_error, *of_slope, error.n_diverged, *against))
    parts = ("", ", lower quartile", ", upper quartile")
    columns = (
        "form", "method", "tuned lr", *(f"relative L2 error{part}" for part in parts),
        *(f"relative error of the gradient{part}" for part in parts), "diverged",
        "error ratio to s = 1", "p", "against s = 1",
    )  # fmt: skip
    title = "Both forms at their tuned rates: medians and quartiles over the seeds, means removed"
    return Table("poisson_ritz", title, columns, tuple(rows))


def draw(solved: Solved, folder: Path, scale: Scale) -> list[Figure]:
    """Errors at the end, and in the course of the training."""
    figure, axes = new_figure(11.0, 3.2, columns=2)
    for axis, (form, methods) in zip(axes, solved.final.items(), strict=True):
        rows = {f"{name}  (lr {solved.rates[form][name]:g})": [each["error"] for each in runs]
                for name, runs in methods.items()}  # fmt: skip
        draw_dots(axis, rows, reference=next(iter(rows)), xlabel="relative L2 error, means removed")
        axis.set_title(TITLES[form], fontsize=10)
    save_picture(figure, folder / "poisson_ritz_errors.png")
    figure, axes = new_figure(11.0, 4.2, columns=2)
    for axis, (form, methods) in zip(axes, solved.final.items(), strict=True):
        shown = {name: [_as_curve(each) for each in runs] for name, runs in methods.items()}
        draw_curves(axis, shown)
        axis.set_ylabel("relative L2 error, means removed")
        axis.set_title(TITLES[form], fontsize=10)
    save_picture(figure, folder / "poisson_ritz_curves.png")
    dots = f"Both forms: one dot per seed ({scale.seeds}); bars: medians, lines: quartiles, dashed: s = 1."
    curves = "Errors in the course of the training: medians of the seeds, quartiles as bands."
    return [Figure("poisson_ritz_errors", dots), Figure("poisson_ritz_curves", curves)]


def _as_curve(result: Mapping[str, Any]) -> Mapping[str, Any]:
    return {**result, "curve": {"step": result["curve"]["step"], "loss": result["curve"]["error"]}}
