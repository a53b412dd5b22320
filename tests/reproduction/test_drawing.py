"""What a reader needs to read a figure: labels on the axes, a name for every curve, a word for what cannot be drawn."""

from __future__ import annotations

import pytest

pytest.importorskip("matplotlib")

from hrta_ext.plots import new_figure, readable_log_ticks
from hrta_ext.reproduction.page.drawing import draw_against, draw_dots, save_picture


@pytest.mark.parametrize("low", [1e-14, 0.0023, 0.29, 0.61, 7.0])
@pytest.mark.parametrize("decades", [0.13, 0.4, 0.6, 0.9, 1.5, 1.7, 4.0, 12.0])
def test_a_log_axis_has_some_labels_and_not_too_many(low, decades):
    _, (axis,) = new_figure()
    axis.set_xscale("log")
    axis.set_xlim(low, low * 10**decades)
    readable_log_ticks(axis.xaxis)
    inside = [tick for tick in axis.xaxis.get_majorticklocs() if low <= tick <= low * 10**decades]
    labels = axis.xaxis.get_major_formatter().format_ticks(inside)
    assert 1 < len(labels) <= 10
    assert len(set(labels)) == len(labels)
    assert all(labels)


@pytest.mark.filterwarnings("error")  # of a user's terminal: one width that can be drawn leaves no range
def test_medians_of_zero_are_named_where_they_cannot_be_drawn():
    _, (axis,) = new_figure()
    draw_against(axis, [200, 1000], {"NTK": [[0.0], [0.3, 0.4]], "K[a]": [[0.0], [0.0]]})
    texts = [text.get_text() for text in axis.texts]
    assert "NTK: 0 at 200\nK[a]: 0" in texts
    assert "NTK" in texts


def test_diverged_runs_are_counted_beside_their_row():
    _, (axis,) = new_figure()
    draw_dots(axis, {"one": [1.0, 2.0], "other": [1.0, None]}, reference="one")
    assert [text.get_text() for text in axis.texts] == ["1 diverged"]


def test_a_picture_that_fails_costs_the_page_nothing_else(tmp_path, monkeypatch, capsys):
    figure, _ = new_figure()
    save_picture(figure, tmp_path / "a.png")
    assert (tmp_path / "a.png").exists()

    def fail(*_):
        raise RuntimeError("no\nfont")

    monkeypatch.setattr("hrta_ext.reproduction.page.drawing.save_figure", fail)
    save_picture(figure, tmp_path / "a.png")
    assert capsys.readouterr().err == f"hrta: warning: {tmp_path / 'a.png'} could not be drawn: no font\n"
    assert not (tmp_path / "a.png").exists()  # the picture of an earlier report
