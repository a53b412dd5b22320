"""Theorem 3.2, Corollary 1: gradient descent against the rates that the kernel promises, and what a switch does."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hrta_ext.experiments.comparisons import Spread, compare, number, verdict_of, verdict_of_checks
from hrta_ext.experiments.drawing import draw_against, label_ends
from hrta_ext.experiments.problems import make_problem
from hrta_ext.experiments.sections import PAPER, PROJECT, Claim, Figure, Scale, Section, Table
from hrta_ext.experiments.tasks import Results, Task
from hrta_ext.plots import COLORS, line_style, new_figure, save_figure
from hrta_ext.training import fit
from hrta_ext.two_layer import TwoLayerNet

S_VALUES = (0.5, 1.0, 1.5, 2.0)
DIMENSIONS = (1, 3)
SWITCHES = ((1.0, 1.5), (0.5, 1.0))
_POINTS = 60
_CLOSE = 0.1  # of a decade: "the full spectrum predicts the loss"
Runs = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Decay:
    """The experiment ``decay``."""

    name: str = "decay"
    title: str = "Theorem 3.2: how fast the loss decays under gradient descent"

    def widths(self, scale: Scale) -> tuple[int, ...]:
        """From narrow to as wide as the theory wants it."""
        widths: tuple[int, ...] = scale.pick(toy=(30,), small=(200, 1000, 10_000), full=(200, 1000, 10_000, 100_000))
        return widths

    def steps(self, scale: Scale) -> int:
        """Steps of a stage."""
        steps: int = scale.pick(toy=30, small=1000, full=5000)
        return steps

    def runs(self, scale: Scale, d: int, width: int, s: float) -> list[Task]:
        """Descents at one s; few seeds for the widest networks, which differ little."""
        seeds = min(scale.seeds, 8) if width >= 100_000 else scale.seeds
        return [_task("descend", d, width, (s,), self.steps(scale), seed) for seed in range(seeds)]

    def switches(self, scale: Scale, width: int, s: tuple[float, float]) -> list[Task]:
        """Descents that change s half-way, d = 1."""
        seeds = min(scale.seeds, 8) if width >= 100_000 else scale.seeds
        return [_task("switch", 1, width, s, self.steps(scale), seed) for seed in range(seeds)]

    def tasks(self, scale: Scale, results: Results) -> list[Task]:
        """Everything."""
        descents = [
            task
            for d in DIMENSIONS
            for width in self.widths(scale)
            for s in S_VALUES
            for task in self.runs(scale, d, width, s)
        ]
        return descents + [
            task for width in self.widths(scale) for s in SWITCHES for task in self.switches(scale, width, s)
        ]

    def section(self, scale: Scale, results: Results, folder: Path) -> Section:
        """Judge bounds, predictions and switches."""
        descents = {
            (d, width, s): [results[task] for task in self.runs(scale, d, width, s)]
            for d in DIMENSIONS
            for width in self.widths(scale)
            for s in S_VALUES
        }
        switches = {
            (width, s): [results[task] for task in self.switches(scale, width, s)]
            for width in self.widths(scale)
            for s in SWITCHES
        }
        steps = self.steps(scale)
        return Section(
            name=self.name,
            title=self.title,
            setting=[
                "Full-batch gradient descent in float64 on sin(2πx), 100 points, and sin(2π Σx), 125 points; N(0, 1) "
                f"weights, {steps} steps of size h = n / lambda_max(NTK), half of the largest stable one, so that time "
                f"t = h k; {scale.seeds} seeds, at most 8 for 100 000 neurons.",
                "The bound is R(0) exp(-2 lambda_min t / n). The prediction is gradient descent on the network "
                "linearised at its start: every eigenvector of the NTK loses its part of the residual at its own rate.",
                f"Switches: {steps} steps at the first s, then {steps} at the second; beside them, as many steps at "
                "the first s alone. One step size for both, that of the larger lambda_max at the start.",
            ],
            readings=["Theorem 3.2 lost its constants; what is tested is its statement that the decay speeds up."],
            claims=judge(descents, switches),
            figures=[
                _draw_losses(descents, self.widths(scale)[-1], folder),
                _draw_deviation(descents, self.widths(scale), folder),
                _draw_switch(switches, self.widths(scale)[min(1, len(self.widths(scale)) - 1)], folder),
            ],
            tables=[_table(descents), _switch_table(switches)],
            n_runs=sum(map(len, descents.values())) + 2 * sum(map(len, switches.values())),
            seconds=sum(run["seconds"] for each in (descents, switches) for runs in each.values() for run in runs),
        )


def _task(function: str, d: int, width: int, s: tuple[float, ...], steps: int, seed: int) -> Task:
    parameters = {"d": d, "width": width, "s": s, "steps": steps, "seed": seed}
    seconds = (3e-5 + 1.2e-8 * width * (1 if d == 1 else 2)) * steps * (1 if function == "descend" else 3) + 0.1
    return Task.of(f"decay.{function}", parameters, seconds)


def _start(parameters: Mapping[str, Any]) -> tuple[TwoLayerNet, Tensor, Tensor]:
    problem = make_problem(f"sin{parameters['d']}d")
    net = TwoLayerNet(problem.x.shape[1], parameters["width"], s=parameters["s"][0], seed=parameters["seed"]).double()
    return net, problem.x.double(), problem.y.double()


def _descend(net: TwoLayerNet, x: Tensor, y: Tensor, s: float, steps: int, lr: float) -> tuple[Tensor, float]:
    """Losses before each step and after the last, (steps + 1,), and the seconds that it took."""
    result = fit(net, x, y, s=s, steps=steps, optimizer="gd", lr=lr)
    if result.stop_reason == "interrupted":
        raise KeyboardInterrupt
    with torch.no_grad():
        last = 0.5 * (net(x) - y).square().mean()
    return torch.cat([result.loss, last[None]]), result.seconds


def linear_descent(eigenvalues: Tensor, parts: Tensor, lr: float, steps: Tensor) -> Tensor:
    """R of gradient descent on the linearised network: 1/(2n) sum_j p_j^2 (1 - lr lambda_j / n)^(2k).

    Args:
        eigenvalues: Of the NTK, (n,).
        parts: Of the first residual along its eigenvectors, (n,).
        lr: Step size.
        steps: Numbers of steps k, (K,).
    Returns:
        (K,).
    """
    n = len(parts)
    shrink = (1.0 - lr * eigenvalues / n).abs()
    return (parts.square() * shrink[None] ** (2 * steps[:, None])).sum(1) / (2 * n)


def _smallest(eigenvalues: Tensor) -> float:
    """The smallest of ascending eigenvalues, 0 where rounding could have made it."""
    lowest, highest = float(eigenvalues[0]), float(eigenvalues[-1])
    return lowest if lowest > 1e-16 * len(eigenvalues) * highest else 0.0


def descend(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Losses of gradient descent at some steps, what the NTK at the start predicts there, and its bound."""
    net, x, y = _start(parameters)
    steps, n = parameters["steps"], len(x)
    eigenvalues, vectors = torch.linalg.eigh(net.gram(x).ntk)
    with torch.no_grad():
        parts = vectors.T @ (net(x) - y)
    lr = n / float(eigenvalues[-1])
    loss, seconds = _descend(net, x, y, parameters["s"][0], steps, lr)
    shown = torch.unique(torch.logspace(0, math.log10(steps), _POINTS).round().long())
    predicted = linear_descent(eigenvalues, parts, lr, shown.double())
    late = [steps // 2, steps]
    half_time = lr * (late[1] - late[0])
    rate = math.log(float(loss[late[0]] / loss[late[1]])) / half_time
    expected = linear_descent(eigenvalues, parts, lr, torch.tensor(late, dtype=torch.float64))
    smallest = _smallest(eigenvalues)
    bound = float(loss[0]) * torch.exp(-2.0 * smallest / n * lr * torch.arange(len(loss), dtype=torch.float64))
    return {
        "time": (lr * shown.double()).tolist(),
        "loss": loss[shown].tolist(),
        "predicted": predicted.tolist(),
        "deviation": float((loss[shown] / predicted).log10().abs().max()),
        "rate": rate,
        "predicted_rate": math.log(float(expected[0] / expected[1])) / half_time,
        "bound_rate": 2.0 * smallest / n,
        "bound_holds": bool((loss <= bound * (1 + 1e-9)).all()),
        "start": float(loss[0]),
        "end": float(loss[-1]),
        "seconds": seconds,
    }


def switch(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Gradient descent at s_1, then at s_2, and beside it s_1 alone for as many steps."""
    first, second = parameters["s"]
    steps = parameters["steps"]
    net, x, y = _start(parameters)
    n = len(x)
    lr = n / max(float(torch.linalg.eigvalsh(net.gram(x, s).ntk)[-1]) for s in (first, second))
    before, seconds = _descend(net, x, y, first, steps, lr)
    smallest = [_smallest(torch.linalg.eigvalsh(net.gram(x, s).ntk)) for s in (first, second)]
    start = {name: value.clone() for name, value in net.state_dict().items()}
    switched, more = _descend(net, x, y, second, steps, lr)
    net.load_state_dict(start)
    kept, most = _descend(net, x, y, first, steps, lr)
    half = steps // 2

    def rate(loss: Tensor) -> float:
        return math.log(float(loss[half] / loss[-1])) / (lr * (steps - half))

    # Every few steps, and all of those around the switch, where the jump is over in a moment.
    shown = sorted(
        {*range(0, 2 * steps, max(1, steps // _POINTS)), *range(max(steps - 2, 0), min(steps + 15, 2 * steps))}
    )
    return {
        "jump": float(switched[0] / before[-1]),
        "back_after": next((k for k, value in enumerate(switched.tolist()) if value <= float(before[-1])), None),
        "lambda_min": smallest,
        "rate_switched": rate(switched),
        "rate_kept": rate(kept),
        "end_switched": float(switched[-1]),
        "end_kept": float(kept[-1]),
        "step": shown,
        "switched": torch.cat([before[:-1], switched[:-1]])[shown].tolist(),
        "kept": torch.cat([before[:-1], kept[:-1]])[shown].tolist(),
        "seconds": seconds + more + most,
    }


def judge(
    descents: Mapping[tuple[int, int, float], Runs], switches: Mapping[tuple[int, tuple[float, float]], Runs]
) -> list[Claim]:
    """The claims about rates and switches."""
    bounds = [run["bound_holds"] for runs in descents.values() for run in runs]
    positive = [run for runs in descents.values() for run in runs if run["bound_rate"] > 0]
    share = np.median([run["rate"] / run["bound_rate"] for run in positive]) if positive else math.nan
    widest = max(width for _, width, _ in descents)
    deviation = {key: Spread.of([run["deviation"] for run in runs]).median for key, runs in descents.items()}
    claims = [
        Claim(
            "The loss decays at least like exp(-2 lambda_min t / n) while the kernel stays as it is",
            "Section 3.3, Propositions 1 and 2",
            PAPER,
            verdict_of_checks(bounds),
            f"Rule: below the bound at every step, lambda_min of the NTK at the start. True in {sum(bounds)} of "
            f"{len(bounds)} runs. The late rate is {number(float(share))} times the bound's in the median of the "
            f"{len(positive)} runs with a positive lambda_min: the smallest eigenvalue does not set the pace here.",
        ),
        Claim(
            "The full spectrum of the NTK at the start predicts the loss, the better the wider the network",
            "Section 3.2, restored",
            PROJECT,
            verdict_of_checks([value < _CLOSE for (_, width, _), value in deviation.items() if width == widest]),
            f"Rule: within {_CLOSE} decades all the way at width {widest:,}, in the median. Largest deviations: "
            + "; ".join(
                f"width {width:,} {number(max(v for (_, w, _), v in deviation.items() if w == width))}"
                for width in dict.fromkeys(width for _, width, _ in descents)
            )
            + ".",
        ),
        _order_claim(descents),
    ]
    for s in SWITCHES:
        claims += _switch_claims(s, {width: runs for (width, each), runs in switches.items() if each == s})
    return claims


def _order_claim(descents: Mapping[tuple[int, int, float], Runs]) -> Claim:
    outcomes, sentences = [], []
    for d, width in dict.fromkeys((d, width) for d, width, _ in descents):
        ends = {s: [run["end"] for run in descents[d, width, s]] for s in S_VALUES}
        for slow, fast in ((0.5, 1.0), (1.0, 1.5)):
            compared = compare(ends[fast], ends[slow])
            outcomes.append(compared.outcome)
            pair = f"d = {d}, width {width:,}: s = {fast:g} over {slow:g}"
            sentences.append(f"{pair} {number(compared.ratio)} ({compared.outcome.value})")
    return Claim(
        "With gradient descent a larger s decays faster: lower losses at s = 1 than at 0.5, and at 1.5 than at 1",
        "Theorem 3.1 and section 3.5",
        PAPER,
        verdict_of(outcomes),
        f"Ratios of the last losses, each s with its own largest step: {'; '.join(sentences)}.",
    )


def _switch_claims(s: tuple[float, float], by_width: Mapping[int, Runs]) -> list[Claim]:
    name = f"{s[0]:g} → {s[1]:g}"
    faster = {
        w: compare([r["rate_kept"] for r in runs], [r["rate_switched"] for r in runs]) for w, runs in by_width.items()
    }
    lower = {
        w: compare([r["end_switched"] for r in runs], [r["end_kept"] for r in runs]) for w, runs in by_width.items()
    }
    rises = {
        w: Spread.of([r["lambda_min"][1] for r in runs]).median >= Spread.of([r["lambda_min"][0] for r in runs]).median
        for w, runs in by_width.items()
    }
    jumps = {w: Spread.of([r["jump"] for r in runs]) for w, runs in by_width.items()}
    return [
        Claim(
            f"After the switch {name} the decay is faster than without it",
            "Theorem 3.2, Corollary 1",
            PAPER,
            verdict_of([c.outcome for c in faster.values()]),
            "Rates over the second half of the stage, without over with the switch: "
            + "; ".join(f"width {w:,} {number(c.ratio)} ({c.outcome.value})" for w, c in faster.items())
            + f". lambda_min of the NTK does not fall at the switch at {sum(rises.values())} of {len(rises)} widths.",
        ),
        Claim(
            f"The switch {name} ends lower than as many steps without it",
            "Section 3.5",
            PAPER,
            verdict_of([c.outcome for c in lower.values()]),
            "Ratios of the last losses, with over without the switch: "
            + "; ".join(f"width {w:,} {number(c.ratio)} ({c.outcome.value})" for w, c in lower.items())
            + ".",
        ),
        Claim(
            f"“at the beginning of each iteration, the loss functions will increase”: {name}",
            "Section 3.5",
            PAPER,
            verdict_of_checks([r["jump"] > 1 for runs in by_width.values() for r in runs]),
            "Loss after over before the switch, median and quartiles: "
            + "; ".join(f"width {w:,} {jump}" for w, jump in jumps.items())
            + ".",
        ),
    ]


def _table(descents: Mapping[tuple[int, int, float], Runs]) -> Table:
    names = ("start", "end", "rate", "predicted_rate", "bound_rate", "deviation")
    rows = [
        (
            d,
            width,
            s,
            *(float(np.median([run[name] for run in runs])) for name in names),
            f"{sum(r['bound_holds'] for r in runs)}/{len(runs)}",
        )
        for (d, width, s), runs in descents.items()
    ]
    columns = (
        "d",
        "width",
        "s",
        "first loss",
        "last loss",
        "late rate",
        "predicted",
        "2 lambda_min / n",
        "deviation, decades",
        "bound holds",
    )
    return Table("decay", "Gradient descent: medians over the seeds", columns, tuple(rows))


def _switch_table(switches: Mapping[tuple[int, tuple[float, float]], Runs]) -> Table:
    names = ("jump", "rate_switched", "rate_kept", "end_switched", "end_kept")
    rows = [
        (f"{s[0]:g} → {s[1]:g}", width, *(float(np.median([run[name] for run in runs])) for name in names),
         *(float(np.median([run["lambda_min"][k] for run in runs])) for k in (0, 1)))
        for (width, s), runs in switches.items()
    ]  # fmt: skip
    columns = (
        "switch",
        "width",
        "jump",
        "rate after",
        "rate without",
        "last loss",
        "last loss without",
        "lambda_min before",
        "lambda_min after",
    )
    return Table("decay_switch", "Switches of s, d = 1: medians over the seeds", columns, tuple(rows))


def _draw_losses(descents: Mapping[tuple[int, int, float], Runs], width: int, folder: Path) -> Figure:
    figure, axes = new_figure(11.0, 4.2, columns=len(DIMENSIONS))
    for axis, d in zip(axes, DIMENSIONS, strict=True):
        ends, last = [], 0.0
        for i, s in enumerate(S_VALUES):
            run = descents[d, width, s][0]
            axis.plot(run["time"], run["loss"], **line_style(i))
            axis.plot(
                run["time"][::4], run["predicted"][::4], "o", color=COLORS[i], markersize=3, markerfacecolor="white"
            )
            ends.append((run["loss"][-1], f"s = {s:g}", COLORS[i]))
            last = max(last, run["time"][-1])
        axis.set_xscale("log")
        axis.set_yscale("log")
        label_ends(axis, ends, last, log_x=True)
        axis.set_xlabel("time t = h k")
        axis.set_ylabel("training loss R")
        axis.set_title(f"d = {d}, width {width:,}, seed 0", fontsize=10)
    save_figure(figure, folder / "decay_loss.png")
    return Figure("decay_loss", "Gradient descent (lines), and what the NTK at the start predicts (circles).")


def _draw_deviation(descents: Mapping[tuple[int, int, float], Runs], widths: Sequence[int], folder: Path) -> Figure:
    figure, axes = new_figure(11.0, 3.8, columns=len(DIMENSIONS))
    for axis, d in zip(axes, DIMENSIONS, strict=True):
        curves = {f"s = {s:g}": [[run["deviation"] for run in descents[d, w, s]] for w in widths] for s in S_VALUES}
        draw_against(axis, widths, curves)
        axis.set_xlabel("width m")
        axis.set_ylabel("largest deviation, decades")
        axis.set_title(f"d = {d}", fontsize=10)
    save_figure(figure, folder / "decay_deviation.png")
    return Figure(
        "decay_deviation", "How far the loss goes from the prediction of the first NTK: medians, quartiles as bars."
    )


def _draw_switch(switches: Mapping[tuple[int, tuple[float, float]], Runs], width: int, folder: Path) -> Figure:
    figure, axes = new_figure(11.0, 4.0, columns=len(SWITCHES))
    for axis, s in zip(axes, SWITCHES, strict=True):
        ends, last = [], 0
        for i, (name, key) in enumerate(((f"{s[0]:g} → {s[1]:g}", "switched"), (f"s = {s[0]:g} kept", "kept"))):
            runs = switches[width, s]
            low, median, high = np.quantile([run[key] for run in runs], [0.25, 0.5, 0.75], axis=0)
            axis.plot(runs[0]["step"], median, **line_style(i))
            axis.fill_between(runs[0]["step"], low, high, color=COLORS[i], alpha=0.15, linewidth=0)
            ends.append((float(median[-1]), name, COLORS[i]))
            last = runs[0]["step"][-1]
        axis.set_yscale("log")
        label_ends(axis, ends, last)
        axis.set_xlabel("step of gradient descent")
        axis.set_ylabel("training loss R")
        axis.set_title(f"d = 1, width {width:,}", fontsize=10)
    save_figure(figure, folder / "decay_switch.png")
    return Figure("decay_switch", "A switch of s half-way, and no switch: medians over the seeds, quartiles as bands.")
