"""Gradients of the network's functions at infinite samples, beside the limits of the dense formulas' gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from cases import BASES, homotopy, third
from network.cases import problem
from torch import Tensor
from torch.autograd import Function

import hrta_ext as hx

Outputs = Callable[..., Sequence[Tensor]]


class Derivative(Function):
    """The order-th derivative of sigma_s in float64, whose gradient in z is the next one, written out."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, s: float, base: str, order: int) -> Tensor:
        ctx.z, ctx.rest = z, (s, base, order + 1)
        return homotopy(z, s, base, order)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        s, base, order = ctx.rest
        return grad * (s * third(ctx.z, base) if order == 3 else homotopy(ctx.z, s, base, order)), None, None, None


def dense(x: Tensor, weight: Tensor, output_weight: Tensor, s: float, base: str) -> Sequence[Tensor]:
    z, a = x @ weight.T, output_weight * len(output_weight) ** -0.5
    factors = [Derivative.apply(z, s, base, order) * a for order in range(3)]
    return factors[0].sum(1), factors[1] @ weight, factors[2] @ weight.square()


def value(*given: Any, base: str) -> Sequence[Tensor]:
    return (hx.two_layer(*given, base=base),)


def jet(*given: Any, base: str) -> Sequence[Tensor]:
    return hx.two_layer_jet(*given, base=base, second="diagonal")


def gradients(function: Outputs, given: Sequence[Tensor], grads: Sequence[Tensor], *rest: Any, **named: Any) -> Any:
    """In x, weight and output_weight."""
    leaves = [t.clone().requires_grad_() for t in given]
    outputs = function(*leaves, *rest, **named)[: len(grads)]
    return torch.autograd.grad(outputs, leaves, grads)


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("s", [0.5, 1.0, 1.5])
def test_gradients_at_an_infinite_sample_are_the_limits(base: str, s: float) -> None:
    """In x and output_weight, of all that have one, whether s is a number, a buffer or learned. In a weight the formula
    has the sample as a factor, and no number is finite but a limit."""
    for infinity, seed in ((torch.inf, 1), (-torch.inf, 2)):
        x, weight, output_weight = problem(5, 6, 3, seed=seed)
        x[1, 0] = infinity
        generator = torch.Generator().manual_seed(seed)
        grads = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in ((5,), (5, 3), (5, 3))]
        given = x, weight, output_weight
        for function, few in ((value, grads[:1]), (hx.two_layer_with_gradient, grads[:2]), (jet, grads)):
            limits = [
                torch.where((farther - near).abs() <= 1e-9 * near.abs().clamp(min=1.0), near, torch.nan)
                for near, farther in zip(
                    *(gradients(dense, [x.clamp(-far, far), *given[1:]], few, s, base) for far in (1e6, 1e7)),
                    strict=True,
                )
            ]
            for parameter in (s, torch.tensor(s, dtype=torch.float64), torch.tensor(s).requires_grad_()):
                with hx.use_backend("torch"):
                    found = gradients(function, given, few, parameter, base=base)
                for got, limit, exact in zip(found, limits, (True, False, True), strict=True):
                    finite = got.isfinite()
                    assert bool((finite == limit.isfinite() if exact else finite <= limit.isfinite()).all())
                    torch.testing.assert_close(got[finite], limit[finite], rtol=1e-9, atol=1e-9)
