"""Speed of the homotopy activation beside F.leaky_relu, the eager formula, and torch.compile of it.

Equal results are checked first, gradients too; then come medians of interleaved rounds (timing.py). Nothing is asserted
about time. On the CPU the same buffers are used again and again, so what fits into the caches is warm; on the GPU the
large tensors are many times its L2 cache, so they come from memory.
"""

from __future__ import annotations

import gc
import sys
from typing import Any

import torch

from hrta_ext.benchmarks.activation_cases import COMPILED, TOLERANCES, Case, competitors, cpu_cases, cuda_cases
from hrta_ext.benchmarks.ceilings import Floor, ceilings
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

COPY = "copy"
COLUMNS = ("case", "peer", "ours", "peer's", "ratio", "of minima", "goal", "met?")
MEMORY_COLUMNS = ("case", "", "ours", "GB/s", "copy GB/s", "share", "goal", "met?")


def as_tensors(result: Any) -> list[torch.Tensor]:
    return list(result) if isinstance(result, tuple) else [result]


def run_case(case: Case, effort: Effort, device: str, use_compile: bool, reached: dict[str, Any]) -> dict[str, Any]:
    """Check, then time, one case; the JSON record of it."""
    if not use_compile:
        case = Case(**{**vars(case), "peers": tuple(peer for peer in case.peers if peer != COMPILED)})
    generator = torch.Generator(device=device).manual_seed(0)
    x, grad = (torch.randn(case.n, dtype=case.dtype, device=device, generator=generator) for _ in range(2))
    rtol, atol = TOLERANCES[case.dtype]
    calls, skipped = {}, {}
    ours, expected = "", None
    for name, call in competitors(case, x, grad):
        try:
            result = as_tensors(call())
        except Exception as error:  # a peer that this machine cannot run, such as torch.compile without a compiler
            if name != COMPILED:
                raise
            skipped[name] = f"{type(error).__name__}: {error}".splitlines()[0]
            continue
        if expected is None:
            ours, expected = name, result
        else:
            assert_equal_results([ours, name], [expected, result], rtol, atol)
        calls[name] = call
        del result
    del expected
    target = torch.empty_like(x)
    times = measure({**calls, COPY: lambda: target.copy_(x)}, effort, device)
    mine, copy = times[ours], times[COPY]
    bandwidth, copy_bandwidth = case.bytes_moved / mine.median, 2 * x.nbytes / copy.median
    share = case.bytes_moved / (2 * x.nbytes) * mine.speedup_over(copy)
    return {
        "name": case.name,
        "mode": case.mode,
        "base": case.base,
        "n": case.n,
        "dtype": str(case.dtype).removeprefix("torch."),
        "s": case.s,
        "tolerance": {"rtol": rtol, "atol": atol},
        "ours": {"call": ours, **mine.as_dict()},
        "peers": {name: compare(mine, times[name], case.goals.get(name)) for name in calls if name != ours},
        "skipped": skipped,
        "memory": {
            "bytes_moved": case.bytes_moved,
            "bytes_per_second": bandwidth,
            "copy_bytes_per_second": copy_bandwidth,
            "share_of_copy": share,
            "goal": case.ceiling_goal,
            "met": None if case.ceiling_goal is None else share >= case.ceiling_goal,
        },
        "floor": Floor(case.bytes_moved).record(mine.median, reached),
    }


def goal_cells(goal: float | None, met: bool | None) -> list[str]:
    return ["" if goal is None else f">= {goal:.3g}", "" if met is None else "yes" if met else "NO"]


def peer_rows(record: dict[str, Any]) -> list[list[str]]:
    ours = format_seconds(record["ours"]["median"])
    rows = []
    for i, (name, peer) in enumerate(record["peers"].items()):
        first = [record["name"], name, ours] if i == 0 else ["", name, ""]
        ratios = [f"{peer['ratio']:.2f}", f"{peer['ratio_of_minima']:.2f}"]
        rows.append([*first, format_seconds(peer["median"]), *ratios, *goal_cells(peer["goal"], peer["met"])])
    rows += [["", name, "", "skipped", "", "", "", ""] for name in record["skipped"]]
    return rows


def memory_row(record: dict[str, Any]) -> list[str]:
    memory = record["memory"]
    rates = [f"{memory[key] / 1e9:.4g}" for key in ("bytes_per_second", "copy_bytes_per_second")]
    share = f"{100 * memory['share_of_copy']:.0f}%"
    goal = "" if memory["goal"] is None else f">= {100 * memory['goal']:.0f}%"
    met = goal_cells(memory["goal"], memory["met"])[1]
    return [record["name"], "", format_seconds(record["ours"]["median"]), *rates, share, goal, met]


def print_report(records: list[dict[str, Any]]) -> None:
    print("\nratio: the peer's time / ours, median over rounds; of minima: the same of the fastest rounds")
    print(format_table(COLUMNS, [row for record in records for row in peer_rows(record)]))
    # On a thousand elements the call is what one measures, not the memory.
    bound = [record for record in records if record["n"] > 10_000 and is_memory_bound(record)]
    if bound:
        print("\nmemory-bound cases: bytes that must move / time, beside a copy of the same size into a reused buffer")
        print(format_table(MEMORY_COLUMNS, [memory_row(record) for record in bound]))
    goals = [peer for record in records for peer in record["peers"].values() if peer["met"] is not None]
    goals += [record["memory"] for record in records if record["memory"]["met"] is not None]
    print(f"\n{sum(goal['met'] for goal in goals)} of {len(goals)} goals met")
    disturbed = [record for record in records if record["ours"]["median"] > 1.5 * record["ours"]["minimum"]]
    if disturbed:
        # A thread of the pool that waits for its core holds up all: times then count scheduler ticks, not work.
        print(f"{len(disturbed)} cases ran in a disturbed machine (median over 1.5 times the minimum): repeat those")
    for reason in {reason for record in records for reason in record["skipped"].values()}:
        print(f"skipped {COMPILED}: {reason}")


def is_memory_bound(record: dict[str, Any]) -> bool:
    return record["base"] == "relu" or record["memory"]["goal"] is not None


def gpu_elements(wanted: int) -> int:
    """As many elements as fit beside the temporaries of the eager peers: at most ten float32 tensors."""
    free, _ = torch.cuda.mem_get_info()
    return min(wanted, free // (10 * 4) // 4096 * 4096)


def main() -> int:
    """Run all cases of the device, print the tables, write the JSON."""
    arguments = parsed(argument_parser(__doc__, "activation", "few short rounds and small GPU tensors"))
    device, budget = arguments.device, Budget(arguments.budget)
    effort = QUICK if arguments.quick else Effort()
    cases = cpu_cases() if device == "cpu" else cuda_cases(gpu_elements(10**6 if arguments.quick else 10**9))
    info = environment(device)
    where = info["gpu"] if device == "cuda" else f"{info['cpu']}, {arguments.threads} threads, warm cache"
    print_heading(info, where)
    reached = ceilings(device, arguments.quick)
    records, left_out = [], {}
    for i, case in enumerate(cases):
        print(f"[{i + 1}/{len(cases)}] {case.name}", file=sys.stderr, flush=True)
        if budget.used_up:
            left_out[case.name] = budget.used_up
            continue
        now = budget.share(effort, len(cases) - i)
        records.append(run_case(case, now, device, not arguments.no_compile, reached))
        gc.collect()
        if device == "cuda":
            torch.cuda.empty_cache()
    print_report(records)
    for name, reason in left_out.items():
        print(f"left out: {name}: {reason}")
    if arguments.out is not None:
        path = json_path(arguments.out, "activation", device)
        save(path, "activation", info, effort=vars(effort), ceilings=reached, cases=records, left_out=left_out)
        print(f"written to {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
