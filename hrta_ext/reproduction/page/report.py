"""The page of a reproduction: one HTML file with its pictures inside, and the verdicts as CSV, JSON and Markdown."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hrta_ext.files import replaced, write_json
from hrta_ext.reproduction.page.sections import Figure, Scale, Section, Table
from hrta_ext.reproduction.page.verdicts import RULE, Verdict

_MARKS = {Verdict.HOLDS: "holds", Verdict.IN_PART: "part", Verdict.FAILS: "fails", Verdict.OPEN: "open"}


@dataclass(frozen=True)
class Report:
    """Everything that the page shows.

    Attributes:
        sections: In the order of the page.
        scale: How much was done.
        environment: Machine and versions.
        command: What made it.
        options: What to add to ``hrta reproduce NAME`` for one section at this scale.
    """

    sections: tuple[Section, ...]
    scale: Scale
    environment: dict[str, str]
    command: str
    options: str


def write_report(report: Report, out: Path) -> list[str]:
    """Write the page, the verdicts and each section's tables into ``out``; the figures are there already.

    Returns:
        The names of the files in ``out`` itself.
    """
    for section in report.sections:
        for table in section.tables:
            table.write_csv(out / section.name)
    verdicts = verdict_table(report)
    verdicts.write_csv(out)
    write_json(out / "verdicts.json", _as_json(report))
    _write_text(out / "verdicts.md", _markdown(verdicts))
    _write_text(out / "index.html", render(report, out))
    return ["index.html", "verdicts.csv", "verdicts.json", "verdicts.md"]


def verdict_table(report: Report) -> Table:
    """One row per claim."""
    rows = [
        (section.name, claim.text, claim.place, claim.source, claim.verdict.value, claim.evidence)
        for section in report.sections
        for claim in section.claims
    ]
    columns = ("experiment", "claim", "where", "raised by", "verdict", "evidence")
    return Table("verdicts", "Verdicts", columns, tuple(rows))


def render(report: Report, out: Path) -> str:
    """The page as HTML; everything that is not markup is escaped."""
    from jinja2 import Environment, StrictUndefined  # torch brings it

    def image(section: Section, figure: Figure) -> str:
        path = out / section.name / f"{figure.name}.png"
        return base64.b64encode(path.read_bytes()).decode() if path.is_file() else ""

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    template = environment.from_string((Path(__file__).parent / "report.html").read_text(encoding="utf-8"))
    return template.render(
        report=report,
        marks=_MARKS,
        counts=_counted([claim.verdict for section in report.sections for claim in section.claims]),
        rule=RULE,
        image=image,
        duration=duration,
        options=report.options,
        n_runs=sum(section.n_runs for section in report.sections),
        n_diverged=sum(section.n_diverged for section in report.sections),
        core_seconds=sum(section.seconds for section in report.sections),
        processor="core" if report.scale.device == "cpu" else "GPU",
    )


def _counted(verdicts: Sequence[Verdict]) -> str:
    """As in "3 claims: “holds” 1, “does not hold” 2"."""
    parts = [f"“{verdict.value}” {n}" for verdict in Verdict if (n := verdicts.count(verdict))]
    return f"{len(verdicts)} claim{'s' if len(verdicts) != 1 else ''}: {', '.join(parts)}"


def duration(seconds: float) -> str:
    """As in "45 s", "12 min" or "2 h 05 min"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02d} min"


def _as_json(report: Report) -> dict[str, Any]:
    return {
        "command": report.command,
        "scale": asdict(report.scale),
        "environment": report.environment,
        "rule": RULE,
        "sections": [
            {
                "name": section.name,
                "title": section.title,
                "n_runs": section.n_runs,
                "n_diverged": section.n_diverged,
                "seconds": section.seconds,
                "claims": [asdict(claim) for claim in section.claims],
                "figures": [f"{section.name}/{figure.name}.png" for figure in section.figures],
                "tables": [f"{section.name}/{table.name}.csv" for table in section.tables],
            }
            for section in report.sections
        ],
    }


def _markdown(verdicts: Table) -> str:
    """The verdicts without the evidence, for a page that shows Markdown."""
    lines = ["| experiment | claim | raised by | verdict |", "|---|---|---|---|"]
    for name, text, place, source, verdict, _ in verdicts.rows:
        cells = (name, text.replace("|", "\\|"), f"{source}, {place}", f"**{verdict}**")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _write_text(path: Path, text: str) -> None:
    with replaced(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
