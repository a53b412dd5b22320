"""Verdicts say what the numbers carry: on synthetic runs that hold, that fail, and that are too few."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import wilcoxon

from hrta_ext.reproduction.page.verdicts import (
    FEWEST_PAIRS,
    LEVEL,
    Outcome,
    Spread,
    Verdict,
    compare,
    count_outcomes,
    number,
    verdict_of,
    verdict_of_checks,
)

N = 12
RANDOM = np.random.default_rng(0)
BASE = list(np.exp(RANDOM.normal(size=N)))


def test_clearly_lower_and_higher():
    ours = [0.05 * value for value in BASE]
    assert compare(ours, BASE).outcome is Outcome.LOWER
    assert compare(BASE, ours).outcome is Outcome.HIGHER
    assert compare(ours, BASE).ratio == pytest.approx(0.05)
    assert compare(ours, BASE).n_lower == N


def test_a_sure_difference_within_the_spread_is_none():
    """Every pair lower, so the test is sure, but by far less than the seeds differ."""
    compared = compare([0.99 * value for value in BASE], BASE)
    assert compared.p < LEVEL
    assert compared.outcome is Outcome.SAME


def test_a_wide_spread_of_our_own_runs_hides_a_difference_too():
    """All pairs lower and our median below all of theirs, but our upper quartile is at their median: not lower."""
    theirs = [1.0 + 0.001 * k for k in range(N)]
    ours = [1e-3 * (1 + k) if k < 8 else theirs[5] + 0.0001 * k for k in range(N)]
    ours = [min(value, 0.9999 * other) for value, other in zip(ours, theirs, strict=True)]
    assert compare(ours, theirs).p < LEVEL
    assert compare(ours, theirs).ours.median < 0.01
    assert compare(ours, theirs).outcome is Outcome.SAME


def test_the_rule_is_the_same_from_both_sides():
    for _ in range(200):
        ours = list(np.exp(RANDOM.normal(size=N) - RANDOM.uniform(0, 4)))
        one, other = compare(ours, BASE).outcome, compare(BASE, ours).outcome
        opposite = {Outcome.LOWER: Outcome.HIGHER, Outcome.HIGHER: Outcome.LOWER, Outcome.SAME: Outcome.SAME}
        assert other is opposite[one]


def test_fewest_pairs_are_those_whose_smallest_p_is_below_the_level():
    assert 2.0 ** (1 - FEWEST_PAIRS) < LEVEL <= 2.0 ** (2 - FEWEST_PAIRS)
    assert compare([1e-9] * FEWEST_PAIRS, BASE[:FEWEST_PAIRS]).p == pytest.approx(2.0 ** (1 - FEWEST_PAIRS))


def test_medians_far_apart_without_a_sure_test_are_none():
    """Half of the pairs far lower, half a little higher: the median falls, the pairs disagree."""
    ours = [value * (1e-3 if k % 2 else 1.01) for k, value in enumerate(sorted(BASE))]
    compared = compare(ours, sorted(BASE))
    assert compared.p > LEVEL
    assert compared.outcome is Outcome.SAME


def test_p_is_that_of_scipy():
    ours = list(np.exp(RANDOM.normal(size=N)))
    expected = wilcoxon(np.log(ours) - np.log(BASE)).pvalue
    assert compare(ours, BASE).p == pytest.approx(expected)


def test_equal_runs_and_few_runs():
    assert compare(BASE, BASE).outcome is Outcome.SAME
    assert compare(BASE, BASE).p == 1.0
    few = FEWEST_PAIRS - 1
    assert compare([1e-9] * few, BASE[:few]).outcome is Outcome.OPEN
    assert compare([1e-9] * FEWEST_PAIRS, BASE[:FEWEST_PAIRS]).outcome is Outcome.LOWER
    with pytest.raises(ValueError, match="must come in pairs, got 2 and 1"):
        compare([1.0, 2.0], [1.0])


@pytest.mark.parametrize("diverged", [None, math.nan, math.inf])
def test_diverged_runs_count_as_the_highest(diverged):
    spread = Spread.of([1.0, 2.0, 3.0, diverged])
    assert spread.n_diverged == 1
    assert spread.median == 2.5
    assert Spread.of([1.0, diverged, diverged]).median == math.inf
    assert compare([diverged] * N, BASE).outcome is Outcome.HIGHER
    assert compare(BASE, [diverged] * N).outcome is Outcome.LOWER
    assert compare([diverged] * N, [diverged] * N).outcome is Outcome.SAME


def test_verdicts():
    lower, higher, same = Outcome.LOWER, Outcome.HIGHER, Outcome.SAME
    assert verdict_of([lower, lower]) is Verdict.HOLDS
    assert verdict_of([lower, same, higher]) is Verdict.IN_PART
    assert verdict_of([same, higher]) is Verdict.FAILS
    assert verdict_of([lower, Outcome.OPEN]) is Verdict.OPEN
    assert verdict_of([]) is Verdict.OPEN
    assert verdict_of_checks([True, True]) is Verdict.HOLDS
    assert verdict_of_checks([True, False]) is Verdict.IN_PART
    assert verdict_of_checks([False]) is Verdict.FAILS
    assert verdict_of_checks([]) is Verdict.OPEN


def test_sentences():
    outcomes = {"SGD": Outcome.LOWER, "Adam": Outcome.SAME}
    assert count_outcomes(outcomes) == "Lower in 1 of 2 (SGD), no difference in 1 of 2 (Adam)."
    sentence = compare([0.05 * value for value in BASE], BASE).sentence("HRTA", "Adam")
    assert sentence.startswith("HRTA: lower than Adam (median ")
    assert "lower on 12 of 12 seeds" in sentence


@pytest.mark.parametrize(
    ("value", "text"),
    [(1.234e-5, "1.2e-05"), (0.0234, "0.023"), (12.34, "12"), (456.7, "457"), (12345.0, "1.2e+04"), (0.0, "0"),
     (None, "diverged"), (math.nan, "diverged")],
)  # fmt: skip
def test_numbers_in_tables(value, text):
    assert number(value) == text
