"""s as a function of the step: ramps, functions of the user's, and what a state says of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from hrta_ext.inputs import check_homotopy_parameter, check_integer, shown

Moving = Callable[[int], float]
_SHAPES = ("linear", "cosine")
_COMPARED = (0, 1, 10, 100, 1000, 10_000, 100_000)  # steps at which two functions are compared, as far as they got


@dataclass(frozen=True, repr=False)
class Ramp:
    """What :func:`ramp` makes: called with a step, from 0, it gives s."""

    start: float
    end: float
    steps: int
    shape: str = "linear"

    def __call__(self, step: int) -> float:
        """s of a step, from 0."""
        if step >= self.steps:
            return self.end
        part = step / self.steps if self.shape == "linear" else 0.5 - 0.5 * math.cos(math.pi * step / self.steps)
        return self.start + (self.end - self.start) * part

    def __repr__(self) -> str:
        shape = "" if self.shape == "linear" else f", shape={self.shape!r}"
        return f"ramp({self.start:g}, {self.end:g}, steps={self.steps}{shape})"


def ramp(start: float, end: float, steps: int, *, shape: str = "linear") -> Ramp:
    """A continuous homotopy: s goes from ``start`` to ``end`` in ``steps`` steps and stays there.

    s_t = start + (end - start) g(t / steps) for step t < steps, with g(u) = u ("linear") or (1 - cos(pi u)) / 2
    ("cosine", which starts and ends at rest). The loss does not jump, as it does where the stages of Algorithm 1 (Yang,
    Chen, Hao 2025) meet; homotopy methods for polynomial systems move like this.

    Args:
        start: s of the first step.
        end: s from step ``steps`` on.
        steps: Length of the ramp, at least 1; steps are counted from the start of the stage that it stands for.
        shape: "linear" or "cosine".
    Returns:
        A function of the step, for ``s`` of :func:`fit` and ``values`` of :class:`HomotopyScheduler`. Any other
        function of the step serves there as well.
    Raises:
        TypeError, ValueError: start or end not finite, steps below 1, another shape.

    Example:
        >>> import hrta_ext as hx
        >>> s = hx.ramp(1.0, 2.0, 4)
        >>> [s(step) for step in range(6)]
        [1.0, 1.25, 1.5, 1.75, 2.0, 2.0]
    """
    if shape not in _SHAPES:
        raise ValueError(f'ramp: shape must be "linear" or "cosine", got {shown(shape)}')
    return Ramp(
        check_homotopy_parameter(start, "ramp: start"),
        check_homotopy_parameter(end, "ramp: end"),
        check_integer(steps, "ramp: steps"),
        shape,
    )


@dataclass(frozen=True)
class Listed:
    """A function of the user's by its values, so that it is called once for every step, before the first."""

    name: str
    values: tuple[float, ...]

    def __call__(self, step: int) -> float:
        """s of a step, from 0."""
        return self.values[min(step, len(self.values) - 1)]


def is_moving(value: object) -> bool:
    """Whether it is a function of the step."""
    return callable(value) and not isinstance(value, type)


def value_at(moving: Moving, step: int, name: str, dtype: torch.dtype = torch.float64) -> float:
    """s at a step of a stage, finite; errors say ``name``."""
    value = moving(step)
    if type(value) is float and abs(value) < 100.0:  # in every dtype; asked for speed alone, once for every step
        return value
    return check_homotopy_parameter(value, f"{name} at step {step}", dtype)


def name_of(moving: Moving) -> str:
    """Its own description, or the function's name."""
    if isinstance(moving, Ramp):
        return repr(moving)
    return moving.name if isinstance(moving, Listed) else getattr(moving, "__name__", type(moving).__name__)


def described(value: float | Moving, reached: int) -> float | list[Any]:
    """A value of a schedule as plain values: a ramp by its numbers, a function by its name and some of its values."""
    if isinstance(value, Ramp):
        return ["ramp", value.start, value.end, value.steps, value.shape]
    if isinstance(value, float):
        return value
    steps = sorted({reached, *(step for step in _COMPARED if step < reached)})
    return ["function", name_of(value), [[step, value_at(value, step, "s")] for step in steps]]


def restored(description: Any, own: float | Moving | None) -> float | Moving:
    """The value that :func:`described` told of; ``own`` is what stands in its place now.

    Raises:
        ValueError: It was a function, and ``own`` is none with these values.
    """
    if not isinstance(description, (list, tuple)):
        if isinstance(description, bool) or not isinstance(description, (int, float)) or not math.isfinite(description):
            raise ValueError(f"finite numbers, ramps and functions, got {shown(description)}")
        return float(description)
    try:
        kind, *rest = description
        if kind == "ramp":
            start, end, steps, shape = rest
            return ramp(start, end, steps, shape=shape)
        name, points = rest
        pairs = [(check_integer(step + 1, "step") - 1, float(value)) for step, value in points]
        if kind != "function":
            raise ValueError(kind)
    except (TypeError, ValueError):
        raise ValueError(f"finite numbers, ramps and functions, got {shown(description)}") from None
    if own is None or isinstance(own, float) or any(own(step) != value for step, value in pairs):
        given = own if own is None or isinstance(own, float) else name_of(own)
        raise ValueError(f"those saved: s must be the function of the step that was saved, {name}, got {given}")
    return own
