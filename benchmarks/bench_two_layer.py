"""Speed of the fused two-layer network beside the eager formula, torch.compile of it and, where it is installed, KeOps.

Equal results are checked first, gradients too; then come medians of interleaved rounds (timing.py). Nothing is asserted
about time. All buffers are used again and again, so what fits into the caches is warm.
"""

from __future__ import annotations

import argparse
import gc
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keops_formula
import torch
from timing import (
    QUICK,
    Effort,
    Samples,
    argument_parser,
    assert_equal_results,
    environment,
    format_seconds,
    format_table,
    json_path,
    measure,
    print_heading,
    save,
)
from torch import Tensor

import hrta_ext as hx

S = 0.5  # every case
OURS, EAGER, COMPILED, KEOPS = "hx.two_layer", "eager formula", "compiled formula", "KeOps"
COLUMNS = ("case", "peer", "ours", "peer's", "ratio", "of minima", "goal", "met?")
# |ours - peer| <= RTOL |peer| + ATOL max |peer|: the peers sum m terms, or n, in float32.
RTOL, ATOL = 1e-4, 1e-4


@dataclass(frozen=True)
class Case:
    """One line: f of ``networks`` networks and the gradients in their weights; float32.

    ``peer_width`` is the width the peers run at where the full one does not fit or takes minutes: their time is then
    scaled by width / peer_width, since it is linear in m once the n x m tensors exceed the caches.
    """

    n: int
    features: int
    width: int
    base: str = "relu"
    goals: dict[str, float] = field(default_factory=dict)
    peer_width: int | None = None
    with_gradient: bool = False  # a Sobolev loss: df/dx as well

    @property
    def name(self) -> str:
        """Such as ``n 100, D 2, m 1e5, relu``."""
        size = f"{self.width:.0e}".replace("e+0", "e")
        return f"n {self.n}, D {self.features}, m {size}, {self.base}" + (", with df/dx" if self.with_gradient else "")


def cases(quick: bool) -> list[Case]:
    """The op's rows of the speed table, and others beside them."""
    few = 20 if quick else 1
    return [
        Case(100, 2, 1000),
        Case(100, 2, 100_000 // few, goals={EAGER: 20.0, COMPILED: 10.0}),
        Case(100, 2, 1_000_000 // few),
        Case(125, 4, 100_000 // few),
        Case(100, 2, 100_000 // few, base="tanh"),
        Case(100, 2, 100_000 // few, base="gelu"),
        Case(400, 3, 1000, base="relu2", with_gradient=True),
        Case(10_000, 2, 100_000, goals={EAGER: 800.0, COMPILED: 400.0}, peer_width=10_000 // few),
    ]


def sigma(z: Tensor, base: str) -> Tensor:
    """As a user would write it."""
    if base == "relu2":
        return 0.5 * torch.relu(z) ** 2
    return {"relu": torch.relu, "tanh": torch.tanh, "gelu": torch.nn.functional.gelu}[base](z)


def formula(base: str) -> Callable[[Tensor, Tensor, Tensor], tuple[Tensor, ...]]:
    """f as a user would write it."""

    def f(x: Tensor, weight: Tensor, output_weight: Tensor) -> tuple[Tensor, ...]:
        z = x @ weight.T
        return (((1 - S) * z + S * sigma(z, base)) @ output_weight / weight.shape[0] ** 0.5,)

    return f


def formula_with_gradient(x: Tensor, weight: Tensor, output_weight: Tensor) -> tuple[Tensor, ...]:
    """f and df/dx of relu2, written out."""
    z = x @ weight.T
    a = output_weight / weight.shape[0] ** 0.5
    return ((1 - S) * z + S * sigma(z, "relu2")) @ a, (((1 - S) + S * torch.relu(z)) * a) @ weight


def functions(case: Case, use_compile: bool) -> Iterator[tuple[str, Callable[..., tuple[Tensor, ...]]]]:
    """Name and function of (x, weight, output_weight) for ours and every peer."""
    if case.with_gradient:
        yield OURS, lambda x, w, a: hx.two_layer_with_gradient(x, w, a, S, base=case.base)
        plain = formula_with_gradient
    else:
        yield OURS, lambda x, w, a: (hx.two_layer(x, w, a, S, base=case.base),)
        plain = formula(case.base)
    yield EAGER, plain
    if use_compile:
        torch.compiler.reset()
        yield COMPILED, torch.compile(plain, fullgraph=True, dynamic=False)
    if keops_formula.INSTALLED and case.base in keops_formula.BASES:
        yield KEOPS, lambda x, w, a: keops_formula.outputs(x, w, a, S, case.base, case.with_gradient)


def forward_backward(
    function: Callable[..., tuple[Tensor, ...]], x: Tensor, weights: tuple[Tensor, Tensor], grads: tuple[Tensor, ...]
) -> Callable[[], tuple[Tensor, ...]]:
    """The call that is timed: outputs and the gradients in the weights."""

    def call() -> tuple[Tensor, ...]:
        outputs = function(x, *weights)
        return *outputs, *torch.autograd.grad(outputs, weights, grads)

    return call


def problem(case: Case, width: int) -> tuple[Tensor, tuple[Tensor, Tensor], tuple[Tensor, ...]]:
    """x, the weights, and a gradient for each output."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    x = hx.with_bias(normal(case.n, case.features - 1))
    weights = normal(width, case.features).requires_grad_(), normal(width).requires_grad_()
    grads = (normal(case.n), normal(case.n, case.features))
    return x, weights, grads if case.with_gradient else grads[:1]


def check(names: list[str], results: list[tuple[Tensor, ...]]) -> None:
    """Every competitor gives the first one's tensors."""
    for i, exact in enumerate(results[0]):
        scale = exact.abs().max().item()
        assert_equal_results(names, [[result[i]] for result in results], RTOL, ATOL * scale)


def run_case(case: Case, effort: Effort, use_compile: bool) -> dict[str, Any]:
    """Check, then time, one case; the JSON record of it."""
    peer_width = case.peer_width or case.width
    small = problem(case, peer_width)
    calls, skipped, names, results = {}, {}, [], []
    for name, function in functions(case, use_compile):
        call = forward_backward(function, *small)
        try:
            results.append(call())
        except Exception as error:  # a peer that this machine cannot run, such as those that need a compiler
            if name not in (COMPILED, KEOPS):
                raise
            skipped[name] = f"{type(error).__name__}: {error}".splitlines()[0]
            continue
        names.append(name)
        calls[name] = call if name != OURS else forward_backward(function, *problem(case, case.width))
    check(names, results)
    del results
    times = measure(calls, effort)
    scale = case.width / peer_width
    ours = times[OURS]
    pairs = case.n * case.width
    peers = {}
    for name in names[1:]:
        scaled = Samples(tuple(scale * seconds for seconds in times[name].seconds))
        ratio, goal = ours.speedup_over(scaled), case.goals.get(name)
        peers[name] = {
            **scaled.as_dict(),
            "scaled_from_width": case.peer_width,
            "ratio": ratio,
            "ratio_of_minima": ours.best_speedup_over(scaled),
            "goal": goal,
            "met": None if goal is None else ratio >= goal,
        }
    return {
        "name": case.name,
        **{key: getattr(case, key) for key in ("n", "features", "width", "base", "with_gradient")},
        "s": S,
        "dtype": "float32",
        "tolerance": {"rtol": RTOL, "atol_of_largest": ATOL},
        "ours": {"call": OURS, **ours.as_dict(), "nanoseconds_per_pair": ours.median / pairs * 1e9},
        "peers": peers,
        "skipped": skipped,
    }


def peer_rows(record: dict[str, Any]) -> list[list[str]]:
    rows = []
    for i, (name, peer) in enumerate(record["peers"].items()):
        first = record["name"] if i == 0 else ""
        ours = format_seconds(record["ours"]["median"]) if i == 0 else ""
        label = name if peer["scaled_from_width"] is None else f"{name}, scaled from m {peer['scaled_from_width']}"
        goal = "" if peer["goal"] is None else f">= {peer['goal']:.3g}"
        met = "" if peer["met"] is None else "yes" if peer["met"] else "NO"
        ratios = [f"{peer['ratio']:.2f}", f"{peer['ratio_of_minima']:.2f}"]
        rows.append([first, label, ours, format_seconds(peer["median"]), *ratios, goal, met])
    return rows + [["", name, "", "skipped", "", "", "", ""] for name in record["skipped"]]


def print_report(records: list[dict[str, Any]]) -> None:
    print("\nforward + backward; ratio: the peer's time / ours, median over rounds; of minima: of the fastest rounds")
    print(format_table(COLUMNS, [row for record in records for row in peer_rows(record)]))
    goals = [peer for record in records for peer in record["peers"].values() if peer["met"] is not None]
    print(f"\n{sum(goal['met'] for goal in goals)} of {len(goals)} goals met")
    disturbed = [record for record in records if record["ours"]["median"] > 1.5 * record["ours"]["minimum"]]
    if disturbed:
        print(f"{len(disturbed)} cases ran in a disturbed machine (median over 1.5 times the minimum): repeat those")


def high_water_mark() -> int:
    """Peak resident memory of this process in bytes (Linux); ru_maxrss would start from the parent's."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def peak_memory(width: int) -> int:
    """Bytes beyond arguments and results at the peak of a forward and backward pass, n = 100, D = 2."""
    x = torch.randn(100, 2)
    for m in (10, width):
        weights = torch.randn(m, 2, requires_grad=True), torch.randn(m, requires_grad=True)
        before = high_water_mark()
        f = hx.two_layer(x, *weights, S)
        grads = torch.autograd.grad(f.square().sum(), weights)
    return high_water_mark() - before - sum(grad.nbytes for grad in grads)


def measured_peak(width: int) -> int:
    """``peak_memory`` in a fresh process."""
    command = [sys.executable, __file__, "--peak-memory", str(width)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def parse_arguments() -> argparse.Namespace:
    parser = argument_parser(__doc__, "two_layer", "few short rounds, narrow networks")
    parser.add_argument("--peak-memory", type=int, metavar="WIDTH", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> int:
    """Run all cases, print the table, write the JSON."""
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    if arguments.peak_memory is not None:
        print(peak_memory(arguments.peak_memory))
        return 0
    info = environment()
    print_heading(info, f"{info['cpu']}, {arguments.threads} threads")
    records = []
    for i, case in enumerate(chosen := cases(arguments.quick)):
        print(f"[{i + 1}/{len(chosen)}] {case.name}", file=sys.stderr, flush=True)
        slow = case.n * (case.peer_width or case.width) > 5e7
        effort = QUICK if arguments.quick else Effort(rounds=5 if slow else 21, warm_up_seconds=0.02)
        records.append(run_case(case, effort, not arguments.no_compile))
        gc.collect()
    print_report(records)
    width = 10**5 if arguments.quick else 10**7
    peak = measured_peak(width)
    print(f"peak memory of a pass at m = {width:.0e} beyond arguments and results: {peak / 2**20:.1f} MiB")
    if arguments.out is not None:
        path = json_path(arguments.out, "two_layer")
        save(path, "two_layer", info, cases=records, peak_memory={"width": width, "bytes": peak})
        print(f"written to {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
