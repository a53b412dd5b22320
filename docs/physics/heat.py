"""The heat equation u_t = u_xx / pi^2 in (t, x), u = 0 at both ends, from a given start, by the residual."""

import math

import torch
from shared import Solved, main
from torch import Tensor

import hrta_ext as hx

TITLE = "Heat equation, residual"


def exact(x: Tensor) -> Tensor:
    """The solution at (t, x): each mode decays at its own rate."""
    t, x = x[:, 0], x[:, 1]
    return torch.exp(-t) * torch.sin(math.pi * x) + 0.5 * torch.exp(-4 * t) * torch.sin(2 * math.pi * x)


def solve(*, s: object = 1.0, steps: int = 3000, width: int = 500, seed: int = 0) -> Solved:
    """u_t and u_xx come from one pass over the neurons: second derivatives in column 1 alone."""
    cylinder = hx.Box([0.0, 0.0], [1.0, 1.0])  # (t, x)
    heat = hx.Residual(lambda u, x: u.gradient[:, 0] - u.second / math.pi**2, second_columns=[1])
    ends = hx.Residual(lambda u, x: u.value, second=None)
    start = hx.Residual(lambda u, x: u.value - exact(x), second=None)
    both_ends = torch.cat([cylinder.face(1, side).sample(64, seed=seed) for side in ("lower", "upper")])
    terms = [
        hx.Term(cylinder.sample(512, method="sobol", seed=seed).float(), heat, name="equation"),
        hx.Term(both_ends.float(), ends, weight=10.0, name="ends"),
        hx.Term(cylinder.face(0, "lower").sample(128, seed=seed).float(), start, weight=10.0, name="start"),
    ]
    net = hx.TwoLayerNet(2, width, base="sin", seed=seed)
    result = hx.fit(net, loss=terms, s=s, steps=steps, lr=0.1, lr_schedule="cosine")
    test = cylinder.sample(2000, method="sobol", seed=1)
    return Solved(net, result, test.float(), exact(test))


if __name__ == "__main__":
    main(solve, TITLE, 3000)
