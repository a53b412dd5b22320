"""What a set of runs says about a method, and no more than it carries: paired comparisons and verdicts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

# Both must hold for "lower" or "higher": a paired test at this level, and medians further apart than both spreads.
LEVEL = 0.001
FEWEST_PAIRS = 11  # below, the smallest p of the two-sided signed-rank test, 2^(1 - pairs), is above LEVEL
RULE = (
    "Runs of equal seed are paired; a diverged run counts as the highest value. A method is called lower (higher) than "
    f"another when a two-sided Wilcoxon signed-rank test on the logarithms gives p < {LEVEL:g} and each median lies "
    "outside the quartiles of the other. Everything else is called no difference. "
    f"Fewer than {FEWEST_PAIRS} pairs decide nothing. The level is strict because the page makes some three hundred "
    "comparisons: if all methods were equal, it would be passed by chance about once in three pages."
)
_HIGHEST = 1e300
_LOWEST = 1e-300


class Verdict(StrEnum):
    """Of a claim."""

    HOLDS = "holds"
    IN_PART = "holds in part"
    FAILS = "does not hold"
    OPEN = "not decided"


class Outcome(StrEnum):
    """Of one comparison."""

    LOWER = "lower"
    HIGHER = "higher"
    SAME = "no difference"
    OPEN = "too few seeds"


@dataclass(frozen=True)
class Spread:
    """Median and quartiles of runs; infinite where the runs that they fall on diverged.

    Attributes:
        low, median, high: Quartiles, linearly interpolated.
        n: Number of runs.
        n_diverged: How many of them diverged.
    """

    low: float
    median: float
    high: float
    n: int
    n_diverged: int

    @classmethod
    def of(cls, values: Sequence[float | None]) -> Spread:
        """The spread of at least one value; None and numbers that are not finite stand for diverged runs."""
        numbers = _with_diverged(values)
        low, median, high = (_infinite_again(float(q)) for q in np.quantile(numbers, [0.25, 0.5, 0.75]))
        return cls(low, median, high, len(numbers), int((numbers == _HIGHEST).sum()))

    def __str__(self) -> str:
        """As in "1.2e-05 (8.1e-06 to 2.0e-05)"."""
        return f"{number(self.median)} ({number(self.low)} to {number(self.high)})"


@dataclass(frozen=True)
class Comparison:
    """Runs of a method against those of a baseline, seed by seed.

    Attributes:
        ours, theirs: Their spreads.
        ratio: Median of ours over theirs, pair by pair.
        n_lower: Pairs in which ours is lower.
        p: Of the signed-rank test; 1 where it does not apply.
        outcome: What may be said.
    """

    ours: Spread
    theirs: Spread
    ratio: float
    n_lower: int
    p: float
    outcome: Outcome

    def sentence(self, method: str, baseline: str) -> str:
        """The comparison in words and numbers."""
        counted = f"lower on {self.n_lower} of {self.ours.n} seeds, p = {number(self.p)}"
        medians = f"median {number(self.ours.median)} against {number(self.theirs.median)}"
        what = {
            Outcome.LOWER: f"lower than {baseline}",
            Outcome.HIGHER: f"higher than {baseline}",
            Outcome.SAME: f"no difference from {baseline}",
            Outcome.OPEN: f"too few seeds to compare with {baseline}",
        }[self.outcome]
        return f"{method}: {what} ({medians}; {counted})"


def compare(ours: Sequence[float | None], theirs: Sequence[float | None]) -> Comparison:
    """Compare positive numbers, paired in their order, by the rule that :data:`RULE` states."""
    from scipy.stats import wilcoxon

    if len(ours) != len(theirs):
        raise ValueError(f"compare: runs must come in pairs, got {len(ours)} and {len(theirs)}")
    a, b = np.log(_with_diverged(ours)), np.log(_with_diverged(theirs))
    spread_a, spread_b = Spread.of(ours), Spread.of(theirs)
    difference = a - b
    p = float(wilcoxon(difference).pvalue) if len(a) > 1 and np.any(difference != 0) else 1.0
    if len(a) < FEWEST_PAIRS:
        outcome = Outcome.OPEN
    elif p < LEVEL and spread_a.median < spread_b.low and spread_a.high < spread_b.median:
        outcome = Outcome.LOWER
    elif p < LEVEL and spread_b.median < spread_a.low and spread_b.high < spread_a.median:
        outcome = Outcome.HIGHER
    else:
        outcome = Outcome.SAME
    with np.errstate(over="ignore"):
        ratio = float(np.exp(np.median(difference)))
    return Comparison(spread_a, spread_b, ratio, int((difference < 0).sum()), p, outcome)


def verdict_of(outcomes: Sequence[Outcome]) -> Verdict:
    """Verdict on a claim that predicts "lower" for every comparison: all of them, some, or none."""
    if not outcomes or Outcome.OPEN in outcomes:
        return Verdict.OPEN
    return verdict_of_checks([outcome is Outcome.LOWER for outcome in outcomes])


def verdict_of_checks(checks: Sequence[bool]) -> Verdict:
    """Verdict on a claim that predicts several facts which are measured without chance."""
    if not checks:
        return Verdict.OPEN
    return Verdict.HOLDS if all(checks) else Verdict.IN_PART if any(checks) else Verdict.FAILS


def count_outcomes(outcomes: Mapping[str, Outcome]) -> str:
    """How often which outcome came, and where the rarer ones did, in one sentence."""
    parts = []
    for outcome in Outcome:
        where = [name for name, each in outcomes.items() if each is outcome]
        if where:
            listed = "" if len(where) == len(outcomes) or len(where) > 4 else f" ({'; '.join(where)})"
            parts.append(f"{outcome.value} in {len(where)} of {len(outcomes)}{listed}")
    text = ", ".join(parts)
    return f"{text[:1].upper()}{text[1:]}."


def number(value: float | None) -> str:
    """Two digits, as in tables; "diverged" for None and what is not finite."""
    if value is None or not math.isfinite(value):
        return "diverged"
    if value == 0 or 0.01 <= abs(value) < 1000:
        return f"{value:.3g}" if abs(value) >= 100 else f"{value:.2g}"
    return f"{value:.1e}"


def _with_diverged(values: Sequence[float | None]) -> FloatArray:
    if not values:
        raise ValueError("comparisons need at least one run")
    numbers = [_HIGHEST if v is None or not math.isfinite(v) else min(max(v, _LOWEST), _HIGHEST) for v in values]
    return np.array(numbers)


def _infinite_again(quartile: float) -> float:
    # An interpolation towards a diverged run is as good as diverged.
    return math.inf if quartile > 1e200 else quartile
