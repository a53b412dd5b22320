"""Checks of what a saved state of a schedule holds: each gives the value, or a ValueError that says what it must be."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from hrta_ext.inputs import shown

Checks = Mapping[str, Callable[[Any], Any]]  # by the names of a state's values


def whole(value: Any) -> int:
    """A count."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"an int of at least 0, got {shown(value)}")
    return value


def positive(value: Any) -> int:
    """A count that is not 0."""
    if whole(value) < 1:
        raise ValueError(f"at least 1, got {value}")
    return int(value)


def number(value: Any) -> float:
    """A number, infinity too."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or math.isnan(value):
        raise ValueError(f"a number, got {shown(value)}")
    return value


def fraction(value: Any) -> float:
    """A number in [0, 1)."""
    if not 0.0 <= number(value) < 1.0:
        raise ValueError(f"at least 0 and below 1, got {value}")
    return float(value)


def many(value: Any) -> tuple[Any, ...]:
    """A sequence that is not empty."""
    if not isinstance(value, (list, tuple)) or not value:
        raise ValueError(f"a sequence of at least one value, got {shown(value)}")
    return tuple(value)


def increasing(value: Any) -> tuple[int, ...]:
    """Counts, each larger than the one before."""
    counts = tuple(map(whole, value)) if isinstance(value, (list, tuple)) else None
    if counts is None or any(later <= earlier for earlier, later in pairwise(counts)):
        raise ValueError(f"a sequence of increasing ints, got {shown(value)}")
    return counts


def tensors(value: Any, like: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """float64 tensors of the shapes of ``like``, on its device."""
    shapes = [tuple(tensor.shape) for tensor in like]
    given = value if isinstance(value, (list, tuple)) else ()
    found = [tuple(t.shape) if isinstance(t, Tensor) and t.dtype == torch.float64 else None for t in given]
    if found != shapes:
        raise ValueError(f"float64 tensors of shapes {shapes}, got {type(value).__name__} of {found}")
    return tuple(mine.to(other.device, copy=True) for mine, other in zip(given, like, strict=True))
