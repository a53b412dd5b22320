"""Processes that share the neurons: a ``torch.distributed`` group as this package uses it.

Rank r of R holds the neurons of Shard(0): ceil(m / R) from r ceil(m / R) on, the last ranks fewer or none. Data are the
same on every rank. A sum over ranks gathers their parts and adds them in the order of the ranks, on every rank alike:
an all-reduce of gloo or nccl would choose an order of its own.
"""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from hrta_ext.files import hash_tensor

_GATHERED = 2**22  # entries of all ranks that are held at once: 32 MiB of float64
_MESSAGE = 2000  # characters of an error that travel
_warned = False
_WORKING, _DONE, _FAILED = range(3)


class RankError(RuntimeError):
    """Another rank failed; the message names it and says what it said."""


class _Elsewhere(Exception):
    """Another rank failed, which says more about it in the end of the stage."""


class Facts(dict[str, object]):
    """What must be equal on every rank, by the names that errors give it; and a number that need not.

    Attributes:
        count: This rank's number, such as that of its neurons.
        counts: Those of all ranks, once the stage has ended.
    """

    def __init__(self) -> None:
        super().__init__()
        self.count = 0
        self.counts: list[int] = []

    def fingerprint(self) -> int:
        """A number of 56 bits that differs where the facts do."""
        told = json.dumps({name: str(value) for name, value in self.items()})
        return int.from_bytes(hashlib.sha256(told.encode()).digest()[:7], "big")


class Ranks:
    """A group of processes and this process's place in it.

    Attributes:
        group: The ``torch.distributed`` process group.
        rank: This process's number in the group, 0 to ``size`` - 1.
        size: R, the number of processes.
        device: Where small collectives run: the CPU where the group's backend serves it, else the current GPU.
    """

    def __init__(self, group: Any) -> None:
        self.group = group
        self.rank, self.size = dist.get_rank(group), dist.get_world_size(group)
        self._kinds = {part.split(":")[0] for part in str(dist.get_backend_config(group)).split(",")}
        self.device = torch.device("cpu" if "cpu" in self._kinds else "cuda")

    def __deepcopy__(self, memo: dict[int, Any]) -> Ranks:
        return self  # copies of what it divides are divided by the same group

    def __reduce__(self) -> Any:
        raise TypeError("Ranks: a process group cannot be pickled; torch.distributed.checkpoint saves a state_dict")

    def share(self, count: int, rank: int | None = None) -> tuple[int, int]:
        """(first, number) of the neurons of a rank, of ``count`` in all: DTensor's Shard(0)."""
        each = -(-count // self.size)
        first = min((self.rank if rank is None else rank) * each, count)
        return first, min(each, count - first)

    def gather(self, value: Tensor) -> list[Tensor]:
        """Every rank's ``value`` (equal shapes and dtypes), in the order of the ranks, where ``value`` is."""
        here = value.detach().contiguous()
        here = here if here.device.type in self._kinds else here.to(self.device)
        parts = [torch.empty_like(here) for _ in range(self.size)]
        dist.all_gather(parts, here, group=self.group)
        return [part.to(value.device) for part in parts]

    def sum(self, value: Tensor) -> Tensor:
        """The sum of every rank's ``value``, in the order of the ranks: the same bits on all of them."""
        total = torch.empty_like(value.detach().reshape(-1))
        for at, parts in self._blocks(value):
            for part in parts[1:]:
                parts[0] += part
            total[at] = parts[0]
        return total.view(value.shape)

    def add(self, total: Tensor, value: Tensor) -> None:
        """Add every rank's ``value`` to ``total`` (contiguous, the same on all ranks), one after the other."""
        flat = total.view(-1)
        for at, parts in self._blocks(value):
            for part in parts:
                flat[at] += part

    def _blocks(self, value: Tensor) -> Iterator[tuple[slice, list[Tensor]]]:
        """Every rank's ``value`` as a flat tensor, a block at a time: where it is, and the parts of the ranks."""
        flat, step = value.detach().reshape(-1), max(_GATHERED // self.size, 1)
        for first in range(0, flat.numel(), step):
            at = slice(first, first + step)
            yield at, self.gather(flat[at])

    def broadcast(self, value: Tensor, rank: int) -> None:
        """Overwrite ``value`` (contiguous) by that of one rank."""
        here = value if value.device.type in self._kinds else value.to(self.device)
        dist.broadcast(here, group=self.group, group_src=rank)
        if here is not value:
            value.copy_(here)

    def total(self, count: int) -> int:
        """The sum of every rank's ``count``."""
        return int(self.sum(torch.tensor([count], device=self.device)))

    def from_first(self, value: Tensor) -> Tensor:
        """Rank 0's ``value`` (equal shapes and dtypes)."""
        return self.gather(value)[0]

    def texts(self, text: str) -> list[str]:
        """Every rank's text."""
        data = torch.tensor(list(text.encode(errors="backslashreplace")), dtype=torch.uint8, device=self.device)
        sizes = [int(size) for size in self.gather(torch.tensor([data.numel()], device=self.device))]
        padded = torch.zeros(max(sizes), dtype=torch.uint8, device=self.device)
        padded[: data.numel()] = data
        gathered = self.gather(padded) if max(sizes) else [padded] * self.size
        return [bytes(part[:size].tolist()).decode() for part, size in zip(gathered, sizes, strict=True)]

    @contextmanager
    def together(self, function: str) -> Iterator[Facts]:
        """A stage that every rank enters: all end it well, or all raise.

        Yields a dictionary for what must be equal on every rank; the names in it are those of the error.

        Raises:
            RankError: Another rank raised in its stage. A rank's own error is raised on that rank as it is.
            ValueError: An entry differs; the message names it, two ranks and what each has.
        """
        facts = Facts()
        error: BaseException | None = None
        try:
            yield facts
        except BaseException as raised:  # told to the others, then raised
            error = raised
        mine = torch.tensor([error is not None, facts.fingerprint(), facts.count], device=self.device)
        every = torch.stack(self.gather(mine)).tolist()
        facts.counts = [count for _, _, count in every]
        if error is not None or any(row[:2] != [0, every[0][1]] for row in every):
            self._explain(function, facts, error)

    def _explain(self, function: str, facts: Facts, error: BaseException | None) -> None:
        """Raise what ``together`` does where an error or a difference has been found."""
        told = None if error is None else words(error)
        mine = {"error": told, "facts": {name: str(value) for name, value in facts.items()}}
        every = [json.loads(text) for text in self.texts(json.dumps(mine))]
        if error is not None:
            raise error
        for rank, other in enumerate(every):
            if other["error"] is not None:
                raise RankError(f"{function}: rank {rank} stopped with {other['error']}")
        for rank, other in enumerate(every[1:], 1):
            first = every[0]["facts"]
            for name in [*first, *other["facts"]]:
                one, two = first.get(name), other["facts"].get(name)
                if one != two:
                    found = f"{one} on rank 0 and {two} on rank {rank}"
                    raise ValueError(f"{function}: {name} must be the same on every rank, got {found}")

    @contextmanager
    def side_by_side(
        self, function: str, progress: Callable[[int], object] | None = None
    ) -> Iterator[Callable[[int], None]]:
        """``together`` for work that takes long, and may take one rank longer than another.

        Yields ``tick(done)``, to be called now and then with what this rank has done in this stage. Ranks meet there,
        and those that have finished wait there too, so nobody waits for longer than others work between two ticks (the
        group has a timeout), and an error reaches all at the next one.

        Args:
            function: Named in errors.
            progress: Called at every tick with what all ranks have done, and at the end.
        """
        mine = 0

        def meet(state: int) -> tuple[list[int], int]:
            every = torch.stack(self.gather(torch.tensor([state, mine], device=self.device))).tolist()
            return [state for state, _ in every], sum(done for _, done in every)

        def tick(done: int) -> None:
            nonlocal mine
            mine = done
            states, total = meet(_WORKING)
            if _FAILED in states:
                raise _Elsewhere
            if progress is not None:
                progress(total)

        with self.together(function):
            error: BaseException | None = None
            try:
                yield tick
            except _Elsewhere:
                return
            except BaseException as raised:
                error = raised
            while True:
                states, total = meet(_DONE if error is None else _FAILED)
                if _FAILED in states or _WORKING not in states:
                    break
            if error is not None:
                raise error
            if progress is not None and _FAILED not in states:
                progress(total)


def words(error: BaseException) -> str:
    """What other ranks are told of an error."""
    try:
        return f"{type(error).__name__}: {error}"[:_MESSAGE]
    except Exception:  # its own words fail
        return type(error).__name__


def together(ranks: Ranks | None, function: str) -> AbstractContextManager[Facts]:
    """:meth:`Ranks.together`; of a process by itself nothing."""
    return nullcontext(Facts()) if ranks is None else ranks.together(function)


def ranks_of(group: object, function: str) -> Ranks | None:
    """The group that a call's ``group=`` means; None for this process alone.

    Args:
        group: None, a ``torch.distributed`` ProcessGroup, or "world" for all processes.
        function: Whose argument it is.
    Raises:
        TypeError: Something else.
        ValueError: "world" before ``init_process_group``; a group that this process is not in.
    """
    global _warned
    if group is None:
        processes = os.environ.get("WORLD_SIZE", "1")
        if processes.isdecimal() and int(processes) > 1 and not _warned:
            _warned = True
            warnings.warn(
                f"{function}: this is one of {processes} processes, and without group= each does the whole work alone; "
                'group="world" shares the neurons (torch.distributed.group.WORLD is None before init_process_group)',
                stacklevel=3,
            )
        return None
    if not dist.is_available():
        raise ValueError(f"{function}: group needs a torch that was built with torch.distributed")
    if isinstance(group, str) and group == "world":
        if not dist.is_initialized():
            raise ValueError(f'{function}: group "world" needs torch.distributed.init_process_group() before the call')
        group = dist.group.WORLD
    if group is dist.GroupMember.NON_GROUP_MEMBER:
        raise ValueError(f"{function}: this process is not in group; only the ranks in it may call")
    if not isinstance(group, dist.ProcessGroup):
        what = repr(group) if isinstance(group, str) else type(group).__name__
        raise TypeError(f'{function}: group must be a torch.distributed process group, "world" or None, got {what}')
    if dist.get_rank(group) < 0:
        raise ValueError(f"{function}: this process is not in group; only the ranks in it may call")
    _warned = True  # who has used a group knows of it
    return Ranks(group)


def digest(value: Tensor | None) -> str:
    """What two ranks compare in place of a tensor: dtype, shape and a hash of its bytes."""
    if value is None:
        return "None"
    dtype = str(value.dtype).removeprefix("torch.")
    return f"{dtype} of shape {tuple(value.shape)} with hash {hash_tensor(value.resolve_neg())[:16]}"
