"""``hrta bench``: run the benchmarks of a source checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

import hrta_ext
from hrta_ext.backends import backends
from hrta_ext.cli.options import check_device
from hrta_ext.cli.output import NO_PLOTS, CommandError, can_plot, print_line, print_note

_GPU_SECONDS = 300.0


def bench(
    names: Annotated[
        list[str] | None, typer.Argument(help="Benchmarks to run, such as activation; all of them by default.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Directory for the JSON results.")] = Path("benchmarks/results"),
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
) -> None:  # fmt: skip
    """Run the benchmarks (in a source checkout): equal results first, then times against PyTorch's own operations.

    Each one prints a table and writes a JSON file with the times and the environment they were measured in; on a GPU
    its name holds that of the card. A picture, roofline.png, shows what they reach of the copy bandwidth and of the
    matrix rate that were measured beside them.

    Example: `hrta bench activation --out results`
    """
    scripts = _scripts()
    chosen = names or list(scripts)
    for name in chosen:
        if name not in scripts:
            raise CommandError(f"there is no benchmark {name!r}; there are {', '.join(scripts)}")
    if device is None:
        device = "cuda" if backends()["cuda"] else "cpu"
    check_device(device)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CommandError(f"{out}: cannot be made ({error.strerror}); choose another --out") from error
    if budget is None and device == "cuda":
        budget = _GPU_SECONDS
    start, before = time.perf_counter(), _times(out)
    failed = []
    for i, name in enumerate(chosen):
        options = ["--out", str(out), "--device", device]
        if budget is not None:
            left = budget - (time.perf_counter() - start)
            options += ["--budget", f"{max(1.0, left / (len(chosen) - i)):.0f}"]
        if _run(scripts[name], options) != 0:
            failed.append(name)
    written = [str(path) for path, changed in _times(out).items() if before.get(path) != changed]
    picture = next(iter(scripts.values())).with_name("roofline.py")
    if written and picture.exists():
        if not can_plot():
            print_line(NO_PLOTS)
        elif _run(picture, [*written, "--out", str(out)]) != 0:
            print_note("hrta: warning: roofline.png could not be drawn; all other results are written")
    if failed:
        raise CommandError(f"failed: {', '.join(failed)}; the lines above say why")
    print_line(f"Written to {out}")


def _run(script: Path, options: list[str]) -> int:
    root = str(Path(hrta_ext.__file__).resolve().parents[1])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))}
    return subprocess.run([sys.executable, str(script), *options], env=environment, check=False).returncode


def _times(out: Path) -> dict[Path, int]:
    """When each result in the directory was written last."""
    return {path: path.stat().st_mtime_ns for path in sorted(out.glob("*.json"))}


def _scripts() -> dict[str, Path]:
    """Benchmark scripts beside the package, by the name after ``bench_``."""
    directory = Path(hrta_ext.__file__).resolve().parents[1] / "benchmarks"
    scripts = {path.stem.removeprefix("bench_"): path for path in sorted(directory.glob("bench_*.py"))}
    if not scripts:
        raise CommandError(
            "the benchmarks live in the source checkout: clone the repository, and run `make bench` there"
        )
    return scripts
