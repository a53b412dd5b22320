"""Autograd of the two-layer network: fused kernels forward and backward, recomputed chunks for what comes after.

``TwoLayer`` serves ordinary eager calls. Its backward under ``create_graph`` is ``_Gradients``, whose own backward
recomputes one chunk of neurons at a time, so that second derivatives need no memory of size n x m either. While a
``torch.func`` transform or a forward-mode level is open, ``TransformableTwoLayer`` takes over.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from hrta_ext import native, native_two_layer
from hrta_ext import reference_two_layer as reference
from hrta_ext.activation import _needs_operations
from hrta_ext.backends import kernels_for
from hrta_ext.reference import Parameter

# The order of inputs everywhere: x (n, D), weight (..., m, D), output_weight (..., m), s: float or (), base.


def two_layer_kernels(x: Tensor, base: str) -> ModuleType:
    """The module that serves x and this base; CUDA tensors are served by the torch backend so far."""
    return native_two_layer if kernels_for(x, base) is native and x.device.type == "cpu" else reference


def _save(ctx: Any, s: Parameter, *tensors: Tensor) -> None:
    ctx.s = None if isinstance(s, Tensor) else s
    ctx.save_for_backward(*tensors, *((s,) if isinstance(s, Tensor) else ()))


def _saved(ctx: Any) -> tuple[tuple[Tensor, ...], Parameter]:
    saved = ctx.saved_tensors
    return (saved, ctx.s) if ctx.s is not None else (saved[:-1], saved[-1])


def _like(grad_s: Tensor | None, s: Parameter) -> Tensor | None:
    return grad_s.to(s) if grad_s is not None and isinstance(s, Tensor) else None


class TwoLayer(Function):
    """f (..., n)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, output_weight: Tensor, s: Parameter, base: str) -> Tensor:
        """The kernels, and what backward needs."""
        ctx.base = base
        _save(ctx, s, x, weight, output_weight)
        return two_layer_kernels(x, base).outputs(x, weight, output_weight, s, base, False)[0]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Fused; differentiable in turn."""
        (x, weight, output_weight), s = _saved(ctx)
        needs = ctx.needs_input_grad[:4]
        if not _needs_operations(grad):
            kernels = two_layer_kernels(x, ctx.base)
            found = kernels.gradients(grad, x, weight, output_weight, s, ctx.base, needs)
        elif torch._C._functorch.is_legacy_batchedtensor(grad):
            found = reference.gradients(grad, x, weight, output_weight, s, ctx.base, needs)
        else:
            found = _Gradients.apply(grad, x, weight, output_weight, s, ctx.base, needs)
        return found[0], found[1], found[2], _like(found[3], s), None


def _gradients_of_chunk(base: str, needs: reference.Needs, s: Parameter) -> reference.ChunkFunction:
    """``reference.chunk_gradients`` as ``recomputed_gradients`` wants it; shared tensors: grad, x and s."""

    def function(shared: Sequence[Tensor], weight: Tensor, output_weight: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        grad, x, *rest = shared
        found = reference.chunk_gradients(grad, x, weight, output_weight, rest[0] if rest else s, base, needs)
        return [t for t in (found[0], found[3]) if t is not None], [t for t in (found[1], found[2]) if t is not None]

    return function


class _Gradients(Function):
    """The gradients in (x, weight, output_weight, s) that ``needs`` asks for, None for the others."""

    @staticmethod
    def forward(
        ctx: Any,
        grad: Tensor,
        x: Tensor,
        weight: Tensor,
        output_weight: Tensor,
        s: Parameter,
        base: str,
        needs: reference.Needs,
    ) -> reference.Gradients:
        ctx.base, ctx.needs = base, needs
        ctx.set_materialize_grads(False)
        _save(ctx, s, grad, x, weight, output_weight)
        return two_layer_kernels(x, base).gradients(grad, x, weight, output_weight, s, base, needs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        (grad, x, weight, output_weight), s = _saved(ctx)
        shared = (grad, x, s) if isinstance(s, Tensor) else (grad, x)
        needs = ctx.needs_input_grad
        wanted = (*(needs[0], needs[1], needs[4])[: len(shared)], needs[2], needs[3])
        function = _gradients_of_chunk(ctx.base, ctx.needs, s)
        sums = [grads[i] for i in (0, 3) if ctx.needs[i]]
        per_neuron = [grads[i] for i in (1, 2) if ctx.needs[i]]
        found = reference.recomputed_gradients(function, shared, weight, output_weight, sums, per_neuron, wanted)
        grad_s = found[2] if isinstance(s, Tensor) else None
        return found[0], found[1], found[-2], found[-1], grad_s, None, None


class TwoLayerWithGradient(Function):
    """f (..., n) and df/dx (..., n, D)."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, output_weight: Tensor, s: Parameter, base: str
    ) -> tuple[Tensor, ...]:
        """The kernels, and what backward needs."""
        ctx.base = base
        ctx.set_materialize_grads(False)
        _save(ctx, s, x, weight, output_weight)
        return two_layer_kernels(x, base).outputs(x, weight, output_weight, s, base, True)

    @staticmethod
    def backward(ctx: Any, grad_f: Tensor | None, grad_df_dx: Tensor | None) -> tuple[Tensor | None, ...]:
        """Fused in the weights, from chunks in x and s; differentiable in turn."""
        (x, weight, output_weight), s = _saved(ctx)
        needs = ctx.needs_input_grad[:4]
        found = with_gradient_gradients(grad_f, grad_df_dx, x, weight, output_weight, s, ctx.base, needs)
        return *found[:3], _like(found[3], s), None


def with_gradient_gradients(
    grad_f: Tensor | None,
    grad_df_dx: Tensor | None,
    x: Tensor,
    weight: Tensor,
    output_weight: Tensor,
    s: Parameter,
    base: str,
    needs: reference.Needs,
) -> reference.Gradients:
    """The gradients of sum_i grad_f_i f_i + grad_df_dx_i . df_dx_i in x, weight, output_weight and s.

    The compiled kernels know those in the weights; the others, and everything in grad mode, come from chunks.
    """
    if grad_f is None and grad_df_dx is None:
        return None, None, None, None
    if not (needs[0] or needs[3] or torch.is_grad_enabled()) and two_layer_kernels(x, base) is native_two_layer:
        found = native_two_layer.weight_gradients(
            grad_f, grad_df_dx, x, weight, output_weight, s, base, (needs[1], needs[2])
        )
        return None, *found, None
    shared = (x, s) if isinstance(s, Tensor) else (x,)

    def function(shared: Sequence[Tensor], weight: Tensor, output_weight: Tensor) -> tuple[tuple[Tensor, ...], tuple]:
        parameter = shared[1] if len(shared) == 2 else s
        return reference.chunk_outputs(shared[0], weight, output_weight, parameter, base, True), ()

    wanted = (*(needs[0], needs[3])[: len(shared)], needs[1], needs[2])
    parts = reference.recomputed_gradients(function, shared, weight, output_weight, (grad_f, grad_df_dx), (), wanted)
    return parts[0], parts[-2], parts[-1], parts[1] if len(shared) == 2 else None


def _batched(
    function: Callable[..., Any], batch_size: int, in_dims: Sequence[int | None], arguments: Sequence[Any]
) -> Any:
    """function over the batch entries one by one, results stacked along a new first dimension."""
    moved = [a if d is None else a.movedim(d, 0) for a, d in zip(arguments, in_dims, strict=True)]
    results = [
        function(*(a if d is None else a[i] for a, d in zip(moved, in_dims, strict=True))) for i in range(batch_size)
    ]
    if isinstance(results[0], Tensor):
        return torch.stack(results), 0
    stacked = tuple(torch.stack(parts) for parts in zip(*results, strict=True))
    return stacked, (0,) * len(stacked)


def _as_networks(batch_size: int, in_dims: Sequence[int | None], tensors: Sequence[Tensor]) -> list[Tensor]:
    """The batch as a new leading dimension of networks."""
    return [
        t.expand(batch_size, *t.shape) if d is None else t.movedim(d, 0) for t, d in zip(tensors, in_dims, strict=True)
    ]


class TransformableTwoLayer(Function):
    """``TwoLayer`` for torch.func transforms and forward-mode AD."""

    @staticmethod
    def forward(x: Tensor, weight: Tensor, output_weight: Tensor, s: Parameter, base: str) -> Tensor:
        """The kernels."""
        return two_layer_kernels(x, base).outputs(x, weight, output_weight, s, base, False)[0]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """What backward and jvp need."""
        x, weight, output_weight, s, ctx.base = inputs
        _save(ctx, s, x, weight, output_weight)
        ctx.save_for_forward(x, weight, output_weight, *((s,) if isinstance(s, Tensor) else ()))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Fused; differentiable in turn."""
        (x, weight, output_weight), s = _saved(ctx)
        needs = ctx.needs_input_grad[:4]
        found = iter(_TransformableGradients.apply(grad, x, weight, output_weight, s, ctx.base, needs))
        *rest, grad_s = (next(found) if needed else None for needed in needs)
        return *rest, _like(grad_s, s), None

    @staticmethod
    def jvp(
        ctx: Any, x_dot: Tensor | None, weight_dot: Tensor | None, a_dot: Tensor | None, s_dot: Any, _: None
    ) -> Any:
        """The derivative along a direction, by plain operations."""
        (x, weight, output_weight), s = _saved(ctx)
        return reference.tangent(x, weight, output_weight, s, ctx.base, (x_dot, weight_dot, a_dot, s_dot))

    @staticmethod
    def vmap(info: Any, in_dims: Any, x: Tensor, weight: Tensor, output_weight: Tensor, s: Parameter, base: str) -> Any:
        """Networks and samples join dimensions that the kernels have; other batches run one by one."""
        size = info.batch_size
        dims = in_dims[:4]
        if dims[0] is None and dims[3] is None:  # a batch of networks
            weight, output_weight = _as_networks(size, dims[1:3], (weight, output_weight))
            return TransformableTwoLayer.apply(x, weight, output_weight, s, base), 0
        if dims[1] is None and dims[2] is None and dims[3] is None:  # more samples
            x = x.movedim(dims[0], 0)
            f = TransformableTwoLayer.apply(x.flatten(0, 1), weight, output_weight, s, base)
            return f.unflatten(-1, x.shape[:2]), f.dim() - 1
        return _batched(TransformableTwoLayer.apply, size, in_dims, (x, weight, output_weight, s, base))


class _TransformableGradients(Function):
    """Those gradients in (x, weight, output_weight, s) that are needed; derivatives go through plain operations."""

    @staticmethod
    def forward(
        grad: Tensor,
        x: Tensor,
        weight: Tensor,
        output_weight: Tensor,
        s: Parameter,
        base: str,
        needs: reference.Needs,
    ) -> tuple[Tensor, ...]:
        found = two_layer_kernels(x, base).gradients(grad, x, weight, output_weight, s, base, needs)
        return tuple(tensor for tensor in found if tensor is not None)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        *tensors, s, ctx.base, ctx.needs = inputs
        _save(ctx, s, *tensors)
        ctx.save_for_forward(*tensors, *((s,) if isinstance(s, Tensor) else ()))

    @staticmethod
    def _formula(ctx: Any) -> tuple[Callable[..., tuple[Tensor, ...]], tuple[Tensor, ...]]:
        """The outputs as a function, of plain operations, of the tensors that follow."""
        tensors, s = _saved(ctx)

        def formula(grad: Tensor, x: Tensor, weight: Tensor, output_weight: Tensor, *rest: Tensor) -> Any:
            parameter = rest[0] if rest else s
            found = reference.gradients(grad, x, weight, output_weight, parameter, ctx.base, ctx.needs)
            return tuple(tensor for tensor in found if tensor is not None)

        # A gradient may be an expanded scalar, which forward mode cannot write into.
        primals = (tensors[0].contiguous(), *tensors[1:])
        return formula, (*primals, s) if isinstance(s, Tensor) else primals

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        formula, primals = _TransformableGradients._formula(ctx)
        _, pull_back = torch.func.vjp(formula, *primals)
        found = pull_back(grads)
        return *found[:4], found[4] if len(found) == 5 else None, None, None

    @staticmethod
    def jvp(ctx: Any, *dots: Any) -> tuple[Tensor, ...]:
        formula, primals = _TransformableGradients._formula(ctx)
        filled = tuple(
            torch.zeros_like(p) if dot is None else dot for p, dot in zip(primals, dots[: len(primals)], strict=True)
        )
        return torch.func.jvp(formula, primals, filled)[1]

    @staticmethod
    def vmap(
        info: Any,
        in_dims: Any,
        grad: Tensor,
        x: Tensor,
        weight: Tensor,
        output_weight: Tensor,
        s: Parameter,
        base: str,
        needs: reference.Needs,
    ) -> Any:
        size, dims = info.batch_size, (*in_dims[:5], None, None)
        if dims[1] is None and dims[4] is None and not needs[0] and not needs[3]:  # a batch of networks
            grad, weight, output_weight = _as_networks(size, (dims[0], dims[2], dims[3]), (grad, weight, output_weight))
            found = _TransformableGradients.apply(grad, x, weight, output_weight, s, base, needs)
            return found, (0,) * len(found)
        only_x = needs == (True, False, False, False) and dims[1] is not None and dims[2:5] == (None, None, None)
        if only_x and weight.dim() == 2:  # one network at more samples
            x = x.movedim(dims[1], 0)
            (grad,) = _as_networks(size, (dims[0],), (grad,))
            grad_x = _TransformableGradients.apply(
                grad.flatten(), x.flatten(0, 1), weight, output_weight, s, base, needs
            )[0]
            return (grad_x.unflatten(0, x.shape[:2]),), (0,)
        arguments = (grad, x, weight, output_weight, s, base, needs)
        return _batched(_TransformableGradients.apply, size, dims, arguments)
