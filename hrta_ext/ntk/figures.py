"""Pictures of kernels: their spectra against s, and the matrices themselves. Style: :mod:`hrta_ext.plots`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from hrta_ext.ntk.gram import GramPath
from hrta_ext.ntk.report import KERNELS, SpectraReport, Spectrum
from hrta_ext.plots import COLORS, GREY, new_figure, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MATH = {"ntk": "NTK", "a": r"$G^{[a]}$", "w": r"$G^{[w]}$"}
_QUANTITIES = (r"$\lambda_{\min}$", r"$\lambda_{\max}$", r"condition number $\lambda_{\max}/\lambda_{\min}$", "trace")
_LINE, _POINTS = COLORS[0], COLORS[1]
# Monotone in lightness, so the same in grey print and to colour-blind readers.
_COLORMAP = "cividis"
_MOST_IMAGES = 5
# Entries beyond these shares share the end colours: a few outlying samples would leave no contrast for the rest.
_SHOWN_SHARE = (0.005, 0.995)


def plot_spectra(report: SpectraReport, path: str | os.PathLike[str]) -> None:
    """lambda_min, lambda_max, condition number and trace against s, a row of panels for each kernel.

    Finite width as points with bars of one standard error, infinite width as a line. lambda_min is drawn on two log
    scales beside a line of slope 2 where the s^2 law can be looked for; values that numerical error hides are left out.
    """
    figure, axes = new_figure(12.6, 8.0, rows=len(KERNELS), columns=len(_QUANTITIES))
    for row, kernel in enumerate(KERNELS):
        finite, infinite = report.finite[kernel], report.infinite[kernel]
        panels = axes[row * len(_QUANTITIES) : (row + 1) * len(_QUANTITIES)]
        _draw_smallest(panels[0], report, finite, infinite)
        _draw(panels[1], report.s, infinite.largest, finite.largest)
        _draw(panels[2], report.s, *(torch.where(one.resolved, one.condition, torch.nan) for one in (infinite, finite)))
        _draw(panels[3], report.s, infinite.trace, finite.trace)
        _scale(panels[2], infinite.condition, finite.condition)
        panels[0].set_ylabel(_MATH[kernel], fontsize=12, rotation=0, labelpad=24, va="center")
        first, last = float(report.s[0]), float(report.s[-1])
        for panel in panels:
            if panel.get_xscale() == "linear":
                panel.set_xlim(first - 0.05 * (last - first or 1.0), last + 0.05 * (last - first or 1.0))
        for panel, name in zip(panels, _QUANTITIES, strict=True):
            panel.tick_params(labelsize=8)
            if row == 0:
                panel.set_title(name, fontsize=10)
            if row == len(KERNELS) - 1:
                panel.set_xlabel("s")
    _name_curves(axes[1], report)
    bars = (
        r"bars: one standard error of $\lambda_{\min}$" if report.finite["ntk"].error is not None else "no error bars"
    )
    figure.suptitle(f"Spectra of {report.n_samples} samples, D = {report.n_features}; {bars}", fontsize=11)
    save_figure(figure, path)


def _draw(axis: Axes, s: Tensor, infinite: Tensor, finite: Tensor, error: Tensor | None = None) -> None:
    axis.plot(s.tolist(), infinite.tolist(), color=_LINE, linewidth=1.5, zorder=2)
    style: dict[str, Any] = {
        "linestyle": "none",
        "marker": "o",
        "markersize": 4,
        "markerfacecolor": "white",
        "color": _POINTS,
    }
    axis.errorbar(s.tolist(), finite.tolist(), None if error is None else error.tolist(), capsize=2, zorder=3, **style)


def _draw_smallest(axis: Axes, report: SpectraReport, finite: Spectrum, infinite: Spectrum) -> None:
    """lambda_min where it stands above numerical error; two log scales show a power of s as a straight line."""
    s = report.s
    law = report.n_samples > report.n_features and bool((s >= 0).all())
    visible = infinite.resolved & (s > 0)
    law = law and int(visible.sum()) >= 2
    values = [torch.where(one.resolved & ((s > 0) | (not law)), one.smallest, torch.nan) for one in (infinite, finite)]
    _draw(axis, s, values[0], values[1], finite.error)
    _scale(axis, *values)
    if not law:
        return
    axis.set_xscale("log")
    axis.set_yscale("log")
    shown = s[visible]
    guide = float(infinite.smallest[visible][-1]) * (shown / shown[-1]) ** 2 / 4.0
    axis.plot(shown.tolist(), guide.tolist(), color=GREY, linewidth=1.0, linestyle=(0, (4, 3)), zorder=1)
    middle = len(shown) // 2
    place = (float(shown[middle]), float(guide[middle]))
    axis.annotate(r"$\propto s^2$", place, xytext=(4, -4), textcoords="offset points", color=GREY, va="top", fontsize=9)
    ticks = [tick for tick in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10) if shown[0] <= tick <= shown[-1]]
    if len(ticks) >= 2:
        axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axis.set_xticks([], minor=True)


def _scale(axis: Axes, *values: Tensor) -> None:
    """A log scale for positive values that span more than a factor of ten; a word where there are none."""
    found = torch.cat(values)
    found = found[found.isfinite()]
    if len(found) == 0:
        axis.set_yticks([])
        axis.text(
            0.5, 0.5, "hidden by\nnumerical error", transform=axis.transAxes, ha="center", va="center", color=GREY
        )
    elif float(found.min()) > 0.0 and float(found.max()) > 10.0 * float(found.min()):
        axis.set_yscale("log")


def _name_curves(axis: Axes, report: SpectraReport) -> None:
    """Names in the colours of the curves, one beside a stretch of line and one beside a point."""
    text: dict[str, Any] = {"fontsize": 9, "transform": axis.transAxes}
    low, high = axis.get_ylim()
    axis.set_ylim(low, high + 0.4 * (high - low))
    axis.text(0.04, 0.97, "— infinite width", color=_LINE, va="top", **text)
    axis.text(0.04, 0.86, f"○ width {report.width:,}", color=_POINTS, va="top", **text)


def plot_kernels(path: GramPath, features: Tensor, s: Sequence[float], target: str | os.PathLike[str]) -> None:
    """The matrices at up to five of the values of s, as images; the images of a kernel share one colour scale.

    Args:
        path: The kernels.
        features: (n, d); the samples are ordered along their first principal component, so that structure shows.
        s: Values to choose from, ascending: ends and evenly between.
        target: Where to write.
    """
    chosen = spread(s, _MOST_IMAGES)
    order = display_order(features.cpu())
    matrices = path(torch.tensor(chosen, dtype=torch.float64))
    height = 2.3 * len(KERNELS) + 0.6
    figure, axes = new_figure(2.3 * len(chosen) + 1.4, height, rows=len(KERNELS), columns=len(chosen))
    for row, kernel in enumerate(KERNELS):
        images = getattr(matrices, kernel).cpu()[:, order][:, :, order]
        low, high = np.quantile(images.numpy(), _SHOWN_SHARE)
        panels = axes[row * len(chosen) : (row + 1) * len(chosen)]
        for panel, image, value in zip(panels, images, chosen, strict=True):
            panel.grid(False)
            panel.spines[:].set_visible(False)
            drawn = panel.imshow(image.numpy(), cmap=_COLORMAP, vmin=low, vmax=high)
            panel.set(xticks=[], yticks=[])
            if row == 0:
                panel.set_title(f"s = {value:g}", fontsize=10)
        panels[0].set_ylabel(_MATH[kernel], fontsize=12, rotation=0, labelpad=24, va="center")
        figure.colorbar(drawn, ax=panels, shrink=0.9, pad=0.02, extend="both").ax.tick_params(labelsize=8)
    by = "the feature" if features.shape[1] == 1 else "the first principal component"
    figure.suptitle(f"Kernels at width {path.width:,}; {len(features)} samples ordered by {by}", fontsize=11)
    save_figure(figure, target)


def spread(values: Sequence[float], most: int) -> list[float]:
    """At most ``most`` of the values: both ends and evenly between."""
    count = min(most, len(values))
    steps = max(count - 1, 1)
    return [values[round(k * (len(values) - 1) / steps)] for k in range(count)]


def display_order(features: Tensor) -> Tensor:
    """Order of the rows (n, d) along their first principal component, (n,)."""
    centred = features - features.mean(0)
    direction = torch.linalg.svd(centred, full_matrices=False).Vh[0]
    sign = torch.sign(direction[direction.abs().argmax()])
    return torch.argsort(centred @ direction * sign, stable=True)
