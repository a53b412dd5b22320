"""One training step of a two-layer network: the fused engine beside eager torch, torch.compile, a CUDA graph, KeOps.

The losses of the first steps are compared first; then come medians of interleaved rounds (timing.py). The peers are
written as a user would: x @ weight.T, leaky_relu, a matrix-vector product, half the mean squared error. For the Sobolev
loss (outputs and gradients in x against targets) with relu2 they compute the gradient in x by its formula, in a third
of the time that autograd takes when called twice. A call does several steps, so that what happens once per call of
``fit`` is shared as it is in a long run. On a GPU the peers train many networks as one batch, and the graph is that of
a whole eager step, Adam's included.
"""

from __future__ import annotations

import argparse
import gc
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import leaky_relu, mse_loss

import hrta_ext as hx
from hrta_ext.benchmarks import keops_formula
from hrta_ext.benchmarks.ceilings import ceilings, floor_cells, two_layer_floor
from hrta_ext.benchmarks.timing import (
    QUICK,
    Budget,
    Effort,
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
from hrta_ext.benchmarks.two_layer_cases import GPU_PAIRS, GRAPH, graphed

S = 0.5
LR = 1e-3
EAGER, COMPILED, KEOPS, OURS, TOGETHER = "eager torch", "torch.compile", "KeOps", "hx.fit", "hx.fit_ensemble"
# Sums of float32 in another order, a few steps apart.
TOLERANCE = 1e-4
CALL_SECONDS = 0.2  # of ours on a GPU, whose steps differ by a factor of 10 000


@dataclass(frozen=True)
class Case:
    """``steps``: in one call of ours (on a GPU at most), and in one of a peer's.

    ``peer_width`` is the width the peers run at where the full one takes minutes: their time is then scaled by
    width / peer_width, since it is linear in m once the n x m tensors exceed the caches.
    """

    n: int
    features: int
    width: int
    steps: int
    peer_steps: int
    goals: dict[str, float]
    networks: int = 1
    sobolev: bool = False
    peer_width: int | None = None

    @property
    def scale(self) -> float:
        """What the peers' times are multiplied by."""
        return self.width / (self.peer_width or self.width)

    @property
    def base(self) -> str:
        return "relu2" if self.sobolev else "relu"

    @property
    def name(self) -> str:
        """For the table."""
        many = f"{self.networks} networks, " if self.networks > 1 else ""
        loss = ", Sobolev loss, relu2, one Adam step" if self.sobolev else ""
        scaled = f" (arcs; peers scaled from m = {self.peer_width})" if self.peer_width else ""
        return f"{many}n = {self.n}, D = {self.features}, m = {self.width}{loss}{scaled}"


CASES = [
    Case(100, 2, 1000, 2000, 20, {EAGER: 20, COMPILED: 15}),
    Case(125, 4, 1000, 1000, 20, {EAGER: 15, COMPILED: 12}),
    Case(100, 2, 10**6, 20, 1, {EAGER: 40, COMPILED: 15}),
    Case(100, 2, 1000, 500, 1, {EAGER: 30}, networks=64),
    Case(400, 3, 1000, 500, 10, {EAGER: 10, COMPILED: 8}, sobolev=True),
    Case(10_000, 2, 10**5, 20, 1, {EAGER: 400, COMPILED: 200}, peer_width=10**4),  # goals of our own
]
_FASTEST: dict[str, float] = {EAGER: 1, COMPILED: 1, GRAPH: 1}
GPU_CASES = [
    Case(1000, 2, 10**8, 200, 1, _FASTEST, peer_width=GPU_PAIRS // 1000),
    Case(100, 2, 1000, 20_000, 50, _FASTEST),
    Case(100, 2, 10**5, 10_000, 20, _FASTEST),
    Case(100, 4, 1000, 20_000, 50, _FASTEST),
    Case(100, 4, 1000, 10_000, 20, _FASTEST, networks=64),
    Case(100, 2, 10**8, 200, 1, _FASTEST, peer_width=GPU_PAIRS // 100),
    Case(400, 3, 1000, 2000, 20, _FASTEST, sobolev=True),
]


def cases(device: str, quick: bool) -> list[Case]:
    """The rows of the device; quick ones are narrow on a GPU, where the wide ones take its memory."""
    if device == "cpu":
        return CASES
    narrow = [replace(case, width=case.width // 1000, peer_width=case.peer_width // 1000)
              if quick and case.peer_width else case for case in GPU_CASES]  # fmt: skip
    return [replace(case, steps=100) if quick else case for case in narrow]


def samples(case: Case, device: str) -> tuple[Tensor, Tensor, Tensor]:
    """x, y and the gradient of y in x."""
    x = torch.rand(case.n, case.features, generator=torch.Generator().manual_seed(0)).to(device)
    z = 6.0 * x.sum(1)
    return x, torch.sin(z), 6.0 * torch.cos(z)[:, None].expand(x.shape).contiguous()


def make_nets(case: Case, device: str) -> list[hx.TwoLayerNet]:
    settings: dict[str, Any] = {"s": S, "base": case.base, "bias": False}
    return [
        hx.TwoLayerNet(case.features, case.width, seed=seed, **settings).to(device) for seed in range(case.networks)
    ]


def at_peers_width(case: Case) -> Case:
    """The case as the peers do it."""
    return replace(case, width=case.peer_width or case.width, peer_width=None)


def ours(case: Case, device: str) -> Callable[[int], list[Tensor]]:
    """A function that does so many steps and returns each network's losses."""
    nets, (x, y, gradient) = make_nets(case, device), samples(case, device)
    settings: dict[str, Any] = {"s": S, "lr": LR, "engine": "fused"}
    if case.sobolev:
        settings["target_gradient"] = gradient

    def train(steps: int) -> list[Tensor]:
        if case.networks == 1:
            return [hx.fit(nets[0], x, y, steps=steps, **settings).loss]
        return [result.loss for result in hx.fit_ensemble(nets, x, y, steps=steps, **settings)]

    return train


def loss_function(case: Case, label: str, device: str) -> Callable[[Tensor, Tensor], Tensor]:
    """The loss as a user would write it, from weights (m, D) and (m,), or of each network from (B, m, D) and (B, m)."""
    x, y, gradient = samples(case, device)

    def sobolev_loss(weight: Tensor, output_weight: Tensor) -> Tensor:
        z = x @ weight.T
        active = torch.relu(z)
        f = ((1.0 - S) * z + (0.5 * S) * active * active) @ output_weight * case.width**-0.5
        df_dx = (((1.0 - S) + S * active) * output_weight) @ weight * case.width**-0.5
        return (mse_loss(f, y) + mse_loss(df_dx, gradient) * case.features) * 0.5

    def keops_loss(weight: Tensor, output_weight: Tensor) -> Tensor:
        targets = (y, gradient)[: 1 + case.sobolev]
        found = keops_formula.outputs(x, weight, output_weight, S, case.base, case.sobolev)
        squares = [(value - target).square().sum() for value, target in zip(found, targets, strict=True)]
        return sum(squares) * (0.5 / case.n)

    def batched_loss(weight: Tensor, output_weight: Tensor) -> Tensor:
        f = (leaky_relu(x @ weight.mT, 1.0 - S) @ output_weight[..., None])[..., 0] * case.width**-0.5
        return (f - y).square().mean(-1) * 0.5

    def loss_of(weight: Tensor, output_weight: Tensor) -> Tensor:
        f = leaky_relu(x @ weight.T, 1.0 - S) @ output_weight * case.width**-0.5
        return mse_loss(f, y) * 0.5

    if label == KEOPS:
        return keops_loss
    if case.sobolev:
        return sobolev_loss
    return batched_loss if case.networks > 1 and device == "cuda" else loss_of


def peer(case: Case, label: str, device: str) -> Callable[[int], list[Tensor]]:
    """The same with autograd and Adam(fused=True): on the CPU one network after the other, on a GPU all together."""
    function = loss_function(case, label, device)
    if label == COMPILED:
        torch.compiler.reset()
        function = torch.compile(function, mode="reduce-overhead" if device == "cuda" else "default")
    weights = [(net.weight, net.output_weight) for net in make_nets(case, device)]
    if device == "cuda" and case.networks > 1:
        stacks = (torch.stack([pair[i].detach() for pair in weights]).requires_grad_() for i in (0, 1))
        weights = [tuple(stacks)]  # type: ignore[list-item]
    optimizers = [torch.optim.Adam(pair, lr=LR, fused=True, capturable=label == GRAPH) for pair in weights]

    def step(i: int) -> Tensor:
        optimizers[i].zero_grad(set_to_none=True)
        loss = function(*weights[i])
        loss.sum().backward()
        optimizers[i].step()
        return loss.detach()

    one = step
    if label == GRAPH:
        start = [weight.detach().clone() for weight in weights[0]]
        replay = graphed(lambda: step(0))
        with torch.no_grad():  # the steps that warm it up never were
            for weight, value in zip(weights[0], start, strict=True):
                weight.copy_(value)
            for state in optimizers[0].state.values():
                for number in state.values():
                    number.zero_()
        one = lambda i: replay()  # noqa: E731

    def train(steps: int) -> list[Tensor]:
        losses = torch.empty(steps, case.networks, device=device)
        for i in range(len(weights)):
            into = losses if len(weights) == 1 else losses[:, i]
            for k in range(steps):
                into[k] = one(i)
        return list(losses.T)

    return train


def suited_steps(train: Callable[[int], Any], most: int) -> int:
    """As many steps as take ours about CALL_SECONDS; a call waits for its last step."""
    train(4)
    start = time.perf_counter()
    train(4)
    return max(4, min(most, round(4 * CALL_SECONDS / (time.perf_counter() - start))))


def run_case(case: Case, effort: Effort, use_compile: bool, device: str, reached: dict[str, Any]) -> dict[str, Any]:
    """Check, then time, one case; the JSON record of it."""
    name = OURS if case.networks == 1 else TOGETHER
    expected = ours(at_peers_width(case), device)(3)
    peers, skipped = {}, {}
    for label in (*case.goals, *([KEOPS] if keops_formula.INSTALLED and case.networks == 1 else [])):
        if label == COMPILED and not use_compile:
            continue
        try:
            train = peer(at_peers_width(case), label, device)
            losses = train(3)
        except Exception as error:  # no compiler on this machine, or too little memory
            if label not in (COMPILED, KEOPS, GRAPH) and not isinstance(error, torch.OutOfMemoryError):
                raise
            skipped[label] = f"{type(error).__name__}: {error}".splitlines()[0]
            continue
        for a, b in zip(losses, expected, strict=True):
            torch.testing.assert_close(a.cpu(), b.float(), rtol=TOLERANCE, atol=0)
        peers[label] = train
    mine = ours(case, device)
    steps = case.steps if device == "cpu" else suited_steps(mine, case.steps)
    calls: dict[str, Callable[[], object]] = {name: lambda: mine(steps)}
    calls |= {label: lambda train=train: train(case.peer_steps) for label, train in peers.items()}  # type: ignore[misc]
    times = measure(calls, effort, device)
    # Of one step, the peers' of the full width.
    mine_per_step = times[name].scaled(1 / steps)
    per_step = {label: times[label].scaled(case.scale / case.peer_steps) for label in peers}
    floor = two_layer_floor(case.n, case.features, case.width, case.base, True, case.networks)
    return {
        "name": case.name,
        "ours": {"call": name, "steps": steps, **mine_per_step.as_dict()},
        "peers": {
            label: {**compare(mine_per_step, found, case.goals.get(label)), "scaled_from_width": case.peer_width}
            for label, found in per_step.items()
        },
        "skipped": skipped,
        "floor": None if case.sobolev else floor.record(mine_per_step.median, reached),
    }


def print_report(records: list[dict[str, Any]], left_out: dict[str, str]) -> None:
    rows = []
    for record in records:
        for label, found in record["peers"].items():
            seconds = [format_seconds(each["median"]) for each in (record["ours"], found)]
            ratios = [f"{found[key]:.1f}" for key in ("ratio", "ratio_of_minima")]
            goal = found["goal"]
            verdict = ["", ""] if goal is None else [f">= {goal:g}", "yes" if found["ratio"] >= goal else "NO"]
            rows.append([record["name"], label, *seconds, *ratios, *verdict])
    print("\none step; ratio: the peer's time / ours, median over rounds; of minima: the same of the fastest rounds")
    print(format_table(("case", "peer", "ours", "peer's", "ratio", "of minima", "goal", "met?"), rows))
    floors = [record for record in records if record["floor"] is not None]
    rows = [[r["name"], "", format_seconds(r["ours"]["median"]), *floor_cells(r["floor"])] for r in floors]
    print("\nfloor of a step: bytes at a copy's rate, or operations at that of a matrix product, the longer one")
    print(format_table(("case", "", "ours", "floor", "by", "share"), rows))
    for label, reason in {item for record in records for item in record["skipped"].items()}:
        print(f"skipped {label}: {reason}")
    for name, reason in left_out.items():
        print(f"left out: {name}: {reason}")


def parse_arguments() -> argparse.Namespace:
    parser = argument_parser(__doc__, "training", "few rounds, narrow networks on a GPU")
    parser.add_argument("--case", type=int, action="append", help="number of a case, from 1; may be repeated")
    return parsed(parser)


def main() -> int:
    """Run all cases, print the table, write the JSON."""
    arguments = parse_arguments()
    device, quick = arguments.device, arguments.quick
    effort = QUICK if quick else Effort(rounds=15, sample_seconds=2e-2, warm_up_seconds=0.0)
    info, budget = environment(device), Budget(arguments.budget)
    print_heading(info)
    reached = ceilings(device, quick)
    records, left_out, chosen = [], {}, cases(device, quick)
    for i, case in enumerate(chosen):
        if arguments.case is not None and i + 1 not in arguments.case:
            continue
        print(f"[{i + 1}/{len(chosen)}] {case.name}", file=sys.stderr, flush=True)
        if budget.used_up:
            left_out[case.name] = budget.used_up
            continue
        rounds = effort.rounds if case.peer_width is None else min(effort.rounds, 5)  # a second each
        now = budget.share(replace(effort, rounds=rounds), len(chosen) - i)
        try:
            records.append(run_case(case, now, not arguments.no_compile, device, reached))
        except torch.OutOfMemoryError as error:
            left_out[case.name] = str(error).splitlines()[0]
        gc.collect()
        if device == "cuda":
            torch.compiler.reset()
            torch.cuda.empty_cache()
    print_report(records, left_out)
    if arguments.out is not None:
        path = json_path(arguments.out, "training", device)
        settings = {**vars(effort), "most_seconds": arguments.budget}
        save(path, "training", info, effort=settings, ceilings=reached, cases=records, left_out=left_out)
        print(f"written to {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
