"""A two-layer network whose neurons are divided among the ranks of a group: its outputs, and its weights as DTensors.

f = sum over the ranks of (m_r / m)^(1/2) times the output of rank r's neurons as a network of their own. Data and loss
are the same on every rank, so a gradient in f passes unchanged to the neurons of each; gradients in what all ranks hold
(x and s) are summed over them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function

from hrta_ext.callers import is_compiling, stand_in, transforms_active, wants_grad
from hrta_ext.groups import Ranks
from hrta_ext.inputs import Parameter

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor


class _Sums(Function):
    """Of each part the sum over the ranks, which all of them have."""

    @staticmethod
    def forward(ctx: Any, ranks: Ranks, *parts: Tensor) -> tuple[Tensor, ...]:
        ctx.ranks = ranks
        total = ranks.sum(torch.cat([part.reshape(-1) for part in parts]))
        pieces = total.split([part.numel() for part in parts])
        return tuple(piece.view(part.shape) for piece, part in zip(pieces, parts, strict=True))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return None, *_Copies.apply(ctx.ranks, *grads)


class _Copies(Function):
    """Values that all ranks have, each to the neurons of its own."""

    @staticmethod
    def forward(ctx: Any, ranks: Ranks, *values: Tensor) -> tuple[Tensor, ...]:
        ctx.ranks = ranks
        return tuple(value.view_as(value) for value in values)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return None, *_Sums.apply(ctx.ranks, *grads)


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
    the same bits on all of them.

    Args:
        ranks: Who holds the neurons.
        width: m, of all ranks together.
        function: Outputs of neurons by themselves.
        x: Samples (n, D), the same on every rank.
        weight, output_weight: Of this rank's neurons, (m_r, D) and (m_r,); m_r may be 0.
        s: Homotopy parameter, the same on every rank.
        options: Of ``function``.
    Raises:
        ValueError: A compiler, a tracer or a torch.func transform asks.
    """
    if is_compiling() or transforms_active() or stand_in(x, weight, output_weight, s):
        raise ValueError(
            "TwoLayerNet: a network with group= can be neither compiled nor traced nor transformed by torch.func"
        )
    count = weight.shape[0]
    if count == 0:  # a neuron that gives nothing: graphs and collectives are those of the other ranks
        weight, output_weight = F.pad(weight, (0, 0, 0, 1)), F.pad(output_weight, (0, 1))
    values: list[Any] = [x, s]
    wanted = [k for k, value in enumerate(values) if wants_grad(value)]
    copies = _Copies.apply(ranks, *(values[k] for k in wanted)) if wanted else ()
    for k, copy in zip(wanted, copies, strict=True):
        values[k] = copy
    x, s = values
    found = function(x, weight, output_weight, s, **options)
    parts = (found,) if isinstance(found, Tensor) else tuple(found)
    scale = (max(count, 1) / width) ** 0.5
    sums = _Sums.apply(ranks, *(part.double() * scale for part in parts))
    rounded = tuple(total.to(part.dtype) for total, part in zip(sums, parts, strict=True))
    return rounded[0] if isinstance(found, Tensor) else rounded if type(found) is tuple else type(found)(*rounded)


def as_sharded(ranks: Ranks, local: Tensor, count: int) -> DTensor:
    """The rows of this rank as a DTensor of ``count`` rows: what torch.distributed.checkpoint knows. No communication.

    Args:
        local: (m_r, ...), contiguous.
    """
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.tensor import DTensor, Shard

    mesh = DeviceMesh.from_group(ranks.group, local.device.type)
    shape = torch.Size((count, *local.shape[1:]))
    return DTensor.from_local(local, mesh, [Shard(0)], run_check=False, shape=shape, stride=_strides(shape))


def _strides(shape: Sequence[int]) -> tuple[int, ...]:
    strides = [1]
    for length in reversed(shape[1:]):
        strides.insert(0, strides[0] * length)
    return tuple(strides)


def local_rows(ranks: Ranks, saved: Tensor, shape: Sequence[int]) -> Tensor:
    """This rank's rows of a tensor that was saved for all neurons.

    Args:
        saved: Whole, or a DTensor with this group's shares.
        shape: Of the whole.
    Raises:
        ValueError: It is another one.
    """
    if tuple(saved.shape) != tuple(shape):
        raise ValueError(f"shape {tuple(shape)}, that of all ranks' neurons together, got {tuple(saved.shape)}")
    first, count = ranks.share(shape[0])
    of_shares = getattr(saved, "to_local", None)  # torch.distributed.tensor is not imported to ask
    if of_shares is None:
        return saved[first : first + count]
    local: Tensor = of_shares()
    if local.shape[0] != count:
        raise ValueError(f"the shares of {ranks.size} ranks, got a DTensor on {saved.device_mesh}")  # type: ignore[attr-defined]
    return local
