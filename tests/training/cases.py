"""The small problem that the tests of fit share: 12 samples of a sine, and networks in float64."""

import torch
from torch import nn

from hrta_ext.activation.modules import HomotopyActivation
from hrta_ext.network.module import TwoLayerNet

QUICK = {"s": (0.5, 1.5), "steps": (4, 6), "lr": 1e-2}


def net64(width: int = 9, seed: int = 0) -> TwoLayerNet:
    return TwoLayerNet(1, width, seed=seed).double()


def mlp(outputs: int = 1) -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(1, 7), HomotopyActivation(), nn.Linear(7, outputs)).double()
