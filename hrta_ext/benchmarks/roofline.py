"""A picture of results: what every case reaches of the copy bandwidth or of the matrix rate of the machine.

Above, the roofline plane: operations a second against operations a byte, under the slope of the copy and the level of
the matrix product. A case for which bytes alone are counted has no place on the horizontal axis: those stand in a strip
at the left, as far below the slope as they are. Below, the same cases by name.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hrta_ext.benchmarks.results import Case, Result, heading
from hrta_ext.plots import COLORS, GREY, new_figure, plain, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BENCHMARKS = {"activation": 0, "two_layer": 1, "training": 2, "gram": 3}  # their colours
NAMES = {"two_layer": "wide network", "gram": "Gram matrix"}
MARKERS = ("o", "s", "^", "D", "v")
# Which ceiling, its key in the JSON, the unit, and the ceiling in words.
PANELS = (
    ("memory", "copy_bytes_per_second", "B/s", "copy of memory"),
    ("arithmetic", "matmul_flops_per_second", "FLOP/s", "matrix product"),
)
ROW, LABEL = 0.21, 8.5  # inches a bar, points a letter
PLANE = 3.4  # inches
STRIP = (0.05, 0.8)  # of the cases without a count of operations


@dataclass(frozen=True)
class Bar:
    """One case, what bounds it, its share of that ceiling, and operations a byte where both are counted."""

    benchmark: str
    name: str
    bound: str
    share: float
    intensity: float | None


def ceilings_of(results: list[Result]) -> dict[str, Any]:
    """The highest of each kind that a run measured; empty where none did."""
    found: dict[str, Any] = {}
    for result in results:
        for _, key, *_ in PANELS:
            if key in result.ceilings:
                found[key] = max(found.get(key, 0.0), float(result.ceilings[key]))
                found.setdefault("matmul_dtype", result.ceilings.get("matmul_dtype"))
    return found if all(key in found for _, key, *_ in PANELS) else {}


def bars(results: list[Result], bound: str) -> list[Bar]:
    """The cases that this ceiling bounds, in the order of the files.

    A share is one of the ceilings of its own run; a file without any takes the machine's.
    """
    machine = ceilings_of(results)
    found = [
        _bar(case, result.ceilings if "copy_bytes_per_second" in result.ceilings else machine)
        for result in results
        for case in result.cases
        if machine
    ]
    return [bar for bar in found if bar is not None and bar.bound == bound]


def _bar(case: Case, reached: Any) -> Bar | None:
    record = case.work.record(case.times.median, reached) if case.work else None
    if case.work is None or record is None:
        return None
    intensity = case.work.flops / case.work.bytes if case.work.flops else None
    return Bar(case.benchmark, case.name, record["bound"], record["share"], intensity)


def draw(results: list[Result], path: Path) -> bool:
    """Write the picture of one device's results; False where no case is large enough to say something."""
    panels = [(bars(results, bound), key, unit, ceiling) for bound, key, unit, ceiling in PANELS]
    panels = [panel for panel in panels if panel[0]]
    if not panels:
        return False
    reached = ceilings_of(results)
    heights = [PLANE, *(len(found) * ROW + 0.95 for found, *_ in panels)]
    figure, (plane, *axes) = new_figure(9.0, sum(heights) + 0.5, rows=len(heights), heights=heights)
    _draw_plane(plane, [bar for found, *_ in panels for bar in found], reached)
    for axis, (found, key, unit, ceiling) in zip(axes, panels, strict=True):
        kind = f" in {reached['matmul_dtype']}" if key.startswith("matmul") else ""
        _draw_bars(axis, found, reached[key], unit, ceiling + kind)
    figure.suptitle(plain(heading(results), 90), fontsize=11, x=0.01, ha="left")
    # The names of the cases take a margin that the plane has no use for.
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    box = plane.get_position()
    plane.set_position((0.085, box.y0, box.x1 - 0.085, box.height))
    save_figure(figure, path)
    return True


def _draw_plane(axis: Axes, found: list[Bar], reached: dict[str, Any]) -> None:
    copy, product = (reached[key] for _, key, *_ in PANELS)
    ridge = product / copy  # operations a byte from which arithmetic bounds
    counted = [bar.intensity for bar in found if bar.intensity is not None]
    uncounted = [bar for bar in found if bar.intensity is None]
    low = STRIP[0] if uncounted else min([0.2 * ridge, *(0.5 * at for at in counted)])
    high = max([6.0 * ridge, *(2.0 * at for at in counted)])
    ticks = [low, ridge, high]
    axis.plot(ticks, [min(copy * at, product) for at in ticks], color=GREY, linewidth=1.6)
    place = dict(zip(map(id, uncounted), _spread(len(uncounted)), strict=True))
    lowest = product
    for name in dict.fromkeys(bar.benchmark for bar in found):
        chosen = [bar for bar in found if bar.benchmark == name]
        at = [place[id(bar)] if bar.intensity is None else bar.intensity for bar in chosen]
        heights = [bar.share * min(copy * x, product) for bar, x in zip(chosen, at, strict=True)]
        lowest = min(lowest, *heights)
        color, label = BENCHMARKS.get(name, 4), NAMES.get(name, name)
        axis.plot(
            at, heights, MARKERS[color], color=COLORS[color], markersize=5.5, markeredgecolor="white", label=label
        )
    axis.set(xscale="log", yscale="log", xlim=(low, high), ylim=(0.4 * lowest, 3.0 * product))
    axis.text(0.99 * high, 1.15 * product, f"matrix product, {_with_unit(product, 'FLOP/s')}", ha="right", color=GREY)
    text, below = f"copy of memory, {_with_unit(copy, 'B/s')}", (0.4 * ridge, 0.4 * product)
    axis.annotate(text, below, xytext=(8, -4), textcoords="offset points", va="top", color=GREY)
    if uncounted:
        axis.axvspan(low, STRIP[1] * 1.6, color="#F2F2F2", zorder=0)
        text = "only bytes are counted here"
        axis.text(low * 1.1, 0.02, text, transform=axis.get_xaxis_transform(), fontsize=LABEL - 1, color=GREY)
    axis.set_xlabel("operations a byte to and from memory")
    axis.set_ylabel("operations a second")
    axis.legend(loc="lower right", frameon=False, fontsize=LABEL)


def _spread(count: int) -> list[float]:
    """Places in the strip."""
    low, high = STRIP[0] * 1.5, STRIP[1]
    return [low * (high / low) ** ((i + 0.5) / count) for i in range(count)]


def _with_unit(value: float, unit: str) -> str:
    scale, prefix = (1e12, "T") if value >= 1e13 else (1e9, "G")
    return f"{value / scale:,.3g} {prefix}{unit}"


def _draw_bars(axis: Axes, found: list[Bar], ceiling: float, unit: str, name: str) -> None:
    # Each run has its own ceiling, and the bars are shares of those: one line stands for all.
    scale, prefix = (1e12, "T") if ceiling >= 1e13 else (1e9, "G")
    reached, places = ceiling / scale, range(len(found))
    colors = [COLORS[BENCHMARKS.get(bar.benchmark, 4)] for bar in found]
    axis.barh(places, [bar.share * reached for bar in found], height=0.7, color=colors)
    widest = max(reached, *(bar.share * reached for bar in found))
    for place, bar in zip(places, found, strict=True):
        end = bar.share * reached
        inside = end > 0.1 * widest  # beside a long bar it would hit the ceiling
        at, side, color = (-0.01, "right", "white") if inside else (0.01, "left", "black")
        label = f"{100 * bar.share:.0f}%"
        axis.text(end + at * widest, place, label, va="center", ha=side, color=color, fontsize=LABEL)
    axis.axvline(reached, color=GREY, linewidth=1.2, linestyle=(0, (5, 2)), zorder=0.9)
    note = "; multiply-adds alone count" if unit == "FLOP/s" else ""
    axis.set_title(f"{name}: {_with_unit(ceiling, unit)}{note}", loc="left", fontsize=10)
    names = [
        plain(f"{NAMES.get(bar.benchmark, bar.benchmark)}: {bar.name.split(' (')[0]}", 70) for bar in found
    ]  # without the peers' width
    axis.set_yticks(list(places), names, fontsize=LABEL)
    axis.set_xlim(0.0, 1.03 * widest)
    axis.set_ylim(len(found) - 0.4, -0.6)
    axis.grid(False, axis="y")
    axis.set_xlabel(f"{prefix}{unit} reached, per cent of the dashed ceiling", fontsize=LABEL + 0.5)
