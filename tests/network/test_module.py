"""The two-layer network against the sum over neurons, and its exact ReLU twin."""

from __future__ import annotations

import copy

import pytest
import torch
from cases import BASES, homotopy

import hrta_ext as hx


def by_hand(net: hx.TwoLayerNet, x: torch.Tensor) -> torch.Tensor:
    """m^(-1/2) sum_k a_k sigma_s(w_k . x), neuron by neuron in float64."""
    z = torch.cat([x, torch.ones(len(x), 1)], 1).double() if net.bias else x.double()
    total = torch.zeros(len(x), dtype=torch.float64)
    for w, a in zip(net.weight.detach().cpu().double(), net.output_weight.detach().cpu().double(), strict=True):
        total += a * homotopy(z @ w, net.s.item(), net.base)
    return total / net.width**0.5


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("n", "d", "m"), [(1, 1, 1), (5, 3, 33), (0, 2, 4), (129, 5, 257)])
def test_forward_is_the_sum_over_neurons(device: torch.device, base: str, bias: bool, n: int, d: int, m: int) -> None:
    net = hx.TwoLayerNet(d, m, s=1.3, base=base, bias=bias, seed=0)
    x = torch.randn(n, d, generator=torch.Generator().manual_seed(1))
    expected = by_hand(net, x)
    torch.testing.assert_close(net.to(device)(x.to(device)).cpu().double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("base", BASES)
def test_gradients(device: torch.device, base: str) -> None:
    net = hx.TwoLayerNet(2, 7, s=1.3, base=base, seed=0).double().to(device)
    x = torch.randn(5, 2, dtype=torch.float64, device=device, requires_grad=True)
    weights = (net.weight.detach().requires_grad_(), net.output_weight.detach().requires_grad_())

    def f(z: torch.Tensor, weight: torch.Tensor, output_weight: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(net, {"weight": weight, "output_weight": output_weight}, (z,))

    assert torch.autograd.gradcheck(f, (x, *weights))


@pytest.mark.parametrize("s", [0.0, 0.5, 1.0, 1.5, 2.0, -0.3])
@pytest.mark.parametrize("bias", [True, False])
def test_to_relu_is_exact(device: torch.device, s: float, bias: bool) -> None:
    """Remark 1 of the paper: same outputs to float64 rounding, of the sums over 1000 and 2000 neurons."""
    net = hx.TwoLayerNet(3, 1000, s=s, bias=bias, seed=0).double().to(device)
    x = torch.randn(50, 3, dtype=torch.float64, device=device)
    twin = net.to_relu()
    assert twin.width == 2000
    assert twin.s.item() == 1.0
    assert twin.bias is bias
    torch.testing.assert_close(twin(x), net(x), rtol=1e-13, atol=1e-13)
    assert not any(p.data_ptr() == q.data_ptr() for p in net.parameters() for q in twin.parameters())


def test_start_is_standard_normal_and_seeded() -> None:
    net, same, other = (hx.TwoLayerNet(3, 20_000, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(net.weight, same.weight)
    assert torch.equal(net.output_weight, same.output_weight)
    assert not torch.equal(net.weight, other.weight)
    for values in (net.weight, net.output_weight):
        spread = values.numel() ** -0.5
        assert abs(values.mean().item()) < 5 * spread
        assert abs(values.var().item() - 1) < 5 * 2**0.5 * spread
    before = torch.random.get_rng_state()
    hx.TwoLayerNet(1, 5, seed=3)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_shapes_names_and_state() -> None:
    net = hx.TwoLayerNet(3, 5, s=0.5, seed=0)
    assert net.weight.shape == (5, 4)
    assert net.output_weight.shape == (5,)
    assert set(net.state_dict()) == {"s", "weight", "output_weight"}
    twin = hx.TwoLayerNet(3, 5, seed=1)
    twin.load_state_dict(net.state_dict())
    x = torch.randn(4, 3)
    assert torch.equal(twin(x), net(x))
    assert torch.equal(copy.deepcopy(net)(x), net(x))


def test_with_bias_appends_ones() -> None:
    x = torch.arange(6.0).reshape(2, 3)
    assert torch.equal(hx.with_bias(x), torch.tensor([[0, 1, 2, 1], [3, 4, 5, 1]]).float())
    assert hx.with_bias(torch.zeros(2, 0, 3, dtype=torch.float64)).shape == (2, 0, 4)


def test_gram_is_that_of_the_weights() -> None:
    """The NTK from per-sample gradients of the module itself, float64, to 1e-12."""
    net = hx.TwoLayerNet(2, 30, s=1.5, seed=0).double()
    x = torch.randn(6, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    rows = [
        torch.cat([g.flatten() for g in torch.autograd.grad(net(sample[None])[0], list(net.parameters()))])
        for sample in x
    ]
    jacobian = torch.stack(rows)
    torch.testing.assert_close(net.gram(x).ntk, jacobian @ jacobian.T, rtol=1e-12, atol=1e-12)
    assert net.gram(x, [0.5, 1.0]).a.shape == (2, 6, 6)
