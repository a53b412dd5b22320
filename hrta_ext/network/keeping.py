"""A change of s that leaves the function of a two-layer network as it is (docs/theory.md, section 1)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from hrta_ext.network.module import TwoLayerNet

_NEURONS_AT_ONCE = 1 << 20  # of sums in float64, whose temporaries stay small beside a wide network

Rest = tuple[Tensor, Tensor]  # what rounding left of output weights (m,), here with a group, and skip (D,), float64


def empty_rest(net: TwoLayerNet) -> Rest:
    """That of a network as it is."""
    none = torch.zeros((), dtype=torch.float64, device=net.output_weight.device)
    return none.repeat(net.output_weight.numel()), none.repeat(net.weight.shape[1])


@torch.no_grad()
def rescale(net: TwoLayerNet, then: float, rest: Rest | None = None) -> None:
    """Output weights and skip of s' = ``then`` in place of those of the present s, which the caller sets.

    Args:
        net: Weights that train on are whatever they are now.
        then: s'.
        rest: Added first, and updated, so that b = s a goes through many small changes of s without their roundings.
    Raises:
        ValueError: One s is 0, or there are no such weights; nothing is changed.
    """
    now = float(net.s)
    if now == then:
        return
    if now == 0.0 or then == 0.0:
        raise ValueError(
            "TwoLayerNet.set_s: keep_function=True needs an s other than 0 before and after, "
            f"got {now:g} and {then:g}: at s = 0 the network is linear, and no output weights make up for that"
        )
    if "output_weight" not in net._parameters:
        raise ValueError("TwoLayerNet.set_s: keep_function=True needs output_weight as a plain parameter")
    weights, outputs = net.weight.detach(), net.output_weight.detach()
    most, largest = torch.finfo(outputs.dtype).max, _largest(net, outputs)
    if largest * abs(now / then) > most:
        raise ValueError(f"TwoLayerNet.set_s: keep_function=True from s = {now:g} needs a larger s, got {then:g}")
    of_outputs, of_skip = empty_rest(net) if rest is None else rest
    linear = torch.zeros_like(of_skip)
    parts = (part.split(_NEURONS_AT_ONCE) for part in (weights, outputs, of_outputs))
    for w, a, rounded in zip(*parts, strict=True):
        before = a.double() + rounded
        exact = before * (now / then)
        a.copy_(exact)
        rounded.copy_(exact - a.double())
        linear += before @ w.double()
    if net.ranks is not None:
        linear = net.ranks.sum(linear)
    linear *= (1.0 - now / then) * net.width**-0.5
    if net.skip is None:
        with torch.inference_mode(False):
            net.skip = weights.new_zeros(weights.shape[1])
    skip = net.skip.double() + of_skip + linear
    net.skip.copy_(skip)
    of_skip.copy_(skip - net.skip.double())


def _largest(net: TwoLayerNet, outputs: Tensor) -> float:
    here = torch.linalg.vector_norm(outputs, torch.inf) if outputs.numel() else outputs.new_zeros(())
    every = [here] if net.ranks is None else net.ranks.gather(here)
    return float(torch.stack(every).max())
