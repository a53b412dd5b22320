"""Figures: the style that all of them share, and the loss of a training run.

Colours are those of Okabe and Ito (2008), told apart by colour-blind readers; line styles and direct labels say the
same in grey print. Figures are objects of their own: pyplot's global state and the user's backend are never touched.
Texts of users, such as names of columns, go through :func:`plain`: in matplotlib a dollar sign begins a formula.
"""

from __future__ import annotations

import math
import os
import unicodedata
import warnings
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import accumulate, groupby
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hrta_ext.files import replaced

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

# Okabe-Ito without black (kept for text) and yellow (invisible on white); neighbours differ in lightness as well.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
LINE_STYLES: tuple[Any, ...] = (
    "-",
    (0, (5, 1.5)),
    (0, (1, 1)),
    (0, (6, 1.5, 1, 1.5)),
    (0, (9, 2)),
    (0, (3, 1, 1, 1, 1, 1)),
)
GREY = "#595959"
# Widespread fonts for what matplotlib's own one lacks; Chinese, Japanese and Korean above all.
_FAMILIES = (
    "Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans SC", "Noto Sans JP", "Noto Sans KR", "Source Han Sans SC",
    "WenQuanYi Micro Hei", "WenQuanYi Zen Hei", "Microsoft YaHei", "SimHei", "PingFang SC", "Hiragino Sans",
    "Yu Gothic", "Malgun Gothic", "Apple SD Gothic Neo", "Arial Unicode MS", "Noto Sans", "Droid Sans Fallback",
)  # fmt: skip
# Tick labels are made while the figure is drawn, by what the settings say then.
_NO_TEX: dict[Any, Any] = {"text.usetex": False, "text.parse_math": True}
# More points than this are drawn as the lowest and highest of equal groups: nothing that shows on paper is lost.
_MAX_POINTS = 4000


def new_figure(
    width: float = 6.4, height: float = 4.0, *, rows: int = 1, columns: int = 1, heights: Sequence[float] | None = None
) -> tuple[Figure, list[Axes]]:
    """An empty figure, ``width`` x ``height`` inches, and its axes in the house style, row by row.

    ``heights`` are those of the rows beside each other; equal ones by default.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        raise ModuleNotFoundError("plots need matplotlib: pip install 'hrta_ext[plot]'") from None
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False, height_ratios=heights).flat)
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(True, which="major", color="#D9D9D9", linewidth=0.6)
        axis.set_axisbelow(True)
    return figure, axes


def line_style(i: int) -> dict[str, Any]:
    """Keyword arguments for the i-th line of an axis: a colour, and a line style that stands for it in grey print."""
    style = i + i // len(COLORS)  # no colour comes with the same style again
    return {"color": COLORS[i % len(COLORS)], "linestyle": LINE_STYLES[style % len(LINE_STYLES)], "linewidth": 1.3}


def plain(text: str, most: int = 60) -> str:
    """``text`` for matplotlib to draw as it is, in one line as wide as at most ``most`` letters, whatever it holds.

    To matplotlib dollar signs are markup, and a label that begins with an underscore is not for the legend.
    """
    line = "".join(c if c.isprintable() else " " if c.isspace() else "\N{REPLACEMENT CHARACTER}" for c in text)
    widths = list(accumulate(1 + (unicodedata.east_asian_width(c) in "WF") for c in line[: most + 1]))
    if widths and widths[-1] > most:
        line = line[: bisect_right(widths, most - 1)] + "…"
    return (" " if line.startswith("_") else "") + line.replace("$", r"\$")


def save_figure(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Write ``figure`` in the format that the suffix of ``path`` names: png, pdf, svg, ...

    Letters that matplotlib's own font lacks come from an installed one that has them, or are boxes. A user's settings
    for TeX are not for these figures: they would make markup of every text.
    """
    from matplotlib import font_manager, rc_context, rcParams
    from matplotlib.text import Text

    installed = {font.name for font in font_manager.fontManager.ttflist}
    families = [*rcParams["font.family"], *(name for name in _FAMILIES if name in installed)]
    for text in figure.findobj(Text):
        assert isinstance(text, Text)
        text.set(usetex=False, parse_math=True)
        if not text.get_text().isascii():
            text.set_fontfamily(families)
    with replaced(path) as temporary, rc_context(_NO_TEX), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
        warnings.filterwarnings("ignore", "constrained_layout not applied", UserWarning)  # labels leave no room
        warnings.filterwarnings("ignore", "Matplotlib currently does not support", UserWarning)  # some scripts
        figure.savefig(temporary, dpi=160)


def thinned(values: Tensor, max_points: int = _MAX_POINTS) -> tuple[Tensor, Tensor]:
    """Positions and values to draw of a long curve: the extremes of equal groups, so that every spike stays.

    Args:
        values: Shape (n,).
        max_points: About how many points to keep.
    Returns:
        Two tensors of equal length: int64 positions, increasing, and the values there. NaN and Inf are left out.
    """
    position = torch.arange(values.numel())
    finite = values.isfinite()
    values, position = values[finite], position[finite]
    group = -(-2 * values.numel() // max_points)
    if group <= 2:
        return position, values
    full = values.numel() // group * group
    blocks = values[:full].view(-1, group)
    start = torch.arange(0, full, group)
    ends = torch.tensor([0, values.numel() - 1])
    rest = torch.arange(full, values.numel())
    chosen = torch.unique(torch.cat([ends, start + blocks.argmin(1), start + blocks.argmax(1), rest]))
    return position[chosen], values[chosen]


def draw_loss(
    axis: Axes, loss: Tensor, *, label: str | None = None, style: int = 0, linear_up_to: float | None = None
) -> None:
    """Add one curve of losses, shape (steps,), on a log scale. Values that are not positive cannot be shown there.

    With ``linear_up_to`` all are, on a scale that is linear where they are no larger, everywhere if it is infinite.
    """
    step, value = thinned(loss)
    shown = value > 0
    if linear_up_to is not None:
        if linear_up_to < math.inf:
            axis.set_yscale("symlog", linthresh=linear_up_to)
    elif shown.any():
        axis.set_yscale("log")
        step, value = step[shown], value[shown]
    axis.plot(step.tolist(), value.tolist(), label=None if label is None else plain(label), **line_style(style))
    axis.locator_params(axis="x", integer=True)
    axis.xaxis.set_major_formatter("{x:,.0f}")
    axis.set_xlabel("step")
    axis.set_ylabel("loss R")


def mark_stages(axis: Axes, s: Sequence[float] | Tensor) -> None:
    """Write the s of every stage above the axis, and a dashed line where it changes; s has one entry per step.

    A stage too narrow for its label shares one with its neighbours ("s = 0.1 … 0.3"). Where s moves from step to step,
    the steps are one stage ("s = 1 → 2"), and a grey curve shows s on an axis to the right.
    """
    values = s.tolist() if isinstance(s, Tensor) else list(s)
    total = len(values)
    stages: list[tuple[int, int, str, str]] = []  # first step, step after the last, s at both ends
    for moving, members in groupby(_stretches(values), key=lambda stretch: stretch[1] - stretch[0] == 1):
        parts = list(members)
        if moving:
            parts = [(parts[0][0], parts[-1][1])]
        shown = "{:.3g}" if moving else "{:g}"
        stages += [(first, stop, shown.format(values[first]), shown.format(values[stop - 1])) for first, stop in parts]
    for first, *_ in stages[1:]:
        axis.axvline(first - 0.5, color=GREY, linewidth=0.9, linestyle=(0, (4, 3)), zorder=1.5)
    if any(start != end for *_, start, end in stages):
        right = axis.twinx()
        right.plot(*(part.tolist() for part in thinned(torch.tensor(values))), color=GREY, linewidth=0.9)
        right.set_ylabel("s", color=GREY)
        right.tick_params(axis="y", colors=GREY)
        right.spines["right"].set(visible=True, color=GREY)
    axis.set_xlim(-0.01 * total, 1.01 * total)

    # Neighbours share a label until it has room: widths are shares of the axis, a label of two values needs more.
    groups: list[list[tuple[int, int, str, str]]] = [[]]
    for stage in stages:
        group = groups[-1]
        if group and (group[-1][1] - group[0][0]) / total >= (0.12 if len(group) == 1 else 0.2):
            groups.append(group := [])
        group.append(stage)
    if len(groups) > 1 and (groups[-1][-1][1] - groups[-1][0][0]) / total < 0.12:
        last = groups.pop()
        groups[-1] += last
    for group in groups:
        at_first, at_last = group[0][2], group[-1][3]
        text = f"s = {at_first}" + (
            f" … {at_last}" if len(group) > 1 else f" → {at_last}" if at_last != at_first else ""
        )
        center = (group[0][0] + group[-1][1]) / 2
        place = axis.get_xaxis_transform()  # x in steps, y in heights of the axis
        axis.text(center, 1.02, text, transform=place, ha="center", va="bottom", fontsize=9)


def _stretches(values: Sequence[float]) -> list[tuple[int, int]]:
    """Where values stay equal: first position, and the one after the last."""
    ends = list(accumulate(len(list(members)) for _, members in groupby(values)))
    return list(zip([0, *ends[:-1]], ends, strict=True))


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
        ticks = [10.0**k for k in range(math.ceil(math.log10(start)), math.floor(math.log10(last) + 1e-9) + 1)]
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
            plain(name), (last, value), xytext=(place, position), textcoords=("data", "axes fraction"),
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


def plot_loss(
    loss: Tensor,
    s: Tensor,
    path: str | os.PathLike[str],
    *,
    title: str | None = None,
    terms: Mapping[str, Tensor] | None = None,
) -> None:
    """Loss against step on a log scale, the stages marked by their s; negative ones make it symmetric.

    Args:
        loss: Shape (steps,). A last stretch of NaN or Inf, of a run that diverged, is left out.
        s: Shape (steps,), the s of each step.
        path: Where to write; the suffix names the format.
        title: Text above the plot.
        terms: What the loss is the sum of, shape (steps,) each; drawn where there are several.
    Raises:
        ValueError: There are no steps to draw, or the suffix is no format that matplotlib writes.
        ModuleNotFoundError: matplotlib is not installed.
    """
    if loss.numel() == 0:
        raise ValueError("plot_loss: there are no steps to draw")
    figure, (axis,) = new_figure()
    parts = terms if terms is not None and len(terms) > 1 else {}
    every = torch.cat([loss, *parts.values()])
    every = every[every.isfinite()]
    linear = None
    if bool((every < 0).any()):  # linear up to what is common: an energy ends there, and starts far above
        linear = 10.0 ** math.ceil(math.log10(max(float(every.abs().median()), 1e-12)))
        if float(every.abs().max()) <= linear:  # a scale of powers of ten would have no ticks there
            linear = math.inf
    draw_loss(axis, loss, label="sum" if parts else None, linear_up_to=linear)
    for k, (name, values) in enumerate(parts.items()):
        draw_loss(axis, values, label=name, style=k + 1, linear_up_to=linear)
    if parts:
        axis.legend(frameon=False, fontsize=8.5)
    mark_stages(axis, s)
    if title:
        axis.set_title(plain(title), fontsize=10, pad=20)
    save_figure(figure, path)
