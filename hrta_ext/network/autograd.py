"""Autograd of the two-layer network: fused kernels forward and backward, recomputed chunks for what comes after.

``TwoLayer`` serves ordinary eager calls. Its backward under ``create_graph`` is ``_Gradients``, whose own backward
recomputes one chunk of neurons at a time, so that second derivatives need no memory of size n x m either. While a
``torch.func`` transform or a forward-mode level is open, ``TransformableTwoLayer`` takes over.

The order of inputs everywhere: x (n, D), weight (..., m, D), output_weight (..., m), s (a float or 0-dim), base,
with_gradient, second. Outputs: f (..., n), with_gradient df/dx (..., n, D), and second derivatives (..., n, R).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from hrta_ext.backends import as_chosen, asked_for, serve
from hrta_ext.callers import is_legacy_batched, needs_operations
from hrta_ext.inputs import Parameter
from hrta_ext.network import native, reference
from hrta_ext.network.second import Second


def _save(ctx: Any, s: Parameter, *tensors: Tensor | None) -> None:
    ctx.choice = asked_for()  # the backend that was asked for: backward goes by it, wherever it runs
    ctx.s = None if isinstance(s, Tensor) else s
    ctx.save_for_backward(*tensors, *((s,) if isinstance(s, Tensor) else ()))


def _saved(ctx: Any) -> tuple[tuple[Any, ...], Parameter]:
    saved = ctx.saved_tensors
    return (saved, ctx.s) if ctx.s is not None else (saved[:-1], saved[-1])


def _like(grad_s: Tensor | None, s: Parameter) -> Tensor | None:
    return grad_s.to(s) if grad_s is not None and isinstance(s, Tensor) else None


def _present(tensors: Sequence[Tensor | None]) -> tuple[Tensor, ...]:
    return tuple(tensor for tensor in tensors if tensor is not None)


def cut(outputs: Sequence[Tensor], sizes: Sequence[int]) -> tuple[Tensor, ...]:
    """One network's outputs in parts along the samples: those of the first, then those of the next."""
    return tuple(part for output in outputs for part in output.split(sizes))


def _joined(grads: Sequence[Tensor | None], sizes: Sequence[int]) -> tuple[Tensor | None, ...]:
    """The gradients of outputs from those of their parts; None where no part has one."""
    joined: list[Tensor | None] = []
    for first in range(0, len(grads), len(sizes)):
        parts = grads[first : first + len(sizes)]
        one = next(iter(_present(parts)), None)
        if one is not None:
            filled = [one.new_zeros(n, *one.shape[1:]) if g is None else g for g, n in zip(parts, sizes, strict=True)]
            joined.append(filled[0] if len(filled) == 1 else torch.cat(filled))
        else:
            joined.append(None)
    return tuple(joined)


class TwoLayer(Function):
    """f, and what else is asked for, as a tuple; with ``sizes`` each cut along the samples into so many parts."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        output_weight: Tensor,
        s: Parameter,
        base: str,
        with_gradient: bool,
        second: Second | None,
        sizes: tuple[int, ...] | None = None,
    ) -> tuple[Tensor, ...]:
        """The kernels; all inputs are kept."""
        ctx.base, ctx.second, ctx.sizes = base, second, sizes
        ctx.set_materialize_grads(False)
        _save(ctx, s, x, weight, output_weight)
        found = serve(native, reference, x, base).outputs(x, weight, output_weight, s, base, with_gradient, second)
        return found if sizes is None else cut(found, sizes)

    @staticmethod
    def backward(ctx: Any, *of_parts: Tensor | None) -> tuple[Tensor | None, ...]:
        """Fused; differentiable in turn."""
        if ctx.sizes is not None:
            of_parts = _joined(of_parts, ctx.sizes)
        grad_f, grad_df_dx, grad_second = (*of_parts, None, None)[:3]
        grads = _present((grad_f, grad_df_dx, grad_second))
        if not grads:
            return (None,) * 8
        (x, weight, output_weight), s = _saved(ctx)
        rest = ctx.base, ctx.needs_input_grad[:4], ctx.second, grad_second
        arguments = grad_f, grad_df_dx, x, weight, output_weight, s, *rest
        with as_chosen(ctx.choice):
            if any(is_legacy_batched(grad) for grad in grads):
                found = reference.gradients(*arguments)
            elif any(needs_operations(grad) for grad in grads):
                found = _Gradients.apply(*arguments)
            else:
                found = serve(native, reference, x, ctx.base).gradients(*arguments)
        return *found[:3], _like(found[3], s), None, None, None, None


class _Gradients(Function):
    """The gradients in (x, weight, output_weight, s) that ``needs`` asks for, None for the others."""

    @staticmethod
    def forward(
        ctx: Any,
        grad_f: Tensor | None,
        grad_df_dx: Tensor | None,
        x: Tensor,
        weight: Tensor,
        output_weight: Tensor,
        s: Parameter,
        base: str,
        needs: reference.Needs,
        second: Second | None,
        grad_second: Tensor | None,
    ) -> reference.Gradients:
        ctx.base, ctx.needs, ctx.second = base, needs, second
        ctx.set_materialize_grads(False)
        _save(ctx, s, grad_f, grad_df_dx, grad_second, x, weight, output_weight)
        kernels = serve(native, reference, x, base)
        return kernels.gradients(grad_f, grad_df_dx, x, weight, output_weight, s, base, needs, second, grad_second)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        (*leading, weight, output_weight), s = _saved(ctx)
        if isinstance(s, Tensor):
            leading.append(s)
        shared = _present(leading)

        def function(shared: Sequence[Tensor], weight: Tensor, output_weight: Tensor) -> Any:
            given = iter(shared)
            grad_f, grad_df_dx, grad_second = (None if tensor is None else next(given) for tensor in leading[:3])
            x, rest = next(given), (ctx.base, ctx.needs, ctx.second, grad_second)
            found = reference.chunk_gradients(grad_f, grad_df_dx, x, weight, output_weight, next(given, s), *rest)
            return _present((found[0], found[3])), _present((found[1], found[2]))

        # where grad_f, grad_df_dx, grad_second, x and s stand among the inputs
        in_place = (0, 1, 9, 2, 5)[: len(leading)]
        wanted = [ctx.needs_input_grad[i] for i, tensor in zip(in_place, leading, strict=True) if tensor is not None]
        found = reference.recomputed_gradients(
            function,
            shared,
            weight,
            output_weight,
            [grads[i] for i in (0, 3) if ctx.needs[i]],
            [grads[i] for i in (1, 2) if ctx.needs[i]],
            (*wanted, *ctx.needs_input_grad[3:5]),
        )
        results: list[Tensor | None] = [None] * 10
        results[3:5] = found[-2:]
        for i, part in zip((i for i, t in zip(in_place, leading, strict=True) if t is not None), found, strict=False):
            results[i] = part
        return tuple(results)


def _batched(
    function: Callable[..., tuple[Tensor, ...]], size: int, dims: Sequence[int | None], arguments: Sequence[Any]
) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
    """function over the batch entries one by one, results stacked along a new first dimension."""
    moved = [a if d is None else a.movedim(d, 0) for a, d in zip(arguments, dims, strict=True)]
    results = [function(*(a if d is None else a[i] for a, d in zip(moved, dims, strict=True))) for i in range(size)]
    stacked = tuple(torch.stack(parts) for parts in zip(*results, strict=True))
    return stacked, (0,) * len(stacked)


def _as_networks(size: int, dims: Sequence[int | None], tensors: Sequence[Any]) -> list[Any]:
    """The batch as a new leading dimension of networks."""
    return [
        t if t is None else t.expand(size, *t.shape) if d is None else t.movedim(d, 0)
        for t, d in zip(tensors, dims, strict=True)
    ]


class _Transformable(Function):
    """A Function for torch.func transforms and forward-mode AD, whose derivatives go through plain operations."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        """All inputs are kept."""
        *tensors, s, ctx.base, ctx.last, ctx.second = inputs
        _save(ctx, s, *tensors)
        ctx.save_for_forward(*tensors, *((s,) if isinstance(s, Tensor) else ()))

    @staticmethod
    def differentiable(function: Callable[..., Any], ctx: Any) -> tuple[Callable[..., Any], tuple[Tensor, ...]]:
        """The outputs as a function of the tensors that follow."""
        tensors, s = _saved(ctx)

        def of_tensors(*given: Tensor) -> tuple[Tensor, ...]:
            rest = iter(given)
            arguments = [None if tensor is None else next(rest) for tensor in tensors]
            return _present(function(*arguments, next(rest, s), ctx.base, ctx.last, ctx.second))

        # A gradient may be an expanded scalar, which forward mode cannot write into.
        primals = tuple(tensor.contiguous() for tensor in _present(tensors))
        return of_tensors, (*primals, s) if isinstance(s, Tensor) else primals


class TransformableTwoLayer(_Transformable):
    """``TwoLayer`` for torch.func transforms and forward-mode AD."""

    @staticmethod
    def forward(
        x: Tensor,
        weight: Tensor,
        output_weight: Tensor,
        s: Parameter,
        base: str,
        with_gradient: bool,
        second: Second | None,
    ) -> tuple[Tensor, ...]:
        """The kernels."""
        return serve(native, reference, x, base).outputs(x, weight, output_weight, s, base, with_gradient, second)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Fused; differentiable in turn."""
        (x, weight, output_weight), s = _saved(ctx)
        needs = ctx.needs_input_grad[:4]
        padded = (*grads, None, None)[:3]
        with as_chosen(ctx.choice):
            results = _TransformableGradients.apply(*padded, x, weight, output_weight, s, ctx.base, needs, ctx.second)
        found = iter(results)
        *rest, grad_s = (next(found) if needed else None for needed in needs)
        return *rest, _like(grad_s, s), None, None, None

    @staticmethod
    def jvp(ctx: Any, *dots: Any) -> tuple[Tensor, ...]:
        """The derivative along a direction, a chunk of neurons at a time."""
        (x, weight, output_weight), s = _saved(ctx)
        return reference.tangents(dots[:4], x, weight, output_weight, s, ctx.base, ctx.last, ctx.second)

    @staticmethod
    def vmap(info: Any, in_dims: Any, *arguments: Any) -> Any:
        """Batches of weights, or of samples, join dimensions that the kernels have; others run one by one."""
        x, weight, output_weight, *rest = arguments
        size, dims = info.batch_size, in_dims
        if dims[0] is None and dims[3] is None:  # networks
            weight, output_weight = _as_networks(size, dims[1:3], (weight, output_weight))
            results = TransformableTwoLayer.apply(x, weight, output_weight, *rest)
            return results, (0,) * len(results)
        if dims[1] is None and dims[2] is None and dims[3] is None:  # samples
            x = x.movedim(dims[0], 0)
            results = TransformableTwoLayer.apply(x.flatten(0, 1), weight, output_weight, *rest)
            at = output_weight.dim() - 1
            return tuple(result.unflatten(at, x.shape[:2]) for result in results), (at,) * len(results)
        return _batched(TransformableTwoLayer.apply, size, dims, arguments)


def _of_gradients(
    grad_f: Tensor, grad_df_dx: Tensor | None, grad_second: Tensor | None, *rest: Any
) -> reference.Gradients:
    """``reference.gradients`` in the order of ``_TransformableGradients``."""
    gradients: Callable[..., reference.Gradients] = reference.gradients
    return gradients(grad_f, grad_df_dx, *rest, grad_second)


class _TransformableGradients(_Transformable):
    """Those gradients in (x, weight, output_weight, s) that are needed."""

    @staticmethod
    def forward(
        grad_f: Tensor,
        grad_df_dx: Tensor | None,
        grad_second: Tensor | None,
        x: Tensor,
        weight: Tensor,
        output_weight: Tensor,
        s: Parameter,
        base: str,
        needs: reference.Needs,
        second: Second | None,
    ) -> tuple[Tensor, ...]:
        kernels, grads = serve(native, reference, x, base), (grad_f, grad_df_dx)
        found = kernels.gradients(*grads, x, weight, output_weight, s, base, needs, second, grad_second)
        return _present(found)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        of_tensors, primals = _Transformable.differentiable(_of_gradients, ctx)
        found = iter(torch.func.vjp(of_tensors, *primals)[1](grads))
        tensors, s = _saved(ctx)
        return *(next(found) if isinstance(t, Tensor) else None for t in (*tensors, s)), None, None, None

    @staticmethod
    def jvp(ctx: Any, *dots: Any) -> tuple[Tensor, ...]:
        # Forward mode twice over reverse mode: torch.func.jvp does not nest inside torch.autograd.forward_ad.
        of_tensors, primals = _Transformable.differentiable(_of_gradients, ctx)
        tensors, s = _saved(ctx)
        given = [dot for dot, t in zip(dots, (*tensors, s), strict=False) if isinstance(t, Tensor)]
        along = tuple(torch.zeros_like(p) if dot is None else dot for dot, p in zip(given, primals, strict=True))
        vjp: Any = torch.func.vjp
        outputs, pull_back = vjp(of_tensors, *primals)
        _, push_forward = vjp(pull_back, tuple(torch.zeros_like(y) for y in outputs))
        return push_forward(along)[0]

    @staticmethod
    def vmap(info: Any, in_dims: Any, *arguments: Any) -> Any:
        *grads, x, weight, output_weight, s, base, needs, second = arguments
        size, dims = info.batch_size, (*in_dims[:7], None, None, None)
        if dims[3] is None and dims[6] is None and not needs[0] and not needs[3]:  # networks
            networks = _as_networks(size, (*dims[:3], *dims[4:6]), (*grads, weight, output_weight))
            found = _TransformableGradients.apply(*networks[:3], x, *networks[3:], s, base, needs, second)
            return found, (0,) * len(found)
        only_x = needs == (True, False, False, False) and dims[3] is not None and dims[4:7] == (None, None, None)
        if only_x and weight.dim() == 2:  # one network's gradients at more samples
            x = x.movedim(dims[3], 0)
            grads = [t if t is None else t.flatten(0, 1) for t in _as_networks(size, dims[:3], grads)]
            found = _TransformableGradients.apply(
                *grads, x.flatten(0, 1), weight, output_weight, s, base, needs, second
            )
            return (found[0].unflatten(0, x.shape[:2]),), (0,)
        return _batched(_TransformableGradients.apply, size, dims, arguments)
