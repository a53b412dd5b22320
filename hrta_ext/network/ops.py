"""``torch.ops.hrta_ext.two_layer`` and ``two_layer_with_gradient``: what compilers and dispatch modes see.

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
    x: Tensor, weight: Tensor, output_weight: Tensor, s: Parameter, base: str, with_gradient: bool
) -> tuple[Tensor, ...]:
    """f (..., n) and, if asked for, df/dx (..., n, D), by the ops."""
    arguments = (x, weight, output_weight, _parameter(s), BASES[base].number)
    if with_gradient:
        return torch.ops.hrta_ext.two_layer_with_gradient(*arguments)
    return (torch.ops.hrta_ext.two_layer(*arguments),)


def _filled(found: reference.Gradients, x: Tensor, s: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What an op returns: an empty tensor stands for a gradient that nobody needs."""
    first = [x.new_empty(0) if tensor is None else tensor for tensor in found[:3]]
    return first[0], first[1], first[2], s.new_empty(0) if found[3] is None else found[3].to(s)


def _check(
    function: str, x: Tensor, weight: Tensor, output_weight: Tensor, s: Tensor, base: int, **grads: Tensor
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
    for (name, grad), shape in zip(grads.items(), _result_shapes(x, output_weight), strict=False):
        if tuple(grad.shape) != shape:
            raise ValueError(f"{function}: {name} must have shape {shape}, got {tuple(grad.shape)}")


def _result_shapes(x: Tensor, output_weight: Tensor) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shapes of f and of df/dx."""
    networks = output_weight.shape[:-1]
    return (*networks, x.shape[0]), (*networks, *x.shape)


def _outputs(with_gradient: bool) -> Callable[..., Any]:
    """The kernel of an op: f, with df/dx if asked for."""

    def run(_: Grads, x: Tensor, weight: Tensor, output_weight: Tensor, s: Tensor, base: int, __: Needs) -> Any:
        name = _NAMES[base]
        found = serve(native, reference, x, name).outputs(x, weight, output_weight, s, name, with_gradient)
        return found if with_gradient else found[0]

    return run


def _gradients(
    grads: Grads, x: Tensor, weight: Tensor, output_weight: Tensor, s: Tensor, base: int, needs: Needs
) -> tuple[Tensor, ...]:
    """The kernel of the backward ops; ``grads`` of f and, where the op has it, of df/dx."""
    kernels, (grad_f, grad_df_dx) = serve(native, reference, x, _NAMES[base]), (*grads, None)[:2]
    return _filled(kernels.gradients(grad_f, grad_df_dx, x, weight, output_weight, s, _NAMES[base], needs), x, s)


def _fake_outputs(with_gradient: bool) -> Callable[..., Any]:
    def run(_: Grads, x: Tensor, __: Tensor, output_weight: Tensor, *rest: object) -> Any:
        found = tuple(x.new_empty(shape) for shape in _result_shapes(x, output_weight))
        return found if with_gradient else found[0]

    return run


def _fake_gradients(
    _: Grads, x: Tensor, weight: Tensor, output_weight: Tensor, s: Tensor, base: int, needs: Needs
) -> tuple[Tensor, ...]:
    tensors = (x, weight, output_weight, s)
    return tuple(tensor.new_empty(tensor.shape if needed else 0) for tensor, needed in zip(tensors, needs, strict=True))


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    *tensors, ctx.base = inputs
    ctx.choice = asked_for()
    ctx.save_for_backward(*tensors)


def _needed(ctx: Any, found: tuple[Tensor, ...]) -> tuple[Tensor | None, ...]:
    return *(t if needed else None for t, needed in zip(found, ctx.needs_input_grad[:4], strict=True)), None


def _derived(ctx: Any, op: Any, grad_f: Tensor, *grad_df_dx: Tensor) -> tuple[Tensor | None, ...]:
    needs = ctx.needs_input_grad[:4]
    with as_chosen(ctx.choice):
        if not grad_enabled():
            return _needed(ctx, op(grad_f, *grad_df_dx, *ctx.saved_tensors, ctx.base, *needs))
        # create_graph: the backward ops cannot be differentiated, these operations can.
        x, weight, output_weight, s = ctx.saved_tensors
        of_slope = grad_df_dx[0] if grad_df_dx else None
        found = reference.gradients(grad_f, of_slope, x, weight, output_weight, s, _NAMES[ctx.base], needs)
        return *found[:3], None if found[3] is None else found[3].to(s), None


def _autograd(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return _derived(ctx, torch.ops.hrta_ext.two_layer_backward, grad)


def _with_gradient_autograd(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
    return _derived(ctx, torch.ops.hrta_ext.two_layer_with_gradient_backward, *grads)


def _checked(name: str, run: Callable[..., Any], grads: Sequence[str]) -> Callable[..., Any]:
    """``run(grads, x, weight, output_weight, s, base, needs)``, once the arguments of the op are seen to fit."""

    def op(*arguments: Any) -> Any:
        given, (x, weight, output_weight, s, base, *needs) = arguments[: len(grads)], arguments[len(grads) :]
        _check(name, x, weight, output_weight, s, base, **dict(zip(grads, given, strict=True)))
        return run(given, x, weight, output_weight, s, base, needs)

    return op


def _register() -> None:
    ops: dict[str, tuple[Sequence[str], Callable[..., Any], Callable[..., Any]]] = {
        "two_layer": ((), _outputs(False), _fake_outputs(False)),
        "two_layer_backward": (("grad",), _gradients, _fake_gradients),
        "two_layer_with_gradient": ((), _outputs(True), _fake_outputs(True)),
        "two_layer_with_gradient_backward": (("grad_f", "grad_df_dx"), _gradients, _fake_gradients),
    }
    for name, (grads, kernel, fake) in ops.items():
        LIBRARY.impl(name, _checked(name, kernel, grads), "CompositeExplicitAutograd")
        torch.library.register_fake(f"hrta_ext::{name}", _checked(name, fake, grads), lib=LIBRARY)
    torch.library.register_autograd("hrta_ext::two_layer", _autograd, setup_context=_setup_context, lib=LIBRARY)
    torch.library.register_autograd(
        "hrta_ext::two_layer_with_gradient", _with_gradient_autograd, setup_context=_setup_context, lib=LIBRARY
    )


_register()
