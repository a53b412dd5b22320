"""sigma_s and its derivatives as plain differentiable operations, few of them.

What ``torch.compile``, ``torch.export``, tensor subclasses and dispatch modes see, so that Inductor fuses it with its
neighbours, and what the reference kernels are made of.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from hrta_ext.bases import get_base
from hrta_ext.callers import functorch_active, grad_enabled, is_compiling, is_dynamo_compiling
from hrta_ext.inputs import Parameter

HALF_TYPES = (torch.float16, torch.bfloat16)
_GELU_REACH = 40.0  # its tail is 0 there


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


def _split(s: Parameter, z: Tensor) -> tuple[Parameter, Parameter]:
    """1 - s and s in z's precision. The difference comes first: a rounded s near 1 would leave it few digits."""
    if not isinstance(s, Tensor):
        return 1.0 - s, s
    s = s.to(torch.promote_types(s.dtype, z.dtype))
    return (1.0 - s).to(z.dtype), s.to(z.dtype)


def by_parameter(x: Tensor, base: str, order: int) -> Tensor:
    """The derivative of ``compose`` in s, which holds no s: sigma(x) - x at order 0. Half types give float32."""
    return get_base(base).by_parameter(x.float() if x.dtype in HALF_TYPES else x, order)


def _by_erf(z: Tensor, linear: Parameter, s: Parameter, plain: bool) -> Tensor:
    """sigma_s of GELU as z times (1 - s + s Phi(z)), by erf, in whose rounding the lower tail is lost, as in F.gelu."""
    bounded = z.clamp(-_GELU_REACH, _GELU_REACH)
    lower = torch.where(z < -_GELU_REACH, -_GELU_REACH, z) if plain else z  # 0 at -infinity
    return lower * (linear + s * (0.5 + 0.5 * torch.erf(bounded * 0.5**0.5)))


def compose(x: Tensor, s: Parameter, base: str, order: int) -> Tensor:
    """The ``order``-th derivative in x of (1 - s) x + s sigma(x), by differentiable operations in x's precision.

    Half types are computed in float32. ``s`` may be any tensor that broadcasts against x. Of a learned s the terms are
    put together so that its gradient, by autograd, does not cancel either.
    """
    functions = get_base(base)
    z = x.float() if x.dtype in HALF_TYPES else x
    learned = isinstance(s, Tensor) and s.requires_grad and functions.number is not None
    s = _settled(s)
    plain = not isinstance(s, Tensor) and s == 1.0  # without the line, lest it be 0 times infinity
    linear, s = _split(s, z)
    if base == "relu" and order == 0:
        if not isinstance(s, Tensor) and not z.is_nested:  # leaky_relu has no backward for nested tensors
            y = torch.relu(z) if s == 1.0 else F.leaky_relu(z, 1.0 - s)
        elif _recorded(z):  # where's second derivative would be unknown
            active = _joined(functions.slope(z), z)
            y = (active + (1.0 - active) * linear) * z
        else:
            y = torch.where(z > 0, z, linear * z)
    elif plain and order == 0 and not functions.rectifier:
        y = functions.value(z)
    elif base == "relu2" and order == 0:
        y = z * (linear + 0.5 * s * torch.relu(z))  # s sigma(z) alone may overflow
    elif base == "gelu" and order == 0 and z.dtype == torch.float32 and is_compiling() and not learned:
        y = _by_erf(z, linear, s, plain)  # Inductor has no fast erfc: a quarter of the time
    elif functions.rectifier and order == 0:  # sigma(z) - max(z, 0) is even, and nothing far out
        line = torch.relu(z) if plain else torch.where(z > 0, z, linear * z)
        y = line + s * functions.by_parameter(torch.where(z > 0, z, -z), 0)
    elif order == 0:
        y = linear * z + s * functions.value(z)
        if learned:
            y = torch.where(z.abs() < 1.0, z + s * functions.by_parameter(z, 0), y)
    elif order == 1:
        y = linear + s * _joined(functions.slope(z), z)
        if learned:
            y = torch.where(z.abs() < 1.0, 1.0 + s * _joined(functions.by_parameter(z, 1), z), y)
    elif order == 2:
        y = s * _joined(functions.curvature(z), z)
    else:
        y = s * _joined(functions.third_derivative(z), z)
    return y.to(x.dtype)


def sum_dtype(x: Tensor) -> torch.dtype:
    """The type that sums of x's elements are kept in."""
    return torch.float32 if x.device.type == "mps" else torch.float64
