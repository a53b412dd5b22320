"""Laplace u + k^2 u = f on the unit square with k = 4, by the residual; u = 0 on the boundary."""

import math

import torch
from shared import Solved, main
from torch import Tensor

import hrta_ext as hx

TITLE = "Helmholtz on a square, residual"
K = 4.0


def exact(x: Tensor) -> Tensor:
    """The solution."""
    return torch.sin(math.pi * x[:, 0]) * torch.sin(2 * math.pi * x[:, 1])


def solve(*, s: object = 1.0, steps: int = 3000, width: int = 500, seed: int = 0) -> Solved:
    """Fixed points: a residual is bounded below by 0 wherever it is taken."""
    square = hx.Box([0.0, 0.0], [1.0, 1.0])
    equation = hx.Residual(lambda u, x: (u.second + K**2 * u.value - (K**2 - 5 * math.pi**2) * exact(x)) / 50)
    boundary = hx.Residual(lambda u, x: u.value, second=None)
    terms = [
        hx.Term(square.sample(512, method="sobol", seed=seed).float(), equation, name="equation"),
        hx.Term(square.sample_boundary(128, method="sobol", seed=seed).float(), boundary, weight=10.0, name="boundary"),
    ]
    net = hx.TwoLayerNet(2, width, base="sin", seed=seed)
    result = hx.fit(net, loss=terms, s=s, steps=steps, lr=0.3, lr_schedule="cosine")
    test = square.sample(2000, method="sobol", seed=1)
    return Solved(net, result, test.float(), exact(test))


if __name__ == "__main__":
    main(solve, TITLE, 3000)
