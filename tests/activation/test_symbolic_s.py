"""A number s that changes between calls of a compiled function: one graph for the first value, one for all others."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

import hrta_ext as hx

VALUES = (0.5, 0.6, 0.7, 1.5, 1.0, 0.0, -3.25, 2)
WEIGHT, OUTPUT_WEIGHT = torch.randn(7, 2, dtype=torch.float64), torch.randn(7, dtype=torch.float64)


def _bases(z: Tensor, s: float) -> Tensor:
    return hx.homotopy(z, s) + hx.homotopy(z, s, "tanh") + hx.homotopy(z, s, "gelu") + hx.homotopy(z, s, "sin")


def _orders(z: Tensor, s: float) -> Tensor:
    pair = hx.homotopy_value_and_slope(z, s, "relu")
    return sum(hx.homotopy(z, s, "relu2", order=order) for order in (1, 2)) + pair[0] * pair[1]


def _network(z: Tensor, s: float) -> Tensor:
    f, df_dx = hx.two_layer_with_gradient(z, WEIGHT, OUTPUT_WEIGHT, s, base="relu2")
    return f + df_dx.sum(-1) + hx.two_layer(z, WEIGHT, OUTPUT_WEIGHT, s)


def _transforms(z: Tensor, s: float) -> Tensor:
    """The gradient of ReLU is constant between the kinks, so it must still require grad."""
    return sum(torch.func.grad(lambda q, b=base: hx.homotopy(q, s, b).sum())(z) for base in ("relu", "tanh"))


CALLS: dict[str, Callable[[Tensor, float], Tensor]] = {
    "bases": _bases,
    "orders": _orders,
    "in place": lambda z, s: hx.homotopy_(z * 1.0, s),
    "network": _network,
    "transforms": _transforms,
    "computed": lambda z, s: hx.homotopy(z, 1.0 - 0.5 * s) + hx.homotopy(z.half(), s).double(),
}


@pytest.fixture(autouse=True)
def _fresh_compiler() -> None:
    torch._dynamo.reset()


def _compare(function: Callable[[Tensor, float], Tensor], compiler: str, dynamic: bool | None, s: tuple) -> int:
    """Values and gradients at every s are the eager ones; returns how many graphs were compiled."""
    counter = CompileCounterWithBackend(compiler)
    compiled = torch.compile(function, backend=counter, fullgraph=True, dynamic=dynamic)
    for value in s:
        x, twin = (torch.linspace(-2, 2, 12, dtype=torch.float64).reshape(6, 2).requires_grad_() for _ in range(2))
        y, expected = compiled(x, value), function(twin, value)
        torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-12)
        y.sum().backward()
        expected.sum().backward()
        torch.testing.assert_close(x.grad, twin.grad, rtol=1e-12, atol=1e-12)
    return counter.frame_count


@pytest.mark.parametrize("call", CALLS)
def test_two_graphs_serve_every_s(call: str) -> None:
    assert _compare(CALLS[call], "aot_eager", None, VALUES[:-1]) <= 2


def test_dynamic_graphs_serve_every_s() -> None:
    for call in ("bases", "network"):
        assert _compare(CALLS[call], "aot_eager", True, VALUES[:-1]) <= 2  # torch 2.11 needs the second


def test_a_base_of_ones_own() -> None:
    hx.register_base("cube", lambda t: t**3, lambda t: 3 * t * t, lambda t: 6 * t)
    function = lambda z, s: hx.homotopy(z, s, "cube") + hx.two_layer(z, WEIGHT, OUTPUT_WEIGHT, s, base="cube")[:, None]  # noqa: E731
    assert _compare(function, "aot_eager", None, VALUES[:4]) <= 2


def test_an_attribute_that_changes() -> None:
    """A module that keeps s as a number of its own, as one anneals it."""

    class Annealed(torch.nn.Module):
        s = 0.5

        def forward(self, z: Tensor) -> Tensor:
            return hx.homotopy(z, self.s)

    net, counter = Annealed(), CompileCounterWithBackend("aot_eager")
    compiled, x = torch.compile(net, backend=counter, fullgraph=True), torch.randn(5)
    for net.s in VALUES[:-1]:
        torch.testing.assert_close(compiled(x), torch.nn.functional.leaky_relu(x, 1.0 - net.s))
    assert counter.frame_count <= 2


def test_whole_numbers() -> None:
    """An int s is symbolic too, apart from 0 and 1, which Dynamo never makes so."""
    assert _compare(CALLS["in place"], "aot_eager", None, (2, 3, 4, 5)) <= 2


def test_what_is_not_finite_is_still_refused() -> None:
    """Also once the compiled graph takes any number: it is guarded by what x's dtype can hold."""
    compiled, x = torch.compile(lambda z, s: hx.homotopy(z, s), backend="eager"), torch.randn(3)
    for s in (0.5, 0.6, 0.7):
        compiled(x, s)
    for s in (float("inf"), float("nan"), 1e39, -1e39):
        with pytest.raises(ValueError, match="homotopy: s must be finite"):
            compiled(x, s)
    compiled(x.double(), 1e39)


def test_relu_itself_at_infinity() -> None:
    """A graph made for s = 1 alone is torch.relu, 0 at -inf, where the formula gives NaN."""
    compiled = torch.compile(lambda z: hx.homotopy(z, 1.0), backend="eager", fullgraph=True)
    assert compiled(torch.tensor([-float("inf")])).item() == 0.0


@pytest.mark.parametrize("strict", [False, True])
def test_export_of_a_number_read_from_a_tensor(strict: bool) -> None:
    """s = t.item() inside the program: any value of t may come later."""

    class Net(torch.nn.Module):
        def forward(self, z: Tensor, t: Tensor) -> Tensor:
            s = t.item()
            return hx.homotopy(z, s) + hx.homotopy(z, s, "tanh", order=1) + hx.two_layer(z, W, A, s)[:, None]

    global W, A
    W, A = WEIGHT.float(), OUTPUT_WEIGHT.float()
    x = torch.randn(5, 2)
    program = torch.export.export(Net(), (x, torch.tensor(0.5)), strict=strict).module()
    for s in (0.5, 1.0, -2.0):
        torch.testing.assert_close(program(x, torch.tensor(s)), Net()(x, torch.tensor(s)), rtol=1e-5, atol=1e-6)
