"""``hrta demo``: the paper's first example."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import torch
import typer

from hrta_ext import __version__
from hrta_ext.cli.example1 import (
    METHODS,
    PAPER_STEPS,
    RULE,
    Method,
    Run,
    Settings,
    Summary,
    as_json,
    compare,
    runs_of,
    train_all,
)
from hrta_ext.cli.output import (
    NO_PLOTS,
    CommandError,
    can_plot,
    draw_picture,
    output_directory,
    print_line,
    print_note,
    print_table,
    progress_bar,
)
from hrta_ext.files import write_json
from hrta_ext.training.results import StepInfo

_ONE_THREAD_WIDTH = 2000
_FILES = ("results.json", "loss.png", "fitted.png")


def demo(
    out: Annotated[Path, typer.Option(help="Directory for the results and pictures.")] = Path("demo"),
    full: Annotated[bool, typer.Option("--full", help="The paper's 3000 + 13000 steps.")] = False,
    seeds: Annotated[int, typer.Option(min=1, help="Seeds 0, 1, ... run with every method.")] = 5,
    steps: Annotated[
        list[int] | None, typer.Option(min=1, help="Steps of the two stages, as in --steps 750 3250 (the default).")
    ] = None,
    width: Annotated[int, typer.Option(min=1, help="Number of neurons.")] = Settings.width,
    lr: Annotated[float, typer.Option(help="Adam's learning rate; decays to 0 by a cosine.")] = Settings.lr,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the results of an earlier demo.")] = False,
) -> None:
    """Compare Adam on ReLU with the paper's two homotopy schedules and a ramp on its Example 1 (d = 1).

    100 uniform points on [0, 1], target sin(2 pi x): plain ReLU (s = 1), s = 0.5 then 1, s = 1 then 1.5, and s moving
    from 1 to 1.5 in half of all steps, with the same steps, learning rates and starting weights. Writes
    results.json, loss.png and fitted.png.

    Example: `hrta demo --out demo --seeds 5`
    """
    settings = Settings(_stages(steps, full), width, tuple(range(seeds)), lr)
    with output_directory(out, _FILES, overwrite=overwrite) as folder, _few_threads(settings.width):
        runs = _train(settings)
        written = _write(settings, runs, folder)
    _print_summary(settings, runs)
    if not can_plot():
        print_line(NO_PLOTS)
    print_line(f"Written to {out}: {', '.join(written)}")
    if any(run.loss.numel() < sum(settings.steps) for run in runs):
        raise CommandError(f"a run diverged; use a lower --lr than {lr:g}")


def _stages(steps: list[int] | None, full: bool) -> tuple[int, int]:
    if full and steps:
        raise CommandError("--full and --steps exclude each other: --full means --steps 3000 13000")
    if full:
        return PAPER_STEPS
    if not steps:
        return Settings.steps
    if len(steps) != 2:
        raise CommandError(
            f"--steps needs the steps of both stages, as in --steps 750 3250; got {len(steps)} number(s)"
        )
    return steps[0], steps[1]


@contextmanager
def _few_threads(width: int) -> Iterator[None]:
    """One torch thread for small networks.

    It is as fast as two (0.4 ms a step at width 1000), and other programs running at the same time do not stall it, as
    they do two threads that wait for each other at every step.
    """
    before = torch.get_num_threads()
    if width <= _ONE_THREAD_WIDTH:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _train(settings: Settings) -> list[Run]:
    """All runs, under one bar, or a line per run where there is no terminal."""
    total = sum(settings.steps) * len(METHODS) * len(settings.seeds)
    with progress_bar(total) as advance:
        last_update = 0

        def stepped(method: Method, seed: int, info: StepInfo) -> None:
            nonlocal last_update
            done = info.step + 1
            advance(done - last_update, f"seed {seed}, {method.name}")
            last_update = done % info.total_steps

        def finished(run: Run) -> None:
            if not sys.stderr.isatty():
                print_note(f"seed {run.seed}, {run.method.name}: loss {run.final_loss:.2e} in {run.seconds:.1f} s")

        return train_all(settings, stepped, finished)


def _write(settings: Settings, runs: list[Run], out: Path) -> list[str]:
    """Write results and, where matplotlib is there, pictures; returns the names of the files."""
    write_json(
        out / "results.json",
        {"versions": {"hrta_ext": __version__, "torch": torch.__version__}, **as_json(settings, runs)},
    )
    from hrta_ext.cli.figures import plot_fits, plot_losses

    pictures = {
        "loss.png": lambda path: plot_losses(runs, settings, path),
        "fitted.png": lambda path: plot_fits(runs, path),
    }
    return [
        "results.json",
        *(name for name, draw in pictures.items() if draw_picture(out / name, draw if can_plot() else None)),
    ]


def _print_summary(settings: Settings, runs: list[Run]) -> None:
    first, second = settings.steps
    n = len(settings.seeds)
    rows = []
    for method in METHODS:
        of_method = runs_of(runs, method)
        rows.append(
            [
                method.name,
                *_cells(Summary.of([run.final_loss for run in of_method])),
                *_cells(Summary.of([run.error for run in of_method])),
            ]
        )
    title = f"Example 1, d = 1: width {settings.width}, {first} + {second} steps, {n} seed{'s' if n > 1 else ''}"
    columns = ["method", "loss R,\nmedian", "lowest to\nhighest", "rel. L2\nerror, median", "lowest to\nhighest"]
    print_table(title, columns, rows)
    for method in METHODS[1:]:
        print_line(compare(runs, method))
    print_line(RULE)
    print_line(
        "This is what was seen on this task with these steps and this learning rate; others can order them otherwise."
    )


def _cells(summary: Summary) -> list[str]:
    if summary.median != summary.median:
        return ["diverged", ""]
    return [f"{summary.median:.1e}", f"{summary.low:.1e}..{summary.high:.1e}"]
