"""What differs between two results of one benchmark beyond noise.

Noise is the interquartile range of the rounds: a time has changed where those of the two files do not overlap.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass

from hrta_ext.benchmarks.results import Case, Result, Times

FASTER, SLOWER, SAME, UNKNOWN = "faster", "slower", "within noise", "no repeats"


@dataclass(frozen=True)
class Change:
    """One case of both files.

    Attributes:
        factor: The later time over the earlier one.
        noise: The larger of the interquartile ranges over their medians; None where a file has no repeats.
        peers: The same factor of the peers' times, by the median over those of both files; None where there are none.
            Where it is like ours, the machine has changed rather than the code.
    """

    case: str
    before: Times
    after: Times
    peers: float | None

    @property
    def factor(self) -> float:
        return self.after.median / self.before.median

    @property
    def noise(self) -> float | None:
        if self.before.quartiles is None or self.after.quartiles is None:
            return None
        both = ((self.before.quartiles, self.before.median), (self.after.quartiles, self.after.median))
        return max((upper - lower) / median for (lower, upper), median in both)

    @property
    def verdict(self) -> str:
        """FASTER, SLOWER, SAME, or UNKNOWN without repeats."""
        return judged(self.before, self.after)


@dataclass(frozen=True)
class Comparison:
    """``peers_moved``: how many peers' times changed beyond noise, of how many that tell."""

    changes: tuple[Change, ...]
    only_before: tuple[str, ...]
    only_after: tuple[str, ...]
    peers_moved: tuple[int, int]


def judged(before: Times, after: Times) -> str:
    """What became of one time."""
    if before.quartiles is None or after.quartiles is None:
        return UNKNOWN
    if after.quartiles[0] > before.quartiles[1]:
        return SLOWER
    return FASTER if after.quartiles[1] < before.quartiles[0] else SAME


def compared(before: Result, after: Result) -> Comparison:
    """Case by case.

    Raises:
        ValueError: The files are of two benchmarks, devices, numbers of threads or SIMD levels; all are named.
    """
    differences = [f"{what} ({mine} and {theirs})" for what, mine, theirs in _settings(before, after) if mine != theirs]
    if differences:
        raise ValueError(
            f"{before.path} and {after.path} cannot be compared: they differ in {', '.join(differences)}; "
            "measure both with the same"
        )
    old, new = ({case.name: case for case in result.cases} for result in (before, after))
    both = [(old[name], new[name]) for name in old if name in new]
    if not both:
        raise ValueError(f"{before.path} and {after.path} have no case in common")
    pairs = [pair for mine, theirs in both for pair in _peers(mine, theirs)]
    verdicts = [judged(*pair) for pair in pairs]
    told = [verdict for verdict in verdicts if verdict != UNKNOWN]
    return Comparison(
        tuple(_change(*pair) for pair in both),
        tuple(name for name in old if name not in new),
        tuple(name for name in new if name not in old),
        (sum(verdict != SAME for verdict in told), len(told)),
    )


def _settings(before: Result, after: Result) -> list[tuple[str, str, str]]:
    """What must be equal: in words, and as both files have it."""

    def of(result: Result) -> list[tuple[str, str]]:
        environment = result.environment
        on_gpu = environment.get("gpu")
        limits = " ".join(f"{key}={value}" for key, value in (environment.get("instruction_sets") or {}).items())
        return [
            ("benchmark", result.benchmark),
            ("device", str(on_gpu or environment["cpu"])),
            ("threads", "" if on_gpu else str(result.threads)),
            ("SIMD", "" if on_gpu else result.simd),
            ("torch's SIMD", "" if on_gpu else str(environment.get("cpu_capability"))),
            ("limits of SIMD", limits or "none"),
        ]

    return [(what, mine, theirs) for (what, mine), (_, theirs) in zip(of(before), of(after), strict=True)]


def _peers(before: Case, after: Case) -> list[tuple[Times, Times]]:
    theirs = {peer.name: peer.times for peer in after.peers}
    return [(peer.times, theirs[peer.name]) for peer in before.peers if peer.name in theirs]


def _change(before: Case, after: Case) -> Change:
    factors = [new.median / old.median for old, new in _peers(before, after)]
    return Change(before.name, before.times, after.times, statistics.median(factors) if factors else None)
