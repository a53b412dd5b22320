"""The Gram builder on a GPU beside naive torch in float32 and float64 and torch.compile of it, for one s.

Every case is compared with naive float64 torch before it is timed, on as many neurons as that holds. A path gives every
s from one pass, so its ratio for S values of s is S times the one shown. Rates count the int8 operations that the
digits ask for where they serve (4 or 6 products of digits for G^[a], 3 for G^[w], the upper triangle), else 2 n^2 m
float64 operations (two products, half of each); the ceilings are torch's own products of 8192 by 8192 in the same run.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from bench_gram import TOLERANCE, S, naive
from timing import QUICK, Effort, environment, format_seconds, format_table, json_path, measure, save

import hrta_ext as hx
from hrta_ext.ntk import choice

# n, m, D, dtype, drawn; then the grid.
CASES = [
    (128, 10_000_000, 4, torch.float32, False),
    (128, 10_000_000, 4, torch.float32, True),
    (128, 1_000_000, 4, torch.float32, False),
    (512, 1_000_000, 8, torch.float32, False),
    (1024, 1_000_000, 4, torch.float32, False),
    (8192, 100_000, 16, torch.float32, False),
    (1024, 1_000_000, 4, torch.float64, False),
    (8192, 100_000, 16, torch.float64, False),
]
GRID = [
    (n, m, d, torch.float32, False)
    for n in (16, 128, 512, 2048, 8192)
    for m in (1_000, 100_000, 10_000_000)
    for d in (2, 4, 16, 128)
]
OURS, FLOAT32, FLOAT64, COMPILED = "ours, all s", "naive float32", "naive float64", "compiled float32"
MOST_ENTRIES = 1 << 30  # of n x m that a peer is given; its time is scaled up


def run(case: tuple[int, int, int, torch.dtype, bool], device: str, effort: Effort) -> dict[str, Any]:
    """Check and time one case."""
    n, m, d, dtype, drawn = case
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, d, dtype=dtype, generator=generator).to(device)
    weight, a = hx.random_weights(0, m, d, device=device, dtype=dtype)
    few = max(min(m, MOST_ENTRIES // n), 1)
    ours = hx.gram(x, weight[:few], a[:few], S)
    exact = naive(x.double(), weight[:few].double(), a[:few].double(), S, "relu")
    errors = [float((mine.double() - true).norm() / true.norm()) for mine, true in zip(ours, exact, strict=True)]
    if not max(errors) <= TOLERANCE[dtype]:
        raise AssertionError(f"n {n}, m {m}, D {d}, {dtype}: relative Frobenius errors {errors}")
    del ours, exact
    # Naive torch keeps several n x m matrices: chunks of what it can hold, the same work at its best.
    single = x.float(), weight[:few].float(), a[:few].float()
    double = x.double(), weight[:few].double(), a[:few].double()
    calls: dict[str, Callable[[], object]] = {
        OURS: (lambda: hx.random_gram_path(x, m, batches=1)) if drawn else (lambda: hx.gram_path(x, weight, a)),
        FLOAT32: lambda: naive(*single, S, "relu"),
        FLOAT64: lambda: naive(*double, S, "relu"),
    }
    if effort is not QUICK:
        compiled = torch.compile(naive)
        calls[COMPILED] = lambda: compiled(*single, S, "relu")
    seconds = {name: samples.median for name, samples in measure(calls, effort, device).items()}
    for name in seconds:
        seconds[name] *= 1.0 if name == OURS else m / few
    tries = choice.digits_to_try(n, d, m) if dtype == torch.float32 and device == "cuda" and d <= 64 else []
    products = {2: 7, 3: 9}.get(tries[0], 2) if tries else 2
    rate = products * n * n * m / seconds[OURS]
    names = {"n": n, "m": m, "D": d, "dtype": str(dtype).removeprefix("torch."), "drawn": drawn}
    return {**names, "digits tried": tries, "errors": errors, "seconds": seconds, "operations per second": rate}


def ceilings(device: str, edge: int) -> dict[str, float]:
    """Operations per second of torch's own matrix products."""
    double = torch.randn(edge, edge, dtype=torch.float64, device=device)
    integers = torch.randint(-128, 127, (edge, edge), dtype=torch.int8, device=device)
    calls = {"float64": lambda: double @ double, "int8": lambda: torch._int_mm(integers, integers)}
    return {name: 2 * edge**3 / samples.minimum for name, samples in measure(calls, QUICK, device).items()}


def row(record: dict[str, Any], ceiling: dict[str, float]) -> list[str]:
    seconds = record["seconds"]
    kind = "int8" if record["digits tried"] else "float64"
    names = f"{record['n']}, {record['m']:.0e}, {record['D']}, {record['dtype']}{', drawn' if record['drawn'] else ''}"
    times = [format_seconds(seconds[name]) if name in seconds else "" for name in (OURS, FLOAT32, FLOAT64, COMPILED)]
    peer = seconds[FLOAT32 if record["dtype"] == "float32" else FLOAT64]
    rate = record["operations per second"]
    share = f"{rate / ceiling[kind]:.2f} of {kind}"
    return [names, *times, f"{peer / seconds[OURS]:.2f}", f"{max(record['errors']):.1e}", f"{rate / 1e12:.3g}", share]


def main() -> int:
    """Run all cases, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="JSON file, or a directory for gram_gpu.json")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: a smoke test of this program")
    parser.add_argument("--grid", action="store_true", help="every n, m and D of the grid, too")
    arguments = parser.parse_args()
    if not hx.backends()["cuda" if arguments.device == "cuda" else "cpp"]:
        print(f"no kernels for {arguments.device}: {hx.build_info()['cuda_reason']}", file=sys.stderr)
        return 2
    on_gpu = arguments.device == "cuda"
    info, effort = environment(arguments.device), Effort(rounds=9) if on_gpu else QUICK
    ceiling = ceilings(arguments.device, 8192 if on_gpu else 512)
    cases = CASES + GRID if arguments.grid else CASES
    if not on_gpu:
        cases = [(16, 1_000, 4, torch.float32, False), (16, 1_000, 4, torch.float64, True)]
    records = []
    for case in cases:
        print(*case, file=sys.stderr, flush=True)
        records.append(run(case, arguments.device, effort))
    columns = ("n, m, D", OURS, FLOAT32, FLOAT64, COMPILED, "peer / ours", "error", "TOP/s", "share")
    print(format_table(columns, [row(record, ceiling) for record in records]))
    print(", ".join(f"{name} {rate / 1e12:.3g} TOP/s" for name, rate in ceiling.items()))
    if arguments.out is not None:
        path = json_path(arguments.out, "gram_gpu")
        save(path, "gram_gpu", info, ceilings=ceiling, cases=records)
        print(f"written to {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
