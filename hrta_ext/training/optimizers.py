"""The optimizer of a training, from a name or from a class of torch's, and its learning rate at every step."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from numbers import Real

import torch
from torch import nn
from torch.optim import Optimizer

from hrta_ext.inputs import as_float, shown

# Elements above which torch splits an elementwise CPU operation among threads (at::internal::GRAIN_SIZE).
_CPU_GRAIN = 32768

OptimizerFactory = Callable[..., Optimizer]


def build_optimizer(
    optimizer: str | OptimizerFactory, parameters: list[nn.Parameter], lr: float, *, divided: bool = False
) -> Optimizer:
    """The optimizer that ``fit`` was asked for; TypeError or ValueError that names the argument otherwise.

    With ``divided`` parameters are shares of ranks, and all ranks shall take the same kernel, whatever their share.
    """
    if isinstance(lr, bool) or not isinstance(lr, Real):
        raise TypeError(f"fit: lr must be a number, got {shown(lr)}")
    lr = as_float(lr)
    if not 0.0 < lr < math.inf:
        raise ValueError(f"fit: lr must be positive and finite, got {lr}")
    if isinstance(optimizer, Optimizer):
        raise TypeError(f"fit: optimizer must be the class {type(optimizer).__name__}, not an instance of it")
    if isinstance(optimizer, str):
        named: dict[str, OptimizerFactory] = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD, "gd": torch.optim.SGD}
        if optimizer not in named:
            raise ValueError(f'fit: optimizer must be "adam", "sgd", "gd" or a torch.optim class, got {optimizer!r}')
        # One kernel for all parameters. On the CPU it wakes every thread even for ten numbers, which takes milliseconds
        # when cores are shared, so there it pays only for one thread, where it saves 100 us a step, and for parameters
        # that torch would split among threads anyway.
        largest = max(p.numel() for p in parameters)
        one = divided or torch.get_num_threads() == 1
        if parameters[0].device.type != "cpu" or largest > _CPU_GRAIN or one:
            with suppress(RuntimeError):  # no such kernel for this device or dtype
                return named[optimizer](parameters, lr=lr, fused=True)
        return named[optimizer](parameters, lr=lr, foreach=True)
    if not callable(optimizer):
        raise TypeError(f"fit: optimizer must be a name or a torch.optim class, got {type(optimizer).__name__}")
    built = optimizer(parameters, lr=lr)
    if not isinstance(built, Optimizer):
        raise TypeError(f"fit: optimizer must build a torch.optim.Optimizer, got {type(built).__name__}")
    return built


class LearningRate:
    """The learning rate of every step: that of the optimizer's groups times a factor that depends on the step alone.

    Args:
        schedule: None, "cosine" (from 1 to 0 over ``total_steps``), or a callable step -> factor, steps counted from 0.
        optimizer: Freshly built; its present rates are the ones multiplied.
        total_steps: Steps of the whole run.
    """

    def __init__(self, schedule: str | Callable[[int], float] | None, optimizer: Optimizer, total_steps: int) -> None:
        self.schedule, self.optimizer, self.total_steps = schedule, optimizer, total_steps
        self.base = [group["lr"] for group in optimizer.param_groups]
        self.factor: Callable[[int], float] | None
        if schedule is None:
            self.name, self.factor = "constant", None
        elif schedule == "cosine":
            self.name, self.factor = "cosine", lambda step: 0.5 * (1.0 + math.cos(math.pi * step / total_steps))
        elif isinstance(schedule, str):
            raise ValueError(f'fit: lr_schedule must be None, "cosine" or a function of the step, got {schedule!r}')
        elif not callable(schedule) or isinstance(schedule, type):
            shown = schedule.__name__ if isinstance(schedule, type) else type(schedule).__name__
            raise TypeError(f'fit: lr_schedule must be None, "cosine" or a function step -> factor, got {shown}')
        else:
            self.name, self.factor = getattr(schedule, "__name__", type(schedule).__name__), schedule
            self._checked(0)

    def _checked(self, step: int) -> float:
        assert self.factor is not None
        factor = self.factor(step)
        try:
            value = as_float(factor)
        except (TypeError, ValueError, RuntimeError):
            raise TypeError(
                f"fit: lr_schedule must give a number at every step, got {factor!r} at step {step}"
            ) from None
        if not 0.0 <= value < math.inf:
            raise ValueError(f"fit: lr_schedule must give a finite factor of at least 0, got {value} at step {step}")
        return value

    def samples(self) -> list[float]:
        """The factor at five steps of the run, by which two schedules can be told apart."""
        if self.factor is None:
            return []
        return [self._checked((self.total_steps - 1) * i // 4) for i in range(5)]

    def agrees(self, other: LearningRate) -> bool:
        """Whether both give the same rates at every step."""
        same = self.schedule is other.schedule or self.schedule == other.schedule == "cosine"
        return same and self.base == other.base and self.total_steps == other.total_steps

    def apply(self, step: int) -> None:
        """Set the rates that step number ``step`` is to use."""
        if self.factor is not None:
            factor = self._checked(step)
            for group, base in zip(self.optimizer.param_groups, self.base, strict=True):
                group["lr"] = base * factor
