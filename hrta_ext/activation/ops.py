"""``torch.ops.hrta_ext.homotopy``: the activation as a dispatcher op, with its checks, fake kernel and autograd.

For code that wants an opaque op in its graph. ``hx.homotopy`` does not need it: eager calls take the fast lane, and
compilers get the formula that they can fuse. The kernel is registered from Python, so that what it raises never crosses
libtorch, which a C++ exception survives only if both share one C++ runtime.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hrta_ext.activation import native, reference
from hrta_ext.activation.formula import by_parameter
from hrta_ext.backends import as_chosen, asked_for, serve
from hrta_ext.bases import BASES
from hrta_ext.compiled import KINDS
from hrta_ext.schemas import LIBRARY

_NAMES = [name for name, base in BASES.items() if base.number is not None]  # by number


def _check(x: Tensor, s: Tensor, base: int, order: int) -> None:
    """What protects memory, for the kernel and the fake alike: the op may be called with anything."""
    for name, tensor in (("x", x), ("s", s)):
        if tensor.layout is not torch.strided:
            raise TypeError(f"homotopy: {name} must be a dense (strided) tensor, got layout {tensor.layout}")
    if x.dtype not in KINDS:
        raise TypeError(f"homotopy: x must be float16, bfloat16, float32 or float64, got {x.dtype}")
    if s.dtype != torch.float64:
        raise TypeError(f"homotopy: s must be float64, got {s.dtype}")
    if s.dim() > 1:
        raise ValueError(f"homotopy: s must have at most one dimension, got shape {tuple(s.shape)}")
    if s.device != x.device:
        raise ValueError(f"homotopy: s must be on x's device, {x.device}, got {s.device}")
    if s.numel() != 1 and (x.dim() == 0 or s.numel() != x.shape[-1]):
        raise ValueError(
            "homotopy: s must have one value, or one per feature of x's last dimension, "
            f"got shape {tuple(s.shape)} for x of shape {tuple(x.shape)}"
        )
    if not 0 <= base < len(_NAMES):
        raise ValueError(f"homotopy: base must be in [0, {len(_NAMES)}), got {base}")
    if not 0 <= order <= 2:
        raise ValueError(f"homotopy: order must be 0, 1 or 2, got {order}")


def _evaluate(x: Tensor, s: Tensor, base: int, order: int) -> Tensor:
    _check(x, s, base, order)
    name = _NAMES[base]
    return serve(native, reference, x, name).evaluate(x, s.reshape(()) if s.numel() == 1 else s, name, order)


def _fake(x: Tensor, s: Tensor, base: int, order: int) -> Tensor:
    _check(x, s, base, order)
    return torch.empty_like(x)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, s, ctx.base, ctx.order = inputs
    ctx.choice = asked_for()
    ctx.save_for_backward(x, s)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
    if ctx.order == 2 and _NAMES[ctx.base] not in ("relu", "relu2"):
        raise RuntimeError("torch.ops.hrta_ext.homotopy ends at order 2; hx.homotopy(x, s, base, order=2) goes on")
    with as_chosen(ctx.choice):
        return _gradients(ctx, grad)


def _gradients(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
    x, s = ctx.saved_tensors
    op = torch.ops.hrta_ext.homotopy
    grad_x = None
    if ctx.needs_input_grad[0]:
        grad_x = grad * op(x, s, ctx.base, ctx.order + 1) if ctx.order < 2 else torch.zeros_like(grad)
    grad_s = None
    if ctx.needs_input_grad[1]:
        inner = by_parameter(x, _NAMES[ctx.base], ctx.order)
        grad_s = (grad * inner).sum_to_size(s.shape) if s.dim() == 0 else (grad * inner).flatten(0, -2).sum(0)
        grad_s = grad_s.to(s.dtype)
    return grad_x, grad_s, None, None


LIBRARY.impl("homotopy", _evaluate, "CompositeExplicitAutograd")
torch.library.register_fake("hrta_ext::homotopy", _fake, lib=LIBRARY)
torch.library.register_autograd("hrta_ext::homotopy", _backward, setup_context=_setup_context, lib=LIBRARY)
