"""CUDA sources compiled as C++ and run thread by thread (tests/emulation), and memory between guards to run them on."""

from __future__ import annotations

import ctypes
import fcntl
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
EMULATION = ROOT / "tests" / "emulation"
GUARD = 8  # elements before and after every result that must stay as they are, 16 bytes of each type at least


def emulated(bindings: str) -> Any:
    """All .cu files of csrc/ and the C functions of tests/emulation/``bindings``, one library.

    build/emulation keeps the objects: test files and processes share them, and a second run compiles what has changed.
    """
    compiler = shutil.which("c++") or shutil.which("g++")
    if compiler is None or not (ROOT / "csrc").exists():
        pytest.skip("needs a C++ compiler and the sources")
    folder = ROOT / "build" / "emulation"
    folder.mkdir(parents=True, exist_ok=True)
    flags = "-std=c++20 -O1 -fPIC -pthread -ffp-contract=off -Wall -Werror -Wno-unknown-pragmas"
    rules = [
        f"flags = {flags} -I {shlex.quote(str(EMULATION))} -I {shlex.quote(str(ROOT / 'csrc'))}",
        f"rule compile\n  command = {compiler} $flags -MMD -MF $out.d -x c++ -c $in -o $out",
        "  depfile = $out.d\n  deps = gcc",
        f"rule link\n  command = {compiler} -shared -pthread $in -o $out",
    ]
    objects = {}
    for source in [*sorted((ROOT / "csrc").glob("*/cuda/*.cu")), *sorted((ROOT / "csrc" / "gpu").glob("*.cu"))]:
        objects[source] = "-".join(source.relative_to(ROOT / "csrc").with_suffix(".o").parts)
    kernels = list(objects.values())
    for source in sorted(EMULATION.glob("*.cpp")):
        objects[source] = f"{source.stem}.o"
        rules.append(f"build {source.stem}.so: link {source.stem}.o {' '.join(kernels)}")
    for source, name in objects.items():
        escaped = str(source).replace("$", "$$").replace(" ", "$ ").replace(":", "$:")
        rules.append(f"build {name}: compile {escaped}")
    library = f"{Path(bindings).stem}.so"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        (folder / "build.ninja").write_text("\n".join(rules) + "\n")
        made = subprocess.run(
            [sys.executable, "-m", "ninja", "-C", str(folder), library], capture_output=True, text=True, check=False
        )
    assert made.returncode == 0, made.stdout + made.stderr
    return ctypes.CDLL(str(folder / library))


def address(tensor: Tensor | None) -> ctypes.c_void_p:
    return ctypes.c_void_p(None if tensor is None else tensor.data_ptr())


class Guarded:
    """A result filled with NaN between guards, on the 16-byte grid or ``off`` elements beside it."""

    def __init__(self, shape: tuple[int, ...], dtype: torch.dtype, off: int = 0, device: str = "cpu") -> None:
        self.first, count = GUARD + off, torch.Size(shape).numel()
        self.memory = torch.full((self.first + count + GUARD,), torch.nan, dtype=dtype, device=device)
        self.result = self.memory[self.first : self.first + count].view(shape)

    def checked(self) -> Tensor:
        assert self.memory[: self.first].isnan().all()
        assert self.memory[self.first + self.result.numel() :].isnan().all()
        return self.result
