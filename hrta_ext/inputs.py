"""Every argument's check, one wording each: what it is called, what is expected, what came."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Real
from operator import index
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.overrides import handle_torch_function

from hrta_ext.bases import get_base
from hrta_ext.callers import is_dynamo_compiling, stand_in
from hrta_ext.compiled import KINDS, require_memory

Parameter = float | Tensor  # s of an activation: a number, or a tensor of shape (), (1,) or (F,) with F = x.shape[-1]
Parameters = float | Sequence[float] | Tensor  # one s, or a 1-D sequence of S values


DEFAULT_BUDGET = 256 << 20  # bytes
WIDEST = 2**48  # neurons of the generator
_LARGEST = {dtype: torch.finfo(dtype).max for dtype in KINDS}


class DtypeError(TypeError, ValueError):
    """A wrong dtype; also a ValueError, as it was in 0.1.0."""


def shown(value: object) -> str:
    """A value as errors show it: Python refuses to write out integers of thousands of digits."""
    if isinstance(value, int) and value.bit_length() > 128:
        return f"an integer of {value.bit_length()} bits"
    try:
        return repr(value)
    except ValueError:
        return type(value).__name__


def check_integer(value: object, name: str) -> int:
    """``value`` (an int, of NumPy or a 0-dim tensor too) as an int from 1 to 2^63 - 1; an error naming it otherwise."""
    try:
        if isinstance(value, bool):
            raise TypeError
        number = index(value)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"{name} must be an int, got {shown(value)}") from None
    if number < 1:
        raise ValueError(f"{name} must be at least 1, got {shown(number)}")
    if number >= 2**63:
        raise ValueError(f"{name} must be below 2^63, got {shown(number)}")
    return number


def check_flag(value: object, name: str) -> bool:
    """``value`` (a bool, of NumPy too) as a bool; TypeError naming it otherwise."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} must be a bool, got {shown(value)}")
    return bool(value)


def check_seed(seed: object, name: str, expected: str = "an int or None") -> int:
    """A seed that torch's generators take, as an int; an error naming it otherwise."""
    try:
        number = index(seed)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"{name} must be {expected}, got {shown(seed)}") from None
    if not -(2**63) <= number < 2**64:
        raise ValueError(f"{name} must be in [-2^63, 2^64), got {shown(number)}")
    return number


def as_float(number: Any) -> float:
    """The number, rounded; beyond float64 infinity of its sign, where ``float`` raises OverflowError."""
    try:
        return float(number)
    except OverflowError:
        return math.inf if number > 0 else -math.inf


def check_finite(number: Any, name: str, dtype: torch.dtype = torch.float64) -> float:
    """A real number as a float that ``dtype`` can hold; ValueError that names it otherwise."""
    value, largest = as_float(number), torch.finfo(dtype).max
    if not -largest <= value <= largest:
        where = "" if dtype == torch.float64 or not math.isfinite(value) else f" in {dtype}"
        raise ValueError(f"{name} must be finite{where}, got {shown(number) if isinstance(number, int) else value}")
    return value


def check_homotopy_parameter(s: object, name: str = "s", dtype: torch.dtype = torch.float64) -> float:
    """``s`` as a float that is finite in ``dtype``; TypeError or ValueError that names the argument otherwise."""
    if isinstance(s, Tensor) and s.numel() == 1 and not s.is_meta:
        s = s.item()
    if isinstance(s, bool) or not isinstance(s, Real):
        raise TypeError(f"{name} must be a real number, got {type(s).__name__}")
    return check_finite(s, name, dtype)


def check_symbolic(s: Any, name: str, dtype: torch.dtype) -> None:
    """ValueError unless ``dtype`` holds s, a number that compilers may know by its bounds alone, or not at all."""
    from torch.fx.experimental.symbolic_shapes import guard_or_true  # with sympy, which compilers have loaded

    largest = torch.finfo(dtype).max
    if not (guard_or_true(-largest <= s) and guard_or_true(s <= largest)):
        raise ValueError(f"{name} must be finite in {dtype}, got {s}")


def check_activation(function: str, x: object, s: object, base: str, order: int = 0) -> Parameter:
    """The activation's arguments: what no backend can serve is refused. Returns s: a number as a float, (1,) as ()."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{function}: x must be a tensor, got {type(x).__name__}")
    if x.dtype not in KINDS:
        raise TypeError(f"{function}: x must be float16, bfloat16, float32 or float64, got {x.dtype}")
    if x.layout is not torch.jagged and (x.layout is not torch.strided or x.is_nested):
        what = "a nested tensor, whose layout must be torch.jagged, not" if x.is_nested else "layout"
        raise TypeError(f"{function}: x must be a dense (strided) tensor, got {what} {x.layout}")
    get_base(base)
    if isinstance(s, Tensor):
        if not s.is_floating_point():
            raise TypeError(f"{function}: s must be a float or a floating-point tensor, got a tensor of {s.dtype}")
        if s.dim() == 1 and s.shape[0] == 1:  # sharded training has no 0-dim parameters
            s = s.reshape(())
        features = x.shape[-1] if x.dim() > 0 else None
        if s.dim() > 1 or (s.dim() == 1 and s.shape[0] != features):
            expected = "() or (1,)" if features is None else f"(), (1,) or ({features},)"
            raise ValueError(
                f"{function}: s must have shape {expected} for x of shape {tuple(x.shape)}, got {tuple(s.shape)}"
            )
        if s.device != x.device and not (s.dim() == 0 and s.device.type == "cpu"):
            raise ValueError(f"{function}: s must be on x's device {x.device}, got {s.device}")
    elif type(s) is not float or is_dynamo_compiling() or not -_LARGEST[x.dtype] <= s <= _LARGEST[x.dtype]:
        if isinstance(s, bool) or not isinstance(s, (Real, torch.SymFloat, torch.SymInt)):
            raise TypeError(f"{function}: s must be a float or a tensor, got {type(s).__name__}")
        if is_dynamo_compiling() or isinstance(s, (torch.SymFloat, torch.SymInt)):
            check_symbolic(s, f"{function}: s", x.dtype)
        else:
            s = check_finite(s, f"{function}: s", x.dtype)
    if order not in (0, 1, 2):
        raise ValueError(f"{function}: order must be 0, 1 or 2, got {shown(order)}")
    return s  # type: ignore[return-value]


def check_target(function: str, x: Tensor) -> None:
    """What is to be overwritten must hold every element once."""
    if not x.is_contiguous() and any(n > 1 and step == 0 for n, step in zip(x.shape, x.stride(), strict=True)):
        raise ValueError(
            f"{function}: x must not be an expanded tensor, whose elements share memory; x.clone() has its own, "
            f"got shape {tuple(x.shape)} and strides {x.stride()}"
        )


def check_network(
    function: str, x: object, weight: object, output_weight: object, s: object, base: str, least: int = 1
) -> Parameter:
    """The arguments of the two-layer network: what no backend can serve is refused. Returns s, as above.

    Args:
        least: Neurons that there must be; a rank of a group may hold none.
    """
    if not isinstance(x, Tensor):
        raise TypeError(f"{function}: x must be a tensor, got {type(x).__name__}")
    if x.layout is not torch.strided:
        raise TypeError(f"{function}: x must be a dense (strided) tensor, got layout {x.layout}")
    if x.dtype not in KINDS:
        raise TypeError(f"{function}: x must be float16, bfloat16, float32 or float64, got {x.dtype}")
    if x.dim() != 2 or x.shape[1] == 0:
        raise ValueError(f"{function}: x must have shape (n, D) with D at least 1, got {tuple(x.shape)}")
    check_weights(function, x, weight, output_weight, least)
    if isinstance(s, Tensor) and s.shape not in ((), (1,)):
        raise ValueError(f"{function}: s must be a float or a tensor of shape () or (1,), got shape {tuple(s.shape)}")
    return check_activation(function, x, s, base)


def check_columns(columns: object, n_features: int, name: str) -> list[int]:
    """Different columns of samples with so many features, counted from 0; None is all."""
    if columns is None:
        return list(range(n_features))
    try:
        if isinstance(columns, (str, bytes)) or any(isinstance(column, bool) for column in columns):  # type: ignore[attr-defined]
            raise TypeError
        found = [index(column) for column in columns]  # type: ignore[attr-defined]
    except TypeError:
        raise TypeError(f"{name} must be a sequence of integers, got {shown(columns)}") from None
    if not found:
        raise ValueError(f"{name} must name at least one column, got {shown(columns)}")
    if len(set(found)) < len(found) or not all(0 <= column < n_features for column in found):
        raise ValueError(f"{name} must be different columns in [0, {n_features}), got {found}")
    return found


def check_samples(x: object, function: str, name: str = "x") -> Tensor:
    """x as samples (n, D) in float32 or float64, finite; a clear error otherwise."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{function}: {name} must be a tensor, got {type(x).__name__}")
    if x.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"{function}: {name} must be float32 or float64, got {x.dtype}")
    if x.dim() != 2 or x.shape[1] < 1:
        raise ValueError(f"{function}: {name} must have shape (n, D) with D >= 1, got {tuple(x.shape)}")
    require_memory(x, f"{function}: {name}")
    if not math.isfinite(x.detach().sum()):  # cheap; a finite x whose sum overflows is looked at row by row
        for row in (~torch.isfinite(x).all(dim=1)).nonzero()[:1, 0].tolist():
            raise ValueError(f"{function}: {name} must be finite, row {row} is {x[row].tolist()}")
    return x


def check_second_samples(x2: object, x: Tensor, function: str) -> Tensor | None:
    """x2 as samples (n2, D) that go with x (n, D), or None; a clear error otherwise."""
    if x2 is None:
        return None
    x2 = check_samples(x2, function, "x2")
    if x2.shape[1] != x.shape[1]:
        raise ValueError(f"{function}: x2 must have shape (n2, {x.shape[1]}) to match x, got {tuple(x2.shape)}")
    if x2.dtype != x.dtype:
        raise TypeError(f"{function}: x2 must have the dtype of x, {x.dtype}, got {x2.dtype}")
    if x2.device != x.device:
        raise ValueError(f"{function}: x2 must be on the device of x, {x.device}, got {x2.device}")
    return x2


def parameter_values(s: Parameters, function: str, dtype: torch.dtype = torch.float64) -> Tensor:
    """s as a float64 tensor on the CPU, shape () or (S,), finite in ``dtype``; a clear error otherwise."""
    if type(s) is float and -_LARGEST[dtype] <= s <= _LARGEST[dtype]:  # 5 us less, of a small Gram matrix's 200
        return torch.full((), s, dtype=torch.float64, device="cpu")
    if isinstance(s, (bool, str)) or not isinstance(s, (Real, Sequence, Tensor)):
        raise TypeError(f"{function}: s must be a float or a 1-D sequence of floats, got {type(s).__name__}")
    if isinstance(s, Tensor) and (s.is_meta or s.is_complex()):
        raise TypeError(f"{function}: s must hold real numbers, got a tensor of {s.dtype} on {s.device}")
    try:
        if isinstance(s, Tensor):
            values = s.detach().to("cpu", torch.float64)
        else:
            given = [_float_of(value) for value in s] if isinstance(s, Sequence) else _float_of(s)
            values = torch.tensor(given, dtype=torch.float64, device="cpu")
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:
        raise TypeError(f"{function}: s must be a float or a 1-D sequence of floats, got {shown(s)}") from error
    if values.dim() > 1:
        raise ValueError(f"{function}: s must be a float or have shape (S,), got shape {tuple(values.shape)}")
    for value in values.reshape(-1).tolist():
        check_finite(value, f"{function}: s", dtype)
    return values


def _float_of(value: object) -> object:
    return as_float(value) if isinstance(value, Real) else value


def with_bias(x: Tensor) -> Tensor:
    """Append the column of ones that makes the last weight of every neuron its bias.

    Args:
        x: Samples, shape (..., d).
    Returns:
        Shape (..., d + 1).

    Example:
        >>> import torch, hrta_ext as hx
        >>> hx.with_bias(torch.tensor([[2.0], [3.0]]))
        tensor([[2., 1.],
                [3., 1.]])
    """
    if stand_in(x):
        return handle_torch_function(with_bias, (x,), x)
    if not isinstance(x, Tensor):
        raise TypeError(f"with_bias: x must be a tensor, got {type(x).__name__}")
    if x.dim() < 1:
        raise ValueError("with_bias: x must have shape (..., d), got a 0-dim tensor")
    return torch.cat([x, x.new_ones((*x.shape[:-1], 1))], dim=-1)


def check_weights(function: str, x: Tensor, weight: object, output_weight: object, least: int = 1) -> None:
    """Raise an error unless weight (..., m, D) and output_weight (..., m) belong to x (n, D), with m >= ``least``."""
    for name, value in (("weight", weight), ("output_weight", output_weight)):
        if not isinstance(value, Tensor):
            raise TypeError(f"{function}: {name} must be a tensor, got {type(value).__name__}")
        if value.layout is not torch.strided:
            raise TypeError(f"{function}: {name} must be a dense (strided) tensor, got layout {value.layout}")
        if value.dtype != x.dtype:
            raise TypeError(f"{function}: {name} must have x's dtype {x.dtype}, got {value.dtype}")
        if value.device != x.device:
            raise ValueError(f"{function}: {name} must be on x's device {x.device}, got {value.device}")
    assert isinstance(weight, Tensor)
    assert isinstance(output_weight, Tensor)
    if weight.dim() < 2 or weight.shape[-1] != x.shape[1]:
        raise ValueError(
            f"{function}: weight must have shape (..., width, {x.shape[1]}) to match x, got {tuple(weight.shape)}"
        )
    if weight.shape[-2] < least:
        raise ValueError(f"{function}: weight must hold at least one neuron, got shape {tuple(weight.shape)}")
    if output_weight.shape != weight.shape[:-1]:
        raise ValueError(
            f"{function}: output_weight must have shape {tuple(weight.shape[:-1])} to match weight, "
            f"got {tuple(output_weight.shape)}"
        )


def check_budget(memory_budget: object, least: int, function: str) -> int:
    """Bytes of scratch memory: the budget, or the default, and at least what works."""
    if memory_budget is None:
        return max(DEFAULT_BUDGET, least)
    if isinstance(memory_budget, bool) or not isinstance(memory_budget, int):
        raise TypeError(f"{function}: memory_budget must be a number of bytes (int), got {shown(memory_budget)}")
    if memory_budget < least:
        raise ValueError(f"{function}: memory_budget must be at least {least} bytes here, got {shown(memory_budget)}")
    if memory_budget >= 2**63:
        raise ValueError(f"{function}: memory_budget must be below 2^63 bytes, got {shown(memory_budget)}")
    return memory_budget


def check_result_dtype(dtype: torch.dtype | None, x: Tensor, function: str) -> torch.dtype:
    """The type of the results and class of accuracy: x's unless given."""
    if dtype is None:
        return x.dtype
    if dtype not in (torch.float32, torch.float64):
        raise DtypeError(f"{function}: dtype must be torch.float32 or torch.float64, got {dtype}")
    return dtype


def check_draw(seed: object, first_neuron: object, count: object, name: str, function: str) -> None:
    """The seed and the numbers of drawn neurons."""
    for label, value in (("seed", seed), ("first_neuron", first_neuron), (name, count)):
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(f"{function}: {label} must be an int, got {shown(value)}")
    assert isinstance(seed, int)
    assert isinstance(first_neuron, int)
    assert isinstance(count, int)
    if not 0 <= seed < 2**64:
        raise ValueError(f"{function}: seed must be in [0, 2^64), got {shown(seed)}")
    if first_neuron < 0 or count < 0 or first_neuron + count > WIDEST:
        raise ValueError(
            f"{function}: neurons are numbered 0 to 2^48 - 1, "
            f"got first_neuron={shown(first_neuron)}, {name}={shown(count)}"
        )
