"""What ``hrta doctor`` measures on a GPU: the copy bandwidth, and how much of it one kernel of this package reaches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from hrta_ext.activation.functions import homotopy
from hrta_ext.backends import use_backend, why_not_on

_ELEMENTS = 1 << 26  # float32: 256 MiB, several times any card's cache
_FREE_SHARE = 8  # the tensors take 3/8 of the free memory at most
_CALLS = 10


@dataclass(frozen=True)
class Speed:
    """Of one GPU: what was moved in a call, and the seconds that the fastest call of each kind took.

    Attributes:
        elements: Float32 numbers, each read once and written once.
        copy: Seconds of torch's copy; None where nothing could be measured.
        kernel: Seconds of the activation's kernel; None where this package has none for the card.
        reason: Why something was not measured.
    """

    name: str
    memory: int
    elements: int
    copy: float | None
    kernel: float | None
    reason: str = ""

    @property
    def copy_bytes_per_second(self) -> float | None:
        """Bytes read and written."""
        return None if self.copy is None else 8 * self.elements / self.copy

    @property
    def share(self) -> float | None:
        """Of the copy's rate that the kernel reaches."""
        return None if self.copy is None or self.kernel is None else self.copy / self.kernel


def speeds(usable: bool) -> list[Speed]:
    """Each GPU that torch sees; ``usable``: this package's kernels work."""
    return [_speed(index, usable) for index in range(torch.cuda.device_count())] if torch.cuda.is_available() else []


def _speed(index: int, usable: bool) -> Speed:
    properties = torch.cuda.get_device_properties(index)
    name, memory = properties.name, properties.total_memory
    try:
        with torch.cuda.device(index):
            elements = min(_ELEMENTS, torch.cuda.mem_get_info()[0] // (4 * _FREE_SHARE))
            source, kernel = torch.ones(elements, device="cuda"), None
            copy, reason = _copy_seconds(source), why_not_on(index) if usable else None
            if usable and reason is None:
                with use_backend("cuda"):
                    kernel = _seconds(lambda: homotopy(source, 0.5))
            return Speed(name, memory, elements, copy, kernel, reason or "")
    except RuntimeError as error:  # another program may have taken the memory
        return Speed(name, memory, 0, None, None, str(error).splitlines()[0])


def _copy_seconds(source: Tensor) -> float:
    target = torch.empty_like(source)
    return _seconds(lambda: target.copy_(source))


def _seconds(call: Callable[[], object]) -> float:
    """The fastest of a few calls."""
    call()
    marks = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(_CALLS)]
    for start, end in marks:
        start.record()
        call()
        end.record()
    torch.cuda.synchronize()
    return min(start.elapsed_time(end) for start, end in marks) * 1e-3


def rows(found: list[Speed]) -> list[list[str]]:
    """For the table: GPU, memory, copy, activation, share, remark."""

    def shown(value: float | None, layout: str) -> str:
        return "" if value is None else layout.format(value)

    return [
        [
            speed.name,
            f"{speed.memory / 2**30:.0f} GiB",
            shown(None if speed.copy_bytes_per_second is None else speed.copy_bytes_per_second / 1e9, "{:,.0f} GB/s"),
            shown(None if speed.kernel is None else speed.kernel * 1e6, f"{{:.0f}} us, n = {speed.elements:,}"),
            shown(None if speed.share is None else 100 * speed.share, "{:.0f}%"),
            speed.reason,
        ]
        for speed in found
    ]
