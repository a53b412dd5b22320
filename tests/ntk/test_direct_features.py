"""Both matrices at one s for many features, whose pre-activations matrix tiles form by digits where there are any."""

from __future__ import annotations

import pytest
import torch
from cases import BASES
from ntk.cases import CLASSES, dense, problem, relative_error
from torch import Tensor

import hrta_ext as hx

needs_kernels = pytest.mark.skipif(not hx.backends()["cpp"], reason="backend cpp is not usable here")


def check(tensors: tuple[Tensor, Tensor, Tensor], s: float, base: str) -> None:
    for got, true in zip(hx.gram(*tensors, s, base=base), dense(*tensors, s, base), strict=True):
        assert torch.equal(got, got.mT)
        assert relative_error(got, true) <= CLASSES[torch.float32], (base, s)


# Around tiles of 64 features and 16 rows, slabs of 256 features, runs of 48 neurons and panels of 192 samples.
SHAPES = [(10, 513, 64), (33, 600, 65), (17, 529, 320), (100, 512, 257), (195, 550, 128)]


@needs_kernels
@pytest.mark.parametrize("base", BASES)
def test_class(base: str) -> None:
    for index, shape in enumerate(SHAPES):
        check(problem(*shape, seed=index, dtype=torch.float32), (0.7, 1.0, 1.5)[index % 3], base)


@needs_kernels
@pytest.mark.parametrize("base", ["relu", "tanh", "gelu"])
@pytest.mark.parametrize("place", ["sample", "neuron", "both", "feature"])
def test_numbers_far_larger_than_their_neighbours(base: str, place: str) -> None:
    """A row's digits are as wide as its largest number needs: few are left for the others."""
    x, weight, output_weight = problem(33, 600, 100, dtype=torch.float32)
    if place in ("sample", "both"):
        x[3, 70] = 1e6
    if place in ("neuron", "both"):
        weight[500, 71] = -1e7
    if place == "feature":  # z is as ever, the products of the largest numbers are not
        x[:, 5], weight[:, 5] = 1e8 * x[:, 5], 1e-8 * weight[:, 5]
    check((x, weight, output_weight), 1.0, base)


@needs_kernels
@pytest.mark.parametrize("base", ["relu", "tanh"])
def test_zeros_and_rows_near_the_smallest_numbers(base: str) -> None:
    """Rows whose digits would be smaller than any float; their signs are those of float64 all the same."""
    x, weight, output_weight = problem(40, 600, 130, dtype=torch.float32)
    x[2], weight[5:9], weight[599] = 0.0, 0.0, 0.0
    x[4] *= 1e-33
    weight[20:40] *= 1e-35
    x[:, 129], weight[:, 64] = 0.0, 0.0
    check((x, weight, output_weight), 1.0, base)


@needs_kernels
def test_ties_of_many_features() -> None:
    """Sums of small integers are exact, and a z of zero has sigma' = 0."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(-2, 3, (40, 150), generator=generator).float()
    weight = torch.randint(-2, 3, (600, 150), generator=generator).float()
    assert int((x @ weight.mT == 0).sum()) > 300
    check((x, weight, torch.ones(600)), 1.0, "relu")


@needs_kernels
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("at", [(0, 0), (599, 99), (47, 64)])
def test_a_weight_that_is_not_finite_gives_nan(bad: float, at: tuple[int, int]) -> None:
    x, weight, output_weight = problem(20, 600, 100, dtype=torch.float32)
    weight[at] = bad
    for base in ("relu", "tanh"):
        for part in hx.gram(x, weight, output_weight, 0.5, base=base):
            assert part.isnan().all()
