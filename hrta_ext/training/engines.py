"""What does the steps of a training: the interface, and the engine that serves every network by autograd."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from hrta_ext.training import updates
from hrta_ext.training.data import Batches
from hrta_ext.training.losses import training_loss
from hrta_ext.training.objective import PointTerms
from hrta_ext.training.optimizers import LearningRate


class Engine(Protocol):
    """Trains the network that it was made for."""

    name: str

    def steps_at_once(self) -> int:
        """Steps that are best done in one call, where nobody needs to look at the network in between."""
        ...

    def train(self, step: int, count: int, s: Tensor | None) -> Tensor:
        """Do the steps ``step``, ..., ``step + count - 1``, the first at the present s.

        Args:
            step: Number of the first.
            count: How many.
            s: That of every step and of the one after them, (count + 1,) float64; None where it stays.

        Returns:
            The loss before the update of each, shape (steps done,) or 0-dim for one. Fewer than ``count`` are done only
            where the last loss is not finite.
        """
        ...

    def forget(self) -> None:
        """Somebody may change network, optimizer or samples now: what is remembered of them no longer holds."""
        ...


class TorchEngine:
    """One step at a time by autograd and a torch optimizer."""

    name = "torch"

    def __init__(self, net: nn.Module, optimizer: Optimizer, rates: LearningRate, batches: Batches) -> None:
        self.net, self.optimizer, self.rates, self.batches = net, optimizer, rates, batches

    def steps_at_once(self) -> int:
        """One."""
        return 1

    def train(self, step: int, count: int, s: Tensor | None) -> Tensor:
        """One step: the loss before the update, 0-dim, on the network's device."""
        self.rates.apply(step)
        samples = self.batches.get(step)

        def closure() -> Any:
            self.optimizer.zero_grad(set_to_none=True)
            loss = training_loss(self.net, samples)
            loss.backward()
            return loss

        # Every torch optimizer takes a closure and returns its first value; L-BFGS needs to call it again.
        loss: Any = self.optimizer.step(closure)
        return loss.detach()

    def forget(self) -> None:
        """Nothing is remembered."""


class TermsEngine(TorchEngine):
    """The same for losses of the user's own."""

    def __init__(self, optimizer: Optimizer, rates: LearningRate, terms: PointTerms) -> None:
        self.optimizer, self.rates, self.terms = optimizer, rates, terms

    def train(self, step: int, count: int, s: Tensor | None) -> Tensor:
        """One step: the loss before the update, 0-dim, on the network's device."""
        self.rates.apply(step)
        calls = 0

        def closure() -> Any:
            nonlocal calls
            for group in self.optimizer.param_groups:  # zero_grad, without what that costs
                for parameter in group["params"]:
                    parameter.grad = None
            loss = self.terms.loss(step)
            if not self.terms.tried:
                self.terms.check_leaves(loss, self.optimizer)
            loss.backward()
            if calls == 0:
                self.terms.settle()
            calls += 1
            return loss

        if updates.serves(self.optimizer):
            with torch.enable_grad():  # as torch's step does
                loss = closure()
            updates.update(self.optimizer)
        else:
            loss = self.optimizer.step(closure)
        return loss.detach()
