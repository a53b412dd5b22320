"""A training in progress: all that changes from step to step, and how Ctrl-C ends it between two of them."""

from __future__ import annotations

import math
import signal
import threading
import time
from bisect import bisect_right
from collections.abc import Mapping
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from hrta_ext.network.module import TwoLayerNet
from hrta_ext.training.adaptive import AdaptiveScheduler
from hrta_ext.training.data import Batches
from hrta_ext.training.engines import Engine
from hrta_ext.training.objective import PointTerms, put_back
from hrta_ext.training.optimizers import LearningRate
from hrta_ext.training.schedules import HomotopyScheduler

# Elements whose temporaries stay small beside a network of a hundred million neurons.
_CHECKED_AT_ONCE = 1 << 20
_SAME_SIGNAL = 3.0  # seconds


def random_state(device: torch.device) -> dict[str, Tensor]:
    """State of torch's global generators that a step on ``device`` may draw from (dropout)."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def set_random_state(state: Mapping[str, Tensor], device: torch.device) -> None:
    """Undo everything drawn since :func:`random_state`."""
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)


# What optimizers of torch keep of gradients, and in which power.
_MOMENTS = {
    **dict.fromkeys(("exp_avg", "momentum_buffer", "exp_inf", "grad_avg"), 1),
    **dict.fromkeys(("exp_avg_sq", "max_exp_avg_sq", "square_avg", "sum"), 2),
}


class Run:
    """Everything that changes while training: what a checkpoint holds."""

    def __init__(
        self,
        net: nn.Module,
        optimizer: Optimizer,
        scheduler: HomotopyScheduler | AdaptiveScheduler,
        rates: LearningRate,
        batches: Batches | PointTerms,
        engine: Engine,
        path: Tensor | None,
        before: list[tuple[Tensor, Tensor]],
    ) -> None:
        self.net, self.optimizer, self.scheduler = net, optimizer, scheduler
        self.rates, self.batches, self.engine = rates, batches, engine
        self.path = path  # s of every step, (steps,), where it moves by itself
        self.before = before  # buffers and s as they were
        self.changes: list[int] = [] if path is None else (path.diff().nonzero()[:, 0] + 1).tolist()
        self.device = batches.device
        self.ranks = net.ranks if isinstance(net, TwoLayerNet) else None  # who does the same steps
        self.step = 0
        self.seconds = 0.0
        self.loss: list[float] = []
        self.pending: list[Tensor] = []

    def advance(self, most: int) -> Tensor:
        """Up to ``most`` steps of training within a stage; their losses stay on the device until :meth:`collect`."""
        count = self.enter(most)
        try:
            losses = self.engine.train(self.step, count, self.upcoming(count))
        except Exception:
            if self.step == 0:
                self._undo()
            raise
        self.count(losses)
        return losses

    def _undo(self) -> None:
        """The first step was refused: buffers and s as they were before the run, and no gradients."""
        put_back(self.before)
        for group in self.optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = None

    def enter(self, most: int) -> int:
        """Set the s of the next step; how many steps of its stage, up to ``most``, are best done at once."""
        if self.step > 0:  # before the step, so that callbacks and the final net see the s that was trained
            before = self.scheduler.get_last_s()
            self.scheduler.step()
            if self.scheduler.keep_function and self.scheduler.get_last_s() != before:
                self._rescale_moments(self.scheduler.get_last_s() / before)
        stage_end = self.scheduler.next_change(self.step) or self.rates.total_steps
        if self.scheduler.keep_function:  # the weights change with s, between two calls of an engine
            following = bisect_right(self.changes, self.step)
            stage_end = min([stage_end, *self.changes[following : following + 1]])
        return min(most, stage_end - self.step, self.engine.steps_at_once())

    def _rescale_moments(self, ratio: float) -> None:
        """The output weights have shrunk by the ratio of the two s, so their gradients have grown by it."""
        assert isinstance(self.net, TwoLayerNet)
        state = self.optimizer.state.get(self.net.output_weight, {})
        for name, power in _MOMENTS.items():
            if isinstance(state.get(name), Tensor):
                state[name].mul_(ratio**power)

    def upcoming(self, count: int) -> Tensor | None:
        """s of so many steps and of the one after them, (count + 1,); None where it stays that of the network."""
        if not self.scheduler.moves or self.scheduler.keep_function or self.path is None:
            return None
        last = self.path.numel() - 1
        return self.path[torch.arange(self.step, self.step + count + 1).clamp(max=last)]

    def count(self, losses: Tensor) -> None:
        """Note that the steps with these losses have been done."""
        self.scheduler.advance(losses.numel() - 1)
        self.pending.append(losses)
        self.step += losses.numel()

    def collect(self) -> bool:
        """Read the losses off the device; False when one of them is not finite."""
        if not self.pending:
            return True
        together = torch.cat([losses.reshape(-1) for losses in self.pending])
        if self.ranks is not None and self.engine.name == "torch":  # native code's losses are told with the outputs
            together = self.ranks.from_first(together)
        values = together.tolist()
        self.pending.clear()
        self.batches.collect()
        self.loss += values
        return all(map(math.isfinite, values))

    def is_finite(self) -> bool:
        """Whether every parameter is finite: an update can break them after a loss that was still a number."""
        trained = (p for group in self.optimizer.param_groups for p in group["params"])
        distinct = {id(p): p for p in (*self.net.parameters(), *trained)}.values()
        parts = (part for p in distinct for part in p.detach().reshape(-1).split(_CHECKED_AT_ONCE))
        finite = all(bool(part.isfinite().all()) for part in parts)
        return finite if self.ranks is None else self.ranks.total(not finite) == 0

    def state(self) -> dict[str, Any]:
        """All that :meth:`restore` needs. Tensors are those in use, not copies."""
        return {
            "step": self.step,
            "loss": torch.tensor(self.loss, dtype=torch.float64),
            "seconds": self.seconds,
            "model": self.net.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "homotopy": self.scheduler.state_dict(),
            "rng": random_state(self.device),
            "shuffle": self.batches.state(),
        }

    def restore(self, saved: dict[str, Any]) -> None:
        """Stand where the run stood that gave ``saved``."""
        self.net.load_state_dict(saved["model"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.scheduler.load_state_dict(saved["homotopy"])
        self.batches.restore(saved["shuffle"], saved["step"])
        set_random_state(saved["rng"], self.device)
        self.step, self.loss, self.seconds = saved["step"], saved["loss"].tolist(), saved["seconds"]


class Interrupt:
    """Turns the first Ctrl-C into a request to stop between two steps, so that no update is ever half done.

    Only the main thread receives Ctrl-C, and a handler of the user's own is left in charge.

    Args:
        divided: Other processes do the same steps, under torchrun: SIGTERM asks too, and since torchrun passes on what
            the terminal has sent already, a second signal counts only after some seconds.
    """

    def __init__(self, *, divided: bool = False) -> None:
        self.requested, self.since, self.divided = False, 0.0, divided
        self.before: dict[signal.Signals, Any] = {signal.SIGINT: signal.default_int_handler}
        if divided:
            self.before[signal.SIGTERM] = signal.SIG_DFL
        self.installed: list[signal.Signals] = []

    def _request(self, signal_number: int, frame: FrameType | None) -> None:
        if not self.requested:
            self.requested, self.since = True, time.monotonic()
            if not self.divided:
                self._put_back()
        elif time.monotonic() - self.since > _SAME_SIGNAL:
            self._put_back()
            signal.raise_signal(signal_number)

    def is_requested(self) -> bool:
        """Whether somebody has asked."""
        return self.requested

    def __enter__(self) -> Interrupt:
        if threading.current_thread() is threading.main_thread():
            self.installed = [number for number, own in self.before.items() if signal.getsignal(number) is own]
            for number in self.installed:
                signal.signal(number, self._request)
        return self

    def __exit__(self, *exception: object) -> None:
        self._put_back()

    def _put_back(self) -> None:
        for number in self.installed:
            signal.signal(number, self.before[number])
