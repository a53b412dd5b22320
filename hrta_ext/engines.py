"""What does the steps of a training: the interface, and the engine that serves every network by autograd."""

from __future__ import annotations

from typing import Any, Protocol

import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from hrta_ext.schedules import Batches, LearningRate


class Engine(Protocol):
    """Trains the network that it was made for."""

    name: str

    def steps_at_once(self) -> int:
        """Steps that are best done in one call, where nobody needs to look at the network in between."""
        ...

    def train(self, step: int, count: int) -> Tensor:
        """Do the steps ``step``, ..., ``step + count - 1`` at the present s.

        Returns:
            The loss before the update of each, shape (steps done,) or 0-dim for one. Fewer than ``count`` are done only
            where the last loss is not finite.
        """
        ...


class TorchEngine:
    """One step at a time by autograd and a torch optimizer."""

    name = "torch"

    def __init__(self, net: nn.Module, optimizer: Optimizer, rates: LearningRate, batches: Batches) -> None:
        self.net, self.optimizer, self.rates, self.batches = net, optimizer, rates, batches

    def steps_at_once(self) -> int:
        """One."""
        return 1

    def train(self, step: int, count: int) -> Tensor:
        """One step: the loss before the update, 0-dim, on the network's device."""
        self.rates.apply(step)
        x, y = self.batches.get(step)

        def closure() -> Any:
            self.optimizer.zero_grad(set_to_none=True)
            loss = half_mean_square(self.net(x), y)
            loss.backward()
            return loss

        # Every torch optimizer takes a closure and returns its first value; L-BFGS needs to call it again.
        loss: Any = self.optimizer.step(closure)
        return loss.detach()


def half_mean_square(output: Tensor, y: Tensor) -> Tensor:
    """R = 1/(2n) sum_i |output_i - y_i|^2, the first dimension counting the samples, shapes equal up to a trailing 1.

    Raises:
        ValueError: The shapes differ otherwise; (n, 1) against (n,) must never broadcast to (n, n).
    """
    if not isinstance(output, Tensor):
        raise TypeError(f"fit: the network must return a tensor, got {type(output).__name__}")
    if output.shape != y.shape:
        if output.shape != (*y.shape, 1) and (*output.shape, 1) != y.shape:
            shapes = f"{tuple(output.shape)}, got {tuple(y.shape)}"
            raise ValueError(f"fit: y must have the shape of the output of the network, {shapes}")
        output = output.reshape(y.shape)
    return F.mse_loss(output, y, reduction="sum") * (0.5 / y.shape[0])
