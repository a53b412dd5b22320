"""``hrta reproduce``: the paper's claims as experiments, and the page that shows what became of them.

The adapter between the two: the one file of the reproduction that knows the command line (``hrta_ext.cli``), which adds
the command where the extra ``reproduce`` is installed.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Annotated

import typer

from hrta_ext.cli.launched import alike, launched, leads, own_device
from hrta_ext.cli.options import check_device
from hrta_ext.cli.output import CommandError, Interrupted, output_directory, print_line, print_note, print_table, speaks
from hrta_ext.reproduction.page.report import Report, duration
from hrta_ext.reproduction.page.sections import Scale
from hrta_ext.reproduction.page.verdicts import FEWEST_PAIRS
from hrta_ext.reproduction.reproduce import EXPERIMENTS, RUNS, SEEDS, reproduce
from hrta_ext.reproduction.runs.tasks import Progress

_SECONDS_BETWEEN_LINES = 30.0
_LONGEST_RUN = timedelta(days=1)  # which the other ranks of a group wait for; a rank that dies ends them at once
_LIST = ", ".join(EXPERIMENTS)


def reproduce_command(
    name: Annotated[str, typer.Argument(metavar="NAME", help=f"{_LIST}, or all.", show_default=False)],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Directory for the report.")] = Path("report"),
    full: Annotated[bool, typer.Option("--full", help="The paper's sizes and more seeds: up to 3 hours.")] = False,
    seeds: Annotated[
        int | None, typer.Option(min=1, help="Seeds 0, 1, ... of every method.  [default: 11, with --full 20]")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda, where everything is computed but linear fits.")] = "cpu",
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes at once.  [default: one per core, one on a GPU]")
    ] = None,
) -> None:
    """Put the paper's claims to the test: what it says, what was measured, and a verdict.

    Writes index.html (one page with its pictures inside), verdicts.csv, verdicts.json and verdicts.md, a folder with
    pictures and CSV for every experiment, and the result of every run. Stopped, it goes on where it was when it is
    called again with the same --out. Without --full everything is smaller and done in minutes.

    Under torchrun its processes share the runs, one at a time each, and all must see the folder of --out.

    Example: `hrta reproduce all --out report`
    """
    names = list(EXPERIMENTS) if name == "all" else [name]
    if names[0] not in EXPERIMENTS:
        raise CommandError(f"{name}: no such experiment; choose one of {_LIST}, or all")
    check_device(device)
    if (out / "index.html").exists() and not (out / RUNS).is_dir():
        raise CommandError(f"{out} holds an index.html that is no report of this command; choose another --out")
    which = "full" if full else "small"
    scale = Scale(which, seeds or SEEDS[which], device)
    if scale.seeds < FEWEST_PAIRS:
        print_note(f"{scale.seeds} seeds decide no comparison, {FEWEST_PAIRS} are the fewest that can")
    workers = workers or (1 if device == "cuda" else _cores())
    options = (" --full" if full else "") + (f" --seeds {seeds}" if seeds else "")
    options += f" --device {device}" if device != "cpu" else ""
    start = time.perf_counter()
    with launched(_LONGEST_RUN) as ranks, ExitStack() as stack:
        with alike(ranks, "hrta reproduce"):
            own_device(ranks, device)
            if leads(ranks):
                stack.enter_context(output_directory(out, (), overwrite=True))
        progress = stack.enter_context(_progress())
        try:
            report = reproduce(
                names, out, scale, workers=workers if ranks is None else ranks.size, ranks=ranks,
                command=f"hrta reproduce {name}{options}", options=options, progress=progress,
            )  # fmt: skip
        except KeyboardInterrupt:
            raise Interrupted(f"interrupted; the same command with --out {out} goes on where it was") from None
    if report is None:
        return
    _print(report)
    print_line(f"Written to {out} in {duration(time.perf_counter() - start)}: open {out / 'index.html'}")


def _cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def _progress() -> Iterator[Callable[[Progress], None]]:
    """A bar on a terminal; elsewhere a line every half minute. Both say how much time is left.

    Runs at a tuned learning rate are not known before their tuning is done: what is left is said of the known ones.
    """
    from tqdm import tqdm

    terminal = speaks() and sys.stderr.isatty()
    layout = "{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} runs, {desc}"
    bar = tqdm(disable=not terminal, bar_format=layout, dynamic_ncols=True, leave=False)
    last_line = time.perf_counter()

    def show(state: Progress) -> None:
        nonlocal last_line
        left = f"about {duration(state.seconds_left)} left for those known so far"
        if terminal:
            bar.total = state.n_tasks
            bar.n = state.n_done
            bar.set_description_str(left)
        elif time.perf_counter() - last_line >= _SECONDS_BETWEEN_LINES:
            last_line = time.perf_counter()
            print_note(f"{state.n_done} of {state.n_tasks} runs done, {left}")

    try:
        yield show
    finally:
        bar.close()


def _print(report: Report) -> None:
    rows = [[section.name, claim.text, claim.verdict.value] for section in report.sections for claim in section.claims]
    print_table("Verdicts", ["experiment", "claim", "verdict"], rows, text_columns=3)
    failed, n_runs = (sum(getattr(section, name) for section in report.sections) for name in ("n_diverged", "n_runs"))
    if failed:
        print_line(f"{failed} of {n_runs} trainings diverged; the page counts them.")
