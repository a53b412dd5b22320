"""-Laplace u + u = f in the unit cube of six dimensions, where no grid goes, by the residual at points drawn anew."""

import math

import torch
from shared import Solved, main
from torch import Tensor

import hrta_ext as hx

TITLE = "Reaction and diffusion in six dimensions, residual"
D = 6


def exact(x: Tensor) -> Tensor:
    """The solution: no flux through any face."""
    return torch.cos(math.pi * x).mean(1)


def solve(*, s: object = 1.0, steps: int = 3000, width: int = 500, seed: int = 0) -> Solved:
    """du/dn = 0 is a residual of the gradient and the outward normals."""
    cube = hx.Box([0.0] * D, [1.0] * D)
    equation = hx.Residual(lambda u, x: (u.value - u.second - (1 + math.pi**2) * exact(x)) / 10)
    flux = hx.Residual(lambda u, x: (u.gradient * cube.normals(x)).sum(1), second=None)
    terms = [
        hx.Term(hx.Sampler(cube, 1024, seed=seed), equation, name="equation"),
        hx.Term(hx.Sampler(cube.boundary, 512, seed=seed), flux, name="flux"),
    ]
    net = hx.TwoLayerNet(D, width, base="tanh", seed=seed)
    result = hx.fit(net, loss=terms, s=s, steps=steps, lr=0.1, lr_schedule="cosine")
    test = cube.sample(4000, seed=10**6)
    return Solved(net, result, test.float(), exact(test))


if __name__ == "__main__":
    main(solve, TITLE, 3000)
