"""Homotopy relaxation training: one loop for every network, with checkpoints, progress and the reason it stopped."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from torch import Tensor, nn

from hrta_ext.groups import ranks_of, together
from hrta_ext.inputs import check_flag, check_integer
from hrta_ext.training.adaptive import AdaptiveHomotopy
from hrta_ext.training.checkpoints import Keeper, load_checkpoint, prepare_checkpoint
from hrta_ext.training.data import Samples
from hrta_ext.training.folders import check_common
from hrta_ext.training.optimizers import OptimizerFactory
from hrta_ext.training.plan import Recipe, check_callbacks, prepare
from hrta_ext.training.progress import Progress
from hrta_ext.training.ramps import Moving
from hrta_ext.training.results import Callback, FitResult, StepInfo
from hrta_ext.training.run import Interrupt, Run
from hrta_ext.training.shared import agreed, environment, ranks_of_net, shuffle_seed
from hrta_ext.training.terms import Task, as_task

# Losses leave the device, and are checked for NaN and Inf, once in so many steps: reading one makes the host wait.
CHECK_EVERY = 100


def fit(
    net: nn.Module,
    x: Any = None,
    y: Tensor | None = None,
    *,
    loss: Any = None,
    parameters: Iterable[nn.Parameter] = (),
    s: float | Moving | AdaptiveHomotopy | Sequence[float | Moving] = (0.5, 1.0),
    steps: int | Sequence[int] = (3000, 13000),
    keep_function: bool = False,
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
    """Train ``net`` by homotopy relaxation: ``steps[p]`` steps at ``s[p]``, one stage after the other, or along a ramp.

    Minimises R = 1/(2n) sum_i c_i [ |net(x_i) - y_i|^2 + |grad net(x_i) - g_i|^2 ] (docs/theory.md 1 and 2; Yang,
    Chen, Hao 2025, Algorithm 1, where R is the first term with c = 1). c is ``sample_weight``, 1 unless given; the sum
    is divided by n, not by sum_i c_i. g is ``target_gradient``; unless it is given there is no second term, with it R
    is a Sobolev loss. Each stage starts from the weights that the last one ended with, and the optimizer keeps running
    through a change of s, moments and step count included. A learnable s starts each stage at the scheduled value. The
    train/eval mode of ``net`` is left as it is.

    Args:
        net: Any module with homotopy layers; trained in place. A :class:`TwoLayerNet` with ``group`` is trained by all
            ranks together: each calls ``fit`` with the same arguments (docs/distributed.md).
        x: Samples, shape (n, ...), on the device and of the dtype of the network; with ``loss`` its points, (n, d), or
            a sampler of points (:class:`Sampler`), a mapping of these for parts of a boundary (:class:`DeepRitz`), or
            nothing with terms, each of which has its own.
        y: Targets, shape (n,) or (n, ...), the shape of ``net(x)``; a trailing dimension of 1 may be missing in either.
        loss: In place of targets: a function ``loss(jet, points)`` -> (n,) of the :class:`Jet` of the network, whose
            mean is minimised; a list of :class:`Term`, whose sum is; or a ready-made one, :class:`DeepRitz` or
            :class:`Residual`. It goes with every option but those that say otherwise.
        parameters: Unknowns in ``loss``, trained and kept like the network's; those of a loss that is an ``nn.Module``
            are found.
        s: Homotopy parameter of each stage; one for a single stage. A :func:`ramp`, or any function of the step
            (counted from the start of the stage), in place of a number makes s move in it. It is called once for every
            step, before the first. An :class:`AdaptiveHomotopy` decides as the training goes.
        steps: Number of steps of each stage; where s is no sequence of as many, their sum is the length of the run.
        keep_function: A change of s leaves the function of the network as it is (:meth:`TwoLayerNet.set_s`), between
            two stages or from step to step, so that the loss does not jump; the optimizer's moments of the output
            weights grow by s'/s, as their gradients do. For a :class:`TwoLayerNet` and an s other than 0 throughout.
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
            most 64 features, with all samples at once and Adam or SGD without weight decay and the like, which leaves
            ``.grad`` empty; or "auto", which chooses the fastest one that serves the call. ``result.engine`` says
            which it was.
        progress: Show a bar on a terminal, ten lines otherwise, nothing on other ranks than 0; needs tqdm.
        checkpoint: File to keep the state of the run in, every ``checkpoint_every`` steps and at the end; its folder is
            made. A crash at any moment leaves the last whole one. A file that is there is an error unless ``resume``. A
            relative path is that of the working directory at the call. Checksums are verified on loading: 0.4 s a GB.
            Of a network with ``group`` the file names a folder beside it; either kind goes on on any number of ranks.
        resume: Continue from ``checkpoint``, to bitwise the result of a run that was never interrupted (torch's global
            random state is set back to that of the checkpoint); start afresh if there is no such file yet.
        callbacks: Called after every step with a :class:`StepInfo`; raising ``StopIteration`` ends the training. One
            with an int attribute ``every`` is called after so many steps each and after the last one, so that the fused
            engine need not stop in between. What one with ``state_dict()`` and ``load_state_dict(state)`` has seen is
            kept in the checkpoint: tensors and plain values.
    Returns:
        Losses, s, and why the training stopped. A loss that is not finite ends it within ``CHECK_EVERY`` (100) steps as
        "diverged"; the checkpoint then stays that of an earlier step. Ctrl-C ends it after the current step, or after
        those that the fused engine has in hand, a tenth of a second's, as "interrupted"; a second Ctrl-C raises
        KeyboardInterrupt at once.
    Raises:
        TypeError, ValueError: An argument is off, or the checkpoint is damaged or of another run; before any step is
            done.
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
    ranks = ranks_of_net(net)
    if ranks is None:
        ranks_of(None, "fit")  # to warn where it should
    seed = None if ranks is None else shuffle_seed(ranks)
    with together(ranks, "fit") as facts:
        progress, resume = check_flag(progress, "fit: progress"), check_flag(resume, "fit: resume")
        watchers = check_callbacks(callbacks)
        watched = any(every == 1 for _, every in watchers)
        data = _data(x, y, loss, parameters, sample_weight, target_gradient, batch_size)
        recipe = Recipe(s, steps, optimizer, lr, lr_schedule, batch_size, engine, keep_function)
        plan = prepare(net, data, recipe, watched=watched, seed=seed)
        checkpoint_every = check_integer(checkpoint_every, "fit: checkpoint_every")
        path = None if checkpoint is None else prepare_checkpoint(checkpoint, resume=resume)
        if path is None and resume:
            raise ValueError("fit: resume=True needs the path of a checkpoint")
        mark = {} if path is None and ranks is None else plan.fingerprint()
        keeper = None
        if path is not None:
            keeper = Keeper(path, checkpoint_every, mark, [callback for callback, _ in watchers])
        if ranks is not None:
            facts |= mark | environment(plan.engine.name, net)
            facts |= {"callbacks' every": [every for _, every in watchers], "resume": resume, "progress": progress}
            facts |= {"checkpoint_every": checkpoint_every, "checkpoint": path}
    if ranks is not None and path is not None:
        check_common(path, ranks)
    with together(ranks, "fit") as facts:
        saved = None
        if keeper is not None and keeper.path.exists():
            saved = load_checkpoint(keeper.path, keeper.mark, net, plan.optimizer)
        facts |= {"step of the checkpoint": None if saved is None else saved["step"]}
        bar = Progress(plan.rates.total_steps, 0 if saved is None else saved["step"], ranks) if progress else None
    run = plan.start()
    if keeper is not None and saved is not None:
        with together(ranks, "fit"):
            run.restore(saved)
            keeper.restore(saved)
    try:
        with together(ranks, "fit"):  # an error, of whatever, is told in the next message of the others
            stop_reason = train_run(run, watchers, keeper, bar)
    finally:
        if bar is not None:
            bar.bar.close()
    return plan.result(run, stop_reason)


def _data(
    x: Any,
    y: Tensor | None,
    loss: Any,
    parameters: Iterable[nn.Parameter],
    sample_weight: Tensor | None,
    target_gradient: Tensor | None,
    batch_size: int | None,
) -> Samples | Task:
    """What is trained on: samples and targets, or the terms of a loss."""
    if loss is None:
        if y is None:
            raise TypeError("fit: y must be a tensor, got None; without targets give loss")
        if not isinstance(parameters, tuple) or parameters:
            raise ValueError("fit: parameters are those of a loss, got parameters without loss")
        return Samples(x, y, sample_weight, target_gradient)
    others = {"y": y, "sample_weight": sample_weight, "target_gradient": target_gradient, "batch_size": batch_size}
    for name, value in others.items():
        if value is not None:
            raise ValueError(f"fit: {name} and loss do not go together: {name} belongs to the squared error")
    return as_task(x, loss, parameters)


def train_run(
    run: Run,
    callbacks: Sequence[tuple[Callback, int]] = (),
    keeper: Keeper | None = None,
    bar: Progress | None = None,
) -> str:
    """The loop: from where ``run`` stands to the end, or to the reason to stop earlier, which is returned."""
    total = run.rates.total_steps
    clock = time.perf_counter() - run.seconds
    stop_reason, saved_at = "finished", run.step
    with Interrupt(divided=run.ranks is not None) as interrupt:
        if run.ranks is not None:
            run.ranks.asks, run.ranks.asked = interrupt.is_requested, False
        while run.step < total and stop_reason == "finished":
            before = run.step
            halts = [total, *(before + every - before % every for _, every in callbacks)]
            if keeper is not None:
                halts.append(before + keeper.every - before % keeper.every)
            if bar is not None and bar.halts:
                halts.append(bar.next_line)
            losses = run.advance(max(1, min(halts) - before))
            called = [call for call, every in callbacks if _is_due(run, every)]
            stop_reason = _call(run, called, losses)
            if run.ranks is not None:
                stop_reason = agreed(run.ranks, stop_reason, called=len(called) > 0)
            elif interrupt.requested:
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


def _is_due(run: Run, every: int) -> bool:
    return run.step % every == 0 or run.step == run.rates.total_steps


def _call(run: Run, callbacks: Sequence[Callback], losses: Tensor) -> str:
    """Tell the callbacks of the last step; whether one of them ends the training."""
    if not callbacks:
        return "finished"
    scheduler, loss = run.scheduler, losses.reshape(-1)[-1]
    info = StepInfo(run.step - 1, run.rates.total_steps, scheduler.stage, scheduler.get_last_s(), run.net, loss)
    run.engine.forget()
    try:
        for callback in callbacks:
            callback(info)
    except StopIteration:
        return "callback"
    return "finished"
