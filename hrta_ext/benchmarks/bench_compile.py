"""Networks with hx.HomotopyActivation beside the same ones with nn.LeakyReLU or nn.GELU, eager and compiled.

Forward, loss and backward of an MLP and a small CNN in float32. Compiled, hx.homotopy is plain torch operations that
Inductor fuses with its neighbours; eager, it is a kernel or torch's own node. Losses and gradients are compared first;
GELU stands for s = 1, LeakyReLU for s = 0.5.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import hrta_ext as hx
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

ACTIVATIONS: dict[str, tuple[Callable[[], nn.Module], Callable[[], nn.Module]]] = {
    "relu, s = 0.5": (lambda: hx.HomotopyActivation(0.5), lambda: nn.LeakyReLU(0.5)),
    "gelu, s = 1": (lambda: hx.HomotopyActivation(1.0, "gelu"), nn.GELU),
}
RTOL, ATOL = 1e-4, 1e-5
COLUMNS = ("network", "", "activation", "ours", "torch's", "ratio", "of minima")


def mlp(activation: Callable[[], nn.Module]) -> nn.Module:
    """64 -> 256 -> 256 -> 10."""
    return nn.Sequential(nn.Linear(64, 256), activation(), nn.Linear(256, 256), activation(), nn.Linear(256, 10))


def cnn(activation: Callable[[], nn.Module]) -> nn.Module:
    """Two convolutions of 3 x 32 x 32 images, each with a pooling, and a linear layer."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), activation(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), activation(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(32 * 8 * 8, 10),
    )  # fmt: skip


NETWORKS: dict[str, tuple[Callable[[Callable[[], nn.Module]], nn.Module], tuple[int, ...]]] = {
    "MLP, batch 256": (mlp, (256, 64)),
    "MLP, batch 16": (mlp, (16, 64)),
    "CNN, batch 32": (cnn, (32, 3, 32, 32)),
}


def step(network: nn.Module, x: Tensor, target: Tensor, compiled: bool) -> Callable[[], list[Tensor]]:
    """A call that gives the loss and the gradients of a training step."""
    run = torch.compile(network, fullgraph=True, dynamic=False) if compiled else network
    parameters = list(network.parameters())

    def call() -> list[Tensor]:
        loss = F.cross_entropy(run(x), target)
        return [loss.detach(), *torch.autograd.grad(loss, parameters)]

    return call


def run_case(network: str, activation: str, compiled: bool, effort: Effort, device: str) -> dict[str, Any]:
    """Check, then time, one case; the JSON record of it."""
    build, shape = NETWORKS[network]
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(*shape, generator=generator).to(device)
    target = torch.randint(10, shape[:1], generator=generator).to(device)
    torch.compiler.reset()  # guards of earlier cases would be tried on every call
    calls = {}
    for name, layer in zip(("ours", "torch's"), ACTIVATIONS[activation], strict=True):
        torch.manual_seed(0)
        calls[name] = step(build(layer).to(device), x, target, compiled)
    assert_equal_results(["ours", "torch's"], [call() for call in calls.values()], RTOL, ATOL)
    times = measure(calls, effort, device)
    return {
        "network": network,
        "activation": activation,
        "compiled": compiled,
        "ours": times["ours"].as_dict(),
        "torch": compare(times["ours"], times["torch's"], 1.0),
    }


def main() -> int:
    arguments = parsed(argument_parser(__doc__, "compile", "few short rounds"))
    device, budget = arguments.device, Budget(arguments.budget)
    effort = QUICK if arguments.quick else Effort()
    info = environment(device)
    print_heading(info)
    cases = [
        (network, activation, compiled)
        for compiled in ((False,) if arguments.no_compile else (False, True))
        for network in NETWORKS
        for activation in ACTIVATIONS
    ]
    records, rows = [], []
    for i, (network, activation, compiled) in enumerate(cases):
        if budget.used_up:
            print(f"left out: {len(cases) - i} cases: {budget.used_up}")
            break
        record = run_case(network, activation, compiled, budget.share(effort, len(cases) - i), device)
        records.append(record)
        ours, torchs = record["ours"], record["torch"]
        seconds = [format_seconds(each["median"]) for each in (ours, torchs)]
        ratios = [f"{torchs[key]:.2f}" for key in ("ratio", "ratio_of_minima")]
        rows.append([network, "compiled" if compiled else "eager", activation, *seconds, *ratios])
    print(format_table(COLUMNS, rows, left=3))
    if arguments.out is not None:
        path = json_path(arguments.out, "compile", device)
        save(path, "compile", info, effort=vars(effort), cases=records)
        print(f"written to {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
