"""The loss plot: what it shows, that it reads in grey, and that it leaves the rest of matplotlib alone."""

import math
import sys
from itertools import pairwise

import pytest
import torch

pytest.importorskip("matplotlib")

from hrta_ext.network.module import TwoLayerNet
from hrta_ext.plots import (
    COLORS,
    LINE_STYLES,
    draw_loss,
    label_ends,
    line_style,
    mark_stages,
    new_figure,
    plain,
    plot_loss,
    save_figure,
    thinned,
)
from hrta_ext.training.fit import fit


def stages(*runs: tuple[float, int]) -> torch.Tensor:
    return torch.cat([torch.full((count,), s, dtype=torch.float64) for s, count in runs])


def test_fit_result_plot_writes_png_pdf_and_svg(tmp_path) -> None:
    x = torch.linspace(0, 1, 9)[:, None]
    result = fit(TwoLayerNet(1, 5, seed=0), x, x[:, 0], s=(0.5, 1.0), steps=(5, 9))
    for suffix, start in (("png", b"\x89PNG"), ("pdf", b"%PDF"), ("svg", b"<?xml")):
        result.plot(tmp_path / f"loss.{suffix}")
        assert (tmp_path / f"loss.{suffix}").read_bytes().startswith(start)
    assert len(list(tmp_path.iterdir())) == 3


def test_plotting_leaves_pyplot_and_the_settings_alone(tmp_path) -> None:
    import matplotlib
    import matplotlib.pyplot as plt

    before, figures = dict(matplotlib.rcParams), plt.get_fignums()
    plot_loss(torch.ones(5), torch.ones(5), tmp_path / "loss.png")
    assert plt.get_fignums() == figures
    assert dict(matplotlib.rcParams) == before


def test_stages_are_labelled_and_divided() -> None:
    _, (axis,) = new_figure()
    loss = torch.logspace(0, -4, 100, dtype=torch.float64)
    draw_loss(axis, loss)
    mark_stages(axis, stages((0.5, 40), (1.0, 60)))
    assert axis.get_yscale() == "log"
    assert [text.get_text() for text in axis.texts] == ["s = 0.5", "s = 1"]
    assert [text.get_position()[0] for text in axis.texts] == [20.0, 70.0]
    assert [line.get_xdata()[0] for line in axis.lines[1:]] == [39.5]
    assert axis.lines[0].get_ydata() == pytest.approx(loss.tolist())


def test_a_ramp_is_one_stage_and_s_is_drawn() -> None:
    figure, (axis,) = new_figure()
    path = [1.0] * 20 + [1.0 + t / 30 for t in range(1, 30)] + [2.0] * 21
    mark_stages(axis, path)
    assert [text.get_text() for text in axis.texts] == ["s = 1", "s = 1.03 → 1.97", "s = 2"]
    assert [line.get_xdata()[0] for line in axis.lines] == [19.5, 48.5]
    (right,) = [other for other in figure.axes if other is not axis]
    assert right.lines[0].get_ydata() == pytest.approx(path)


def test_labels_of_many_narrow_stages_never_overlap() -> None:
    figure, (axis,) = new_figure()
    mark_stages(axis, stages(*[(round(0.05 * (p + 1), 2), 10) for p in range(40)]))
    figure.canvas.draw()
    boxes = [text.get_window_extent() for text in axis.texts]
    assert axis.texts[0].get_text() == "s = 0.05 … 0.4"
    assert all(left.x1 < right.x0 for left, right in pairwise(boxes))


@pytest.mark.parametrize("counts", [(980, 20), (830, 150, 20), (20, 980), (400, 20, 580), (120, 120, 120, 640)])
def test_narrow_stages_share_a_label_inside_the_figure(counts: tuple[int, ...]) -> None:
    figure, (axis,) = new_figure()
    mark_stages(axis, stages(*[(1.0 + 0.25 * (p % 2), count) for p, count in enumerate(counts)]))
    figure.canvas.draw()
    boxes = [text.get_window_extent() for text in axis.texts]
    assert boxes[0].x0 >= 0
    assert boxes[-1].x1 <= figure.bbox.x1
    assert all(left.x1 < right.x0 for left, right in pairwise(boxes))


def test_values_that_a_log_scale_cannot_show_are_left_out(tmp_path) -> None:
    _, (axis,) = new_figure()
    draw_loss(axis, torch.tensor([1.0, 0.0, 0.1, math.nan, math.inf]))
    assert axis.lines[0].get_xdata() == pytest.approx([0, 2])
    plot_loss(torch.zeros(4), torch.ones(4), tmp_path / "zero.png")  # nothing positive: a linear scale
    plot_loss(torch.full((4,), math.nan), torch.ones(4), tmp_path / "nan.png")


def test_lines_differ_in_colour_and_in_style() -> None:
    assert len(set(COLORS)) == len(set(LINE_STYLES)) == len(COLORS)
    assert line_style(1)["color"] != line_style(2)["color"]
    first_twelve = [(style["color"], str(style["linestyle"])) for style in map(line_style, range(12))]
    assert len(set(first_twelve)) == 12


def test_thinning_a_long_curve_keeps_every_extreme_and_both_ends() -> None:
    values = torch.rand(100_003, generator=torch.Generator().manual_seed(0))
    values[54_321], values[77_777], values[99] = 9.0, -9.0, math.nan
    position, kept = thinned(values, 4000)
    assert 3000 < len(position) < 4200
    assert (position.diff() > 0).all()
    assert torch.equal(values[position], kept)
    assert position[0] == 0
    assert position[-1] == 100_002
    assert kept.max() == 9.0
    assert kept.min() == -9.0


def test_short_curves_are_drawn_point_by_point() -> None:
    values = torch.rand(50)
    position, kept = thinned(values)
    assert torch.equal(position, torch.arange(50))
    assert torch.equal(kept, values)


def test_plot_refuses_an_empty_run_and_an_unknown_format(tmp_path) -> None:
    with pytest.raises(ValueError, match=r"^plot_loss: there are no steps to draw"):
        plot_loss(torch.empty(0), torch.empty(0), tmp_path / "loss.png")
    with pytest.raises(ValueError, match="xyz"):
        plot_loss(torch.ones(3), torch.ones(3), tmp_path / "loss.xyz")
    assert list(tmp_path.iterdir()) == []


def test_plot_without_matplotlib_names_the_cure(monkeypatch, tmp_path) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ModuleNotFoundError, match=r"plots need matplotlib: pip install 'hrta_ext\[plot\]'"):
        plot_loss(torch.ones(3), torch.ones(3), tmp_path / "loss.png")


# A name, and what it is drawn as.
NAMES = {
    **{
        name: name
        for name in ("cost_$_per_$", r"$\frac{a", "$x^2$", r"\$", "$", "温度", "درجة", "🎉", r"%#&~^{}\n", "")
    },
    "_first": " _first",
    "a\tb\nc\r": "a b c ",
    "\0\x1b\ud800": "���",
    "n" * 5000: "n" * 59 + "…",
    "温" * 31: "温" * 29 + "…",
    "温" * 30: "温" * 30,
}


@pytest.mark.parametrize("tex", [False, True])
@pytest.mark.filterwarnings("error")
def test_texts_of_users_are_drawn_as_they_are(tex: bool, tmp_path) -> None:
    """In every place where a text can be, under the user's own settings for TeX as well."""
    import matplotlib

    with matplotlib.rc_context({"text.usetex": tex, "text.parse_math": not tex}):
        figure, (axis, ticks) = new_figure(columns=2)
        figure.set_layout_engine("none")  # long labels take it seconds
        for k, name in enumerate(NAMES):
            draw_loss(axis, torch.tensor([1.0, 0.5]) + k, label=name)
        label_ends(axis, [(0.5 + k, name, "black") for k, name in enumerate(NAMES)], 1.0)
        legend = axis.legend()
        axis.set_title(plain("$a$"))
        ticks.set_yticks(range(len(NAMES)), [plain(name) for name in NAMES])
        for suffix in ("pdf",) if tex else ("png", "svg"):
            save_figure(figure, tmp_path / f"picture.{suffix}")
        assert matplotlib.rcParams["text.usetex"] is tex
    for texts in (axis.texts, ticks.get_yticklabels()):
        drawn = [text._preprocess_math(text.get_text()) for text in texts]
        assert drawn == [(shown, False) for shown in NAMES.values()]
    assert len(legend.get_texts()) == len(NAMES) - 1  # all but the empty name
    assert axis.title._preprocess_math(axis.title.get_text()) == ("$a$", False)


def test_letters_that_the_font_lacks_come_from_another(tmp_path, monkeypatch) -> None:
    from matplotlib import rcParams

    monkeypatch.setattr("hrta_ext.plots._FAMILIES", ("Not Installed", "STIXGeneral"))
    figure, (axis,) = new_figure()
    axis.set_title(plain("温度"))
    axis.set_xlabel("steps")
    save_figure(figure, tmp_path / "picture.png")
    assert axis.title.get_fontfamily() == [*rcParams["font.family"], "STIXGeneral"]
    assert axis.xaxis.label.get_fontfamily() == rcParams["font.family"]
