"""-Laplace u = 2 pi^2 sin(pi x) sin(pi y) on the unit square, u = 0 on its boundary, by the Ritz energy."""

import math

import torch
from shared import Solved, main
from torch import Tensor

import hrta_ext as hx

TITLE = "Poisson on a square, Deep Ritz"


def exact(x: Tensor) -> Tensor:
    """The solution."""
    return torch.sin(math.pi * x).prod(1)


def solve(*, s: object = 1.0, steps: int = 3000, width: int = 500, seed: int = 0) -> Solved:
    """New points at every step, as an energy needs them; the penalty costs an error of the order 1 / 500."""
    square = hx.Box([0.0, 0.0], [1.0, 1.0])
    energy = hx.DeepRitz(lambda x: 2 * math.pi**2 * exact(x), dirichlet=0.0, penalty=500.0)
    points = {
        "interior": hx.Sampler(square, 512, method="sobol", seed=seed),
        "dirichlet": hx.Sampler(square.boundary, 128, method="sobol", seed=seed),
    }
    net = hx.TwoLayerNet(2, width, base="sin", seed=seed)
    result = hx.fit(net, points, loss=energy, s=s, steps=steps, lr=0.1, lr_schedule="cosine")
    test = square.sample(2000, method="sobol", seed=1)
    return Solved(net, result, test.float(), exact(test))


if __name__ == "__main__":
    main(solve, TITLE, 3000)
