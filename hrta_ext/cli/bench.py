"""``hrta bench``: run the benchmarks of a source checkout."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

import hrta_ext
from hrta_ext.cli.output import CommandError, print_line


def bench(
    names: Annotated[
        list[str] | None, typer.Argument(help="Benchmarks to run, such as activation; all of them by default.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Directory for the JSON results.")] = Path("benchmarks/results"),
) -> None:
    """Run the benchmarks (in a source checkout): equal results first, then times against PyTorch's own operations.

    Each one prints a table and writes a JSON file with the times and the environment they were measured in.

    Example: `hrta bench activation --out results`
    """
    scripts = _scripts()
    chosen = names or list(scripts)
    for name in chosen:
        if name not in scripts:
            raise CommandError(f"there is no benchmark {name!r}; there are {', '.join(scripts)}")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CommandError(f"{out}: cannot be made ({error.strerror}); choose another --out") from error
    root = str(Path(hrta_ext.__file__).resolve().parents[1])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))}
    failed = []
    for name in chosen:
        command = [sys.executable, str(scripts[name]), "--out", str(out)]
        if subprocess.run(command, env=environment, check=False).returncode != 0:
            failed.append(name)
    if failed:
        raise CommandError(f"failed: {', '.join(failed)}; the lines above say why")
    print_line(f"Written to {out}")


def _scripts() -> dict[str, Path]:
    """Benchmark scripts beside the package, by the name after ``bench_``."""
    directory = Path(hrta_ext.__file__).resolve().parents[1] / "benchmarks"
    scripts = {path.stem.removeprefix("bench_"): path for path in sorted(directory.glob("bench_*.py"))}
    if not scripts:
        raise CommandError(
            "the benchmarks live in the source checkout: clone the repository, and run `make bench` there"
        )
    return scripts
