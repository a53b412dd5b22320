"""How many digits the GPU's Gram builder takes: the bounds of ntk/choice.py on data, from exact sums."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from ntk.cases import problem
from ntk.digits import exact_sums, figures_of, whole

from hrta_ext.ntk import choice


def fewest(figures: choice.Figures, width: int) -> int | None:
    """The digits that the bound allows; None: the products of a library."""
    return next((d for d in (2, 3) if max(choice.errors(figures, d, 3, width)) <= choice.LIMIT), None)


def test_normal_weights_take_fewer_digits_the_wider_they_are() -> None:
    """Figures grow with the width as sums do."""
    x, weight, output_weight = problem(100, 20_000, 4)
    figures = figures_of(x, weight, output_weight)
    found = {}
    for width in (2_000, 100_000, 10_000_000):
        times = width / 20_000
        grown = replace(
            figures,
            values=[times**2 * part for part in figures.values],
            slopes=[times**2 * part for part in figures.slopes],
            trace=times * figures.trace,
            square_sum=times * figures.square_sum,
        )
        found[width] = fewest(grown, width)
        assert (found[width] is None) == (choice.digits_to_try(100, 4, width) == [])
    assert found == {2_000: None, 100_000: 3, 10_000_000: 2}


@pytest.mark.parametrize(("n", "d"), [(100, 3), (100, 64)])
@pytest.mark.parametrize("kind", ["signs", "uniform", "normal"])
def test_squares_take_two_digits_where_they_are_even(kind: str, n: int, d: int) -> None:
    """What is tried first is what the bound allows, to a factor of four in the width; as for drawn normal weights."""
    generator = torch.Generator().manual_seed(0)
    x, weight, output_weight = problem(n, 20_000, d)
    if kind == "signs":
        output_weight = output_weight.sign()
    elif kind == "uniform":
        output_weight = torch.rand(20_000, generator=generator, dtype=torch.float64) - 0.5
    figures = figures_of(x, weight, output_weight)
    widths = [4**power for power in range(6, 16)]
    tried, holds = [], []
    for width in widths:
        times = width / 20_000
        largest = 2.0 * math.log(width) if kind == "normal" else figures.square  # grows with the width
        grown = replace(
            figures,
            slopes=[times**2 * part for part in figures.slopes],
            square_sum=times * figures.square_sum,
            square=largest,
        )
        tried.append(2 in choice.square_digits_to_try(n, d, width, None if kind == "normal" else output_weight))
        holds.append(choice.errors(grown, 3, 2, width)[1] <= choice.LIMIT)
    assert holds == sorted(holds)
    assert holds[-1]
    assert not holds[0]
    assert abs(tried.index(True) - holds.index(True)) <= 1
    assert 2 not in choice.square_digits_to_try(n, d, 10**9, torch.full((4,), torch.nan))


@pytest.mark.parametrize("kind", ["neuron", "output weight"])
def test_an_outlier_is_left_to_the_library(kind: str) -> None:
    x, weight, output_weight = problem(50, 100_000, 3)
    assert fewest(figures_of(x, weight, output_weight), 100_000) == 3
    if kind == "neuron":
        weight[5] *= 1000.0
        if (x @ weight[5]).max() <= 0:
            weight[5] = -weight[5]
    else:
        output_weight[5] *= 1000.0
    assert fewest(figures_of(x, weight, output_weight), 100_000) is None


def test_identical_neurons_are_no_harm() -> None:
    """The dither is the neuron's number's, not its weights'."""
    x, weight, output_weight = problem(50, 100_000, 3)
    weight[:], output_weight[:] = weight[0], output_weight[0]
    assert fewest(figures_of(x, weight, output_weight), 100_000) in (2, 3)


@pytest.mark.parametrize(
    ("name", "value"),
    [("norm2", math.nan), ("norm2", math.inf), ("square", math.inf), ("square_sum", 0.0), ("largest", 0.0)]
    + [("norm2", 1e-300), ("norm2", 1e300), ("trace", math.nan)],
)
def test_what_is_not_ordinary_has_no_bound(name: str, value: float) -> None:
    figures = figures_of(*problem(10, 5_000, 3))
    assert max(choice.errors(figures, 3, 3, 5_000)) < math.inf
    assert max(choice.errors(replace(figures, **{name: value}), 3, 3, 5_000)) == math.inf


def rounded(x: torch.Tensor, weight: torch.Tensor, seed: int) -> torch.Tensor:
    """P from values of 16 bits, each rounded by a dither of its own."""
    value = (x @ weight.mT).clamp(min=0.0)
    step = weight.norm(dim=1).max() * x.norm(dim=1, keepdim=True) / (0.995 * 2**16)
    dither = torch.rand(value.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    value = step * (value / step + dither).floor() * (value > 0)
    return value @ value.mT


def test_the_bound_of_two_digits_is_not_far_from_what_happens() -> None:
    """It must hold for every seed; a factor of ten beyond what is seen would cost digits for nothing."""
    x, weight, output_weight = problem(100, 20_000, 3)
    exact = whole(exact_sums(x, weight, output_weight).value_product)
    bound = choice.value_error(figures_of(x, weight, output_weight), 2, 20_000)
    seen = max(float((rounded(x, weight, seed) - exact).norm()) for seed in range(5))
    assert bound / 10 < seen <= bound
