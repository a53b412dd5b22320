"""The homotopy activation sigma_s(x) = (1 - s) x + s sigma(x): public functions and autograd.

A call takes one of three ways. Eager calls on ordinary tensors run a compiled kernel (or its stand-in in
``reference``), with a light ``autograd.Function`` when gradients are needed. Under ``torch.func`` transforms and
forward-mode AD the same kernels run behind a Function that knows vmap and jvp. Compilers, tensor subclasses and
dispatch modes see the plain formula ``reference.compose``, which Inductor fuses with its neighbours.
"""

from __future__ import annotations

import math
from numbers import Real
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function, forward_ad

from hrta_ext import compiled
from hrta_ext.activation import native, reference
from hrta_ext.backends import _Choice, kernels_for
from hrta_ext.bases import BASES, get_base
from hrta_ext.inputs import Parameter

# What the fast lane of `homotopy` looks up on every call.
_KINDS = compiled.KINDS
_NATIVE_BASES = {name: base.number for name, base in BASES.items() if base.number is not None}
_native_value = None if compiled._C is None else compiled._C.value
_empty_like = torch.empty_like
_strided = torch.strided
_grad_enabled = torch.is_grad_enabled
_is_functional = torch._is_functional_tensor
_unwrap_if_dead = torch._C._functorch.unwrap_if_dead
_functorch_active = torch._C._are_functorch_transforms_active
_dispatch_modes = torch._C._len_torch_dispatch_stack
_tracing_state = torch._C._get_tracing_state
_legacy_batched = torch._C._functorch.is_legacy_batchedtensor
_is_compiling = torch.compiler.is_compiling
_is_dynamo_compiling = torch.compiler.is_dynamo_compiling


def _transforms_active() -> bool:
    """A torch.func transform or a forward-mode level is open."""
    return _functorch_active() or forward_ad._current_level >= 0


def _sees_formula(x: Tensor) -> bool:
    """Whoever handles x wants plain operations: a compiler, a tracer, a subclass, a dispatch mode, an odd layout."""
    return (
        _is_compiling()
        or (type(x) is not Tensor and type(x) is not torch.nn.Parameter and not _functorch_active())
        or _dispatch_modes() > 0
        or _tracing_state() is not None
        or x.layout is not _strided
        or x.device.type == "meta"
        or _is_functional(x)
    )


def _check(function: str, x: Tensor, s: object, base: str, order: int = 0) -> None:
    """Raise TypeError or ValueError for what no backend can serve."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{function}: x must be a tensor, got {type(x).__name__}")
    if x.dtype not in _KINDS:
        raise TypeError(f"{function}: x must be float16, bfloat16, float32 or float64, got {x.dtype}")
    if x.layout is not _strided:
        raise TypeError(f"{function}: x must be a dense (strided) tensor, got layout {x.layout}")
    get_base(base)
    if isinstance(s, Tensor):
        if not s.is_floating_point():
            raise TypeError(f"{function}: s must be a float or a floating-point tensor, got a tensor of {s.dtype}")
        features = x.shape[-1] if x.dim() > 0 else None
        if s.dim() > 1 or (s.dim() == 1 and s.shape[0] != features):
            expected = "()" if features is None else f"() or ({features},)"
            raise ValueError(
                f"{function}: s must have shape {expected} for x of shape {tuple(x.shape)}, got {tuple(s.shape)}"
            )
        if s.device != x.device and not (s.dim() == 0 and s.device.type == "cpu"):
            raise ValueError(f"{function}: s must be on x's device {x.device}, got {s.device}")
    elif isinstance(s, bool) or not isinstance(s, (Real, torch.SymFloat)):
        raise TypeError(f"{function}: s must be a float or a tensor, got {type(s).__name__}")
    elif not isinstance(s, torch.SymFloat) and not math.isfinite(s):
        raise ValueError(f"{function}: s must be finite, got {s}")
    if order not in (0, 1, 2):
        raise ValueError(f"{function}: order must be 0, 1 or 2, got {order!r}")


def _kernel_parameter(s: Parameter, x: Tensor) -> Parameter:
    """s as the kernels take it: a number where that costs no wait for a device, else float64 on x's device."""
    if not isinstance(s, Tensor):
        return float(s)
    if s.device.type == "cpu" and s.dim() == 0:
        return s.item()
    return s.detach().to(torch.float32 if x.device.type == "mps" else torch.float64).contiguous()


def _wants_grad(x: Tensor, s: object) -> bool:
    return _grad_enabled() and (x.requires_grad or (isinstance(s, Tensor) and s.requires_grad))


def _fast_lane(x: Tensor, s: object, base: object) -> tuple[int, int] | None:
    """The kernel's numbers of dtype and base for an ordinary contiguous CPU tensor and a float s; None for others."""
    if (
        not _is_dynamo_compiling()
        and type(x) is Tensor
        and type(s) is float
        and type(base) is str
        and (number := _NATIVE_BASES.get(base)) is not None
        and (kind := _KINDS.get(x.dtype)) is not None
        and x.is_cpu
        and x.layout is _strided
        and x.is_contiguous()
        and not x.is_neg()
        and s - s == 0.0
        and _native_value is not None
        and _Choice.forced is None
        and not _functorch_active()
        and not _dispatch_modes()
        and forward_ad._current_level < 0
        and _tracing_state() is None
    ):
        return kind, number
    return None


def _alive(tensor: Any) -> Any:
    """What a tensor that outlived its torch.func transform wraps; anything else as it is."""
    while isinstance(tensor, Tensor) and (inner := _unwrap_if_dead(tensor)) is not tensor:
        tensor = inner
    return tensor


def homotopy(x: Tensor, s: Parameter = 1.0, base: str = "relu", *, order: int = 0) -> Tensor:
    """sigma_s(x) = (1 - s) x + s sigma(x), or its derivative in x.

    Source: Yang, Chen, Hao (2025), section 2; THEORY, section 1. For ReLU it is a leaky ReLU of negative slope 1 - s,
    negative for s > 1. sigma'(0) = 0 for ReLU, as in torch.

    Args:
        x: Any shape and strides; float16, bfloat16 (computed in float32), float32 or float64.
        s: Homotopy parameter: a finite float, a 0-dim tensor, or shape (x.shape[-1],) for one s per feature.
        base: "relu", "relu2" (ReLU^2 / 2), "tanh", "gelu" (exact), "silu", "softplus", "erf", "sin", or a name given to
            :func:`register_base`.
        order: 0 for the value, 1 for sigma_s', 2 for sigma_s''.
    Returns:
        x's shape and dtype; dense layouts such as channels_last are kept.

    Accuracy: float32 within 4 ulp of the exact value, an ulp of the larger of |(1 - s) x| and |s sigma(x)|, for every
    finite x. NaN stays NaN; at infinite x the limit of the formula (ReLU at -inf: 0 for s = 1, -inf for s < 1).

    Differentiable in x and, when s is a tensor that requires grad, in s, as often as the base allows. Memory kept for
    backward: ReLU with an s that needs no gradient, 1/8 byte per element (torch backend: 1 byte); otherwise x itself,
    which costs nothing if x lives on. The gradient in s is summed in float64 in a fixed order: the same bits on every
    run and for every number of threads.

    Raises:
        TypeError: x is no floating-point dense tensor, or s no number.
        ValueError: unknown base, wrong shape or device of s, s not finite, order not 0, 1 or 2.

    Example:
        >>> import torch, hrta_ext as hx
        >>> x = torch.tensor([-2.0, 2.0], requires_grad=True)
        >>> y = hx.homotopy(x, s=1.5)
        >>> y
        tensor([1., 2.], grad_fn=<...>)
        >>> torch.autograd.grad(y.sum(), x)
        (tensor([-0.5000,  1.0000]),)
    """
    # The fast lane. _fast_lane's conditions stand here again: a call costs a tenth of the time on a thousand elements.
    if (
        not _is_dynamo_compiling()
        and order == 0
        and type(x) is Tensor
        and type(s) is float
        and type(base) is str
        and (number := _NATIVE_BASES.get(base)) is not None
        and (kind := _KINDS.get(x.dtype)) is not None
        and x.is_cpu
        and x.layout is _strided
        and x.is_contiguous()
        and not x.is_neg()
        and s - s == 0.0
        and _native_value is not None
        and _Choice.forced is None
        and not _functorch_active()
        and not _dispatch_modes()
        and forward_ad._current_level < 0
        and _tracing_state() is None
    ):
        try:
            if x.requires_grad and _grad_enabled():
                return _lean_relu(x, s) if base == "relu" else _light_homotopy(x, s, base, 0)
            y = _empty_like(x)
            _native_value(x.data_ptr(), y.data_ptr(), 0, x.numel(), kind, number, s)
            return y
        except RuntimeError:  # a wrapper without memory of its own: the slow lane knows what to do, or what to say
            pass
    _check("homotopy", x, s, base, order)
    if _sees_formula(x):
        return reference.compose(x, s, base, order)
    x, s = _alive(x), _alive(s)
    if order == 2 and (_transforms_active() or _wants_grad(x, s)):
        return reference.compose(x, s, base, order)  # derivatives of the third order and up are torch's
    if _transforms_active() or _wants_grad(x, s):
        return HomotopyFunction.apply(x, s, base, order)
    return kernels_for(x, base).evaluate(x, _kernel_parameter(s, x), base, order)


def homotopy_value_and_slope(x: Tensor, s: Parameter = 1.0, base: str = "relu") -> tuple[Tensor, Tensor]:
    """sigma_s(x) and sigma_s'(x) in one pass over x; both differentiable.

    Args and errors as for :func:`homotopy`. The pair is what PINN and Deep Ritz losses need, and what the kernels of
    the finite-width NTK are made of (THEORY, section 3).

    Returns:
        (value, slope), each of x's shape and dtype.

    Example:
        >>> import torch, hrta_ext as hx
        >>> hx.homotopy_value_and_slope(torch.tensor([-2.0, 2.0]), s=0.5)
        (tensor([-1.,  2.]), tensor([0.5000, 1.0000]))
    """
    if (numbers := _fast_lane(x, s, base)) is not None and not (x.requires_grad and _grad_enabled()):
        try:
            value, slope = _empty_like(x), _empty_like(x)
            compiled._C.value(x.data_ptr(), value.data_ptr(), slope.data_ptr(), x.numel(), *numbers, s)
            return value, slope
        except RuntimeError:  # as in homotopy
            pass
    _check("homotopy_value_and_slope", x, s, base)
    if _sees_formula(x) or _transforms_active():
        return homotopy(x, s, base), homotopy(x, s, base, order=1)
    x, s = _alive(x), _alive(s)
    if _wants_grad(x, s):
        value, slope = _ValueAndSlope.apply(x, s, base)
        return value, slope
    return kernels_for(x, base).value_and_slope(x, _kernel_parameter(s, x), base)


def homotopy_(x: Tensor, s: Parameter = 1.0, base: str = "relu") -> Tensor:
    """sigma_s in place: overwrites x and returns it, with a correct backward for every s, also s > 1.

    Args and errors as for :func:`homotopy`. Backward keeps 1/8 byte per element for ReLU with an s that needs no
    gradient; every other case keeps a copy of the old x, since its derivatives cannot be had from the new one.

    Raises:
        ValueError: x is a leaf that requires grad, whose old value autograd could not restore.

    Example:
        >>> import torch, hrta_ext as hx
        >>> x = torch.tensor([-2.0, 2.0])
        >>> hx.homotopy_(x, s=1.5) is x, x
        (True, tensor([1., 2.]))
    """
    _check("homotopy_", x, s, base)
    if _sees_formula(x) or _transforms_active():
        return x.copy_(homotopy(x.clone(), s, base))
    if (alive := _alive(x)) is not x:
        homotopy_(alive, s, base)
        return x
    s = _alive(s)
    if not _wants_grad(x, s):
        kernels_for(x, base).evaluate_in_place(x, _kernel_parameter(s, x), base)
        # The kernel writes behind autograd's back: let saved tensors know that x has changed.
        torch.autograd.graph.increment_version(x)
        return x
    if x.is_leaf and x.requires_grad:
        raise ValueError(
            "homotopy_: x is a leaf tensor that requires grad; call hx.homotopy, or wrap in torch.no_grad()"
        )
    if base == "relu" and not (isinstance(s, Tensor) and s.requires_grad) and not _per_feature(s):
        return _InPlaceRelu.apply(x, s)
    return x.copy_(homotopy(x.clone(), s, base))


def _per_feature(s: Parameter) -> bool:
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


def _needs_operations(grad: Tensor) -> bool:
    """Backward must be made of differentiable, batchable operations: create_graph, torch.func, is_grads_batched."""
    return _grad_enabled() or _functorch_active() or _legacy_batched(grad) or forward_ad._current_level >= 0


def _relu_mask_backward(ctx: Any, grad: Tensor) -> Tensor:
    """grad times the slope that the mask stands for; linear in grad, so its own backward multiplies again."""
    mask, s = _saved(ctx)
    kernels = reference if mask.dtype == torch.bool else native
    if _needs_operations(grad) or _per_feature(s):
        with torch.no_grad():  # ones of its own: grad may carry a batch dimension of vmap that the mask lacks
            ones = torch.ones(grad.shape, dtype=grad.dtype, device=grad.device)
            active = kernels.relu_mask_backward(ones, mask, 1.0, ctx.stride)
            slope = (active + (1.0 - active) * (1.0 - s)).to(grad.dtype)
        return grad * slope
    return kernels.relu_mask_backward(grad, mask, s, ctx.stride)


def _input_gradients(
    grad: Tensor, x: Tensor, s: Parameter, base: str, order: int, needs: tuple[bool, ...]
) -> tuple[Tensor | None, Tensor | None]:
    """The gradients in x and s of the derivative of ``order``; differentiable again in grad mode."""
    grad_x = grad_s = None
    if _needs_operations(grad):
        if needs[0]:
            grad_x = grad * homotopy(x, s, base, order=order + 1)
        if needs[1]:
            assert isinstance(s, Tensor)
            inner = homotopy(x, 1.0, base, order=order) - homotopy(x, 0.0, base, order=order)
            product = grad * inner
            leading = tuple(range(product.dim() - s.dim()))
            grad_s = (product.sum(leading, dtype=torch.float64) if leading else product).to(s)
        return grad_x, grad_s
    kernels, number = kernels_for(x, base), _kernel_parameter(s, x)
    if needs[0]:
        grad_x = kernels.backward(grad, x, number, base, order)
    if needs[1]:
        assert isinstance(s, Tensor)
        placed = s.detach().to(x.device, torch.float32 if x.device.type == "mps" else torch.float64)
        grad_s = kernels.parameter_gradient(grad, x, placed, base, order).to(s)
    return grad_x, grad_s


class HomotopyFunction(Function):
    """The ``torch.autograd.Function`` behind :func:`homotopy`: ``HomotopyFunction.apply(x, s, base[, order])``.

    Arguments are as for :func:`homotopy`, positional and unchecked; order is 0 or 1.

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
        if _transforms_active():
            return _TransformableHomotopy.apply(*args, **kwargs)
        return super().apply(*args, **kwargs)

    @staticmethod
    def forward(ctx: Any, x: Tensor, s: Parameter = 1.0, base: str = "relu", order: int = 0) -> Tensor:
        """The kernel, and what backward needs of x."""
        kernels, number = kernels_for(x, base), _kernel_parameter(s, x)
        ctx.base, ctx.order = base, order
        ctx.masked = base == "relu" and order == 0 and not ctx.needs_input_grad[1]
        if ctx.masked:
            y, mask, ctx.stride = kernels.relu_mask_forward(x, 1.0 if _per_feature(number) else number)
            _save(ctx, mask, number)
            return kernels.evaluate(x, number, base, 0) if _per_feature(number) else y
        _save(ctx, x, s)
        return kernels.evaluate(x, number, base, order)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Fused, one pass; differentiable in turn."""
        if ctx.masked:
            gradients: tuple[Tensor | None, Tensor | None] = (_relu_mask_backward(ctx, grad), None)
        else:
            x, s = _saved(ctx)
            gradients = _input_gradients(grad, x, s, ctx.base, ctx.order, ctx.needs_input_grad)
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
        if _needs_operations(grad) or not grad.is_contiguous() or grad.is_neg():
            grad = grad.contiguous()
            ctx.stride = grad.stride()
            return _relu_mask_backward(ctx, grad), None
        (mask,) = ctx.saved_tensors
        grad_x = _empty_like(grad)
        compiled._C.relu_mask_backward(
            grad.data_ptr(), grad_x.data_ptr(), mask.data_ptr(), grad.numel(), _KINDS[grad.dtype], ctx.s, 0, -1
        )
        return grad_x, None


class _InPlaceRelu(Function):
    """sigma_s for ReLU, overwriting x; the mask alone is kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, s: Parameter) -> Tensor:
        number = _kernel_parameter(s, x)
        y, mask, stride = kernels_for(x, "relu").relu_mask_forward(x, number, in_place=True)
        ctx.mark_dirty(x)
        ctx.stride = stride
        _save(ctx, mask, number)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return _relu_mask_backward(ctx, grad), None


class _ValueAndSlope(Function):
    """sigma_s(x) and sigma_s'(x), one pass forward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, s: Parameter, base: str) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        ctx.base = base
        _save(ctx, x, s)
        return kernels_for(x, base).value_and_slope(x, _kernel_parameter(s, x), base)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        x, s = _saved(ctx)
        total: list[Tensor | None] = [None, None]
        for order, grad in enumerate(grads):
            if grad is None:
                continue
            for i, part in enumerate(_input_gradients(grad, x, s, ctx.base, order, ctx.needs_input_grad)):
                so_far = total[i]
                total[i] = part if so_far is None else so_far if part is None else so_far + part
        return total[0], total[1], None


class _TransformableHomotopy(Function):
    """The same op for torch.func transforms and forward-mode AD; four times the Python overhead of the light one."""

    @staticmethod
    def forward(x: Tensor, s: Parameter = 1.0, base: str = "relu", order: int = 0) -> Tensor:
        return kernels_for(x, base).evaluate(x, _kernel_parameter(s, x), base, order)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, s, ctx.base, ctx.order = inputs
        _save(ctx, x, s)
        ctx.save_for_forward(*((x, s) if isinstance(s, Tensor) else (x,)))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, s = _saved(ctx)
        return (*_input_gradients(grad, x, s, ctx.base, ctx.order, ctx.needs_input_grad), None, None)

    @staticmethod
    def jvp(ctx: Any, x_tangent: Tensor | None, s_tangent: Tensor | None, *_: None) -> Tensor:
        x, s = _saved(ctx)
        parts = []
        if x_tangent is not None:
            parts.append(x_tangent * homotopy(x, s, ctx.base, order=ctx.order + 1))
        if s_tangent is not None:
            inner = homotopy(x, 1.0, ctx.base, order=ctx.order) - homotopy(x, 0.0, ctx.base, order=ctx.order)
            parts.append((s_tangent * inner).to(x.dtype))
        return sum(parts[1:], parts[0])

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, ...], x: Tensor, s: Parameter, base: str, order: int
    ) -> tuple[Tensor, int]:
        x_dim, s_dim = in_dims[0], in_dims[1]
        if s_dim is None:
            assert x_dim is not None
            if not _per_feature(s):  # elementwise: the batch dimension may stay where it is
                return homotopy(x, s, base, order=order), x_dim
            return homotopy(x.movedim(x_dim, 0), s, base, order=order), 0
        assert isinstance(s, Tensor)
        x = x.expand(info.batch_size, *x.shape) if x_dim is None else x.movedim(x_dim, 0)
        s = s.movedim(s_dim, 0)
        s = s.reshape(info.batch_size, *(1,) * (x.dim() - s.dim()), *s.shape[1:])
        return reference.compose(x, s, base, order), 0


# Function.apply without torch's wrapper, which looks for functorch on every call; the fast lane has looked already.
_lean_relu = super(Function, _LeanRelu).apply
_light_homotopy = super(Function, HomotopyFunction).apply
