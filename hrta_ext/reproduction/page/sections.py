"""What an experiment hands to the report: claims with verdicts, figures, tables, and the settings behind them."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from hrta_ext.files import replaced
from hrta_ext.reproduction.page.verdicts import Verdict, number
from hrta_ext.reproduction.runs.tasks import Results, Task

PAPER = "the paper"
CRITICS = "its reviewers"
PROJECT = "this project"


@dataclass(frozen=True)
class Scale:
    """How much an experiment does.

    Attributes:
        name: "toy" (for tests: seconds), "small" (the default: minutes) or "full" (the paper's sizes).
        seeds: Runs of every method, from the seeds 0, 1, ...
        device: Where networks are trained and Gram matrices summed.
    """

    name: str
    seeds: int
    device: str = "cpu"

    def pick(self, *, toy: Any, small: Any, full: Any) -> Any:
        """The setting of this scale."""
        return {"toy": toy, "small": small, "full": full}[self.name]


@dataclass(frozen=True)
class Claim:
    """A sentence that an experiment tests.

    Attributes:
        text: The claim, in the words of its source as far as they survived.
        place: Where it stands there.
        source: PAPER, CRITICS or PROJECT.
        verdict: What the numbers say.
        evidence: The numbers.
    """

    text: str
    place: str
    source: str
    verdict: Verdict
    evidence: str


@dataclass(frozen=True)
class Table:
    """Rows of text and numbers, shown with few digits and written to ``name``.csv with all of them."""

    name: str
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]

    def write_csv(self, folder: Path) -> None:
        """Write ``folder``/``name``.csv; what is not finite is an empty cell."""
        with replaced(folder / f"{self.name}.csv") as temporary, temporary.open("w", newline="", encoding="utf-8") as f:
            writer = csv.writer(f)
            writer.writerow(self.columns)
            writer.writerows([_plain(value) for value in row] for row in self.rows)

    def shown(self) -> list[list[str]]:
        """The cells as text."""
        return [[number(value) if isinstance(value, float) else str(value) for value in row] for row in self.rows]


def _plain(value: Any) -> Any:
    return "" if isinstance(value, float) and value - value != 0.0 else value


@dataclass(frozen=True)
class Figure:
    """``name``.png, drawn already, and what a reader should see in it."""

    name: str
    caption: str


@dataclass(frozen=True)
class Section:
    """One experiment as the report shows it.

    Attributes:
        name, title: As in ``hrta reproduce NAME``.
        setting: Paragraphs: what was run.
        readings: What is our reading because the paper's text lost it.
        claims, figures, tables: See there.
        n_runs, n_diverged: Trainings behind it; both 0 for an experiment without trainings.
        seconds: Time of one core that the runs took.
    """

    name: str
    title: str
    setting: Sequence[str]
    readings: Sequence[str]
    claims: Sequence[Claim]
    figures: Sequence[Figure]
    tables: Sequence[Table]
    n_runs: int = 0
    n_diverged: int = 0
    seconds: float = 0.0
    notes: Sequence[str] = field(default=())


class Experiment(Protocol):
    """One of the names of ``hrta reproduce``."""

    @property
    def name(self) -> str:
        """As the command line says it."""
        ...

    @property
    def title(self) -> str:
        """As the report says it."""
        ...

    def tasks(self, scale: Scale, results: Results) -> list[Task]:
        """The tasks known so far: those of a tuned run follow once the results of the tuning are there."""
        ...

    def section(self, scale: Scale, results: Results, folder: Path) -> Section:
        """Draw the figures into ``folder`` and judge the claims, once every task has a result."""
        ...
