"""A change of s that leaves the function as it is: rescaled weights, the skip, what knows of it, what refuses."""

import copy
import io

import pytest
import torch
from cases import BASES
from torch import Tensor, nn

import hrta_ext as hx


def net_of(base: str = "relu", s: float = 0.5, dtype: torch.dtype = torch.float64, bias: bool = True) -> hx.TwoLayerNet:
    return hx.TwoLayerNet(3, 1000, s=s, base=base, bias=bias, seed=0).to(dtype)


def points(dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(50, 3, dtype=dtype, generator=torch.Generator().manual_seed(1))


def size(net: hx.TwoLayerNet, x: Tensor) -> float:
    """m^(-1/2) sum |a_k| |w_k| |x|, at the largest |x|: what rounding errors are relative to."""
    sums = (net.output_weight.detach().abs() * net.weight.norm(dim=1)).sum() / net.width**0.5
    return float(sums.detach() * hx.with_bias(x).norm(dim=1).max())


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-15), (torch.float32, 1e-6)])
@pytest.mark.parametrize("path", [(0.5, 1.0), (1.0, 1.5, 0.7), (-0.3, 2.0)])
def test_the_function_stays(base: str, dtype: torch.dtype, tolerance: float, path: tuple[float, ...]) -> None:
    net, x = net_of(base, path[0], dtype), points(dtype)
    before, scale = net(x).detach(), size(net, x)
    for s in path[1:]:
        net.set_s(s, keep_function=True)
    assert net.s.item() == path[-1]
    assert net.skip is not None
    assert (net(x) - before).abs().max() <= tolerance * scale
    ratio = path[0] / path[-1]
    torch.testing.assert_close(net.output_weight, net_of(base, dtype=dtype).output_weight * ratio, rtol=3e-7, atol=0.0)


def test_the_skip_is_the_linear_rest() -> None:
    """c = (1 - s / s') m^(-1/2) sum_k a_k w_k, of the output weights before."""
    net = net_of(bias=False)
    expected = (1 - 0.5 / 1.25) * (net.output_weight @ net.weight) / 1000**0.5
    net.set_s(1.25, keep_function=True)
    torch.testing.assert_close(net.skip, expected.detach(), rtol=1e-12, atol=1e-14)


def test_no_change_of_s_leaves_no_skip() -> None:
    net = net_of()
    net.set_s(0.5, keep_function=True)
    assert net.skip is None
    net.set_s(1.0)
    assert net.skip is None
    assert set(net.state_dict()) == {"s", "weight", "output_weight"}


@pytest.mark.parametrize(("now", "then"), [(0.0, 1.0), (1.0, 0.0)])
def test_no_weights_keep_the_function_at_zero(now: float, then: float) -> None:
    net = net_of(s=now)
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(ValueError, match="needs an s other than 0 before and after"):
        net.set_s(then, keep_function=True)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


@pytest.mark.parametrize("bias", [True, False])
def test_to_relu_takes_one_more_pair(bias: bool) -> None:
    net, x = net_of(bias=bias), points()
    net.set_s(1.5, keep_function=True)
    twin = net.to_relu()
    assert (twin.width, twin.s.item(), twin.skip) == (2002, 1.0, None)
    torch.testing.assert_close(twin(x), net(x), rtol=1e-13, atol=1e-13)


def test_states_carry_the_skip_or_none() -> None:
    net, x = net_of(), points()
    net.set_s(1.5, keep_function=True)
    file = io.BytesIO()
    torch.save(net.state_dict(), file)
    file.seek(0)
    other = hx.TwoLayerNet(3, 1000, seed=1).double()
    other.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(other(x), net(x))
    other.load_state_dict(net_of().state_dict())
    assert other.skip is None
    assert torch.equal(other(x), net_of()(x))
    assert net.float().skip.dtype == torch.float32


def test_gradients_and_a_trained_skip() -> None:
    """The skip is a buffer, and may be made a parameter of the training."""
    net, x = net_of(), points()[:4]
    net.set_s(1.5, keep_function=True)
    assert [name for name, _ in net.named_parameters()] == ["weight", "output_weight"]
    net.skip = nn.Parameter(net.skip)
    assert [name for name, _ in net.named_parameters()] == ["weight", "output_weight", "skip"]
    (gradient,) = torch.autograd.grad(net(x).sum(), net.skip)
    torch.testing.assert_close(gradient, hx.with_bias(x).sum(0))
    assert "skip" in dict(copy.deepcopy(net).named_parameters())


def test_loading_a_part_leaves_the_skip() -> None:
    net, x = net_of(), points()
    net.set_s(1.5, keep_function=True)
    before = net(x).detach()
    net.load_state_dict({"s": net.s.clone()}, strict=False)
    assert torch.equal(net(x), before)


def test_in_inference_mode() -> None:
    """The skip outlives the block, and changes again outside."""
    net, x = net_of(), points()
    before = net(x).detach()
    with torch.inference_mode():
        net.set_s(1.5, keep_function=True)
    net.set_s(0.7, keep_function=True)
    torch.testing.assert_close(net(x), before, rtol=1e-12, atol=1e-12)


def test_what_it_cannot_do_changes_nothing() -> None:
    """Output weights beyond their dtype, or computed anew on every call."""
    net, x = net_of(dtype=torch.float32), points(torch.float32)
    before = net(x).detach()
    with pytest.raises(ValueError, match="needs a larger s, got 1e-40"):
        net.set_s(1e-40, keep_function=True)
    nn.utils.parametrize.register_parametrization(net, "output_weight", nn.Identity())
    with pytest.raises(ValueError, match="needs output_weight as a plain parameter"):
        net.set_s(1.5, keep_function=True)
    assert torch.equal(net(x), before)
    assert net.s.item() == 0.5
