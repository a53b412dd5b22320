"""One training step of a two-layer network: the fused engine beside eager torch, torch.compile and, if there, KeOps.

The losses of the first steps are compared first; then come medians of interleaved rounds (timing.py). The peers are
written as a user would: x @ weight.T, leaky_relu, a matrix-vector product, half the mean squared error. For the Sobolev
loss (outputs and gradients in x against targets) with relu2 they compute the gradient in x by its formula, in a third
of the time that autograd takes when called twice. A call does several steps, so that what happens once per call of
``fit`` is shared as it is in a long run.
"""

from __future__ import annotations

import argparse
import gc
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import keops_formula
import torch
from timing import QUICK, Effort, environment, format_seconds, format_table, json_path, measure, save
from torch import Tensor

import hrta_ext as hx

S = 0.5
LR = 1e-3
EAGER, COMPILED, KEOPS, OURS, TOGETHER = "eager torch", "torch.compile", "KeOps", "hx.fit", "hx.fit_ensemble"
# Sums of float32 in another order, a few steps apart.
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Case:
    """``steps``: in one call of ours, and in one of a peer's.

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


def samples(case: Case) -> tuple[Tensor, Tensor, Tensor]:
    """x, y and the gradient of y in x."""
    x = torch.rand(case.n, case.features, generator=torch.Generator().manual_seed(0))
    z = 6.0 * x.sum(1)
    return x, torch.sin(z), 6.0 * torch.cos(z)[:, None].expand(x.shape).contiguous()


def make_nets(case: Case) -> list[hx.TwoLayerNet]:
    settings: dict[str, Any] = {"s": S, "base": case.base, "bias": False}
    return [hx.TwoLayerNet(case.features, case.width, seed=seed, **settings) for seed in range(case.networks)]


def narrow(case: Case) -> Case:
    """The case at the peers' width."""
    return replace(case, width=case.peer_width or case.width, peer_width=None)


def ours(case: Case) -> Callable[[int], list[Tensor]]:
    """A function that does so many steps and returns each network's losses."""
    nets, (x, y, gradient) = make_nets(case), samples(case)
    settings: dict[str, Any] = {"s": S, "lr": LR, "engine": "fused"}
    if case.sobolev:
        settings["target_gradient"] = gradient

    def train(steps: int) -> list[Tensor]:
        if case.networks == 1:
            return [hx.fit(nets[0], x, y, steps=steps, **settings).loss]
        return [result.loss for result in hx.fit_ensemble(nets, x, y, steps=steps, **settings)]

    return train


def peer(case: Case, label: str) -> Callable[[int], list[Tensor]]:
    """The same with autograd and Adam(fused=True), one network after the other."""
    x, y, gradient = samples(case)

    def sobolev_loss(weight: Tensor, output_weight: Tensor) -> Tensor:
        z = x @ weight.T
        active = torch.relu(z)
        f = ((1.0 - S) * z + (0.5 * S) * active * active) @ output_weight * case.width**-0.5
        df_dx = (((1.0 - S) + S * active) * output_weight) @ weight * case.width**-0.5
        squares = torch.nn.functional.mse_loss(df_dx, gradient) * case.features
        return (torch.nn.functional.mse_loss(f, y) + squares) * 0.5

    def keops_loss(weight: Tensor, output_weight: Tensor) -> Tensor:
        targets = (y, gradient)[: 1 + case.sobolev]
        found = keops_formula.outputs(x, weight, output_weight, S, case.base, case.sobolev)
        squares = [(value - target).square().sum() for value, target in zip(found, targets, strict=True)]
        return sum(squares) * (0.5 / case.n)

    def loss_of(weight: Tensor, output_weight: Tensor) -> Tensor:
        f = torch.nn.functional.leaky_relu(x @ weight.T, 1.0 - S) @ output_weight * case.width**-0.5
        return torch.nn.functional.mse_loss(f, y) * 0.5

    function = keops_loss if label == KEOPS else sobolev_loss if case.sobolev else loss_of
    if label == COMPILED:
        function = torch.compile(function)
    weights = [(net.weight, net.output_weight) for net in make_nets(case)]
    optimizers = [torch.optim.Adam(pair, lr=LR, fused=True) for pair in weights]

    def train(steps: int) -> list[Tensor]:
        losses = torch.empty(case.networks, steps)
        for i, (pair, optimizer) in enumerate(zip(weights, optimizers, strict=True)):
            for step in range(steps):
                optimizer.zero_grad(set_to_none=True)
                loss = function(*pair)
                loss.backward()
                optimizer.step()
                losses[i, step] = loss.detach()
        return list(losses)

    return train


def run_case(case: Case, effort: Effort, use_compile: bool) -> dict[str, Any]:
    """Check, then time, one case; the JSON record of it."""
    name = OURS if case.networks == 1 else TOGETHER
    expected = ours(narrow(case))(3)
    mine = ours(case)
    peers, skipped = {}, {}
    for label in (*case.goals, *([KEOPS] if keops_formula.INSTALLED and case.networks == 1 else [])):
        if label == COMPILED and not use_compile:
            continue
        train = peer(narrow(case), label)
        try:
            losses = train(3)
        except Exception as error:  # no compiler on this machine
            if label not in (COMPILED, KEOPS):
                raise
            skipped[label] = f"{type(error).__name__}: {error}".splitlines()[0]
            continue
        for a, b in zip(losses, expected, strict=True):
            torch.testing.assert_close(a, b.float(), rtol=TOLERANCE, atol=0)
        peers[label] = train
    calls: dict[str, Callable[[], object]] = {name: lambda: mine(case.steps)}
    calls |= {label: lambda train=train: train(case.peer_steps) for label, train in peers.items()}  # type: ignore[misc]
    times = measure(calls, effort)
    step = times[name].median / case.steps
    factor = case.peer_steps / case.steps / case.scale
    return {
        "name": case.name,
        "ours": {"call": name, "seconds per step": step, "fastest": times[name].minimum / case.steps},
        "peers": {
            label: {
                "seconds per step": times[label].median / case.peer_steps * case.scale,
                "fastest": times[label].minimum / case.peer_steps * case.scale,
                "scaled_from_width": case.peer_width,
                "ratio": times[name].speedup_over(times[label]) / factor,
                "ratio of minima": times[name].best_speedup_over(times[label]) / factor,
                "goal": case.goals.get(label),
            }
            for label in peers
        },
        "skipped": skipped,
    }


def print_report(records: list[dict[str, Any]]) -> None:
    rows = []
    for record in records:
        for label, found in record["peers"].items():
            seconds = [format_seconds(each["seconds per step"]) for each in (record["ours"], found)]
            ratios = [f"{found[key]:.1f}" for key in ("ratio", "ratio of minima")]
            goal = found["goal"]
            verdict = ["", ""] if goal is None else [f">= {goal:g}", "yes" if found["ratio"] >= goal else "NO"]
            rows.append([record["name"], label, *seconds, *ratios, *verdict])
    print("\none step; ratio: the peer's time / ours, median over rounds; of minima: the same of the fastest rounds")
    print(format_table(("case", "peer", "ours", "peer's", "ratio", "of minima", "goal", "met?"), rows))
    for label, reason in {item for record in records for item in record["skipped"].items()}:
        print(f"skipped {label}: {reason}")


def main() -> int:
    """Run all cases, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="JSON file, or a directory for training.json")
    parser.add_argument("--quick", action="store_true", help="few rounds: a smoke test")
    parser.add_argument("--threads", type=int, default=2, help="torch threads (default 2)")
    parser.add_argument("--case", type=int, action="append", help="number of a case, from 1; may be repeated")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    effort = QUICK if arguments.quick else Effort(rounds=15, sample_seconds=2e-2, warm_up_seconds=0.0)
    info = environment()
    print(
        f"hrta_ext {info['build_info']['version']}, torch {info['torch']}, {info['cpu']}, {arguments.threads} threads"
    )
    records = []
    for i, case in enumerate(CASES):
        if arguments.case is not None and i + 1 not in arguments.case:
            continue
        print(f"[{i + 1}/{len(CASES)}] {case.name}", file=sys.stderr, flush=True)
        rounds = effort.rounds if case.peer_width is None else min(effort.rounds, 5)  # a second each
        records.append(run_case(case, replace(effort, rounds=rounds), not arguments.no_compile))
        gc.collect()
    print_report(records)
    if arguments.out is not None:
        path = json_path(arguments.out, "training")
        save(path, "training", info, effort=vars(effort), cases=records)
        print(f"written to {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
