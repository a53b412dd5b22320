"""What changes from step to step of a training: s above all, and the learning rate and the batch."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from hrta_ext.activation.modules import homotopy_layers, set_homotopy
from hrta_ext.inputs import check_homotopy_parameter, check_integer
from hrta_ext.training.data import Samples


def _check_values(values: Sequence[float], name: str) -> tuple[float, ...]:
    if isinstance(values, (str, bytes)) or not hasattr(values, "__iter__"):
        raise TypeError(f"{name}: values must be a sequence of numbers, got {values!r}")
    checked = tuple(check_homotopy_parameter(s, f"{name}: values[{i}]") for i, s in enumerate(values))
    if not checked:
        raise ValueError(f"{name}: values must hold at least one s, got none")
    return checked


def check_stages(s: float | Sequence[float], steps: int | Sequence[int]) -> tuple[list[float], list[int]]:
    """``s`` and ``steps`` of ``fit`` as lists of one entry per stage."""
    s_given: list[Any] = list(s) if _is_many(s) else [s]  # type: ignore[arg-type]
    steps_given: list[Any] = list(steps) if _is_many(steps) else [steps]  # type: ignore[arg-type]
    if len(s_given) != len(steps_given):
        raise ValueError(f"fit: steps must have one entry for each of the {len(s_given)} s, got {len(steps_given)}")
    if not s_given:
        raise ValueError("fit: s must hold at least one value, got none")
    s_values = [check_homotopy_parameter(value, f"fit: s[{p}]") for p, value in enumerate(s_given)]
    return s_values, [check_integer(count, f"fit: steps[{p}]") for p, count in enumerate(steps_given)]


def _is_many(value: object) -> bool:
    return value.dim() > 0 if isinstance(value, Tensor) else hasattr(value, "__len__") and not isinstance(value, str)


class _Schedule:
    """The stages s_1, ..., s_M of a module. Subclasses decide in ``step`` when to go on to the next one."""

    _saved: tuple[str, ...] = ("values", "stage")

    def __init__(self, module: nn.Module, values: Sequence[float]) -> None:
        self.values = _check_values(values, type(self).__name__)
        self.module = module
        self.stage = 0
        set_homotopy(module, self.values[0])

    def get_last_s(self) -> float:
        """The s of the current stage, the one last set on the module."""
        return self.values[self.stage]

    def _enter(self, stage: int) -> None:
        # Only a change of stage touches the module: a learnable s keeps what it has learned within a stage.
        if stage != self.stage:
            self.stage = stage
            set_homotopy(self.module, self.values[stage])

    def state_dict(self) -> dict[str, Any]:
        """Everything but the module, as plain Python values."""
        return {key: getattr(self, key) for key in self._saved}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Continue where the scheduler that made ``state_dict`` stood; its schedule replaces this one's.

        Sets s on the module again, except where s is learned: a learned s comes back with the module's own state_dict,
        to be loaded after this scheduler is constructed.

        Raises:
            ValueError: ``state_dict`` has other keys, so it is not of this kind of scheduler.
        """
        if set(state_dict) != set(self._saved):
            expected, found = ", ".join(sorted(self._saved)), ", ".join(sorted(map(str, state_dict)))
            raise ValueError(f"{type(self).__name__}.load_state_dict: state must have the keys {expected}, got {found}")
        for key in self._saved:
            value = state_dict[key]
            setattr(self, key, tuple(value) if isinstance(value, (list, tuple)) else value)
        for layer in homotopy_layers(self.module):
            if not isinstance(layer.s, nn.Parameter):
                layer.set_s(self.get_last_s())


class HomotopyScheduler(_Schedule):
    """Piecewise-constant s: ``values[p]`` from step ``milestones[p - 1]`` up to ``milestones[p]`` (THEORY, section 2).

    Algorithm 1 of Yang, Chen, Hao 2025 with stages of fixed length, in the manner of
    ``torch.optim.lr_scheduler.MultiStepLR``: construction sets s to ``values[0]``, and ``step()`` is called once after
    each ``optimizer.step()``. A learnable s starts each stage at the scheduled value and moves on from there.

    Args:
        module: A network with homotopy layers.
        values: s_1, ..., s_{k+1}, finite.
        milestones: k numbers of steps, positive and increasing, after which the next value applies.
    Raises:
        TypeError, ValueError: No values, a value not finite, milestones not increasing or not one fewer than the
            values, or a module without homotopy layers.

    Example:
        >>> import torch, hrta_ext as hx
        >>> net = hx.TwoLayerNet(1, 8, seed=0)
        >>> scheduler = hx.HomotopyScheduler(net, values=[0.5, 1.0], milestones=[2])
        >>> for step in range(3):
        ...     print(step, scheduler.get_last_s())  # here: one step of the optimizer
        ...     scheduler.step()
        0 0.5
        1 0.5
        2 1.0
    """

    _saved = ("values", "stage", "milestones", "last_step")

    def __init__(self, module: nn.Module, values: Sequence[float], milestones: Sequence[int]) -> None:
        values = _check_values(values, "HomotopyScheduler")
        if isinstance(milestones, (str, bytes)) or not hasattr(milestones, "__iter__"):
            raise TypeError(f"HomotopyScheduler: milestones must be a sequence of ints, got {milestones!r}")
        self.milestones = tuple(
            check_integer(m, f"HomotopyScheduler: milestones[{i}]") for i, m in enumerate(milestones)
        )
        if len(self.milestones) != len(values) - 1:
            raise ValueError(
                f"HomotopyScheduler: {len(values)} values need {len(values) - 1} milestones, got {len(self.milestones)}"
            )
        if any(later <= earlier for earlier, later in pairwise(self.milestones)):
            raise ValueError(f"HomotopyScheduler: milestones must increase strictly, got {list(self.milestones)}")
        self.last_step = 0
        super().__init__(module, values)

    def step(self) -> None:
        """Count one step of training and set the s of the next one."""
        self.last_step += 1
        self._enter(bisect_right(self.milestones, self.last_step))


class PlateauHomotopyScheduler(_Schedule):
    """Goes on to the next s when the loss stops decaying, the second reading of Algorithm 1 (THEORY, section 2).

    A step improves when ``loss < best - threshold * |best|``, the best loss of the stage so far; the absolute value
    makes it hold for the negative energies of the Deep Ritz method too. After ``patience`` steps in a row without
    improvement the next value is set and the search for a best loss starts anew. The last value stays.

    Args:
        module: A network with homotopy layers.
        values: s_1, ..., s_M, finite.
        patience: Steps without improvement before the next value, at least 1.
        threshold: Smallest relative improvement that counts, in [0, 1).
    Raises:
        TypeError, ValueError: No values, a value not finite, a patience below 1, a threshold outside [0, 1), or a
            module without homotopy layers.

    Example:
        >>> import torch, hrta_ext as hx
        >>> net = hx.TwoLayerNet(1, 8, seed=0)
        >>> scheduler = hx.PlateauHomotopyScheduler(net, values=[1.0, 1.5], patience=2)
        >>> for loss in (1.0, 0.5, 0.5, 0.5):
        ...     scheduler.step(loss)
        >>> scheduler.get_last_s()
        1.5
    """

    _saved = ("values", "stage", "patience", "threshold", "best", "num_bad_steps")

    def __init__(self, module: nn.Module, values: Sequence[float], *, patience: int, threshold: float = 1e-3) -> None:
        self.patience = check_integer(patience, "PlateauHomotopyScheduler: patience")
        if isinstance(threshold, bool) or not isinstance(threshold, (int, float)):
            raise TypeError(f"PlateauHomotopyScheduler: threshold must be a number, got {threshold!r}")
        if not 0.0 <= threshold < 1.0:
            raise ValueError(f"PlateauHomotopyScheduler: threshold must be at least 0 and below 1, got {threshold}")
        self.threshold = float(threshold)
        self.best, self.num_bad_steps = math.inf, 0
        super().__init__(module, values)

    def step(self, loss: float | Tensor) -> None:
        """Take note of the loss of one step of training; set the next s if it is time.

        Args:
            loss: A number or a tensor of one element.
        Raises:
            ValueError: The loss is NaN: waiting for it to improve would train garbage.
        """
        single = isinstance(loss, Tensor) and loss.numel() == 1
        if isinstance(loss, bool) or not (single or isinstance(loss, (int, float))):
            raise TypeError(f"PlateauHomotopyScheduler.step: loss must be one number, got {loss!r}")
        value = float(loss)
        if math.isnan(value):
            raise ValueError("PlateauHomotopyScheduler.step: loss is NaN, so the training has diverged; lower the lr")
        bar = self.best if math.isinf(self.best) else self.best - self.threshold * abs(self.best)
        if value < bar:
            self.best, self.num_bad_steps = value, 0
            return
        self.num_bad_steps += 1
        if self.num_bad_steps >= self.patience and self.stage + 1 < len(self.values):
            self.best, self.num_bad_steps = math.inf, 0
            self._enter(self.stage + 1)


class LearningRate:
    """The learning rate of every step: that of the optimizer's groups times a factor that depends on the step alone.

    Args:
        schedule: None, "cosine" (from 1 to 0 over ``total_steps``), or a callable step -> factor, steps counted from 0.
        optimizer: Freshly built; its present rates are the ones multiplied.
        total_steps: Steps of the whole run.
    """

    def __init__(self, schedule: str | Callable[[int], float] | None, optimizer: Optimizer, total_steps: int) -> None:
        self.optimizer, self.total_steps = optimizer, total_steps
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
            value = float(factor)
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

    def apply(self, step: int) -> None:
        """Set the rates that step number ``step`` is to use."""
        if self.factor is not None:
            factor = self._checked(step)
            for group, base in zip(self.optimizer.param_groups, self.base, strict=True):
                group["lr"] = base * factor


class Batches:
    """The samples of every step. Each epoch is a new permutation from a generator that starts at torch's seed.

    The permutations are drawn on the CPU, so they are the same whatever device the samples are on, and do not touch
    torch's global random state.

    Args:
        samples: Of all steps.
        batch_size: Samples per step; None for all of them in their own order.
    """

    def __init__(self, samples: Samples, batch_size: int | None) -> None:
        self.samples, self.batch_size = samples, batch_size
        self.generator = torch.Generator().manual_seed(torch.initial_seed())
        self.epoch_state = self.generator.get_state()
        self.order = torch.empty(0, dtype=torch.int64)

    def get(self, step: int) -> Samples:
        """Samples of step number ``step``; steps are to be asked for in order."""
        if self.batch_size is None:
            return self.samples
        n = self.samples.x.shape[0]
        position = step % -(-n // self.batch_size)
        if position == 0:
            self.epoch_state = self.generator.get_state()
            self._shuffle()
        chosen = self.order[position * self.batch_size : (position + 1) * self.batch_size]
        return self.samples.take(chosen)

    def _shuffle(self) -> None:
        x = self.samples.x
        self.order = torch.randperm(x.shape[0], generator=self.generator).to(x.device)

    def state(self) -> Tensor:
        """The generator's state at the start of the current epoch."""
        return self.epoch_state

    def restore(self, state: Tensor, step: int) -> None:
        """Stand where a run stood that had done ``step`` steps and then gave ``state``."""
        self.generator.set_state(state)
        if self.batch_size is not None and step > 0:
            self.epoch_state = state
            self._shuffle()
