"""``fit`` with losses of the user's own: what it refuses, and in which words."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import hrta_ext as hx
from hrta_ext.training.fit import fit
from hrta_ext.training.terms import Term

POINTS = torch.rand(12, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def square_net(base: str = "tanh", width: int = 6) -> hx.TwoLayerNet:
    return hx.TwoLayerNet(2, width, base=base, seed=0).double()


def draw(k: int) -> Tensor:
    return POINTS + k


def square(u: Any, x: Tensor) -> Tensor:
    return u.value.square()


BAD_LOSSES = [
    (lambda u, x: u.value.square().mean(), ValueError, r"pointwise values, shape \(12,\), term 'loss' gave \(\)"),
    (lambda u, x: u.value[:, None], ValueError, r"gave \(12, 1\)"),
    (lambda u, x: 1.0, TypeError, r"must return a tensor \(12,\).*float$"),
    (lambda u, x: u, TypeError, r"gave \w+$"),  # one word, not its tensors
    (lambda u, x: u.value.detach(), ValueError, "term 'loss' has no graph"),
    (lambda u, x: u.value * float("nan"), ValueError, "must be finite at the first step, term 'loss' gives"),
    (lambda u, x: (0.0 * u.value).sqrt(), ValueError, "the gradient of loss must be finite at the first step"),
]


@pytest.mark.parametrize(("loss", "error", "match"), BAD_LOSSES)
def test_bad_losses_leave_the_network_as_it_was(loss: Any, error: type[Exception], match: str) -> None:
    """Weights, s and gradients."""
    net = square_net()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with pytest.raises(error, match=match):
        fit(net, POINTS, loss=loss, s=0.5, steps=2)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert net.weight.grad is None


GOOD = Term(POINTS, square, name="good")
BAD_CALLS: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"x": POINTS, "y": POINTS[:, 0]}, ValueError, "y and loss do not go together"),
    ({"x": POINTS, "sample_weight": POINTS[:, 0]}, ValueError, "sample_weight and loss"),
    ({"x": POINTS, "target_gradient": POINTS}, ValueError, "target_gradient and loss"),
    ({"x": POINTS, "batch_size": 4}, ValueError, "batch_size and loss"),
    ({"x": POINTS, "engine": "fused"}, ValueError, 'engine "fused" trains by the squared error, not by loss'),
    ({"x": POINTS, "s": hx.AdaptiveHomotopy(1.0, 2.0)}, ValueError, "AdaptiveHomotopy knows the squared error alone"),
    ({}, ValueError, "points must be given with a loss"),
    ({"x": POINTS, "loss": 3}, TypeError, "loss must be a function"),
    ({"loss": []}, ValueError, "at least one hx.Term"),
    ({"loss": [GOOD, square]}, TypeError, r"loss\[1\] is a function"),
    ({"x": POINTS + 1, "loss": [GOOD]}, ValueError, "each term has its own points"),
    ({"x": POINTS[:, :1]}, ValueError, r"points must have shape \(n, 2\) .* got \(12, 1\)"),
    ({"x": POINTS[:0]}, ValueError, "with n at least 1"),
    ({"loss": [GOOD, Term(POINTS[:, :1], square)]}, ValueError, r"points of term 'square' must have shape \(n, 2\)"),
    ({"x": POINTS.float()}, TypeError, "dtype of the network, torch.float64, got torch.float32"),
    ({"x": (POINTS / 0.0)}, ValueError, "points must be finite, row 0"),
    ({"x": lambda k: POINTS[0]}, ValueError, r"points must have shape \(n, 2\)"),
    ({"x": lambda k: 1}, TypeError, "a sampler that gives tensors, got int"),
    ({"x": "points"}, TypeError, "points must be a tensor"),
    ({"x": POINTS.to("meta")}, ValueError, "points must be on the net's device, cpu, got meta"),
    ({"x": POINTS.tolist()}, ValueError, r"a sampler or a pair \(points, weights\), got a list of 12"),
    ({"loss": Term(POINTS, square, quadrature=POINTS)}, ValueError, r"quadrature of term .* shape \(12,\)"),
    ({"loss": Term(POINTS, square, second_columns=[2])}, ValueError, "second_columns of term 'square' must be"),
    ({"x": POINTS, "parameters": [torch.zeros(1)]}, TypeError, r"parameters\[0\] must be an nn.Parameter"),
    ({"x": POINTS, "parameters": torch.zeros(1)}, TypeError, "parameters must be a sequence"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "error", "match"), BAD_CALLS)
def test_bad_calls(arguments: dict[str, Any], error: type[Exception], match: str) -> None:
    net = square_net()
    with pytest.raises(error, match=f"(fit|Term): .*{match}"):
        fit(net, **{"loss": square, "s": 1.5, "steps": 2, **arguments})
    assert float(net.s) == 1.0


BAD_TERMS: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"points": 3}, TypeError, "points must be a tensor"),
    ({"loss": None}, TypeError, "loss must be a function"),
    ({"weight": "1"}, TypeError, "weight must be a number"),
    ({"weight": float("inf")}, ValueError, "weight must be finite"),
    ({"resample": 0}, ValueError, "resample must be at least 1"),
    ({"second": "trace"}, ValueError, "second must be one of"),
    ({"name": 3}, TypeError, "name must be a str"),
    ({"points": draw, "quadrature": POINTS[:, 0]}, ValueError, "quadrature goes with fixed points"),
]


@pytest.mark.parametrize(("arguments", "error", "match"), BAD_TERMS)
def test_bad_terms(arguments: dict[str, Any], error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=f"Term: {match}"):
        Term(**{"points": POINTS, "loss": square, **arguments})


def test_an_unknown_that_nobody_trains_is_an_error_before_the_first_update() -> None:
    """In a closure it would get gradients and stay as it was."""
    net, k = square_net(), nn.Parameter(torch.tensor(2.0, dtype=torch.float64))
    equation = hx.Residual(lambda u, x: u.second + k * u.value)
    before = net.weight.detach().clone()
    with pytest.raises(
        ValueError, match=r"fit: loss holds a tensor of shape \(\) that requires grad.*parameters=\[\.\.\.\]"
    ):
        fit(net, POINTS, loss=equation, s=1.0, steps=2)
    assert torch.equal(net.weight, before)
    assert k.grad is None
    fit(net, POINTS, loss=equation, s=1.0, steps=2, parameters=[k])
    assert float(k.detach()) != 2.0
    plain = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    with pytest.raises(ValueError, match="requires grad and is not trained"):
        fit(net, POINTS, loss=lambda u, x: (u.second + plain * u.value).square(), s=1.0, steps=2)
    k.requires_grad_(False)  # known after all
    fit(net, POINTS, loss=equation, s=1.0, steps=2)


def test_a_geometry_is_no_points_and_says_what_draws_from_it() -> None:
    square = hx.Box([0.0, 0.0], [1.0, 1.0])
    for region, kind in ((square, "Box"), (square.boundary, "Faces")):
        with pytest.raises(TypeError, match=rf"got {kind}; give hx\.Sampler\(the {kind}, 1024\)"):
            fit(square_net(), region, loss=lambda u, x: u.value**2, s=1.0, steps=1)


def test_a_list_of_parameters_may_be_a_module() -> None:
    """nn.ParameterList is both."""
    k = nn.Parameter(torch.tensor(2.0, dtype=torch.float64))
    fit(square_net(), POINTS, loss=lambda u, x: (k * u.value) ** 2, parameters=nn.ParameterList([k]), s=1.0, steps=1)
    assert float(k.detach()) != 2.0


def test_targets_or_a_loss_must_be_given() -> None:
    with pytest.raises(TypeError, match="without targets give loss"):
        fit(square_net(), POINTS)
    with pytest.raises(ValueError, match="parameters without loss"):
        fit(square_net(), POINTS, POINTS[:, 0], parameters=[nn.Parameter(torch.zeros(()))])
    with pytest.raises(ValueError, match="scalar outputs"):
        fit(nn.Sequential(nn.Linear(2, 2), hx.HomotopyActivation(base="tanh")).double(), POINTS, loss=square)


LIMITS = [
    ("relu", "gradient", "relu2, tanh, gelu"),
    ("relu", "second", "relu2, tanh, gelu"),
    ("relu2", "second", "'relu2' are constant .* tanh, gelu"),
]


@pytest.mark.parametrize(("base", "part", "match"), LIMITS)
def test_derivatives_that_a_base_cannot_train_are_not_there(base: str, part: str, match: str) -> None:
    """A plain function is served as far as the base goes, and told what to use beyond; what asks for it is refused."""
    net = square_net(base)
    fit(net, POINTS, loss=square, s=1.0, steps=1)
    with pytest.raises(ValueError, match=match):
        fit(net, POINTS, loss=lambda u, x: getattr(u, part).reshape(12, -1).sum(1), s=1.0, steps=1)
    with pytest.raises(ValueError, match=f"takes second derivatives: .*{base}"):
        fit(net, loss=Term(POINTS, square, second="laplacian"), s=1.0, steps=1)


def test_a_jet_without_second_derivatives_says_so() -> None:
    with pytest.raises(ValueError, match="second=None"):
        fit(square_net(), loss=Term(POINTS, lambda u, x: u.second, second=None), s=1.0, steps=1)


def test_a_base_of_the_users_own_is_served_as_far_as_it_can_be_differentiated() -> None:
    """By the chunks of torch; its third derivative comes from autograd of its curvature."""
    hx.register_base("cos_of_test", torch.cos, lambda x: -torch.sin(x), lambda x: -torch.cos(x))
    net = square_net("cos_of_test", width=20)
    equation = hx.Residual(lambda u, x: u.second + x[:, 0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = fit(net, POINTS, loss=equation, s=1.0, steps=100, lr=1e-2)
    assert result.loss[-1] < 0.1 * result.loss[0]
