"""Cases of bench_gram.py at infinite width, beside the formulas as one writes them in torch, in float64."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import hrta_ext as hx
from hrta_ext.benchmarks.timing import Effort, compare, format_seconds, format_table, measure

S = 0.7
COLUMNS = ("case", "peer", "ours", "16 s", "peer's", "ratio")


@dataclass(frozen=True)
class InfiniteCase:
    """n samples of D features; the peer is given this share of the rows, and its time scaled up."""

    n: int
    base: str
    D: int = 16
    rounds: int = 5
    peer_share: float = 1.0

    @property
    def name(self) -> str:
        return f"infinite {self.base} n={self.n} D={self.D} float64"


CASES = (
    InfiniteCase(2000, "relu"),
    InfiniteCase(2000, "gelu"),
    InfiniteCase(2000, "erf"),
    InfiniteCase(2000, "tanh", rounds=3, peer_share=0.01),
)
GPU_CASES = (
    InfiniteCase(8192, "relu"),
    InfiniteCase(8192, "gelu"),
    InfiniteCase(8192, "erf"),
    InfiniteCase(8192, "tanh", rounds=3, peer_share=0.1),
)
SMALL = (InfiniteCase(200, "relu"), InfiniteCase(60, "tanh"))


def plain(x: Tensor, x2: Tensor, s: float, base: str) -> tuple[Tensor, Tensor]:
    """Closed forms by arc cosines; without one, this package's mixture in plain torch."""
    if base == "tanh":
        with hx.use_backend("torch"):
            return hx.infinite_gram(x, s, base=base, x2=x2)
    inner, q, q2 = x @ x2.mT, x.square().sum(1)[:, None], x2.square().sum(1)
    mean: Tensor | float
    mean2: Tensor | float
    if base == "relu":
        norms = (q * q2).sqrt()
        cosine = (inner / norms).clamp(-1.0, 1.0)
        angle = torch.acos(cosine)
        value = norms * (torch.sin(angle) + (math.pi - angle) * cosine) / (2.0 * math.pi)
        slope, mean, mean2 = (math.pi - angle) / (2.0 * math.pi), 0.5, 0.5
    elif base == "erf":
        scale = ((1.0 + 2.0 * q) * (1.0 + 2.0 * q2)).sqrt()
        value = 2.0 / math.pi * torch.asin((2.0 * inner / scale).clamp(-1.0, 1.0))
        slope = 4.0 / math.pi / (scale.square() - 4.0 * inner.square()).sqrt()
        mean, mean2 = (2.0 / (math.pi * (1.0 + 2.0 * z)).sqrt() for z in (q, q2))
    else:
        scale = ((1.0 + q) * (1.0 + q2)).sqrt()
        root = (scale.square() - inner.square()).sqrt()
        both = 0.25 + torch.asin((inner / scale).clamp(-1.0, 1.0)) / (2.0 * math.pi)
        gain = (1.0 / (1.0 + q) + 1.0 / (1.0 + q2)) / root
        value = inner * both + ((q * q2 - inner.square()) / root + inner.square() * gain) / (2.0 * math.pi)
        slope, mean, mean2 = both + inner * (gain + root**-3) / (2.0 * math.pi), 0.5, 0.5
    linear = (1.0 - s) ** 2 + s * (1.0 - s) * (mean + mean2)
    return inner * linear + s**2 * value, inner * (linear + s**2 * slope)


def run_infinite(case: InfiniteCase, effort: Effort, device: str) -> dict[str, Any]:
    """Check, then time, one case; the JSON record of it."""
    x = torch.randn(case.n, case.D, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).to(device)
    few = max(round(case.peer_share * case.n), 1)
    mine, expected = hx.infinite_gram(x[:30], S, base=case.base, x2=x), plain(x[:30], x, S, case.base)
    for one, other in zip(mine, expected, strict=True):  # an arc cosine loses half the digits of a small angle
        if not float((one - other).abs().max()) <= 1e-6 * float(other.abs().max()):
            raise AssertionError(f"{case.name}: not what the plain formula gives")
    many = torch.linspace(0.1, 2.0, 16, dtype=torch.float64)
    peer = "torch backend" if case.base == "tanh" else "plain torch"
    times = measure(
        {
            "one": lambda: hx.infinite_gram(x, S, base=case.base),
            "sixteen": lambda: hx.infinite_gram(x[: case.n // 4], many, base=case.base),
            peer: lambda: plain(x[:few], x, S, case.base),
        },
        effort,
        device,
    )
    whole = times[peer].scaled(case.n / few)
    return {
        "name": case.name,
        "n": case.n,
        "D": case.D,
        "base": case.base,
        "one": times["one"].as_dict(),
        "sixteen_of_a_quarter": times["sixteen"].as_dict(),
        "peers": {peer: compare(times["one"], whole, None)},
    }


def print_infinite(records: list[dict[str, Any]]) -> None:
    """The table; "16 s" is 16 values of s for a quarter of the samples: as many numbers."""
    rows = []
    for record in records:
        for name, peer in record["peers"].items():
            seconds = record["one"]["median"], record["sixteen_of_a_quarter"]["median"], peer["median"]
            rows.append([record["name"], name, *map(format_seconds, seconds), f"{peer['ratio']:.3g}"])
    print("\ninfinite width, both kernels at one s; 16 s: at 16 values for a quarter of the samples, as many numbers")
    print(format_table(COLUMNS, rows))
