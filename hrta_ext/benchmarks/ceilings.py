"""What the machine reaches in this run, and how much of it a call uses: a plain copy, and torch's matrix product."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from hrta_ext.benchmarks.timing import Effort, format_seconds, measure

LEAST_BYTES, LEAST_SECONDS = 1e8, 1e-5  # of a floor that says something


def ceilings(device: str, quick: bool = False) -> dict[str, Any]:
    """The copy's bytes per second, read and written ones, and the matrix product's operations per second.

    On a GPU a copy of 1 GiB (less where memory is short) and bfloat16, 8192 x 8192 x 8192; on the CPU 256 MiB and
    float32, 2048 x 2048 x 2048. Random numbers: zeros cost less power, and run faster.
    """
    on_gpu = device == "cuda"
    size, side, dtype = (2**30, 8192, torch.bfloat16) if on_gpu else (2**28, 2048, torch.float32)
    if on_gpu:
        size = min(size, torch.cuda.mem_get_info()[0] // 8)
    if quick:
        size, side = 2**22, 256
    copy, matmul = _seconds(device, size, side, dtype)
    if on_gpu:
        torch.cuda.empty_cache()
    return {
        "copy_bytes_per_second": 2 * size / copy,
        "matmul_flops_per_second": 2 * side**3 / matmul,
        "matmul_dtype": str(dtype).removeprefix("torch."),
    }


def _seconds(device: str, size: int, side: int, dtype: torch.dtype) -> tuple[float, float]:
    """Of a copy of so many bytes, and of a square product; the fastest round."""
    source, target = (torch.empty(size, dtype=torch.uint8, device=device) for _ in range(2))
    source.random_(0, 256)
    left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    product = torch.empty_like(left)
    calls = {"copy": lambda: target.copy_(source), "matmul": lambda: torch.mm(left, right, out=product)}
    times = measure(calls, Effort(rounds=9, sample_seconds=0.02, most_seconds=2.0), device)
    return times["copy"].minimum, times["matmul"].minimum


@dataclass(frozen=True)
class Floor:
    """The least that a call must do: bytes to and from memory, and operations (a multiply-add is two)."""

    bytes: float
    flops: float = 0.0

    def record(self, seconds: float, reached: dict[str, Any]) -> dict[str, Any] | None:
        """Beside the ceilings: which of the two bounds the call, the time it leaves, and how near the call comes.

        None where neither says anything: what moves fits into a cache, or a launch takes longer.
        """
        memory, arithmetic = (
            self.bytes / reached["copy_bytes_per_second"],
            self.flops / reached["matmul_flops_per_second"],
        )
        least = max(memory, arithmetic)
        bound = "memory" if memory >= arithmetic else "arithmetic"
        if least < LEAST_SECONDS or (bound == "memory" and self.bytes < LEAST_BYTES):
            return None
        return {
            "bound": bound,
            "bytes": self.bytes,
            "flops": self.flops,
            "seconds": least,
            "share": least / seconds,
            "per_second": (self.bytes if bound == "memory" else self.flops) / seconds,
        }


def two_layer_floor(n: int, features: int, width: int, base: str, update: bool, networks: int = 1) -> Floor:
    """Forward and backward of the wide network in float32, with an Adam step or with gradients that are written.

    Bytes for a neuron of D + 1 numbers: a step reads and writes them and both moments in one sweep; without it they are
    read twice (backward wants all outputs) and the gradients written. Operations for a pair of sample and neuron: D
    multiply-adds for w . x, one for the sum, D and D again for the gradients and z anew, 2 (3 D + 1) in all. ReLU with
    two features needs none of them (docs/two_layer.md, arcs), so memory alone bounds it.
    """
    neurons = networks * width
    moved = 4.0 * (features + 1) * neurons * (6 if update else 3)
    arcs = base == "relu" and features == 2
    return Floor(moved, 0.0 if arcs else 2.0 * (3 * features + 1) * n * neurons)


def floor_cells(floor: dict[str, Any]) -> list[str]:
    """For a table: the floor's time, what it is made of, and the share that is reached."""
    return [format_seconds(floor["seconds"]), floor["bound"], f"{100 * floor['share']:.0f}%"]
