"""Losses of partial differential equations for ``fit``: the Ritz energy, residuals, periodic conditions."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn

from hrta_ext.inputs import check_finite, shown
from hrta_ext.network.jets import Jet
from hrta_ext.network.second import FORMS
from hrta_ext.physics.geometry import Geometry
from hrta_ext.physics.regions import Region
from hrta_ext.training.jets import Need, jet_of
from hrta_ext.training.terms import Term, split_rule

Field = float | Tensor | Callable[[Tensor], Tensor]  # a number, or a function of points (n, d) -> (n,)


def _at(field: Field, points: Tensor) -> Any:
    return field(points) if callable(field) else field


def _check_field(name: str, field: object) -> None:
    if callable(field) or (isinstance(field, Tensor) and field.numel() == 1):
        return
    if isinstance(field, bool) or not isinstance(field, Real):
        raise TypeError(f"{name} must be a number or a function of points (n, d) -> (n,), got {type(field).__name__}")
    check_finite(field, name)


class DeepRitz(nn.Module):
    """The energy whose minimum solves -Laplace u + c u = f with du/dn = g and u = h on parts of the boundary.

    E(u) = |Omega| mean(|grad u|^2 / 2 + c u^2 / 2 - f u) - |Gamma_N| mean(g u) + beta/2 |Gamma_D| mean((u - h)^2)

    over points of the domain Omega and of the parts Gamma_N and Gamma_D (E, Yu 2018, with measures and a reaction).
    What is left of the boundary has du/dn = 0 by itself. The penalty moves the solution: on Gamma_D u - h becomes
    -du/dn / beta, and the error inside is of that order. With c = 0 and no Gamma_D the solution is known up to a
    constant; (|Omega| mean u)^2 / 2 is added then, which asks for mean 0: compare after removing means. (Its
    expectation over n random points exceeds it by |Omega|^2 Var(u) / (2 n).)

    On fixed points an energy is not bounded below: wide networks dive between them. So points come from samplers,
    which draw new ones at every step, or from a quadrature rule, a pair (points, weights), which gets a warning.

    Args:
        source: f.
        reaction: c, not negative.
        neumann: g, with n the outward normal; None without Gamma_N.
        dirichlet: h; None without Gamma_D.
        penalty: beta, positive.
        volume: |Omega|; default: what the sampler's ``measure`` says.
        area: |Gamma|, of the part of the boundary that there is, or a mapping of "neumann" and "dirichlet" to theirs;
            default: what their samplers' ``measure`` says.

    f, c, g and h are numbers or functions of points (n, d) -> (n,); an ``nn.Parameter`` or ``nn.Module`` is trained
    with the network. ``fit(net, points, loss=DeepRitz(...))`` takes the sampler of Omega alone where no boundary is
    named, else a mapping of "interior", "neumann" and "dirichlet" to points; :meth:`terms` makes a list, to be added
    to. The base needs a second derivative: relu2 serves, relu does not.

    Example:
        >>> import torch, hrta_ext as hx
        >>> interval = lambda k: torch.rand(64, 1, generator=torch.Generator().manual_seed(k))
        >>> ends = (torch.tensor([[0.0], [1.0]]), torch.ones(2))  # two points: a rule with weights 1
        >>> ritz = hx.DeepRitz(1.0, dirichlet=0.0, penalty=100.0, volume=1.0)
        >>> net = hx.TwoLayerNet(1, 50, base="tanh", seed=0)
        >>> result = hx.fit(net, {"interior": interval, "dirichlet": ends}, loss=ritz, s=1.0, steps=20)
        >>> list(result.terms)
        ['interior', 'dirichlet']
    """

    def __init__(
        self,
        source: Field,
        *,
        reaction: Field = 0.0,
        neumann: Field | None = None,
        dirichlet: Field | None = None,
        penalty: float = 500.0,
        volume: float | None = None,
        area: float | Mapping[str, float] | None = None,
    ) -> None:
        super().__init__()
        for name, value in (("source", source), ("reaction", reaction), ("neumann", neumann), ("dirichlet", dirichlet)):
            if value is not None or name in ("source", "reaction"):
                _check_field(f"DeepRitz: {name}", value)
        if isinstance(reaction, Real) and reaction < 0:
            raise ValueError(f"DeepRitz: reaction must not be negative, got {shown(reaction)}")
        self.source, self.reaction, self.neumann, self.dirichlet = source, reaction, neumann, dirichlet
        self.penalty = _positive("penalty", penalty)
        parts = [name for name in ("neumann", "dirichlet") if getattr(self, name) is not None]
        if area is not None and not isinstance(area, Mapping) and len(parts) == 2:
            raise ValueError("DeepRitz: area must be a mapping of 'neumann' and 'dirichlet', got one number for both")
        areas = area if isinstance(area, Mapping) else dict.fromkeys(parts, area)
        if set(areas) - set(parts):
            raise ValueError(f"DeepRitz: area must be that of {' and '.join(parts) or 'no part'}, got {sorted(areas)}")
        measures = {"interior": volume, **{name: areas.get(name) for name in parts}}
        self.measures = {name: m if m is None else _positive("volume or area", m) for name, m in measures.items()}
        self.fixes_mean = dirichlet is None and isinstance(reaction, Real) and reaction == 0

    def terms(self, points: Any, *, resample: int = 1) -> list[Term]:
        """The terms of the energy.

        Args:
            points: Of the interior, where no boundary is named; else a mapping of "interior", "neumann", "dirichlet" to
                points: samplers, or pairs (points, weights) of a quadrature rule. The penalty takes plain points too.
            resample: Steps that a draw serves.
        Raises:
            ValueError: Points of a part are missing, or fixed without weights, or its measure is not known.
        """
        given = points if isinstance(points, Mapping) else {"interior": points}
        if set(given) != set(self.measures):
            expected = ", ".join(self.measures)
            raise ValueError(f"DeepRitz: points must be a mapping with the keys {expected}, got {sorted(given)}")
        return [self._term(name, given[name], resample) for name in self.measures]

    def _term(self, name: str, given: Any, resample: int) -> Term:
        points, rule = split_rule(given)
        fixed = isinstance(points, Tensor)
        if not fixed and not callable(points):
            kind = type(points).__name__
            hint = f"; give hx.Sampler(the {kind}, 1024)" if isinstance(points, (Geometry, Region)) else ""
            raise TypeError(
                f"DeepRitz: {name} points must be a sampler or a pair (points, quadrature weights), got {kind}{hint}"
            )
        if fixed and rule is None and name != "dirichlet":
            raise ValueError(
                f"DeepRitz: {name} points must be a sampler or a pair (points, quadrature weights), got fixed points: "
                "an energy on them is not bounded below"
            )
        if fixed and name == "interior":
            warnings.warn(
                "DeepRitz: on the fixed points of a quadrature rule a wide network can lower the energy without end "
                "between them; watch it on a finer rule, or draw new points every step (a sampler)",
                stacklevel=4,
            )
        measure = self.measures[name]
        if measure is None:
            measure = 1.0 if rule is not None else getattr(points, "measure", None)
        elif rule is not None:
            raise ValueError(f"DeepRitz: the weights of a quadrature rule hold the measure of {name}, leave it out")
        if measure is None:
            argument = "volume" if name == "interior" else "area"
            raise ValueError(
                f"DeepRitz: {argument} must be given, {name} has points without one (an hx.Sampler has it)"
            )
        part = _EnergyPart(self, name, float(measure) if rule is None else rule)
        return Term(points, part, float(measure), resample if not fixed else 1, quadrature=rule, name=name)


class _EnergyPart(nn.Module):
    """The density of one part of the energy, to be integrated over its points."""

    second = None

    def __init__(self, energy: DeepRitz, name: str, measure: float | Tensor) -> None:
        super().__init__()
        self.energy, self.part, self.measure = energy, name, measure
        fields = {"interior": ("source", "reaction"), "dirichlet": ("dirichlet", "penalty"), "neumann": ("neumann",)}
        numbers = {field: getattr(energy, field) for field in fields[name]}  # by which a checkpoint knows an energy
        known = [f"{field} {number!r}" for field, number in numbers.items() if isinstance(number, Real)]
        self.name = " ".join([name, *known])
        self.value_only = name != "interior"

    def forward(self, jet: Jet, x: Tensor) -> Tensor:
        """(n,) values."""
        energy, u = self.energy, jet.value
        if self.part == "neumann":
            return -_at(energy.neumann, x) * u  # type: ignore[arg-type]
        if self.part == "dirichlet":
            return 0.5 * energy.penalty * (u - _at(energy.dirichlet, x)).square()  # type: ignore[arg-type]
        density = 0.5 * jet.gradient.square().sum(1) - _at(energy.source, x) * u
        if not isinstance(energy.reaction, Real) or energy.reaction != 0:
            density = density + 0.5 * _at(energy.reaction, x) * u.square()
        if energy.fixes_mean:  # the integral of this is (integral of u)^2 / 2
            total = (self.measure * u).sum() if isinstance(self.measure, Tensor) else self.measure * u.mean()
            density = density + 0.5 * total * u
        return density


class Residual(nn.Module):
    """The strong form: |equation(jet, points)|^2 / 2, for the equation and for conditions at boundaries and starts.

    Args:
        equation: ``equation(jet, points)`` -> (n,) or, for several equations, (n, k): what is to vanish, of
            ``jet.value`` (n,), ``jet.gradient`` (n, d) and ``jet.second``. An ``nn.Module`` has its parameters trained.
        second: "laplacian", "diagonal" or "hessian": what ``jet.second`` is; None for conditions without.
        second_columns: The features that it is taken in; default: all. For the heat equation in (t, x):
            ``Residual(lambda u, x: u.gradient[:, 0] - u.second, second_columns=[1])``.

    The base must have one derivative more than the equation: with second derivatives tanh, gelu, silu, softplus, erf
    and sin serve; relu and relu2 do not, since they cannot train what is constant between their kinks.

    Example:
        >>> import torch, hrta_ext as hx
        >>> equation = hx.Residual(lambda u, x: u.second + 2.0 * torch.sin(x).prod(1))
        >>> net = hx.TwoLayerNet(2, 50, base="tanh", seed=0)
        >>> result = hx.fit(net, torch.rand(64, 2), loss=equation, s=1.0, steps=20)
        >>> result.loss.shape
        torch.Size([20])
    """

    def __init__(
        self,
        equation: Callable[..., Tensor],
        *,
        second: str | None = "laplacian",
        second_columns: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        if not callable(equation):
            raise TypeError(f"Residual: equation must be a function (jet, points) -> (n,), got {shown(equation)}")
        if second is not None and second not in FORMS:
            raise ValueError(f"Residual: second must be one of {', '.join(FORMS)} or None, got {shown(second)}")
        self.equation, self.second = equation, second
        if second_columns is not None and not isinstance(second_columns, Iterable):
            raise TypeError(f"Residual: second_columns must be a sequence of integers, got {shown(second_columns)}")
        self.second_columns = None if second_columns is None else list(second_columns)
        self.name = getattr(equation, "__name__", type(equation).__name__).replace("<lambda>", "residual")

    def forward(self, jet: Jet, points: Tensor) -> Tensor:
        """(n,) values."""
        r = self._left(jet, points)
        return 0.5 * (r.square().sum(1) if r.dim() == 2 else r * r)

    def _left(self, jet: Jet, points: Tensor) -> Tensor:
        """What the equation leaves, (n,) or (n, k)."""
        r = self.equation(jet, points)
        if not isinstance(r, Tensor):
            raise TypeError(f"Residual: equation must return a tensor (n,) or (n, k), got {type(r).__name__}")
        n, d = points.shape
        if r.dim() == 2 and r.shape == (n, n) and n > 1 + d + d * d:  # more equations than a jet has numbers
            raise ValueError(
                f"Residual: equation must return (n,) or (n, k), got {(n, n)}: values (n,) beside values (n, 1), "
                "such as points[:, :1] in place of points[:, 0], make a square"
            )
        return r

    def values(self, net: nn.Module, points: Tensor) -> Tensor:
        """What the equation leaves of a network, for a picture or to find where it is large: (n,) or (n, k).

        Args:
            net: Any network that ``fit`` trains by this loss.
            points: (n, d), of its dtype and on its device.
        """
        columns = None if self.second_columns is None else tuple(self.second_columns)
        jet = jet_of(net, points, Need(self.second or "gradient", columns, "Residual.values: second is None"))
        return self._left(jet, points).detach()


def periodic(jet: Jet, points: Tensor) -> Tensor:
    """u and grad u are the same on opposite faces: (|u - u'|^2 + |grad u - grad u'|^2) / 2, a loss for :class:`Term`.

    Args:
        jet: Of the network.
        points: (2n, d): n of one face and then, in the same order, their partners, as ``hx.Box.pairs`` gives them.
    Returns:
        (2n,) values, those of each pair twice.

    Example:
        >>> import torch, hrta_ext as hx
        >>> pairs = hx.Sampler(hx.Box([0.0, 0.0], [1.0, 1.0]).pairs(0), 32)
        >>> net = hx.TwoLayerNet(2, 50, base="sin", seed=0)
        >>> result = hx.fit(net, pairs, loss=hx.periodic, s=1.0, steps=50, lr=1e-2)
        >>> bool(result.loss[-1] < result.loss[0])
        True
    """
    if len(points) % 2:
        raise ValueError(f"periodic: points must be n and then their n partners, got {len(points)}")
    one, other = torch.cat([jet.value[:, None], jet.gradient], 1).chunk(2)
    return 0.5 * (one - other).square().sum(1).repeat(2)


periodic.second = None  # type: ignore[attr-defined]


def _positive(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"DeepRitz: {name} must be a number, got {shown(value)}")
    number = check_finite(value, f"DeepRitz: {name}")
    if number <= 0:
        raise ValueError(f"DeepRitz: {name} must be positive, got {number:g}")
    return number
