"""Processes that share the neurons: a ``torch.distributed`` group as this package uses it.

Rank r of R holds the neurons of Shard(0): ceil(m / R) from r ceil(m / R) on, the last ranks fewer or none. Data are the
same on every rank. A sum over ranks gathers their parts and adds them in the order of the ranks, on every rank alike:
an all-reduce of gloo or nccl would choose an order of its own.

A message begins with a frame of one size, whatever it is about: what its rank is in the middle of, whether it has
failed, whether it asks for an end, and the values where there is room. So a rank that fails sends a frame that says so
in place of the one that the others expect, and ranks that make different calls find out instead of waiting.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import lru_cache
from typing import Any, NoReturn
from weakref import WeakKeyDictionary

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from hrta_ext.files import hash_tensor

_GATHERED = 2**22  # entries of all ranks that are held at once: 32 MiB of float64
_MESSAGE = 2000  # characters of an error that travel
_FRAME, _HEAD = 512, 3  # numbers of 8 bytes: of a frame, and before its values
_ROOM = 8 * (_FRAME - _HEAD)  # bytes of values
_FAILED, _ASKS = 1, 2  # flags of a frame
_SECONDS_BETWEEN_MEETINGS = 2.0  # of ranks that work side by side
_warned = False


class RankError(RuntimeError):
    """Another rank failed; the message names it and says what it said."""


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

    def fingerprint(self, function: str) -> int:
        """A number of 56 bits that differs where the facts do, or the function that is called."""
        return _fingerprint(function, tuple((name, str(value)) for name, value in self.items()))


@lru_cache(maxsize=64)  # the messages of steps are alike
def _fingerprint(function: str, facts: tuple[tuple[str, str], ...]) -> int:
    told = json.dumps([function, facts])
    return int.from_bytes(hashlib.sha256(told.encode()).digest()[:7], "big")


class _Frames:
    """Of a group: room for the frames of all ranks, and how many this rank has sent.

    NumPy fills and reads them, on the CPU: it costs less than torch.
    """

    def __init__(self, size: int, device: torch.device) -> None:
        self.sent, self.got = np.zeros(_FRAME, np.int64), np.zeros((size, _FRAME), np.int64)
        with torch.inference_mode(False):
            self.here = torch.from_numpy(self.sent), [torch.from_numpy(row) for row in self.got]
        self.device, self.count = device, 0

    def exchange(self, group: Any) -> None:
        """Fill ``got`` with what every rank has in ``sent``."""
        mine, every = self.here
        if self.device.type == "cpu":
            dist.all_gather(every, mine, group=group)
        else:
            there = [torch.empty_like(row, device=self.device) for row in every]
            dist.all_gather(there, mine.to(self.device), group=group)
            self.got[:] = torch.stack(there).cpu().numpy()
        self.count += 1


_frames: WeakKeyDictionary[Any, _Frames] = WeakKeyDictionary()


class Ranks:
    """A group of processes and this process's place in it.

    Attributes:
        group: The ``torch.distributed`` process group.
        rank: This process's number in the group, 0 to ``size`` - 1.
        size: R, the number of processes.
        device: Where frames are: on the CPU where the group's backend serves it, else on the current GPU.
        asks: Whether this rank asks all of them to end; every frame says so.
        asked: Whether one of them has asked: the same on every rank after a message.
    """

    def __init__(self, group: Any, function: str) -> None:
        self.group, self.function = group, function
        self.rank, self.size = dist.get_rank(group), dist.get_world_size(group)
        self._kinds = {part.split(":")[0] for part in str(dist.get_backend_config(group)).split(",")}
        self.device = torch.device("cpu" if "cpu" in self._kinds else "cuda")
        self.asks: Callable[[], bool] = bool
        self.asked = False
        if group not in _frames:
            _frames[group] = _Frames(self.size, self.device)
        self._frames = _frames[group]

    def __deepcopy__(self, memo: dict[int, Any]) -> Ranks:
        return self  # copies of what it divides are divided by the same group

    def __reduce__(self) -> Any:
        raise TypeError("Ranks: a process group cannot be pickled; torch.distributed.checkpoint saves a state_dict")

    def share(self, count: int, rank: int | None = None) -> tuple[int, int]:
        """(first, number) of the neurons of a rank, of ``count`` in all: DTensor's Shard(0)."""
        each = -(-count // self.size)
        first = min((self.rank if rank is None else rank) * each, count)
        return first, min(each, count - first)

    def meet(
        self, function: str, facts: Facts, error: BaseException | None = None, value: Tensor | None = None
    ) -> Tensor | None:
        """Exchange a frame, wherever the other ranks are.

        Args:
            function: Whose message it is.
            facts: What must be equal on every rank; its ``counts`` are set.
            error: What this rank has met.
            value: Sent along, of equal shape and dtype on every rank, at most ``_ROOM`` bytes.
        Returns:
            Every rank's value, (R, ...), where ``value`` is.
        Raises:
            RankError, ValueError: As :meth:`together`; ``error`` itself, at once where the ranks know of it.
        """
        frames = self._frames
        if error is not None and getattr(error, "_told", None) == (id(frames), frames.count):
            raise error
        flags = _FAILED * (error is not None) + _ASKS * self.asks()
        frames.sent[:_HEAD] = flags, facts.fingerprint(function), facts.count
        size = 0 if value is None else value.numel() * value.element_size()
        if value is not None and size:
            content = value.detach().cpu().reshape(-1).view(torch.uint8).numpy()
            frames.sent[_HEAD:].view(np.uint8)[:size] = content
        frames.exchange(self.group)
        heads = frames.got[:, :_HEAD].tolist()
        facts.counts = [count for _, _, count in heads]
        self.asked = self.asked or any(flags & _ASKS for flags, _, _ in heads)
        if any(flags & _FAILED or mark != heads[0][1] for flags, mark, _ in heads):
            self._explain(function, facts, error)
        if value is None:
            return None
        every = torch.from_numpy(frames.got[:, _HEAD:].view(np.uint8)[:, :size].copy())
        return every.view(value.dtype).view(self.size, *value.shape).to(value.device)

    def tell(self, function: str, error: BaseException) -> NoReturn:
        """Raise ``error`` after the others have been told, in the message that they are in or come to."""
        self.meet(function, Facts(), error)
        raise error

    @contextmanager
    def telling(self, function: str) -> Iterator[None]:
        """What this rank does by itself before a message of all: an error is told in its place."""
        try:
            yield
        except BaseException as error:
            self.tell(function, error)

    def gather(self, value: Tensor, facts: Facts | None = None) -> list[Tensor]:
        """Every rank's ``value`` (equal shapes and dtypes), in the order of the ranks, where ``value`` is.

        Args:
            value: Sent as it is.
            facts: What must be equal besides.
        """
        here = value.detach().contiguous()
        facts = Facts() if facts is None else facts
        facts["a message"] = f"{here.dtype} of shape {tuple(here.shape)}"
        fits = here.numel() * here.element_size() <= _ROOM
        found = self.meet(self.function, facts, value=here if fits else None)
        return self._gather(here) if found is None else list(found)

    def _gather(self, value: Tensor) -> list[Tensor]:
        """The same without a frame."""
        here = value if value.device.type in self._kinds else value.to(self.device)
        parts = [torch.empty_like(here) for _ in range(self.size)]
        dist.all_gather(parts, here, group=self.group)
        return [part.to(value.device) for part in parts]

    def sum(self, value: Tensor, facts: Facts | None = None, *, looks: bool = True) -> Tensor:
        """The sum of every rank's ``value``, in the order of the ranks: the same bits on all of them.

        Args:
            value, facts: As for :meth:`gather`.
            looks: False: without a frame, so that nothing waits for a GPU, and nobody hears of errors.
        """
        sums = []
        for _, parts in self._blocks(value, facts, looks):
            for part in parts[1:]:
                parts[0] += part
            sums.append(parts[0])
        return (sums[0] if len(sums) == 1 else torch.cat(sums)).view(value.shape)

    def add(self, total: Tensor, value: Tensor) -> None:
        """Add every rank's ``value`` to ``total`` (contiguous, the same on all ranks), one after the other."""
        flat = total.view(-1)
        for at, parts in self._blocks(value):
            for part in parts:
                flat[at] += part

    def _blocks(
        self, value: Tensor, facts: Facts | None = None, looks: bool = True
    ) -> Iterator[tuple[slice, list[Tensor]]]:
        """Every rank's ``value`` as a flat tensor, a block at a time: where it is, and the parts of the ranks."""
        flat, step = value.detach().reshape(-1), max(_GATHERED // self.size, 1)
        for first in range(0, max(flat.numel(), 1), step):
            at = slice(first, first + step)
            yield at, self.gather(flat[at], facts) if looks else self._gather(flat[at].contiguous())

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
        with self.telling(function):
            yield facts
        self.meet(function, facts)

    def _explain(self, function: str, facts: Facts, error: BaseException | None) -> None:
        """Raise what ``meet`` does where an error or a difference has been found."""
        told = None if error is None else words(error)
        mine = {"call": function, "error": told, "facts": {name: str(value) for name, value in facts.items()}}
        alike = Ranks(self.group, "hrta_ext")  # whatever each is in the middle of
        every = [json.loads(text) for text in alike.texts(json.dumps(mine))]
        raised = self._of_others(every) if error is None else error
        # All ranks raise: no need for another message, as long as there has been none.
        raised._told = id(self._frames), self._frames.count  # type: ignore[attr-defined]
        raise raised

    def _of_others(self, every: list[dict[str, Any]]) -> Exception:
        """What a rank without an error of its own raises."""
        for rank, other in enumerate(every):
            if other["error"] is not None:
                return RankError(f"{other['call']}: rank {rank} stopped with {other['error']}")
        call, first = every[0]["call"], every[0]["facts"]
        for rank, other in enumerate(every[1:], 1):
            for name in [*first, *other["facts"]]:
                one, two = first.get(name), other["facts"].get(name)
                if other["call"] == call and one != two:
                    found = f"{one} on rank 0 and {two} on rank {rank}"
                    return ValueError(f"{call}: {name} must be the same on every rank, got {found}")
        calls = " and ".join(f"{other['call']} on rank {rank}" for rank, other in enumerate(every))
        return ValueError(f"{call}: every rank must make the same calls in the same order, got {calls}")

    @contextmanager
    def side_by_side(
        self, function: str, progress: Callable[[int], object] | None = None
    ) -> Iterator[Callable[[int], None]]:
        """``together`` for work that takes long, and may take one rank longer than another.

        Yields ``tick(done)``, to be called now and then with what this rank has done in this stage. Every few seconds
        ranks meet there, and those that have finished wait there too, so nobody waits for much longer (the group has a
        timeout), and an error reaches all at the next meeting. More of them would cost: each waits for the slowest.

        Args:
            function: Named in errors.
            progress: Called at every meeting with what all ranks have done, and at the end.
        """
        mine, met = 0, time.monotonic()

        def meet(working: bool) -> tuple[bool, int]:
            every = torch.stack(self.gather(torch.tensor([working, mine], device=self.device))).tolist()
            return any(working for working, _ in every), sum(done for _, done in every)

        def tick(done: int) -> None:
            nonlocal mine, met
            mine = done
            if time.monotonic() - met < _SECONDS_BETWEEN_MEETINGS:
                return
            _, total = meet(True)
            met = time.monotonic()
            if progress is not None:
                progress(total)

        with self.together(function):
            yield tick
            working = True
            while working:
                working, total = meet(False)
            if progress is not None:
                progress(total)


def words(error: BaseException) -> str:
    """What other ranks are told of an error."""
    try:
        return f"{type(error).__name__}: {error}".removesuffix(": ")[:_MESSAGE]
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
    return Ranks(group, function)


def digest(value: Tensor | None) -> str:
    """What two ranks compare in place of a tensor: dtype, shape and a hash of its bytes."""
    if value is None:
        return "None"
    dtype = str(value.dtype).removeprefix("torch.")
    return f"{dtype} of shape {tuple(value.shape)} with hash {hash_tensor(value.resolve_neg())[:16]}"
