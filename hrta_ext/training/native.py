"""The compiled training steps on tensors: what the native call is told, and the call (csrc/training/training.h)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hrta_ext.bases import BASES
from hrta_ext.compiled import _C, KINDS, address, own


def serves(weight: Tensor) -> bool:
    """Whether native code trains weights of a device and dtype that the binary serves."""
    return True


@dataclass(frozen=True)
class Training:
    """One network, its samples and its optimizer: contiguous tensors of one dtype on one device, and numbers."""

    base: str
    x: Tensor  # (n, D)
    y: Tensor  # (n,)
    weight: Tensor  # (m, D)
    output_weight: Tensor  # (m,)
    f: Tensor  # (n,) or, with a target_gradient, (n + n D,), float64: the outputs, kept from call to call
    sample_weight: Tensor | None  # (n,)
    target_gradient: Tensor | None  # (n, d)
    first: tuple[Tensor, Tensor] | None  # moments of weight and output_weight; Adam's, or SGD's if it has momentum
    second: tuple[Tensor, Tensor] | None  # Adam's
    betas: tuple[float, float]  # SGD: the momentum is the first
    epsilon: float
    updates: int  # steps that Adam's moments have seen
    total_width: int = 0  # m of the formula where other processes hold neurons too: f is the sum of all parts on entry

    def described(self) -> Any:
        """What the binary is told. Whoever holds it must hold the tensors too."""
        weight_first, output_first = self.first or (None, None)
        weight_second, output_second = self.second or (None, None)
        dtype, device, gradient = self.weight.dtype, self.weight.get_device(), self.target_gradient
        (n, features), width = self.x.shape, self.weight.shape[0]

        def at(tensor: Tensor | None, name: str, count: int) -> int:
            return address(tensor, f"fit: {name}", dtype, device, count)

        return _C.TwoLayerTraining(
            dtype=KINDS[dtype],
            base=BASES[self.base].number,
            n=n,
            features=features,
            width=width,
            x=at(self.x, "x", n * features),
            y=at(self.y, "y", n),
            sample_weight=at(self.sample_weight, "sample_weight", n),
            gradient_target=at(gradient, "target_gradient", 0 if gradient is None else n * gradient.shape[1]),
            gradient_features=0 if gradient is None else gradient.shape[1],
            weight=at(self.weight, "weight", width * features),
            output_weight=at(self.output_weight, "output_weight", width),
            rule=_C.UpdateRule.descent if self.second is None else _C.UpdateRule.adam,
            weight_first=at(weight_first, "moments of weight", width * features),
            weight_second=at(weight_second, "moments of weight", width * features),
            output_first=at(output_first, "moments of output_weight", width),
            output_second=at(output_second, "moments of output_weight", width),
            beta1=self.betas[0],
            beta2=self.betas[1],
            epsilon=self.epsilon,
            updates=self.updates,
            f=address(self.f, "fit: f", torch.float64, device, n if gradient is None else n + n * features),
            total_width=self.total_width,
        )


def train(
    trainings: Sequence[Training],
    rates: Sequence[Tensor],
    s: Sequence[Tensor],
    losses: Tensor,
    present: Sequence[bool],
    keep: bool,
) -> list[int]:
    """Do the steps of every network, all on one device; side by side where that is faster.

    Args:
        trainings: One per network.
        rates: The learning rates of each, float64, shape (steps,).
        s: The homotopy parameters of each, float64, shape (steps + 1,): of every step, and of the outputs on return.
        losses: Where the loss before every update goes, float64, shape (networks, steps), on the CPU.
        present: Whether ``f`` holds the outputs of the present weights.
        keep: Whether ``f`` is to hold them on return.
    Returns:
        The number of losses written of each.
    """
    device = trainings[0].x.device
    written, done = losses.to(device), torch.zeros(len(trainings), dtype=torch.int64, device=device)
    queue([training.described() for training in trainings], rates, s, written, done, present, keep)
    if written is not losses:
        losses.copy_(written)  # waits for the steps
    return [count or losses.shape[1] for count in done.tolist()]


def queue(
    members: list[Any],
    rates: Sequence[Tensor],
    s: Sequence[Tensor],
    losses: Tensor,
    done: Tensor,
    present: Sequence[bool],
    keep: bool,
) -> None:
    """The same for trainings as they are described; on a GPU the steps are queued, and nothing waits for them.

    Args:
        members: Whose tensors the caller holds.
        losses: float64, shape (networks, steps), on the device. No steps: the outputs alone, at the one s.
        done: Of each network where its losses end, 0 for all of them: int64, on the device.
    """
    steps, number = losses.shape[1], losses.get_device()
    scratch = None
    if losses.is_cuda:
        count = _C.two_layer_training_scratch(members, steps, number)
        scratch = torch.empty(count, dtype=torch.uint8, device=losses.device)
    _C.two_layer_train(
        trainings=members,
        steps=steps,
        lr=[address(tensor, "fit: lr", torch.float64, -1, steps) for tensor in rates],
        s=[address(tensor, "fit: s", torch.float64, -1, steps + 1) for tensor in s],
        loss=[address(tensor, "fit: loss", torch.float64, number, steps) for tensor in losses],
        done=[address(tensor, "fit: done", torch.int64, number, 1) for tensor in done],
        outputs_on_entry=list(present),
        outputs_on_return=keep,
        scratch=own(scratch),
        device=number,
    )
