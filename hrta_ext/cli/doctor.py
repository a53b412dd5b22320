"""``hrta doctor``: what is installed, which backends work, what the environment asks for, and cures."""

from __future__ import annotations

import difflib
import importlib.metadata
import os
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

import hrta_ext
from hrta_ext.backends import backends, broken_binary, build_info, use_backend, why_not, wrong_setting
from hrta_ext.cli.gpus import rows as gpu_rows
from hrta_ext.cli.gpus import speeds
from hrta_ext.cli.group import describe, differences, rank_rows, sum_rows
from hrta_ext.cli.launched import alike, launched, leads
from hrta_ext.cli.output import CommandError, print_error, print_line, print_table
from hrta_ext.cli.selftest import failures
from hrta_ext.files import replaces, write_json

_EXTRAS = {
    "tqdm": "progress bars: pip install 'hrta_ext[cli]'",
    "matplotlib": "pictures: pip install 'hrta_ext[plot]'",
    "pyarrow": "reading Parquet: pip install pyarrow",
}
_LEVELS = ("baseline", "avx2", "avx512")
# Every variable that something of the project reads, and who.
_VARIABLES = {
    "HRTA_EXT_BACKEND": "every call",
    "HRTA_EXT_SIMD": "the compiled kernels",
    "HRTA_TRACEBACK": "the command line: errors with their traceback",
    "HRTA_EXT_BUILD": "pip install alone",
    "HRTA_EXT_CUDA": "pip install alone",
    "HRTA_EXT_CUDA_ARCHITECTURES": "pip install alone",
}
# The tests take two seconds; a kernel that has not come back by then never will.
_PATIENCE = 120.0


def doctor(
    out: Annotated[
        Path | None, typer.Option(help="File for the same as JSON.  [default: none]", show_default=False)
    ] = None,
) -> None:
    """Show what is installed, test every op on every backend, and say how to get those that do not work.

    The tests compare activations, networks, Gram matrices and training, forward and backward, with formulas in float64.
    Of each GPU the bandwidth of a copy is measured, and what share of it the activation reaches. The exit code is 0
    when every usable backend passes and no call would raise, and 1 otherwise, with a line for each thing that is wrong.
    A backend that is not there is no failure; one that is there and does not load is.

    Under torchrun also what the group is: its ranks, their devices, and what sums over them cost.

    Example: `hrta doctor`
    """
    with launched() as ranks:
        with alike(ranks, "hrta doctor"):
            if leads(ranks) and out is not None and out.exists() and (out.is_dir() or replaces(out)):
                raise CommandError(f"{out}: exists already; choose another --out")
        group = None if ranks is None else describe(ranks)
    if leads(ranks):
        _examine(out, group)


def _examine(out: Path | None, group: dict[str, Any] | None) -> None:
    info, usable = build_info(), backends()
    print_table("Installed", ["", ""], [[name, value] for name, value in _installed(info)], text_columns=2)
    settings, problems = _settings(info)
    if group is not None:
        columns = ["rank", "host", "GPU", "threads", "SIMD", "torch"]
        print_table(f"Group of {len(group['ranks'])} ranks", columns, rank_rows(group), text_columns=3)
        columns = ["backend", "numbers", "all-reduce", "rate", "sum in order"]
        print_table("Sums of float64 over the ranks", columns, sum_rows(group))
        problems += differences(group)
    if settings:
        print_table("Environment", ["variable", "value", "remark"], settings, text_columns=3)
    damage = broken_binary()
    if damage is not None:
        problems.append(damage)
    results, reasons = _results(usable), {name: why_not(name) for name in usable}
    rows = []
    for name, works in usable.items():
        wrong = results[name]
        state = ("BROKEN" if wrong else "works") if works else "not usable"
        remark = (f"{len(wrong)} ops are wrong" if wrong else "every op is right") if works else reasons[name] or ""
        rows.append([name, state, remark])
        cure = (
            "reinstall torch"
            if name == "torch"
            else "HRTA_EXT_BACKEND=torch avoids these kernels until they are rebuilt"
        )
        problems += [f"backend {name} gives wrong results: {failure}; {cure}" for failure in wrong]
    print_table("Backends", ["backend", "state", "remark"], rows, text_columns=3)
    found = speeds(usable["cuda"] and not results["cuda"])
    if found:
        columns = ["GPU", "memory", "copy", "activation of n numbers", "of the copy's rate", "remark"]
        print_table("GPUs", columns, gpu_rows(found))
    if out is not None:
        gpus = [{**vars(speed), "copy_bytes_per_second": speed.copy_bytes_per_second} for speed in found]
        states = {
            name: {"usable": works, "reason": reasons[name], "failure": "; ".join(results[name]) or None}
            for name, works in usable.items()
        }
        variables = {name: value for name, value, _ in settings}
        content = {"build": info, "environment": variables, "backends": states, "gpus": gpus, "problems": problems}
        write_json(out, content if group is None else {**content, "group": group})
    for problem in problems:
        print_error(problem)
    if problems:
        raise typer.Exit(1)


def _results(usable: dict[str, bool]) -> dict[str, list[str]]:
    """What is wrong with each backend; [] where nothing is, or where it is not usable.

    The native kernels come first in a process of their own, which they may take down, and while that runs the torch
    backend is tested; then here, as this process sees them, with and without the backend being asked for.
    """
    results: dict[str, list[str]] = {name: [] for name in usable}
    native = [name for name, works in usable.items() if works and name != "torch"]
    probes = {name: _probe(name) for name in native}
    print_line("Testing every op ...")
    with use_backend("torch"):
        results["torch"] = failures("cpu", "torch")
    for name in native:
        end = _end_of(probes[name])
        if end is not None:
            results[name] = [f"its kernels {end}"]
            continue
        found: list[str] = []
        device = "cuda" if name == "cuda" else "cpu"
        if not os.environ.get("HRTA_EXT_BACKEND"):
            found = failures(device, "fused")
        with use_backend(name):
            found += failures(device, "fused")
        results[name] = list(dict.fromkeys(found))
    return results


def _probe(name: str) -> subprocess.Popen[str] | None:
    """The tests of backend ``name`` in a process of their own; None where none can be started."""
    code = "import sys; sys.path.insert(0, sys.argv[1]); from hrta_ext.cli.selftest import main; main(sys.argv[2])"
    package = str(Path(hrta_ext.__file__).parents[1])
    environment = {key: value for key, value in os.environ.items() if key != "HRTA_EXT_BACKEND"}
    try:
        return subprocess.Popen(
            [sys.executable, "-c", code, package, name],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, text=True, env=environment,
        )  # fmt: skip
    except OSError:
        return None


def _end_of(process: subprocess.Popen[str] | None) -> str | None:
    """How the kernels took ``process`` down, None if they did not."""
    if process is None:
        return None
    try:
        code = process.wait(_PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return f"do not come back within {_PATIENCE:g} seconds"
    return f"end the process with {signal.Signals(-code).name}" if code < 0 else None


def _settings(info: dict[str, object]) -> tuple[list[list[str]], list[str]]:
    """Rows (variable, value, remark) of every HRTA variable that is set, and what is wrong with them."""
    rows, problems = [], []
    for name in sorted(key for key in os.environ if key.upper().startswith("HRTA")):
        value, remark, wrong = os.environ[name], "", None
        if name not in _VARIABLES:
            close = difflib.get_close_matches(name.upper(), _VARIABLES, n=1, cutoff=0.75)
            remark = f"nothing reads it; did you mean {close[0]}?" if close else "nothing reads it"
        elif not value:
            remark = "empty, which is as good as unset"
        elif name == "HRTA_EXT_BACKEND":
            wrong = wrong_setting()
            if wrong is not None:
                hint = _meant(value, ("torch", "native", "cpp", "cuda"))
                wrong = f"every call raises: {wrong}; {hint}unset HRTA_EXT_BACKEND, or set it to torch"
        elif name == "HRTA_EXT_SIMD":
            wrong = _wrong_level(value, info.get("simd"))
        if wrong is not None:
            problems.append(wrong)
        rows.append([name, value, remark or ("WRONG" if wrong else f"read by {_VARIABLES[name]}")])
    return rows, problems


def _wrong_level(value: str, used: object) -> str | None:
    """What is wrong with HRTA_EXT_SIMD=value where the kernels run at the level ``used``."""
    if value not in _LEVELS:
        return (
            f"HRTA_EXT_SIMD must be one of {', '.join(_LEVELS)}, got {value!r}: it is ignored; "
            f"{_meant(value, _LEVELS)}unset it"
        )
    if used is not None and used != value:
        return f"HRTA_EXT_SIMD={value} cannot be used: here the kernels run at {used}; unset it, or set it to {used}"
    return None


def _meant(value: str, known: tuple[str, ...]) -> str:
    close = difflib.get_close_matches(value.strip().lower(), known, n=1)
    return f"did you mean {close[0]!r}? " if close and close[0] != value else ""


def _version_of(module: str) -> str:
    try:
        return importlib.metadata.version(module)
    except importlib.metadata.PackageNotFoundError:
        return "installed"


def _installed(info: dict[str, object]) -> list[tuple[str, str]]:
    def shown(value: object) -> str:
        if isinstance(value, (list, tuple)):
            return ", ".join(map(str, value)) or "none"
        return "none" if value is None or value == "" else str(value)

    def named(key: str, label: str) -> tuple[str, str]:
        return label, shown(info.get(key))

    rows = [
        named("version", "hrta_ext"),
        named("torch", "torch"),
        ("threads", str(torch.get_num_threads())),
        named("built_for_torch", "built for torch"),
        named("compiler", "compiler"),
        ("SIMD", f"{shown(info.get('simd'))} (compiled: {shown(info.get('simd_levels'))})"),
        named("cuda_architectures", "CUDA architectures"),
        named("python", "Python"),
        named("platform", "platform"),
    ]
    if torch.cuda.is_available():
        rows.append(("GPU", torch.cuda.get_device_name()))
    for module, cure in _EXTRAS.items():
        rows.append((module, _version_of(module) if find_spec(module) else f"missing; {cure}"))
    return rows
