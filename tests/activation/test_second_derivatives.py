"""Piecewise bases: what is constant between the kinks has the derivative zero, as LeakyReLU says, never none."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from cases import Tagged, homotopy, spread
from torch import Tensor
from torch.autograd import grad, gradcheck, gradgradcheck

import hrta_ext as hx

S = 1.5
ROUTES: dict[str, Callable[[Tensor, str], Tensor]] = {
    "float s": lambda z, base: hx.homotopy(z, S, base),
    "tensor s": lambda z, base: hx.homotopy(z, torch.tensor(S, dtype=torch.float64), base),
    "s per feature": lambda z, base: hx.homotopy(z, torch.full(z.shape[-1:], S, dtype=z.dtype), base),
    "learned s": lambda z, base: hx.homotopy(z, torch.tensor(S, dtype=z.dtype, requires_grad=True), base),
    "module": lambda z, base: hx.HomotopyActivation(S, base)(z),
    "strides": lambda z, base: hx.homotopy(z.t(), S, base).t(),
    "in place": lambda z, base: hx.homotopy_(z.clone(), S, base),
    "in place, a view": lambda z, base: hx.homotopy_(z.clone()[:], S, base),
    "with slope": lambda z, base: hx.homotopy_value_and_slope(z, S, base)[0],
    "Function": lambda z, base: hx.HomotopyFunction.apply(z, S, base),
    "subclass": lambda z, base: hx.homotopy(z.as_subclass(Tagged), S, base).as_subclass(Tensor),
    "subclass, tensor s": lambda z, base: hx.homotopy(z.as_subclass(Tagged), torch.tensor(S), base).as_subclass(Tensor),
    "op": lambda z, base: torch.ops.hrta_ext.homotopy(
        z, torch.tensor(S, dtype=torch.float64), {"relu": 0, "relu2": 1}[base], 0
    ),
}


@pytest.mark.usefixtures("both_backends")
@pytest.mark.parametrize("route", ROUTES)
def test_a_relu_layer_gives_what_leaky_relu_gives(route: str) -> None:
    """u_xx, and an eikonal loss in every parameter before the layer: the bias gets zeros, the weight its gradient."""

    def residual(activation: Callable[[Tensor], Tensor]) -> list[Tensor]:
        torch.manual_seed(0)
        first, last = torch.nn.Linear(2, 8).double(), torch.nn.Linear(8, 1).double()
        x = torch.linspace(-1, 1, 10, dtype=torch.float64).reshape(5, 2).requires_grad_()
        (u_x,) = grad(last(activation(first(x))).sum(), x, create_graph=True)
        loss = ((u_x.norm(dim=1) - 1) ** 2).mean()
        found = grad(loss, [first.weight, first.bias, last.weight], retain_graph=True)
        return [u_x, *found, *grad(u_x.sum(), x)]

    found = residual(lambda z: ROUTES[route](z, "relu"))
    for one, other in zip(found, residual(torch.nn.LeakyReLU(1 - S)), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-13, atol=1e-15)
    assert torch.equal(found[-1], torch.zeros(5, 2, dtype=torch.float64))
    assert torch.equal(found[2], torch.zeros(8, dtype=torch.float64))


@pytest.mark.usefixtures("both_backends")
@pytest.mark.parametrize("route", ROUTES)
def test_the_third_derivative_of_relu_squared_is_zero(route: str) -> None:
    x = spread(torch.float64, 24).reshape(4, 6).requires_grad_()
    y = ROUTES[route](x, "relu2")
    for order in (1, 2):
        (y,) = grad(y.sum(), x, create_graph=True)
        torch.testing.assert_close(y, homotopy(x.detach(), S, "relu2", order), rtol=1e-14, atol=0)
    (third,) = grad(y.sum(), x)
    assert torch.equal(third, torch.zeros_like(third))


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("s", [S, torch.tensor([0.5, 1.5, 0.0]), torch.tensor(S, requires_grad=True)])
def test_a_derivative_that_is_constant_has_a_gradient_of_zero(order: int, s: float | Tensor) -> None:
    """homotopy(order=1) and (order=2), and the slope of the pair, alone in a loss; with a base of one's own too."""
    hx.register_base("hat", lambda z: z.clamp(-1, 1), lambda z: (z.abs() < 1).to(z.dtype), torch.zeros_like)
    for base in ("relu", "hat"):
        x = spread(torch.float32, 12).reshape(4, 3).requires_grad_()
        y = hx.homotopy(x, s, base, order=order)
        torch.testing.assert_close(y.detach(), hx.homotopy(x.detach(), s, base, order=order).detach())
        (g,) = grad(y.square().sum(), x, create_graph=True)
        assert torch.equal(g, torch.zeros_like(g))
        _, slope = hx.homotopy_value_and_slope(x, s, base)
        (g,) = grad(slope.sum(), x)
        assert torch.equal(g, torch.zeros_like(g))


@pytest.mark.usefixtures("both_backends")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_every_dtype_and_shape_leads_back_to_x(dtype: torch.dtype) -> None:
    """Sizes around the words of the mask, a scalar, nothing at all, and a layout that is not contiguous."""
    shapes = [(), (0,), (1,), (63,), (64,), (65,), (2, 3, 4, 5)]
    for shape in shapes:
        x = torch.randn(shape).to(dtype)
        x = (x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x).requires_grad_()
        direction = torch.randn(shape).to(dtype).requires_grad_()
        (g,) = grad(hx.homotopy(x, S), x, direction, create_graph=True)
        torch.testing.assert_close(g, torch.where(x > 0, direction, -0.5 * direction), rtol=1e-2, atol=1e-3)
        zero, linear = grad(g, (x, direction), torch.ones_like(g), create_graph=True)
        assert torch.equal(zero, torch.zeros_like(x))
        assert zero.dtype == dtype
        torch.testing.assert_close(linear, torch.where(x > 0, 1.0, -0.5).to(dtype))
        (third,) = grad(linear.sum(), x)
        assert torch.equal(third, torch.zeros_like(x))


@pytest.mark.usefixtures("both_backends")
@pytest.mark.parametrize("route", ["float s", "tensor s", "s per feature", "learned s", "in place"])
def test_gradcheck_and_gradgradcheck(route: str) -> None:
    x = torch.tensor([[-2.0, -0.3], [0.4, 3.0]], dtype=torch.float64, requires_grad=True)
    for base in ("relu", "relu2"):
        assert gradcheck(lambda z, b=base: ROUTES[route](z, b), x)
        assert gradgradcheck(lambda z, b=base: ROUTES[route](z, b), x)


@pytest.mark.usefixtures("both_backends")
def test_transforms_and_batched_gradients() -> None:
    """Hessians by torch.func, forward over a recorded backward, and torch.autograd's batched second derivative."""
    x = torch.tensor([-2.0, -0.3, 0.4, 3.0], dtype=torch.float64)
    zeros = torch.zeros(4, 4, dtype=torch.float64)
    for s in (S, torch.tensor(S, dtype=torch.float64)):

        def total(z: Tensor, s: float | Tensor = s) -> Tensor:
            return hx.homotopy(z, s).sum()

        assert torch.equal(torch.func.hessian(total)(x), zeros)
        assert torch.equal(torch.func.jacrev(torch.func.grad(total))(x), zeros)
        assert torch.equal(torch.func.jvp(torch.func.grad(total), (x,), (torch.ones_like(x),))[1], zeros[0])
        assert torch.equal(torch.autograd.functional.hessian(total, x), zeros)
        assert torch.equal(torch.autograd.functional.hessian(total, x, vectorize=True), zeros)
        assert torch.equal(torch.autograd.functional.hvp(total, x, torch.ones_like(x))[1], zeros[0])


def test_the_graph_frees_itself_and_keeps_little() -> None:
    """The way back to x costs no memory of x's size, and makes no cycle that only the garbage collector could free."""
    import gc
    import weakref

    x = torch.randn(1 << 18, requires_grad=True)  # more than torch's own node serves
    kept: list[int] = []
    gc.collect()
    gc.disable()
    try:
        with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.nbytes) or t.detach(), lambda t: t):
            for function, s in ((hx.homotopy, S), (hx.homotopy, torch.tensor(S)), (hx.homotopy_, S)):
                y = function(x * 1.0, s)
                node = weakref.ref(y.grad_fn)
                del y
                assert node() is None
    finally:
        gc.enable()
    assert sum(kept) <= 3 * (x.numel() + 16)  # a byte on the torch backend, a bit on the others


def test_checkpointing_recomputes_the_link_too() -> None:
    from torch.utils.checkpoint import checkpoint

    x = torch.randn(7, dtype=torch.float64, requires_grad=True)
    (g,) = grad(checkpoint(lambda z: hx.homotopy(z, S), x, use_reentrant=False).sum(), x, create_graph=True)
    assert torch.equal(g, torch.where(x > 0, 1.0, 1 - S))
    (zero,) = grad(g.sum(), x)
    assert torch.equal(zero, torch.zeros_like(x))
