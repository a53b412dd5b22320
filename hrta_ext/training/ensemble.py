"""Many networks trained on the same data at once, spread over the cores."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hrta_ext.groups import ranks_of, together
from hrta_ext.training.adaptive import AdaptiveHomotopy
from hrta_ext.training.data import Samples
from hrta_ext.training.fit import train_run
from hrta_ext.training.fused import FusedEngine, train_together
from hrta_ext.training.optimizers import OptimizerFactory
from hrta_ext.training.plan import Plan, Recipe, prepare
from hrta_ext.training.ramps import Moving
from hrta_ext.training.results import FitResult
from hrta_ext.training.run import Interrupt, Run
from hrta_ext.training.schedules import Stages
from hrta_ext.training.shared import ranks_of_net
from hrta_ext.training.spread import everywhere


def fit_ensemble(
    nets: Sequence[nn.Module],
    x: Any = None,
    y: Any = None,
    *,
    loss: Any = None,
    s: float | Moving | AdaptiveHomotopy | Sequence[float | Moving] = (0.5, 1.0),
    steps: int | Sequence[int] = (3000, 13000),
    keep_function: bool = False,
    optimizer: str | OptimizerFactory = "adam",
    lr: float = 1e-3,
    lr_schedule: str | Callable[[int], float] | None = None,
    sample_weight: Tensor | None = None,
    target_gradient: Tensor | None = None,
    engine: str = "auto",
    group: Any = None,
) -> list[FitResult]:
    """Train every network of ``nets`` as :func:`fit` would, to the same bits, many at once.

    Networks that the fused engine serves train at the same time, small ones on a core each; where one of them needs
    autograd, all are trained one after the other.

    Args:
        nets: Different modules, such as one per seed; trained in place. They may differ in width and base.
        x: Samples of all networks, shape (n, ...).
        y: Targets of all networks, shape (n, ...).
        loss: Not served: a loss of your own trains one network at a time, by :func:`fit`.
        s, steps, keep_function, optimizer, lr, lr_schedule, sample_weight, target_gradient, engine: As in :func:`fit`;
            every network gets an optimizer of its own.
        group: A ``torch.distributed`` process group, "world" for all processes, or None for this process alone. Each
            rank trains its part of the networks, whole ones; all call with the same arguments, and at the end every
            rank has all networks as they were trained, and all results.
    Returns:
        One result per network, in their order. ``seconds`` is the time from the start of the ensemble to the end of
        this network's training. A network that diverges stops alone. Ctrl-C ends those in training as "interrupted";
        networks that had not begun have no result.
    Raises:
        TypeError, ValueError: An argument is off, or differs from that of another rank, or two networks share a
            parameter; before any step is done.

    Example:
        >>> import torch, hrta_ext as hx
        >>> x = torch.linspace(0, 1, 20)[:, None]
        >>> nets = [hx.TwoLayerNet(1, 50, seed=seed) for seed in range(4)]
        >>> results = hx.fit_ensemble(nets, x, torch.sin(6 * x[:, 0]), s=1.0, steps=100, lr=1e-2)
        >>> [result.stop_reason for result in results]
        ['finished', 'finished', 'finished', 'finished']
    """
    if isinstance(nets, nn.Module) or not isinstance(nets, Sequence) or len(nets) == 0:
        raise TypeError(f"fit_ensemble: nets must be a sequence of at least one network, got {type(nets).__name__}")
    if loss is not None:
        raise TypeError(
            "fit_ensemble: loss is not served, only targets y; call fit(net, points, loss=...) for each net"
        )
    ranks = ranks_of(group, "fit_ensemble")
    with together(ranks, "fit_ensemble") as facts:
        samples = Samples(x, y, sample_weight, target_gradient)
        recipe = Recipe(
            s, steps, optimizer, lr, lr_schedule, batch_size=None, engine=engine, keep_function=keep_function
        )
        plans = _prepared(nets, samples, recipe)
        if ranks is not None:
            for k, plan in enumerate(plans):
                facts |= {f"{name} of network {k}": value for name, value in plan.fingerprint().items()}
                facts[f"engine of network {k}"] = plan.engine.name
    if ranks is not None:
        first, count = ranks.share(len(plans))
        with ranks.side_by_side("fit_ensemble") as tick:
            results = _trained(plans[first : first + count], tick)
        return everywhere(ranks, nets, first, results)
    return _trained(plans)


def _prepared(nets: Sequence[nn.Module], samples: Samples, recipe: Recipe) -> list[Plan]:
    for net in nets:
        if ranks_of_net(net) is not None:
            raise ValueError("fit_ensemble: nets must be whole networks, got one with group=, which fit trains")
    stages: dict[torch.dtype, Stages] = {}
    plans = [prepare(net, samples, recipe, watched=False, stages=stages) for net in nets]
    parameters = [id(parameter) for plan in plans for parameter in plan.parameters]
    if len(set(parameters)) != len(parameters):
        raise ValueError("fit_ensemble: nets must be different networks, two of them share a parameter")
    return plans


def _trained(plans: Sequence[Plan], tick: Callable[[int], object] = lambda done: None) -> list[FitResult]:
    """The results, in order; ``tick`` is told now and then how many networks have been trained."""
    if all(isinstance(plan.engine, FusedEngine) for plan in plans):
        return _train_together(plans, tick)
    results: list[FitResult] = []
    for plan in plans:
        run = plan.start()
        result = plan.result(run, train_run(run))
        results.append(result)
        if result.stop_reason == "interrupted":
            break
        tick(len(results))
    return results


def _train_together(plans: Sequence[Plan], tick: Callable[[int], object]) -> list[FitResult]:
    start = time.perf_counter()
    runs = [plan.start() for plan in plans]
    reasons = ["finished"] * len(plans)
    active = list(range(len(plans)))
    with Interrupt() as interrupt:
        while active and not interrupt.requested:
            _advance([runs[i] for i in active])
            for i in active:
                runs[i].seconds = time.perf_counter() - start
                if not runs[i].collect() or (runs[i].step == runs[i].rates.total_steps and not runs[i].is_finite()):
                    reasons[i] = "diverged"
            active = [i for i in active if reasons[i] == "finished" and runs[i].step < runs[i].rates.total_steps]
            tick(len(plans) - len(active))
        for i in active:
            reasons[i] = "interrupted"
    return [plan.result(run, reason) for plan, run, reason in zip(plans, runs, reasons, strict=True)]


def _advance(runs: Sequence[Run]) -> None:
    """The next steps of runs that have done equally many."""
    count = min([run.enter(run.rates.total_steps - run.step) for run in runs])
    engines = [run.engine for run in runs if isinstance(run.engine, FusedEngine)]
    losses = train_together(engines, runs[0].step, count, [run.upcoming(count) for run in runs])
    for run, loss in zip(runs, losses, strict=True):
        run.count(loss)
