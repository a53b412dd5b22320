"""Work that ranks share: strong and weak scaling, what their messages take, and what the machine allows.

Every rank is a process of one thread in a gloo group on this machine. Strong: the width of one rank, divided; weak:
that width on every rank. Efficiency is the time of one rank, while the others wait, over R times (weak: over) that of
all; by the clock, which wants R free cores, and by the processors' time, which a busy machine disturbs less: the work
of one rank over that of all. The ceiling is the efficiency, by the clock, of the same processes where each does a
rank's part of the neurons as a call of its own, without messages: what they lose is the machine's (cores that slow each
other down, memory that they share) and the call's fixed work. Beside it stand R threads of rank 0. Every round runs all
of them, in a turning order; the medians over the rounds are shown, for the efficiency that of the fastest rounds
beside it. Results are compared first, Gram matrices bit by bit.
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
from statistics import median
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
_ROUNDS = 6


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


class _Way(NamedTuple):
    """One way to do a case's work: a call, on how many threads, and whether rank 0 makes it alone."""

    call: Call
    threads: int
    alone: bool


def _ways(case: Case, factor: int, size: int) -> dict[str, _Way]:
    width = case.width * factor
    return {
        "one": _Way(case.make(case, case.width, None), 1, True),
        "threads": _Way(case.make(case, width, None), size, True),
        "parts": _Way(case.make(case, width // size, None), 1, False),
        "shared": _Way(case.make(case, width, "world"), 1, False),
    }


Round = dict[str, dict[str, float]]


def _rank(size: int, cases: list[Case], rounds: int, rank: int, store: str, answers: Any) -> None:
    """Puts (rank, rounds of every case and factor, whether rank 0 found equal results) into ``answers``."""
    dist.init_process_group("gloo", store=dist.FileStore(store, size), rank=rank, world_size=size)
    messages, found, equal = _Messages(), [], True
    for case in cases:
        for factor in (1, size):
            ways = _ways(case, factor, size)
            names, taken, results = list(ways), [], {}
            for turn in range(rounds + 1):
                times: Round = {}
                for name in names[turn % len(names) :] + names[: turn % len(names)]:
                    way = ways[name]
                    dist.barrier()  # who has no part in it waits at the next one
                    if way.alone and rank != 0:
                        continue
                    torch.set_num_threads(way.threads)
                    messages.clear()
                    wall, cpu = time.perf_counter(), time.process_time()
                    results[name] = way.call()
                    times[name] = {
                        "seconds": time.perf_counter() - wall,
                        "cpu_seconds": time.process_time() - cpu,
                        "message_seconds": messages.seconds,
                        "message_bytes": messages.bytes,
                        "messages": messages.count,
                    }
                taken.append(times)
            found.append(taken[1:])  # the first one warms up
            if rank == 0:
                same = torch.equal if case.exact else torch.allclose
                of_width = ("one", "threads") if factor == 1 else ("threads",)
                equal = equal and all(same(results[name], results["shared"]) for name in of_width)
    answers.put((rank, found, equal))
    dist.barrier()
    dist.destroy_process_group()


def measure(cases: list[Case], size: int, rounds: int) -> list[dict[str, Any]]:
    """Two rows for each case, strong and weak, of ``size`` ranks."""
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    with tempfile.TemporaryDirectory() as folder:
        store = os.path.join(folder, "store")
        ranks = [context.Process(target=_rank, args=(size, cases, rounds, k, store, answers)) for k in range(size)]
        for process in ranks:
            process.start()
        told = sorted((answers.get() for _ in ranks), key=lambda answer: answer[0])
        for process in ranks:
            process.join()
    if not told[0][2]:
        raise AssertionError(f"{size} ranks have other results than one process")
    kinds = [(case, kind) for case in cases for kind in ("strong", "weak")]
    return [_row(*kind, size, [found[k] for _, found, _ in told]) for k, kind in enumerate(kinds)]


def _row(case: Case, kind: str, size: int, ranks: list[list[Round]]) -> dict[str, Any]:
    """From the rounds of every rank."""
    part = 1 if kind == "strong" else size

    def slowest(way: str) -> list[float]:
        return [max(times[way]["seconds"] for times in of_all if way in times) for of_all in zip(*ranks, strict=True)]

    def share(way: str) -> float:
        """Median efficiency over the rounds."""
        return median(part * one / (size * other) for one, other in zip(slowest("one"), slowest(way), strict=True))

    fastest = min(zip(*ranks, strict=True), key=lambda of_all: max(times["shared"]["seconds"] for times in of_all))
    cpu = [sum(times["shared"]["cpu_seconds"] for times in of_all) for of_all in zip(*ranks, strict=True)]
    return {
        "case": case.name,
        "kind": kind,
        "ranks": size,
        "width": case.width * part,
        "seconds_of_one": median(slowest("one")),
        "seconds": median(slowest("shared")),
        "efficiency": share("shared"),
        "fastest_efficiency": part * min(slowest("one")) / (size * min(slowest("shared"))),
        "cpu_efficiency": median(
            part * times["one"]["cpu_seconds"] / of_all for times, of_all in zip(ranks[0], cpu, strict=True)
        ),
        "ceiling": share("parts"),
        "threads_efficiency": share("threads"),
        **{
            name: min(times["shared"][name] for times in fastest)
            for name in ("message_seconds", "message_bytes", "messages")
        },
        "rounds": [{way: slowest(way)[k] for way in ranks[0][0]} for k in range(len(ranks[0]))],
    }


def main() -> None:
    parser = argument_parser(__doc__, "distributed", "a hundredth of the width, one round")
    parser.add_argument("--ranks", type=int, nargs="+", default=[2], help="numbers of ranks beside one (default 2)")
    parser.add_argument("--rounds", type=int, default=_ROUNDS, help=f"(default {_ROUNDS})")
    arguments: argparse.Namespace = parsed(parser)
    info = environment(arguments.device)
    print_heading(info, f"{info['cpu']}, {info['cores']} cores, ranks of one thread")
    cases = [replace(case, width=case.width // 100) for case in CASES] if arguments.quick else CASES
    rounds = 1 if arguments.quick else arguments.rounds
    rows = [row for size in arguments.ranks if size > 1 for row in measure(cases, size, rounds)]
    columns = ["case", "scaling", "ranks", "neurons", "time", "efficiency", "fastest", "ceiling", "threads"]
    columns += ["of CPU time", "messages", "in them", "received"]
    shares = ("efficiency", "fastest_efficiency", "ceiling", "threads_efficiency", "cpu_efficiency")
    shown = [
        [
            row["case"],
            row["kind"],
            str(row["ranks"]),
            f"{row['width']:.0e}",
            format_seconds(row["seconds"]),
            *(f"{row[name]:.0%}" for name in shares),
            str(row["messages"]),
            format_seconds(row["message_seconds"]),
            f"{row['message_bytes'] / 1e6:.3g} MB",
        ]
        for row in rows
    ]
    print(format_table(columns, shown))
    if arguments.out is not None:
        told = [{k: v for k, v in asdict(case).items() if k != "make"} for case in cases]
        save(json_path(Path(arguments.out), "distributed"), "distributed", info, inputs=told, results=rows)


if __name__ == "__main__":
    main()
