"""The two-layer network in plain PyTorch, a chunk of neurons at a time: the torch backend, and second derivatives.

Of the n x m pre-activations only a chunk exists at a time, unless autograd records. Every function
takes x (n, D), weight (..., m, D), output_weight (..., m) and s, a float or a 0-dim tensor, and is made of
differentiable, batchable operations. ``native`` has the same functions on the compiled kernels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import wraps
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

from hrta_ext.activation.formula import by_parameter, compose, sum_dtype
from hrta_ext.callers import aligned, sees_formula, transforms_active, wants_grad
from hrta_ext.inputs import Parameter
from hrta_ext.network.second import Second

CHUNK_ELEMENTS = 1 << 17  # 1 MiB in float64: a chunk's dozens of tensors stay near the caches
_DEVICE_CHUNK_ELEMENTS = 1 << 23  # 64 MiB: each operation on a GPU lasts longer than its launch

Gradients = tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]  # in x, weight, output_weight, s
Needs = tuple[bool, bool, bool, bool]
# Maps (shared tensors, weight, output_weight) of a chunk to its outputs: sums over neurons, and values per neuron.
ChunkFunction = Callable[[Sequence[Tensor], Tensor, Tensor], tuple[Sequence[Tensor], Sequence[Tensor]]]
P = ParamSpec("P")
R = TypeVar("R")


# Asked once: Dynamo of torch 2.11 cannot trace the question.
_AUTOCAST_DEVICES = frozenset(
    device for device in ("cpu", "cuda", "mps", "xpu", "hpu", "mtia") if torch.amp.is_autocast_available(device)
)


def autocasts(tensor: Tensor) -> bool:
    """Whether autocast is on for the device of ``tensor``; not every device has it."""
    device = tensor.device.type
    return device in _AUTOCAST_DEVICES and torch.is_autocast_enabled(device)


def _in_full_precision(function: Callable[P, R]) -> Callable[P, R]:
    """Autocast would round the pre-activations to half types: the compiled kernels know nothing of it, nor do these."""

    @wraps(function)
    def run(*arguments: P.args, **named: P.kwargs) -> R:
        tensor = next(a for a in arguments if isinstance(a, Tensor))
        if not autocasts(tensor):
            return function(*arguments, **named)
        with torch.autocast(tensor.device.type, enabled=False):
            return function(*arguments, **named)

    return run


def neuron_chunks(n: int, output_weight: Tensor) -> Iterator[slice]:
    """Slices of the width, cut by the shapes and the kind of device alone."""
    width = output_weight.shape[-1]
    networks = output_weight.numel() // width
    elements = CHUNK_ELEMENTS if output_weight.is_cpu else _DEVICE_CHUNK_ELEMENTS
    length = max(elements // max(n * networks, 1), 1)
    for first in range(0, width, length):
        yield slice(first, min(first + length, width))


def output_scale(output_weight: Tensor) -> float:
    """m^(-1/2)."""
    return output_weight.shape[-1] ** -0.5


def _settled(s: Parameter) -> Parameter:
    """s as a number where it can be read: at s = 1 the line (1 - s) z is then left out, 0 times infinity with it."""
    plain = isinstance(s, Tensor) and s.is_cpu and not (sees_formula(s) or transforms_active() or wants_grad(s))
    return float(s) if plain else s


class _Sum:
    """A sum of chunks in float64, where the device has it."""

    total: Tensor | None = None

    def add(self, part: Tensor | None) -> None:
        if part is not None:
            part = part.to(sum_dtype(part))
            self.total = part if self.total is None else self.total + part

    def result(self, factor: float, dtype: torch.dtype) -> Tensor | None:
        return None if self.total is None else (factor * self.total).to(dtype)


class _PerNeuron:
    """Chunks of a tensor with one row per neuron: written where they belong, or joined if someone differentiates."""

    def __init__(self, like: Tensor, rows: bool) -> None:
        self.plain = not (torch.is_grad_enabled() or torch._C._are_functorch_transforms_active())
        self.like, self.dim = like, -2 if rows else -1
        self.whole: Tensor | None = None
        self.pieces: list[Tensor] = []

    def add(self, at: slice, piece: Tensor | None) -> None:
        if piece is None:
            return
        if not self.plain or torch._C._functorch.is_legacy_batchedtensor(piece):
            self.pieces.append(piece)
            return
        if self.whole is None:
            self.whole = torch.empty(self.like.shape, dtype=piece.dtype, device=piece.device)
        self.whole.narrow(self.dim, at.start, at.stop - at.start).copy_(piece)

    def result(self, factor: float, dtype: torch.dtype) -> Tensor | None:
        if self.whole is not None:
            return self.whole.mul_(factor).to(dtype)
        return factor * torch.cat(self.pieces, self.dim).to(dtype) if self.pieces else None


def chunk_outputs(
    x: Tensor,
    weight: Tensor,
    output_weight: Tensor,
    s: Parameter,
    base: str,
    with_gradient: bool,
    second: Second | None = None,
) -> tuple[Tensor, ...]:
    """These neurons' share of ``outputs``, without the factor m^(-1/2)."""
    wide = sum_dtype(x)
    z = x @ weight.mT
    f = (compose(z, s, base, 0).to(wide) @ output_weight.to(wide).unsqueeze(-1)).squeeze(-1)
    if not with_gradient:
        return (f,)
    df_dx = (compose(z, s, base, 1) * output_weight.unsqueeze(-2)).to(wide) @ weight.to(wide)
    if second is None:
        return f, df_dx
    return f, df_dx, (compose(z, s, base, 2) * output_weight.unsqueeze(-2)).to(wide) @ second.features(weight.to(wide))


@_in_full_precision
def outputs(
    x: Tensor,
    weight: Tensor,
    output_weight: Tensor,
    s: Parameter,
    base: str,
    with_gradient: bool,
    second: Second | None = None,
) -> tuple[Tensor, ...]:
    """f (..., n) and, if asked for, df/dx (..., n, D) and the second derivatives (..., n, R), which need df/dx."""
    x, weight, output_weight = map(aligned, (x, weight, output_weight))
    s = _settled(s)
    sums = [_Sum() for _ in range(1 + with_gradient + (second is not None))]
    for at in neuron_chunks(x.shape[0], output_weight):
        parts = chunk_outputs(x, weight[..., at, :], output_weight[..., at], s, base, with_gradient, second)
        for total, part in zip(sums, parts, strict=True):
            total.add(part)
    results = [total.result(output_scale(output_weight), output_weight.dtype) for total in sums]
    return tuple(result for result in results if result is not None)


def chunk_gradients(
    grad_f: Tensor | None,
    grad_df_dx: Tensor | None,
    x: Tensor,
    weight: Tensor,
    output_weight: Tensor,
    s: Parameter,
    base: str,
    needs: Needs,
    second: Second | None = None,
    grad_second: Tensor | None = None,
) -> Gradients:
    """``gradients``: these neurons' share in x and s, their own in the weights, without the factor m^(-1/2).

    With g = grad_f, G = grad_df_dx and p_ik = G_i . w_k the gradients are
        x_i: sum_k a_k (g_i sigma' + p_ik sigma'') w_k       w_k: a_k sum_i (g_i sigma' + p_ik sigma'') x_i + sigma' G_i
        a_k: sum_i g_i sigma + p_ik sigma'                   s:   sum_ik a_k (g_i (sigma - z_ik) + p_ik (sigma' - 1))
    grad_second adds q_ik = grad_second_i . V_k times one derivative more, and to that in w_k what V_k gives back.
    """
    wide = sum_dtype(x)
    z = x @ weight.mT
    g = None if grad_f is None else grad_f.unsqueeze(-1)
    p = None if grad_df_dx is None else grad_df_dx @ weight.mT
    q = None if grad_second is None or second is None else grad_second @ second.features(weight).mT

    def combined(derivative: Callable[[int], Tensor], first: int) -> Tensor:
        terms = [factor * derivative(first + k) for k, factor in enumerate((g, p, q)) if factor is not None]
        return sum(terms[1:], terms[0])

    def order(k: int) -> Tensor:
        return compose(z, s, base, k)

    grad_x = grad_weight = grad_output_weight = grad_s = None
    if needs[0] or needs[1]:
        factor = combined(order, 1)
        if needs[0]:
            grad_x = (factor * output_weight.unsqueeze(-2)).to(wide) @ weight.to(wide)
            grad_x = grad_x.flatten(0, -3).sum(0) if grad_x.dim() > 2 else grad_x
        if needs[1]:
            rows = factor.mT @ x
            if grad_df_dx is not None:
                rows = rows + order(1).mT @ grad_df_dx
            if grad_second is not None and second is not None:
                rows = rows + second.pull_back(weight, order(2).mT @ grad_second)
            grad_weight = output_weight.unsqueeze(-1) * rows
    if needs[2]:
        grad_output_weight = combined(order, 0).sum(-2)
    if needs[3]:
        of_s = combined(lambda k: by_parameter(z, base, k), 0)
        grad_s = (of_s.to(wide) @ output_weight.to(wide).unsqueeze(-1)).sum()
    return grad_x, grad_weight, grad_output_weight, grad_s


@_in_full_precision
def gradients(
    grad_f: Tensor | None,
    grad_df_dx: Tensor | None,
    x: Tensor,
    weight: Tensor,
    output_weight: Tensor,
    s: Parameter,
    base: str,
    needs: Needs,
    second: Second | None = None,
    grad_second: Tensor | None = None,
) -> Gradients:
    """The gradients in x, weight, output_weight and s, as needed, of the outputs times their gradients, summed.

    grad_f (..., n), grad_df_dx (..., n, D), grad_second (..., n, R) of the ``second`` derivatives; not all are None.
    """
    x, weight, output_weight = map(aligned, (x, weight, output_weight))
    s = _settled(s)
    grad_f, grad_df_dx, grad_second = (
        None if grad is None else aligned(grad) for grad in (grad_f, grad_df_dx, grad_second)
    )
    sums = _Sum(), _Sum()
    rows, values = _PerNeuron(weight, True), _PerNeuron(output_weight, False)
    for at in neuron_chunks(x.shape[0], output_weight):
        w, a = weight[..., at, :], output_weight[..., at]
        parts = chunk_gradients(grad_f, grad_df_dx, x, w, a, s, base, needs, second, grad_second)
        sums[0].add(parts[0])
        rows.add(at, parts[1])
        values.add(at, parts[2])
        sums[1].add(parts[3])
    factor = output_scale(output_weight)
    grad_s = sums[1].result(factor, sum_dtype(x))
    return sums[0].result(factor, x.dtype), rows.result(factor, x.dtype), values.result(factor, x.dtype), grad_s


@_in_full_precision
def tangents(
    dots: Sequence[Tensor | None],
    x: Tensor,
    weight: Tensor,
    output_weight: Tensor,
    s: Parameter,
    base: str,
    with_gradient: bool,
    second: Second | None = None,
) -> tuple[Tensor, ...]:
    """The derivatives of ``outputs`` along the direction ``dots`` of (x, weight, output_weight, s); None is zero."""
    x, weight, output_weight = map(aligned, (x, weight, output_weight))
    x_dot, weight_dot, output_weight_dot = (None if dot is None else aligned(dot) for dot in dots[:3])
    s_dot = dots[3]
    wide = sum_dtype(x)
    sums = [_Sum() for _ in range(1 + with_gradient + (second is not None))]
    for at in neuron_chunks(x.shape[0], output_weight):
        w, a = weight[..., at, :], output_weight[..., at]
        w_dot = None if weight_dot is None else weight_dot[..., at, :]
        a_dot = None if output_weight_dot is None else output_weight_dot[..., at]
        z = x @ w.mT
        moves = ([] if x_dot is None else [x_dot @ w.mT]) + ([] if w_dot is None else [x @ w_dot.mT])
        for k, total in enumerate(sums):  # k-th derivative of sigma_s, times w or V in the end
            of_w = _times_weights(k, w, w_dot, second)
            terms = [a.unsqueeze(-2) * compose(z, s, base, k + 1) * move for move in moves]
            if a_dot is not None:
                terms.append(a_dot.unsqueeze(-2) * compose(z, s, base, k))
            if s_dot is not None:
                terms.append(a.unsqueeze(-2) * s_dot * by_parameter(z, base, k))
            for term in terms:
                total.add(term.to(wide).sum(-1) if of_w is None else term.to(wide) @ of_w[0].to(wide))
            if of_w is not None and of_w[1] is not None:
                total.add((a.unsqueeze(-2) * compose(z, s, base, k)).to(wide) @ of_w[1].to(wide))
    results = [total.result(output_scale(output_weight), output_weight.dtype) for total in sums]
    return tuple(result for result in results if result is not None)


def _times_weights(
    k: int, weight: Tensor, weight_dot: Tensor | None, second: Second | None
) -> tuple[Tensor, Tensor | None] | None:
    """What the ``k``-th output has as a factor beside the ``k``-th derivative, and its derivative along weight_dot."""
    if k == 0:
        return None
    if k == 1 or second is None:
        return weight, weight_dot
    return second.features(weight), None if weight_dot is None else second.push_forward(weight, weight_dot)


@_in_full_precision
def recomputed_gradients(
    function: ChunkFunction,
    shared: Sequence[Tensor],
    weight: Tensor,
    output_weight: Tensor,
    grad_sums: Sequence[Tensor | None],
    grad_per_neuron: Sequence[Tensor | None],
    needs: Sequence[bool],
) -> list[Tensor | None]:
    """The vector-Jacobian product of m^(-1/2) times ``function`` summed over chunks, one chunk's graph at a time.

    In grad mode the graphs are kept, for derivatives of a still higher order.

    Args:
        function: What a chunk contributes; see ``ChunkFunction``.
        shared: Tensors that every chunk sees.
        weight: (..., m, D); output_weight: (..., m).
        grad_sums: Gradients of the outputs that are sums over neurons.
        grad_per_neuron: Gradients of the outputs in the shapes of weight and output_weight.
        needs: Which of (*shared, weight, output_weight) are wanted.
    Returns:
        One gradient, or None, for each of (*shared, weight, output_weight).
    """
    live = torch.is_grad_enabled()

    def leaf(tensor: Tensor, needed: bool) -> Tensor:
        tensor = aligned(tensor)
        return tensor if live else tensor.detach().requires_grad_(needed)

    sums = [_Sum() for _ in shared]
    rows, values = _PerNeuron(weight, True), _PerNeuron(output_weight, False)
    shared = [leaf(tensor, needed) for tensor, needed in zip(shared, needs, strict=False)]
    for at in neuron_chunks(max(t.shape[0] for t in shared if t.dim() == 2), output_weight):
        w, a = leaf(weight[..., at, :], needs[-2]), leaf(output_weight[..., at], needs[-1])
        with torch.enable_grad():
            out_sums, out_per_neuron = function(shared, w, a)
        pairs = list(zip(out_sums, grad_sums, strict=True))
        slices = [None if g is None else g[..., at, :] if g.dim() == w.dim() else g[..., at] for g in grad_per_neuron]
        pairs += zip(out_per_neuron, slices, strict=True)
        used = [(y, g.to(y.dtype)) for y, g in pairs if g is not None and y.requires_grad]
        inputs = [*shared, w, a]
        wanted = [i for i, tensor in enumerate(inputs) if needs[i] and tensor.requires_grad]
        parts: list[Tensor | None] = [None] * len(inputs)
        if used and wanted:
            found = torch.autograd.grad(
                [y for y, _ in used],
                [inputs[i] for i in wanted],
                [g for _, g in used],
                create_graph=live,
                allow_unused=True,
                materialize_grads=True,
            )
            for i, part in zip(wanted, found, strict=True):
                parts[i] = part
        for total, share in zip(sums, parts, strict=False):
            total.add(share)
        rows.add(at, parts[-2])
        values.add(at, parts[-1])
    factor = output_scale(output_weight)
    results = [total.result(factor, tensor.dtype) for total, tensor in zip(sums, shared, strict=True)]
    return [*results, rows.result(factor, weight.dtype), values.result(factor, output_weight.dtype)]
