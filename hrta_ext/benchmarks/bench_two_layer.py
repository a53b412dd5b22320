"""Speed of the fused two-layer network beside the eager formula, torch.compile of it, a CUDA graph, and KeOps if there.

Equal results are checked first, gradients too; then come medians of interleaved rounds (timing.py). Nothing is asserted
about time. All buffers are used again and again, so what fits into the caches is warm. On a GPU the peers run at a
width that its memory holds, their time scaled, and ours is also checked at the full width, a stretch at a time.
"""

from __future__ import annotations

import argparse
import gc
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import hrta_ext as hx
from hrta_ext.benchmarks.ceilings import ceilings, floor_cells
from hrta_ext.benchmarks.timing import (
    QUICK,
    Budget,
    Effort,
    argument_parser,
    assert_equal_results,
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
from hrta_ext.benchmarks.two_layer_cases import (
    COMPILED,
    GRAPH,
    KEOPS,
    OURS,
    Case,
    S,
    cases,
    competitors,
    formula,
    forward_backward,
    ours,
    problem,
)

COLUMNS = ("case", "peer", "ours", "peer's", "ratio", "of minima", "goal", "met?")
FLOOR_COLUMNS = ("case", "", "ours", "floor", "by", "share")
# |ours - peer| <= RTOL |peer| + ATOL max |peer|: the peers sum m terms, or n, in float32.
RTOL, ATOL = 1e-4, 1e-4
# Where |z| is smaller, in |x| |w|, its sign is a matter of rounding, and ReLU's gradient in that neuron jumps.
CLEAR = 1e-6


def clear_neurons(x: Tensor, weight: Tensor) -> Tensor:
    """Indices of the neurons whose gradient no rounding of a pre-activation changes by a jump."""
    with torch.no_grad():
        z, size = x @ weight.T, x.norm(dim=1)[:, None] * weight.norm(dim=1)
        return (z.abs() > CLEAR * size).all(0).nonzero()[:, 0]


def check(case: Case, weight: Tensor, x: Tensor, names: list[str], results: list[tuple[Tensor, ...]]) -> None:
    """Every competitor gives the first one's tensors; the last two are the gradients in the weights."""
    clear = clear_neurons(x, weight) if case.base == "relu" and not case.with_gradient else None
    last = len(results[0]) - 2
    for i in range(len(results[0])):
        found = [result[i] if clear is None or i < last else result[i][clear] for result in results]
        assert_equal_results(names, [[tensor] for tensor in found], RTOL, ATOL * found[0].abs().max().item())


def check_all(case: Case, whole: tuple[Any, ...]) -> None:
    """Ours at the full width beside the eager formula in stretches of it: f, and the gradients of three stretches."""
    x, weights, grads = whole
    f, *gradients = forward_backward(ours(case), *whole)()
    step, eager = case.peer_width or case.width, formula(case.base)
    starts = range(0, case.width, step)
    exact = torch.zeros(case.n, dtype=torch.float64, device=x.device)
    for begin in starts:
        part = [weight.detach()[begin : begin + step] for weight in weights]
        share = (part[0].shape[0] / case.width) ** 0.5
        with torch.no_grad():
            exact += eager(x, *part)[0].double() * share
        if begin in (0, starts[len(starts) // 2], starts[-1]):
            leaves = tuple(weight.clone().requires_grad_() for weight in part)
            theirs = forward_backward(eager, x, leaves, tuple(grad * share for grad in grads))()
            mine = (theirs[0], *(gradient[begin : begin + step] for gradient in gradients))
            check(case, part[0], x, ["eager formula", OURS], [theirs, mine])
    assert_equal_results(["eager formula", OURS], [[exact.float()], [f]], RTOL, ATOL * exact.abs().max().item())


def run_case(case: Case, effort: Effort, use_compile: bool, device: str, reached: dict[str, Any]) -> dict[str, Any]:
    """Check, then time, one case; the JSON record of it."""
    peer_width = case.peer_width or case.width
    small = problem(case, peer_width, device)
    calls: dict[str, Any] = {}
    skipped: dict[str, str] = {}
    names: list[str] = []
    results: list[tuple[Tensor, ...]] = []
    for name, make in competitors(case, small, use_compile):
        try:
            call = make()
            results.append(tuple(tensor.clone() for tensor in call()))
        except Exception as error:  # a peer that this machine cannot run: without a compiler, with too little memory
            if name not in (COMPILED, KEOPS, GRAPH) and not (isinstance(error, torch.OutOfMemoryError) and names):
                raise
            skipped[name] = f"{type(error).__name__}: {error}".splitlines()[0]
            continue
        names.append(name)
        calls[name] = call
    check(case, small[1][0], small[0], names, results)
    del results
    if case.peer_width is not None:
        whole = problem(case, case.width, device)
        if device == "cuda":
            check_all(case, whole)
        calls[OURS] = forward_backward(ours(case), *whole)
    times = measure(calls, effort, device)
    mine, scale = times[OURS], case.width / peer_width
    peers = {}
    for name in names[1:]:
        scaled = times[name].scaled(scale)
        peers[name] = {**compare(mine, scaled, case.goals.get(name)), "scaled_from_width": case.peer_width}
    return {
        "name": case.name,
        **{key: getattr(case, key) for key in ("n", "features", "width", "base", "with_gradient")},
        "s": S,
        "dtype": "float32",
        "tolerance": {"rtol": RTOL, "atol_of_largest": ATOL},
        "ours": {"call": OURS, **mine.as_dict(), "nanoseconds_per_pair": mine.median / (case.n * case.width) * 1e9},
        "peers": peers,
        "skipped": skipped,
        "floor": None if case.floor is None else case.floor.record(mine.median, reached),
    }


def peer_rows(record: dict[str, Any]) -> list[list[str]]:
    rows = []
    for i, (name, peer) in enumerate(record["peers"].items()):
        first = record["name"] if i == 0 else ""
        mine = format_seconds(record["ours"]["median"]) if i == 0 else ""
        label = name if peer["scaled_from_width"] is None else f"{name}, scaled from m {peer['scaled_from_width']}"
        goal = "" if peer["goal"] is None else f">= {peer['goal']:.3g}"
        met = "" if peer["met"] is None else "yes" if peer["met"] else "NO"
        ratios = [f"{peer['ratio']:.2f}", f"{peer['ratio_of_minima']:.2f}"]
        rows.append([first, label, mine, format_seconds(peer["median"]), *ratios, goal, met])
    return rows + [["", name, "", "skipped", "", "", "", ""] for name in record["skipped"]]


def print_report(records: list[dict[str, Any]], left_out: dict[str, str], reached: dict[str, Any]) -> None:
    print("\nforward + backward; ratio: the peer's time / ours, median over rounds; of minima: of the fastest rounds")
    print(format_table(COLUMNS, [row for record in records for row in peer_rows(record)]))
    print(
        f"\nfloor: bytes at a copy's rate, {reached['copy_bytes_per_second'] / 1e9:.4g} GB/s, or operations at that of "
        f"a {reached['matmul_dtype']} product, {reached['matmul_flops_per_second'] / 1e12:.3g} TFLOP/s, the longer one"
    )
    floors = [record for record in records if record["floor"] is not None]
    rows = [[r["name"], "", format_seconds(r["ours"]["median"]), *floor_cells(r["floor"])] for r in floors]
    print(format_table(FLOOR_COLUMNS, rows))
    goals = [peer for record in records for peer in record["peers"].values() if peer["met"] is not None]
    print(f"\n{sum(goal['met'] for goal in goals)} of {len(goals)} goals met")
    disturbed = [record for record in records if record["ours"]["median"] > 1.5 * record["ours"]["minimum"]]
    if disturbed:
        print(f"{len(disturbed)} cases ran in a disturbed machine (median over 1.5 times the minimum): repeat those")
    for name, reason in left_out.items():
        print(f"left out: {name}: {reason}")


def high_water_mark() -> int:
    """Peak resident memory of this process in bytes (Linux); ru_maxrss would start from the parent's."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def peak_memory(width: int, device: str) -> int:
    """Bytes beyond arguments and results at the peak of a forward and backward pass, n = 100, D = 2."""
    x = torch.randn(100, 2, device=device)
    mark = torch.cuda.max_memory_allocated if device == "cuda" else high_water_mark
    for m in (10, width):
        weights = tuple(torch.randn(*shape, device=device, requires_grad=True) for shape in ((m, 2), (m,)))
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        before = mark()
        f = hx.two_layer(x, weights[0], weights[1], S)
        grads = torch.autograd.grad(f.square().sum(), weights)
    return mark() - before - sum(grad.nbytes for grad in grads)


def measured_peak(width: int, device: str) -> int:
    """``peak_memory`` in a fresh process."""
    command = [sys.executable, __file__, "--device", device, "--peak-memory", str(width)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def parse_arguments() -> argparse.Namespace:
    parser = argument_parser(__doc__, "two_layer", "few short rounds, narrow networks")
    parser.add_argument("--peak-memory", type=int, metavar="WIDTH", help=argparse.SUPPRESS)
    return parsed(parser)


def main() -> int:
    """Run all cases, print the table, write the JSON."""
    arguments = parse_arguments()
    device, quick = arguments.device, arguments.quick
    if arguments.peak_memory is not None:
        print(peak_memory(arguments.peak_memory, device))
        return 0
    info, budget = environment(device), Budget(arguments.budget)
    print_heading(info)
    reached = ceilings(device, quick)
    records, left_out, chosen = [], {}, cases(quick, device)
    for i, case in enumerate(chosen):
        print(f"[{i + 1}/{len(chosen)}] {case.name}", file=sys.stderr, flush=True)
        if budget.used_up:
            left_out[case.name] = budget.used_up
            continue
        slow = case.n * (case.peer_width or case.width) > 5e7
        effort = QUICK if quick else Effort(rounds=9 if device == "cuda" else 5 if slow else 21, warm_up_seconds=0.02)
        effort = budget.share(effort, len(chosen) - i)
        try:
            records.append(run_case(case, effort, not arguments.no_compile, device, reached))
        except torch.OutOfMemoryError as error:
            left_out[case.name] = str(error).splitlines()[0]
        gc.collect()
        if device == "cuda":
            torch.compiler.reset()  # with it the memory of its graphs
            torch.cuda.empty_cache()
    print_report(records, left_out, reached)
    width = 10**5 if quick else 10**7
    peak = measured_peak(width, device)
    print(f"peak memory of a pass at m = {width:.0e} beyond arguments and results: {peak / 2**20:.1f} MiB")
    if arguments.out is not None:
        path = json_path(arguments.out, "two_layer", device)
        memory = {"width": width, "bytes": peak}
        save(path, "two_layer", info, ceilings=reached, cases=records, left_out=left_out, peak_memory=memory)
        print(f"written to {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
