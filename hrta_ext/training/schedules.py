"""Which s a step trains with: stages of given length, or until the loss stops decaying."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from hrta_ext.activation.modules import homotopy_layers, set_homotopy
from hrta_ext.inputs import as_float, check_homotopy_parameter, check_integer, shown


def _check_values(values: Sequence[float], name: str, module: nn.Module) -> tuple[float, ...]:
    if not _is_many(values):
        raise TypeError(f"{name}: values must be a sequence of numbers, got {shown(values)}")
    layers = homotopy_layers(module) if isinstance(module, nn.Module) else []
    dtypes = {torch.float64, *(layer.s.dtype for layer in layers)}
    narrowest = min(dtypes, key=lambda dtype: torch.finfo(dtype).max)
    checked = tuple(check_homotopy_parameter(s, f"{name}: values[{i}]", narrowest) for i, s in enumerate(values))
    if not checked:
        raise ValueError(f"{name}: values must hold at least one s, got none")
    return checked


def check_stages(
    s: float | Sequence[float], steps: int | Sequence[int], dtype: torch.dtype
) -> tuple[list[float], list[int]]:
    """``s``, finite in ``dtype``, and ``steps`` of ``fit`` as lists of one entry per stage."""
    s_given: list[Any] = list(s) if _is_many(s) else [s]  # type: ignore[arg-type]
    steps_given: list[Any] = list(steps) if _is_many(steps) else [steps]  # type: ignore[arg-type]
    if len(s_given) != len(steps_given):
        raise ValueError(f"fit: steps must have one entry for each of the {len(s_given)} s, got {len(steps_given)}")
    if not s_given:
        raise ValueError("fit: s must hold at least one value, got none")
    s_values = [check_homotopy_parameter(value, f"fit: s[{p}]", dtype) for p, value in enumerate(s_given)]
    return s_values, [check_integer(count, f"fit: steps[{p}]") for p, count in enumerate(steps_given)]


def _is_many(value: object) -> bool:
    """Whether it is a sequence: a tensor or an array of no dimension is none."""
    many = hasattr(value, "__len__") or hasattr(value, "__iter__")
    return many and getattr(value, "ndim", 1) > 0 and not isinstance(value, (str, bytes))


class _Schedule:
    """The stages s_1, ..., s_M of a module. Subclasses decide in ``step`` when to go on to the next one."""

    _saved: tuple[str, ...] = ("values", "stage")

    def __init__(self, module: nn.Module, values: Sequence[float]) -> None:
        self.values = _check_values(values, type(self).__name__, module)
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
    """Piecewise-constant s: ``values[p]`` from step ``milestones[p - 1]`` up to ``milestones[p]`` (docs/theory.md 2).

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
        values = _check_values(values, "HomotopyScheduler", module)
        if not _is_many(milestones):
            raise TypeError(f"HomotopyScheduler: milestones must be a sequence of ints, got {shown(milestones)}")
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
    """Goes on to the next s when the loss stops decaying, the second reading of Algorithm 1 (docs/theory.md 2).

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
            raise TypeError(f"PlateauHomotopyScheduler: threshold must be a number, got {shown(threshold)}")
        if not 0.0 <= threshold < 1.0:
            raise ValueError(
                f"PlateauHomotopyScheduler: threshold must be at least 0 and below 1, got {shown(threshold)}"
            )
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
        single = isinstance(loss, Tensor) and loss.numel() == 1 and not (loss.is_complex() or loss.is_meta)
        if isinstance(loss, bool) or not (single or isinstance(loss, (int, float))):
            raise TypeError(f"PlateauHomotopyScheduler.step: loss must be one number, got {shown(loss)}")
        value = float(loss) if single else as_float(loss)
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
