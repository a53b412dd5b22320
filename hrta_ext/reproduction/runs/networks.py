"""The networks that the experiments compare with a two-layer network at a given s."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from hrta_ext import HomotopyActivation, TwoLayerNet, two_layer, with_bias


class ThreeLayerNet(nn.Module):
    """Two hidden layers of equal width in the NTK parametrisation, the paper's "multi layer" as this project reads it.

    f(x) = m^(-1/2) a . sigma_s(m^(-1/2) V sigma_s(W x)), all weights N(0, 1), a 1 appended to x.
    """

    def __init__(self, in_features: int, width: int, *, s: float = 1.0, base: str = "relu", seed: int = 0) -> None:
        super().__init__()
        self.activation = HomotopyActivation(s, base)
        generator = torch.Generator().manual_seed(seed)
        self.weight = nn.Parameter(torch.randn(width, in_features + 1, generator=generator))
        self.hidden_weight = nn.Parameter(torch.randn(width, width, generator=generator))
        self.output_weight = nn.Parameter(torch.randn(width, generator=generator))

    def forward(self, x: Tensor) -> Tensor:
        """x (n, d) -> (n,)."""
        scale = 1.0 / math.sqrt(len(self.output_weight))
        first = self.activation(with_bias(x) @ self.weight.T)
        second: Tensor = self.activation(scale * (first @ self.hidden_weight.T))
        return second @ (scale * self.output_weight)


class LearnedSNet(TwoLayerNet):
    """A two-layer network whose s is a parameter of the training, from s = 1 on."""

    def __init__(self, in_features: int, width: int, *, seed: int) -> None:
        super().__init__(in_features, width, seed=seed)
        start = self.s
        del self.s
        self.s = nn.Parameter(start.float())


class PReLUNet(TwoLayerNet):
    """A slope for negative z of its own for every neuron, learned, from 0.25 on (He et al. 2015).

    max(z, 0) + p min(z, 0) = p z + (1 - p) max(z, 0): a linear network and a ReLU network, neither of size n x m.
    """

    def __init__(self, in_features: int, width: int, *, seed: int) -> None:
        super().__init__(in_features, width, seed=seed)
        self.slope = nn.Parameter(torch.full((width,), 0.25))

    def forward(self, x: Tensor) -> Tensor:
        """x (n, d) -> (n,)."""
        samples = with_bias(x)
        linear = self.weight.T @ (self.output_weight * self.slope) / math.sqrt(self.width)
        return samples @ linear + two_layer(samples, self.weight, self.output_weight * (1.0 - self.slope))


class JagtapNet(TwoLayerNet):
    """ReLU(10 a z) with one a for the network, learned, from 1/10 on (Jagtap, Kawaguchi, Karniadakis 2020)."""

    FACTOR = 10.0

    def __init__(self, in_features: int, width: int, *, seed: int) -> None:
        super().__init__(in_features, width, seed=seed)
        self.scale = nn.Parameter(torch.tensor(1.0 / self.FACTOR))

    def forward(self, x: Tensor) -> Tensor:
        """x (n, d) -> (n,)."""
        return two_layer(with_bias(x), self.FACTOR * self.scale * self.weight, self.output_weight)


def make_network(kind: str, in_features: int, width: int, s: float, base: str, seed: int) -> nn.Module:
    """The network of one training: ``kind`` is "two_layer", "three_layer", "learned_s", "prelu" or "jagtap"."""
    if kind == "two_layer":
        return TwoLayerNet(in_features, width, s=s, base=base, seed=seed)
    if kind == "three_layer":
        return ThreeLayerNet(in_features, width, s=s, base=base, seed=seed)
    learned = {"learned_s": LearnedSNet, "prelu": PReLUNet, "jagtap": JagtapNet}[kind]
    if base != "relu" or s != 1.0:
        raise ValueError(f"make_network: {kind} starts from ReLU, got s = {s:g} and base {base!r}")
    net: nn.Module = learned(in_features, width, seed=seed)
    return net
