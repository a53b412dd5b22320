"""The modules: what state they hold, how it is saved, copied and moved."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
from cases import BASES, spread

import hrta_ext as hx


def test_buffer_keeps_float64_through_every_change_of_dtype() -> None:
    """0.7 must stay 0.7: a float16 s would be another activation function."""
    layer = hx.HomotopyActivation(0.7)
    for change in (lambda m: m.half(), lambda m: m.to(torch.bfloat16), lambda m: m.float(), lambda m: m.double()):
        change(layer)
        assert layer.s.dtype == torch.float64
        assert layer.s.item() == 0.7


def test_learned_s_is_a_parameter_that_follows_the_dtype() -> None:
    layer = hx.HomotopyActivation(0.5, learnable=True, num_features=3)
    assert [name for name, _ in layer.named_parameters()] == ["s"]
    assert layer.s.shape == (3,)
    assert layer.double().s.dtype == torch.float64
    fixed = hx.HomotopyActivation(0.5)
    assert list(fixed.parameters()) == []


def test_state_dict_holds_s() -> None:
    saved = hx.HomotopyActivation(1.3).state_dict()
    assert list(saved) == ["s"]
    layer = hx.HomotopyActivation(0.5)
    layer.load_state_dict(saved)
    assert layer.s.item() == 1.3


def test_deepcopy_and_pickle_and_torch_save_keep_the_function() -> None:
    x = spread(torch.float32)
    for layer in (hx.HomotopyActivation(1.3, "gelu"), hx.HomotopyActivation(1.3, learnable=True)):
        twins = [copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))]
        buffer = io.BytesIO()
        torch.save(layer.state_dict(), buffer)
        buffer.seek(0)
        other = hx.HomotopyActivation(0.0, layer.base, learnable=isinstance(layer.s, torch.nn.Parameter))
        other.load_state_dict(torch.load(buffer, weights_only=True))
        for twin in (*twins, other):
            assert torch.equal(twin(x), layer(x))
            hx.set_homotopy(twin, 0.25)
            assert layer.s.item() == pytest.approx(1.3)


@pytest.mark.parametrize("base", BASES)
def test_module_is_the_function(device: torch.device, base: str) -> None:
    x = spread(torch.float32).to(device)
    assert torch.equal(hx.HomotopyActivation(1.5, base).to(device)(x), hx.homotopy(x, 1.5, base))
    wide = hx.HomotopyActivation(0.5, base, num_features=257).to(device)
    torch.testing.assert_close(wide(x), hx.homotopy(x, 0.5, base), rtol=1e-6, atol=1e-6)


def test_set_homotopy_reaches_every_layer_and_no_other() -> None:
    inner = torch.nn.Sequential(torch.nn.PReLU(), hx.HomotopyActivation(0.1))
    net = torch.nn.Sequential(inner, hx.HomotopyActivation(0.2, num_features=4), hx.TwoLayerNet(4, 3, s=0.3))
    slope = net[0][0].weight.clone()
    hx.set_homotopy(net, 0.9)
    assert [float(m.s.flatten()[-1]) for m in net.modules() if hasattr(m, "s")] == [0.9, 0.9, 0.9]
    assert torch.equal(net[0][0].weight, slope)


def test_learned_s_learns() -> None:
    """Plain gradient descent on s recovers the s that made the data: the loss is quadratic in s."""
    x = spread(torch.float64)
    layer = hx.HomotopyActivation(0.5, "tanh", learnable=True).double()
    target = hx.homotopy(x, 1.7, "tanh")
    curvature = (hx.homotopy(x, 1.0, "tanh") - x).square().sum()
    loss = (layer(x) - target).square().sum() / 2
    loss.backward()
    assert layer.s.grad is not None
    assert (layer.s - layer.s.grad / curvature).item() == pytest.approx(1.7, rel=1e-12)


def test_repr_says_what_it_is() -> None:
    assert repr(hx.HomotopyActivation(1.5, "gelu")) == "HomotopyActivation(s=1.5, base='gelu')"
    assert "learnable=True" in repr(hx.HomotopyActivation(1.5, learnable=True, num_features=7))
    assert repr(hx.TwoLayerNet(2, 5)) == "TwoLayerNet(in_features=2, width=5, s=1, base='relu', bias=True)"
