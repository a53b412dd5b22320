"""Numbers that describe a shape, checked."""

from __future__ import annotations

from numbers import Real

import torch
from torch import Tensor

from hrta_ext.inputs import check_finite, shown


def check_real(value: object, name: str) -> float:
    """A finite real number as a float; an error naming it otherwise."""
    if isinstance(value, Tensor) and value.numel() == 1 and not value.is_meta:
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a real number, got {shown(value)}")
    return check_finite(value, name)


def check_reals(values: object, name: str) -> Tensor:
    """A point, as float64 of shape (d,) on the CPU; an error naming it otherwise."""
    try:
        numbers = values.tolist() if isinstance(values, Tensor) else list(values)  # type: ignore[call-overload]
    except TypeError:
        raise TypeError(f"{name} must be a sequence of d numbers, got {shown(values)}") from None
    if not isinstance(numbers, list) or isinstance(values, (str, bytes)):
        raise TypeError(f"{name} must be a sequence of d numbers, got {shown(values)}")
    if not numbers:
        raise ValueError(f"{name} must hold at least one number, got none")
    checked = [check_real(number, f"{name}[{place}]") for place, number in enumerate(numbers)]
    return torch.tensor(checked, dtype=torch.float64, device="cpu")


def check_tolerance(value: object, function: str) -> float:
    """A distance of at least 0."""
    number = check_real(value, f"{function}: tolerance")
    if number < 0:
        raise ValueError(f"{function}: tolerance must be at least 0, got {number}")
    return number
