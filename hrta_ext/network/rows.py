"""Weights whose rows are divided among ranks, as DTensors: what torch.distributed.checkpoint knows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hrta_ext.groups import Ranks

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor


def as_sharded(ranks: Ranks, local: Tensor, count: int) -> DTensor:
    """The rows of this rank as a DTensor of ``count`` rows. No communication.

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
