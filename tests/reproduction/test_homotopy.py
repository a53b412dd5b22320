"""``hrta reproduce homotopy``: how s moves in each method, equal conditions for all of them, and what is concluded."""

from __future__ import annotations

import csv
from dataclasses import asdict, replace

import pytest
import torch

import hrta_ext as hx
from hrta_ext.reproduction.claims import homotopy, ritz
from hrta_ext.reproduction.page.sections import Scale
from hrta_ext.reproduction.page.verdicts import Verdict
from hrta_ext.reproduction.reproduce import reproduce
from hrta_ext.reproduction.runs import homotopies, trainings
from hrta_ext.reproduction.runs.homotopies import Homotopy
from hrta_ext.reproduction.runs.problems import make_problem
from hrta_ext.reproduction.runs.tasks import Results
from hrta_ext.reproduction.runs.trainings import Training

TOY, FULL = Scale("toy", 2), Scale("full", 20)
EXPERIMENT = homotopy.HomotopyExperiment()
RUN = Homotopy("sin3d", width=16, s=(1.0, 2.0), steps=(6, 26), lr=1e-2, seed=3)


# --- one training -----------------------------------------------------------------------------------------------------


def result_of(training):
    result = training.task.run()
    assert result.pop("seconds") > 0
    return result


@pytest.mark.parametrize("restart", [False, True])
def test_stages_are_those_of_the_other_experiments(restart):
    """The paper's switch here and there gives the same bits, so that the pages can be read side by side."""
    ours = result_of(replace(RUN, restart=restart))
    fields = {name: value for name, value in asdict(RUN).items() if name in Training.__dataclass_fields__}
    theirs = trainings.train({**fields, "restart": restart})
    assert {name: theirs[name] for name in ("final_loss", "error", "diverged")} == {
        name: ours[name] for name in ("final_loss", "error", "diverged")
    }
    assert ours["last_s"] == 2.0


def by_hand(**options):
    """The loss after a fit in float64 of the same network and data."""
    problem = make_problem("sin3d")
    net = hx.TwoLayerNet(3, 16, seed=3).double()
    x, y = problem.x.double(), problem.y.double()
    hx.fit(net, x, y, lr=1e-2, lr_schedule="cosine", progress=False, **options)
    with torch.no_grad():
        return float(0.5 * (net(x) - y).square().mean())


@pytest.mark.parametrize(
    ("moves", "options"),
    [
        ("ramp", {"s": lambda step: 1.0 + min(step / 8, 1.0), "steps": 32}),
        ("kept", {"s": (1.0, 2.0), "steps": (6, 26), "keep_function": True}),
        ("stages", {"s": (1.0, 2.0), "steps": (6, 26)}),
    ],
)
def test_s_moves_as_the_method_says(moves, options):
    result = result_of(replace(RUN, moves=moves, ramp_steps=8, dtype="float64"))
    assert result["final_loss"] == pytest.approx(by_hand(**options), rel=1e-9)
    assert result["last_s"] == 2.0


def test_an_adaptive_path_ends_where_it_came_to():
    result = result_of(replace(RUN, moves="adaptive", steps=(260,), width=200))
    assert 1.0 < result["last_s"] <= 2.0


def test_the_sobolev_loss_has_its_error():
    """The Poisson problem's run is judged by the error of value and gradient together."""
    result = result_of(replace(RUN, problem="poisson", base="relu2", moves="ramp", ramp_steps=8, dtype="float64"))
    assert 0.0 < result["error"] < result["h1_error"] * 10
    assert result["final_loss"] > 0.0


def test_an_unknown_motion_is_refused():
    with pytest.raises(ValueError, match="moves must be one of stages, kept, ramp, adaptive, got 'leap'"):
        homotopies.train(asdict(replace(RUN, moves="leap")))


# --- equal conditions -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", homotopy.CASES, ids=lambda case: case.name)
def test_methods_share_steps_rates_and_tuning_seeds(case, tmp_path):
    results = Results(tmp_path)
    plans = [EXPERIMENT.tuning(FULL, case, homotopy.BY_NAME[name], results) for name in case.methods]
    assert case.methods[0] == homotopy.BASELINE
    assert {tuple(plan) for plan in plans} == {homotopy.RATES[case.optimizer]}
    every = [run for plan in plans for runs in plan.values() for run in runs]
    assert {sum(run.steps) for run in every} == {case.total}
    assert {run.lr_schedule for run in every} == {"cosine"}
    same = ("width", "network", "base", "n", "noise", "batch_size", "dtype")
    assert len({tuple(getattr(run, name) for name in same) for run in every}) == 1
    assert {tuple(run.seed for run in runs) for plan in plans for runs in plan.values()} == {homotopy.TUNING_SEEDS}
    assert not set(homotopy.TUNING_SEEDS) & set(range(100))


def test_shares_of_the_steps():
    case = homotopy.CASES[0]

    def steps(name):
        run = EXPERIMENT.run(FULL, case, homotopy.BY_NAME[name], 1e-2, 0)
        return run.steps, run.ramp_steps, run.s

    assert steps("switch 1 → 1.5, function kept") == ((1500, 6500), 0, (1.0, 1.5))
    assert steps("ramp 1 → 2 over 1/4") == ((8000,), 2000, (1.0, 2.0))
    assert steps("ramp 2 → 1 over 1/4") == ((8000,), 2000, (2.0, 1.0))
    assert steps("s = 1.5") == ((8000,), 0, (1.5,))


# --- the page ---------------------------------------------------------------------------------------------------------


def test_a_toy_report(tmp_path):
    """Tuning, judged runs, tables and pictures from end to end, the Poisson problem too; two seeds decide nothing."""
    report = reproduce(["homotopy"], tmp_path, TOY)
    (section,) = report.sections
    assert {claim.verdict for claim in section.claims} == {Verdict.OPEN}
    assert sum("by Deep Ritz" in claim.evidence for claim in section.claims) == 2
    for figure in section.figures:
        assert (tmp_path / "homotopy" / f"{figure.name}.png").read_bytes().startswith(b"\x89PNG")
    with (tmp_path / "homotopy" / "homotopy_sin1d_adam.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["method"] for row in rows] == [method.name for method in homotopy.METHODS]
    assert [float(row["last s"]) for row in rows[:3]] == [1.0, 1.5, 2.0]


def runs(factor):
    spread = [1.0, 1.1, 0.9, 1.2, 0.8, 1.05, 0.95, 1.15, 0.85, 1.02, 0.98, 1.0]
    losses = [factor ** (1 + k / 100) * value for k, value in enumerate(spread)]  # no ties among the differences
    return [{"final_loss": loss, "error": value, "h1_error": value} for loss, value in zip(losses, spread, strict=True)]


def judged(**factors):
    """Claims by their text, the final losses of the named methods multiplied, those of all others alike."""
    cases = {case.name: case for case in homotopy.CASES}
    final = {}
    for name in ("sin1d_adam", "sin3d_adam", "sin3d_gd", "sin1d_noise_adam"):
        final[cases[name]] = {method: runs(factors.get(name, {}).get(method, 1.0)) for method in cases[name].methods}
    return {claim.text: claim for claim in homotopy.judge(final)}


RAMP = "ramp 1 → 2 over 1/4"


def test_a_claim_holds_where_every_comparison_is_lower():
    text = "A ramp 1 → 2 over a quarter of the steps ends lower than s = 1 (Adam)"
    both = {"sin1d_adam": {RAMP: 0.1}, "sin3d_adam": {RAMP: 0.1}}
    assert judged(**both)[text].verdict is Verdict.HOLDS
    assert judged(sin3d_adam={RAMP: 0.1})[text].verdict is Verdict.IN_PART
    assert judged(sin3d_gd={RAMP: 0.1})[text].verdict is Verdict.FAILS
    assert judged(sin3d_adam={RAMP: 10.0})[text].verdict is Verdict.FAILS


def test_noise_is_judged_by_the_error_against_the_true_function():
    """A lower training loss on noisy targets is no success."""
    text = "On a measured table and with noise, a ramp up gives a lower error than s = 1 (Adam)"
    assert judged(sin1d_noise_adam={RAMP: 0.01})[text].verdict is Verdict.FAILS


def test_the_poisson_problem_is_judged_by_both_forms():
    """From the runs of the experiment `poisson`: against s = 1 and against its switch, by the error."""
    level = {name: runs(1.0) for name in ritz.METHODS}
    final = {
        ritz.RITZ: {**level, "HRTA 1 → 1.5": runs(10.0)},
        ritz.SOBOLEV: {**level, "ramp 1 → 1.5 over 1/2": runs(0.1)},
    }
    for of_form in final.values():
        for method in of_form.values():
            method[:] = [{**run, "error": run["final_loss"]} for run in method]
    against_one, against_switch = homotopy.of_poisson(final)
    assert (against_one.verdict, against_switch.verdict) == (Verdict.IN_PART, Verdict.HOLDS)
    assert "no difference" in against_one.evidence


def test_three_layers_go_by_the_torch_engine():
    """Every hidden layer follows the ramp."""
    case = next(case for case in homotopy.CASES if case.name == "deep3d_adam")
    run = EXPERIMENT.run(FULL, case, homotopy.BY_NAME["ramp 1 → 1.5 over 1/2"], 1e-2, 0)
    assert (run.network, run.problem, run.ramp_steps) == ("three_layer", "sin3d", sum(run.steps) // 2)
    result = result_of(replace(run, width=8, steps=(20,), ramp_steps=10))
    assert result["last_s"] == 1.5
    assert result["final_loss"] > 0.0
