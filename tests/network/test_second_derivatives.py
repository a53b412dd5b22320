"""u_xx and the like through the two-layer network: zeros where the base is piecewise linear, on every route."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from cases import Tagged
from torch import Tensor
from torch.autograd import grad

import hrta_ext as hx


def _plain(x: Tensor, weight: Tensor, output_weight: Tensor, s: float | Tensor, base: str) -> Tensor:
    """The network by torch's own leaky_relu or relu, of width m."""
    z = x @ weight.T
    value = (1 - s) * z + s * (torch.relu(z) if base == "relu" else torch.relu(z) ** 2 / 2)
    return value @ output_weight * len(output_weight) ** -0.5


ROUTES: dict[str, Callable[..., Tensor]] = {
    "two_layer": lambda x, w, a, s, base: hx.two_layer(x, w, a, s, base=base),
    "with gradient": lambda x, w, a, s, base: hx.two_layer_with_gradient(x, w, a, s, base=base)[0],
    "subclass": lambda x, w, a, s, base: hx.two_layer(x.as_subclass(Tagged), w, a, s, base=base).as_subclass(Tensor),
    "subclass, with gradient": lambda x, w, a, s, base: hx.two_layer_with_gradient(
        x.as_subclass(Tagged), w, a, s, base=base
    )[0].as_subclass(Tensor),
}


@pytest.mark.usefixtures("both_backends")
@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("learned", [False, True])
@pytest.mark.parametrize("base", ["relu", "relu2"])
@pytest.mark.parametrize("fixed", [False, True])
def test_derivatives_are_those_of_the_sum(route: str, learned: bool, base: str, fixed: bool) -> None:
    """u_x, u_xx and an eikonal loss in the parameters, against torch's own operations; with fixed weights too."""

    def residual(network: Callable[..., Tensor]) -> list[Tensor]:
        generator = torch.Generator().manual_seed(0)
        shapes = ((6, 2), (9, 2), (9,))
        x, w, a = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes)
        x.requires_grad_()
        w.requires_grad_(not fixed)
        a.requires_grad_(not fixed)
        s = torch.tensor(1.5, dtype=torch.float64, requires_grad=True) if learned else 1.5
        (u_x,) = grad(network(x, w, a, s, base).sum(), x, create_graph=True)
        loss = ((u_x.norm(dim=1) - 1) ** 2).mean()
        inputs = ([] if fixed else [w, a]) + ([s] if learned else [])
        found = grad(loss, inputs, retain_graph=True) if inputs else ()
        return [u_x, *found, *grad(u_x.sum(), x, materialize_grads=network is _plain)]

    found = residual(ROUTES[route])
    for one, other in zip(found, residual(_plain), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-12)
    if base == "relu":
        assert torch.equal(found[-1], torch.zeros_like(found[-1]))


@pytest.mark.usefixtures("both_backends")
def test_the_gradient_itself_has_derivatives_of_zero() -> None:
    """df/dx of the pair, for ReLU, and its own derivative, for ReLU squared."""
    x = torch.randn(5, 2, dtype=torch.float64, requires_grad=True)
    w, a = torch.randn(7, 2, dtype=torch.float64), torch.randn(7, dtype=torch.float64)
    for base, orders in (("relu", 1), ("relu2", 2)):
        _, y = hx.two_layer_with_gradient(x, w, a, 1.5, base=base)
        for _ in range(orders):
            (y,) = grad(y.sum(), x, create_graph=True)
        assert torch.equal(y, torch.zeros_like(y))


def test_a_module_and_transforms() -> None:
    net = hx.TwoLayerNet(2, 7, s=1.5, seed=0).double()
    x = torch.randn(5, 2, dtype=torch.float64)
    hessian = torch.func.hessian(lambda z: net(z).sum())(x)
    assert torch.equal(hessian, torch.zeros_like(hessian))
    assert torch.equal(torch.autograd.functional.hessian(lambda z: net(z).sum(), x), hessian)


def test_an_s_of_shape_1_in_a_network_and_its_training() -> None:
    """A module whose s was replaced, as a buffer or as a parameter, runs, trains and joins an ensemble."""
    x, y = torch.linspace(-1, 1, 8)[:, None], torch.linspace(0, 1, 8)
    results = []
    for shape in ((), (1,)):
        nets = [hx.TwoLayerNet(1, 6, seed=0) for _ in range(3)]
        for net in nets:
            net.s = torch.full(shape, 0.5, dtype=torch.float64)
        nets[0].s = torch.nn.Parameter(torch.full(shape, 0.5))
        nets[0](x).sum().backward()
        assert nets[0].s.grad.shape == shape
        assert "s=0.5" in repr(nets[0])
        torch.testing.assert_close(nets[1].to_relu()(x), nets[1](x))
        fused = hx.fit(nets[1], x, y, s=(0.5, 1.0), steps=(3, 3), engine="fused")
        plain = hx.fit(nets[2], x, y, s=(0.5, 1.0), steps=(3, 3), engine="torch")
        ensemble = [hx.TwoLayerNet(1, 6, seed=seed) for seed in (1, 2)]
        ensemble[0].s = torch.full(shape, 0.5, dtype=torch.float64)
        joined = hx.fit_ensemble(ensemble, x, y, s=(0.5, 1.0), steps=(3, 3))
        assert nets[1].s.shape == nets[2].s.shape == shape
        results.append([fused.loss, plain.loss, *(one.loss for one in joined), nets[1].gram(x).a, nets[0].s.grad.sum()])
    for one, other in zip(*results, strict=True):
        assert torch.equal(one, other)
