"""The GPU's Gram builder by mma.sync, and what both kinds of products share, under emulation."""

from __future__ import annotations

import ctypes
from typing import Any

import pytest
import torch
from emulated import emulated
from ntk.cases import problem
from ntk.digits import exact_sums, figures_of, session, whole

from hrta_ext.ntk import choice


@pytest.fixture(scope="module")
def kernels() -> Any:
    loaded = emulated("gram.cpp")
    loaded.build.restype = ctypes.c_int64
    return loaded


@pytest.fixture(autouse=True)
def whole_card(kernels: Any) -> Any:
    yield
    kernels.limit_capability(0)
    kernels.run_backwards(0)


# One tile and three of them, a diagonal one each; as many operand blocks as stages, one more, fewer.
@pytest.mark.parametrize(("n", "m", "d"), [(1, 1, 1), (130, 200, 3), (128, 64 * 7, 2), (60, 64 * 6 + 1, 5)])
@pytest.mark.parametrize(("digits", "square_digits"), [(2, 2), (3, 3)])
def test_the_bits_of_wgmma(kernels: Any, n: int, m: int, d: int, digits: int, square_digits: int) -> None:
    x, weight, output_weight = problem(n, m, d, seed=n)
    run = {"square_digits": square_digits}
    first, _ = session(kernels, x, (weight, output_weight), digits, **run)
    kernels.limit_capability(80)
    again, _ = session(kernels, x, (weight, output_weight), digits, **run)
    kernels.run_backwards(1)
    third, _ = session(kernels, x, (weight, output_weight), digits, **run)
    for one, two, three in zip(first, again, third, strict=True):
        assert torch.equal(one, two)
        assert torch.equal(two, three)
    assert exact_sums(x, weight, output_weight).value_product.any()


@pytest.mark.parametrize("square_digits", [2, 3])
def test_squares_within_their_bound(kernels: Any, square_digits: int) -> None:
    """Two digits are good for what choice.py says, and no better than one in 2^16."""
    x, weight, output_weight = problem(70, 300, 3)
    sums, figures = session(kernels, x, (weight, output_weight), 3, square_digits=square_digits)
    exact = exact_sums(x, weight, output_weight)
    off = float(((x @ x.mT) * whole(sums.slope_product - exact.slope_product)).norm())
    bound = choice.slope_error(choice.Figures.read(figures), square_digits, 300)
    assert bound / 100 < off <= bound
    # Each square is off by one step at most, and the row sums are the diagonal of Q.
    step = 300 * float(output_weight.square().max()) / 2 ** (8 * square_digits)
    assert float((sums.square_sum - exact.square_sum).abs()) <= 1.01 * step
    assert torch.equal(sums.slope_sum, sums.slope_product.diagonal())


def test_a_product_that_is_left_out_stays(kernels: Any) -> None:
    """What a session repeats for one product alone leaves the other, and all that belongs to it, as it was."""
    x, weight, output_weight = problem(130, 200, 3)
    neurons = (weight, output_weight)
    coarse, _ = session(kernels, x, neurons, 2, square_digits=2)
    fine, figures = session(kernels, x, neurons, 3, square_digits=3)
    sums = type(coarse)(*(part.clone() for part in coarse))
    sums.value_product.zero_()
    session(kernels, x, neurons, 3, sums=sums, square_digits=0)
    sums.slope_product.zero_()
    _, last = session(kernels, x, neurons, 0, sums=sums, square_digits=3)
    for name, one, two in zip(fine._fields, fine, sums, strict=True):
        assert torch.equal(one, two), name
    assert torch.equal(figures, last)
    assert choice.Figures.read(last).square_sum == pytest.approx(figures_of(x, *neurons).square_sum, rel=1e-4)
