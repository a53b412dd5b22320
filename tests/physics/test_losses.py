"""Ready-made losses of equations: against the solutions of problems that have one, and what they refuse."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import hrta_ext as hx

# Newton-like, to the bottom of small problems in float64.
EXACTLY: dict[str, Any] = {
    "s": 1.0,
    "optimizer": partial(torch.optim.LBFGS, line_search_fn="strong_wolfe", max_iter=50, history_size=50),
    "lr": 1.0,
}
ENDS = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
BOTH = (ENDS, torch.ones(2, dtype=torch.float64))
SQUARE = hx.Box([0.0, 0.0], [1.0, 1.0])


def gauss(count: int) -> tuple[Tensor, Tensor]:
    """Points and weights of Gauss and Legendre on [0, 1]: what a wide network cannot dive below where it is smooth."""
    x, weight = np.polynomial.legendre.leggauss(count)
    return torch.from_numpy(x)[:, None] / 2 + 0.5, torch.from_numpy(weight) / 2


def line_net(base: str = "tanh") -> hx.TwoLayerNet:
    return hx.TwoLayerNet(1, 20, base=base, seed=0).double()


def error(net: nn.Module, solution: Any, *, remove_mean: bool = False) -> float:
    """Relative, in L2 of [0, 1]^d."""
    features = net.in_features
    x = torch.rand(2000, features, dtype=torch.float64, generator=torch.Generator().manual_seed(9))
    x = x if features > 1 else torch.linspace(0.0, 1.0, 200, dtype=torch.float64)[:, None]
    with torch.no_grad():
        u, v = net(x.to(net.weight.dtype)).double(), solution(x)
    if remove_mean:
        u, v = u - u.mean(), v - v.mean()
    return float((u - v).norm() / v.norm())


@pytest.mark.filterwarnings("ignore:DeepRitz. on the fixed points")
class TestDeepRitz:
    """Minimisers of the energy on a rule of quadrature are solutions: signs, measures and factors of every term."""

    def test_dirichlet_by_penalty(self) -> None:
        """-u'' = 1 with u = 0 at both ends: the penalty moves the solution by u'(0) / beta = 1 / (2 beta)."""
        net = line_net()
        ritz = hx.DeepRitz(1.0, dirichlet=0.0, penalty=10.0)
        hx.fit(net, {"interior": gauss(60), "dirichlet": BOTH}, loss=ritz, steps=8, **EXACTLY)
        assert error(net, lambda x: x[:, 0] * (1.0 - x[:, 0]) / 2 + 0.05) < 1e-3

    def test_neumann_with_reaction(self) -> None:
        """-u'' + 2 u = f with u = exp(x): du/dn is -1 at 0 and e at 1."""
        net = line_net()
        ritz = hx.DeepRitz(
            lambda x: x[:, 0].exp(), reaction=lambda x: 2.0, neumann=lambda x: torch.where(x[:, 0] > 0.5, math.e, -1.0)
        )
        hx.fit(net, {"interior": gauss(60), "neumann": BOTH}, loss=ritz, steps=8, **EXACTLY)
        assert error(net, lambda x: x[:, 0].exp()) < 1e-3

    def test_neumann_alone_fixes_the_mean(self) -> None:
        """-u'' = pi^2 cos(pi x): known up to a constant, which comes out as that of mean 0."""
        net = line_net()
        ritz = hx.DeepRitz(lambda x: torch.pi**2 * torch.cos(torch.pi * x[:, 0]))
        result = hx.fit(net, gauss(60), loss=ritz, steps=8, **EXACTLY)
        assert error(net, lambda x: torch.cos(torch.pi * x[:, 0])) < 1e-3
        assert float(result.loss[-1]) == pytest.approx(-(math.pi**2) / 4, rel=1e-4)  # -1/2 integral of f u

    def test_all_parts_with_relu2(self) -> None:
        """-u'' = -2 with u = x^2: u(0) = 0 and du/dn(1) = 2; relu2 serves."""
        net = line_net("relu2")
        parts = [(point, torch.ones(1, dtype=torch.float64)) for point in ENDS[:, None]]
        ritz = hx.DeepRitz(-2.0, neumann=2.0, dirichlet=lambda x: x[:, 0] ** 2, penalty=1e4)
        points = {"interior": gauss(60), "neumann": parts[1], "dirichlet": parts[0]}
        hx.fit(net, points, loss=ritz, steps=8, **EXACTLY)
        assert error(net, lambda x: x[:, 0] ** 2) < 3e-3


def test_measures_turn_means_into_integrals() -> None:
    """Of samplers, or as given: every term is its measure times a mean."""
    box = hx.Box([0.0, 0.0], [2.0, 3.0])
    net = hx.TwoLayerNet(2, 5, base="tanh", seed=0)
    ritz = hx.DeepRitz(lambda x: x[:, 0], reaction=3.0, neumann=2.0, dirichlet=1.0, penalty=7.0)
    lower, upper = hx.Sampler(box.face(0, "lower"), 8, seed=1), hx.Sampler(box.face(1, "upper"), 8, seed=2)
    points: dict[str, Any] = {"interior": hx.Sampler(box, 16), "neumann": lower, "dirichlet": upper}
    found = hx.fit(net, points, loss=ritz, s=1.0, steps=1).terms
    net = hx.TwoLayerNet(2, 5, base="tanh", seed=0)
    jet, x = net.jet(points["interior"](0)), points["interior"](0)
    density = (jet.gradient**2).sum(1) / 2 + 1.5 * jet.value**2 - x[:, 0] * jet.value
    expected = {
        "interior": 6.0 * density.mean(),
        "neumann": -3.0 * (2.0 * net(lower(0))).mean(),
        "dirichlet": 3.5 * 2.0 * ((net(upper(0)) - 1.0) ** 2).mean(),
    }
    for name, value in expected.items():
        torch.testing.assert_close(found[name][0], value.detach().double(), rtol=1e-5, atol=0.0)
    bare = {name: (lambda k, sampler=sampler: sampler(k)) for name, sampler in points.items()}
    given = hx.DeepRitz(
        lambda x: x[:, 0], reaction=3.0, neumann=2.0, dirichlet=1.0, penalty=7.0, volume=6.0,
        area={"neumann": 3.0, "dirichlet": 2.0},
    )  # fmt: skip
    again = hx.fit(hx.TwoLayerNet(2, 5, base="tanh", seed=0), bare, loss=given, s=1.0, steps=1).terms
    assert all(torch.equal(again[name], found[name]) for name in found)


def test_an_energy_runs_away_on_fixed_points_and_stays_on_new_ones() -> None:
    """Between 49 points the network dives far below the least energy, -pi^2 / 2, and the true energy explodes."""
    ritz = hx.DeepRitz(lambda x: torch.pi**2 * torch.cos(torch.pi * x).sum(1))
    solution = lambda x: torch.cos(torch.pi * x).sum(1)  # noqa: E731
    middle = (torch.arange(7) + 0.5) / 7
    nets = [hx.TwoLayerNet(2, 300, base="tanh", seed=0) for _ in range(2)]
    how: dict[str, Any] = {"loss": ritz, "s": 1.0, "steps": 450, "lr": 0.1}
    with pytest.warns(UserWarning, match="without end between them"):
        fixed = hx.fit(nets[0], (torch.cartesian_prod(middle, middle), torch.full((49,), 1 / 49)), **how)
    drawn = hx.fit(nets[1], hx.Sampler(SQUARE, 200), **how)
    assert fixed.loss[-1] < -20.0 < drawn.loss[-100:].mean() < -4.0
    assert error(nets[0], solution, remove_mean=True) > 1.0 > 0.3 > error(nets[1], solution, remove_mean=True)
    found = drawn.settings["loss_on_new_points"]
    assert abs(found["mean"] + math.pi**2 / 2) < 4 * found["standard_error"] + 0.5
    assert "loss_on_new_points" not in fixed.settings


def test_poisson_on_the_square_by_residuals_reaches_the_solution() -> None:
    """Adam on drawn points, then L-BFGS on fixed ones; the boundary by value."""
    solution = lambda x: torch.sin(torch.pi * x).prod(1)  # noqa: E731
    net = hx.TwoLayerNet(2, 60, base="tanh", seed=0).double()
    equation = hx.Residual(lambda u, x: u.second + 2 * torch.pi**2 * solution(x))
    boundary = hx.Residual(lambda u, x: u.value, second=None)
    inside, edge = hx.Sampler(SQUARE, 200, method="sobol"), hx.Sampler(SQUARE.boundary, 80, method="sobol")
    terms = [hx.Term(inside, equation), hx.Term(edge, boundary, 100.0)]
    hx.fit(net, loss=terms, s=1.0, steps=100, lr=2e-2)
    double = [term.points(0).double() for term in terms]  # type: ignore[operator]
    fixed = [hx.Term(x, term.loss, term.weight) for x, term in zip(double, terms, strict=True)]
    hx.fit(net, loss=fixed, steps=6, **EXACTLY)
    assert error(net, solution) < 1e-2


def test_heat_in_time_and_space_learns_its_conductivity() -> None:
    """u_t = k u_xx with u = exp(-k pi^2 t) sin(pi x): k, unknown, from the equation, the start and data at one time."""
    exact = 0.1
    solution = lambda x: torch.exp(-exact * torch.pi**2 * x[:, 0]) * torch.sin(torch.pi * x[:, 1])  # noqa: E731
    k = nn.Parameter(torch.tensor(0.3, dtype=torch.float64))
    net = hx.TwoLayerNet(2, 40, base="tanh", seed=1).double()
    equation = hx.Residual(lambda u, x: u.gradient[:, 0] - k * u.second, second_columns=[1])
    known = hx.Residual(lambda u, x: u.value - solution(x), second=None)
    x = torch.rand(150, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    start, end = torch.cat([0.0 * x[:40, :1], x[:40, 1:]], 1), torch.cat([0.0 * x[:40, :1] + 1.0, x[:40, 1:]], 1)
    terms = [hx.Term(x, equation), hx.Term(torch.cat([start, end]), known, 10.0)]
    result = hx.fit(net, loss=terms, parameters=[k], steps=6, **EXACTLY)
    assert float(k.detach()) == pytest.approx(exact, rel=0.05)
    assert result.settings["n_unknowns"] == 1


def test_robin_and_several_equations_at_once() -> None:
    """Conditions are residuals of value and gradient; (n, k) residuals count each column: u = exp(x) from both."""
    net = line_net()
    both = hx.Residual(lambda u, x: torch.stack([u.second - u.value, u.gradient[:, 0] - u.value], 1))
    robin = hx.Residual(lambda u, x: u.value + u.gradient[:, 0] - 2.0, second=None)
    hx.fit(net, loss=[hx.Term(gauss(30)[0], both), hx.Term(ENDS[:1], robin)], steps=6, **EXACTLY)
    assert error(net, lambda x: x[:, 0].exp()) < 1e-3


def test_what_is_left_of_the_equation() -> None:
    """The values for a picture are those whose squares are the loss."""
    equation = hx.Residual(lambda u, x: u.second + x[:, 0])
    net, x = hx.TwoLayerNet(2, 5, base="sin", seed=0), hx.Sampler(SQUARE, 10)(0)
    values = equation.values(net, x)
    torch.testing.assert_close(0.5 * values**2, equation(net.jet(x), x).detach())
    assert not values.requires_grad


def test_periodic_compares_partners() -> None:
    """Against differences by hand; 0 for a function of the period."""
    points = hx.Sampler(SQUARE.pairs(0), 10, dtype=torch.float64)(0)
    net = hx.TwoLayerNet(2, 5, base="sin", seed=0).double()
    jet = net.jet(points)
    difference = jet.value[:5] - jet.value[5:], jet.gradient[:5] - jet.gradient[5:]
    expected = (difference[0] ** 2 + (difference[1] ** 2).sum(1)) / 2
    torch.testing.assert_close(hx.periodic(jet, points), torch.cat([expected, expected]))
    with torch.no_grad():
        net.weight[:, 0] = 2 * torch.pi * torch.arange(5, dtype=torch.float64)
    assert hx.periodic(net.jet(points), points).abs().max() < 1e-20


class Source(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(1.0))

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * x[:, 0]


def test_modules_and_parameters_in_an_energy_are_unknowns() -> None:
    """Each once, though every term holds the energy."""
    ritz = hx.DeepRitz(Source(), reaction=nn.Parameter(torch.tensor(2.0)), dirichlet=0.0)
    points = {"interior": hx.Sampler(SQUARE, 9), "dirichlet": hx.Sampler(SQUARE.boundary, 9)}
    result = hx.fit(hx.TwoLayerNet(2, 5, base="tanh", seed=0), points, loss=ritz, s=1.0, steps=2, lr=0.01)
    assert result.settings["n_unknowns"] == 2
    assert float(ritz.source.factor.detach()) != 1.0 != float(ritz.reaction.detach()) - 1.0


def test_bases_that_serve() -> None:
    """The strong form asks for a third derivative of the base, the energy for a second one."""
    inside = hx.Sampler(SQUARE, 8)
    for base in ("relu", "relu2", "tanh", "gelu", "silu", "softplus", "erf", "sin"):
        net = hx.TwoLayerNet(2, 4, base=base, seed=0)
        for loss, refused in ((hx.Residual(lambda u, x: u.second), ("relu", "relu2")), (hx.DeepRitz(1.0), ("relu",))):
            if base in refused:
                with pytest.raises(
                    ValueError, match=f"'{base}' are constant.*tanh, gelu, silu, softplus, erf and sin serve"
                ):
                    hx.fit(net, inside, loss=loss, s=1.0, steps=1)
            else:
                assert hx.fit(net, inside, loss=loss, s=1.0, steps=1).stop_reason == "finished"


INSIDE = torch.rand(4, 2)
RULE = (INSIDE, torch.ones(4))
BAD_POINTS: list[tuple[dict[str, Any], Any, str]] = [
    ({}, INSIDE, "interior points must be a sampler or a pair .* not bounded below"),
    ({"neumann": 1.0}, {"interior": RULE, "neumann": INSIDE}, "neumann points must be a sampler"),
    ({"dirichlet": 1.0}, RULE, r"keys interior, dirichlet, got \['interior'\]"),
    ({}, {"interior": RULE, "dirichlet": INSIDE}, "keys interior, got"),
    ({"volume": 1.0}, RULE, "leave it out"),
    ({}, lambda k: INSIDE, "volume must be given"),
    ({"dirichlet": 1.0, "volume": 1.0}, {"interior": lambda k: INSIDE, "dirichlet": INSIDE}, "area must be given"),
]


@pytest.mark.filterwarnings("ignore:DeepRitz. on the fixed points")
@pytest.mark.parametrize(("arguments", "points", "match"), BAD_POINTS)
def test_points_that_an_energy_refuses(arguments: dict[str, Any], points: Any, match: str) -> None:
    with pytest.raises(ValueError, match=f"DeepRitz: .*{match}"):
        hx.fit(hx.TwoLayerNet(2, 4, base="tanh"), points, loss=hx.DeepRitz(1.0, **arguments), s=1.0, steps=1)


@pytest.mark.parametrize(
    ("points", "match"),
    [
        (
            {"interior": SQUARE, "dirichlet": hx.Sampler(SQUARE.boundary, 4)},
            r"interior .*, got Box; give hx\.Sampler\(",
        ),
        ({"interior": hx.Sampler(SQUARE, 4), "dirichlet": SQUARE.boundary}, r"dirichlet .*; give hx\.Sampler\("),
        ({"interior": "square", "dirichlet": SQUARE}, r"weights\), got str$"),
    ],
)
def test_a_geometry_in_a_samplers_place_is_named(points: Any, match: str) -> None:
    """It has a measure but draws nothing: the message says what does."""
    with pytest.raises(TypeError, match=f"DeepRitz: .*{match}"):
        hx.DeepRitz(1.0, dirichlet=0.0).terms(points)


BAD: list[tuple[Any, type[Exception], str]] = [
    (lambda: hx.DeepRitz("f"), TypeError, "DeepRitz: source must be a number or a function"),
    (lambda: hx.DeepRitz(None), TypeError, "DeepRitz: source must be a number or a function.*NoneType"),
    (lambda: hx.DeepRitz(1.0, reaction=-1.0), ValueError, "reaction must not be negative"),
    (lambda: hx.DeepRitz(1.0, dirichlet=float("nan")), ValueError, "dirichlet must be finite"),
    (lambda: hx.DeepRitz(1.0, penalty=0.0), ValueError, "penalty must be positive"),
    (lambda: hx.DeepRitz(1.0, volume="1"), TypeError, "volume or area must be a number"),
    (lambda: hx.DeepRitz(1.0, neumann=1.0, dirichlet=1.0, area=2.0), ValueError, "area must be a mapping"),
    (lambda: hx.DeepRitz(1.0, area={"neumann": 1.0}), ValueError, "area must be that of no part"),
    (lambda: hx.Term(INSIDE, hx.DeepRitz(1.0)), TypeError, r"DeepRitz.*\.terms\(points\)"),
    (lambda: hx.Residual(3), TypeError, "Residual: equation must be a function"),
    (lambda: hx.Residual(len, second="trace"), ValueError, "Residual: second must be one of"),
    (lambda: hx.Residual(len, second_columns=1), TypeError, "Residual: second_columns must be a sequence"),
]


@pytest.mark.parametrize(("make", "error", "match"), BAD)
def test_bad_arguments(make: Any, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        make()


def train_at_nine(loss: Any) -> Any:
    points = torch.rand(9, 2, generator=torch.Generator().manual_seed(0))
    return hx.fit(hx.TwoLayerNet(2, 4, base="tanh", seed=0), points, loss=loss, s=1.0, steps=1)


BAD_EQUATIONS: list[tuple[Any, type[Exception], str]] = [
    (hx.Residual(lambda u, x: u.second - x[:, :1]), ValueError, r"Residual: equation must return .* got \(9, 9\)"),
    (hx.Residual(lambda u, x: (u.second,)), TypeError, r"Residual: equation must return a tensor .* got tuple"),
    (lambda u, x: u.second * 1j, TypeError, "fit: loss must return real values, .*complex64"),
    (hx.periodic, ValueError, "periodic: points must be n and then their n partners, got 9"),
    (hx.Residual, TypeError, "fit: loss must be an object, got the class Residual"),
]


@pytest.mark.parametrize(("loss", "error", "match"), BAD_EQUATIONS)
def test_what_an_equation_may_not_return(loss: Any, error: type[Exception], match: str) -> None:
    """A source (n, 1) beside u (n,) would train on a mean over all pairs of points, without a word."""
    with pytest.raises(error, match=match):
        train_at_nine(loss)


def test_as_many_equations_as_points_are_served_where_a_jet_has_as_many_numbers() -> None:
    """The gradient at two points of a plane is (2, 2)."""
    loss = hx.Residual(lambda u, x: u.gradient, second=None)
    assert hx.fit(hx.TwoLayerNet(2, 4, base="tanh"), INSIDE[:2], loss=loss, s=1.0, steps=1).stop_reason == "finished"


def test_a_checkpoint_of_another_energy_is_refused(tmp_path: Path) -> None:
    """Its numbers are compared, functions are not."""
    points = {"interior": hx.Sampler(SQUARE, 8), "dirichlet": hx.Sampler(SQUARE.boundary, 8)}
    net, path = hx.TwoLayerNet(2, 4, base="tanh", seed=0), tmp_path / "run.pt"
    given: dict[str, Any] = {"s": 1.0, "steps": 2, "checkpoint": path}
    hx.fit(net, points, loss=hx.DeepRitz(1.0, dirichlet=0.0), **given)
    changed = (
        hx.DeepRitz(2.0, dirichlet=0.0),
        hx.DeepRitz(1.0, dirichlet=0.5),
        hx.DeepRitz(1.0, dirichlet=0.0, penalty=5),
    )
    for loss in changed:
        with pytest.raises(ValueError, match="of another run"):
            hx.fit(net, points, loss=loss, resume=True, **given)
