"""``use_backend`` is a matter of the thread and of the task, and what is recorded goes on with the backend it began."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor

import hrta_ext as hx
from hrta_ext.activation import native as activation_native
from hrta_ext.activation import reference as activation_reference
from hrta_ext.backends import asked_for
from hrta_ext.network import native as network_native
from hrta_ext.network import reference as network_reference

X = torch.linspace(-2, 2, 9, dtype=torch.float64)
NETWORK = torch.randn(5, 2), torch.randn(8, 2), torch.randn(8)
needs_cpp = pytest.mark.skipif(not hx.backends()["cpp"], reason="needs the compiled kernels")


def _spied(monkeypatch: pytest.MonkeyPatch, module: Any, names: tuple[str, ...]) -> list[str]:
    """Every call of these functions from now on, by name."""
    calls: list[str] = []
    for name in names:
        before = getattr(module, name)

        def spy(*arguments: Any, _before: Callable[..., Any] = before, _name: str = name, **named: Any) -> Any:
            calls.append(_name)
            return _before(*arguments, **named)

        monkeypatch.setattr(module, name, spy)
    return calls


def test_another_thread_sees_nothing_of_a_block() -> None:
    with hx.use_backend("torch"), ThreadPoolExecutor(1) as pool:
        assert asked_for() == "torch"
        assert pool.submit(asked_for).result() is None


@needs_cpp
def test_two_threads_with_a_backend_each() -> None:
    entered = threading.Barrier(2, timeout=30)

    def look(name: str) -> str | None:
        with hx.use_backend(name):
            entered.wait()
            seen = asked_for()
            entered.wait()
        assert asked_for() is None
        return seen

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(look, ("torch", "cpp"))) == ["torch", "cpp"]


@needs_cpp
def test_blocks_may_end_in_any_order() -> None:
    first, second = hx.use_backend("torch"), hx.use_backend("cpp")
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert asked_for() == "cpp"
    second.__exit__(None, None, None)
    assert asked_for() is None


def test_a_generator_that_is_dropped_leaves_nothing_behind() -> None:
    def inside() -> Iterator[str | None]:
        with hx.use_backend("torch"):
            yield asked_for()

    for close in (lambda g: g.close(), lambda g: ThreadPoolExecutor(1).submit(g.close).result()):
        generator = inside()
        assert next(generator) == "torch"
        close(generator)
        assert asked_for() is None


@needs_cpp
@pytest.mark.parametrize("base", ["relu", "gelu"])
@pytest.mark.parametrize("order", [1, 2])
def test_backward_goes_on_with_the_backend_of_forward(monkeypatch: pytest.MonkeyPatch, base: str, order: int) -> None:
    """In another thread, outside of the block, and inside of one that asks for another backend."""
    native = _spied(monkeypatch, activation_native, ("evaluate", "backward", "relu_mask_backward"))
    reference = _spied(monkeypatch, activation_reference, ("evaluate", "backward", "relu_mask_backward"))

    def differentiate(y: Tensor, x: Tensor) -> None:
        (grad,) = torch.autograd.grad(y.sum(), x, create_graph=order == 2)
        if order == 2 and grad.requires_grad:
            torch.autograd.grad(grad.sum(), x)

    for forward, other, wrong in (("torch", "cpp", native), ("cpp", "torch", reference)):
        x = X.clone().requires_grad_()
        with hx.use_backend(forward):
            y = hx.homotopy(x, torch.tensor(0.5), base)
        native.clear(), reference.clear()

        def elsewhere(y: Tensor = y, x: Tensor = x, other: str = other) -> None:
            with hx.use_backend(other):
                differentiate(y, x)

        with ThreadPoolExecutor(1) as pool:
            pool.submit(elsewhere).result()
        assert wrong == []
        assert native or reference


@needs_cpp
@pytest.mark.parametrize("through_the_op", [False, True])
def test_the_network_goes_on_with_the_backend_of_forward(monkeypatch: pytest.MonkeyPatch, through_the_op: bool) -> None:
    native = _spied(monkeypatch, network_native, ("outputs", "gradients"))
    reference = _spied(monkeypatch, network_reference, ("outputs", "gradients"))
    x, *weights = NETWORK
    for forward, other, wrong, right in (("torch", "cpp", native, reference), ("cpp", "torch", reference, native)):
        native.clear(), reference.clear()
        leaves = [t.clone().requires_grad_() for t in weights]
        with hx.use_backend(forward):
            if through_the_op:
                f = torch.ops.hrta_ext.two_layer(x, *leaves, torch.tensor(0.5, dtype=torch.float64), 2)
            else:
                f = hx.two_layer(x, *leaves, 0.5, base="tanh")
        with hx.use_backend(other), ThreadPoolExecutor(1) as pool:
            pool.submit(torch.autograd.grad, f.sum(), leaves).result()
        assert wrong == []
        assert set(right) == {"outputs", "gradients"}


@needs_cpp
def test_every_route_asks_for_the_same_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eager, torch.ops and torch.func."""
    x, weight, output_weight = NETWORK
    s = torch.tensor(0.5, dtype=torch.float64)
    native = _spied(monkeypatch, network_native, ("outputs",))
    reference = _spied(monkeypatch, network_reference, ("outputs",))
    routes: list[Callable[[], Any]] = [
        lambda: hx.two_layer(x, weight, output_weight, 0.5),
        lambda: torch.ops.hrta_ext.two_layer(x, weight, output_weight, s, 0),
        lambda: torch.ops.hrta_ext.two_layer_with_gradient(x, weight, output_weight, s, 0),
        lambda: torch.func.vmap(lambda w: hx.two_layer(x, w, output_weight, 0.5))(torch.stack([weight, weight])),
    ]
    for route in routes:
        native.clear(), reference.clear()
        with hx.use_backend("torch"):
            route()
        assert (len(native), len(reference) > 0) == (0, True)
        route()
        assert len(native) > 0
