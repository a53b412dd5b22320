"""What the figures of several experiments share, in the style of :mod:`hrta_ext.plots`: curves, dots, quartiles."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hrta_ext.plots import COLORS, GREY, label_ends, line_style, plain, readable_log_ticks, save_figure
from hrta_ext.reproduction.page.verdicts import Spread

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_FLOOR = 1e-30
Runs = Sequence[Mapping[str, Any]]


def save_picture(figure: Figure, path: Path) -> None:
    """Save a figure; where that fails the page goes without it, and a line on stderr says so."""
    try:
        save_figure(figure, path)
    except Exception as error:  # whatever matplotlib or the disk met, hours of runs are worth their page
        path.unlink(missing_ok=True)
        print(f"hrta: warning: {path} could not be drawn: {' '.join(str(error).split())}", file=sys.stderr)


def draw_curves(axis: Axes, methods: Mapping[str, Runs]) -> None:
    """Loss against step: of each method the median over its runs that did not diverge, quartiles as a band.

    Args:
        axis: Gets a log scale, and every curve's name beside its end.
        methods: Name -> results of :func:`hrta_ext.reproduction.runs.trainings.train`.
    """
    ends, last = [], 0.0
    for i, (name, runs) in enumerate(methods.items()):
        whole = [run for run in runs if not run["diverged"] and run["curve"]["loss"]]
        if not whole:
            continue
        length = min(len(run["curve"]["loss"]) for run in whole)
        loss = np.maximum([run["curve"]["loss"][:length] for run in whole], _FLOOR)
        step = np.array(whole[0]["curve"]["step"][:length])
        low, median, high = np.quantile(loss, [0.25, 0.5, 0.75], axis=0)
        axis.plot(step, median, **line_style(i))
        axis.fill_between(step, low, high, color=COLORS[i % len(COLORS)], alpha=0.15, linewidth=0)
        ends.append((float(median[-1]), name, COLORS[i % len(COLORS)]))
        last = max(last, float(step[-1]))
    axis.set_yscale("log")
    axis.set_xlabel("step")
    axis.set_ylabel("training loss R")
    axis.xaxis.set_major_formatter("{x:,.0f}")
    label_ends(axis, ends, last)


def draw_against(
    axis: Axes,
    x: Sequence[float],
    methods: Mapping[str, Sequence[Sequence[float | None]]],
    *,
    linear_ticks: bool = False,
) -> None:
    """A quantity against x on log axes: medians joined by lines, quartiles as bars, names beside the ends.

    Medians of 0, for which a log axis has no place, are named in a corner.

    Args:
        axis: Where to draw.
        x: Positive, ascending.
        methods: Name -> for each x the values of the runs.
        linear_ticks: Name the x themselves instead of powers of ten.
    """
    axis.set_xscale("log")
    axis.set_yscale("log")
    ends, zeros = [], []
    drawn: set[float] = set()
    for i, (name, values) in enumerate(methods.items()):
        spreads = [Spread.of(runs) for runs in values]
        shown = [k for k, spread in enumerate(spreads) if _FLOOR < spread.median < math.inf]
        at_zero = [f"{x[k]:,g}" for k, spread in enumerate(spreads) if spread.median <= _FLOOR]
        if at_zero:
            zeros.append(f"{name}: 0" + (f" at {', '.join(at_zero)}" if len(at_zero) < len(x) else ""))
        if not shown:
            continue
        median = [spreads[k].median for k in shown]
        down = [spreads[k].median - max(spreads[k].low, 1e-3 * spreads[k].median) for k in shown]
        up = [min(spreads[k].high, 1e3 * spreads[k].median) - spreads[k].median for k in shown]
        axis.errorbar(
            [x[k] for k in shown], median, yerr=[down, up], marker="o", markersize=3.5, capsize=2, elinewidth=0.9,
            **line_style(i),
        )  # fmt: skip
        ends.append((median[-1], name, COLORS[i % len(COLORS)], x[shown[-1]]))
        drawn |= {x[k] for k in shown}
    if len(drawn) == 1:  # which would leave the axis without a width
        axis.set_autoscalex_on(False)
        axis.set_xlim(min(drawn) / 2, 2 * min(drawn))
    label_ends(axis, [end[:3] for end in ends], max((end[3] for end in ends), default=0.0), log_x=True)
    axis.text(
        1.0, 0.01, "\n".join(map(plain, zeros)), transform=axis.transAxes, ha="right", va="bottom", fontsize=8,
        color=GREY,
    )  # fmt: skip
    if linear_ticks:
        axis.set_xticks(list(x), [f"{value:g}" for value in x])


def draw_dots(
    axis: Axes, rows: Mapping[str, Sequence[float | None]], *, reference: str | None = None, xlabel: str = ""
) -> None:
    """One row per method: a dot per run, the median as a bar, quartiles as a line, diverged runs as a count.

    Args:
        axis: Gets a log scale in x; the rows run downwards.
        rows: Name -> values.
        reference: A row whose median is drawn through all others.
        xlabel: Label of the x axis.
    """
    names = list(rows)
    axis.set_xscale("log")
    for k, name in enumerate(names):
        finite = [v for v in rows[name] if v is not None and math.isfinite(v)]
        color = COLORS[0] if name == reference else COLORS[1]
        jitter = 0.22 * np.sin(2.4 * np.arange(len(finite)))
        axis.plot(finite, k + jitter, "o", color=color, markersize=3, alpha=0.45, markeredgewidth=0)
        spread = Spread.of(list(rows[name]))
        if math.isfinite(spread.high):
            axis.plot([spread.low, spread.high], [k, k], color="black", linewidth=1.0)
        if math.isfinite(spread.median):
            axis.plot([spread.median] * 2, [k - 0.32, k + 0.32], color="black", linewidth=2.0)
        if spread.n_diverged:
            axis.text(
                1.01, k, f"{spread.n_diverged} diverged", transform=axis.get_yaxis_transform(), fontsize=8, va="center"
            )
    if reference is not None and reference in rows:
        middle = Spread.of(list(rows[reference])).median
        if math.isfinite(middle):
            axis.axvline(middle, color=GREY, linewidth=0.9, linestyle=(0, (4, 3)), zorder=1)
    readable_log_ticks(axis.xaxis)
    axis.set_yticks(range(len(names)), [plain(name) for name in names])
    axis.set_ylim(len(names) - 0.4, -0.6)
    axis.grid(False, axis="y")
    axis.set_xlabel(xlabel)
