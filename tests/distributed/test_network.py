"""TwoLayerNet(group=): start, outputs, derivatives, s that keeps the function, ReLU twin, Gram matrices, state_dict."""

from __future__ import annotations

import copy
import io
import pickle
import warnings
from typing import Any

import pytest
import torch
from distributed.ranks import on_ranks, said

import hrta_ext as hx
from hrta_ext import groups

RANKS = 3
X = torch.linspace(-1.0, 1.0, 10, dtype=torch.float64).reshape(5, 2)
WIDTHS = (7, 4, 1)  # 3, 3 and 1 neurons; 2, 2 and none; 1 and twice none


def net_of(width: int, group: Any, base: str = "relu") -> hx.TwoLayerNet:
    return hx.TwoLayerNet(2, width, s=0.7, base=base, seed=4, draw="counter", group=group)


def numbers(group: Any) -> dict[str, Any]:
    """What a network gives, of every width."""
    torch.set_default_dtype(torch.float64)
    found: dict[str, Any] = {}
    for width in WIDTHS:
        net = net_of(width, group)
        with torch.no_grad():
            found[f"{width}: f"] = net(X)
            found[f"{width}: relu"] = net.to_relu()(X)
            net.set_s(1.4, keep_function=True)
            found[f"{width}: kept"] = net(X)
            found[f"{width}: kept relu"] = net.to_relu()(X)
        smooth = net_of(width, group, "tanh")
        jet = smooth.jet(X, second="hessian")
        found |= {f"{width}: jet {k}": part.detach() for k, part in enumerate(jet)}
        x = X.clone().requires_grad_()
        s = torch.tensor(0.7, requires_grad=True)
        del smooth._buffers["s"]
        smooth.s = s
        loss = (smooth(x).square() + smooth.jet(x).second).sum()
        first = torch.autograd.grad(loss, (x, s), create_graph=True)
        second = torch.autograd.grad(first[0].square().sum() + first[1] ** 2, (x, s))
        found |= {f"{width}: derivative {k}": value.detach() for k, value in enumerate((*first, *second))}
    net = net_of(7, group)
    found["gram"] = torch.stack(list(net.gram(X, [0.5, 1.5]).ntk))
    regression = hx.KernelRegression(network=net, ridge=1e-3).fit(X.numpy(), X[:, 0].numpy())
    found["regression"] = torch.as_tensor(regression.predict(X.numpy()[:2] + 0.1))
    return {name: value.tolist() for name, value in found.items()}


def on_each_rank() -> dict[str, Any]:
    torch.set_default_dtype(torch.float64)
    net = net_of(7, "world")
    state = net.state_dict()
    whole = {name: value.full_tensor() if hasattr(value, "full_tensor") else value for name, value in state.items()}
    other = net_of(7, "world")
    for parameter in other.parameters():
        torch.nn.init.zeros_(parameter)
    other.load_state_dict(state)
    from_whole = net_of(7, "world")
    torch.nn.init.zeros_(from_whole.weight)
    from_whole.load_state_dict(whole)
    alone = hx.TwoLayerNet(2, 7, seed=0)
    alone.load_state_dict(whole)
    before = torch.get_rng_state()
    net_of(7, "world")
    unseeded = hx.TwoLayerNet(2, 7, group="world")
    return {
        "numbers": numbers("world"),
        "neurons": (net.neurons.start, len(net.neurons)),
        "rows": net.weight.tolist(),
        "shapes": {name: tuple(value.shape) for name, value in state.items()},
        "loaded": [torch.equal(module.weight, net.weight) for module in (other, from_whole)],
        "alone": alone.weight.tolist(),
        "wrong": said(lambda: net.load_state_dict({**whole, "weight": whole["weight"][:3]})),
        "generator": torch.equal(before, torch.get_rng_state()) or net.ranks.rank == 0,
        "unseeded": unseeded(X).tolist(),
        "copied": copy.deepcopy(net)(X).tolist() == net(X).tolist(),
        "pickled": said(lambda: pickle.dump(net, io.BytesIO())),
        "traced": said(lambda: torch.func.vmap(net)(X[:, None])),
        "text": repr(net),
    }


@pytest.fixture(scope="module")
def answers() -> list[dict[str, Any]]:
    return on_ranks(RANKS, on_each_rank)


@pytest.fixture
def float64() -> Any:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def test_outputs_and_derivatives_are_those_of_one_process(answers: list[dict[str, Any]], float64: None):
    """f, jets, first and second derivatives in x and s, ReLU twins and Gram matrices; the same bits on every rank."""
    alone = numbers(None)
    for answer in answers:
        assert answer["numbers"] == answers[0]["numbers"]
        for name, value in alone.items():
            found = torch.tensor(answer["numbers"][name])
            torch.testing.assert_close(
                found, torch.tensor(value), rtol=1e-10, atol=1e-10, msg=lambda m, n=name: f"{n}: {m}"
            )


def test_the_start_is_a_stretch_of_the_counted_stream(answers: list[dict[str, Any]], float64: None):
    """Neuron k's numbers, whatever rank draws it, without torch's generator; seed=None takes one number of rank 0."""
    weight, _ = hx.random_weights(0, 7, 3, seed=4)
    for answer in answers:
        first, count = answer["neurons"]
        assert answer["rows"] == weight[first : first + count].tolist()
        assert answer["generator"]
        assert answer["unseeded"] == answers[0]["unseeded"]
    assert [answer["neurons"] for answer in answers] == [(0, 3), (3, 3), (6, 1)]
    assert hx.TwoLayerNet(2, 7, seed=4, draw="counter").weight.tolist() == weight.tolist()


def test_the_state_is_that_of_all_neurons(answers: list[dict[str, Any]], float64: None):
    """DTensors of the whole's shape, which load into ranks and, whole, into a network of one process, and back."""
    expected = {"s": (), "weight": (7, 3), "output_weight": (7,)}
    for answer in answers:
        assert answer["shapes"] == expected
        assert answer["loaded"] == [True, True]
        assert answer["alone"] == hx.random_weights(0, 7, 3, seed=4)[0].tolist()
        assert "weight must have shape (7, 3), that of all ranks' neurons together, got (3, 3)" in answer["wrong"]


def test_copies_and_refusals(answers: list[dict[str, Any]]):
    """A deep copy is divided by the same group; pickles and torch.func are refused in words."""
    for answer in answers:
        assert answer["copied"]
        assert "torch.distributed.checkpoint saves a state_dict" in answer["pickled"]
        assert "neither compiled nor traced nor transformed" in answer["traced"]
        assert answer["text"].endswith("ranks=3)")


def test_draw_and_group_of_one_process(monkeypatch: pytest.MonkeyPatch):
    """seed keeps torch's numbers; torchrun without a group warns, since each process would train it all."""
    generator = torch.Generator().manual_seed(4)
    assert torch.equal(hx.TwoLayerNet(2, 7, seed=4).weight, torch.randn(7, 3, generator=generator))
    torch.manual_seed(1)
    one = hx.TwoLayerNet(2, 7, draw="counter").weight
    torch.manual_seed(1)
    assert torch.equal(one, hx.TwoLayerNet(2, 7, draw="counter").weight)
    with pytest.raises(ValueError, match='draw must be "generator", "counter" or None'):
        hx.TwoLayerNet(2, 7, draw="philox")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(groups, "_warned", False)
    with pytest.warns(UserWarning, match="one of 2 processes"):
        hx.TwoLayerNet(2, 7, seed=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        hx.TwoLayerNet(2, 7, seed=0)
