"""Losses of the user's own: terms, each the mean over its points of what it makes of the network's jet."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from numbers import Real
from typing import Any

from torch import Tensor, nn

from hrta_ext.inputs import check_finite, check_integer, shown
from hrta_ext.network.second import FORMS

Points = Tensor | Callable[[int], Tensor]
AUTO = "auto"


@dataclass(frozen=True, eq=False)
class Term:
    """One term of a loss for :func:`fit`: weight * mean_i loss(jet, points)_i.

    Args:
        points: (n, d), without the bias column: derivatives are taken in all d columns. Or a sampler: a function of
            the number of the draw, from 0, that gives such a tensor and depends on this number alone, such as an
            ``hx.Sampler``; what its attribute ``description`` says of it goes into checkpoints and reports.
        loss: ``loss(jet, points)`` -> (n,), made of the :class:`Jet` of the network at the points by differentiable
            torch operations. An ``nn.Module`` has its parameters trained with the network: unknowns of the equation.
            Its attributes ``second`` and ``second_columns``, if any, stand for the arguments below; with
            ``value_only = True`` the jet has no derivatives.
        weight: Finite. The values of :attr:`FitResult.terms` contain it.
        resample: Steps that a draw of a sampler serves.
        second: The jet's second derivatives: "laplacian", "diagonal" or "hessian"; None for value and gradient alone,
            which is cheaper. "auto" asks the loss; where it does not say, the Laplacian if the bases have one that can
            be trained.
        second_columns: Those of ``second``; default: all.
        quadrature: Weights (n,) of a rule on fixed points: the term is weight * sum_i quadrature_i loss_i.
        name: Of the term in results; default: that of the loss.
    Raises:
        TypeError, ValueError: An argument is off.

    Example:
        >>> import torch, hrta_ext as hx
        >>> net = hx.TwoLayerNet(1, 50, base="tanh", seed=0)
        >>> inside, ends = torch.rand(64, 1), torch.tensor([[0.0], [1.0]])
        >>> equation = hx.Term(inside, lambda u, x: (u.second + torch.sin(3.0 * x[:, 0])) ** 2, name="equation")
        >>> boundary = hx.Term(ends, lambda u, x: u.value**2, 10.0, second=None, name="boundary")
        >>> result = hx.fit(net, loss=[equation, boundary], s=1.0, steps=20)
        >>> {name: len(values) for name, values in result.terms.items()}
        {'equation': 20, 'boundary': 20}
    """

    points: Points
    loss: Callable[..., Tensor]
    weight: float = 1.0
    resample: int = 1
    second: str | None = field(default=AUTO, kw_only=True)
    second_columns: Sequence[int] | None = field(default=None, kw_only=True)
    quadrature: Tensor | None = field(default=None, kw_only=True)
    name: str | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        if not callable(self.points):  # no tensor is
            if not isinstance(self.points, Tensor):
                kind = type(self.points).__name__
                hint = f"; give hx.Sampler(the {kind}, 1024)" if hasattr(self.points, "sample") else ""
                raise TypeError(f"Term: points must be a tensor (n, d) or a sampler, got {kind}{hint}")
        elif self.quadrature is not None:
            raise ValueError("Term: quadrature goes with fixed points, got a sampler")
        if hasattr(self.loss, "terms"):
            kind = type(self.loss).__name__
            raise TypeError(f"Term: loss must be that of one term, {kind} makes several: take its .terms(points)")
        if not callable(self.loss):
            raise TypeError(f"Term: loss must be a function (jet, points) -> (n,), got {type(self.loss).__name__}")
        if isinstance(self.weight, bool) or not isinstance(self.weight, Real):
            raise TypeError(f"Term: weight must be a number, got {shown(self.weight)}")
        object.__setattr__(self, "weight", check_finite(self.weight, "Term: weight"))
        object.__setattr__(self, "resample", check_integer(self.resample, "Term: resample"))
        if self.second is not None and self.second not in (*FORMS, AUTO):
            raise ValueError(f"Term: second must be one of {', '.join(FORMS)} or None, got {shown(self.second)}")
        if self.name is not None and not isinstance(self.name, str):
            raise TypeError(f"Term: name must be a str or None, got {shown(self.name)}")


@dataclass(frozen=True)
class Task:
    """What a training without targets is of: its terms, and unknowns besides those in the losses."""

    terms: list[Term]
    parameters: list[nn.Parameter]

    def unknowns(self) -> list[nn.Parameter]:
        """All parameters to train that are not the network's, each once."""
        losses = [term.loss for term in self.terms if isinstance(term.loss, nn.Module)]
        found = [*self.parameters, *(p for loss in losses for p in loss.parameters() if p.requires_grad)]
        return list({id(p): p for p in found}.values())


def as_task(points: object, loss: object, parameters: Iterable[nn.Parameter]) -> Task:
    """``points``, ``loss`` and ``parameters`` of ``fit``.

    A loss with a method ``terms(points)`` makes the terms itself.
    """
    if isinstance(loss, type):
        raise TypeError(f"fit: loss must be an object, got the class {loss.__name__} itself")
    if isinstance(loss, Term):
        loss = [loss]
    if isinstance(loss, (list, tuple)):
        terms = list(loss)
        for k, term in enumerate(terms):
            if not isinstance(term, Term):
                raise TypeError(f"fit: loss must hold hx.Term objects alone, loss[{k}] is a {type(term).__name__}")
        if not terms:
            raise ValueError("fit: loss must hold at least one hx.Term, got none")
        if points is not None and all(term.points is not points for term in terms):
            raise ValueError("fit: points and a list of terms as loss do not go together: each term has its own points")
    elif points is None:
        raise ValueError("fit: points must be given with a loss that is no list of hx.Term")
    elif hasattr(loss, "terms"):
        terms = list(loss.terms(points))
    elif callable(loss):
        points, quadrature = split_rule(points)
        terms = [Term(points, loss, quadrature=quadrature)]  # type: ignore[arg-type]
    else:
        raise TypeError(f"fit: loss must be a function (jet, points) -> (n,) or a list, got {type(loss).__name__}")
    if isinstance(parameters, Tensor) or not isinstance(parameters, Iterable):
        raise TypeError(f"fit: parameters must be a sequence of nn.Parameter, got {type(parameters).__name__}")
    given = list(parameters)
    for k, parameter in enumerate(given):
        if not isinstance(parameter, nn.Parameter) or not parameter.requires_grad:
            kind = type(parameter).__name__
            raise TypeError(f"fit: parameters[{k}] must be an nn.Parameter that requires grad, got {kind}")
    return Task(terms, given)


def split_rule(points: Any) -> tuple[Any, Tensor | None]:
    """Points, and the weights of a quadrature rule where they are a pair (points, weights)."""
    if isinstance(points, (tuple, list)):
        if len(points) != 2:
            kind = f"a {type(points).__name__} of {len(points)}"
            raise ValueError(f"fit: points must be a tensor, a sampler or a pair (points, weights), got {kind}")
        return points[0], points[1]
    return points, None


def names_of(terms: Sequence[Term]) -> list[str]:
    """One for each, all different."""
    names: list[str] = []
    for k, term in enumerate(terms):
        name = plain = term.name or name_of_loss(term.loss)
        while name in names:
            name, k = f"{plain} {k}", k + 1
        names.append(name)
    return names


def name_of_loss(loss: object) -> str:
    """What a loss is called in results and checkpoints: its ``name``, that of the function, or its class."""
    own = getattr(loss, "name", None)
    name = own if isinstance(own, str) and own else getattr(loss, "__name__", type(loss).__name__)
    return "loss" if name == "<lambda>" else str(name)


def mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """Mean and its standard error of independent values."""
    mean = math.fsum(values) / len(values)
    spread = math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)
    return mean, math.sqrt(spread / len(values))
