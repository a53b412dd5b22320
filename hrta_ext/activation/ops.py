"""``torch.ops.hrta_ext.homotopy``: the compiled kernel as a dispatcher op, with its fake kernel and autograd.

For code that wants an opaque op in its graph or calls it from C++. ``hx.homotopy`` does not need it: eager calls take
the fast lane, and compilers get the formula that they can fuse.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hrta_ext import compiled


def _fake(x: Tensor, s: Tensor, base: int, order: int) -> Tensor:
    return torch.empty_like(x)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, s, ctx.base, ctx.order = inputs
    ctx.save_for_backward(x, s)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
    if ctx.order == 2:
        raise RuntimeError("torch.ops.hrta_ext.homotopy ends at order 2; hx.homotopy(x, s, base, order=2) goes on")
    x, s = ctx.saved_tensors
    op = torch.ops.hrta_ext.homotopy
    grad_x = grad * op(x, s, ctx.base, ctx.order + 1) if ctx.needs_input_grad[0] else None
    grad_s = None
    if ctx.needs_input_grad[1]:
        ones = torch.ones_like(s)
        inner = op(x, ones, ctx.base, ctx.order) - op(x, torch.zeros_like(s), ctx.base, ctx.order)
        grad_s = (grad * inner).sum_to_size(s.shape) if s.dim() == 0 else (grad * inner).flatten(0, -2).sum(0)
        grad_s = grad_s.to(s.dtype)
    return grad_x, grad_s, None, None


if compiled._C is not None:
    torch.library.register_fake("hrta_ext::homotopy", _fake)
    torch.library.register_autograd("hrta_ext::homotopy", _backward, setup_context=_setup_context)
