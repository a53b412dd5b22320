"""``hrta bench``: run the benchmarks, draw what a directory holds of results, and compare two of them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

import hrta_ext
from hrta_ext import benchmarks
from hrta_ext.backends import backends
from hrta_ext.benchmarks import ratios, roofline
from hrta_ext.benchmarks.comparison import FASTER, SAME, SLOWER, UNKNOWN, Change, Comparison, compared
from hrta_ext.benchmarks.results import Result, by_device, is_result, read
from hrta_ext.benchmarks.timing import format_seconds, format_table
from hrta_ext.cli.options import check_device
from hrta_ext.cli.output import (
    NO_PLOTS,
    CommandError,
    can_plot,
    draw_picture,
    print_line,
    print_note,
)
from hrta_ext.files import DamagedFile, read_json

_GPU_SECONDS = 300.0
# Those whose only peer is a package of its own run by default where it is installed.
_PEERS = {"physics": "deepxde"}
_PICTURES = {"ratios": ratios.draw, "roofline": roofline.draw}
_VERDICTS = (SLOWER, FASTER, SAME, UNKNOWN)


def bench(
    names: Annotated[
        list[str] | None, typer.Argument(help="Benchmarks to run, such as activation; all of them by default.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Directory for the JSON results and pictures.")] = Path("bench"),
    device: Annotated[
        str | None, typer.Option(help="cpu or cuda.  [default: cuda where its kernels are usable]", show_default=False)
    ] = None,
    budget: Annotated[
        float | None,
        typer.Option(
            min=1.0, metavar="SECONDS", show_default=False,
            help="About the time for all: past it fewer rounds, then fewer cases.  [default: none, 300 on a GPU]",
        ),
    ] = None,
    draw: Annotated[
        Path | None,
        typer.Option(metavar="DIR", show_default=False, help="Run nothing: draw the results in this directory anew."),
    ] = None,
    compare: Annotated[
        tuple[Path, Path] | None,
        typer.Option(metavar="A.json B.json", show_default=False, help="Run nothing: say what has changed in B."),
    ] = None,
) -> None:  # fmt: skip
    """Run the benchmarks: equal results first, then times against PyTorch's own operations.

    Each one prints a table and writes a JSON file with the times and the environment they were measured in; on a GPU
    its name holds that of the card. Two pictures for every device: ratios_DEVICE.png, how much faster than its peers
    each call is, beside the goals; roofline_DEVICE.png, what it reaches of the copy bandwidth and of the matrix rate
    that were measured beside it.

    Two results of one machine are compared by their repeats: a time has changed where the interquartile ranges of the
    two files do not overlap.

    Example: `hrta bench activation --out results`
    """
    if (draw is not None) + (compare is not None) + bool(names) > 1:
        raise CommandError("names of benchmarks, --draw and --compare exclude each other")
    if compare is not None:
        _print_comparison(*(_read(path) for path in compare))
    elif draw is not None:
        if not draw.is_dir():
            raise CommandError(f"{draw}: is no directory; --draw takes one with results of hrta bench")
        if not can_plot():
            raise CommandError("--draw needs matplotlib: pip install 'hrta_ext[plot]'")
        if not _draw(draw):
            raise CommandError(f"{draw}: nothing in it could be drawn; `hrta bench --out {draw}` measures something")
    else:
        _run_all(names, out, device, budget)


def _run_all(names: list[str] | None, out: Path, device: str | None, budget: float | None) -> None:
    programs = _programs()
    for name in names or ():
        if name not in programs:
            raise CommandError(f"there is no benchmark {name!r}; there are {', '.join(programs)}")
    missing = {} if names else {name: peer for name, peer in _PEERS.items() if find_spec(peer) is None}
    chosen = names or [name for name in programs if name not in missing]
    if device is None:
        device = "cuda" if backends()["cuda"] else "cpu"
    check_device(device)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CommandError(f"{out}: cannot be made ({error.strerror}); choose another --out") from error
    if budget is None and device == "cuda":
        budget = _GPU_SECONDS
    start = time.perf_counter()
    failed = []
    for i, name in enumerate(chosen):
        options = ["--out", str(out), "--device", device]
        if budget is not None:
            left = budget - (time.perf_counter() - start)
            options += ["--budget", f"{max(1.0, left / (len(chosen) - i)):.0f}"]
        if _run(programs[name], options) != 0:
            failed.append(name)
    if can_plot():
        _draw(out)
    else:
        print_line(NO_PLOTS)
    for name, peer in missing.items():
        print_line(f"Left out: {name}, which is beside {peer} (pip install {peer})")
    if failed:
        raise CommandError(f"failed: {', '.join(failed)}; the lines above say why")
    print_line(f"Written to {out}")


def _run(program: Path, options: list[str]) -> int:
    root = str(Path(hrta_ext.__file__).resolve().parents[1])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))}
    return subprocess.run([sys.executable, str(program), *options], env=environment, check=False).returncode


def _programs() -> dict[str, Path]:
    """The benchmarks by the name after ``bench_``."""
    folder = Path(benchmarks.__file__).parent
    return {path.stem.removeprefix("bench_"): path for path in sorted(folder.glob("bench_*.py"))}


def _read(path: Path) -> Result:
    try:
        return read(path)
    except OSError as error:
        raise CommandError(f"{path}: cannot be read ({error.strerror})") from error


def _draw(folder: Path) -> bool:
    """Both pictures of every device that has results in the folder; whether there was anything to draw."""
    results, drawn = [], False
    for path in sorted(folder.glob("*.json")):
        try:
            if is_result(read_json(path)):
                results.append(read(path))
        except (DamagedFile, ValueError, OSError) as error:
            print_note(f"hrta: warning: left out of the pictures: {path.name}: {str(error).removeprefix(f'{path}: ')}")
    for device, found in by_device(results).items():
        for name, draw in _PICTURES.items():
            picture = folder / f"{name}_{device}.png"
            if draw_picture(picture, partial(_draw_or_remove, draw, found)) and picture.exists():
                print_line(f"Drawn: {picture}")
                drawn = True
    return drawn


def _draw_or_remove(draw: Callable[[list[Result], Path], bool], results: list[Result], path: Path) -> None:
    """No picture of an earlier run stays where these results have nothing for it."""
    if not draw(results, path):
        path.unlink(missing_ok=True)


def _print_comparison(before: Result, after: Result) -> None:
    found = compared(before, after)
    print_line(f"{before.benchmark}, {before.device}: A is {before.path}, B is {after.path}")
    changed = [_cells(change) for change in found.changes if change.verdict != SAME]
    if changed:
        print_line(format_table(("case", "A", "B", "B / A", "noise", "peers", ""), changed, left=1))
    counts = {verdict: sum(change.verdict == verdict for change in found.changes) for verdict in _VERDICTS}
    summary = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
    print_line(f"{len(found.changes)} case{'s' * (len(found.changes) != 1)}: {summary}")
    for line in _notes(before, after, found):
        print_line(line)


def _notes(before: Result, after: Result, found: Comparison) -> Iterator[str]:
    """What else a reader of the table has to know."""
    for name, names in (("A", found.only_before), ("B", found.only_after)):
        if names:
            yield f"Only in {name}: {'; '.join(names)}"
    for what, (mine, theirs) in {
        "hrta_ext": [result.environment["build_info"].get("version") for result in (before, after)],
        "torch": [result.environment.get("torch") for result in (before, after)],
    }.items():
        if mine != theirs:
            yield f"A has {what} {mine}, B {theirs}"
    old = [name for name, one in (("A", before), ("B", after)) if any(c.times.quartiles is None for c in one.cases)]
    if old:
        yield f"No repeats are stored in {' and '.join(old)}, of an older hrta_ext: what is noise there is not known"
    moved, told = found.peers_moved
    if moved > told / 2:
        yield f"{moved} of {told} peers' times changed too (column peers): another load, or another torch"


def _cells(change: Change) -> list[str]:
    times = [format_seconds(times.median) for times in (change.before, change.after)]
    noise = "" if change.noise is None else f"{100 * change.noise:.0f}%"
    peers = "" if change.peers is None else _percent(change.peers)
    return [change.case, *times, _percent(change.factor), noise, peers, change.verdict]


def _percent(factor: float) -> str:
    return f"{100 * (factor - 1):+.0f}%"
