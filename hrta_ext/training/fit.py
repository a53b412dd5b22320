"""Homotopy relaxation training: one loop for every network, with checkpoints, progress and the reason it stopped."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from hrta_ext.activation.modules import homotopy_layers
from hrta_ext.bases import BASES
from hrta_ext.files import write_json
from hrta_ext.inputs import check_integer
from hrta_ext.network.module import TwoLayerNet
from hrta_ext.training.checkpoints import Interrupt, Keeper, Run, fingerprint, load_checkpoint, prepare_checkpoint
from hrta_ext.training.data import Samples, check_samples
from hrta_ext.training.engines import Engine, TorchEngine
from hrta_ext.training.fused import FusedEngine, why_not_fused
from hrta_ext.training.optimizers import OptimizerFactory, build_optimizer
from hrta_ext.training.progress import Progress
from hrta_ext.training.schedules import Batches, HomotopyScheduler, LearningRate, check_stages

# Losses leave the device, and are checked for NaN and Inf, once in so many steps: reading one makes the host wait.
CHECK_EVERY = 100
Callback = Callable[["StepInfo"], object]


@dataclass(frozen=True, slots=True)
class StepInfo:
    """What a callback gets after every step.

    Attributes:
        step: Number of the step, from 0; ``result.loss[step]`` is its loss.
        total_steps: Steps of all stages together.
        stage: Number of the stage, from 0.
        s: Homotopy parameter of this step.
        net: The network, already updated.
        loss_tensor: The loss before the update, a 0-dim tensor on the network's device.
    """

    step: int
    total_steps: int
    stage: int
    s: float
    net: nn.Module
    loss_tensor: Tensor

    @property
    def loss(self) -> float:
        """The loss as a float. On a GPU reading it waits for the step to end."""
        return float(self.loss_tensor)


@dataclass(frozen=True)
class FitResult:
    """What :func:`fit` did.

    Attributes:
        net: The network, trained in place.
        loss: R before the update of each step, float64 on the CPU, shape (steps done,).
        s: Homotopy parameter of each step, float64, shape (steps done,).
        stop_reason: "finished", "callback", "diverged" or "interrupted".
        seconds: Time spent training, that of the interrupted runs that this one continued included.
        settings: The arguments and the sizes, plain values.
    """

    net: nn.Module = field(repr=False)
    loss: Tensor = field(repr=False)
    s: Tensor = field(repr=False)
    stop_reason: str
    seconds: float
    settings: dict[str, Any] = field(repr=False)

    @property
    def engine(self) -> str:
        """The engine that did the steps: "fused" or "torch"."""
        return str(self.settings["engine"])

    def to_json(self, path: str | os.PathLike[str]) -> None:
        """Write settings, losses, s, stop reason, seconds and versions. NaN and Inf become null."""
        from hrta_ext import __version__

        content = {
            "settings": self.settings,
            "stop_reason": self.stop_reason,
            "seconds": self.seconds,
            "steps": self.loss.numel(),
            "final_loss": self.loss[-1].item() if self.loss.numel() else None,
            "versions": {"hrta_ext": __version__, "torch": torch.__version__, "python": platform.python_version()},
            "loss": self.loss.tolist(),
            "s": self.s.tolist(),
        }
        write_json(path, content)

    def plot(self, path: str | os.PathLike[str]) -> None:
        """Draw loss against step on a log scale, the stages marked by s; the suffix of ``path`` names the format."""
        from hrta_ext.plots import plot_loss

        plot_loss(self.loss, self.s, path)


def fit(
    net: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    s: float | Sequence[float] = (0.5, 1.0),
    steps: int | Sequence[int] = (3000, 13000),
    optimizer: str | OptimizerFactory = "adam",
    lr: float = 1e-3,
    lr_schedule: str | Callable[[int], float] | None = None,
    batch_size: int | None = None,
    sample_weight: Tensor | None = None,
    target_gradient: Tensor | None = None,
    engine: str = "auto",
    progress: bool = False,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_every: int = 1000,
    resume: bool = False,
    callbacks: Iterable[Callback] = (),
) -> FitResult:
    """Train ``net`` by homotopy relaxation: ``steps[p]`` steps at ``s[p]``, one stage after the other.

    Minimises R = 1/(2n) sum_i c_i [ |net(x_i) - y_i|^2 + |grad net(x_i) - g_i|^2 ] (THEORY, sections 1 and 2; Yang,
    Chen, Hao 2025, Algorithm 1, where R is the first term with c = 1). c is ``sample_weight``, 1 unless given; the sum
    is divided by n, not by sum_i c_i. g is ``target_gradient``; unless it is given there is no second term, with it R
    is a Sobolev loss. Each stage starts from the weights that the last one ended with, and the optimizer keeps running
    through a change of s, moments and step count included. A learnable s starts each stage at the scheduled value. The
    train/eval mode of ``net`` is left as it is.

    Args:
        net: Any module with homotopy layers; trained in place.
        x: Samples, shape (n, ...), on the device and of the dtype of the network.
        y: Targets, shape (n,) or (n, ...), the shape of ``net(x)``; a trailing dimension of 1 may be missing in either.
        s: Homotopy parameter of each stage; a float for one stage.
        steps: Number of steps of each stage.
        optimizer: "adam"; "sgd", without momentum; "gd", the same on all samples at once (no ``batch_size``); or a
            ``torch.optim`` class or any callable ``(parameters, lr=lr) -> Optimizer``, such as a ``functools.partial``.
        lr: Learning rate.
        lr_schedule: None; "cosine", which decays to 0 over all steps; or a function of the step, from 0, whose value
            multiplies ``lr``. It must depend on the step alone.
        batch_size: Samples per step; None for all. Every epoch is shuffled anew, by a generator of its own that starts
            from torch's seed (``torch.manual_seed``); the last batch of an epoch may be shorter.
        sample_weight: c, shape (n,), of x's dtype, on its device: finite, not negative, not zero everywhere.
        target_gradient: g, shape (n, d), of x's dtype, on its device: the gradient of the target in x, without the
            bias. For x of shape (n, d) and scalar outputs, each of which depends on its own sample alone (in train mode
            batch norm breaks that). The base must have a second derivative, which relu has not.
        engine: "torch", autograd; "fused", native code for a :class:`TwoLayerNet` on the CPU, or on a GPU with at
            most 16 features, with all samples at once and Adam or SGD without weight decay and the like, which leaves
            ``.grad`` empty; or "auto", which chooses the fastest one that serves the call. ``result.engine`` says
            which it was.
        progress: Show a bar on a terminal, ten lines otherwise, nothing on other ranks than 0; needs tqdm.
        checkpoint: File to keep the state of the run in, every ``checkpoint_every`` steps and at the end; its folder is
            made. A crash at any moment leaves the last whole one. A file that is there is an error unless ``resume``.
        resume: Continue from ``checkpoint``, to bitwise the result of a run that was never interrupted (torch's global
            random state is set back to that of the checkpoint); start afresh if there is no such file yet.
        callbacks: Called after every step with a :class:`StepInfo`; raising ``StopIteration`` ends the training. One
            with an int attribute ``every`` is called after so many steps each and after the last one, so that the fused
            engine need not stop in between.
    Returns:
        Losses, s, and why the training stopped. A loss that is not finite ends it within ``CHECK_EVERY`` (100) steps as
        "diverged"; the checkpoint then stays that of an earlier step. Ctrl-C ends it after the current step, or after
        those that the fused engine has in hand, a tenth of a second's, as "interrupted"; a second Ctrl-C raises
        KeyboardInterrupt at once.
    Raises:
        TypeError, ValueError: An argument is off, or the checkpoint is of another run; before any step is done.
        FileExistsError: There is a file at ``checkpoint`` and ``resume`` is False.

    Example:
        >>> import torch, hrta_ext as hx
        >>> x = torch.linspace(0, 1, 20)[:, None]
        >>> y = torch.sin(2 * torch.pi * x[:, 0])
        >>> net = hx.TwoLayerNet(1, 50, seed=0)
        >>> result = hx.fit(net, x, y, s=(0.5, 1.0), steps=(50, 100), lr=1e-2)
        >>> result.stop_reason, result.loss.shape, bool(result.loss[-1] < result.loss[0])
        ('finished', torch.Size([150]), True)
    """
    watchers = _check_callbacks(callbacks)
    watched = any(every == 1 for _, every in watchers)
    samples = Samples(x, y, sample_weight, target_gradient)
    plan = prepare(net, samples, s, steps, optimizer, lr, lr_schedule, batch_size, engine, watched=watched)
    keeper, saved = None, None
    checkpoint_every = check_integer(checkpoint_every, "fit: checkpoint_every")
    if checkpoint is not None:
        path = prepare_checkpoint(checkpoint, resume=resume)
        keeper = Keeper(path, checkpoint_every, plan.fingerprint())
        saved = load_checkpoint(path, keeper.mark) if path.exists() else None
    elif resume:
        raise ValueError("fit: resume=True needs the path of a checkpoint")
    bar = Progress(plan.rates.total_steps, 0 if saved is None else saved["step"]) if progress else None
    run = plan.start()
    if saved is not None:
        run.restore(saved)
    try:
        stop_reason = _train(run, watchers, keeper, bar)
    finally:
        if bar is not None:
            bar.bar.close()
    return plan.result(run, stop_reason)


@dataclass(frozen=True)
class Plan:
    """A training whose arguments have been checked. Nothing has been done to the network yet."""

    net: nn.Module
    parameters: list[nn.Parameter]
    optimizer: Optimizer
    rates: LearningRate
    batches: Batches
    engine: Engine
    settings: dict[str, Any]

    def fingerprint(self) -> dict[str, Any]:
        """What a checkpoint of this training carries."""
        settings = {**self.settings, "lr_schedule factors": self.rates.samples()}
        return fingerprint(self.net, self.optimizer, self.batches.samples, settings)

    def start(self) -> Run:
        """The run before its first step; sets the first s."""
        stage_steps = self.settings["steps"]
        milestones = [sum(stage_steps[:p]) for p in range(1, len(stage_steps))]
        scheduler = HomotopyScheduler(self.net, self.settings["s"], milestones)
        return Run(self.net, self.optimizer, scheduler, self.rates, self.batches, self.engine)

    def result(self, run: Run, stop_reason: str) -> FitResult:
        """What ``run`` did."""
        samples = self.batches.samples
        x = samples.x
        s_values = torch.tensor(self.settings["s"], dtype=torch.float64)
        ends = torch.tensor([0, *self.settings["steps"]]).cumsum(0).clamp(max=run.step)
        return FitResult(
            net=self.net,
            loss=torch.tensor(run.loss, dtype=torch.float64),
            s=torch.repeat_interleave(s_values, ends.diff()),
            stop_reason=stop_reason,
            seconds=run.seconds,
            settings={
                **self.settings,
                "engine": self.engine.name,
                "sample_weight": samples.sample_weight is not None,
                "target_gradient": samples.target_gradient is not None,
                "n_samples": x.shape[0],
                "n_parameters": sum(p.numel() for p in self.parameters),
                "network": type(self.net).__name__,
                "device": str(x.device),
                "dtype": str(x.dtype).removeprefix("torch."),
            },
        )


def prepare(
    net: nn.Module,
    samples: Samples,
    s: float | Sequence[float],
    steps: int | Sequence[int],
    optimizer: str | OptimizerFactory,
    lr: float,
    lr_schedule: str | Callable[[int], float] | None,
    batch_size: int | None,
    engine: str,
    *,
    watched: bool,
) -> Plan:
    """Check the arguments of :func:`fit`; ``watched`` says that there are callbacks after every single step."""
    parameters = _check_net(net)
    check_samples(parameters, samples)
    if samples.target_gradient is not None:
        _check_curvature(net)
    samples = samples.detach()
    s_values, stage_steps = check_stages(s, steps)
    batch_size = _check_batch_size(batch_size, samples.x.shape[0], optimizer)
    if engine not in ("auto", "fused", "torch"):
        raise ValueError(f'fit: engine must be "auto", "fused" or "torch", got {engine!r}')
    built = build_optimizer(optimizer, parameters, lr)
    rates = LearningRate(lr_schedule, built, sum(stage_steps))
    batches = Batches(samples, batch_size)
    chosen = _choose_engine(engine, net, built, rates, batches, watched)
    settings = {
        "s": s_values,
        "steps": stage_steps,
        "optimizer": optimizer if isinstance(optimizer, str) else type(built).__name__,
        "lr": float(lr),
        "lr_schedule": rates.name,
        "batch_size": batch_size,
    }
    return Plan(net, parameters, built, rates, batches, chosen, settings)


def _choose_engine(
    engine: str, net: nn.Module, optimizer: Optimizer, rates: LearningRate, batches: Batches, watched: bool
) -> Engine:
    if engine != "torch":
        reason = why_not_fused(net, optimizer, batches.samples, batches.batch_size)
        if reason is None:
            assert isinstance(net, TwoLayerNet)
            return FusedEngine(net, optimizer, rates, batches.samples, watched=watched)
        if engine == "fused":
            raise ValueError(f'fit: engine "fused" does not serve this call: {reason}; use engine="auto"')
    tensors = (*net.parameters(), *batches.samples.given().values())
    if torch.is_inference_mode_enabled() or any(tensor.is_inference() for tensor in tensors):
        raise ValueError("fit: autograd needs net and data made, and fit called, outside of torch.inference_mode")
    return TorchEngine(net, optimizer, rates, batches)


def _train(run: Run, callbacks: Sequence[tuple[Callback, int]], keeper: Keeper | None, bar: Progress | None) -> str:
    """The loop: from where ``run`` stands to the end, or to the reason to stop earlier, which is returned."""
    total = run.rates.total_steps
    clock = time.perf_counter() - run.seconds
    stop_reason, saved_at = "finished", run.step
    with Interrupt() as interrupt:
        while run.step < total and stop_reason == "finished":
            before = run.step
            halts = [total, *(before + every - before % every for _, every in callbacks)]
            if keeper is not None:
                halts.append(before + keeper.every - before % keeper.every)
            if bar is not None and bar.lines:
                halts.append(bar.next_line)
            losses = run.advance(max(1, min(halts) - before))
            present = [call for call, every in callbacks if run.step % every == 0 or run.step == total]
            if present:
                scheduler, loss = run.scheduler, losses.reshape(-1)[-1]
                info = StepInfo(run.step - 1, total, scheduler.stage, scheduler.get_last_s(), run.net, loss)
                run.engine.forget()
                try:
                    for callback in present:
                        callback(info)
                except StopIteration:
                    stop_reason = "callback"
            if interrupt.requested:
                stop_reason = "interrupted"
            due = keeper is not None and run.step % keeper.every == 0
            last = run.step == total or stop_reason != "finished"
            read = losses.dim() > 0 or run.step // CHECK_EVERY > before // CHECK_EVERY  # many losses are on the CPU
            if due or last or read:
                if not run.collect() or ((due or last) and not run.is_finite()):
                    stop_reason = "diverged"
                run.seconds = time.perf_counter() - clock
            if bar is not None:
                bar.update(run, run.step - before)
            # A diverged state would only diverge again: the file keeps the last one that was good.
            if keeper is not None and (due or last) and stop_reason != "diverged" and saved_at != run.step:
                keeper.save(run)
                saved_at = run.step
    return stop_reason


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
    return parameters


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


def _check_callbacks(callbacks: Iterable[Callback]) -> list[tuple[Callback, int]]:
    """Each callback and after how many steps it is called."""
    if not isinstance(callbacks, Iterable):
        raise TypeError(f"fit: callbacks must be a sequence of functions, got {type(callbacks).__name__}")
    given = []
    for i, callback in enumerate(callbacks):
        if not callable(callback):
            raise TypeError(f"fit: callbacks[{i}] must be a function, got {type(callback).__name__}")
        given.append((callback, check_integer(getattr(callback, "every", 1), f"fit: callbacks[{i}].every")))
    return given
