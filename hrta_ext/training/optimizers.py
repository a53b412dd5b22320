"""The optimizer of a training, from a name or from a class of torch's."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from numbers import Real

import torch
from torch import nn
from torch.optim import Optimizer

# Elements above which torch splits an elementwise CPU operation among threads (at::internal::GRAIN_SIZE).
_CPU_GRAIN = 32768

OptimizerFactory = Callable[..., Optimizer]


def build_optimizer(optimizer: str | OptimizerFactory, parameters: list[nn.Parameter], lr: float) -> Optimizer:
    """The optimizer that ``fit`` was asked for; TypeError or ValueError that names the argument otherwise."""
    if isinstance(lr, bool) or not isinstance(lr, Real):
        raise TypeError(f"fit: lr must be a number, got {lr!r}")
    lr = float(lr)
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
        if parameters[0].device.type != "cpu" or largest > _CPU_GRAIN or torch.get_num_threads() == 1:
            with suppress(RuntimeError):  # no such kernel for this device or dtype
                return named[optimizer](parameters, lr=lr, fused=True)
        return named[optimizer](parameters, lr=lr, foreach=True)
    if not callable(optimizer):
        raise TypeError(f"fit: optimizer must be a name or a torch.optim class, got {type(optimizer).__name__}")
    built = optimizer(parameters, lr=lr)
    if not isinstance(built, Optimizer):
        raise TypeError(f"fit: optimizer must build a torch.optim.Optimizer, got {type(built).__name__}")
    return built
