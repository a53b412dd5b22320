"""From the arguments of ``fit`` to a training that can start: the checks, and which engine does it."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from hrta_ext.activation.modules import homotopy_layers
from hrta_ext.bases import BASES
from hrta_ext.files import hash_tensor
from hrta_ext.inputs import check_flag, check_integer
from hrta_ext.network.module import TwoLayerNet
from hrta_ext.training.adaptive import AdaptiveHomotopy, AdaptiveScheduler, check_adapts
from hrta_ext.training.checkpoints import fingerprint
from hrta_ext.training.data import Batches, Samples, check_samples
from hrta_ext.training.engines import Engine, TermsEngine, TorchEngine
from hrta_ext.training.fused import FusedEngine, why_not_fused
from hrta_ext.training.objective import PointTerms, besides_weights
from hrta_ext.training.optimizers import LearningRate, OptimizerFactory, build_optimizer
from hrta_ext.training.ramps import Moving, ramp
from hrta_ext.training.results import Callback, FitResult
from hrta_ext.training.run import Run
from hrta_ext.training.schedules import HomotopyScheduler, Stages, check_keeps_function, check_stages
from hrta_ext.training.shared import SharedEngine, check_shared, ranks_of_net
from hrta_ext.training.terms import Task


@dataclass(frozen=True)
class Recipe:
    """How to train, whatever the network and the data: arguments of :func:`fit`, as they were given."""

    s: float | Moving | AdaptiveHomotopy | Sequence[float | Moving]
    steps: int | Sequence[int]
    optimizer: str | OptimizerFactory
    lr: float
    lr_schedule: str | Callable[[int], float] | None
    batch_size: int | None
    engine: str
    keep_function: bool = False


@dataclass(frozen=True)
class Plan:
    """A training whose arguments have been checked. Nothing has been done to the network yet."""

    net: nn.Module
    parameters: list[nn.Parameter]
    optimizer: Optimizer
    rates: LearningRate
    batches: Batches | PointTerms
    engine: Engine
    stages: Stages
    rule: AdaptiveHomotopy | None
    settings: dict[str, Any]

    def fingerprint(self) -> dict[str, Any]:
        """What a checkpoint of this training carries."""
        settings = {**self.settings, "lr_schedule factors": self.rates.samples()}
        if self.stages.path is not None:
            settings["s of every step"] = hash_tensor(self.stages.path)
        return fingerprint(self.net, self.optimizer, self.batches.hashes(), settings)

    def start(self) -> Run:
        """The run before its first step; sets the first s."""
        before = besides_weights(self.net)
        scheduler: HomotopyScheduler | AdaptiveScheduler
        keep = bool(self.settings.get("keep_function"))
        if self.rule is not None:
            assert isinstance(self.net, TwoLayerNet)
            assert isinstance(self.batches, Batches)
            scheduler = AdaptiveScheduler(self.net, self.rule, self.batches.samples, keep_function=keep)
        else:
            scheduler = HomotopyScheduler(self.net, self.stages.values, self.stages.milestones, keep_function=keep)
        path = self.stages.path
        return Run(self.net, self.optimizer, scheduler, self.rates, self.batches, self.engine, path, before)

    def _count(self, parameter: nn.Parameter) -> int:
        """Numbers in a parameter, those of all ranks."""
        net = self.net
        if isinstance(net, TwoLayerNet) and (parameter is net.weight or parameter is net.output_weight):
            return net.width * math.prod(parameter.shape[1:])
        return parameter.numel()

    def result(self, run: Run, stop_reason: str) -> FitResult:
        """What ``run`` did."""
        path, adaptive = self.stages.taken(run.step), {}
        if isinstance(run.scheduler, AdaptiveScheduler) and self.rule is not None:
            path = run.scheduler.path(run.step)
            adaptive = {"s_reached_end": run.scheduler.get_last_s() == self.rule.end}
        return FitResult(
            net=self.net,
            loss=torch.tensor(run.loss, dtype=torch.float64),
            s=path,
            stop_reason=stop_reason,
            seconds=run.seconds,
            settings={
                **self.settings,
                **adaptive,
                "engine": self.engine.name,
                **self.batches.facts(finished=stop_reason in ("finished", "callback")),
                "n_parameters": sum(map(self._count, self.parameters)),
                **({} if run.ranks is None else {"ranks": run.ranks.size}),
                "network": type(self.net).__name__,
                "device": str(self.batches.device),
                "dtype": str(self.batches.dtype).removeprefix("torch."),
            },
            terms=self.batches.of_steps() if isinstance(self.batches, PointTerms) else {},
        )


def prepare(
    net: nn.Module,
    data: Samples | Task,
    recipe: Recipe,
    *,
    watched: bool,
    stages: dict[torch.dtype, Stages] | None = None,
    seed: int | None = None,
) -> Plan:
    """Check what :func:`fit` was given.

    Args:
        net, data, recipe: Its arguments.
        watched: There are callbacks after every single step.
        stages: Those of networks before this one, by dtype: a function of the step is called once for all.
        seed: Of the shuffles; None: torch's.
    """
    keep_function = check_flag(recipe.keep_function, "fit: keep_function")
    parameters = _check_net(net)
    if isinstance(data, Samples):
        check_samples(parameters, data)
        if data.target_gradient is not None:
            _check_curvature(net)
        data = data.detach()
    rule = recipe.s if isinstance(recipe.s, AdaptiveHomotopy) else None
    if rule is not None:
        check_adapts(net)
        if keep_function and rule.start * rule.end <= 0.0:
            raise ValueError(f"fit: keep_function needs a start and an end of one sign, other than 0, got {rule}")
        if isinstance(data, Task):
            raise ValueError("fit: AdaptiveHomotopy knows the squared error alone, not loss; hx.ramp serves any")
    dtype = data.x.dtype if isinstance(data, Samples) else parameters[0].dtype
    known = {} if stages is None else stages
    if dtype not in known:
        known[dtype] = check_stages(recipe.s if rule is None else ramp(rule.start, rule.end, 1), recipe.steps, dtype)
    of_run = known[dtype]
    if of_run.path is not None and any(isinstance(layer.s, nn.Parameter) for layer in homotopy_layers(net)):
        raise ValueError("fit: s must be a number for each stage where net learns s itself, got a function of the step")
    if keep_function:
        check_keeps_function("fit", net, of_run.values, of_run.path)
    if recipe.engine not in ("auto", "fused", "torch"):
        raise ValueError(f'fit: engine must be "auto", "fused" or "torch", got {recipe.engine!r}')
    batch_size = None
    batches: Batches | PointTerms
    if isinstance(data, Samples):
        batch_size = _check_batch_size(recipe.batch_size, data.x.shape[0], recipe.optimizer)
        batches = Batches(data, batch_size, seed)
    else:
        batches = PointTerms(net, data, sum(of_run.steps))
        known_ids = {id(p) for p in parameters}
        parameters = [*parameters, *(p for p in data.unknowns() if id(p) not in known_ids)]
    ranks = ranks_of_net(net)
    built = build_optimizer(recipe.optimizer, parameters, recipe.lr, divided=ranks is not None)
    _check_buffers(net, built)
    if ranks is not None:
        check_shared(net, built)
    rates = LearningRate(recipe.lr_schedule, built, sum(of_run.steps))
    chosen = _choose_engine(recipe.engine, net, built, rates, batches, watched)
    settings = {
        "s": of_run.names() if rule is None else [repr(rule)],
        "steps": of_run.steps,
        "optimizer": recipe.optimizer if isinstance(recipe.optimizer, str) else type(built).__name__,
        "lr": float(recipe.lr),
        "lr_schedule": rates.name,
        "batch_size": batch_size,
    }
    if keep_function:
        settings["keep_function"] = True
    return Plan(net, parameters, built, rates, batches, chosen, of_run, rule, settings)


def _choose_engine(
    engine: str,
    net: nn.Module,
    optimizer: Optimizer,
    rates: LearningRate,
    batches: Batches | PointTerms,
    watched: bool,
) -> Engine:
    if isinstance(batches, PointTerms):
        if engine == "fused":
            raise ValueError('fit: engine "fused" trains by the squared error, not by loss; use engine="auto"')
    elif engine != "torch":
        reason = why_not_fused(net, optimizer, batches.samples, batches.batch_size)
        if reason is None:
            assert isinstance(net, TwoLayerNet)
            kind = FusedEngine if net.ranks is None else SharedEngine
            return kind(net, optimizer, rates, batches.samples, watched=watched)
        if engine == "fused":
            raise ValueError(f'fit: engine "fused" does not serve this call: {reason}; use engine="auto"')
    tensors = (*net.parameters(), *batches.tensors())
    if torch.is_inference_mode_enabled() or any(tensor.is_inference() for tensor in tensors):
        raise ValueError("fit: autograd needs net and data made, and fit called, outside of torch.inference_mode")
    if isinstance(batches, PointTerms):
        return TermsEngine(optimizer, rates, batches)
    return TorchEngine(net, optimizer, rates, batches)


def _check_net(net: nn.Module) -> list[nn.Parameter]:
    """The parameters to train."""
    if not isinstance(net, nn.Module):
        raise TypeError(f"fit: net must be a torch.nn.Module, got {type(net).__name__}")
    if not homotopy_layers(net):
        raise ValueError(f"fit: {type(net).__name__} has no homotopy layer; put an hx.HomotopyActivation into it")
    parameters = [p for p in net.parameters() if p.requires_grad]
    if not parameters:
        raise ValueError(f"fit: {type(net).__name__} has no parameter that requires grad, so there is nothing to train")
    if any(p.device.type == "meta" for p in parameters):
        raise ValueError(f"fit: net must hold numbers, {type(net).__name__} has parameters on the device meta")
    if any(p.is_neg() for p in parameters):
        raise ValueError("fit: net has a parameter with torch's negative bit, which optimizers cannot update; clone it")
    return parameters


def _check_buffers(net: nn.Module, optimizer: Optimizer) -> None:
    """A buffer that requires grad gets gradients, and would stay what it is."""
    trained = {id(p) for group in optimizer.param_groups for p in group["params"]}
    for name, buffer in net.named_buffers():
        if buffer.requires_grad and buffer.is_leaf and id(buffer) not in trained:
            path = re.sub(r"\.(\d+)\b", r"[\1]", f"net.{name}")
            raise ValueError(
                f"fit: {path} is a buffer that requires grad, but parameters alone are trained; "
                f"{path} = torch.nn.Parameter({path}) makes it one"
            )


def _check_curvature(net: nn.Module) -> None:
    """A loss of gradients in x is trained by second derivatives."""
    probe = torch.linspace(-1.0, 1.0, 5)
    for base in {layer.base: None for layer in homotopy_layers(net)}:
        if not BASES[base].curvature(probe).any():
            raise ValueError(
                f"fit: target_gradient needs a base with a second derivative, such as relu2 or tanh, net has {base!r}"
            )


def _check_batch_size(batch_size: int | None, n: int, optimizer: object) -> int | None:
    if batch_size is None:
        return None
    if optimizer == "gd":
        raise ValueError('fit: optimizer "gd" takes all samples at once; use optimizer="sgd" with batch_size')
    size = check_integer(batch_size, "fit: batch_size")
    if size > n:
        raise ValueError(f"fit: batch_size must be at most the number of samples, {n}, got {size}")
    return size


def check_callbacks(callbacks: Iterable[Callback]) -> list[tuple[Callback, int]]:
    """Each callback and after how many steps it is called."""
    if not isinstance(callbacks, Iterable):
        raise TypeError(f"fit: callbacks must be a sequence of functions, got {type(callbacks).__name__}")
    given = []
    for i, callback in enumerate(callbacks):
        if not callable(callback):
            raise TypeError(f"fit: callbacks[{i}] must be a function, got {type(callback).__name__}")
        given.append((callback, check_integer(getattr(callback, "every", 1), f"fit: callbacks[{i}].every")))
    return given
