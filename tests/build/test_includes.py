"""The rooms of csrc/ and which of them may include which: one direction, so that a kernel is found from its op."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CSRC = ROOT / "csrc"
# From the ground up; a room includes itself and those on floors below.
FLOORS = [
    {"types.h", "math"},
    {"simd", "gpu"},
    {"circle"},
    {"activation", "ntk"},
    {"network"},
    {"training"},
    {"torch"},
]
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
OF_THE_CPU = {"simd", "circle"}
OF_THE_GPU = {"gpu"}
# What torch/ sees of the ops.
PUBLIC = {
    "activation/activation.h",
    "ntk/gram.h",
    "ntk/infinite.h",
    "network/jet.h",
    "network/network.h",
    "training/training.h",
}
OPS = {"activation", "ntk", "network", "training"}
INCLUDE = re.compile(r'^\s*#\s*include\s*"([^"]+)"', re.MULTILINE)


def device(path: str) -> str | None:
    """The device that a file is for: a folder cpu/ or cuda/ in its room, or a room of helpers; None serves both."""
    room, *rest = path.split("/")
    if room in OF_THE_GPU or "cuda" in rest[:1]:
        return "cuda"
    if room in OF_THE_CPU or "cpu" in rest[:1]:
        return "cpu"
    return None


def fault(path: str, included: str) -> str | None:
    """What is wrong with this line of that file, both named from csrc/ on; None if nothing is."""
    room, other = path.split("/")[0], included.split("/")[0]
    if other not in FLOOR:
        return "names no file from csrc/ on"
    if room == "torch":
        return "torch/ sees public headers alone" if other in OPS and included not in PUBLIC else None
    if room != other and FLOOR[other] >= FLOOR[room]:
        return f"{room} stands no higher than {other}"
    if device(included) not in (None, device(path)):
        return "cpu/ and cuda/ never meet, and what serves both includes neither"
    return None


def sources(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix in {".h", ".cpp", ".cuh", ".cu"})


def faults(folder: Path) -> list[str]:
    """Every forbidden include below a folder that is laid out as csrc/ is."""
    found = []
    for path in sources(folder):
        name = path.relative_to(folder).as_posix()
        for included in INCLUDE.findall(path.read_text()):
            why = fault(name, included)
            if why is None and not (folder / included).is_file():
                why = "there is no such file"
            if why is not None:
                found.append(f"{name} includes {included}: {why}")
    return found


needs_sources = pytest.mark.skipif(not CSRC.is_dir(), reason="needs the sources")


@needs_sources
def test_every_include_goes_down() -> None:
    assert not faults(CSRC), "\n".join(faults(CSRC))


@needs_sources
def test_every_file_stands_in_a_room_and_is_short() -> None:
    """A room that FLOORS does not know would be free of the rule."""
    files = sources(CSRC)
    assert {path.relative_to(CSRC).parts[0] for path in files} <= set(FLOOR)
    assert not [str(path) for path in files if len(path.read_text().splitlines()) > 400]


@pytest.mark.parametrize(
    ("path", "included"),
    [
        ("math/bases.h", "simd/vector.h"),
        ("simd/levels.cpp", "ntk/cpu/loops.h"),
        ("simd/vector.h", "gpu/launch.cuh"),
        ("ntk/gram.h", "activation/activation.h"),
        ("network/cuda/backward.cuh", "training/update.h"),
        ("network/cuda/passes.cu", "network/cpu/plan.h"),
        ("network/cpu/passes.cpp", "network/cuda/plan.cuh"),
        ("network/cuda/passes.cu", "circle/arcs.h"),
        ("network/cpu/arcs.cpp", "circle/cuda/plan.cuh"),
        ("circle/cuda/search.cuh", "circle/angles.h"),
        ("network/cpu/passes.cpp", "gpu/launch.cuh"),
        ("network/network.h", "network/cpu/arcs.h"),
        ("torch/module.cpp", "ntk/cpu/loops.h"),
        ("training/training.h", "torch/runtime.h"),
        ("activation/cpu/passes.cpp", "loops.h"),
    ],
)
def test_a_forbidden_include_is_found(tmp_path: Path, path: str, included: str) -> None:
    """Both files exist, so it is the rule that refuses."""
    for name in (path, included):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("#pragma once\n")
    (tmp_path / path).write_text(f'// what it says\n#include <vector>\n#include "{included}"\n')
    assert len(faults(tmp_path)) == 1


@pytest.mark.parametrize(
    ("path", "included"),
    [
        ("network/cpu/arcs.cpp", "circle/arcs.h"),
        ("network/cuda/passes.cu", "circle/cuda/plan.cuh"),
        ("training/cuda/trainer.cu", "network/cuda/plan.cuh"),
        ("torch/network.cpp", "network/network.h"),
        ("torch/module.cpp", "simd/levels.h"),
    ],
)
def test_an_allowed_include_is_not(path: str, included: str) -> None:
    assert fault(path, included) is None
