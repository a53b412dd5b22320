"""``hrta doctor``: what is installed, which backends work, and the cure for those that do not."""

from __future__ import annotations

import importlib.metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import torch
import typer

from hrta_ext.activation.functions import homotopy
from hrta_ext.backends import backends, build_info, use_backend, why_not
from hrta_ext.bases import BASES
from hrta_ext.cli.output import CommandError, print_table
from hrta_ext.files import replaces, write_json

_EXTRAS = {
    "tqdm": "progress bars: pip install 'hrta_ext[cli]'",
    "matplotlib": "pictures: pip install 'hrta_ext[plot]'",
    "pyarrow": "reading Parquet: pip install pyarrow",
}
# float32: one unit in the last place is 1.2e-7 of the larger term; a broken kernel is off by far more than 16 of them.
_TOLERANCE = 16 * torch.finfo(torch.float32).eps


def doctor(
    out: Annotated[
        Path | None, typer.Option(help="File for the same as JSON.  [default: none]", show_default=False)
    ] = None,
) -> None:
    """Show what is installed, test every backend, and say how to get those that do not work.

    The test compares the homotopy activation and its gradient, for every base, with the float64 formula. The exit code
    is 0 when every usable backend passes; a backend that is not there is no failure.

    Example: `hrta doctor`
    """
    info = build_info()
    usable = backends()
    results = {name: self_test(name) if works else None for name, works in usable.items()}
    reasons = {name: why_not(name) for name in usable}
    print_table("Installed", ["", ""], [[name, value] for name, value in _installed(info)], text_columns=2)
    rows = []
    for name, works in usable.items():
        state = ("works" if results[name] is None else "BROKEN") if works else "not usable"
        remark = results[name] or reasons[name] or "self-test passed"
        rows.append([name, state, remark])
    print_table("Backends", ["backend", "state", "remark"], rows, text_columns=3)
    if out is not None:
        if out.exists() and (out.is_dir() or replaces(out)):
            raise CommandError(f"{out}: exists already; choose another --out")
        states = {
            name: {"usable": works, "reason": reasons[name], "failure": results[name]} for name, works in usable.items()
        }
        write_json(out, {"build": info, "backends": states})
    broken = [name for name, failure in results.items() if failure]
    if broken:
        raise CommandError(f"backend {', '.join(broken)} gives wrong results; HRTA_EXT_BACKEND=torch avoids it")


def self_test(name: str) -> str | None:
    """Test value and gradient of sigma_s on backend ``name`` against the float64 formula; what is wrong, or None."""
    device = "cuda" if name == "cuda" else "cpu"
    start = torch.linspace(-4.0, 4.0, 1001)
    exact = start.double()
    for base in (base for base, functions in BASES.items() if functions.number is not None):
        for s in (0.5, 1.0, 1.5):
            formula = BASES[base]
            expected_value = (1.0 - s) * exact + s * formula.value(exact)
            expected_slope = (1.0 - s) + s * formula.slope(exact)
            try:
                x = start.to(device, copy=True).requires_grad_()
                with use_backend(name):
                    value = homotopy(x, s, base)
                    (slope,) = torch.autograd.grad(value.sum(), x)
            except Exception as error:  # whatever the backend does wrong is what the user is to read
                return f"{base}, s = {s:g}: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
            for what, got, expected in (("value", value, expected_value), ("gradient", slope, expected_slope)):
                off = (got.detach().cpu().double() - expected).abs() / (1.0 + exact.abs() + expected.abs())
                if not bool((off <= _TOLERANCE).all()):
                    return f"{what} of {base} at s = {s:g} is off by {float(off.max()):.1e}"
    return None


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
        rows.append((module, importlib.metadata.version(module) if find_spec(module) else f"missing; {cure}"))
    return rows
