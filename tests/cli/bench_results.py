"""Made-up results of benchmarks, in the forms in which files hold them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

EPYC = {
    "cpu": "AMD EPYC", "threads": 2, "torch": "2.13.0+cpu", "cpu_capability": "AVX2", "device": "cpu",
    "date": "2026-11-28T02:00:00+00:00", "build_info": {"simd": "avx2", "version": "0.2.0"},
}  # fmt: skip
REACHED = {"copy_bytes_per_second": 2e10, "matmul_flops_per_second": 2e11, "matmul_dtype": "float32"}


def times(median: float, spread: float = 0.02) -> dict[str, float]:
    """A summary of rounds."""
    return {
        "median": median, "minimum": 0.9 * median, "lower_quartile": (1 - spread) * median,
        "upper_quartile": (1 + spread) * median, "rounds": 41,
    }  # fmt: skip


def case(name: str, median: float, peers: dict[str, tuple[float, float | None]], **more: Any) -> dict[str, Any]:
    """One record; ``peers``: name -> ratio and goal."""
    mode, base, *_ = [*name.split(", "), "relu"]
    found = {peer: {**times(ratio * median), "ratio": ratio, "goal": goal} for peer, (ratio, goal) in peers.items()}
    return {"name": name, "mode": mode, "base": base, "ours": times(median), "peers": found, **more}


def write(path: Path, cases: list[dict[str, Any]], benchmark: str = "activation", **environment: Any) -> Path:
    """A file."""
    content = {"benchmark": benchmark, "environment": {**EPYC, **environment}, "ceilings": REACHED, "cases": cases}
    path.write_text(json.dumps(content))
    return path
