"""Work that ranks share: strong and weak scaling, what their messages take, and what the machine allows.

Every rank is a process of one thread in a gloo group on this machine. Strong: the width of one rank, divided; weak:
that width on every rank. Efficiency is the time of one rank over R times (weak: over) that of R ranks; by the clock,
which wants R free cores, and by the processors' time, which a busy machine disturbs less: the work of one rank over
that of all. The ceiling is the efficiency, by the clock, of R such processes that each do a rank's part of the neurons
as a call of its own, without messages: what they lose is the machine's (cores that slow each other down, memory that
they share) and the call's fixed work. Beside it stand R threads of one process. Results are compared first, Gram
matrices bit by bit.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist

import hrta_ext as hx
from hrta_ext.benchmarks.timing import (
    argument_parser,
    environment,
    format_seconds,
    format_table,
    json_path,
    parsed,
    print_heading,
    save,
)

Call = Callable[[], torch.Tensor]
_ROUNDS = 2


@dataclass(frozen=True)
class Case:
    """``width`` neurons on one rank, and ``make(case, width, group)``, a call; ``exact``: of the same bits on all."""

    name: str
    n: int
    features: int
    width: int
    make: Callable[[Case, int, str | None], Call]
    exact: bool = True


def _gram(case: Case, width: int, group: str | None) -> Call:
    x = torch.randn(case.n, case.features, generator=torch.Generator().manual_seed(0))
    return lambda: hx.random_gram_path(x, width, group=group).sums.value_product.sum(0)


def _adam(case: Case, width: int, group: str | None) -> Call:
    """Ten steps of the fused engine: a message each."""
    x = torch.linspace(-1.0, 1.0, case.n)[:, None]
    net = hx.TwoLayerNet(1, width, seed=0, draw="counter", group=group)
    return lambda: hx.fit(net, x, torch.sin(3.0 * x[:, 0]), s=1.0, steps=10).loss


CASES = [
    Case("random_gram_path", 100, 11, 1_000_000, _gram),
    Case("random_gram_path, one batch", 1100, 11, 30_000, _gram),  # cut by entries
    Case("random_gram_path, arcs", 100, 2, 30_000_000, _gram),
    Case("10 Adam steps", 100, 2, 1_000_000, _adam, exact=False),
]


class Setting(NamedTuple):
    """Processes that are started together, threads of each, and whether they share the neurons."""

    ranks: int
    threads: int
    shared: bool


class _Messages:
    """Seconds within collectives, waiting for others too, and how many bytes this rank receives in how many."""

    def __init__(self) -> None:
        self.clear()
        for name in ("all_gather", "all_reduce", "broadcast"):
            setattr(dist, name, self._counted(getattr(dist, name)))

    def clear(self) -> None:
        self.seconds, self.bytes, self.count = 0.0, 0, 0

    def _counted(self, collective: Callable[..., Any]) -> Callable[..., Any]:
        def call(first: Any, *rest: Any, **named: Any) -> Any:
            start = time.perf_counter()
            found = collective(first, *rest, **named)
            self.seconds += time.perf_counter() - start
            self.bytes += sum(t.numel() * t.element_size() for t in (first if isinstance(first, list) else [first]))
            self.count += 1
            return found

        return call


def _rank(setting: Setting, jobs: list[tuple[Case, int]], rank: int, store: str, rounds: int, answers: Any) -> None:
    size = setting.ranks
    torch.set_num_threads(setting.threads)
    dist.init_process_group("gloo", store=dist.FileStore(store, size), rank=rank, world_size=size)
    messages, found, results = _Messages(), [], []
    for case, width in jobs:
        call = case.make(case, width, "world" if setting.shared else None)
        results.append(call().numpy() if rank == 0 else call().numpy()[:0])
        for _ in range(rounds):
            dist.barrier()
            messages.clear()
            wall, cpu = time.perf_counter(), time.process_time()
            call()
            times = {"seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cpu}
            told = {"message_seconds": messages.seconds, "message_bytes": messages.bytes, "messages": messages.count}
            found.append({**times, **told})
        del call
    answers.put((rank, found, results))
    dist.barrier()
    dist.destroy_process_group()


Found = list[tuple[list[dict[str, float]], torch.Tensor]]


def run_group(setting: Setting, jobs: list[tuple[Case, int]], rounds: int) -> Found:
    """For every job the fastest round, of each rank, and the result."""
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    with tempfile.TemporaryDirectory() as folder:
        common = (os.path.join(folder, "store"), rounds, answers)
        ranks = [context.Process(target=_rank, args=(setting, jobs, k, *common)) for k in range(setting.ranks)]
        for process in ranks:
            process.start()
        told = sorted((answers.get() for _ in ranks), key=lambda answer: answer[0])
        for process in ranks:
            process.join()
    found = []
    for job in range(len(jobs)):
        every = range(job * rounds, (job + 1) * rounds)
        best = min(every, key=lambda k: max(of_rank[k]["seconds"] for _, of_rank, _ in told))
        found.append(([of_rank[best] for _, of_rank, _ in told], torch.from_numpy(told[0][2][job])))
    return found


def _slowest(found: list[dict[str, float]]) -> float:
    return max(of_rank["seconds"] for of_rank in found)


def measure(cases: list[Case], sizes: list[int], turns: int, rounds: int) -> list[dict[str, Any]]:
    """One row for each case, number of ranks and kind of scaling; groups are started in turn, ``turns`` times."""
    best: dict[tuple[Setting, str, int], list[dict[str, float]]] = {}
    results: dict[tuple[str, int], torch.Tensor] = {}
    runs = [(Setting(1, 1, False), [(case, case.width) for case in cases])]
    for size in sizes:
        both = [(case, case.width * factor) for case in cases for factor in (1, size)]
        parts = [(case, width // size) for case, width in both]
        runs += [(Setting(size, 1, True), both), (Setting(1, size, False), both), (Setting(size, 1, False), parts)]
    for _ in range(turns):
        for setting, jobs in runs:
            for (case, width), (found, result) in zip(jobs, run_group(setting, jobs, rounds), strict=True):
                key = setting, case.name, width
                if key not in best or _slowest(found) < _slowest(best[key]):
                    best[key] = found
                first = results.setdefault((case.name, width), result)
                if not (torch.equal(first, result) if case.exact else torch.allclose(first, result)):
                    raise AssertionError(f"{case.name}: {setting} has other results")
    rows = []
    for case in cases:
        one = best[Setting(1, 1, False), case.name, case.width][0]
        for kind, size in ((kind, size) for kind in ("strong", "weak") for size in sizes):
            part = 1 if kind == "strong" else size
            width = case.width * part
            found = best[Setting(size, 1, True), case.name, width]
            ideal = part * one["seconds"] / size
            rows.append(
                {
                    "case": case.name,
                    "kind": kind,
                    "ranks": size,
                    "width": width,
                    "seconds_of_one": one["seconds"],
                    "seconds": _slowest(found),
                    "efficiency": ideal / _slowest(found),
                    "cpu_efficiency": part * one["cpu_seconds"] / sum(r["cpu_seconds"] for r in found),
                    "ceiling": ideal / _slowest(best[Setting(size, 1, False), case.name, width // size]),
                    "threads_efficiency": ideal / _slowest(best[Setting(1, size, False), case.name, width]),
                    **{name: min(r[name] for r in found) for name in ("message_seconds", "message_bytes", "messages")},
                }
            )
    return rows


def main() -> None:
    parser = argument_parser(__doc__, "distributed", "a hundredth of the width, one round")
    parser.add_argument("--ranks", type=int, nargs="+", default=[2], help="numbers of ranks beside one (default 2)")
    parser.add_argument("--turns", type=int, default=2, help="times that the processes are started (default 2)")
    arguments: argparse.Namespace = parsed(parser)
    info = environment(arguments.device)
    print_heading(info, f"{info['cpu']}, {info['cores']} cores, ranks of one thread")
    cases = [replace(case, width=case.width // 100) for case in CASES] if arguments.quick else CASES
    turns, rounds = (1, 1) if arguments.quick else (arguments.turns, _ROUNDS)
    rows = measure(cases, [size for size in arguments.ranks if size > 1], turns, rounds)
    columns = ["case", "scaling", "ranks", "neurons", "time", "efficiency", "ceiling", "threads", "of CPU time"]
    columns += ["messages", "in them", "received"]
    shown = [
        [
            row["case"],
            row["kind"],
            str(row["ranks"]),
            f"{row['width']:.0e}",
            format_seconds(row["seconds"]),
            *(f"{row[name]:.0%}" for name in ("efficiency", "ceiling", "threads_efficiency", "cpu_efficiency")),
            str(row["messages"]),
            format_seconds(row["message_seconds"]),
            f"{row['message_bytes'] / 1e6:.3g} MB",
        ]
        for row in rows
    ]
    print(format_table(columns, shown))
    if arguments.out is not None:
        told = [{k: v for k, v in asdict(case).items() if k != "make"} for case in cases]
        save(json_path(Path(arguments.out), "distributed"), "distributed", info, cases=told, results=rows)


if __name__ == "__main__":
    main()
