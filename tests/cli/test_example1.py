"""Example 1 trains what it says, and says no more than the numbers carry."""

from __future__ import annotations

import math

import pytest
import torch

import hrta_ext as hx
from hrta_ext.cli.example1 import (
    METHODS,
    N_POINTS,
    PAPER_METHODS,
    PAPER_STEPS,
    Run,
    Settings,
    Summary,
    as_json,
    compare,
    fine_grid,
    runs_of,
    target,
    train_all,
)
from hrta_ext.files import write_json
from hrta_ext.training.fit import fit

SETTINGS = Settings(steps=(6, 10), width=16, seeds=(0, 1))


@pytest.fixture(scope="module")
def runs() -> list[Run]:
    return train_all(SETTINGS)


def fake_runs(*losses: list[float]) -> list[Run]:
    """Runs of each method with the given final losses, one per seed."""
    return [
        Run(method, seed, torch.ones(3), loss, loss, torch.zeros(1001), 0.0)
        for method, of_method in zip(PAPER_METHODS, losses, strict=True)
        for seed, loss in enumerate(of_method)
    ]


def test_methods_are_those_of_the_paper():
    assert [method.s for method in PAPER_METHODS] == [(1.0, 1.0), (0.5, 1.0), (1.0, 1.5)]
    assert METHODS[: len(PAPER_METHODS)] == PAPER_METHODS
    assert PAPER_STEPS == (3000, 13000)
    assert Settings().width == 1000


def test_every_method_shares_seeds_steps_and_start(runs):
    assert [(run.method, run.seed) for run in runs] == [(m, seed) for seed in (0, 1) for m in METHODS]
    assert all(run.loss.shape == (16,) for run in runs)
    relu, _, relaxation = (runs_of(runs, method)[0] for method in PAPER_METHODS)
    # Both start at s = 1 from the same weights, so the first stage is the same run.
    assert torch.equal(relu.loss[:6], relaxation.loss[:6])
    assert not torch.equal(relu.loss[7:], relaxation.loss[7:])


def test_a_run_is_what_fit_does(runs):
    run = runs_of(runs, METHODS[1])[1]
    x = torch.linspace(0, 1, 100)[:, None]
    y = torch.sin(2 * math.pi * x[:, 0])
    net = hx.TwoLayerNet(1, 16, s=0.5, seed=1)
    fit(net, x, y, s=(0.5, 1.0), steps=(6, 10), lr=1e-2, lr_schedule="cosine")
    with torch.no_grad():
        assert run.final_loss == pytest.approx(0.5 * float((net(x) - y).square().mean()), rel=1e-5)
        grid = torch.linspace(0, 1, 1001)
        exact = torch.sin(2 * math.pi * grid)
        error = float((net(grid[:, None]) - exact).norm() / exact.norm())
    assert run.error == pytest.approx(error, rel=1e-5)


def test_the_ramp_moves_in_half_of_all_steps(runs):
    """The method as it should be used: s goes from 1 to 1.5 in steps 0 to 8 of 16, and stays."""
    x = torch.linspace(0, 1, 100)[:, None]
    net = hx.TwoLayerNet(1, 16, seed=0)
    y = torch.sin(2 * math.pi * x[:, 0])
    result = fit(net, x, y, s=lambda step: min(1 + step / 16, 1.5), steps=16, lr=1e-2, lr_schedule="cosine")
    run = runs_of(runs, METHODS[-1])[0]
    torch.testing.assert_close(run.loss, result.loss)


def test_comparison_says_difference_only_beyond_the_spread():
    apart = fake_runs([4.0, 5.0, 6.0, 7.0], [1.0, 2.0, 3.0, 3.5], [8.0, 9.0, 10.0, 11.0])
    assert "lower than that of ReLU" in compare(apart, METHODS[1])
    assert "higher than that of ReLU" in compare(apart, METHODS[2])
    overlapping = fake_runs([4.0, 5.0, 6.0, 7.0], [1.0, 2.0, 3.0, 4.5], [4.0, 5.0, 6.0, 7.0])
    assert "no verdict" in compare(overlapping, METHODS[1])
    assert "lower on 4 of 4 seeds" in compare(overlapping, METHODS[1])
    assert "no verdict" in compare(overlapping, METHODS[2])
    assert "too few seeds" in compare(fake_runs([4.0, 5.0], [1.0, 2.0], [1.0, 2.0]), METHODS[1])
    assert "nothing to compare" in compare(fake_runs([4.0], [math.nan], [1.0]), METHODS[1])


def test_the_reproduction_takes_nothing_back():
    """On equal runs `hrta reproduce` finds every difference that the demo names, once it has seeds enough to decide."""
    pytest.importorskip("scipy")
    from hrta_ext.reproduction.page import verdicts

    ours, theirs = [1.0 + 0.01 * k for k in range(11)], [1.2 + 0.003 * k * k for k in range(11)]
    assert "lower" in compare(fake_runs(theirs, ours, ours), METHODS[1]).split("than")[0]
    assert verdicts.compare(ours, theirs).outcome is verdicts.Outcome.LOWER
    assert "higher" in compare(fake_runs(ours, theirs, theirs), METHODS[1]).split("than")[0]
    assert verdicts.compare(theirs, ours).outcome is verdicts.Outcome.HIGHER
    # The paired test sees a difference that the ranges hide: the demo must not deny it.
    hidden = [0.9 * value for value in theirs]
    assert verdicts.compare(hidden, theirs).n_lower == 11
    assert "no verdict" in compare(fake_runs(theirs, hidden, hidden), METHODS[1])


def test_the_demo_and_the_reproduction_tell_one_example():
    from hrta_ext.reproduction.claims import homotopy, sin
    from hrta_ext.reproduction.runs.problems import make_problem

    problem = make_problem("sin1d")
    assert torch.equal(problem.x[:, 0], torch.linspace(0.0, 1.0, N_POINTS))
    assert torch.equal(problem.x_test[:, 0], fine_grid())
    torch.testing.assert_close(problem.y, target(problem.x[:, 0]), rtol=0, atol=1e-6)
    assert sin.PAPER_STEPS == PAPER_STEPS
    assert Settings().lr in sin.RATES
    relu, *schedules = PAPER_METHODS
    assert {method.s for method in schedules} == {method.s for method in sin.METHODS[1:]}
    assert set(relu.s) == set(sin.METHODS[0].s)
    ramp, judged = METHODS[-1], homotopy.BY_NAME["ramp 1 → 1.5 over 1/2"]
    assert (ramp.s, ramp.ramp) == (judged.s, judged.ramp)


def test_summary():
    assert Summary.of([3.0, 1.0, 2.0]) == Summary(2.0, 1.0, 3.0)
    assert math.isnan(Summary.of([1.0, math.inf]).median)


def test_results_are_plain_values(runs, tmp_path):
    content = as_json(SETTINGS, runs)
    write_json(tmp_path / "results.json", content)
    assert len(content["runs"]) == 2 * len(METHODS)
    assert content["summary"]["ramp 1 → 1.5"]["ramp"] == 0.5
    assert content["runs"][0]["loss"]["value"] == runs[0].loss.tolist()
    assert content["settings"]["seeds"] == (0, 1)


def test_interruption_gives_no_half_comparison(monkeypatch):
    class Interrupted:
        stop_reason = "interrupted"

    monkeypatch.setattr("hrta_ext.cli.example1.fit", lambda *args, **kwargs: Interrupted())
    with pytest.raises(KeyboardInterrupt):
        train_all(SETTINGS)


def test_pictures_of_whole_and_of_diverged_runs(runs, tmp_path):
    pytest.importorskip("matplotlib")
    from hrta_ext.cli.figures import plot_fits, plot_losses

    diverged = [Run(run.method, run.seed, run.loss[:2], math.nan, math.nan, run.fitted * math.nan, 0.0) for run in runs]
    for name, drawn in (("whole", runs), ("diverged", diverged)):
        plot_losses(drawn, SETTINGS, tmp_path / f"{name}-loss.png")
        plot_fits(drawn, tmp_path / f"{name}-fitted.png")
    assert len(list(tmp_path.glob("*.png"))) == 4
