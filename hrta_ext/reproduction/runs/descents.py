"""The work of ``decay``: gradient descent in float64, and what the kernel at its start says about it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from hrta_ext import TwoLayerNet, fit
from hrta_ext.reproduction.runs.problems import make_problem

POINTS = 60  # of a curve


def _start(parameters: Mapping[str, Any]) -> tuple[TwoLayerNet, Tensor, Tensor]:
    problem = make_problem(f"sin{parameters['d']}d")
    net = TwoLayerNet(problem.x.shape[1], parameters["width"], s=parameters["s"][0], seed=parameters["seed"])
    device = parameters["device"]
    return net.double().to(device), problem.x.double().to(device), problem.y.double().to(device)


def _descend(net: TwoLayerNet, x: Tensor, y: Tensor, s: float, steps: int, lr: float) -> tuple[Tensor, float]:
    """Losses before each step and after the last, (steps + 1,), and the seconds that it took."""
    result = fit(net, x, y, s=s, steps=steps, optimizer="gd", lr=lr)
    if result.stop_reason == "interrupted":
        raise KeyboardInterrupt
    with torch.no_grad():
        last = 0.5 * (net(x) - y).square().mean().cpu()
    return torch.cat([result.loss, last[None]]), result.seconds


def linear_descent(eigenvalues: Tensor, parts: Tensor, lr: float, steps: Tensor) -> Tensor:
    """R of gradient descent on the linearised network: 1/(2n) sum_j p_j^2 (1 - lr lambda_j / n)^(2k).

    Args:
        eigenvalues: Of the NTK, (n,).
        parts: Of the first residual along its eigenvectors, (n,).
        lr: Step size.
        steps: Numbers of steps k, (K,).
    Returns:
        (K,).
    """
    n = len(parts)
    shrink = (1.0 - lr * eigenvalues / n).abs()
    return (parts.square() * shrink[None] ** (2 * steps[:, None])).sum(1) / (2 * n)


def _spectrum(net: TwoLayerNet, x: Tensor, s: float) -> Tensor:
    """Eigenvalues of the NTK at s, ascending, (n,)."""
    eigenvalues: Tensor = torch.linalg.eigvalsh(net.gram(x, s).ntk.cpu())
    return eigenvalues


def _smallest(eigenvalues: Tensor) -> float:
    """The smallest of ascending eigenvalues, 0 where rounding could have made it."""
    lowest, highest = float(eigenvalues[0]), float(eigenvalues[-1])
    return lowest if lowest > 1e-16 * len(eigenvalues) * highest else 0.0


def descend(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Losses of gradient descent at some steps, what the NTK at the start predicts there, and its bound.

    The rates are those of the loss over the second half of the steps, and 2 lambda_min / n of the NTK at start and end.
    """
    net, x, y = _start(parameters)
    steps, n = parameters["steps"], len(x)
    eigenvalues, vectors = torch.linalg.eigh(net.gram(x).ntk.cpu())
    with torch.no_grad():
        parts = vectors.T @ (net(x) - y).cpu()
    lr = n / float(eigenvalues[-1])
    loss, seconds = _descend(net, x, y, parameters["s"][0], steps, lr)
    shown = torch.unique(torch.logspace(0, math.log10(steps), POINTS).round().long())
    predicted = linear_descent(eigenvalues, parts, lr, shown.double())
    late = [steps // 2, steps]
    half_time = lr * (late[1] - late[0])
    rate = math.log(float(loss[late[0]] / loss[late[1]])) / half_time
    expected = linear_descent(eigenvalues, parts, lr, torch.tensor(late, dtype=torch.float64))
    smallest = _smallest(eigenvalues)
    bound = float(loss[0]) * torch.exp(-2.0 * smallest / n * lr * torch.arange(len(loss), dtype=torch.float64))
    return {
        "time": (lr * shown.double()).tolist(),
        "loss": loss[shown].tolist(),
        "predicted": predicted.tolist(),
        "deviation": float((loss[shown] / predicted).log10().abs().max()),
        "rate": rate,
        "predicted_rate": math.log(float(expected[0] / expected[1])) / half_time,
        "bound_rate": 2.0 * smallest / n,
        "bound_rate_at_end": 2.0 * _smallest(_spectrum(net, x, parameters["s"][0])) / n,
        "bound_holds": bool((loss <= bound * (1 + 1e-9)).all()),
        "start": float(loss[0]),
        "end": float(loss[-1]),
        "seconds": seconds,
    }


def switch(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Gradient descent at s_1, then at s_2, and beside it s_1 alone for as many steps."""
    first, second = parameters["s"]
    steps = parameters["steps"]
    net, x, y = _start(parameters)
    n = len(x)
    lr = n / max(float(_spectrum(net, x, s)[-1]) for s in (first, second))
    before, seconds = _descend(net, x, y, first, steps, lr)
    smallest = [_smallest(_spectrum(net, x, s)) for s in (first, second)]
    start = {name: value.clone() for name, value in net.state_dict().items()}
    switched, more = _descend(net, x, y, second, steps, lr)
    net.load_state_dict(start)
    kept, most = _descend(net, x, y, first, steps, lr)
    half = steps // 2

    def rate(loss: Tensor) -> float:
        return math.log(float(loss[half] / loss[-1])) / (lr * (steps - half))

    # Every few steps, and all of those around the switch, where the jump is over in a moment.
    shown = sorted(
        {*range(0, 2 * steps, max(1, steps // POINTS)), *range(max(steps - 2, 0), min(steps + 15, 2 * steps))}
    )
    return {
        "jump": float(switched[0] / before[-1]),
        "back_after": next((k for k, value in enumerate(switched.tolist()) if value <= float(before[-1])), None),
        "lambda_min": smallest,
        "rate_switched": rate(switched),
        "rate_kept": rate(kept),
        "end_switched": float(switched[-1]),
        "end_kept": float(kept[-1]),
        "step": shown,
        "switched": torch.cat([before[:-1], switched[:-1]])[shown].tolist(),
        "kept": torch.cat([before[:-1], kept[:-1]])[shown].tolist(),
        "seconds": seconds + more + most,
    }
