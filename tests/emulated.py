"""CUDA sources compiled as C++ and run thread by thread (tests/emulation), and memory between guards to run them on."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
EMULATION = ROOT / "tests" / "emulation"
GUARD = 8  # elements before and after every result that must stay as they are, 16 bytes of each type at least


def emulated(folder: Path, rooms: Sequence[str], bindings: str, names: str = "*") -> Any:
    """The .cu files of csrc/gpu and csrc/ROOM/cuda and the C functions of tests/emulation/``bindings``, one library;
    of the rooms' files those that are named so."""
    compiler = shutil.which("c++") or shutil.which("g++")
    if compiler is None or not (ROOT / "csrc").exists():
        pytest.skip("needs a C++ compiler and the sources")
    sources = sorted((ROOT / "csrc" / "gpu").glob("*.cu"))
    for room in rooms:
        sources += sorted((ROOT / "csrc" / room / "cuda").glob(f"{names}.cu"))
    flags = ["-std=c++20", "-O1", "-fPIC", "-Wall", "-Werror", "-Wno-unknown-pragmas", "-ffp-contract=off", "-pthread"]
    flags += ["-I", str(EMULATION), "-I", str(ROOT / "csrc"), "-x", "c++"]
    jobs = [
        subprocess.Popen([compiler, *flags, "-c", str(source), "-o", str(folder / f"{source.stem}{at}.o")])
        for at, source in enumerate([*sources, EMULATION / bindings])
    ]
    assert [job.wait() for job in jobs] == [0] * len(jobs)
    library = folder / "emulation.so"
    subprocess.run([compiler, "-shared", "-pthread", *map(str, folder.glob("*.o")), "-o", str(library)], check=True)
    return ctypes.CDLL(str(library))


def address(tensor: Tensor | None) -> ctypes.c_void_p:
    return ctypes.c_void_p(None if tensor is None else tensor.data_ptr())


class Guarded:
    """A result filled with NaN between guards, on the 16-byte grid or ``off`` elements beside it."""

    def __init__(self, shape: tuple[int, ...], dtype: torch.dtype, off: int = 0) -> None:
        self.first, count = GUARD + off, torch.Size(shape).numel()
        self.memory = torch.full((self.first + count + GUARD,), torch.nan, dtype=dtype)
        self.result = self.memory[self.first : self.first + count].view(shape)

    def checked(self) -> Tensor:
        assert self.memory[: self.first].isnan().all()
        assert self.memory[self.first + self.result.numel() :].isnan().all()
        return self.result
