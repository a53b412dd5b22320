"""Training a network whose neurons are divided among ranks: what all of them do at the same step.

A step needs the outputs f of all neurons, so each rank gathers what the others' neurons give and adds it in the order
of the ranks: n numbers in float64, with a target gradient n (1 + D). Everything else stays on the rank. Whether a rank
has failed, or asks for an end, goes with them.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from hrta_ext.backends import build_info
from hrta_ext.groups import Facts, Ranks, digest
from hrta_ext.network.module import TwoLayerNet
from hrta_ext.training import native
from hrta_ext.training.fused import FusedEngine

# Between two looks at Ctrl-C, callbacks and the other ranks: so many seconds of steps as these numbers foretell. Clocks
# differ from rank to rank, shapes do not.
_SECONDS_BETWEEN_LOOKS = 0.1
_SECONDS_PER_STEP, _SECONDS_PER_PRODUCT = 2e-4, 1e-10
_MOST_STEPS_BETWEEN_LOOKS = 500
_DECIDING = ("version", "torch", "simd")
# In order of weight: what is worst goes for all.
_REASONS = ("finished", "callback")
# Every parameter by itself, so that a share of them is updated as it would be among all.
_ELEMENTWISE = ("Adam", "AdamW", "Adamax", "NAdam", "RAdam", "SGD", "ASGD", "Adagrad", "Adadelta", "RMSprop", "Rprop")


def ranks_of_net(net: object) -> Ranks | None:
    """Who shares the neurons of ``net``; None where this process has all of it.

    Raises:
        ValueError: It holds such a network within another module.
    """
    if isinstance(net, TwoLayerNet):
        return net.ranks
    inside = net.modules() if isinstance(net, nn.Module) else ()
    if any(isinstance(module, TwoLayerNet) and module.ranks is not None for module in inside):
        raise ValueError(f"fit: net must be the TwoLayerNet with group= itself, got a {type(net).__name__} around it")
    return None


def shuffle_seed(ranks: Ranks) -> int:
    """The seed of torch's generator on rank 0, from which batches are shuffled on all of them."""
    seed = torch.initial_seed()
    here = torch.tensor([seed >> 32, seed & 0xFFFFFFFF], device=ranks.device)
    high, low = ranks.from_first(here).tolist()
    return (high << 32) + low


def environment(engine: str, net: nn.Module) -> dict[str, object]:
    """What decides bits besides the arguments."""
    return {
        "engine": engine,
        "device": next(net.parameters()).device.type,
        **{f"build_info: {name}": value for name, value in build_info().items() if name in _DECIDING},
    }


def check_shared(net: nn.Module, optimizer: Optimizer) -> None:
    """ValueError for what would not train a divided network as a whole one."""
    if type(net) is not TwoLayerNet or "forward" in vars(net):
        raise ValueError(f"fit: group= needs a TwoLayerNet as it is, got a {type(net).__name__} of its own")
    kind = type(optimizer)
    if kind.__name__ not in _ELEMENTWISE or kind is not getattr(torch.optim, kind.__name__):
        raise ValueError(
            f"fit: optimizer of a network with group= must update every number by itself, as {', '.join(_ELEMENTWISE)} "
            f"of torch.optim do; got {kind.__name__}"
        )


def agreed(ranks: Ranks, reason: str, *, called: bool) -> str:
    """Why all ranks stop after this step, or "finished" where none does.

    Args:
        ranks: All of them call, after the same step.
        reason: Of this rank.
        called: Whether callbacks were, on every rank alike: without them there is nothing to tell that the messages of
            the step have not told.
    """
    if called:
        facts = Facts()
        facts.count = _REASONS.index(reason)
        ranks.meet("fit", facts)
        reason = _REASONS[max(facts.counts)]
    return "interrupted" if ranks.asked else reason


def steps_between_looks(net: TwoLayerNet, samples: int) -> int:
    """How many steps are done without asking the other ranks whether to stop: by shapes, the width that of all."""
    products = float(samples) * net.width * net.weight.shape[1]
    step = _SECONDS_PER_STEP + _SECONDS_PER_PRODUCT * products
    return max(1, min(int(_SECONDS_BETWEEN_LOOKS / step), _MOST_STEPS_BETWEEN_LOOKS))


class SharedEngine(FusedEngine):
    """Full-batch steps in native code, one call each: the update, then the outputs of this rank's neurons after it.

    Args:
        ranks: Who shares the neurons, more than one.
        net, optimizer, rates, samples, watched: As for :class:`FusedEngine`.
    """

    def steps_at_once(self) -> int:
        """By shapes; one when somebody watches."""
        return 1 if self.watched else steps_between_looks(self.net, self.x.shape[0])

    def _take_samples(self) -> None:
        super()._take_samples()
        taken = (self.x, self.y, self.sample_weight, self.target_gradient)
        self.taken = [digest(value) for value in taken] if self.x.is_cpu else []  # nobody waits for a GPU

    def train(self, step: int, count: int, s: Tensor | None) -> Tensor:
        """Losses of the steps, float64, shape (steps done,), the same on every rank.

        The last message carries rank 0's losses. A rank that fails tells the others in the next message that they look
        at, on a GPU the last one; before that it gives NaN as its part of f, so that no rank does another update.
        """
        ranks, net = self.net.ranks, self.net
        assert ranks is not None
        here, failure, member, training = len(net.neurons), None, None, None
        part = math.sqrt(here / net.width)
        path = torch.full((count + 1,), float(net.s), dtype=torch.float64) if s is None else s
        losses = torch.full((1, count), torch.nan, dtype=torch.float64, device=self.x.device)
        done = torch.zeros(1, dtype=torch.int64, device=self.x.device)
        rates = torch.empty(0)

        def attempt(first: int, steps: int, present: bool, keep: bool) -> None:
            nonlocal failure
            if failure is None and member is not None:
                try:
                    last = first + steps
                    native.queue(
                        [member],
                        [rates[first:last]],
                        [path[first : last + 1]],
                        losses[:, first:last],
                        done,
                        [present],
                        keep,
                    )
                    self.f *= part
                except Exception as error:
                    failure = error
            if failure is not None or member is None:
                self.f.fill_(0.0 if failure is None else torch.nan)

        def message(value: Tensor, facts: Facts | None = None, looks: bool = True) -> Tensor:
            if looks and failure is not None:
                ranks.tell("fit", failure)
            return ranks.sum(value, facts, looks=looks)

        try:
            rates = self.rates_of(step, count)
            training = self.training()
            member = training.described() if here else None
        except Exception as error:
            failure = error
        if self.s_of_f != path[0].item():
            attempt(0, 0, False, True)
            facts = Facts()
            facts["samples"] = self.taken
            self.f.copy_(message(self.f, facts))
        keep = not self.watched
        for i in range(count):
            if member is not None and training is not None:
                member.updates = training.updates + i
            attempt(i, 1, True, keep or i + 1 < count)
            if i + 1 < count:
                self.f.copy_(message(self.f, looks=self.f.is_cpu))
        told = losses[0] if ranks.rank == 0 else torch.zeros_like(losses[0])
        if keep:
            every = message(torch.cat([self.f, told]))
            self.f.copy_(every[: self.f.numel()])
            every = every[self.f.numel() :].cpu()
        elif ranks.share(net.width, ranks.size - 1)[1]:  # all ranks have neurons, so they know the losses
            every = losses[0].cpu()
        else:
            every = message(told).cpu()
        if failure is not None:
            raise failure
        bad = (~every.isfinite()).nonzero()
        updates = count if len(bad) == 0 else int(bad[0])
        self.s_of_f = path[-1].item() if keep and updates == count else None
        self.count(updates)
        return every[: updates + 1]
