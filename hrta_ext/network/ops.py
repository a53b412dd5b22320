"""``torch.ops.hrta_ext.two_layer``, ``two_layer_with_gradient``, ``two_layer_jet``: what compilers and modes see.

One opaque op each, so that a compiled graph stores nothing of size n x m either: the compiled kernels where they serve
the call, else the chunks of ``reference``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from hrta_ext.backends import as_chosen, asked_for, serve
from hrta_ext.bases import BASES
from hrta_ext.callers import grad_enabled
from hrta_ext.inputs import Parameter
from hrta_ext.network import native, reference
from hrta_ext.network.second import FORMS, Second
from hrta_ext.schemas import LIBRARY

_NAMES = {base.number: name for name, base in BASES.items()}
Grads = Sequence[Tensor]  # of the op's outputs, for its backward
Needs = Sequence[bool]  # which of the four gradients are wanted


def _parameter(s: Parameter) -> Tensor:
    """s as the ops take it: 0-dim float64 on the CPU."""
    if not isinstance(s, Tensor):  # a sum: torch.full is compiled anew for every value of a symbolic s
        return torch.zeros((), dtype=torch.float64, device="cpu") + s
    if s.is_meta:
        return torch.empty((), dtype=torch.float64, device="cpu")
    return s.to("cpu", torch.float64).reshape(())


def outputs(
    x: Tensor,
    weight: Tensor,
    output_weight: Tensor,
    s: Parameter,
    base: str,
    with_gradient: bool,
    second: Second | None = None,
) -> tuple[Tensor, ...]:
    """f (..., n) and, if asked for, df/dx (..., n, D) and second derivatives (..., n, R), by the ops."""
    arguments = (x, weight, output_weight, _parameter(s), BASES[base].number)
    if second is not None:
        return torch.ops.hrta_ext.two_layer_jet(*arguments, FORMS.index(second.form), second.columns)
    if with_gradient:
        return torch.ops.hrta_ext.two_layer_with_gradient(*arguments)
    return (torch.ops.hrta_ext.two_layer(*arguments),)


def _filled(found: reference.Gradients, x: Tensor, s: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What an op returns: an empty tensor stands for a gradient that nobody needs."""
    first = [x.new_empty(0) if tensor is None else tensor for tensor in found[:3]]
    return first[0], first[1], first[2], s.new_empty(0) if found[3] is None else found[3].to(s)


def _check(
    function: str,
    x: Tensor,
    weight: Tensor,
    output_weight: Tensor,
    s: Tensor,
    base: int,
    second: Second | None,
    **grads: Tensor,
) -> None:
    """What protects memory, for the kernels and the fakes alike: the ops may be called directly, with anything."""
    tensors = {"x": x, "weight": weight, "output_weight": output_weight, "s": s, **grads}
    for name, tensor in tensors.items():
        if tensor.layout is not torch.strided:
            raise TypeError(f"{function}: {name} must be a dense (strided) tensor, got layout {tensor.layout}")
        if name == "s":
            continue
        if tensor.dtype not in (torch.float32, torch.float64):
            raise TypeError(f"{function}: {name} must be float32 or float64, got {tensor.dtype}")
        if tensor.dtype != x.dtype:
            raise TypeError(f"{function}: {name} must have x's dtype, {x.dtype}, got {tensor.dtype}")
        if tensor.device != x.device:
            raise ValueError(f"{function}: {name} must be on x's device, {x.device}, got {tensor.device}")
    if s.dtype != torch.float64 or s.device.type != "cpu":
        raise TypeError(f"{function}: s must be a float64 tensor on the CPU, got {s.dtype} on {s.device}")
    if s.dim() != 0:
        raise ValueError(f"{function}: s must have shape (), got {tuple(s.shape)}")
    if x.dim() != 2 or weight.dim() < 2 or not weight.shape[-1] == x.shape[1] > 0:
        raise ValueError(
            f"{function}: x must have shape (n, D) and weight (..., m, D) with the same D > 0, "
            f"got {tuple(x.shape)} and {tuple(weight.shape)}"
        )
    if output_weight.shape != weight.shape[:-1] or weight.shape[-2] < 1:
        raise ValueError(
            f"{function}: output_weight must have weight's shape without the last dimension, m > 0, "
            f"got {tuple(output_weight.shape)} for weight of shape {tuple(weight.shape)}"
        )
    if base not in _NAMES:
        raise ValueError(f"{function}: base must be in [0, {len(_NAMES)}), got {base}")
    if second is not None:
        columns = list(second.columns)
        if columns != sorted(set(columns)) or columns[0] < 0 or columns[-1] >= x.shape[1]:
            raise ValueError(f"{function}: columns must ascend within [0, {x.shape[1]}), got {columns}")
    for (name, grad), shape in zip(grads.items(), _result_shapes(x, output_weight, second), strict=False):
        if tuple(grad.shape) != shape:
            raise ValueError(f"{function}: {name} must have shape {shape}, got {tuple(grad.shape)}")


def _result_shapes(x: Tensor, output_weight: Tensor, second: Second | None) -> tuple[tuple[int, ...], ...]:
    """Shapes of f, df/dx and the second derivatives."""
    outputs = (*output_weight.shape[:-1], x.shape[0])
    return outputs, (*outputs, x.shape[1]), (*outputs, 0 if second is None else second.size())


def _outputs(count: int) -> Callable[..., Any]:
    """The kernel of an op with so many outputs: f, df/dx, second derivatives."""

    def run(_: Grads, x: Tensor, *rest: Any) -> Any:
        weight, output_weight, s, base, _, second = rest
        kernels = serve(native, reference, x, _NAMES[base])
        found = kernels.outputs(x, weight, output_weight, s, _NAMES[base], count > 1, second)
        return found if count > 1 else found[0]

    return run


def _gradients(grads: Grads, x: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    """The kernel of the backward ops; ``grads`` of those outputs that the op has."""
    weight, output_weight, s, base, needs, second = rest
    kernels, (grad_f, grad_df_dx, grad_second) = serve(native, reference, x, _NAMES[base]), (*grads, None, None)[:3]
    name = _NAMES[base]
    found = kernels.gradients(grad_f, grad_df_dx, x, weight, output_weight, s, name, needs, second, grad_second)
    return _filled(found, x, s)


def _fake_outputs(count: int) -> Callable[..., Any]:
    def run(_: Grads, x: Tensor, *rest: Any) -> Any:
        found = tuple(x.new_empty(shape) for shape in _result_shapes(x, rest[1], rest[-1])[:count])
        return found if count > 1 else found[0]

    return run


def _fake_gradients(_: Grads, x: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    tensors, needs = (x, *rest[:3]), rest[4]
    return tuple(tensor.new_empty(tensor.shape if needed else 0) for tensor, needed in zip(tensors, needs, strict=True))


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    x, weight, output_weight, s, ctx.base, *ctx.second = inputs
    ctx.choice = asked_for()
    ctx.save_for_backward(x, weight, output_weight, s)


def _needed(ctx: Any, found: Sequence[Tensor | None]) -> tuple[Tensor | None, ...]:
    needed = (t if needed else None for t, needed in zip(found, ctx.needs_input_grad[:4], strict=True))
    return *needed, *(None for _ in (ctx.base, *ctx.second))


def _derived(name: str) -> Callable[..., tuple[Tensor | None, ...]]:
    """The autograd of an op through its backward op."""

    def run(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        needs = ctx.needs_input_grad[:4]
        with as_chosen(ctx.choice):
            if not grad_enabled():
                backward = getattr(torch.ops.hrta_ext, f"{name}_backward")
                return _needed(ctx, backward(*grads, *ctx.saved_tensors, ctx.base, *needs, *ctx.second))
            # create_graph: the backward ops cannot be differentiated, these operations can.
            x, weight, output_weight, s = ctx.saved_tensors
            grad_f, grad_df_dx, grad_second = (*grads, None, None)[:3]
            base, second = _NAMES[ctx.base], _second(*ctx.second)
            found = reference.gradients(
                grad_f, grad_df_dx, x, weight, output_weight, s, base, needs, second, grad_second
            )
            return _needed(ctx, (*found[:3], None if found[3] is None else found[3].to(s)))

    return run


def _second(*described: Any) -> Second | None:
    """What the last two arguments of the ops of the jet say."""
    return Second(FORMS[described[0]], tuple(described[1])) if described else None


def _checked(name: str, run: Callable[..., Any], grads: Sequence[str], backward: bool) -> Callable[..., Any]:
    """``run(grads, x, weight, output_weight, s, base, needs, second)``, once the op's arguments are seen to fit."""
    needs_end = len(grads) + 5 + 4 * backward

    def op(*arguments: Any) -> Any:
        given, (x, weight, output_weight, s, base, *needs) = arguments[: len(grads)], arguments[len(grads) : needs_end]
        described = arguments[needs_end:]
        if described and (not 0 <= described[0] < len(FORMS) or not described[1]):
            raise ValueError(f"{name}: form must be in [0, {len(FORMS)}) and columns not empty, got {tuple(described)}")
        second = _second(*described)
        _check(name, x, weight, output_weight, s, base, second, **dict(zip(grads, given, strict=True)))
        return run(given, x, weight, output_weight, s, base, needs, second)

    return op


def _register() -> None:
    grads = ("grad_f", "grad_df_dx", "grad_second")
    for count, name in enumerate(("two_layer", "two_layer_with_gradient", "two_layer_jet"), 1):
        of_outputs = ("grad",) if count == 1 else grads[:count]
        for op, given, kernel, fake in (
            (name, (), _outputs(count), _fake_outputs(count)),
            (f"{name}_backward", of_outputs, _gradients, _fake_gradients),
        ):
            backward = len(given) > 0
            LIBRARY.impl(op, _checked(op, kernel, given, backward), "CompositeExplicitAutograd")
            torch.library.register_fake(f"hrta_ext::{op}", _checked(op, fake, given, backward), lib=LIBRARY)
        torch.library.register_autograd(f"hrta_ext::{name}", _derived(name), setup_context=_setup_context, lib=LIBRARY)


_register()
