"""Speed of the Gram builder beside naive torch, torch.compile of it, and torch.func's empirical NTK.

Every case first compares the results with naive torch in float64. "16 values of s" means 16 Gram matrices G^[a] and
G^[w]: the peers need a pass for each, so their time is that of one s, times 16. Where the naive formula takes seconds
it is given a share of the neurons and its time scaled up. Times are medians of interleaved rounds (timing.py); nothing
is asserted about time. The rates count 2 n^2 m operations for the two symmetric products, beside what torch's own
matrix products reach in the same run; on a GPU the shares are of a float32 product and of an int8 one.

``--grid`` measures one s over a grid of sizes and bases beside naive float32 torch instead: the goal is 1.0 everywhere.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import hrta_ext as hx
from hrta_ext.benchmarks.ceilings import Floor, ceilings
from hrta_ext.benchmarks.infinite_cases import CASES as INFINITE_CASES
from hrta_ext.benchmarks.infinite_cases import GPU_CASES as INFINITE_GPU_CASES
from hrta_ext.benchmarks.infinite_cases import SMALL as INFINITE_SMALL
from hrta_ext.benchmarks.infinite_cases import InfiniteCase, print_infinite, run_infinite
from hrta_ext.benchmarks.timing import (
    QUICK,
    Budget,
    Effort,
    Samples,
    argument_parser,
    compare,
    environment,
    format_seconds,
    format_table,
    json_path,
    measure,
    parsed,
    print_heading,
    save,
)
from hrta_ext.ntk import choice, levels

S = 0.7
COLUMNS = ("case", "peer", "ours", "peer's", "ratio", "of minima", "goal", "met?")
RATES = ("case", "algorithm", "GOP/s", "of sgemm", "of int8 matmul", "bound by")
NAIVE, COMPILED, FUNC, CHUNKS = "naive torch", "torch.compile", "torch.func NTK", "generate, then naive"
TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-13}


@dataclass(frozen=True)
class Case:
    """n samples, m neurons, D features; goal: the peer's time over ours that the project wants for one s and for 16."""

    n: int
    m: int
    D: int
    dtype: torch.dtype = torch.float32
    base: str = "relu"
    goals: tuple[float | None, float | None] = (None, None)
    drawn: bool = False
    rounds: int = 11
    peer_share: float = 1.0  # of the neurons that the peer is given; its time, linear in m, is scaled up

    @property
    def name(self) -> str:
        kind = "random " if self.drawn else ""
        dtype = str(self.dtype).removeprefix("torch.")
        return f"{kind}{self.base} n={self.n} m={self.m:.3g} D={self.D} {dtype}"

    @property
    def floor(self) -> Floor:
        """Neurons that were not drawn are read once; arcs need no products."""
        arcs = self.D == 2 and self.base == "relu"
        bytes_read = 0.0 if self.drawn else self.dtype.itemsize * (self.D + 1.0) * self.m
        return Floor(bytes_read, 0.0 if arcs else 2.0 * self.n**2 * self.m)

    def algorithm(self, device: str) -> str:
        if self.D == 2 and self.base == "relu":
            return "arcs"
        if device == "cuda":
            high = self.dtype == torch.float64
            few = choice.digits_to_try(self.n, self.D, self.m) if self.base == "relu" and not high else []
            ways = [*few, *levels.tries(self.base, high, self.n, self.D, self.m)]
            return f"int8 digits ({ways[0]})" if ways else "float64 matmuls"
        return hx.build_info()["gram"]


CASES = (
    Case(100, 1000, 2, goals=(1.5, 20.0), rounds=41),
    Case(100, 100_000, 2, goals=(12.0, 150.0)),
    Case(1000, 65_536, 4, goals=(3.5, 50.0), rounds=7),
    Case(1000, 65_536, 4, torch.float64, goals=(3.0, None), rounds=5),
    Case(100, 10_000_000, 2, goals=(10.0, None), drawn=True, rounds=5, peer_share=0.0625),
    Case(1000, 1_000_000, 2, goals=(300.0, None), rounds=5, peer_share=0.0625),
    Case(100, 100_000, 4),
    Case(1000, 16_384, 4, base="gelu", rounds=7),
    Case(1000, 16_384, 16, rounds=7),
    Case(1000, 16_384, 784, rounds=3),
)
GPU_CASES = (
    Case(1024, 1_000_000, 4, goals=(12.0, None), rounds=3, peer_share=0.1),
    Case(8192, 100_000, 16, goals=(11.0, None), rounds=3, peer_share=0.1),
    Case(128, 10_000_000, 4, goals=(10.0, None), rounds=3, peer_share=0.1),
    Case(128, 10_000_000, 2, rounds=11, peer_share=0.1),
    Case(1000, 10_000_000, 2, rounds=11, peer_share=0.01),
    Case(1000, 10_000_000, 2, torch.float64, rounds=11, peer_share=0.01),
    Case(128, 10_000_000, 2, drawn=True, rounds=11, peer_share=0.1),
    Case(10_000, 1_000_000, 2, rounds=5, peer_share=0.01),
    Case(512, 1_000_000, 8, goals=(10.0, None), rounds=3, peer_share=0.1),
    Case(128, 10_000_000, 4, drawn=True, rounds=3, peer_share=0.1),
    Case(1024, 1_000_000, 4, torch.float64, goals=(1.8, None), rounds=3, peer_share=0.1),
    Case(1024, 1_000_000, 4, base="gelu", goals=(1.0, None), rounds=3, peer_share=0.1),
    Case(128, 1_000, 16, goals=(1.0, None)),
    Case(2048, 1_000, 16, goals=(1.0, None)),
)
GRID = tuple(
    Case(n, m, D, base=base, goals=(1.0, None), rounds=5)
    for n in (10, 100, 1000, 4000)
    for m in (1000, 16_384)
    for D in (2, 16, 128, 784, 3072)
    for base in ("relu", "tanh", "gelu")
)
GPU_GRID = tuple(
    Case(n, m, D, base=base, goals=(1.0, None), rounds=5)
    for n in (16, 128, 512, 2048, 8192)
    for m in (1000, 100_000, 10_000_000)
    for D in (2, 4, 16, 128)
    for base in ("relu", "tanh", "gelu")
    if n * m <= 2**31  # what the naive formula keeps fits
)
SMALL = (Case(100, 1000, 2, goals=(1.5, 20.0)), Case(64, 3000, 4), Case(50, 20_000, 2, drawn=True))


def naive(x: Tensor, weight: Tensor, a: Tensor, s: float, base: str) -> tuple[Tensor, Tensor]:
    """Both Gram matrices the way one writes them down."""
    z = x @ weight.mT
    if base == "relu":
        value, slope = torch.relu(z), (z > 0).to(z.dtype)
    elif base == "tanh":
        value = torch.tanh(z)
        slope = 1 - value * value
    else:
        cdf = 0.5 * torch.erfc(-z * 0.5**0.5)
        value, slope = z * cdf, cdf + z * torch.exp(-0.5 * z * z) * 0.3989422804014327
    value, slope = (1 - s) * z + s * value, (1 - s) + s * slope
    m = weight.shape[0]
    return value @ value.mT / m, (slope * (a * a)) @ slope.mT * (x @ x.mT) / m


def generated(x: Tensor, width: int, s: float, base: str, chunk: int = 65_536) -> tuple[Tensor, Tensor]:
    """torch.randn a chunk at a time, then the naive formula."""
    n = x.shape[0]
    total = [torch.zeros(n, n, dtype=torch.float64, device=x.device) for _ in range(2)]
    for begin in range(0, width, chunk):
        count = min(chunk, width - begin)
        weight, a = (torch.randn(shape, dtype=x.dtype, device=x.device) for shape in ((count, x.shape[1]), (count,)))
        for into, one in zip(total, naive(x, weight, a, s, base), strict=True):
            into += one.double() * (count / width)
    return total[0], total[1]


def functional_ntk(x: Tensor, weight: Tensor, a: Tensor, s: float, base: str) -> Tensor:
    """The NTK by per-sample Jacobians of all parameters."""

    def network(parameters: tuple[Tensor, Tensor], sample: Tensor) -> Tensor:
        z = parameters[0] @ sample
        return ((1 - s) * z + s * torch.relu(z)) @ parameters[1] * weight.shape[0] ** -0.5

    jacobians = torch.func.vmap(torch.func.jacrev(network), (None, 0))((weight, a), x)
    return sum(j.flatten(1) @ j.flatten(1).mT for j in jacobians)


def check(case: Case, x: Tensor, weight: Tensor, a: Tensor) -> None:
    """Our matrices, of large n a corner, agree with the naive formula in float64 within the class of the dtype."""
    ours, few = hx.gram(x, weight, a, S, base=case.base), slice(0, 2000)
    wide = naive(x[few].double(), weight.double(), a.double(), S, case.base)
    for mine, expected in zip(ours, wide, strict=True):
        error = float((mine[few, few].double() - expected).norm() / expected.norm())
        if not error <= TOLERANCE[case.dtype]:
            raise AssertionError(f"{case.name}: relative Frobenius error {error:.2g}")


def run_case(case: Case, effort: Effort, use_compile: bool, device: str, reached: dict[str, Any]) -> dict[str, Any]:
    """Check, then time, one case; the JSON record of it."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(case.n, case.D, dtype=case.dtype, generator=generator).to(device)
    many = torch.linspace(0.1, 2.0, 16, dtype=torch.float64)
    calls: dict[str, Callable[[], object]]
    if case.drawn:
        check(case, x, *hx.random_weights(0, 100_000, case.D, dtype=case.dtype, device=device))
        calls = {
            "one": lambda: hx.random_gram_path(x, case.m)(S),
            "sixteen": lambda: hx.random_gram_path(x, case.m)(many),
            CHUNKS: lambda: generated(x, round(case.peer_share * case.m), S, case.base),
        }
    else:
        weight, a = hx.random_weights(0, case.m, case.D, dtype=case.dtype, device=device)
        few = round(case.peer_share * case.m)
        check(case, x, weight[: min(few, 100_000)], a[: min(few, 100_000)])
        calls = {
            "one": lambda: hx.gram(x, weight, a, S, base=case.base),
            "sixteen": lambda: hx.gram(x, weight, a, many, base=case.base),
            NAIVE: lambda: naive(x, weight[:few], a[:few], S, case.base),
        }
        if use_compile and few == case.m:
            compiled = torch.compile(naive)
            calls[COMPILED] = lambda: compiled(x, weight, a, S, case.base)
        if case.n * case.m * case.D <= 10**6 and case.base == "relu":
            calls[FUNC] = lambda: functional_ntk(x, weight, a, S, case.base)
    times = measure(calls, effort, device)
    one, sixteen = times.pop("one"), times.pop("sixteen")
    peers = {}
    for name, peer_time in times.items():
        goals = case.goals if name in (NAIVE, CHUNKS) else (None, None)
        whole = Samples(tuple(seconds / case.peer_share for seconds in peer_time.seconds))
        repeated = Samples(tuple(16 * seconds for seconds in whole.seconds))
        peers[f"{name}, one s"] = compare(one, whole, goals[0])
        peers[f"{name}, 16 s"] = compare(sixteen, repeated, goals[1])
    return {
        "name": case.name,
        **{key: getattr(case, key) for key in ("n", "m", "D", "base", "peer_share")},
        "algorithm": case.algorithm(device),
        "dtype": str(case.dtype).removeprefix("torch."),
        "one": one.as_dict(),
        "sixteen": sixteen.as_dict(),
        "peers": peers,
        "operations_per_second": 2 * case.n**2 * case.m / one.median,
        "floor": case.floor.record(one.median, reached),
    }


def run_grid_case(case: Case, effort: Effort, device: str) -> dict[str, Any]:
    """Check, then time, one s of one case of the grid."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(case.n, case.D, generator=generator).to(device)
    weight, a = hx.random_weights(0, case.m, case.D, dtype=case.dtype, device=device)
    check(case, x, weight[:20_000], a[:20_000])
    times = measure(
        {
            "one": lambda: hx.gram(x, weight, a, S, base=case.base),
            NAIVE: lambda: naive(x, weight, a, S, case.base),
        },
        effort,
        device,
    )
    return {
        "name": case.name,
        **{key: getattr(case, key) for key in ("n", "m", "D", "base")},
        "one": times["one"].as_dict(),
        "peers": {f"{NAIVE}, one s": compare(times["one"], times[NAIVE], case.goals[0])},
    }


def print_grid(records: list[dict[str, Any]]) -> None:
    rows = []
    for record in records:
        (peer,) = record["peers"].values()
        times = [format_seconds(record["one"]["median"]), format_seconds(peer["median"])]
        rows.append([record["name"], *times, f"{peer['ratio']:.2f}", f"{peer['ratio_of_minima']:.2f}"])
    print(format_table(("case", "ours", "naive", "ratio", "of minima"), rows))
    print(f"\n{sum(float(row[3]) >= 0.98 for row in rows)} of {len(rows)} at least 0.98")


def products(effort: Effort, device: str) -> dict[str, float]:
    """Operations per second of torch's matrix products, (2048, 4096) by (4096, 2048), int8 ones smaller if slow."""

    def rate(side: int, integer: bool, effort: Effort) -> float:
        left, right = (torch.randn(shape, device=device) for shape in ((side, 2 * side), (2 * side, side)))
        if integer:
            left, right = ((30 * matrix).clamp(-127, 127).to(torch.int8) for matrix in (left, right))
        product = torch._int_mm if integer else torch.mm
        return 4 * side**3 / measure({"": lambda: product(left, right)}, effort, device)[""].minimum

    few = rate(256, True, QUICK)  # torch has no fast one for some processors
    return {"sgemm": rate(2048, False, effort), "int8": rate(2048, True, effort) if few > 5e10 else few}


def print_report(records: list[dict[str, Any]], ceiling: dict[str, float]) -> None:
    print("\nratio: the peer's time / ours, median over rounds; of minima: the same of the fastest rounds")
    rows = []
    for record in records:
        for i, (name, peer) in enumerate(record["peers"].items()):
            ours = record["sixteen" if name.endswith("16 s") else "one"]["median"]
            goal = "" if peer["goal"] is None else f">= {peer['goal']:.3g}"
            met = "" if peer["met"] is None else "yes" if peer["met"] else "NO"
            ratios = [f"{peer['ratio']:.3g}", f"{peer['ratio_of_minima']:.3g}"]
            times = [format_seconds(ours), format_seconds(peer["median"])]
            rows.append(["" if i else record["name"], name, *times, *ratios, goal, met])
    print(format_table(COLUMNS, rows))
    print(f"\nceilings in this run: sgemm {ceiling['sgemm'] / 1e9:.0f} GF/s, int8 {ceiling['int8'] / 1e9:.0f} GOP/s")
    print("rate of the whole call, counting 2 n^2 m operations (both products, their symmetry used)")
    rows = []
    for record in records:
        rate = record["operations_per_second"]
        shares = [f"{100 * rate / ceiling[name]:.0f}%" for name in ("sgemm", "int8")]
        rows.append([record["name"], record["algorithm"], f"{rate / 1e9:.0f}", *shares, bound(record)])
    print(format_table(RATES, rows))
    goals = [peer for record in records for peer in record["peers"].values() if peer["met"] is not None]
    print(f"\n{sum(goal['met'] for goal in goals)} of {len(goals)} goals met")


def bound(record: dict[str, Any]) -> str:
    """What limits the case, from where a profile showed the time."""
    if record["algorithm"] == "torch backend":
        return "library products in float64"
    if record["algorithm"] == "arcs":
        if record["m"] < 10**4:
            return "n^2 work and call overhead"
        return "drawing and sorting neurons into arcs" if "random" in record["name"] else "sorting neurons into arcs"
    if record["D"] >= 64:
        return "pre-activations and their sums, n m D"
    if record["n"] <= 192:
        return "responses and packing, n m"
    return "operands from the last cache" if record["algorithm"] == "int8 tiles" else "vector multiply-adds"


def main() -> int:
    """Run all cases, print the tables, write the JSON."""
    parser = argument_parser(__doc__, "gram", "few short rounds and small cases")
    parser.add_argument("--grid", action="store_true", help="one s over a grid of sizes, beside naive torch alone")
    arguments = parsed(parser)
    device, quick, budget = arguments.device, arguments.quick, Budget(arguments.budget)
    info = environment(device)
    print_heading(info)
    print("no peers here: neural-tangents and KeOps, which this benchmark does not run")
    cases: list[Case | InfiniteCase] = [*(SMALL if quick else GPU_CASES if device == "cuda" else CASES)]
    cases += INFINITE_SMALL if quick else INFINITE_GPU_CASES if device == "cuda" else INFINITE_CASES
    if arguments.grid:
        grid = GPU_GRID if device == "cuda" else GRID
        cases = [*(grid[:6] if quick else grid)]
    reached = {} if arguments.grid else ceilings(device, quick)
    records, infinite, left_out = [], [], {}
    for i, case in enumerate(cases):
        print(f"[{i + 1}/{len(cases)}] {case.name}", file=sys.stderr, flush=True)
        if budget.used_up:
            left_out[case.name] = budget.used_up
            continue
        effort = budget.share(QUICK if quick else Effort(rounds=case.rounds), len(cases) - i)
        try:
            if isinstance(case, InfiniteCase):
                infinite.append(run_infinite(case, effort, device))
            elif arguments.grid:
                records.append(run_grid_case(case, effort, device))
            else:
                records.append(run_case(case, effort, not arguments.no_compile, device, reached))
        except torch.OutOfMemoryError as error:
            left_out[case.name] = str(error).splitlines()[0]
        gc.collect()
        if device == "cuda":
            torch.cuda.empty_cache()
    rates = {} if arguments.grid else products(QUICK if quick else Effort(rounds=7), device)
    if arguments.grid:
        print_grid(records)
    else:
        print_report(records, rates)
        print_infinite(infinite)
    for name, reason in left_out.items():
        print(f"left out: {name}: {reason}")
    if arguments.out is not None:
        benchmark = "gram_grid" if arguments.grid else "gram"
        found: dict[str, Any] = {} if arguments.grid else {"ceilings": {**reached, **rates}, "infinite": infinite}
        path = json_path(arguments.out, benchmark, device)
        save(path, benchmark, info, **found, cases=records, left_out=left_out)
        print(f"written to {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
