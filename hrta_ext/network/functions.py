"""The wide two-layer network f_s(x) = m^(-1/2) sum_k a_k sigma_s(w_k . x) (docs/theory.md 1): public functions."""

from __future__ import annotations

from functools import reduce
from typing import Any

import torch
from torch import Tensor
from torch.overrides import handle_torch_function

from hrta_ext.backends import serve
from hrta_ext.bases import BASES
from hrta_ext.callers import functorch_active, is_compiling, sees_formula, stand_in, transforms_active, wants_grad
from hrta_ext.compiled import KINDS
from hrta_ext.groups import ranks_of
from hrta_ext.inputs import Parameter, check_network
from hrta_ext.network import native, ops, reference
from hrta_ext.network.autograd import TransformableTwoLayer, TwoLayer
from hrta_ext.network.second import Second
from hrta_ext.network.shares import sharded

HALF_TYPES = (torch.float16, torch.bfloat16)


def autocast(*tensors: Tensor) -> tuple[Tensor, ...]:
    """The tensors in the widest of their dtypes where they differ and autocast is on: a layer before may give half."""
    dtypes = {tensor.dtype if isinstance(tensor, Tensor) else None for tensor in tensors}
    if len(dtypes) == 1 or not dtypes <= KINDS.keys() or not reference.autocasts(tensors[0]):
        return tensors
    widest = reduce(torch.promote_types, (tensor.dtype for tensor in tensors))
    return tuple(tensor.to(widest) for tensor in tensors)


def warn_alone(function: str) -> None:
    """What ``ranks_of`` says of a call without a group; nothing in a compiler's hands."""
    if not is_compiling():
        ranks_of(None, function)


def two_layer(
    x: Tensor, weight: Tensor, output_weight: Tensor, s: Parameter = 1.0, *, base: str = "relu", group: Any = None
) -> Tensor:
    """f_s(x_i) = m^(-1/2) sum_k a_k sigma_s(w_k . x_i), fused: nothing of size n x m is stored, forward or backward.

    Source: Yang, Chen, Hao (2025), eq. 3; docs/theory.md, section 1. Leading dimensions of the weights are independent
    networks on the same samples. The output is scalar; for more outputs, make each a network of the batch.

    Args:
        x: Samples, shape (n, D), with the column of ones if there is a bias (:func:`with_bias`); n may be 0.
        weight: W, shape (..., m, D).
        output_weight: a, shape (..., m).
        s: Homotopy parameter: a finite float or a tensor of shape () or (1,).
        base: Base activation, see :func:`homotopy`.
        group: A ``torch.distributed`` process group, "world" for all processes, or None for this process alone. The
            weights are this rank's neurons, perhaps none; every rank has the same x and s, calls alike, and has the
            same f and loss. Gradients in x and s are those of all neurons (docs/distributed.md).
    Returns:
        f, shape (..., n), of x's dtype: float32 or float64; float16 and bfloat16 are computed in float32, of which
        copies are made. Under autocast the arguments may differ in dtype; the widest one is that of all.

    Differentiable in x, weight, output_weight and, when s is a tensor that requires grad, in s. First and second
    derivatives need memory for the results and a few MiB; derivatives of the third order keep tensors of size n x m.
    The sum over neurons is in float64 in a fixed order: the same bits on every run, for any number of threads.
    Cost: docs/two_layer.md.

    Raises:
        TypeError: an argument is no dense floating-point tensor, or the dtypes differ.
        ValueError: shapes or devices do not fit, no neurons, unknown base, a number s that x's dtype cannot hold; what
            differs between the ranks of ``group``, or a compiler or torch.func transform that asks for it.

    Example:
        >>> import torch, hrta_ext as hx
        >>> x = torch.tensor([[1.0, 1.0], [-2.0, 1.0]])
        >>> weight = torch.tensor([[1.0, 0.0], [0.0, 2.0], [-1.0, 1.0], [2.0, 2.0]], requires_grad=True)
        >>> f = hx.two_layer(x, weight, torch.ones(4), s=0.5)
        >>> f
        tensor([3.5000, 1.5000], grad_fn=<...>)
        >>> torch.autograd.grad(f.sum(), weight)[0][0]
        tensor([0.0000, 0.7500])
    """
    if group is not None:
        x, weight, output_weight = autocast(x, weight, output_weight)
        of_all: Tensor = sharded("two_layer", two_layer, group, x, weight, output_weight, s, base=base)
        return of_all
    warn_alone("two_layer")
    if stand_in(x, weight, output_weight, s):
        return handle_torch_function(two_layer, (x, weight, output_weight, s), x, weight, output_weight, s, base=base)
    x, weight, output_weight = autocast(x, weight, output_weight)
    s = check_network("two_layer", x, weight, output_weight, s, base)
    if x.dtype in HALF_TYPES:
        f = two_layer(x.float(), weight.float(), output_weight.float(), s, base=base)
        return f.to(x.dtype)
    return run(x, weight, output_weight, s, base, False)[0]


def run(
    x: Tensor,
    weight: Tensor,
    output_weight: Tensor,
    s: Parameter,
    base: str,
    with_gradient: bool,
    second: Second | None = None,
) -> tuple[Tensor, ...]:
    """(f,), (f, df/dx) or these and the second derivatives, of checked arguments, by whoever serves such a call."""
    tensors = (x, weight, output_weight)
    if any(sees_formula(tensor) for tensor in tensors):
        # Dynamo does not trace an op's autograd inside torch.func transforms.
        plain = BASES[base].number is None or (is_compiling() and functorch_active())
        see = reference.outputs if plain else ops.outputs
        return see(*tensors, s, base, with_gradient, second)
    if transforms_active():
        return TransformableTwoLayer.apply(*tensors, s, base, with_gradient, second)
    if wants_grad(*tensors, s):
        return TwoLayer.apply(*tensors, s, base, with_gradient, second)
    with torch.no_grad():
        return serve(native, reference, x, base).outputs(*tensors, s, base, with_gradient, second)


def two_layer_with_gradient(
    x: Tensor, weight: Tensor, output_weight: Tensor, s: Parameter, *, base: str, group: Any = None
) -> tuple[Tensor, Tensor]:
    """f_s and its gradient in x, (f, df/dx), in one pass over the neurons; both differentiable.

    df/dx_i = m^(-1/2) sum_k a_k sigma_s'(w_k . x_i) w_k, for Sobolev and Deep Ritz losses. The gradient in the weights
    is fused like the pair itself; those in x and s are recomputed a chunk of neurons at a time. For ReLU, df/dx is
    piecewise constant: its derivative counts the weights' size, never the moving kinks (its curvature is 0).

    Args and errors as for :func:`two_layer`.

    Returns:
        f of shape (..., n) and df/dx of shape (..., n, D).

    Example:
        >>> import torch, hrta_ext as hx
        >>> x, weight = torch.tensor([[1.0, 1.0]]), torch.tensor([[1.0, 0.0], [0.0, 2.0], [-1.0, 1.0], [2.0, 2.0]])
        >>> hx.two_layer_with_gradient(x, weight, torch.ones(4), 1.0, base="relu2")
        (tensor([5.2500]), tensor([[4.5000, 6.0000]]))
    """
    if group is not None:
        x, weight, output_weight = autocast(x, weight, output_weight)
        name, function = "two_layer_with_gradient", two_layer_with_gradient
        of_all: tuple[Tensor, Tensor] = sharded(name, function, group, x, weight, output_weight, s, base=base)
        return of_all
    warn_alone("two_layer_with_gradient")
    if stand_in(x, weight, output_weight, s):
        return handle_torch_function(
            two_layer_with_gradient, (x, weight, output_weight, s), x, weight, output_weight, s, base=base
        )
    x, weight, output_weight = autocast(x, weight, output_weight)
    s = check_network("two_layer_with_gradient", x, weight, output_weight, s, base)
    if x.dtype in HALF_TYPES:
        pair = two_layer_with_gradient(x.float(), weight.float(), output_weight.float(), s, base=base)
        return pair[0].to(x.dtype), pair[1].to(x.dtype)
    f, df_dx = run(x, weight, output_weight, s, base, True)
    return f, df_dx
