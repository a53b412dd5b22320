"""Fair timing of competitors: interleaved rounds, medians, ratios taken within a round, and the environment.

A busy machine drifts from one second to the next. So every round runs all competitors one after the other, in an order
that turns from round to round, and a ratio is the median over the rounds of the two times of one round.

What the machine itself reaches, and how close a call comes to it, is in ceilings.py.
"""

from __future__ import annotations

import argparse
import datetime
import gc
import math
import os
import platform
import re
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import hrta_ext as hx
from hrta_ext.files import write_json

Call = Callable[[], object]
_CHUNK = 1 << 24  # elements compared at a time

# What limits ours, torch, oneDNN and MKL to less than the processor has; read when torch is imported.
INSTRUCTION_SETS = ("HRTA_EXT_SIMD", "ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS")


@dataclass(frozen=True)
class Effort:
    """How long to measure: the number of rounds, and the least duration of a competitor's sample in a round.

    After ``most_seconds`` no round is begun, but for the first ``FEWEST_ROUNDS``.
    """

    rounds: int = 41
    sample_seconds: float = 3e-3
    warm_up_seconds: float = 0.05
    most_seconds: float | None = None


FEWEST_ROUNDS = 3


class Budget:
    """The seconds that a whole benchmark may take, shared out among the cases that are still to come."""

    def __init__(self, seconds: float | None) -> None:
        self.seconds = math.inf if seconds is None else seconds
        self.end = time.perf_counter() + self.seconds

    @property
    def used_up(self) -> str | None:
        """Why no further case is begun, if so."""
        return f"the budget of {self.seconds:g} s was used up" if time.perf_counter() >= self.end else None

    def share(self, effort: Effort, cases_left: int) -> Effort:
        """The effort with half of this case's share for the rounds: the other half goes to checks and compilers."""
        left = max(0.0, self.end - time.perf_counter())
        return replace(effort, most_seconds=0.5 * left / max(1, cases_left) if math.isfinite(left) else None)


QUICK = Effort(rounds=3, sample_seconds=2e-4, warm_up_seconds=0.0)


@dataclass(frozen=True)
class Samples:
    """Seconds per call of one competitor, one value per round."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """Median over the rounds."""
        return statistics.median(self.seconds)

    @property
    def minimum(self) -> float:
        """Fastest round: the least disturbed one."""
        return min(self.seconds)

    def scaled(self, factor: float) -> Samples:
        """The times of another amount of work."""
        return Samples(tuple(factor * seconds for seconds in self.seconds))

    def speedup_over(self, peer: Samples) -> float:
        """Median over the rounds of the peer's time over ours in the same round; above 1, ours is faster."""
        return statistics.median(theirs / ours for ours, theirs in zip(self.seconds, peer.seconds, strict=True))

    def best_speedup_over(self, peer: Samples) -> float:
        """The peer's fastest round over our fastest round."""
        return peer.minimum / self.minimum

    def as_dict(self) -> dict[str, Any]:
        """Summary for JSON, in seconds."""
        quartiles = statistics.quantiles(self.seconds, n=4) if len(self.seconds) > 1 else [self.median] * 3
        return {
            "median": self.median,
            "minimum": self.minimum,
            "lower_quartile": quartiles[0],
            "upper_quartile": quartiles[2],
            "rounds": len(self.seconds),
        }


def compare(ours: Samples, peer: Samples, goal: float | None) -> dict[str, Any]:
    """A peer's times, the ratios to ours, and whether the goal is met."""
    ratio = ours.speedup_over(peer)
    return {
        **peer.as_dict(),
        "ratio": ratio,
        "ratio_of_minima": ours.best_speedup_over(peer),
        "goal": goal,
        "met": None if goal is None else ratio >= goal,
    }


def _sample_cpu(call: Call, repeats: int) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - start) / repeats


def _sample_cuda(call: Call, repeats: int) -> float:
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    for _ in range(repeats):
        call()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) * 1e-3 / repeats


def measure(competitors: Mapping[str, Call], effort: Effort, device: str = "cpu") -> dict[str, Samples]:
    """Time the competitors in interleaved rounds.

    Every sample follows one untimed call of the same competitor, so caches are warm wherever the data fits into them.
    Garbage collection waits until the end. On CUDA, the clock is a pair of events on the current stream.

    Args:
        competitors: name -> call without arguments. Results are dropped at once, so memory is reused.
        effort: how long to measure.
        device: "cpu" or "cuda".
    Returns:
        name -> seconds per call, one value per round.
    """
    sample = _sample_cuda if device == "cuda" else _sample_cpu
    repeats: dict[str, int] = {}
    for name, call in competitors.items():
        call()
        deadline = time.perf_counter() + effort.warm_up_seconds
        seconds = sample(call, 1)
        while time.perf_counter() < deadline:
            seconds = min(seconds, sample(call, 1))
        repeats[name] = max(1, round(effort.sample_seconds / max(seconds, 1e-9)))
    names = list(competitors)
    times: dict[str, list[float]] = {name: [] for name in names}
    gc.collect()
    gc.disable()
    deadline = math.inf if effort.most_seconds is None else time.perf_counter() + effort.most_seconds
    try:
        for i in range(effort.rounds):
            if i >= FEWEST_ROUNDS and time.perf_counter() > deadline:
                break
            turn = i % len(names)
            for name in names[turn:] + names[:turn]:
                competitors[name]()
                times[name].append(sample(competitors[name], repeats[name]))
    finally:
        gc.enable()
    return {name: Samples(tuple(values)) for name, values in times.items()}


def assert_equal_results(names: Sequence[str], results: Sequence[Sequence[Tensor]], rtol: float, atol: float) -> None:
    """Raise AssertionError unless every competitor gives the first one's tensors: |a - b| <= atol + rtol |b|.

    Compares a chunk at a time, so that tensors of a billion elements need little memory.
    """
    for name, tensors in zip(names[1:], results[1:], strict=True):
        if len(tensors) != len(results[0]):
            raise AssertionError(f"{name} returns {len(tensors)} tensors, {names[0]} {len(results[0])}")
        for i, (ours, theirs) in enumerate(zip(results[0], tensors, strict=True)):
            if ours.shape != theirs.shape or ours.dtype != theirs.dtype:
                raise AssertionError(f"{name}: result {i} has another shape or dtype than that of {names[0]}")
            for a, b in zip(
                ours.detach().flatten().split(_CHUNK), theirs.detach().flatten().split(_CHUNK), strict=True
            ):
                try:
                    torch.testing.assert_close(a, b, rtol=rtol, atol=atol)
                except AssertionError as error:
                    raise AssertionError(f"{names[0]} and {name} differ in result {i}: {error}") from None


def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def environment(device: str = "cpu") -> dict[str, Any]:
    """What the numbers were measured on: versions, processor, threads, date, load."""
    info: dict[str, Any] = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "build_info": hx.build_info(),
        "backends": hx.backends(),
        "forced_backend": os.environ.get("HRTA_EXT_BACKEND"),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cpu": _cpu_model(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "instruction_sets": {name: os.environ[name] for name in INSTRUCTION_SETS if name in os.environ},
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_average": os.getloadavg(),
        "allocator": {name: os.environ[name] for name in sorted(os.environ) if name.startswith("MALLOC_")},
        "device": device,
    }
    if device == "cuda":
        properties = torch.cuda.get_device_properties(torch.cuda.current_device())
        info |= {
            "gpu": properties.name,
            "gpu_memory_bytes": properties.total_memory,
            "gpu_l2_bytes": properties.L2_cache_size,
            "cuda": torch.version.cuda,
        }
    return info


def argument_parser(description: str | None, name: str, quick: str) -> argparse.ArgumentParser:
    """The options that the benchmarks share; ``quick`` says in words what --quick makes of them."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--out", type=Path, help=f"JSON file, or a directory for {name}.json ({name}_CARD.json on a GPU)"
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument(
        "--budget", type=float, metavar="SECONDS", help="fewer rounds, and then fewer cases, past these"
    )
    parser.add_argument("--quick", action="store_true", help=f"{quick}: a smoke test")
    parser.add_argument("--threads", type=int, default=2, help="torch threads on the CPU (default 2)")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    return parser


def parsed(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """The arguments, once it is certain that their device is there; torch has its threads."""
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch sees no CUDA device")
    torch.set_num_threads(arguments.threads)
    return arguments


def print_heading(info: Mapping[str, Any], where: str | None = None) -> None:
    """The first line of every benchmark: versions and place."""
    if where is None:
        where = info["gpu"] if info["device"] == "cuda" else f"{info['cpu']}, {info['threads']} threads"
    print(f"hrta_ext {info['build_info']['version']}, torch {info['torch']}, {where}")


def slug(name: str) -> str:
    """A card's name as part of a file's: ``nvidia_h200``."""
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")


def json_path(out: Path, name: str, device: str = "cpu") -> Path:
    """``out`` itself if it names a JSON file, else a file inside the directory ``out``; made where it is missing.

    The file is NAME.json, on a GPU NAME_CARD.json.
    """
    card = f"_{slug(torch.cuda.get_device_name())}" if device == "cuda" else ""
    path = out if out.suffix == ".json" else out / f"{name}{card}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def save(path: Path, benchmark: str, environment: Mapping[str, Any], **content: Any) -> None:
    """Write the results beside their environment."""
    write_json(path, {"benchmark": benchmark, "environment": dict(environment), **content})


def format_seconds(seconds: float) -> str:
    """With a unit and three digits: ``12.3 us``."""
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if seconds >= scale:
            return f"{seconds / scale:.3g} {unit}" if seconds < 100 * scale else f"{seconds / scale:.0f} {unit}"
    return f"{seconds * 1e9:.0f} ns"


def format_table(columns: Sequence[str], rows: Sequence[Sequence[str]], left: int = 2) -> str:
    """Plain text: the first ``left`` columns to the left, the others to the right."""
    widths = [max(len(cell) for cell in column) for column in zip(columns, *rows, strict=True)]
    lines = []
    for row in [list(columns), ["-" * width for width in widths], *rows]:
        cells = [
            cell.ljust(width) if i < left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
