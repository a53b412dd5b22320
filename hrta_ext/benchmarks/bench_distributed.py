"""Work that ranks share: strong and weak scaling, and what their messages take.

Every rank is a process of one thread in a gloo group on this machine. Groups of each size are started in turn, several
times; each repeats its call and keeps the fastest. Strong: the width of one rank, divided; weak: that width on every
rank. Efficiency is the time of one rank over R times (weak: over) that of R ranks; by the clock, which wants R free
cores, and by the processors' time, which a busy machine disturbs less: the work of one rank over that of all. Results
are compared first: of the Gram matrices bit for bit.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

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


@dataclass(frozen=True)
class Case:
    """``width`` neurons on one rank, and ``make(case, width, ranks)``, a call; ``exact``: of the same bits on all."""

    name: str
    n: int
    features: int
    width: int
    make: Callable[[Case, int, int], Call]
    exact: bool = True


def _gram(case: Case, width: int, ranks: int) -> Call:
    x = torch.randn(case.n, case.features, generator=torch.Generator().manual_seed(0))
    group = "world" if ranks > 1 else None
    return lambda: hx.random_gram_path(x, width, group=group).sums.value_product.sum(0)


CASES = [
    Case("random_gram_path", 100, 11, 1_000_000, _gram),
    Case("random_gram_path, one batch", 1100, 11, 100_000, _gram),  # cut by entries
    Case("random_gram_path, arcs", 100, 2, 30_000_000, _gram),
]


class _Messages:
    """Seconds within collectives, waiting for others too, and bytes that this rank receives."""

    def __init__(self) -> None:
        self.seconds, self.bytes = 0.0, 0
        for name in ("all_gather", "all_reduce", "broadcast"):
            setattr(dist, name, self._counted(getattr(dist, name)))

    def _counted(self, collective: Callable[..., Any]) -> Callable[..., Any]:
        def call(first: Any, *rest: Any, **named: Any) -> Any:
            start = time.perf_counter()
            found = collective(first, *rest, **named)
            self.seconds += time.perf_counter() - start
            self.bytes += sum(t.numel() * t.element_size() for t in (first if isinstance(first, list) else [first]))
            return found

        return call


def _rank(case: Case, width: int, rank: int, size: int, store: str, rounds: int, answers: Any) -> None:
    os.environ.update(WORLD_SIZE=str(size), RANK=str(rank))
    torch.set_num_threads(1)
    dist.init_process_group("gloo", store=dist.FileStore(store, size), rank=rank, world_size=size)
    call, messages, found = case.make(case, width, size), _Messages(), []
    result = call()
    for _ in range(rounds):
        dist.barrier()
        messages.seconds, messages.bytes = 0.0, 0
        wall, cpu = time.perf_counter(), time.process_time()
        call()
        times = {"seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cpu}
        found.append({**times, "message_seconds": messages.seconds, "message_bytes": messages.bytes})
    answers.put((rank, found, result.numpy() if rank == 0 else None))
    dist.barrier()
    dist.destroy_process_group()


def run_group(case: Case, width: int, size: int, rounds: int) -> tuple[list[dict[str, float]], torch.Tensor]:
    """Of each rank its fastest round, and the result."""
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    with tempfile.TemporaryDirectory() as folder:
        common = (size, os.path.join(folder, "store"), rounds, answers)
        ranks = [context.Process(target=_rank, args=(case, width, rank, *common)) for rank in range(size)]
        for process in ranks:
            process.start()
        found = sorted((answers.get() for _ in ranks), key=lambda answer: answer[0])
        for process in ranks:
            process.join()
    best = min(range(rounds), key=lambda k: max(of_rank[k]["seconds"] for _, of_rank, _ in found))
    return [of_rank[best] for _, of_rank, _ in found], torch.from_numpy(found[0][2])


def measure(case: Case, sizes: list[int], turns: int, rounds: int) -> list[dict[str, Any]]:
    """One row for each number of ranks and kind of scaling."""
    runs = {(kind, size): case.width * (size if kind == "weak" else 1) for kind in ("strong", "weak") for size in sizes}
    best: dict[tuple[str, int], list[dict[str, float]]] = {}
    results: dict[int, torch.Tensor] = {}
    for _ in range(turns):
        for key, width in runs.items():
            found, result = run_group(case, width, key[1], rounds)
            first = results.setdefault(width, result)
            if not (torch.equal(first, result) if case.exact else torch.allclose(first, result)):
                raise AssertionError(f"{case.name}: {key[1]} ranks have other results")
            slowest = max(of_rank["seconds"] for of_rank in found)
            if key not in best or slowest < max(of_rank["seconds"] for of_rank in best[key]):
                best[key] = found
    rows = []
    for (kind, size), found in best.items():
        one = best[kind, sizes[0]]
        seconds, work = (max(r["seconds"] for r in found), sum(r["cpu_seconds"] for r in found))
        alone, part = sizes[0] * one[0]["seconds"], 1.0 if kind == "strong" else size / sizes[0]
        rows.append(
            {
                "case": case.name,
                "kind": kind,
                "ranks": size,
                "width": runs[kind, size],
                "seconds": seconds,
                "efficiency": part * alone / (size * seconds),
                "cpu_efficiency": part * sum(r["cpu_seconds"] for r in one) / work,
                "message_seconds": min(r["message_seconds"] for r in found),
                "message_bytes": max(r["message_bytes"] for r in found),
            }
        )
    return rows


def main() -> None:
    parser = argument_parser(__doc__, "distributed", "2 ranks, a hundredth of the width")
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2], help="numbers of ranks (default 1 2)")
    arguments: argparse.Namespace = parsed(parser)
    info = environment(arguments.device)
    print_heading(info, f"{info['cpu']}, {info['cores']} cores, ranks of one thread")
    rows = []
    for case in CASES:
        if arguments.quick:
            case = Case(**{**vars(case), "width": case.width // 100})
        rows += measure(case, arguments.ranks, 1 if arguments.quick else 3, 1 if arguments.quick else 3)
    columns = ["case", "scaling", "ranks", "neurons", "time", "efficiency", "of CPU time", "in messages", "received"]
    shown = [
        [
            row["case"],
            row["kind"],
            str(row["ranks"]),
            f"{row['width']:.0e}",
            format_seconds(row["seconds"]),
            f"{row['efficiency']:.0%}",
            f"{row['cpu_efficiency']:.0%}",
            format_seconds(row["message_seconds"]),
            f"{row['message_bytes'] / 1e6:.3g} MB",
        ]
        for row in rows
    ]
    print(format_table(columns, shown))
    if arguments.out is not None:
        cases = [{k: v for k, v in asdict(case).items() if k != "make"} for case in CASES]
        save(json_path(Path(arguments.out), "distributed"), "distributed", info, cases=cases, results=rows)


if __name__ == "__main__":
    main()
