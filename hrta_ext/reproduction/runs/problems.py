"""The data of the experiments: the paper's functions, its Poisson problem, and two tables of real measurements.

Formulas and domains did not survive in the text of the paper that this project has: they are our reading
(docs/theory.md, section 4). Everything is float32, the type of training.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

_NOISE_SEED = 1 << 20


@dataclass(frozen=True)
class Problem:
    """What a network is trained on, and where its error is measured.

    Attributes:
        x, y: Training samples (n, d) and targets (n,).
        x_test, y_test: Where errors are measured, without noise: (N, d), (N,).
        x_validation, y_validation: Rows that tuning may look at; None where tuning looks at the training loss.
        gradient, gradient_test: Of the target in x, (n, d) and (N, d), for the Sobolev loss; None elsewhere.
    """

    x: Tensor
    y: Tensor
    x_test: Tensor
    y_test: Tensor
    x_validation: Tensor | None = None
    y_validation: Tensor | None = None
    gradient: Tensor | None = None
    gradient_test: Tensor | None = None


PROBLEMS = ("sin1d", "sin3d", "poisson", "diabetes", "digits")


def make_problem(name: str, *, n: int | None = None, noise: float = 0.0, seed: int = 0) -> Problem:
    """Problem ``name``.

    Args:
        name: One of PROBLEMS.
        n: Number of training samples of a sin problem; None for the paper's 100 (d = 1) and 125 (d = 3). In d = 3 a
            number that is no cube gives points drawn uniformly, the same ones for every seed.
        noise: Standard deviation of normal noise on the training targets of a sin problem.
        seed: Of the noise, and of the split of a table.
    """
    if name in ("sin1d", "sin3d"):
        return _sin(1 if name == "sin1d" else 3, n, noise, seed)
    if n is not None or noise:
        raise ValueError(f"make_problem: n and noise are for the sin problems, not for {name}")
    if name == "poisson":
        return _poisson()
    if name in ("diabetes", "digits"):
        return _table(name, seed)
    raise ValueError(f"make_problem: name must be one of {', '.join(PROBLEMS)}, got {name!r}")


def grid(per_side: int, d: int) -> Tensor:
    """The uniform grid of [0, 1]^d with ``per_side`` points a side, ends included: (per_side^d, d)."""
    side = torch.linspace(0.0, 1.0, per_side)
    return torch.cartesian_prod(*[side] * d).reshape(-1, d)


def _sin(d: int, n: int | None, noise: float, seed: int) -> Problem:
    """sin(2 pi (x_1 + ... + x_d)) on [0, 1]^d (Examples 1 and 2)."""
    n = n or (100 if d == 1 else 125)
    per_side = round(n ** (1 / d))
    drawn = torch.rand(n, d, generator=torch.Generator().manual_seed(0))
    x = grid(per_side, d) if per_side**d == n else drawn
    x_test = grid(1001 if d == 1 else 21, d)
    y = _sum_sin(x)
    if noise:
        y = y + noise * torch.randn(n, generator=torch.Generator().manual_seed(_NOISE_SEED + seed))
    return Problem(x, y, x_test, _sum_sin(x_test))


def _sum_sin(x: Tensor) -> Tensor:
    return torch.sin(2.0 * math.pi * x.double().sum(1)).float()


def _poisson() -> Problem:
    """u* = cos(pi x_1) + cos(pi x_2) on [0, 1]^2: -Laplace u = pi^2 u*, no flux through the boundary (Example 3)."""

    def value(x: Tensor) -> Tensor:
        return torch.cos(math.pi * x.double()).sum(1).float()

    def gradient(x: Tensor) -> Tensor:
        return (-math.pi * torch.sin(math.pi * x.double())).float()

    x, x_test = grid(20, 2), grid(101, 2)
    return Problem(x, value(x), x_test, value(x_test), gradient=gradient(x), gradient_test=gradient(x_test))


def _table(name: str, seed: int) -> Problem:
    """Rows in random order, 60% to train on, 20% for tuning, 20% for the error, scaled by the first part."""
    try:
        from sklearn import datasets
    except ModuleNotFoundError:
        message = "the tables of real data need scikit-learn: pip install 'hrta_ext[reproduce]'"
        raise ModuleNotFoundError(message) from None
    load = datasets.load_diabetes if name == "diabetes" else datasets.load_digits
    features, target = load(return_X_y=True)
    x, y = torch.as_tensor(features).double(), torch.as_tensor(target).double()
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    n, n_validation = len(x) * 6 // 10, len(x) * 2 // 10
    x, y = x[order], y[order]
    x, y = _scaled(x, x[:n], math.sqrt(x.shape[1])).float(), _scaled(y, y[:n]).float()
    end = n + n_validation
    return Problem(x[:n], y[:n], x[end:], y[end:], x[n:end], y[n:end])


def _scaled(values: Tensor, training: Tensor, factor: float = 1.0) -> Tensor:
    """As ``hrta train`` scales a table: centred, over ``factor`` standard deviations of the training rows.

    A column that is constant in these is divided by ``factor`` alone. With factor sqrt(d) a sample of d features has
    mean square norm 1.
    """
    deviation = training.std(0, correction=0)
    deviation = torch.where(training.amax(0) > training.amin(0), deviation, torch.ones_like(deviation))
    return (values - training.mean(0)) / (deviation * factor)
