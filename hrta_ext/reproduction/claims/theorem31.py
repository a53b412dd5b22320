"""Theorem 3.1: the smallest eigenvalue of the Gram matrices against s, at infinite and at finite width."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hrta_ext import infinite_gram, random_gram_path, square_law, with_bias
from hrta_ext.plots import COLORS, line_style, new_figure
from hrta_ext.reproduction.page.drawing import draw_against, save_picture
from hrta_ext.reproduction.page.sections import PAPER, PROJECT, Claim, Figure, Scale, Section, Table
from hrta_ext.reproduction.page.verdicts import FloatArray, Verdict, number, verdict_of_checks
from hrta_ext.reproduction.runs.problems import make_problem
from hrta_ext.reproduction.runs.tasks import Results, Task

S_VALUES = tuple(round(0.1 * k, 1) for k in range(1, 21))
KERNELS = ("a", "w", "ntk")
NAMES = {"a": "K[a]", "w": "K[w]", "ntk": "NTK"}
DIMENSIONS = {1: "d = 1, 100 points", 3: "d = 3, 125 points"}
_PAPER_WIDTHS = (200, 400, 1000)
_ONE = S_VALUES.index(1.0)

Spectra = Mapping[str, FloatArray]  # kernel -> (S, 2): lowest and highest eigenvalue, or (S,) of one of them


@dataclass(frozen=True)
class Theorem31:
    """The experiment ``theorem31``."""

    name: str = "theorem31"
    title: str = "Theorem 3.1: the smallest eigenvalue grows with s"

    def widths(self, scale: Scale) -> tuple[int, ...]:
        """Finite widths; the last has few seeds."""
        widths: tuple[int, ...] = scale.pick(
            toy=(200, 300), small=(*_PAPER_WIDTHS, 10_000), full=(*_PAPER_WIDTHS, 10_000, 100_000, 1_000_000)
        )
        return widths

    def finite(self, scale: Scale, d: int, width: int) -> list[Task]:
        """One task per draw of the weights."""
        seeds = min(scale.seeds, 4) if width >= 1_000_000 else scale.seeds
        return [_task(scale, d, width, seed) for seed in range(seeds)]

    def tasks(self, scale: Scale, results: Results) -> list[Task]:
        """Both data sets at infinite width and at every finite one."""
        finite = [task for d in DIMENSIONS for width in self.widths(scale) for task in self.finite(scale, d, width)]
        return [*(_task(scale, d, None, 0) for d in DIMENSIONS), *finite]

    def section(self, scale: Scale, results: Results, folder: Path) -> Section:
        """Judge the theorem, the s^2 law and what is left of both at finite width."""
        infinite = {d: _arrays(results[_task(scale, d, None, 0)]) for d in DIMENSIONS}
        finite = {
            d: {
                width: [_arrays(results[task]) for task in self.finite(scale, d, width)] for width in self.widths(scale)
            }
            for d in DIMENSIONS
        }
        return Section(
            name=self.name,
            title=self.title,
            setting=[
                "Gram matrices of ReLU networks on the paper's points with the constant 1 appended: 100 uniform points "
                "on [0, 1], and the 5 x 5 x 5 grid on [0, 1]³; s = 0.1, 0.2, ..., 2. Infinite width in closed form, "
                f"finite widths {', '.join(f'{width:,}' for width in self.widths(scale))} with weights drawn N(0, 1), "
                f"{scale.seeds} draws each ({min(scale.seeds, 4)} for a million neurons); everything in float64. "
                "An eigenvalue below 1e-16 n times the largest counts as 0: rounding could have made it.",
            ],
            readings=["The theorem's formula did not survive; its proof and Remark 3 say what it claims."],
            claims=judge(infinite, finite),
            figures=[
                _draw_smallest(infinite, finite, folder),
                _draw_condition(infinite, folder),
                _draw_width(infinite, finite, folder),
            ],
            tables=[_table(infinite, finite)],
        )


def _task(scale: Scale, d: int, width: int | None, seed: int) -> Task:
    seconds = 0.1 if width is None else 0.05 + 4e-6 * width * (1 if d == 1 else 2)
    parameters: dict[str, Any] = {"d": d, "width": width, "seed": seed}
    if scale.device != "cpu":  # keys of results that are there do not know it
        parameters["device"] = scale.device
    return Task.of("theorem31.spectra", parameters, seconds)


def spectra(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Lowest and highest eigenvalue, trace and entries' scale of G^[a], G^[w] and the NTK at every s of S_VALUES."""
    x = with_bias(make_problem(f"sin{parameters['d']}d").x.double().to(parameters.get("device", "cpu")))
    if parameters["width"] is None:
        gram = infinite_gram(x, list(S_VALUES))
    else:
        gram = random_gram_path(x, parameters["width"], seed=parameters["seed"])(list(S_VALUES))
    kept: dict[str, Any] = {}
    for kernel in KERNELS:
        matrices = getattr(gram, kernel).cpu()
        eigenvalues = torch.linalg.eigvalsh(matrices)
        kept[kernel] = {
            "lowest": eigenvalues[:, 0].tolist(),
            "highest": eigenvalues[:, -1].tolist(),
            "trace": matrices.diagonal(dim1=1, dim2=2).sum(1).tolist(),
        }
    return kept


def _arrays(result: Mapping[str, Any]) -> dict[str, dict[str, FloatArray]]:
    """A result as arrays, eigenvalues that rounding could have made set to 0."""
    arrays = {kernel: {name: np.array(values) for name, values in result[kernel].items()} for kernel in KERNELS}
    for values in arrays.values():
        values["lowest"] = np.where(values["lowest"] > resolution(values["highest"]), values["lowest"], 0.0)
    return arrays


def resolution(highest: FloatArray) -> FloatArray:
    """Below this an eigenvalue may be rounding: 1e-16 n times the largest, n of the larger data set."""
    return 1e-16 * 125 * highest


def judge(infinite: Mapping[int, Any], finite: Mapping[int, Mapping[int, Sequence[Any]]]) -> list[Claim]:
    """Claims at infinite width are checked on every kernel and both data sets, those at finite width on medians."""
    cases = [(d, kernel) for d in infinite for kernel in KERNELS]
    lowest = {(d, kernel): infinite[d][kernel]["lowest"] for d, kernel in cases}
    n_samples = {1: 100, 3: 125}
    s = torch.tensor(S_VALUES)
    exponents = {
        case: square_law(s, torch.tensor(low), n_samples[case[0]], case[0] + 1) for case, low in lowest.items()
    }
    positive = {case: bool((low > 0)[S_VALUES.index(0.5) :].all()) for case, low in lowest.items()}
    mirrored = list(range(S_VALUES.index(1.9) + 1))[::-1]  # s -> 2 - s on 0.1 ... 1.9
    half = slice(0, len(mirrored))
    traces = [infinite[d][kernel]["trace"][half] for d, kernel in cases]
    trace_error = max(float(np.abs(t / t[::-1] - 1).max()) for t in traces)
    values = np.array(S_VALUES[: len(mirrored)])
    law = [low[half][::-1] / low[half] / ((2 - values) / values) ** 2 for low in lowest.values()]
    law_error = max(float(np.abs(each - 1).max()) for each in law)
    condition = {case: infinite[case[0]][case[1]]["highest"] / low for case, low in lowest.items()}
    drop = "; ".join(
        f"d = {case[0]}: {number(c[S_VALUES.index(0.5)])} at s = 0.5, {number(c[_ONE])} at 1, {number(c[-1])} at 2"
        for case, c in condition.items()
        if case[1] == "ntk"
    )
    return [
        Claim(
            "“the smallest eigenvalues of Gram matrices tend to increase as s increases”, infinite width",
            "Theorem 3.1, Remark 3",
            PAPER,
            verdict_of_checks([bool((np.diff(low) > 0).all()) for low in lowest.values()]),
            "Rule: increasing from each s to the next, for every kernel on both data sets. From s = 1 to 1.5: "
            + "; ".join(
                f"{_named(c)} {number(low[_ONE])} to {number(low[S_VALUES.index(1.5)])}" for c, low in lowest.items()
            )
            + ".",
        ),
        Claim(
            "All of these matrices are strictly positive definite",
            "Assumption 1, Remark 2",
            PAPER,
            verdict_of_checks(list(positive.values())),
            "Rule: not 0 to rounding for s from 0.5 on. Ratio of smallest to largest at s = 1: "
            + "; ".join(f"{_named(case)} {number(1 / condition[case][_ONE])}" for case in cases)
            + ".",
        ),
        Claim(
            "The smallest eigenvalue grows as s²",
            "our restoration of section 3.2",
            PROJECT,
            verdict_of_checks([law.holds for law in exponents.values()]),
            "Rule: fitted exponent within 0.05 of 2. Exponents: "
            + "; ".join(f"{_named(case)} {law.exponent:.3f}" for case, law in exponents.items())
            + ".",
        ),
        Claim(
            "The matrices at s and 2 - s have the same trace, while the smallest eigenvalue differs by ((2 - s)/s)²",
            "our restoration of section 3.2",
            PROJECT,
            verdict_of_checks([trace_error < 1e-12, law_error < 0.05]),
            f"Largest relative deviation of the traces {number(trace_error)}, of the ratio of eigenvalues "
            f"{number(law_error)} (rule: below 1e-12 and 5%).",
        ),
        Claim(
            "Relaxation improves the condition number: it falls all the way from s = 0.1 to 2",
            "follows from Theorem 3.1",
            PROJECT,
            verdict_of_checks([bool((np.diff(c) < 0).all()) for c in condition.values()]),
            f"Rule: falling from each s to the next on every kernel. NTK: {drop}.",
        ),
        _finite_claim(finite),
        _reach_claim(infinite, finite),
    ]


def _named(case: tuple[int, str]) -> str:
    return f"{NAMES[case[1]]} (d = {case[0]})"


def _finite_claim(finite: Mapping[int, Mapping[int, Sequence[Any]]]) -> Claim:
    """Whether single networks of the paper's widths have it too."""
    shares, checks = [], []
    for d, widths in finite.items():
        for width in [w for w in widths if w <= 1000]:
            rising = [bool((np.diff(run["ntk"]["lowest"][4:]) > 0).all()) for run in widths[width]]
            shares.append(f"d = {d}, width {width}: {sum(rising)} of {len(rising)}")
            checks.append(all(rising))
    return Claim(
        "The smallest eigenvalue of the NTK increases with s in single networks of the paper's widths",
        "Proposition 4, Remark 3",
        PAPER,
        verdict_of_checks(checks),
        "Rule: increasing from each s to the next for s from 0.5 to 2 in every draw. Draws in which it does: "
        f"{'; '.join(shares)}. In d = 1 narrow networks have no kink between some neighbouring points: their smallest "
        "eigenvalue is 0 for every s.",
    )


def _reach_claim(infinite: Mapping[int, Any], finite: Mapping[int, Mapping[int, Sequence[Any]]]) -> Claim:
    """How wide a network has to be for the theory's numbers."""
    sentences, checks = [], []
    for d, widths in finite.items():
        for kernel in KERNELS:
            limit = infinite[d][kernel]["lowest"][_ONE]
            medians = {w: float(np.median([run[kernel]["lowest"][_ONE] for run in runs])) for w, runs in widths.items()}
            reached = [width for width, median in medians.items() if median >= 0.5 * limit]
            at_1000 = medians.get(1000)
            share = "" if at_1000 is None else f" ({number(at_1000 / limit)} of the limit at 1000)"
            sentences.append(f"{_named((d, kernel))} {f'at {min(reached):,}' if reached else 'at none'}{share}")
            checks.append(bool(reached) and min(reached) <= 1000)
    verdict = verdict_of_checks(checks) if any(1000 in widths for widths in finite.values()) else Verdict.OPEN
    return Claim(
        "At the paper's widths the smallest eigenvalue is that of infinite width, at least half of it",
        "Proposition 4",
        PAPER,
        verdict,
        f"Smallest width at which the median at s = 1 reaches half of the limit: {'; '.join(sentences)}.",
    )


def _table(infinite: Mapping[int, Any], finite: Mapping[int, Mapping[int, Sequence[Any]]]) -> Table:
    rows: list[tuple[Any, ...]] = []
    for d in infinite:
        for kernel in KERNELS:
            for k, s in enumerate(S_VALUES):
                one = infinite[d][kernel]
                rows.append(
                    (d, NAMES[kernel], "infinite", s, float(one["lowest"][k]), "", "", float(one["highest"][k]))
                )
                for width, runs in finite[d].items():
                    quartiles = np.quantile([run[kernel]["lowest"][k] for run in runs], [0.5, 0.25, 0.75])
                    highest = float(np.median([run[kernel]["highest"][k] for run in runs]))
                    rows.append((d, NAMES[kernel], str(width), s, *map(float, quartiles), highest))
    columns = ("d", "kernel", "width", "s", "lambda_min", "lower quartile", "upper quartile", "lambda_max")
    return Table(
        "theorem31", "Smallest and largest eigenvalues: medians and quartiles over the draws", columns, tuple(rows)
    )


def _draw_smallest(
    infinite: Mapping[int, Any], finite: Mapping[int, Mapping[int, Sequence[Any]]], folder: Path
) -> Figure:
    figure, axes = new_figure(11.0, 4.4, columns=len(infinite))
    kept = slice(1, None, 3)
    for axis, d in zip(axes, infinite, strict=True):
        curves: dict[str, Any] = {"infinite": [[float(value)] for value in infinite[d]["ntk"]["lowest"][kept]]}
        curves |= {
            f"width {width:,}": [[float(run["ntk"]["lowest"][k]) for run in runs] for k in range(len(S_VALUES))[kept]]
            for width, runs in finite[d].items()
        }
        draw_against(axis, S_VALUES[kept], curves, linear_ticks=True)
        axis.set_xlabel("s")
        axis.set_ylabel("smallest eigenvalue of the NTK")
        axis.set_title(DIMENSIONS[d], fontsize=10)
    save_picture(figure, folder / "theorem31_lambda_min.png")
    return Figure(
        "theorem31_lambda_min",
        "Smallest eigenvalue of the NTK against s: medians over the draws, quartiles as bars. Slope 2 is the s² law.",
    )


def _draw_condition(infinite: Mapping[int, Any], folder: Path) -> Figure:
    figure, axes = new_figure(11.0, 3.8, columns=len(infinite))
    for axis, d in zip(axes, infinite, strict=True):
        for i, kernel in enumerate(KERNELS):
            condition = infinite[d][kernel]["highest"] / infinite[d][kernel]["lowest"]
            axis.plot(S_VALUES, condition, **line_style(i))
            axis.annotate(
                NAMES[kernel], (S_VALUES[-1], condition[-1]), xytext=(6, 0), textcoords="offset points",
                color=COLORS[i], va="center", fontsize=9,
            )  # fmt: skip
        axis.set_yscale("log")
        axis.set_xlim(0.0, 2.3)
        axis.set_xlabel("s")
        axis.set_ylabel("condition number")
        axis.set_title(f"{DIMENSIONS[d]}, infinite width", fontsize=10)
    save_picture(figure, folder / "theorem31_condition.png")
    return Figure("theorem31_condition", "Largest over smallest eigenvalue against s.")


def _draw_width(infinite: Mapping[int, Any], finite: Mapping[int, Mapping[int, Sequence[Any]]], folder: Path) -> Figure:
    figure, axes = new_figure(11.0, 3.8, columns=len(infinite))
    for axis, d in zip(axes, infinite, strict=True):
        limit = {kernel: infinite[d][kernel]["lowest"][_ONE] for kernel in KERNELS}
        curves = {
            NAMES[kernel]: [
                [float(run[kernel]["lowest"][_ONE] / limit[kernel]) for run in runs] for runs in finite[d].values()
            ]
            for kernel in KERNELS
        }
        draw_against(axis, list(finite[d]), curves)
        axis.set_xlabel("width m")
        axis.set_ylabel("smallest eigenvalue / its limit")
        axis.set_title(f"{DIMENSIONS[d]}, s = 1", fontsize=10)
    save_picture(figure, folder / "theorem31_width.png")
    return Figure(
        "theorem31_width",
        "Smallest eigenvalue of finite networks over that of infinite width: medians, quartiles as bars.",
    )
