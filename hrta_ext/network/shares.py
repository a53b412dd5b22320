"""A two-layer network whose neurons are divided among the ranks of a group.

f = sum over the ranks of (m_r / m)^(1/2) times the output of rank r's neurons as a network of their own. Data and loss
are the same on every rank, so a gradient in f passes unchanged to the neurons of each; gradients in what all ranks hold
(x and s) are summed over them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function

from hrta_ext.activation.formula import sum_dtype
from hrta_ext.callers import (
    functorch_active,
    is_compiling,
    is_legacy_batched,
    sees_formula,
    stand_in,
    transforms_active,
    wants_grad,
)
from hrta_ext.groups import Facts, Ranks, digest, ranks_of
from hrta_ext.inputs import Parameter, check_homotopy_parameter, check_network


class _Sums(Function):
    """Of each part the sum over the ranks, which all of them have."""

    @staticmethod
    def forward(ctx: Any, ranks: Ranks, facts: Facts | None, *parts: Tensor) -> tuple[Tensor, ...]:
        ctx.ranks = ranks
        ctx.set_materialize_grads(False)  # nobody computes, or sends, the gradients of what is not used
        device, wide = parts[0].device, sum_dtype(parts[0])
        total = ranks.sum(torch.cat([part.reshape(-1).to(device, wide) for part in parts]), facts)
        pieces = total.split([part.numel() for part in parts])
        return tuple(piece.view(part.shape).to(part) for piece, part in zip(pieces, parts, strict=True))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        return None, None, *_of_present(partial(_Copies.apply, ctx.ranks), grads)


class _Copies(Function):
    """Values that all ranks have, each to the neurons of its own."""

    @staticmethod
    def forward(ctx: Any, ranks: Ranks, *values: Tensor) -> tuple[Tensor, ...]:
        ctx.ranks = ranks
        ctx.set_materialize_grads(False)
        return tuple(value.view_as(value) for value in values)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        return None, *_of_present(partial(_Sums.apply, ctx.ranks, None), grads)


def _of_present(function: Callable[..., Any], grads: tuple[Tensor | None, ...]) -> list[Tensor | None]:
    """The function of the gradients that there are, in their places."""
    present = [grad for grad in grads if grad is not None]
    if functorch_active() or any(is_legacy_batched(grad) for grad in present):
        raise ValueError("two_layer: with group= gradients come one at a time, not in batches (is_grads_batched, vmap)")
    found = iter(function(*present) if present else ())
    return [None if grad is None else next(found) for grad in grads]


def copies(ranks: Ranks, *values: Tensor) -> tuple[Tensor, ...]:
    """What all ranks have, for work that differs from rank to rank: gradients are summed over the ranks."""
    found: tuple[Tensor, ...] = _Copies.apply(ranks, *values) if values else ()
    return found


def sharded(
    name: str,
    function: Callable[..., Any],
    group: object,
    x: Tensor,
    weight: Tensor,
    output_weight: Tensor,
    s: Parameter,
    *,
    base: str,
    **options: Any,
) -> Any:
    """``shared`` for anybody's arguments, which all ranks first see to be right and alike.

    Args:
        name: Of the public function, for errors.
        group: As ``ranks_of`` takes it, not None.
    """
    if is_compiling() or stand_in(x, weight, output_weight, s):
        raise ValueError(f"{name}: group= works in eager calls alone; a compiler or a tracer sees no other rank")
    if transforms_active() or any(sees_formula(t) for t in (x, weight, output_weight) if isinstance(t, Tensor)):
        raise ValueError(f"{name}: group= works with plain tensors alone, not within torch.func, modes or subclasses")
    ranks = ranks_of(group, name)
    assert ranks is not None
    with ranks.together(name) as facts:
        checked = check_network(name, x, weight, output_weight, s, base, least=0)
        facts.count = weight.shape[-2]
        facts |= {"base": base, "x": _digest(x)}
        facts |= {"networks": tuple(weight.shape[:-2]), "device": x.device.type, **options}
        facts["s"] = (
            f"a tensor on {s.device}" if isinstance(s, Tensor) and not s.is_cpu else check_homotopy_parameter(s)
        )
        facts["requires_grad of x and s"] = wants_grad(x), wants_grad(s)
        facts["grad mode"] = torch.is_grad_enabled()
    if not sum(facts.counts):
        raise ValueError(f"{name}: weight must hold at least one neuron on one of the {ranks.size} ranks")

    dtype, width = x.dtype, sum(facts.counts)
    if dtype.itemsize == 2:  # parts of a sum are not rounded to half types
        x, weight, output_weight = x.float(), weight.float(), output_weight.float()
    found = shared(ranks, width, function, x, weight, output_weight, checked, base=base, **options)
    return found if dtype == x.dtype else _like(found, [part.to(dtype) for part in _parts(found)])


def _digest(x: Tensor) -> str:
    """What ranks compare in place of x: on a GPU, which nobody waits for, its dtype and shape."""
    return digest(x) if x.is_cpu else f"{x.dtype} of shape {tuple(x.shape)}"


def _parts(found: Any) -> tuple[Tensor, ...]:
    """The tensors of a function's result: of one, a tuple or a named tuple."""
    return (found,) if isinstance(found, Tensor) else tuple(found)


def _like(found: Any, parts: Sequence[Tensor]) -> Any:
    """Others in their places."""
    return parts[0] if isinstance(found, Tensor) else tuple(parts) if type(found) is tuple else type(found)(*parts)


def shared(
    ranks: Ranks,
    width: int,
    function: Callable[..., Any],
    x: Tensor,
    weight: Tensor,
    output_weight: Tensor,
    s: Parameter,
    **options: Any,
) -> Any:
    """The outputs that ``function`` (``two_layer`` and the like) has with the neurons of all ranks.

    Every rank calls it alike. A rank gathers what the others have, in float64, and adds it in the order of the ranks:
    the same bits on all of them. That message tells errors of one rank, and x and s that differ.

    Args:
        ranks: Who holds the neurons.
        width: m, of all ranks together.
        function: Outputs of neurons by themselves.
        x: Samples (n, D), the same on every rank.
        weight, output_weight: Of this rank's neurons, (..., m_r, D) and (..., m_r); m_r may be 0.
        s: Homotopy parameter, the same on every rank.
        options: Of ``function``.
    Raises:
        RankError: Another rank failed.
        ValueError: x or s differ; a compiler, a tracer or a torch.func transform asks.
    """
    if is_compiling() or transforms_active() or stand_in(x, weight, output_weight, s):
        raise ValueError(
            "TwoLayerNet: a network with group= can be neither compiled nor traced nor transformed by torch.func"
        )
    with ranks.telling(ranks.function):
        facts = Facts()
        facts["x"] = _digest(x)
        facts["s"] = s if isinstance(s, float) else s.item() if s.is_cpu else "on a GPU"
        count = weight.shape[-2]
        if count == 0:  # a neuron that gives nothing: graphs and collectives are those of the other ranks
            weight, output_weight = F.pad(weight, (0, 0, 0, 1)), F.pad(output_weight, (0, 1))
        values: list[Any] = [x, s]
        wanted = [k for k, value in enumerate(values) if wants_grad(value)]
        for k, copy in zip(wanted, copies(ranks, *(values[k] for k in wanted)), strict=True):
            values[k] = copy
        found = function(values[0], weight, output_weight, values[1], **options)
        scale = (max(count, 1) / width) ** 0.5
        parts = [part.to(sum_dtype(part)) * scale for part in _parts(found)]
    sums = _Sums.apply(ranks, facts, *parts)
    return _like(found, [total.to(part.dtype) for total, part in zip(sums, _parts(found), strict=True)])
