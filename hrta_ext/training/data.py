"""What a network is trained on: samples, targets, what the loss makes of them besides; the checks, and the batches."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn

from hrta_ext.compiled import require_memory
from hrta_ext.files import hash_tensor
from hrta_ext.inputs import DtypeError


@dataclass(frozen=True)
class Samples:
    """The data of a training.

    Attributes:
        x: Samples, shape (n, ...).
        y: Targets, shape (n, ...).
        sample_weight: c, shape (n,); None for ones.
        target_gradient: Gradient of the target in x, shape (n, d); None for a loss without gradients.
    """

    x: Tensor
    y: Tensor
    sample_weight: Tensor | None = None
    target_gradient: Tensor | None = None

    def given(self) -> dict[str, Tensor]:
        """The tensors that are not None, by name."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if value is not None}

    def detach(self) -> Samples:
        """The same numbers outside of any graph."""
        return Samples(**{name: value.detach() for name, value in self.given().items()})

    def take(self, chosen: Tensor) -> Samples:
        """The samples with these indices, shape (count,)."""
        return Samples(**{name: value[chosen] for name, value in self.given().items()})


class Batches:
    """The samples of every step. Each epoch is a new permutation from a generator that starts at torch's seed.

    The permutations are drawn on the CPU, so they are the same whatever device the samples are on, and do not touch
    torch's global random state.

    Args:
        samples: Of all steps.
        batch_size: Samples per step; None for all of them in their own order.
        seed: Of the generator; None: torch's.
    """

    def __init__(self, samples: Samples, batch_size: int | None, seed: int | None = None) -> None:
        self.samples, self.batch_size = samples, batch_size
        self.generator = torch.Generator().manual_seed(torch.initial_seed() if seed is None else seed)
        self.epoch_state = self.generator.get_state()
        self.order = torch.empty(0, dtype=torch.int64)
        self.device, self.dtype = samples.x.device, samples.x.dtype

    def get(self, step: int) -> Samples:
        """Samples of step number ``step``; steps are to be asked for in order."""
        if self.batch_size is None:
            return self.samples
        n = self.samples.x.shape[0]
        position = step % -(-n // self.batch_size)
        if position == 0:
            self.epoch_state = self.generator.get_state()
            self._shuffle()
        chosen = self.order[position * self.batch_size : (position + 1) * self.batch_size]
        return self.samples.take(chosen)

    def _shuffle(self) -> None:
        x = self.samples.x
        self.order = torch.randperm(x.shape[0], generator=self.generator).to(x.device)

    def state(self) -> Tensor:
        """The generator's state at the start of the current epoch."""
        return self.epoch_state

    def restore(self, state: Tensor, step: int) -> None:
        """Stand where a run stood that had done ``step`` steps and then gave ``state``."""
        self.generator.set_state(state)
        if self.batch_size is not None and step > 0:
            self.epoch_state = state
            self._shuffle()

    def collect(self) -> None:
        """Nothing is kept of a step but its loss."""

    def tensors(self) -> list[Tensor]:
        """All of the data."""
        return list(self.samples.given().values())

    def hashes(self) -> dict[str, Any]:
        """What makes the data of two runs the same."""
        return {name: hash_tensor(value) for name, value in self.samples.given().items()}

    def facts(self, *, finished: bool) -> dict[str, Any]:
        """What a report says of the data."""
        return {
            "sample_weight": self.samples.sample_weight is not None,
            "target_gradient": self.samples.target_gradient is not None,
            "n_samples": self.samples.x.shape[0],
        }


def check_samples(parameters: Sequence[nn.Parameter], samples: Samples) -> None:
    """Raise TypeError or ValueError for data that a network with such parameters cannot be trained on."""
    _check_data(parameters, samples.x, samples.y)
    if samples.sample_weight is not None:
        _check_sample_weight(samples.x, samples.sample_weight)
    if samples.target_gradient is not None:
        _check_target_gradient(samples.x, samples.y, samples.target_gradient)


def _check_data(parameters: Sequence[nn.Parameter], x: Tensor, y: Tensor) -> None:
    dtypes = {p.dtype for p in parameters}
    devices = {p.device for p in parameters}
    for name, value in (("x", x), ("y", y)):
        _check_tensor(name, value)
        if not value.is_floating_point():
            raise TypeError(f"fit: {name} must be a floating-point tensor, got {value.dtype}")
        if value.dim() == 0 or value.shape[0] == 0:
            raise ValueError(f"fit: {name} must have shape (n, ...) with n at least 1, got {tuple(value.shape)}")
        if value.device not in devices:
            raise ValueError(
                f"fit: {name} must be on the device of the network, {_listed(devices)}, got {value.device}"
            )
        if value.dtype not in dtypes:
            raise DtypeError(f"fit: {name} must have the dtype of the network, {_listed(dtypes)}, got {value.dtype}")
    if y.shape[0] != x.shape[0]:
        expected = (x.shape[0], *y.shape[1:])
        raise ValueError(f"fit: y must have shape {expected} to match x, got {tuple(y.shape)}")
    for name, value in (("x", x), ("y", y)):
        _check_finite(name, value)


def _check_sample_weight(x: Tensor, sample_weight: Tensor) -> None:
    _check_beside("sample_weight", sample_weight, x, (x.shape[0],))
    if bool((sample_weight < 0).any()):
        row = int((sample_weight < 0).nonzero()[0])
        value = float(sample_weight[row])
        raise ValueError(f"fit: sample_weight must not be negative, entry {row} (counted from 0) is {value:g}")
    if not bool(sample_weight.any()):
        raise ValueError("fit: sample_weight must not be zero everywhere, nothing would be trained")


def _check_target_gradient(x: Tensor, y: Tensor, target_gradient: Tensor) -> None:
    n = x.shape[0]
    if x.dim() != 2:
        raise ValueError(f"fit: target_gradient needs x of shape (n, d), got {tuple(x.shape)}")
    if y.shape not in ((n,), (n, 1)):
        raise ValueError(
            f"fit: target_gradient needs scalar outputs, y of shape ({n},) or ({n}, 1), got {tuple(y.shape)}"
        )
    _check_beside("target_gradient", target_gradient, x, tuple(x.shape))


def _check_beside(name: str, value: Tensor, x: Tensor, shape: tuple[int, ...]) -> None:
    """An argument that stands beside x: its dtype and device, this shape, finite."""
    _check_tensor(name, value)
    if value.dtype != x.dtype:
        raise DtypeError(f"fit: {name} must have x's dtype, {x.dtype}, got {value.dtype}")
    if value.device != x.device:
        raise ValueError(f"fit: {name} must be on x's device, {x.device}, got {value.device}")
    if value.shape != shape:
        raise ValueError(f"fit: {name} must have shape {shape}, got {tuple(value.shape)}")
    _check_finite(name, value)


def _check_tensor(name: str, value: object) -> None:
    if not isinstance(value, Tensor):
        raise TypeError(f"fit: {name} must be a tensor, got {type(value).__name__}; torch.as_tensor makes one")
    if value.layout is not torch.strided:
        raise TypeError(f"fit: {name} must be a dense (strided) tensor, got layout {value.layout}")
    require_memory(value, f"fit: {name}")


def _check_finite(name: str, value: Tensor) -> None:
    finite = value.isfinite().reshape(value.shape[0], -1).all(1)
    if not finite.all():
        row = int((~finite).nonzero()[0])
        raise ValueError(f"fit: {name} must be finite, row {row} (counted from 0) holds NaN or Inf")


def _listed(values: Iterable[object]) -> str:
    return " or ".join(sorted(map(str, values)))
