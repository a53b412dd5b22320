"""Autograd of the activation: what is kept of x, and who computes the derivatives.

Forward notes which backend was asked for, and backward goes by that note, whatever thread it runs on and whatever
``use_backend`` block is open there.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function, forward_ad

from hrta_ext import compiled
from hrta_ext.activation import native, reference
from hrta_ext.activation.formula import HALF_TYPES, by_parameter, compose
from hrta_ext.backends import as_chosen, asked_for, serve
from hrta_ext.callers import alive, grad_enabled, needs_operations, sees_formula, transforms_active, wants_grad
from hrta_ext.inputs import Parameter, check_activation, check_finite

_KINDS = compiled.KINDS
_empty = torch.empty
_empty_like = torch.empty_like
_WORDS = torch.complex64
_relu_mask_forward: Any = None if compiled._C is None else compiled._C.relu_mask_forward
_value: Any = None if compiled._C is None else compiled._C.value


def kernel_parameter(s: Parameter, x: Tensor) -> Parameter:
    """s as the kernels take it: a number where that costs no wait for a device, else float64 on x's device."""
    if not isinstance(s, Tensor):
        return float(s)
    if s.device.type == "cpu" and s.dim() == 0:
        value = s.item()
        # NaN and infinity go on as they do in tensors; a number that x's dtype cannot hold is refused, as a float is.
        return value if -6e4 < value < 6e4 or not math.isfinite(value) else check_finite(value, "homotopy: s", x.dtype)
    if s.untyped_storage().nbytes() == 0:
        compiled.require_memory(s, "activation: s")
    return s.detach().to(torch.float32 if x.device.type == "mps" else torch.float64).contiguous()


def derivative(x: Tensor, s: Parameter, base: str, order: int, save_slope: bool = False) -> Tensor:
    """:func:`hrta_ext.homotopy` of checked arguments, by whoever serves such a call."""
    if sees_formula(x):
        return compose(x, s, base, order)
    x, s = alive(x), alive(s)
    if order == 2 and (transforms_active() or wants_grad(x, s)):
        return compose(x, s, base, order)  # derivatives of the third order and up are torch's
    if save_slope and base != "relu" and not transforms_active() and wants_grad(x):
        return SavedSlope.apply(x, s, base)
    if transforms_active() or wants_grad(x, s):
        return HomotopyFunction.of_checked(x, s, base, order)
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


def _times_slope(
    grad: Tensor, mask: Tensor, link: Tensor, s: Parameter, stride: tuple[int, ...], kernels: Any = native
) -> Tensor:
    """grad times the slope that the mask stands for, by operations: linear in grad, and constant, not unknown, in x.

    ``link`` is an empty output of the Function, whose gradient leads autograd back to x, which is not kept.
    """
    wide = torch.float32 if grad.dtype in HALF_TYPES else grad.dtype  # a product of half types is rounded once
    with torch.no_grad():  # ones of its own: grad may carry a batch dimension of vmap that the mask lacks
        ones = torch.ones(grad.shape, dtype=grad.dtype, device=grad.device)
        active = kernels.relu_mask_backward(ones, mask, 1.0, stride).to(wide)
        slope = (active + (1.0 - active) * (1.0 - s)).to(wide)
    return (grad.to(wide) * (slope + link.sum().to(wide))).to(grad.dtype)


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
        grad_s = _parameter_gradient(ctx, grad, x, s, order)
    return grad_x, grad_s


def _parameter_gradient(ctx: Any, grad: Tensor, x: Tensor, s: Parameter, order: int) -> Tensor:
    assert isinstance(s, Tensor)
    placed = s.detach().to(x.device, torch.float32 if x.device.type == "mps" else torch.float64)
    return ctx.kernels.parameter_gradient(grad, x, placed, ctx.base, order).to(s)


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

    Arguments are as for :func:`hrta_ext.homotopy`, positional; order is 0 or 1.

    Example:
        >>> import torch, hrta_ext as hx
        >>> x = torch.tensor([-2.0, 2.0], requires_grad=True)
        >>> hx.HomotopyFunction.apply(x, 0.5, "relu").sum().backward()
        >>> x.grad
        tensor([0.5000, 1.0000])
    """

    @classmethod
    def apply(cls, x: Tensor, s: Parameter = 1.0, base: str = "relu", order: int = 0, /) -> Any:
        """Check the arguments, and run it, or what serves such a call in its place."""
        s = check_activation("HomotopyFunction", x, s, base)
        if order not in (0, 1):
            raise ValueError(f"HomotopyFunction: order must be 0 or 1, got {order!r}")
        return derivative(x, s, base, order)

    @classmethod
    def of_checked(cls, x: Tensor, s: Parameter, base: str, order: int) -> Any:
        """Run it: by way of the functorch-capable twin while a transform is open."""
        if transforms_active():
            return _TransformableHomotopy.apply(x, s, base, order)
        if base == "relu" and order == 0 and not (isinstance(s, Tensor) and s.requires_grad):
            return MaskedRelu.apply(x, s, False)[0]
        return super().apply(x, s, base, order)

    @staticmethod
    def forward(ctx: Any, x: Tensor, s: Parameter = 1.0, base: str = "relu", order: int = 0) -> Tensor:
        """The kernel; x is kept."""
        ctx.base, ctx.order = base, order
        ctx.kernels, ctx.choice = serve(native, reference, x, base), asked_for()
        _save(ctx, x, s)
        return ctx.kernels.evaluate(x, kernel_parameter(s, x), base, order)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Fused, one pass; differentiable in turn."""
        return (*_input_gradients(ctx, grad, ctx.order), None, None)


def _plain(grad: Tensor) -> bool:
    """Nobody differentiates backward, and the gradient is as the kernels take it."""
    return not grad_enabled() and forward_ad._current_level < 0 and grad.is_contiguous() and not grad.is_neg()


class _LeanRelu(Function):
    """The case that is called most, sigma_s of ReLU on a contiguous tensor, with the least Python.

    The bits themselves are the link of ``_times_slope``. They are of a type that autograd connects, and that no hook
    which shortens floating-point numbers takes for its own.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, s: float, device: int) -> tuple[Tensor, Tensor]:
        y, n = _empty_like(x), x.numel()
        words = (n + 63) >> 6
        mask = _empty(words, dtype=_WORDS) if device < 0 else x.new_empty(words, dtype=_WORDS)
        _relu_mask_forward(x.data_ptr(), y.data_ptr(), mask.data_ptr(), n, _KINDS[x.dtype], s, 0, device)
        ctx.s = s, x.shape, device
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(mask)
        return y, mask

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, _: Tensor | None) -> tuple[Tensor | None, ...]:
        (mask,), (s, shape, device) = ctx.saved_tensors, ctx.s
        if grad is None:
            return torch.zeros(shape, device=mask.device), None, None
        try:
            if _plain(grad) and mask.get_device() == device:
                grad_x = _empty_like(grad)
                compiled._C.relu_mask_backward(
                    grad.data_ptr(), grad_x.data_ptr(), mask.data_ptr(), grad.numel(), _KINDS[grad.dtype], s, 0, device
                )
                return grad_x, None, None
        except RuntimeError:  # what a transform wraps has no address
            pass
        grad = grad.contiguous()
        with torch.no_grad():
            bits = mask.view(torch.uint8)[: (grad.numel() + 7) >> 3]
        return _times_slope(grad, bits, mask[:0].real, s, grad.stride()), None, None


class _LeanHomotopy(Function):
    """The same for the other bases, a number s and a contiguous tensor, which is kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, s: float, base: str, numbers: tuple[int, int, int]) -> Tensor:
        y, n, at = _empty_like(x), x.numel(), x.data_ptr()
        kind, number, device = numbers
        _value(at, y.data_ptr(), 0, n, kind, number, s, device)
        ctx.s = s, base, numbers, n, at
        ctx.save_for_backward(x)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (x,), (s, base, (kind, number, device), n, at) = ctx.saved_tensors, ctx.s
        # Few questions: each costs half a microsecond here. x is as it was unless hooks of saved tensors moved it; what
        # a transform wraps has no address, which is a RuntimeError.
        try:
            if _plain(grad) and x.data_ptr() == at:
                grad_x = _empty_like(grad)
                compiled._C.slope_times(at, grad.data_ptr(), grad_x.data_ptr(), n, kind, number, s, device)
                return grad_x, None, None, None
        except RuntimeError:
            pass
        if needs_operations(grad):
            with as_chosen(None):
                return grad * derivative(x, s, base, 1), None, None, None
        return native.backward(grad, x, s, base, 0), None, None, None


class MaskedRelu(Function):
    """sigma_s for ReLU with an s that needs no gradient, over x if so asked: the mask alone is kept of x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, s: Parameter, in_place: bool) -> tuple[Tensor, Tensor]:
        """The kernel; the second result is the link of ``_times_slope``."""
        ctx.kernels, number, link = serve(native, reference, x, "relu"), kernel_parameter(s, x), x.new_empty(0)
        y, mask, ctx.stride = ctx.kernels.relu_mask_forward(x, 1.0 if per_feature(number) else number, in_place)
        if per_feature(number):
            y = ctx.kernels.evaluate(x, number, "relu", 0)
        if in_place:
            ctx.mark_dirty(x)
        ctx.shape = x.shape
        ctx.set_materialize_grads(False)
        ctx.s = None if isinstance(number, Tensor) else number
        ctx.save_for_backward(mask, link, *((number,) if isinstance(number, Tensor) else ()))
        return y, link

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, _: Tensor | None) -> tuple[Tensor | None, ...]:
        """From the mask; differentiable in turn."""
        mask, link, *rest = ctx.saved_tensors
        s = rest[0] if rest else ctx.s
        if grad is None:
            return torch.zeros(ctx.shape, dtype=link.dtype, device=link.device), None, None
        if needs_operations(grad) or per_feature(s):
            return _times_slope(grad, mask, link, s, ctx.stride, ctx.kernels), None, None
        return ctx.kernels.relu_mask_backward(grad, mask, s, ctx.stride), None, None


class SavedSlope(Function):
    """sigma_s with its slope, by which backward multiplies; x is kept for the other gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, s: Parameter, base: str) -> Tensor:
        """The kernel; x and the slope are kept."""
        ctx.base, ctx.kernels, ctx.choice = base, serve(native, reference, x, base), asked_for()
        y, slope = ctx.kernels.value_and_slope(x, kernel_parameter(s, x), base)
        ctx.s = None if isinstance(s, Tensor) else s
        ctx.save_for_backward(slope, x, *((s,) if isinstance(s, Tensor) else ()))
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """One product; differentiable in turn."""
        slope, x, *rest = ctx.saved_tensors
        s, needs = rest[0] if rest else ctx.s, ctx.needs_input_grad
        if needs_operations(grad):
            with as_chosen(ctx.choice):
                return *_operations(grad, x, s, ctx.base, 0, needs), None
        grad_x = grad * slope if needs[0] else None
        return grad_x, _parameter_gradient(ctx, grad, x, s, 0) if needs[1] else None, None


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
light_saved_slope = super(Function, SavedSlope).apply
lean_homotopy = super(Function, _LeanHomotopy).apply
