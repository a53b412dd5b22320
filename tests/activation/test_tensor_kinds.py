"""What is no ordinary tensor: proxies of torch.fx, nested, meta and inference tensors, and an s of shape (1,)."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from cases import BASES, homotopy
from torch import Tensor, nn
from torch.nn.utils import parametrize

import hrta_ext as hx

X = torch.linspace(-2, 2, 10).reshape(5, 2)
WEIGHT, OUTPUT_WEIGHT = torch.randn(7, 2), torch.randn(7)
CALLS: dict[str, Callable[..., Tensor]] = {
    "value": lambda z, s: hx.homotopy(z, s, "tanh"),
    "derivative": lambda z, s: hx.homotopy(z, s, "gelu", order=1),
    "pair": lambda z, s: hx.homotopy_value_and_slope(z, s)[0] + hx.homotopy_value_and_slope(z, s)[1],
    "in place": lambda z, s: hx.homotopy_(z * 1.0, s),
    "Function": lambda z, s: hx.HomotopyFunction.apply(z, s),
    "network": lambda z, s: hx.two_layer(z, WEIGHT, OUTPUT_WEIGHT, s),
    "network and gradient": lambda z, s: hx.two_layer_with_gradient(z, WEIGHT, OUTPUT_WEIGHT, s, base="relu2")[1],
}


def _net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(2, 3), hx.HomotopyActivation(1.5), hx.TwoLayerNet(3, 4, s=0.5, seed=0))


@pytest.mark.parametrize("call", [name for name in CALLS if name != "Function"])
def test_symbolic_trace_records_one_call(call: str) -> None:
    traced = torch.fx.symbolic_trace(lambda z: CALLS[call](z, 0.5))
    assert torch.equal(traced(X), CALLS[call](X, 0.5))
    by_s = torch.fx.symbolic_trace(lambda s: CALLS[call](X, s))
    assert torch.equal(by_s(torch.tensor(0.5)), CALLS[call](X, torch.tensor(0.5)))


def test_a_traced_network_is_the_network() -> None:
    """Copied, pickled, traced again; its s is the module's buffer, so that a new value reaches it."""
    net = _net()
    traced = torch.fx.symbolic_trace(net)
    for twin in (traced, copy.deepcopy(traced), pickle.loads(pickle.dumps(traced)), torch.fx.symbolic_trace(traced)):
        assert torch.equal(twin(X), net(X))
    hx.set_homotopy(net, 0.25)
    assert torch.equal(traced(X), net(X))


def test_a_stand_in_is_asked_once_and_others_are_still_refused() -> None:
    class Quantity:
        """Speaks for a tensor by torch's protocol, and is none."""

        @classmethod
        def __torch_function__(cls, function, types, arguments=(), named=None):  # type: ignore[no-untyped-def]
            return function.__name__, arguments[1:], named

    assert hx.homotopy(Quantity(), 0.5, "tanh", order=1) == ("homotopy", (0.5, "tanh"), {"order": 1})
    with pytest.raises(TypeError, match="homotopy: x must be a tensor, got list"):
        hx.homotopy([1.0], 0.5)
    with pytest.raises(TypeError, match="TwoLayerNet: x must be a tensor, got list"):
        hx.TwoLayerNet(1, 2)([1.0])


@pytest.mark.parametrize("base", BASES)
def test_jagged_tensors(base: str) -> None:
    """Values and gradients are those of the rows, one below another; every kind of s."""
    rows = [torch.randn(count, 2, dtype=torch.float64) for count in (1, 3, 0)]
    for s in (0.5, 1.0, torch.tensor([1.5]), torch.tensor([0.5, 1.5], dtype=torch.float64)):
        for order in (0, 1, 2):
            nested = torch.nested.nested_tensor(rows, layout=torch.jagged, requires_grad=True)
            y = hx.homotopy(nested, s, base, order=order)
            assert y.is_nested
            expected = homotopy(torch.cat(rows), s, base, order)
            torch.testing.assert_close(y.values(), expected, rtol=1e-12, atol=1e-12)
            if order < 2:
                (g,) = torch.autograd.grad(y.values().sum(), nested)
                expected = homotopy(torch.cat(rows), s, base, order + 1).expand(4, 2)
                torch.testing.assert_close(g.values(), expected, rtol=1e-12, atol=1e-12)
        in_place = torch.nested.nested_tensor(rows, layout=torch.jagged)
        assert hx.homotopy_(in_place, s, base) is in_place
        torch.testing.assert_close(in_place.values(), homotopy(torch.cat(rows), s, base), rtol=1e-12, atol=1e-12)


def test_nested_tensors_that_are_refused() -> None:
    jagged = torch.nested.nested_tensor([X, X[:2]], layout=torch.jagged)
    with pytest.raises(TypeError, match=r"^two_layer: x must be a dense \(strided\) tensor, got layout torch.jagged$"):
        hx.two_layer(jagged, WEIGHT, OUTPUT_WEIGHT)
    with pytest.raises(ValueError, match=r"^homotopy: s must have shape \(\), \(1,\) or \(2,\)"):
        hx.homotopy(jagged, torch.ones(3))
    older = torch.nested.nested_tensor([X, X[:2]]).transpose(1, 2)
    with pytest.raises(TypeError, match=r"got a nested tensor, whose layout must be torch.jagged, not torch.strided"):
        hx.homotopy(older, 0.5)


def test_meta_and_fake_networks_run_and_can_be_printed() -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    with torch.device("meta"):
        net = nn.Sequential(_net(), hx.HomotopyActivation(0.5, num_features=4, learnable=True))
    assert repr(net).count("s=?") == 2
    assert "s=<4 values>" in repr(net)
    assert net[0](X.to("meta")).shape == (5,)
    for call in (CALLS[name] for name in CALLS if "network" not in name):
        for s in (0.5, torch.empty((), device="meta"), torch.empty(1, device="meta")):
            y = call(X.to("meta"), s)
            assert y.is_meta
            assert y.shape == call(X, 0.5).shape
    with FakeTensorMode():
        fake = _net()
        assert repr(fake).count("s=?") == 2
        assert fake(torch.empty(6, 2)).shape == (6,)


def test_inference_tensors_are_overwritten_in_inference_mode_alone() -> None:
    with torch.inference_mode():
        x = X.clone()
        assert torch.equal(hx.homotopy_(x, 1.5), hx.homotopy(X, 1.5))
    for s in (1.5, torch.tensor(1.5, requires_grad=True)):
        for view in (x, x[1:], x.t()):
            with pytest.raises(RuntimeError, match=r"^homotopy_: x is an inference tensor"):
                hx.homotopy_(view, s)
    assert torch.equal(x, hx.homotopy(X, 1.5))
    assert torch.equal(hx.homotopy(x, 0.5), hx.homotopy(x.clone(), 0.5))
    with torch.inference_mode():
        ordinary = torch.nn.functional.leaky_relu_(X.clone(), -0.5)
    assert torch.equal(ordinary, x)


@pytest.mark.parametrize("s", [1.5, torch.tensor(1.5), torch.tensor([0.5, 1.5]), torch.tensor(1.5, requires_grad=True)])
def test_what_autograd_forbids_to_overwrite_is_left_as_it_was(s: float | Tensor) -> None:
    """Views of a leaf, and one of several views that a call returned: torch's own error, before anything is written."""
    leaf = X.clone().requires_grad_()
    whole = leaf * 1.0
    for view in (leaf[:], leaf[1:], whole.split(2)[0], whole.unbind()[1]):
        with pytest.raises(RuntimeError, match=r"in-?place"):
            hx.homotopy_(view, s)
    assert torch.equal(leaf, X)
    assert torch.equal(whole, X)


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_one_s_of_shape_1_is_one_s(call: str, dtype: torch.dtype) -> None:
    """Whatever the width; values, and the gradient in its own shape and dtype; under transforms too."""
    zero, one = (torch.full(shape, 1.3, dtype=dtype, requires_grad=True) for shape in ((), (1,)))
    y, expected = CALLS[call](X, one), CALLS[call](X, zero)
    assert torch.equal(y, expected)
    (g,), (expected,) = torch.autograd.grad(y.sum(), one), torch.autograd.grad(expected.sum(), zero)
    assert g.shape == (1,)
    assert g.dtype == dtype
    assert torch.equal(g[0], expected)
    assert torch.equal(CALLS[call](X, one.detach()), CALLS[call](X, zero.detach()))
    if call not in ("Function", "in place"):  # vmap itself refuses to write a batch into one tensor
        batch = torch.tensor([[0.5], [1.5]], dtype=dtype)
        found = torch.func.vmap(lambda s: CALLS[call](X, s))(batch)
        torch.testing.assert_close(found, torch.stack([CALLS[call](X, s) for s in batch]))


def test_a_module_with_one_s_of_shape_1() -> None:
    """It serves every width, and scalars; checkpoints of either shape load into the other."""
    layer = hx.HomotopyActivation(1.5, learnable=True, num_features=1)
    assert layer.s.shape == (1,)
    assert repr(layer) == "HomotopyActivation(s=1.5, base='relu', learnable=True)"
    for x in (X, torch.randn(4, 7), torch.tensor(-1.0), torch.randn(0, 3)):
        assert torch.equal(layer(x), hx.homotopy(x, 1.5))
    older = hx.HomotopyActivation(0.25, learnable=True)
    assert older.s.shape == ()
    layer.load_state_dict(older.state_dict())
    assert layer.s.tolist() == [0.25]
    hx.set_homotopy(layer, 0.75)
    older.load_state_dict(layer.state_dict())
    assert older.s.tolist() == 0.75
    with pytest.raises(RuntimeError, match="size mismatch for s"):
        layer.load_state_dict(hx.HomotopyActivation(0.5, learnable=True, num_features=3).state_dict())


def test_setting_a_parametrized_s() -> None:
    """self.s is computed anew then: filling it would change nothing and say nothing."""

    class Doubled(nn.Module):
        def forward(self, value: Tensor) -> Tensor:
            return 2.0 * value

        def right_inverse(self, value: Tensor) -> Tensor:
            return value / 2.0

    layer = hx.HomotopyActivation(0.5, learnable=True)
    parametrize.register_parametrization(layer, "s", Doubled())
    hx.set_homotopy(layer, 0.25)
    assert layer.s.item() == 0.25
    layer(X).sum().backward()
    assert layer.parametrizations.s.original.grad is not None


def test_swapped_parameters_keep_s() -> None:
    """torch's newer way of .to(), which swaps the tensors, changes no fixed s either."""
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        net = _net().double()
    finally:
        torch.__future__.set_swap_module_params_on_conversion(False)
    assert [float(layer.s) for layer in (net[1], net[2])] == [1.5, 0.5]
    assert net(X.double()).dtype == torch.float64


def test_fully_sharded_training_with_a_learned_s(tmp_path) -> None:  # type: ignore[no-untyped-def]
    """FSDP2 refuses 0-dim parameters; s of shape (1,) is sharded, trained, set and printed."""
    distributed = pytest.importorskip("torch.distributed")
    if not distributed.is_available() or not distributed.is_gloo_available() or distributed.is_initialized():
        pytest.skip("needs gloo")
    from torch.distributed.fsdp import fully_shard

    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        net = nn.Sequential(
            nn.Linear(2, 3), hx.HomotopyActivation(1.5, learnable=True, num_features=1), nn.Linear(3, 1)
        )
        twin = copy.deepcopy(net)
        mesh = torch.distributed.init_device_mesh("cpu", (1,))
        fully_shard(net, mesh=mesh)
        optimizer, other = (torch.optim.SGD(n.parameters(), lr=0.1) for n in (net, twin))
        for _ in range(2):
            loss, expected = net(X).square().mean(), twin(X).square().mean()
            torch.testing.assert_close(loss, expected)
            loss.backward()
            expected.backward()
            optimizer.step()
            other.step()
        torch.testing.assert_close(net[1].s.full_tensor(), twin[1].s)
        assert "s=?" in repr(net)  # its value is spread over processes, which printing must not wait for
        hx.set_homotopy(net, 0.5)
        assert net[1].s.full_tensor().item() == 0.5
    finally:
        distributed.destroy_process_group()
