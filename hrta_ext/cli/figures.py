"""Pictures of the experiments, in the style of :mod:`hrta_ext.plots`."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from hrta_ext.cli.example1 import METHODS, N_POINTS, Run, Settings, fine_grid, runs_of, target
from hrta_ext.plots import COLORS, GREY, draw_loss, label_ends, line_style, mark_stages, new_figure, plain, save_figure
from hrta_ext.tables.model import FloatArray

_LOG_FLOOR = 1e-12
_WINDOW = 20


def plot_losses(runs: Sequence[Run], settings: Settings, path: str | os.PathLike[str]) -> None:
    """Loss against step for every method of Example 1: the median over the seeds, lowest to highest as a band."""
    figure, (axis,) = new_figure(7.2, 4.4)
    ends = []
    for i, method in enumerate(METHODS):
        losses = torch.stack(
            [run.loss for run in _whole(runs_of(runs, method), sum(settings.steps))] or [torch.empty(0)]
        )
        if losses.numel() == 0:
            continue
        step, low, median, high = _envelope(losses)
        axis.plot(step, median, **line_style(i))
        axis.fill_between(step, low, high, color=COLORS[i], alpha=0.18, linewidth=0)
        ends.append((float(median[-1]), method.name, COLORS[i]))
    axis.set_yscale("log")
    axis.set_xlabel("step")
    axis.set_ylabel("training loss R")
    switch = settings.steps[0]
    axis.axvline(switch, color=GREY, linewidth=0.9, linestyle=(0, (4, 3)))
    axis.text(switch, 1.01, "s switches", transform=axis.get_xaxis_transform(), ha="center", va="bottom", fontsize=9)
    label_ends(axis, ends, sum(settings.steps))
    n = len(settings.seeds)
    spread = f"median of {n} seeds; bands: lowest to highest" if n > 1 else "one seed"
    axis.set_title(f"Example 1, d = 1, width {settings.width}: {spread}", fontsize=10, pad=20)
    save_figure(figure, path)


def plot_fits(runs: Sequence[Run], path: str | os.PathLike[str]) -> None:
    """The fitted functions of Example 1 above their errors, for the first seed."""
    figure, (above, below) = new_figure(7.2, 5.6, rows=2)
    x = fine_grid()
    exact = target(x.double())
    seed = runs[0].seed
    samples = torch.linspace(0.0, 1.0, N_POINTS)
    above.plot(samples, target(samples), "o", color=GREY, markersize=2.5, label="training points, sin 2πx")
    for i, method in enumerate(METHODS):
        run = next(run for run in runs_of(runs, method) if run.seed == seed)
        above.plot(x, run.fitted, label=method.name, **line_style(i))
        # The error has a zero between most training points: windows show its size, and which curve is above which.
        squares = (run.fitted - exact)[:-1].square().view(-1, _WINDOW).mean(1)
        middle = x[:-1].view(-1, _WINDOW).mean(1)
        below.plot(
            middle,
            squares.sqrt().clamp_min(_LOG_FLOOR),
            label=f"{method.name}: relative L2 error {run.error:.1e}",
            **line_style(i),
        )
    above.set_ylabel("f(x)")
    above.legend(frameon=False, fontsize=9)
    above.set_title(f"Example 1: fitted functions, seed {seed}", fontsize=10)
    below.set_yscale("log")
    below.set_xlabel("x")
    below.set_ylabel("RMS of f - sin 2πx\nin windows of 0.02")
    # Above the curves: the errors fill the rest of the panel.
    below.legend(frameon=False, fontsize=9, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    save_figure(figure, path)


def plot_regression(
    loss: Tensor,
    s: Tensor,
    watched: Sequence[tuple[int, float]],
    truth: FloatArray,
    prediction: FloatArray,
    target_name: str,
    path: str | os.PathLike[str],
) -> None:
    """Training and validation loss against step, and prediction against truth on the validation rows.

    Args:
        loss: R on the training rows in scaled units, shape (steps,).
        s: The s of each step, shape (steps,).
        watched: (step, R on the validation rows) at some steps.
        truth: Shape (n,).
        prediction: Shape (n,).
        target_name: Name of the target.
        path: Where to write.
    """
    figure, (left, right) = new_figure(10.0, 4.2, columns=2)
    draw_loss(left, loss, label="training rows", style=0)
    left.lines[-1].set(linewidth=0.9)
    if watched:
        steps, values = zip(*watched, strict=True)
        left.plot(steps, values, label="validation rows", marker="o", markersize=3, **line_style(1))
    left.set_ylabel("loss R, scaled units")
    left.legend(frameon=False, fontsize=9)
    mark_stages(left, s)

    # A few thousand dots show all there is to see, and keep the picture small.
    shown = np.linspace(0, len(truth) - 1, min(len(truth), 3000)).astype(int)
    right.plot(truth[shown], prediction[shown], "o", color=COLORS[0], markersize=3, alpha=0.5, markeredgewidth=0)
    ends = [float(truth.min()), float(truth.max())]
    right.plot(ends, ends, color=GREY, linewidth=1.0, linestyle=(0, (4, 3)))
    right.annotate("prediction = truth", (ends[1], ends[1]), xytext=(-6, 4), textcoords="offset points", ha="right")
    name = plain(target_name, 40)
    right.set_xlabel(f"{name} in the table")
    right.set_ylabel(f"{name} predicted")
    right.set_title("validation rows", fontsize=10)
    save_figure(figure, path)


def _whole(runs: Sequence[Run], n_steps: int) -> list[Run]:
    """The runs that did not diverge."""
    return [run for run in runs if run.loss.numel() == n_steps and math.isfinite(run.final_loss)]


def _envelope(losses: Tensor, n_points: int = 800) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Step, lowest, median and highest over the runs, shape (points,) each, of losses (runs, steps).

    A group of steps is shown by its geometric mean, in which Adam's spikes do not hide the trend.
    """
    n_steps = losses.shape[1]
    group = max(1, n_steps // n_points)
    kept = losses[:, : n_steps // group * group].clamp_min(1e-30)
    grouped = kept.log().view(len(losses), -1, group).mean(2).exp()
    step = torch.arange(grouped.shape[1]) * group + (group - 1) / 2
    return step, grouped.amin(0), grouped.quantile(0.5, dim=0), grouped.amax(0)
