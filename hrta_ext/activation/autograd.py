"""Autograd of the activation: what is kept of x, and who computes the derivatives.

Forward notes which backend was asked for, and backward goes by that note, whatever thread it runs on and whatever
``use_backend`` block is open there.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from hrta_ext import compiled
from hrta_ext.activation import native, reference
from hrta_ext.activation.formula import by_parameter, compose
from hrta_ext.backends import as_chosen, asked_for, serve
from hrta_ext.callers import alive, needs_operations, sees_formula, transforms_active, wants_grad
from hrta_ext.inputs import Parameter

_KINDS = compiled.KINDS
_empty_like = torch.empty_like


def kernel_parameter(s: Parameter, x: Tensor) -> Parameter:
    """s as the kernels take it: a number where that costs no wait for a device, else float64 on x's device."""
    if not isinstance(s, Tensor):
        return float(s)
    if s.device.type == "cpu" and s.dim() == 0:
        return s.item()
    return s.detach().to(torch.float32 if x.device.type == "mps" else torch.float64).contiguous()


def derivative(x: Tensor, s: Parameter, base: str, order: int) -> Tensor:
    """:func:`hrta_ext.homotopy` of checked arguments, by whoever serves such a call."""
    if sees_formula(x):
        return compose(x, s, base, order)
    x, s = alive(x), alive(s)
    if order == 2 and (transforms_active() or wants_grad(x, s)):
        return compose(x, s, base, order)  # derivatives of the third order and up are torch's
    if transforms_active() or wants_grad(x, s):
        return HomotopyFunction.apply(x, s, base, order)
    return serve(native, reference, x, base).evaluate(x, kernel_parameter(s, x), base, order)


def per_feature(s: Parameter) -> bool:
    """Whether s has one value per feature."""
    return isinstance(s, Tensor) and s.dim() == 1


def _save(ctx: Any, tensor: Tensor, s: Parameter) -> None:
    """Keep x or the mask, and s, for backward."""
    if isinstance(s, Tensor):
        ctx.save_for_backward(tensor, s)
    else:
        ctx.s = s
        ctx.save_for_backward(tensor)


def _saved(ctx: Any) -> tuple[Tensor, Parameter]:
    saved = ctx.saved_tensors
    return saved if len(saved) == 2 else (saved[0], ctx.s)


def _relu_mask_backward(ctx: Any, grad: Tensor) -> Tensor:
    """grad times the slope that the mask stands for; linear in grad, so its own backward multiplies again."""
    mask, s = _saved(ctx)
    kernels = reference if mask.dtype == torch.bool else native
    if needs_operations(grad) or per_feature(s):
        with torch.no_grad():  # ones of its own: grad may carry a batch dimension of vmap that the mask lacks
            ones = torch.ones(grad.shape, dtype=grad.dtype, device=grad.device)
            active = kernels.relu_mask_backward(ones, mask, 1.0, ctx.stride)
            slope = (active + (1.0 - active) * (1.0 - s)).to(grad.dtype)
        return grad * slope
    return kernels.relu_mask_backward(grad, mask, s, ctx.stride)


def _input_gradients(ctx: Any, grad: Tensor, order: int) -> tuple[Tensor | None, Tensor | None]:
    """The gradients in x and s of the derivative of ``order``, by forward's backend; differentiable in grad mode."""
    x, s = _saved(ctx)
    needs = ctx.needs_input_grad
    if needs_operations(grad):
        with as_chosen(ctx.choice):
            return _operations(grad, x, s, ctx.base, order, needs)
    grad_x = grad_s = None
    number = kernel_parameter(s, x)
    if needs[0]:
        grad_x = ctx.kernels.backward(grad, x, number, ctx.base, order)
    if needs[1]:
        assert isinstance(s, Tensor)
        placed = s.detach().to(x.device, torch.float32 if x.device.type == "mps" else torch.float64)
        grad_s = ctx.kernels.parameter_gradient(grad, x, placed, ctx.base, order).to(s)
    return grad_x, grad_s


def _operations(
    grad: Tensor, x: Tensor, s: Parameter, base: str, order: int, needs: tuple[bool, ...]
) -> tuple[Tensor | None, Tensor | None]:
    """The same, made of operations that can be differentiated again."""
    grad_x = grad_s = None
    if needs[0]:
        grad_x = grad * derivative(x, s, base, order + 1)
    if needs[1]:
        assert isinstance(s, Tensor)
        product = grad * by_parameter(x, base, order)
        leading = tuple(range(product.dim() - s.dim()))
        grad_s = (product.sum(leading, dtype=torch.float64) if leading else product).to(s)
    return grad_x, grad_s


class HomotopyFunction(Function):
    """The ``torch.autograd.Function`` behind ``hx.homotopy``: ``HomotopyFunction.apply(x, s, base[, order])``.

    Arguments are as for :func:`hrta_ext.homotopy`, positional and unchecked; order is 0 or 1.

    Example:
        >>> import torch, hrta_ext as hx
        >>> x = torch.tensor([-2.0, 2.0], requires_grad=True)
        >>> hx.HomotopyFunction.apply(x, 0.5, "relu").sum().backward()
        >>> x.grad
        tensor([0.5000, 1.0000])
    """

    @classmethod
    def apply(cls, *args: Any, **kwargs: Any) -> Any:
        """Run it: by way of the functorch-capable twin while a transform is open."""
        if transforms_active():
            return _TransformableHomotopy.apply(*args, **kwargs)
        return super().apply(*args, **kwargs)

    @staticmethod
    def forward(ctx: Any, x: Tensor, s: Parameter = 1.0, base: str = "relu", order: int = 0) -> Tensor:
        """The kernel, and what backward needs of x."""
        kernels, number = serve(native, reference, x, base), kernel_parameter(s, x)
        ctx.base, ctx.order = base, order
        ctx.masked = base == "relu" and order == 0 and not ctx.needs_input_grad[1]
        if ctx.masked:
            y, mask, ctx.stride = kernels.relu_mask_forward(x, 1.0 if per_feature(number) else number)
            _save(ctx, mask, number)
            return kernels.evaluate(x, number, base, 0) if per_feature(number) else y
        ctx.kernels, ctx.choice = kernels, asked_for()
        _save(ctx, x, s)
        return kernels.evaluate(x, number, base, order)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Fused, one pass; differentiable in turn."""
        if ctx.masked:
            gradients: tuple[Tensor | None, Tensor | None] = (_relu_mask_backward(ctx, grad), None)
        else:
            gradients = _input_gradients(ctx, grad, ctx.order)
        return (*gradients, None, None)[: len(ctx.needs_input_grad)]


class _LeanRelu(Function):
    """The case that is called most, sigma_s of ReLU on a contiguous CPU tensor, with the least Python."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, s: float) -> Tensor:
        y, n = _empty_like(x), x.numel()
        mask = torch.empty((n + 7) >> 3, dtype=torch.uint8)
        compiled._C.relu_mask_forward(x.data_ptr(), y.data_ptr(), mask.data_ptr(), n, _KINDS[x.dtype], s, 0, -1)
        ctx.s = s
        ctx.save_for_backward(mask)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        if needs_operations(grad) or not grad.is_contiguous() or grad.is_neg():
            grad = grad.contiguous()
            ctx.stride = grad.stride()
            return _relu_mask_backward(ctx, grad), None
        (mask,) = ctx.saved_tensors
        grad_x = _empty_like(grad)
        compiled._C.relu_mask_backward(
            grad.data_ptr(), grad_x.data_ptr(), mask.data_ptr(), grad.numel(), _KINDS[grad.dtype], ctx.s, 0, -1
        )
        return grad_x, None


class InPlaceRelu(Function):
    """sigma_s for ReLU, overwriting x; the mask alone is kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, s: Parameter) -> Tensor:
        """The kernel, over x."""
        number = kernel_parameter(s, x)
        y, mask, stride = serve(native, reference, x, "relu").relu_mask_forward(x, number, in_place=True)
        ctx.mark_dirty(x)
        ctx.stride = stride
        _save(ctx, mask, number)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """From the mask."""
        return _relu_mask_backward(ctx, grad), None


class ValueAndSlope(Function):
    """sigma_s(x) and sigma_s'(x), one pass forward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, s: Parameter, base: str) -> tuple[Tensor, Tensor]:
        """The kernel; x is kept."""
        ctx.set_materialize_grads(False)
        ctx.base, ctx.kernels, ctx.choice = base, serve(native, reference, x, base), asked_for()
        _save(ctx, x, s)
        return ctx.kernels.value_and_slope(x, kernel_parameter(s, x), base)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        """The two gradients added up; differentiable in turn."""
        total: list[Tensor | None] = [None, None]
        for order, grad in enumerate(grads):
            if grad is None:
                continue
            for i, part in enumerate(_input_gradients(ctx, grad, order)):
                so_far = total[i]
                total[i] = part if so_far is None else so_far if part is None else so_far + part
        return total[0], total[1], None


class _TransformableHomotopy(Function):
    """The same op for torch.func transforms and forward-mode AD; four times the Python overhead of the light one."""

    @staticmethod
    def forward(x: Tensor, s: Parameter = 1.0, base: str = "relu", order: int = 0) -> Tensor:
        return serve(native, reference, x, base).evaluate(x, kernel_parameter(s, x), base, order)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, s, ctx.base, ctx.order = inputs
        ctx.kernels, ctx.choice = serve(native, reference, x, ctx.base), asked_for()
        _save(ctx, x, s)
        ctx.save_for_forward(*((x, s) if isinstance(s, Tensor) else (x,)))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return (*_input_gradients(ctx, grad, ctx.order), None, None)

    @staticmethod
    def jvp(ctx: Any, x_tangent: Tensor | None, s_tangent: Tensor | None, *_: None) -> Tensor:
        x, s = _saved(ctx)
        parts = []
        if x_tangent is not None:
            parts.append(x_tangent * derivative(x, s, ctx.base, ctx.order + 1))
        if s_tangent is not None:
            parts.append((s_tangent * by_parameter(x, ctx.base, ctx.order)).to(x.dtype))
        return sum(parts[1:], parts[0])

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, ...], x: Tensor, s: Parameter, base: str, order: int
    ) -> tuple[Tensor, int]:
        x_dim, s_dim = in_dims[0], in_dims[1]
        if s_dim is None:
            assert x_dim is not None
            if not per_feature(s):  # elementwise: the batch dimension may stay where it is
                return derivative(x, s, base, order), x_dim
            return derivative(x.movedim(x_dim, 0), s, base, order), 0
        assert isinstance(s, Tensor)
        x = x.expand(info.batch_size, *x.shape) if x_dim is None else x.movedim(x_dim, 0)
        s = s.movedim(s_dim, 0)
        s = s.reshape(info.batch_size, *(1,) * (x.dim() - s.dim()), *s.shape[1:])
        return compose(x, s, base, order), 0


# Function.apply without torch's wrapper, which looks for functorch on every call; the fast lane has looked already.
lean_relu = super(Function, _LeanRelu).apply
light_homotopy = super(Function, HomotopyFunction).apply
