"""A picture of results: how much faster than its peers every call is, and the goals.

A bar is the median over the cases of a family, which differ in size and dtype alone; a thin line spans them all.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hrta_ext.benchmarks.results import Peer, Result, heading, in_words, usual_threads
from hrta_ext.plots import COLORS, GREY, new_figure, plain, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# The benchmarks in the order of the panels, and what a reader is to know of each.
PANELS = {
    "activation": "Activation",
    "compile": "A training step of networks with the activation",
    "two_layer": "Wide network, forward + backward",
    "training": "Wide network, a training step with Adam",
    "gram": "Gram matrices of the neural tangent kernel",
    "gram_grid": "Gram matrices at one s, widths and features of a grid",
    "infinite": "Kernels of infinite width",
    "physics": "A step of a PINN: Poisson's equation on a square, tanh",
}
OWN, EAGER, COMPILED = "torch's own op", "the formula in torch", "the formula under torch.compile"
KINDS = {
    OWN: ("F.leaky_relu", "torch's own base", "torch's own"),
    EAGER: ("eager formula", "eager torch", "naive torch", "generate, then naive", "plain torch", "torch backend"),
    COMPILED: ("compiled formula", "torch.compile"),
}
KIND_COLORS = {OWN: COLORS[0], EAGER: COLORS[4], COMPILED: COLORS[5]}
OTHERS = (COLORS[2], COLORS[3], "#8C6BB1", "#999999")  # peers of one benchmark alone, such as KeOps
LABELS = {"two calls": "value and slope by two calls"}
MISSED = COLORS[1]
BAR, GAP, FRAME, TOP = 0.135, 0.085, 0.62, 0.95  # inches: a bar, between rows, around a panel, the heading
SMALL = 7.5  # points


@dataclass(frozen=True)
class Bar:
    """The ratios of one family to one kind of peer: one a case; and their goals."""

    kind: str
    ratios: tuple[float, ...]
    goals: tuple[float | None, ...]

    @property
    def met(self) -> list[bool]:
        """For every goal."""
        return [ratio >= goal for ratio, goal in zip(self.ratios, self.goals, strict=True) if goal is not None]


def kind(name: str) -> str:
    """A peer's, which has a colour."""
    return next((found for found, names in KINDS.items() if name in names), name)


def rows(results: list[Result]) -> dict[str, dict[str, list[Bar]]]:
    """Benchmark -> family -> bars, in the order of ``PANELS`` and of the files, what begins alike together."""
    found: dict[str, dict[str, dict[str, list[Peer]]]] = {name: {} for name in PANELS}
    usual = usual_threads(results)
    for result in results:
        threads = in_words(result.threads) if result.threads != usual else []
        for case in result.cases:
            family = ", ".join([case.family, *threads])
            for peer in case.peers:
                families = found.setdefault(case.benchmark, {})
                families.setdefault(family, {}).setdefault(kind(peer.name), []).append(peer)
    return {
        name: {
            family: [Bar(which, tuple(p.ratio for p in peers), tuple(p.goal for p in peers)) for which, peers in kinds]
            for family, kinds in ((family, _ordered(families[family])) for family in _together(families))
        }
        for name, families in found.items()
        if families
    }


def _together(families: Iterable[str]) -> list[str]:
    """Those with the same words before the first comma side by side."""
    names = list(families)
    firsts = [name.split(",")[0] for name in names]
    return sorted(names, key=lambda name: firsts.index(name.split(",")[0]))


def _ordered(kinds: dict[str, list[Peer]]) -> list[tuple[str, list[Peer]]]:
    order = [*KINDS, *kinds]
    return sorted(kinds.items(), key=lambda item: order.index(item[0]))


def draw(results: list[Result], path: Path) -> bool:
    """Write the picture of one device's results; False where none has a peer."""
    panels = rows(results)
    if not panels:
        return False
    bars = [bar for families in panels.values() for row in families.values() for bar in row]
    used = [*KIND_COLORS, *dict.fromkeys(bar.kind for bar in bars if bar.kind not in KINDS)]
    colors = KIND_COLORS | {name: OTHERS[i % len(OTHERS)] for i, name in enumerate(used[len(KINDS) :])}
    heights = [TOP, *(BAR * sum(map(len, f.values())) + GAP * (len(f) + 1) for f in panels.values())]
    figure, (top, *axes) = new_figure(8.6, sum(heights) + FRAME * len(panels), rows=len(heights), heights=heights)
    figure.set_layout_engine("constrained", h_pad=0.09)
    for axis, (name, families) in zip(axes, panels.items(), strict=True):
        axis.set_title(PANELS.get(name, name), loc="left", fontsize=10, fontweight="bold")
        _draw_panel(axis, families, colors)
    axes[-1].set_xlabel("the peer's time / ours, median over rounds; right of 1 ours is faster", fontsize=SMALL + 1)
    _draw_heading(top, results, bars, {k: c for k, c in colors.items() if any(bar.kind == k for bar in bars)})
    save_figure(figure, path)
    return True


def _draw_heading(axis: Axes, results: list[Result], bars: list[Bar], colors: dict[str, str]) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch
    from matplotlib.transforms import blended_transform_factory

    axis.axis("off")
    figure = axis.figure
    place = blended_transform_factory(figure.transFigure, axis.transAxes)
    for y, size, weight, text in (
        (1.0, 13, "bold", "hrta_ext: how many times faster than ..."),
        (0.74, 10, "normal", f"{heading(results)}; n samples, D features, m neurons"),
    ):
        axis.text(
            0.015, y, plain(text, 100), transform=place, va="top", fontsize=size, fontweight=weight, in_layout=False
        )
    met = [one for bar in bars for one in bar.met]
    handles = [Patch(color=color, label=plain(LABELS.get(name, name))) for name, color in colors.items()]
    goal = Line2D([], [], color="black", linewidth=1.8, linestyle="", marker="|", markersize=9, markeredgewidth=1.8)
    goal.set_label(f"goal ({sum(met)} of {len(met)} met; red where missed)")
    span = Line2D([], [], color=GREY, linewidth=1.0, label="least to most, by size and dtype")
    legend = axis.legend(
        handles=[*handles, *([goal] if met else []), span], loc="upper left", bbox_to_anchor=(0.007, 0.5), ncols=3,
        bbox_transform=place, frameon=False, fontsize=SMALL + 1, columnspacing=1.6, handlelength=1.4, borderaxespad=0.0,
    )  # fmt: skip
    legend.set_in_layout(False)


def _draw_panel(axis: Axes, families: dict[str, list[Bar]], colors: dict[str, str]) -> None:
    """Rows from the top, in inches; each bar begins at 1."""
    down, places = 0.0, []
    values = [value for row in families.values() for bar in row for value in (*bar.ratios, *bar.goals) if value]
    low, high = min(0.8, *values), max(1.25, *values)
    axis.set_xscale("log")
    axis.set_xlim(low / (high / low) ** 0.03, high * (high / low) ** 0.24)
    for row in families.values():
        places.append(down + BAR * len(row) / 2)
        for bar in row:
            _draw_bar(axis, bar, down + BAR / 2, colors[bar.kind])
            down += BAR
        down += GAP
    axis.axvline(1.0, color="black", linewidth=0.9, zorder=2.5)
    axis.set_ylim(down, -GAP)
    axis.set_yticks(places, [plain(family, 70) for family in families], fontsize=SMALL + 0.5)
    axis.tick_params(axis="y", length=0)
    axis.grid(False, axis="y")
    _log_ticks(axis)


def _draw_bar(axis: Axes, bar: Bar, place: float, color: str) -> None:
    middle, least, most = statistics.median(bar.ratios), min(bar.ratios), max(bar.ratios)
    axis.barh(place, middle - 1.0, left=1.0, height=0.86 * BAR, color=color)
    if most > least:
        axis.plot([least, most], [place, place], color=GREY, linewidth=1.0, solid_capstyle="butt", zorder=2.6)
    for goal in sorted({goal for goal in bar.goals if goal is not None}):
        ends = [place - 0.5 * BAR, place + 0.5 * BAR]
        axis.plot([goal, goal], ends, color="black", linewidth=1.8, solid_capstyle="butt", zorder=3)
    text = shown(middle) if most == least else f"{shown(least)} to {shown(most)}"
    missed = not all(bar.met)
    if missed and len(bar.met) > 1:
        text += f", {sum(bar.met)} of {len(bar.met)} met"
    end = max(1.0, most, *(goal or 0.0 for goal in bar.goals))
    axis.annotate(
        text, (end, place), xytext=(4, -0.5), textcoords="offset points", va="center_baseline", fontsize=SMALL - 0.5,
        color=MISSED if missed else "black", fontweight="bold" if missed else "normal",
    )  # fmt: skip


def shown(ratio: float) -> str:
    """With two or three digits: 0.98, 2.5, 11.7, 5,200."""
    if ratio < 100:
        return f"{ratio:.2f}" if ratio < 1.95 else f"{ratio:.1f}" if ratio < 10 else f"{ratio:.3g}"
    return f"{float(f'{ratio:.2g}'):,.0f}"


def _log_ticks(axis: Axes) -> None:
    """Plain numbers, few enough not to touch."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    low, high = axis.get_xlim()
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for digits in ((1,), (1, 2, 5), (1, 1.5, 2, 3, 5, 7), (1, 1.2, 1.4, 1.6, 1.8, 2, 2.5, 3, 4, 5, 6, 7, 8, 9)):
        ticks = [digit * 10.0**power for power in powers for digit in digits if low <= digit * 10.0**power <= high]
        if len(ticks) >= 4:
            break
    axis.xaxis.set_major_locator(FixedLocator(ticks))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.tick_params(axis="x", labelsize=SMALL + 0.5)
