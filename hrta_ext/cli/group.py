"""What ``hrta doctor`` says of a group under torchrun: its ranks, and what sums over them cost."""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.distributed as dist

from hrta_ext.backends import build_info
from hrta_ext.groups import Ranks

_NUMBERS = (1, 100, 10_000, 1_000_000)
_ROUNDS = 11
_ALIKE = {"hrta_ext": "version", "torch": "torch"}  # what must not differ, and its name in build_info


def describe(ranks: Ranks) -> dict[str, Any]:
    """The ranks, and seconds of sums over them: by gloo, and by nccl where every rank has a GPU of its own."""
    info = build_info()
    own = int(os.environ.get("LOCAL_RANK", "0"))
    gpu = torch.cuda.get_device_name(own) if torch.cuda.is_available() and own < torch.cuda.device_count() else None
    mine = {
        "host": platform.node(),
        "gpu": gpu,
        "threads": torch.get_num_threads(),
        "simd": info["simd"],
        **{name: info[key] for name, key in _ALIKE.items()},
    }
    every = [json.loads(text) for text in ranks.texts(json.dumps(mine))]
    sums = _measure(ranks, torch.device("cpu"), "gloo")
    if all(one["gpu"] is not None for one in every) and dist.is_nccl_available():
        torch.cuda.set_device(own)
        sums += _measure(Ranks(dist.new_group(backend="nccl"), "hrta doctor"), torch.device("cuda", own), "nccl")
    return {"ranks": every, "sums": sums}


def _measure(ranks: Ranks, device: torch.device, backend: str) -> list[dict[str, Any]]:
    found = []
    for numbers in _NUMBERS:
        value = torch.ones(numbers, dtype=torch.float64, device=device)
        reduce = _seconds(partial(dist.all_reduce, value.clone(), group=ranks.group), device)
        in_order = _seconds(partial(ranks.sum, value), device)
        row = {"backend": backend, "numbers": numbers, "all_reduce_seconds": reduce, "sum_in_order_seconds": in_order}
        found.append({**row, "all_reduce_bytes_per_second": 8 * numbers / reduce})
    return found


def _seconds(call: Callable[[], object], device: torch.device) -> float:
    """The median of a few rounds."""
    times = []
    for _ in range(_ROUNDS):
        start = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def rank_rows(found: dict[str, Any]) -> list[list[str]]:
    """Rank, host, GPU, threads, SIMD level and versions."""
    return [
        [str(rank), one["host"], one["gpu"] or "none", str(one["threads"]), one["simd"] or "none", one["torch"]]
        for rank, one in enumerate(found["ranks"])
    ]


def sum_rows(found: dict[str, Any]) -> list[list[str]]:
    """Backend, numbers, all-reduce, its rate, and the sum in the order of the ranks."""
    return [
        [
            row["backend"],
            f"{row['numbers']:,}",
            f"{1e6 * row['all_reduce_seconds']:.0f} us",
            f"{1e-6 * row['all_reduce_bytes_per_second']:.3g} MB/s",
            f"{1e6 * row['sum_in_order_seconds']:.0f} us",
        ]
        for row in found["sums"]
    ]


def differences(found: dict[str, Any]) -> list[str]:
    """What ranks should have alike and have not."""
    first, *others = found["ranks"]
    return [
        f"rank {rank} has {name} {one[name]} and rank 0 has {first[name]}; install the same everywhere"
        for rank, one in enumerate(others, 1)
        for name in _ALIKE
        if one[name] != first[name]
    ]
