"""Which s a step trains with: stages of given length, in which s may move, or until the loss stops decaying."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from hrta_ext.activation.modules import homotopy_layers, set_homotopy
from hrta_ext.inputs import as_float, check_flag, check_homotopy_parameter, check_integer, shown
from hrta_ext.network.keeping import Rest, empty_rest, rescale
from hrta_ext.network.module import TwoLayerNet
from hrta_ext.training.ramps import Listed, Moving, Ramp, described, is_moving, name_of, restored, value_at
from hrta_ext.training.states import Checks, fraction, increasing, many, number, positive, tensors, whole


def _check_values(values: Any, name: str, module: nn.Module, *, may_move: bool = False) -> tuple[float | Moving, ...]:
    if not _is_many(values):
        raise TypeError(f"{name}: values must be a sequence of numbers, got {shown(values)}")
    layers = homotopy_layers(module) if isinstance(module, nn.Module) else []
    dtype = min({torch.float64, *(layer.s.dtype for layer in layers)}, key=lambda dtype: torch.finfo(dtype).max)
    checked: list[float | Moving] = []
    for i, value in enumerate(values):
        if may_move and is_moving(value):
            value_at(value, 0, f"{name}: values[{i}]", dtype)
            if any(isinstance(layer.s, nn.Parameter) for layer in layers):
                raise ValueError(f"{name}: values[{i}] moves s from step to step, which the network learns itself")
            checked.append(value)
        else:
            checked.append(check_homotopy_parameter(value, f"{name}: values[{i}]", dtype))
    if not checked:
        raise ValueError(f"{name}: values must hold at least one s, got none")
    return tuple(checked)


@dataclass(frozen=True)
class Stages:
    """``s`` and ``steps`` of ``fit``: one entry per stage."""

    values: list[float | Moving]
    steps: list[int]
    path: Tensor | None  # s of every step of the run, (steps,) float64, where s changes within a stage

    def taken(self, steps: int) -> Tensor:
        """s of the first so many steps, float64."""
        if self.path is not None:
            return self.path[:steps].clone()
        ends = torch.tensor([0, *self.steps]).cumsum(0).clamp(max=steps)
        return torch.repeat_interleave(torch.tensor(self.values, dtype=torch.float64), ends.diff())

    @property
    def milestones(self) -> list[int]:
        """The first step of every stage but the first."""
        return list(accumulate(self.steps))[:-1]

    def names(self) -> list[float | str]:
        """Numbers, and what stands for a function in a report."""
        return [value if isinstance(value, float) else name_of(value) for value in self.values]


def check_stages(s: object, steps: object, dtype: torch.dtype) -> Stages:
    """Values finite in ``dtype`` at every step; one function of the step takes all ``steps``."""
    s_given: list[Any] = list(s) if _is_many(s) else [s]  # type: ignore[call-overload]
    steps_given: list[Any] = list(steps) if _is_many(steps) else [steps]  # type: ignore[call-overload]
    counts = [check_integer(count, f"fit: steps[{p}]") for p, count in enumerate(steps_given)]
    if is_moving(s) and counts:
        counts = [sum(counts)]
    if len(s_given) != len(counts):
        hint = f"; steps={counts[0]} goes with one s, such as s=1.0" if len(counts) == 1 else ""
        hint = "; one s goes with one number, such as steps=1000" if len(s_given) == 1 else hint
        raise ValueError(f"fit: steps must have one entry for each of the {len(s_given)} s, got {len(counts)}{hint}")
    if not s_given:
        raise ValueError("fit: s must hold at least one value, got none")
    moves = any(map(is_moving, s_given))
    values: list[float | Moving] = []
    parts: list[Tensor] = []
    for p, (value, count) in enumerate(zip(s_given, counts, strict=True)):
        if isinstance(value, Ramp):
            check_homotopy_parameter(value.start, f"fit: s[{p}]", dtype)
            check_homotopy_parameter(value.end, f"fit: s[{p}]", dtype)
            values.append(value)
            parts.append(torch.tensor([value(step) for step in range(count)], dtype=torch.float64))
        elif is_moving(value):
            every = tuple(value_at(value, step, f"fit: s[{p}]", dtype) for step in range(count))
            values.append(Listed(name_of(value), every))
            parts.append(torch.tensor(every, dtype=torch.float64))
        else:
            number = check_homotopy_parameter(value, f"fit: s[{p}]", dtype)
            values.append(number)
            if moves:
                parts.append(torch.full((count,), number, dtype=torch.float64))
    return Stages(values, counts, torch.cat(parts) if moves else None)


def check_keeps_function(
    name: str, module: object, values: Sequence[float | Moving], path: Tensor | None = None
) -> None:
    """ValueError unless every change of s can leave the function of the module as it is; ``path``: s of every step."""
    if not isinstance(module, TwoLayerNet) or isinstance(module.s, nn.Parameter):
        raise ValueError(f"{name}: keep_function needs a TwoLayerNet with s as a buffer, got {type(module).__name__}")
    for p, value in enumerate(values):
        if value == 0.0 and len(values) > 1:
            raise ValueError(f"{name}: keep_function needs an s other than 0 in every stage, value {p} is 0")
    for step in [] if path is None else (path == 0.0).nonzero()[:1, 0].tolist():
        raise ValueError(f"{name}: keep_function needs an s other than 0 at every step, step {step} has 0")


def _is_many(value: object) -> bool:
    """Whether it is a sequence: a tensor or an array of no dimension is none."""
    many = hasattr(value, "__len__") or hasattr(value, "__iter__")
    return many and getattr(value, "ndim", 1) > 0 and not isinstance(value, (str, bytes))


class Schedule:
    """The stages s_1, ..., s_M of a module. Subclasses decide in ``step`` when to go on to the next one."""

    _saved: ClassVar[Checks] = {"values": many, "stage": whole}  # with their checks
    _may_move = False  # from step to step within a stage
    keep_function = False
    rest: Rest | None = None  # with keep_function: what rounding left of the rescaled weights

    def __init__(self, module: nn.Module, values: Sequence[float | Moving]) -> None:
        self.values = tuple(values)
        self.module = module
        self.stage = 0
        self._last = self._scheduled()
        set_homotopy(module, self._last)

    def get_last_s(self) -> float:
        """The scheduled s of the current step, the one last set on the module."""
        return self._last

    def _scheduled(self) -> float:
        value = self.values[self.stage]
        return value if isinstance(value, float) else value_at(value, self._reached, type(self).__name__)

    @property
    def _reached(self) -> int:
        """Steps into the current stage, of which a function is told."""
        return 0

    def _enter(self, stage: int) -> None:
        # Only a change of stage touches the module: a learnable s keeps what it has learned within a stage.
        if stage != self.stage:
            self.stage = stage
            self._set()

    def _set(self) -> None:
        s = self._scheduled()
        if self.keep_function:
            assert isinstance(self.module, TwoLayerNet)
            if self.rest is None:
                self.rest = empty_rest(self.module)
            rescale(self.module, s, self.rest)
        set_homotopy(self.module, s)
        self._last = s

    def state_dict(self) -> dict[str, Any]:
        """Everything but the module, as plain Python values; with ``keep_function``, tensors of rounding errors too."""
        state = {key: getattr(self, key) for key in self._saved}
        reached = [self._reached if p == self.stage else 0 for p in range(len(self.values))]
        rest = {} if self.rest is None else {"rest": list(self.rest)}
        return {**state, "values": tuple(map(described, self.values, reached)), **rest}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Continue where the scheduler that made ``state_dict`` stood; its schedule replaces this one's.

        Sets s on the module again, except where s is learned: a learned s comes back with the module's own state_dict,
        to be loaded after this scheduler is constructed.

        Raises:
            ValueError: ``state_dict`` has other keys, so it is not of this kind of scheduler; a value is damaged; or it
                was saved with a function of the step, which it cannot hold, and this scheduler has none with its values
                in that place. The scheduler is then as before.
        """
        name = f"{type(self).__name__}.load_state_dict"
        if not isinstance(state_dict, Mapping):
            raise TypeError(f"{name}: state must be a dict, got {type(state_dict).__name__}")
        if set(state_dict) - ({"rest"} if self.keep_function else set()) != set(self._saved):
            expected, found = ", ".join(sorted(self._saved)), ", ".join(sorted(map(str, state_dict)))
            raise ValueError(f"{name}: state must have the keys {expected}, got {found}")
        own, before = dict(enumerate(self.values)), dict(vars(self))
        layers = [layer for layer in homotopy_layers(self.module) if not isinstance(layer.s, nn.Parameter)]
        key = ""
        try:
            for key, check in self._saved.items():
                setattr(self, key, check(state_dict[key]))
            key = "values"
            self.values = tuple(restored(value, own.get(p)) for p, value in enumerate(self.values))
            if not self._may_move and not all(isinstance(value, float) for value in self.values):
                raise ValueError(f"finite numbers, got {shown(state_dict[key])}")
            key = "rest"
            rest = state_dict.get("rest")
            self.rest = None
            if rest is not None:
                assert isinstance(self.module, TwoLayerNet)
                of_outputs, of_skip = tensors(rest, empty_rest(self.module))
                self.rest = of_outputs, of_skip
            key = self._misfit() or ""
            if key:
                raise ValueError(f"one that goes with the other values, got {shown(state_dict[key])}")
            key = "values"
            self._last = self._scheduled()
            for layer in layers:
                if abs(self._last) > torch.finfo(layer.s.dtype).max:
                    raise ValueError(f"finite in {layer.s.dtype}, got {self._last}")
        except Exception as error:
            vars(self).clear()
            vars(self).update(before)
            if not isinstance(error, ValueError):
                raise
            raise ValueError(f"{name}: {key} must be {error}") from None
        for layer in layers:
            layer.set_s(self._last)

    def _misfit(self) -> str | None:
        """Which of the values loaded does not go with the others."""
        return "stage" if self.stage >= len(self.values) else None


class HomotopyScheduler(Schedule):
    """``values[p]`` from step ``milestones[p - 1]`` up to ``milestones[p]`` (docs/theory.md 2).

    Algorithm 1 of Yang, Chen, Hao 2025 with stages of fixed length, in the manner of
    ``torch.optim.lr_scheduler.MultiStepLR``: construction sets s to ``values[0]``, and ``step()`` is called once after
    each ``optimizer.step()``. A learnable s starts each stage at the scheduled value and moves on from there.
    A value may be a function of the step, such as a :func:`ramp`: s then moves within the stage, from whose start the
    steps are counted.

    Args:
        module: A network with homotopy layers.
        values: s_1, ..., s_{k+1}, finite, or functions of the step; one function may stand alone.
        milestones: k numbers of steps, positive and increasing, after which the next value applies.
        keep_function: A change of s leaves the function as it is (:meth:`TwoLayerNet.set_s`), so that the loss does not
            jump. ``module`` must be a :class:`TwoLayerNet`, and no s 0. The output weights keep the rounding errors of
            many small changes in ``state_dict``.
    Raises:
        TypeError, ValueError: No values, a value not finite, milestones not increasing or not one fewer than the
            values, a module without homotopy layers, or one that learns s beside a value that moves; what
            ``keep_function`` asks for is not there.

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

    _may_move = True
    _saved: ClassVar[Checks] = {"values": many, "stage": whole, "milestones": increasing, "last_step": whole}

    def __init__(
        self,
        module: nn.Module,
        values: Sequence[float | Moving] | Moving,
        milestones: Sequence[int] = (),
        *,
        keep_function: bool = False,
    ) -> None:
        checked = _check_values([values] if is_moving(values) else values, "HomotopyScheduler", module, may_move=True)
        if not _is_many(milestones):
            raise TypeError(f"HomotopyScheduler: milestones must be a sequence of ints, got {shown(milestones)}")
        self.milestones = tuple(
            check_integer(m, f"HomotopyScheduler: milestones[{i}]") for i, m in enumerate(milestones)
        )
        if len(self.milestones) != len(checked) - 1:
            raise ValueError(
                f"HomotopyScheduler: {len(checked)} values need {len(checked) - 1} milestones, "
                f"got {len(self.milestones)}"
            )
        if any(later <= earlier for earlier, later in pairwise(self.milestones)):
            raise ValueError(f"HomotopyScheduler: milestones must increase strictly, got {list(self.milestones)}")
        self.keep_function = check_flag(keep_function, "HomotopyScheduler: keep_function")
        if self.keep_function:
            check_keeps_function("HomotopyScheduler", module, checked)
        self.last_step = 0
        super().__init__(module, checked)

    @property
    def _reached(self) -> int:
        return self.last_step - (self.milestones[self.stage - 1] if self.stage > 0 else 0)

    def next_change(self, step: int) -> int | None:
        """The first step of the stage after that of ``step``."""
        return next((m for m in self.milestones if m > step), None)

    def step(self) -> None:
        """Count one step of training and set the s of the next one."""
        self.advance(1)

    def advance(self, steps: int) -> None:
        """Count several steps of training, and set the s of the one after them."""
        self.last_step += steps
        stage = bisect_right(self.milestones, self.last_step)
        if stage != self.stage:
            self._enter(stage)
        elif steps > 0 and self.moves:
            self._set()

    def _misfit(self) -> str | None:
        if len(self.milestones) != len(self.values) - 1:
            return "milestones"
        return None if self.stage == bisect_right(self.milestones, self.last_step) else "stage"

    @property
    def moves(self) -> bool:
        """Whether s changes from step to step in the current stage."""
        return not isinstance(self.values[self.stage], float)


class PlateauHomotopyScheduler(Schedule):
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

    _saved: ClassVar[Checks] = {
        "values": many,
        "stage": whole,
        "patience": positive,
        "threshold": fraction,
        "best": number,
        "num_bad_steps": whole,
    }

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
        super().__init__(module, _check_values(values, "PlateauHomotopyScheduler", module))

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
