"""Training a share of the neurons on a GPU (csrc/training/cuda), emulated: f on entry is the sum over all shares."""

from __future__ import annotations

import ctypes
from typing import Any

import pytest
import torch
from emulated import Guarded, address, emulated
from torch import Tensor
from torch.optim import SGD

import hrta_ext as hx
from hrta_ext.bases import BASES
from hrta_ext.compiled import KINDS
from hrta_ext.training.data import Samples
from hrta_ext.training.losses import training_loss

STEPS, RATE, S = 12, 1e-2, 0.7


def call(kernels: Any, samples: Samples, base: str, weights: list[Tensor], width: int, f: Tensor, steps: int) -> Tensor:
    """No steps: what a share gives by itself, to ``f``; one step: its loss, from the sum in ``f``, and then that."""
    x = hx.with_bias(samples.x)
    sizes = torch.tensor([*x.shape, len(weights[0]), samples.x.shape[1], width])
    rates, loss = torch.full((steps,), RATE, dtype=torch.float64), torch.zeros(steps, dtype=torch.float64)
    done, s = torch.tensor(0), torch.full((steps + 1,), S, dtype=torch.float64)
    fixed = [KINDS[x.dtype], BASES[base].number, 0, address(sizes), address(x), address(samples.y)]
    fixed += [address(t) for t in (samples.sample_weight, samples.target_gradient, *weights)]
    fixed += [(ctypes.c_void_p * 4)(), address(torch.zeros(3, dtype=torch.float64)), ctypes.c_int64(0), address(f)]
    fixed += [ctypes.c_int64(steps), address(rates), address(s), address(loss), address(done), steps, 1]
    scratch = Guarded((kernels.two_layer_train(*fixed, None) // 8 + 1,), torch.float64, off=1)
    kernels.two_layer_train(*fixed, address(scratch.result))
    scratch.checked()
    return loss


@pytest.mark.parametrize(("base", "gradient"), [("relu", False), ("tanh", True)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_shares_train_as_the_whole(base: str, gradient: bool, dtype: torch.dtype):
    """Small networks and arcs, which know no outputs but those of their own neurons, must not serve a share."""
    kernels = emulated("network.cpp")
    kernels.two_layer_train.restype = ctypes.c_int64
    x = torch.linspace(-1.0, 1.0, 15, dtype=dtype)[:, None]
    samples = Samples(x, torch.sin(3.0 * x[:, 0]), x[:, 0] + 2.0, 3.0 * torch.cos(3.0 * x) if gradient else None)
    net = hx.TwoLayerNet(1, 70, s=S, base=base, seed=0).to(dtype)
    whole = [net.weight.detach().clone(), net.output_weight.detach().clone()]
    shares = [[w[part].clone() for w in whole] for part in (slice(0, 40), slice(40, 70))]
    entries = len(x) * (3 if gradient else 1)
    parts = [torch.zeros(entries, dtype=torch.float64) for _ in shares]

    def together() -> None:
        """Every share gets the sum."""
        total = sum(part * (len(share[0]) / 70) ** 0.5 for part, share in zip(parts, shares, strict=True))
        for part in parts:
            part.copy_(total)

    optimizer = SGD(net.parameters(), lr=RATE)
    for part, share in zip(parts, shares, strict=True):
        call(kernels, samples, base, share, 70, part, 0)
    for _ in range(STEPS):
        together()
        found = [call(kernels, samples, base, share, 70, part, 1) for part, share in zip(parts, shares, strict=True)]
        optimizer.zero_grad()
        loss = training_loss(net, samples)
        loss.backward()
        optimizer.step()
        assert torch.equal(found[0], found[1])
        torch.testing.assert_close(
            found[0][0], loss.detach().double(), rtol=1e-5 if dtype == torch.float32 else 1e-10, atol=0.0
        )
    tolerance = 1e-5 if dtype == torch.float32 else 1e-10
    joined = torch.cat([share[0] for share in shares])
    torch.testing.assert_close(joined, net.weight.detach(), rtol=tolerance, atol=tolerance)
