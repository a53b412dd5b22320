"""The wide network at a hundred million neurons on a GPU: the op and a training step beside a floor and eager torch.

The floor is arithmetic, not a measurement: 3 D + 1 float32 instructions for a pair of sample and neuron (forward D for
w . x and one for the sum; backward D and D masked additions), n m pairs, at 67 TFLOP/s, the datasheet rate of an H100
or H200. Eager torch cannot hold n x m here: it runs at --peer-width, and its time is scaled.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from bench_two_layer import ATOL, RTOL, Case, S, formula, forward_backward, problem
from timing import (
    QUICK,
    Effort,
    assert_equal_results,
    environment,
    format_seconds,
    format_table,
    json_path,
    measure,
    save,
)
from torch import Tensor

import hrta_ext as hx

FLOPS = 67e12
SIZES = ((1000, 2), (1000, 4), (100, 2))
STEPS = 5  # of the training, in one call
OP, STEP, EAGER = "hx.two_layer, forward + backward", "hx.fit, one Adam step", "eager formula, forward + backward"


def floor_seconds(n: int, features: int, width: int) -> float:
    """The arithmetic of a forward and a backward pass."""
    return 2.0 * (3 * features + 1) * n * width / FLOPS


def on(device: str, n: int, features: int, width: int) -> tuple[Tensor, tuple[Tensor, Tensor], tuple[Tensor, ...]]:
    """x, the weights and a gradient for f, on the device."""
    x, weights, grads = problem(Case(n, features, width), width)
    weight, output_weight = (w.detach().to(device).requires_grad_() for w in weights)
    return x.to(device), (weight, output_weight), tuple(grad.to(device) for grad in grads)


def op(x: Tensor, weight: Tensor, output_weight: Tensor) -> tuple[Tensor, ...]:
    return (hx.two_layer(x, weight, output_weight, S),)


def training(device: str, n: int, features: int, width: int) -> Callable[[], Any]:
    """A call of STEPS Adam steps of the fused engine."""
    net = hx.TwoLayerNet(features - 1, width, s=S, seed=0).to(device)
    x = torch.rand(n, features - 1, device=device)
    y = torch.sin(6.0 * x.sum(1))
    return lambda: hx.fit(net, x, y, s=S, steps=STEPS, engine="fused")


def run_size(device: str, n: int, features: int, width: int, peer_width: int, effort: Effort) -> dict[str, Any]:
    """Check at the peer's width, then time: the record of it."""
    small = on(device, n, features, peer_width)
    eager = forward_backward(formula("relu"), *small)
    for ours, theirs in zip(forward_backward(op, *small)(), eager(), strict=True):
        assert_equal_results([OP, EAGER], [[ours], [theirs]], RTOL, ATOL * theirs.abs().max().item())
    calls = {OP: forward_backward(op, *on(device, n, features, width)), EAGER: eager}
    times = {name: samples.median for name, samples in measure(calls, effort, device).items()}
    del calls, eager, small
    times[STEP] = measure({STEP: training(device, n, features, width)}, effort, device)[STEP].median / STEPS
    times[EAGER] *= width / peer_width
    floor = floor_seconds(n, features, width)
    return {
        "n": n,
        "features": features,
        "width": width,
        "peer_width": peer_width,
        "floor": floor,
        "seconds": times,
        "floor over op": floor / times[OP],
        "floor over step": floor / times[STEP],
        "eager over op": times[EAGER] / times[OP],
    }


def main() -> int:
    """Run all sizes, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="JSON file, or a directory for two_layer_gpu.json")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: a smoke test of this program")
    parser.add_argument("--width", type=int, default=10**8)
    parser.add_argument("--peer-width", type=int, default=10**6)
    arguments = parser.parse_args()
    if not hx.backends()["cuda" if arguments.device == "cuda" else "cpp"]:
        print(f"no kernels for {arguments.device}: {hx.build_info()['cuda_reason']}", file=sys.stderr)
        return 2
    info = environment(arguments.device)
    effort = QUICK if arguments.device == "cpu" else Effort(rounds=9)
    records = []
    for n, features in SIZES:
        print(f"n {n}, D {features}, m {arguments.width:.0e}", file=sys.stderr, flush=True)
        records.append(run_size(arguments.device, n, features, arguments.width, arguments.peer_width, effort))
    rows = []
    for record in records:
        name, seconds = f"n {record['n']}, D {record['features']}, m {record['width']:.0e}", record["seconds"]
        shares = {OP: f"{record['floor over op']:.2f}", STEP: f"{record['floor over step']:.2f}", EAGER: ""}
        for call, share in shares.items():
            ratio = f"{record['eager over op']:.1f}" if call == OP else ""
            rows.append([name, call, format_seconds(seconds[call]), format_seconds(record["floor"]), share, ratio])
    print(format_table(("case", "call", "time", "floor", "floor / time", "eager / time"), rows))
    if arguments.out is not None:
        path = json_path(arguments.out, "two_layer_gpu")
        save(path, "two_layer_gpu", info, flops=FLOPS, cases=records)
        print(f"written to {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
