"""Commands under torchrun: the group of its processes, of which rank 0 alone reads, writes and speaks."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from hrta_ext.cli.output import CommandError
from hrta_ext.groups import Ranks, ranks_of


def processes() -> int:
    """How many processes torchrun started; 1 without it."""
    count = os.environ.get("WORLD_SIZE", "1")
    return int(count) if count.isdecimal() else 1


@contextmanager
def launched(timeout: timedelta | None = None) -> Iterator[Ranks | None]:
    """The ranks of torchrun's processes, whose small messages go by gloo; None for a process by itself.

    Args:
        timeout: For which a rank waits for another; default: torch's, 30 minutes.
    """
    if processes() == 1 or dist.is_initialized():
        yield None if processes() == 1 else ranks_of("world", "hrta")
        return
    dist.init_process_group("gloo", timeout=timeout)
    try:
        yield ranks_of("world", "hrta")
    finally:
        dist.destroy_process_group()


def alike(ranks: Ranks | None, command: str) -> AbstractContextManager[object]:
    """A stage that all ranks end well, or none; nothing for a process by itself."""
    return nullcontext() if ranks is None else ranks.together(command)


def leads(ranks: Ranks | None) -> bool:
    """Whether this process is the one that reads and writes."""
    return ranks is None or ranks.rank == 0


def own_device(ranks: Ranks | None, device: str) -> None:
    """Let "cuda" be a GPU of this process alone."""
    if ranks is None or device != "cuda":
        return
    own, there = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if own >= there:
        raise CommandError(f"--device cuda: this machine has {there} GPUs; start no more processes on it than those")
    torch.cuda.set_device(own)


def from_first(ranks: Ranks | None, value: Tensor | None, device: str) -> Tensor:
    """The float64 tensor that rank 0 has, on every rank."""
    if ranks is None or (ranks.size == 1 and value is not None):
        assert value is not None
        return value.to(device)
    shape = json.loads(ranks.texts(json.dumps(None if value is None else list(value.shape)))[0])
    everywhere = torch.empty(shape, dtype=torch.float64) if value is None else value.to("cpu").contiguous()
    ranks.broadcast(everywhere, 0)
    return everywhere.to(device)
