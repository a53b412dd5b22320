"""The GPU's products in levels (five and seven digits, every base) without a GPU: emulated, against float64 formulas.

The bounds of hrta_ext/ntk/levels.py, which hold for every weight, are held against what the kernels really make.
"""

from __future__ import annotations

import ctypes
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from cases import BASES
from emulated import address, emulated
from ntk.cases import dense, problem, relative_error
from ntk.digits import exact_sums, figures_of, session, whole, zero_sums
from torch import Tensor

import hrta_ext as hx
from hrta_ext.bases import BASES as NUMBERED
from hrta_ext.compiled import KINDS
from hrta_ext.ntk import choice, levels, reference, sessions
from hrta_ext.ntk.types import Neurons

# Of float64 itself: z, sigma, sums over few neurons. The bounds leave them out (levels.LIMIT has room for them).
ROUNDING = 4e-15


@pytest.fixture(scope="module")
def kernels() -> Any:
    loaded = emulated("gram.cpp")
    loaded.build.restype = ctypes.c_int64
    return loaded


@pytest.fixture(autouse=True)
def whole_card(kernels: Any) -> Any:
    yield
    kernels.limit_multiprocessors(0)
    kernels.run_backwards(0)


def check_sums(problem: tuple[Tensor, Tensor, Tensor], digits: int, base: str, sums: Any) -> None:
    exact, m = exact_sums(*problem, base), len(problem[1])
    x, figures = problem[0], figures_of(*problem, base)
    inner = x @ x.mT
    assert not sums.value_product.tril(-1).any()
    assert not sums.slope_product.tril(-1).any()
    p, q = whole(exact.value_product), inner * whole(exact.slope_product)
    bound = levels.value_error(figures, digits, m) + ROUNDING * float(p.diagonal().sum())
    assert (whole(sums.value_product) - p).norm() <= bound
    bound = levels.slope_error(figures, base, digits, m) + ROUNDING * float(q.diagonal().sum())
    assert (inner * whole(sums.slope_product) - q).norm() <= bound
    rounding = 1e-13 if digits > 5 or base != "relu" else 1e-10
    for got, true in zip(sums[:4], exact[:4], strict=True):
        size = float(true.abs().max())
        torch.testing.assert_close(got, true, rtol=0, atol=rounding * size)


# One row block and two; a part of a block of neurons and several; with sums in private planes and in place.
SHAPES = [(5, 70, 2), (131, 150, 3), (40, 257, 9)]


@pytest.mark.parametrize("base", BASES)
def test_sums_within_their_bounds(kernels: Any, base: str) -> None:
    """Every base with five and seven digits; figures by their definition; threads in the opposite order."""
    at = BASES.index(base)
    for digits in (5, 7):
        n, m, d = SHAPES[(at + digits) % 3] if at % 2 else SHAPES[at % 3]
        n = min(n, 40) if digits == 7 else n
        dtype = torch.float32 if digits == 5 else torch.float64
        x, *neurons = problem(n, m, d, seed=n)
        data = x, neurons[0].to(dtype), neurons[1].to(dtype)
        sums, figures = session(kernels, x, data[1:], digits, base=base)
        check_sums(data, digits, base, sums)
        found, expected = choice.Figures.read(figures), figures_of(*data, base)
        for name in ("values", "slopes", "trace", "norm2", "square", "square_sum", "sizes", "size"):
            assert getattr(found, name) == pytest.approx(getattr(expected, name), rel=1e-6, abs=1e-9), name
        for name in ("slope_sizes", "slope_trace"):  # the bound on slopes may be that of all z
            assert getattr(found, name) >= getattr(expected, name) * (1 - 1e-9)
    kernels.run_backwards(1)
    again, _ = session(kernels, x, data[1:], digits, base=base)
    assert all(torch.equal(one, two) for one, two in zip(sums, again, strict=True))


@pytest.mark.parametrize(("base", "digits"), [("relu", 8), ("relu2", 8), ("gelu", 8)])
def test_one_more_level(kernels: Any, base: str, digits: int) -> None:
    data = problem(33, 100, 3)
    seven, _ = session(kernels, data[0], data[1:], 7, base=base)
    eight, _ = session(kernels, data[0], data[1:], 8, base=base)
    check_sums(data, 8, base, eight)
    assert not torch.equal(seven.value_product, eight.value_product)


def adversarial(kind: str) -> tuple[Tensor, Tensor, Tensor]:
    x, weight, output_weight = problem(12, 200, 3, seed=4)
    if kind == "one large neuron":
        weight[7] *= 1000.0
    elif kind == "one large output weight":
        output_weight[7] *= 1000.0
    elif kind == "identical neurons":
        weight[:], output_weight[:] = weight[0], output_weight[0]
    elif kind == "zero samples and weights":
        x[3:6], weight[:100], output_weight[50:60] = 0.0, weight[:100].round(), 0.0
    elif kind == "samples of every size":
        x *= 10.0 ** torch.linspace(-300, 2, 12, dtype=torch.float64)[:, None]
    return x, weight, output_weight


HURTS = ("one large neuron", "one large output weight", "identical neurons", "zero samples and weights")
HURTS += ("samples of every size",)


@pytest.mark.parametrize("kind", HURTS)
@pytest.mark.parametrize(("base", "digits"), [("relu", 7), ("softplus", 5), ("relu2", 7), ("sin", 5)])
def test_bounds_hold_for_weights_that_hurt(kernels: Any, kind: str, base: str, digits: int) -> None:
    data = adversarial(kind)
    sums, _ = session(kernels, data[0], data[1:], digits, base=base)
    check_sums(data, digits, base, sums)


# Budget, neurons between two calls, multiprocessors: they decide the chunks, the carries from word to word, and the
# shares of a tile, whose sums are private, shared by atomics, or one block's alone.
CUTS = [("tanh", 5, 30, 2, 1100, [(1 << 20, 512, 0), (1 << 26, 0, 1)])]
CUTS += [("relu", 7, 140, 3, 300, [(1 << 18, 0, 2)]), ("gelu", 8, 20, 3, 600, [(1 << 20, 512, 3)])]
CUTS += [("erf", 5, 513, 2, 70, [(1 << 24, 0, 1)])]


@pytest.mark.parametrize(("base", "digits", "n", "d", "count", "runs"), CUTS)
def test_same_bits_for_any_card_budget_and_cut(
    kernels: Any, base: str, digits: int, n: int, d: int, count: int, runs: Any
) -> None:
    x = problem(n, 1, d)[0]
    first, _ = session(kernels, x, (3, 0, count), digits, base=base)
    for budget, stretch, multiprocessors in runs:
        kernels.limit_multiprocessors(multiprocessors)
        again, _ = session(kernels, x, (3, 0, count), digits, scratch_bytes=budget, stretch=stretch, base=base)
        for name, one, two in zip(first._fields, first, again, strict=True):
            assert torch.equal(one, two), (name, budget, stretch, multiprocessors)


CLASSES = [("gelu", False, 4, 5), ("relu", True, 4, 7), ("relu2", True, 4, 8), ("silu", True, 64, 8)]


@pytest.mark.parametrize(("base", "high", "d", "digits"), CLASSES)
def test_matrices_within_their_class(kernels: Any, base: str, high: bool, d: int, digits: int) -> None:
    """The first way that is tried does it, with as many features as the kernel takes too."""
    data = problem(70, 130, d)
    assert levels.tries(base, high, 70, d, 130)[0] == digits
    sums, figures = session(kernels, data[0], data[1:], digits, base=base)
    assert max(levels.errors(choice.Figures.read(figures), digits, 130, base)) <= levels.limit(high)
    s = (0.0, 0.5, 1.0, 1.5, 2.0)
    found = reference.evaluate(data[0], sums, 130, torch.tensor(s).double(), False, torch.float64)
    for i, value in enumerate(s):
        for got, true in zip(found, dense(*data, value, base), strict=True):
            assert relative_error(got[i], true) <= (1e-13 if high else 1e-6)


@pytest.mark.parametrize("n", [65, 128, 300, 512, 513, 2048, 4096, 4097, 8192, 20_000])
def test_scratch_memory_within_the_budget(kernels: Any, n: int) -> None:
    """From the least that gram accepts on: what the library's products need."""
    for d in (1, 4, 64):
        least = reference.least_scratch(n, 0, d, 1, "gelu", True)
        for budget in (least, 1 << 28):
            for digits, base, m in ((5, "gelu", 10**7), (7, "gelu", 1000), (7, "relu", 10**6), (8, "relu2", 10**6)):
                sizes = torch.tensor([n, d, m, digits, KINDS[torch.float32], budget, m, 3, NUMBERED[base].number])
                nothing = ctypes.c_void_p(None)
                rest = [nothing] * 3 + [ctypes.c_uint64(0)] * 2 + [nothing] * 3
                size = kernels.build(address(sizes), *rest)
                assert 0 < size <= max(budget, least)


# --- which way ------------------------------------------------------------------------------------------------------


def fastest(figures: choice.Figures, base: str, high: bool, n: int, d: int, width: int) -> int | None:
    """The first way whose bound is within the class; None: the products of a library."""
    ways = levels.tries(base, high, n, d, width)
    return next((way for way in ways if max(levels.errors(figures, way, width, base)) <= levels.limit(high)), None)


@pytest.mark.parametrize("base", BASES)
def test_normal_weights_are_served(base: str) -> None:
    """In both classes, with few neurons and with many: the bounds of levels do not need many."""
    for width in (300, 20_000):
        data = problem(65, width, 4)
        figures = figures_of(*data, base)
        low = fastest(figures, base, False, 65, 4, width)
        assert low == 5
        assert fastest(figures, base, True, 65, 4, width) == (8 if base == "relu2" else 7)


def test_few_samples_are_left_to_the_library() -> None:
    assert levels.tries("gelu", False, 64, 4, 10**6) == []
    assert levels.tries("relu", True, 16, 4, 10**6) == []
    assert levels.tries("relu", False, 64, 4, 10**7) == []


@pytest.mark.parametrize("base", ["relu", "gelu"])
def test_outliers_take_more_digits_or_the_library(base: str) -> None:
    """One neuron with 1000 times the weight of the others, or one such output weight."""
    for kind in ("neuron", "output weight"):
        x, weight, output_weight = problem(65, 50_000, 3)
        if kind == "neuron":
            weight[5] *= 1000.0
            weight[5] *= torch.sign((x @ weight[5]).sum())
        else:
            output_weight[5] *= 1000.0
        figures = figures_of(x, weight, output_weight, base)
        low = fastest(figures, base, False, 65, 3, 50_000)
        assert low == (5 if kind == "output weight" and base == "relu" else 7)
        high = fastest(figures, base, True, 65, 3, 50_000)
        assert high is None or high >= 7


def test_cancelling_terms_go_to_the_library() -> None:
    """silu at s = 2 on samples of 1e-3: sigma_s is 1e-6 there, what is added up 1e-3."""
    x, weight, output_weight = problem(65, 1000, 3)
    figures = figures_of(1e-3 * x, weight, output_weight, "silu")
    assert fastest(figures, "silu", False, 65, 3, 1000) == 7
    assert fastest(figures, "silu", True, 65, 3, 1000) is None


@pytest.mark.parametrize("name", ["norm2", "square", "slope_sizes", "sizes", "size", "trace"])
def test_what_is_not_finite_has_no_bound(name: str) -> None:
    figures = figures_of(*problem(10, 500, 3), "tanh")
    assert max(levels.errors(figures, 5, 500, "tanh")) < 1e-6
    for value in (torch.nan, torch.inf):
        assert max(levels.errors(replace(figures, **{name: value}), 5, 500, "tanh")) == torch.inf


def test_figures_of_a_failed_session_choose_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three digits that do not do it, five levels that cannot: then seven, without a session of five."""
    tried: list[tuple[int, int]] = []
    x, weight, output_weight = problem(65, 3000, 3)
    figures = figures_of(x, weight, output_weight)
    figures = replace(figures, sizes=1e4 * figures.sizes)

    def session(*arguments: Any) -> choice.Figures:
        tried.append(arguments[4])
        return figures

    monkeypatch.setattr(sessions, "_session", session)
    monkeypatch.setattr(sessions, "_C", SimpleNamespace(gram_session=lambda call, device: 1))
    monkeypatch.setattr(sessions, "gram_call", lambda *arguments: SimpleNamespace())
    monkeypatch.setattr(choice, "digits_to_try", lambda *shape: [3])
    monkeypatch.setattr(levels, "tries", lambda *shape: [5, 7])
    neurons = Neurons(3000, weight, output_weight)
    assert sessions.add_to(zero_sums(x), x, neurons, "relu", False, 0, 0, None)
    assert tried == [(3, 3), (7, 0)]


def test_a_sine_far_out_is_left_to_the_library(kernels: Any) -> None:
    x, weight, output_weight = problem(5, 70, 2)
    _, figures = session(kernels, 1e6 * x, (weight, output_weight), 5, base="sin")
    assert max(levels.errors(choice.Figures.read(figures), 5, 70, "sin")) == torch.inf


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_weights_that_are_not_finite_have_no_bound(kernels: Any, bad: float) -> None:
    for place in range(2):
        x, weight, output_weight = problem(4, 70, 2)
        (weight[3] if place == 0 else output_weight[3:4])[0] = bad
        _, figures = session(kernels, x, (weight, output_weight), 5, base="tanh")
        assert max(levels.errors(choice.Figures.read(figures), 5, 70, "tanh")) == torch.inf


def test_drawn_neurons_are_those_in_memory(kernels: Any) -> None:
    x = problem(10, 1, 6)[0]
    drawn, _ = session(kernels, x, (3, 0, 100), 5, base="erf")
    stored, _ = session(kernels, x, hx.random_weights(0, 100, 6, seed=3, dtype=torch.float32), 5, base="erf")
    assert all(torch.equal(one, two) for one, two in zip(drawn, stored, strict=True))
