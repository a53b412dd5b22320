"""What the figures of several experiments share, in the style of :mod:`hrta_ext.plots`: curves, dots, quartiles."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from hrta_ext.plots import COLORS, GREY, line_style
from hrta_ext.reproduction.page.verdicts import Spread

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

_FLOOR = 1e-30
Runs = Sequence[Mapping[str, Any]]


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


def label_ends(axis: Axes, ends: Sequence[tuple[float, str, str]], last: float, *, log_x: bool = False) -> None:
    """Write (y, name, colour) beside the ends at x = ``last`` of curves on a log y axis, apart where they meet."""
    if not ends or last <= 0:
        return
    low, high = axis.get_ylim()
    height = math.log10(high / low)
    start = axis.get_xlim()[0]
    if log_x:
        edge, place = last * (last / start) ** 0.42, last * (last / start) ** 0.05
        axis.set_xlim(start, edge)
        ticks = 10.0 ** np.arange(math.ceil(math.log10(start)), math.floor(math.log10(last) + 1e-9) + 1)
        axis.set_xticks(ticks)
        axis.minorticks_off()
        axis.spines["bottom"].set_bounds(start, last)
    else:
        edge, place = last + 0.42 * (last - start), last + 0.05 * (last - start)
        axis.set_xlim(start, edge)
        axis.set_xticks([tick for tick in axis.get_xticks() if start <= tick <= last])
        axis.spines["bottom"].set_bounds(start, last)
    readable_log_ticks(axis.yaxis)
    ends = sorted(ends)
    heights = _apart([math.log10(max(value, low) / low) / height for value, _, _ in ends])
    for (value, name, color), position in zip(ends, heights, strict=True):
        axis.annotate(
            name, (last, value), xytext=(place, position), textcoords=("data", "axes fraction"),
            color=color, fontsize=8.5, va="center",
            arrowprops={"arrowstyle": "-", "color": color, "linewidth": 0.6, "relpos": (0.0, 0.5)},
        )  # fmt: skip


def _apart(heights: Sequence[float], gap: float = 0.065, highest: float = 0.98) -> list[float]:
    """Ascending heights moved as little as keeps labels a gap apart and inside the axes."""
    placed: list[float] = []
    for height in heights:
        placed.append(max(height, placed[-1] + gap) if placed else height)
    for k in reversed(range(len(placed))):
        placed[k] = min(placed[k], highest - gap * (len(placed) - 1 - k))
    return placed


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
        1.0, 0.01, "\n".join(zeros), transform=axis.transAxes, ha="right", va="bottom", fontsize=8, color=GREY
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
    axis.set_yticks(range(len(names)), names)
    axis.set_ylim(len(names) - 0.4, -0.6)
    axis.grid(False, axis="y")
    axis.set_xlabel(xlabel)


def readable_log_ticks(axis: Axis) -> None:
    """Few labels that never touch: powers of ten, and where these are too few round numbers, written in one way."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

    low, high = axis.get_view_interval()
    decades = math.log10(high / low)
    if decades > 1.6:
        axis.set_major_locator(LogLocator(numticks=7))
        axis.set_minor_formatter(NullFormatter())
        return
    if decades < 0.8:
        ticks = list(MaxNLocator(5, steps=[1, 2, 5, 10]).tick_values(low, high))
    else:
        powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        ticks = [digit * 10.0**power for power in powers for digit in (1, 2, 5)]
    axis.set_major_locator(FixedLocator([tick for tick in ticks if low <= tick <= high]))
    axis.set_major_formatter(FuncFormatter(lambda value, _: _short(value)))
    axis.set_minor_locator(NullLocator())


def _short(value: float) -> str:
    """As in "0.16" or "2e-5"."""
    return f"{value:.3g}" if 0.01 <= value < 1000 else f"{value:.1e}".replace(".0e", "e").replace("e-0", "e-")
