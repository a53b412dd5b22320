"""Does anything carry over to measured data: two tables that ship with scikit-learn, errors on rows held out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from hrta_ext import with_bias
from hrta_ext.plots import new_figure
from hrta_ext.reproduction.page.drawing import Runs, draw_dots, save_picture
from hrta_ext.reproduction.page.sections import CRITICS, PAPER, PROJECT, Claim, Figure, Scale, Section, Table
from hrta_ext.reproduction.page.verdicts import Comparison, Spread, compare, number, verdict_of
from hrta_ext.reproduction.runs.problems import make_problem
from hrta_ext.reproduction.runs.tasks import Results, Task
from hrta_ext.reproduction.runs.trainings import Training

RATES = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
TUNING_SEEDS = (1000, 1001, 1002)
BASELINE = "s = 1"
TABLES = {"diabetes": "diabetes (442 rows, 10 columns)", "digits": "digits (1797 rows, 64 columns)"}
_TWO = (0.25, 0.75)  # shares of the steps
METHODS: dict[str, dict[str, Any]] = {
    BASELINE: {"s": (1.0,)},
    "s = 0.5": {"s": (0.5,)},
    "s = 1.5": {"s": (1.5,)},
    "s = 2": {"s": (2.0,)},
    "HRTA 0.5 → 1": {"s": (0.5, 1.0)},
    "HRTA 1 → 1.5": {"s": (1.0, 1.5)},
    "2 → 1": {"s": (2.0, 1.0)},
    "PReLU": {"network": "prelu"},
    "learned s": {"network": "learned_s"},
    "Jagtap": {"network": "jagtap"},
}
LINEAR = "linear regression"


@dataclass(frozen=True)
class Real:
    """The experiment ``real``."""

    name: str = "real"
    title: str = "Measured data: two regression tables"

    def run(self, scale: Scale, table: str, method: str, lr: float, seed: int) -> Training:
        """One training."""
        total = scale.pick(toy=8, small=160, full=1000)
        options = {"s": (1.0,), **METHODS[method]}
        steps = tuple(round(share * total) for share in _TWO) if len(options["s"]) == 2 else (total,)
        width = scale.pick(toy=8, small=200, full=200)
        return Training(table, width=width, steps=steps, lr=lr, seed=seed, device=scale.device, **options)

    def tuning(self, scale: Scale, table: str, method: str) -> dict[float, list[Training]]:
        """Learning rate -> runs on splits that are used for nothing else."""
        rates = scale.pick(toy=RATES[2:4], small=RATES, full=RATES)
        seeds = scale.pick(toy=TUNING_SEEDS[:1], small=TUNING_SEEDS[:2], full=TUNING_SEEDS)
        return {lr: [self.run(scale, table, method, lr, seed) for seed in seeds] for lr in rates}

    def rate(self, scale: Scale, table: str, method: str, results: Results) -> float:
        """The rate with the lowest median validation error; the lower one of equals."""
        medians = {
            lr: Spread.of([results[run.task]["validation_error"] for run in runs]).median
            for lr, runs in self.tuning(scale, table, method).items()
        }
        return min(medians, key=lambda lr: (medians[lr], lr))

    def final(self, scale: Scale, table: str, method: str, results: Results) -> list[Training]:
        """The runs that are compared."""
        lr = self.rate(scale, table, method, results)
        return [self.run(scale, table, method, lr, seed) for seed in range(scale.seeds)]

    def tasks(self, scale: Scale, results: Results) -> list[Task]:
        """The tuning and the linear fits, and of every method that is tuned the runs at its rate."""
        tasks = []
        for table in TABLES:
            tasks += [linear_task(table, seed) for seed in range(scale.seeds)]
            for method in METHODS:
                tuning = [run.task for runs in self.tuning(scale, table, method).values() for run in runs]
                tasks += tuning
                if all(task in results for task in tuning):
                    tasks += [run.task for run in self.final(scale, table, method, results)]
        return tasks

    def section(self, scale: Scale, results: Results, folder: Path) -> Section:
        """Errors on held-out rows, and final training losses, against s = 1."""
        final: dict[str, dict[str, Runs]] = {
            table: {m: [results[run.task] for run in self.final(scale, table, m, results)] for m in METHODS}
            for table in TABLES
        }
        rates = {table: {m: self.rate(scale, table, m, results) for m in METHODS} for table in TABLES}
        linear = {table: [results[linear_task(table, seed)] for seed in range(scale.seeds)] for table in TABLES}
        tuned = [
            results[run.task]
            for table in TABLES
            for m in METHODS
            for runs in self.tuning(scale, table, m).values()
            for run in runs
        ]
        all_runs = [run for methods in final.values() for runs in methods.values() for run in runs] + tuned
        example = self.run(scale, "diabetes", BASELINE, RATES[0], 0)
        return Section(
            name=self.name,
            title=self.title,
            setting=[
                "Two tables of scikit-learn: diabetes (progression of the disease), digits (the digit as a number "
                "from 64 grey values). 60% of the rows to train on, 20% to choose the learning rate, 20% for the "
                f"error; a new split for each of {scale.seeds} seeds. Columns scaled by the training rows.",
                f"Two-layer ReLU networks of width {example.width}, full-batch Adam, {sum(example.steps)} steps, a "
                "quarter of them before a switch, the rate falling to 0 by a cosine. Every method's rate is the best "
                f"of {', '.join(f'{lr:g}' for lr in RATES)} by the median validation error over "
                f"{scale.pick(toy=1, small=2, full=3)} other seeds. The error is |f - y| / |y| on the rows held out, "
                "y standardised: 1 is no better than the mean. No early stopping.",
            ],
            readings=["The paper has no such data; its reviewers asked for tasks beyond sin. All settings are ours."],
            claims=judge(final, linear),
            figures=[_draw(final, linear, rates, folder, scale)],
            tables=[_table(final, linear, rates)],
            n_runs=len(all_runs),
            n_diverged=sum(run["diverged"] for run in all_runs),
            seconds=sum(run["seconds"] for run in all_runs),
        )


def linear_task(table: str, seed: int) -> Task:
    """Least squares on the split of a seed."""
    return Task.of("real.linear_regression", {"problem": table, "seed": seed}, 0.05)


def linear_regression(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """``error``, the relative error on the held-out rows of least squares with an intercept."""
    problem = make_problem(parameters["problem"], seed=parameters["seed"])
    x, y = with_bias(problem.x.double()), problem.y.double()
    solution = torch.linalg.lstsq(x, y[:, None], driver="gelsd").solution[:, 0]
    residual = with_bias(problem.x_test.double()) @ solution - problem.y_test.double()
    return {"error": float(residual.norm() / problem.y_test.double().norm())}


def _errors(runs: Sequence[Mapping[str, Any]], quantity: str = "error") -> list[float | None]:
    return [run[quantity] for run in runs]


def judge(final: Mapping[str, Mapping[str, Runs]], linear: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[Claim]:
    """The methods against s = 1 by the error on held-out rows, and by the training loss."""

    def claim(text: str, source: str, names: Sequence[str], quantity: str = "error") -> Claim:
        compared: dict[str, Comparison] = {
            f"{name}, {table}": compare(_errors(methods[name], quantity), _errors(methods[BASELINE], quantity))
            for table, methods in final.items()
            for name in names
        }
        outcomes = [comparison.outcome for comparison in compared.values()]
        listed = "; ".join(f"{name} {number(c.ratio)} ({c.outcome.value})" for name, c in compared.items())
        what = "held-out error" if quantity == "error" else "final training loss"
        place = "Section 4.1, on other data" if source == PAPER else "asked for in reviews"
        return Claim(text, place, source, verdict_of(outcomes), f"Ratios of the {what} to that of s = 1: {listed}.")

    above_linear = {
        table: compare(_errors(methods[BASELINE]), _errors(linear[table])) for table, methods in final.items()
    }
    schedules = ("HRTA 0.5 → 1", "HRTA 1 → 1.5")
    return [
        claim("HRTA reaches lower errors than training at s = 1", PAPER, schedules),
        claim("HRTA reaches lower training losses than training at s = 1", PAPER, schedules, "final_loss"),
        claim("A constant s other than 1 reaches lower errors", CRITICS, ("s = 0.5", "s = 1.5", "s = 2")),
        claim("A decreasing schedule reaches lower errors", CRITICS, ("2 → 1",)),
        claim("Learned activations reach lower errors", CRITICS, ("PReLU", "learned s", "Jagtap")),
        Claim(
            "The network at s = 1 reaches lower errors than linear regression",
            "our question",
            PROJECT,
            verdict_of([comparison.outcome for comparison in above_linear.values()]),
            " ".join(c.sentence(f"{table}: s = 1", LINEAR) + "." for table, c in above_linear.items()),
        ),
    ]


def _table(
    final: Mapping[str, Mapping[str, Runs]],
    linear: Mapping[str, Sequence[Mapping[str, Any]]],
    rates: Mapping[str, Mapping[str, float]],
) -> Table:
    rows: list[tuple[object, ...]] = []
    for table, methods in final.items():
        base = _errors(methods[BASELINE])
        for name, runs in methods.items():
            error, loss, against = (
                Spread.of(_errors(runs)),
                Spread.of(_errors(runs, "final_loss")),
                compare(_errors(runs), base),
            )
            last = ("", "", "") if name == BASELINE else (against.ratio, against.p, against.outcome.value)
            rows.append(
                (
                    table,
                    name,
                    rates[table][name],
                    error.median,
                    error.low,
                    error.high,
                    loss.median,
                    error.n_diverged,
                    *last,
                )
            )
        error, against = Spread.of(_errors(linear[table])), compare(_errors(linear[table]), base)
        last = (against.ratio, against.p, against.outcome.value)
        rows.append((table, LINEAR, "", error.median, error.low, error.high, "", 0, *last))
    head = (
        "table", "method", "tuned lr", "held-out error", "lower quartile", "upper quartile", "final training loss",
        "diverged", "ratio to s = 1", "p", "against s = 1",
    )  # fmt: skip
    return Table("real", "Relative error on held-out rows: medians and quartiles over the seeds", head, tuple(rows))


def _draw(
    final: Mapping[str, Mapping[str, Runs]],
    linear: Mapping[str, Sequence[Mapping[str, Any]]],
    rates: Mapping[str, Mapping[str, float]],
    folder: Path,
    scale: Scale,
) -> Figure:
    figure, axes = new_figure(11.0, 4.2, columns=2)
    for axis, (table, methods) in zip(axes, final.items(), strict=True):
        rows = {f"{name}  (lr {rates[table][name]:g})": _errors(runs) for name, runs in methods.items()}
        rows[LINEAR] = _errors(linear[table])
        draw_dots(axis, rows, reference=next(iter(rows)), xlabel="relative error on held-out rows")
        axis.set_title(TABLES[table], fontsize=10)
    save_picture(figure, folder / "real.png")
    return Figure(
        "real", f"One dot per seed and split ({scale.seeds}); bars: medians, lines: quartiles, dashed: s = 1."
    )
