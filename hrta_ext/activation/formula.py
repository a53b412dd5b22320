"""sigma_s and its derivatives as plain differentiable operations, few of them.

What ``torch.compile``, ``torch.export``, tensor subclasses and dispatch modes see, so that Inductor fuses it with its
neighbours, and what the reference kernels are made of.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from hrta_ext.bases import get_base
from hrta_ext.callers import functorch_active, grad_enabled, is_dynamo_compiling
from hrta_ext.inputs import Parameter

_HALF_TYPES = (torch.float16, torch.bfloat16)


def _settled(s: Parameter) -> Parameter:
    """s; as a 0-dim tensor where it is a symbolic number, which ties a compiled graph to one value when it is compared
    with another or passed as a number to leaky_relu or, in torch 2.11, to a difference."""
    if isinstance(s, Tensor) or not (is_dynamo_compiling() or isinstance(s, (torch.SymFloat, torch.SymInt))):
        return s
    from torch.fx.experimental.symbolic_shapes import statically_known_true  # with sympy, which compilers have loaded

    constant = statically_known_true(s == 1.0) or statically_known_true(s != 1.0)
    return s if constant else torch.zeros((), dtype=torch.float64, device="cpu") + s


def _recorded(z: Tensor) -> bool:
    """Whether someone may differentiate in z; Dynamo does not say of z itself inside torch.func transforms."""
    return grad_enabled() and (z.requires_grad or functorch_active())


def _joined(result: Tensor, z: Tensor) -> Tensor:
    """A result that is constant between the kinks, with the derivative 0 in z where autograd would know of none."""
    if _recorded(z) and not result.requires_grad:
        return torch.where(torch.ones_like(z, dtype=torch.bool), result, z)
    return result


def compose(x: Tensor, s: Parameter, base: str, order: int) -> Tensor:
    """The ``order``-th derivative in x of (1 - s) x + s sigma(x), by differentiable operations in x's precision.

    Half types are computed in float32. ``s`` may be any tensor that broadcasts against x.
    """
    functions = get_base(base)
    z = x.float() if x.dtype in _HALF_TYPES else x
    s = _settled(s)
    if isinstance(s, Tensor):
        s = s.to(z.dtype) if s.dim() > 0 else s
    if base == "relu" and order == 0:
        if not isinstance(s, Tensor) and not z.is_nested:  # leaky_relu has no backward for nested tensors
            y = torch.relu(z) if s == 1.0 else F.leaky_relu(z, 1.0 - s)
        elif _recorded(z):  # where's second derivative would be unknown
            active = _joined(functions.slope(z), z)
            y = (active + (1.0 - active) * (1.0 - s)) * z
        else:
            y = torch.where(z > 0, z, (1.0 - s) * z)
    elif order == 0:
        y = (1.0 - s) * z + s * functions.value(z)
    elif order == 1:
        y = (1.0 - s) + s * _joined(functions.slope(z), z)
    else:
        y = s * _joined(functions.curvature(z), z)
    return y.to(x.dtype)


def sum_dtype(x: Tensor) -> torch.dtype:
    """The type that sums of x's elements are kept in."""
    return torch.float32 if x.device.type == "mps" else torch.float64
