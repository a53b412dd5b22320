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
OBJECTS: dict[Path, Path] = {}  # of the sources compiled so far: test files share them
GUARD = 8  # elements before and after every result that must stay as they are, 16 bytes of each type at least


def emulated(folder: Path, rooms: Sequence[str], bindings: str) -> Any:
    """The .cu files of csrc/gpu and csrc/ROOM/cuda and the C functions of tests/emulation/``bindings``, one library.

    The network stands on csrc/circle, which comes with it."""
    compiler = shutil.which("c++") or shutil.which("g++")
    if compiler is None or not (ROOT / "csrc").exists():
        pytest.skip("needs a C++ compiler and the sources")
    rooms = ["circle", *rooms] if "network" in rooms else rooms
    folders = [ROOT / "csrc" / "gpu", *(ROOT / "csrc" / room / "cuda" for room in rooms)]
    sources = [source for room in folders for source in sorted(room.glob("*.cu"))]
    flags = ["-std=c++20", "-O1", "-fPIC", "-Wall", "-Werror", "-Wno-unknown-pragmas", "-ffp-contract=off", "-pthread"]
    flags += ["-I", str(EMULATION), "-I", str(ROOT / "csrc"), "-x", "c++"]
    sources.append(EMULATION / bindings)
    new = {source: folder / f"{source.stem}{at}.o" for at, source in enumerate(sources) if source not in OBJECTS}
    jobs = [
        subprocess.Popen([compiler, *flags, "-c", str(source), "-o", str(target)]) for source, target in new.items()
    ]
    assert [job.wait() for job in jobs] == [0] * len(jobs)
    OBJECTS.update(new)
    library, objects = folder / "emulation.so", [str(OBJECTS[source]) for source in sources]
    subprocess.run([compiler, "-shared", "-pthread", *objects, "-o", str(library)], check=True)
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
