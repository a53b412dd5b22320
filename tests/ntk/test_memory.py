"""Scratch memory: under the budget and independent of the width. Peaks are those of a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import hrta_ext as hx

resource = pytest.importorskip("resource")

CODE = """
import sys, resource, torch, hrta_ext as hx
kind, backend, base, n, d, m = *sys.argv[1:4], *map(int, sys.argv[4:])
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // (1024 if sys.platform == "darwin" else 1)
def build(x, m):
    if kind == "drawn":
        return hx.random_gram_path(x, m, base=base, batches=2)
    return hx.gram_path(x, weight[:m], output_weight[:m], base=base)
with hx.use_backend(backend):
    x = torch.ones(n, d).cumsum(0) / n
    if kind == "stored":
        weight, output_weight = torch.ones(m, d), torch.ones(m)
    build(x[:3], 100)  # libraries load and threads start before the measurement
    before = peak()
    path = build(x, m)
print(peak() - before)
"""
SUMS = {"drawn": 2, "stored": 1}  # of 16 n^2 bytes: the result itself


def _peak(kind: str, backend: str, base: str, n: int, d: int, m: int) -> float:
    """MiB that building a path adds to the peak of the process, the inputs apart."""
    done = subprocess.run(
        [sys.executable, "-c", CODE, kind, backend, base, *map(str, (n, d, m))],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout) / 1024


# Widths for about a second; anything of size n x m would be 4 n m bytes: 170 MiB, 1.7 GiB, 170 MiB and 34 MiB.
CASES = [
    ("cpp", "relu", 1000, 4, (5_000, 50_000)),
    ("cpp", "relu", 1000, 2, (50_000, 500_000)),
    ("cpp", "gelu", 100, 4, (50_000, 500_000)),
    ("torch", "relu", 200, 4, (5_000, 50_000)),
]


@pytest.mark.parametrize("kind", ["drawn", "stored"])
@pytest.mark.parametrize(("backend", "base", "n", "d", "widths"), CASES)
def test_peak_does_not_grow_with_the_width(
    kind: str, backend: str, base: str, n: int, d: int, widths: tuple[int, int]
) -> None:
    """8 MiB of slack: the allocator's pages and the threads' stacks."""
    if not hx.backends()[backend]:
        pytest.skip(f"backend {backend} is not usable here")
    narrow, wide = (_peak(kind, backend, base, n, d, m) for m in widths)
    assert wide <= narrow + 8
    assert wide <= 256 + SUMS[kind] * 16 * n * n / 2**20 + 8
