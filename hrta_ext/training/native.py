"""The compiled training steps on tensors: what the native call is told, and the call (csrc/training/training.h)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hrta_ext.bases import BASES
from hrta_ext.compiled import _C, KINDS, address


def serves(weight: Tensor) -> bool:
    """Whether native code trains weights of a device and dtype that the binary serves."""
    return True


@dataclass(frozen=True)
class Training:
    """One network, its samples and its optimizer: contiguous tensors of one dtype on one device, and numbers."""

    base: str
    s: float
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

    def described(self) -> Any:
        """What the binary is told. Whoever holds it must hold the tensors too."""
        weight_first, output_first = self.first or (None, None)
        weight_second, output_second = self.second or (None, None)
        return _C.TwoLayerTraining(
            dtype=KINDS[self.weight.dtype],
            base=BASES[self.base].number,
            n=self.x.shape[0],
            features=self.x.shape[1],
            width=self.weight.shape[0],
            x=address(self.x),
            y=address(self.y),
            sample_weight=address(self.sample_weight),
            gradient_target=address(self.target_gradient),
            gradient_features=0 if self.target_gradient is None else self.target_gradient.shape[1],
            weight=address(self.weight),
            output_weight=address(self.output_weight),
            rule=_C.UpdateRule.descent if self.second is None else _C.UpdateRule.adam,
            weight_first=address(weight_first),
            weight_second=address(weight_second),
            output_first=address(output_first),
            output_second=address(output_second),
            beta1=self.betas[0],
            beta2=self.betas[1],
            epsilon=self.epsilon,
            updates=self.updates,
            s=self.s,
            f=address(self.f),
        )


def train(
    trainings: Sequence[Training], rates: Sequence[Tensor], losses: Tensor, present: Sequence[bool], keep: bool
) -> list[int]:
    """Do the steps of every network; on the CPU side by side, small networks on a thread each.

    Args:
        trainings: One per network.
        rates: The learning rates of each, float64, shape (steps,).
        losses: Where the loss before every update goes, float64, shape (networks, steps), on the CPU.
        present: Whether ``f`` holds the outputs of the present weights.
        keep: Whether ``f`` is to hold them on return.
    Returns:
        The number of losses written of each.
    """
    if all(training.x.is_cpu for training in trainings):
        done = torch.empty(len(trainings), dtype=torch.int64)
        _run(trainings, rates, losses, done, present, keep, None)
        return done.tolist()
    return [_train_on_gpu(*member, keep) for member in zip(trainings, rates, losses, present, strict=True)]


def _train_on_gpu(training: Training, rates: Tensor, losses: Tensor, present: bool, keep: bool) -> int:
    device = training.x.device
    count = _C.two_layer_training_scratch(training.described(), training.x.get_device())
    scratch = torch.empty(count, dtype=torch.uint8, device=device)
    loss = torch.empty(losses.shape, dtype=torch.float64, device=device)
    done = torch.empty(1, dtype=torch.int64, device=device)
    _run([training], [rates], loss.unsqueeze(0), done, [present], keep, scratch)
    losses.copy_(loss)  # waits for the steps
    return int(done) or losses.numel()


def _run(
    trainings: Sequence[Training],
    rates: Sequence[Tensor],
    losses: Tensor,
    done: Tensor,
    present: Sequence[bool],
    keep: bool,
    scratch: Tensor | None,
) -> None:
    _C.two_layer_train(
        trainings=[training.described() for training in trainings],
        steps=losses.shape[1],
        lr=[address(tensor) for tensor in rates],
        loss=[address(tensor) for tensor in losses],
        done=[address(tensor) for tensor in done],
        outputs_on_entry=list(present),
        outputs_on_return=keep,
        scratch=[address(scratch)] * len(trainings),
        device=trainings[0].x.get_device(),
    )
