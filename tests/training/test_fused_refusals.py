"""What the native training refuses, and why, and that autograd takes over."""

from __future__ import annotations

import os
from functools import partial

import pytest
import torch
from torch import nn
from training.cases import problem

from hrta_ext import backends, register_base, use_backend
from hrta_ext.network.module import TwoLayerNet
from hrta_ext.training.fit import fit

FUSED = backends()["cpp"] and os.environ.get("HRTA_EXT_BACKEND") != "torch"
pytestmark = pytest.mark.skipif(not FUSED, reason="needs the compiled kernels")


class Subclass(TwoLayerNet):
    pass


def learnable() -> TwoLayerNet:
    net = TwoLayerNet(2, 9)
    del net._buffers["s"]
    net.s = nn.Parameter(torch.tensor(1.0))
    return net


def frozen() -> TwoLayerNet:
    net = TwoLayerNet(2, 9)
    net.weight.requires_grad_(False)
    return net


def hooked() -> TwoLayerNet:
    net = TwoLayerNet(2, 9)
    net.register_forward_hook(lambda *_: None)
    return net


def base_of_your_own() -> TwoLayerNet:
    register_base("cube of the fused engine", lambda z: z**3, lambda z: 3 * z**2, lambda z: 6 * z)
    return TwoLayerNet(2, 9, base="cube of the fused engine")


REFUSALS = [
    ({"net": base_of_your_own}, "it does not know 'cube of the fused engine', a base of your own"),
    ({"net": lambda: Subclass(2, 9)}, "it trains a TwoLayerNet, net is a Subclass"),
    ({"net": learnable}, "it cannot learn s"),
    ({"net": frozen}, "weight and output_weight must both be parameters that require grad"),
    ({"net": hooked}, "net has hooks, which it would not call"),
    ({"batch_size": 5}, r"it takes all samples at once \(batch_size=None\)"),
    ({"optimizer": torch.optim.AdamW}, 'it knows the optimizers "adam", "sgd" and "gd", not AdamW'),
    ({"optimizer": partial(torch.optim.Adam, amsgrad=True)}, "the optimizer has amsgrad=True, which it does not know"),
    ({"optimizer": partial(torch.optim.SGD, weight_decay=0.1)}, "the optimizer has weight_decay=0.1"),
    ({"optimizer": partial(torch.optim.SGD, momentum=0.9, nesterov=True)}, "the optimizer has nesterov=True"),
]


@pytest.mark.parametrize(("change", "reason"), REFUSALS)
def test_fused_says_why_it_does_not_serve_and_auto_goes_on_with_torch(change, reason: str) -> None:
    x, y = problem(20, 2, torch.float32)
    change = dict(change)
    make = change.pop("net", lambda: TwoLayerNet(2, 9))
    net = make()
    before = [p.detach().clone() for p in net.parameters()]
    with pytest.raises(ValueError, match=f'fit: engine "fused" does not serve this call: {reason}'):
        fit(net, x, y, s=1.0, steps=2, engine="fused", **change)
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), before, strict=True))
    assert fit(make(), x, y, s=1.0, steps=2, **change).engine == "torch"


def test_auto_takes_the_native_code_and_the_torch_backend_is_respected() -> None:
    x, y = problem(20, 2, torch.float32)
    assert fit(TwoLayerNet(2, 9), x, y, s=1.0, steps=2).engine == "fused"
    with use_backend("torch"):
        assert fit(TwoLayerNet(2, 9), x, y, s=1.0, steps=2).engine == "torch"
        with pytest.raises(ValueError, match="the compiled kernels do not serve a net on cpu"):
            fit(TwoLayerNet(2, 9), x, y, s=1.0, steps=2, engine="fused")


def test_wrong_shapes_are_named() -> None:
    x, y = problem(20, 3, torch.float32)
    with pytest.raises(ValueError, match=r"x and y must have shapes \(20, 2\) and \(20,\), they have \(20, 3\)"):
        fit(TwoLayerNet(2, 9), x, y, s=1.0, steps=2, engine="fused")


@pytest.mark.skipif(not backends()["cuda"], reason="needs a GPU")
def test_many_features_on_a_gpu_go_to_autograd() -> None:
    x, y = problem(20, 64, torch.float32)
    net = TwoLayerNet(64, 10, seed=0).cuda()
    with pytest.raises(ValueError, match="on a GPU it takes at most 64 features, the bias included, net has 65"):
        fit(net, x.cuda(), y.cuda(), s=1.0, steps=1, engine="fused")
    assert fit(net, x.cuda(), y.cuda(), s=1.0, steps=1).engine == "torch"
