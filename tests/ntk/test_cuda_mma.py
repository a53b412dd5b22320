"""The GPU's Gram builder by mma.sync, and what both kinds of products share, under emulation."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from emulated import emulated
from ntk.cases import problem
from ntk.digits import exact_sums, figures_of, session, whole, zero_sums
from torch import Tensor

from hrta_ext.ntk import choice, many_features, reference, sessions
from hrta_ext.ntk.types import GramSums, Neurons


@pytest.fixture(scope="module")
def kernels() -> Any:
    loaded = emulated("gram.cpp")
    loaded.build.restype = loaded.part_of_session.restype = ctypes.c_int64
    return loaded


@pytest.fixture(autouse=True)
def whole_card(kernels: Any) -> Any:
    yield
    kernels.limit_card(0, 0)
    kernels.run_backwards(0)


# One tile and three of them, a diagonal one each; as many operand blocks as stages, one more, fewer.
@pytest.mark.parametrize(("n", "m", "d"), [(1, 1, 1), (130, 200, 3), (128, 64 * 7, 2), (60, 64 * 6 + 1, 5)])
@pytest.mark.parametrize(("digits", "square_digits"), [(2, 2), (3, 3)])
def test_the_bits_of_wgmma(kernels: Any, n: int, m: int, d: int, digits: int, square_digits: int) -> None:
    x, weight, output_weight = problem(n, m, d, seed=n)
    run = {"square_digits": square_digits}
    first, _ = session(kernels, x, (weight, output_weight), digits, **run)
    kernels.limit_card(80, 99 * 1024)
    kernels.run_backwards(int(n % 4 == 0))
    again, _ = session(kernels, x, (weight, output_weight), digits, **run)
    assert all(torch.equal(one, two) for one, two in zip(first, again, strict=True))
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


def test_integers_near_their_limit(kernels: Any) -> None:
    """Sums of as many neurons as a session holds come close to 2^62, on the diagonal's tile in two words."""
    x, weight, output_weight = problem(5, 64, 3)
    own, _ = session(kernels, x, (weight, output_weight), 3, scratch_bytes=10_000)
    sums = zero_sums(x)
    before = torch.full((5, 5), 2**62 - 2**55)
    sums.slope_product.view(torch.int64).copy_(before.triu())
    sums.value_product.view(torch.int64).copy_(before.triu() - before.triu(1) // 2 + before.tril(-1) // 2)
    session(kernels, x, (weight, output_weight), 3, sums=sums, scratch_bytes=10_000)
    norms, square = x.norm(dim=1) * weight.norm(dim=1).max(), float(output_weight.square().max())
    value_step = norms[:, None] * norms / (0.995 * 2.0**32) ** 2 * 2.0**34
    steps = value_step.triu(), torch.full((5, 5), square / (0.9999 * 2.0**24), dtype=torch.float64).triu()
    for product, mine, step in zip(sums[4:], own[4:], steps, strict=True):
        torch.testing.assert_close(product, before * step + mine, rtol=1e-14, atol=0)


class Binary:
    """Stands in for the compiled module: every part of a session of sessions.py runs on the emulation."""

    GramCall = GramSums = Neurons = SimpleNamespace

    def __init__(self, kernels: Any) -> None:
        self.kernels, self.digits, self.adds = kernels, [], 0

    def part(self, part: int, call: Any) -> int:
        def of(name: str) -> int:
            return getattr(call, name, 0) or 0

        neurons = call.neurons
        sizes = [call.n, call.D, call.m, call.digits, of("square_digits"), neurons.dtype, call.scratch_bytes]
        sizes += [int(of("total")), neurons.seed, neurons.first]
        pointers = [call.x, neurons.weight, neurons.output_weight, *map(of, ("bounds", "z", "scratch", "figures"))]
        pointers += [getattr(call.sums, name) for name in GramSums._fields]
        return int(self.kernels.part_of_session(part, (ctypes.c_int64 * 10)(*sizes), (ctypes.c_void_p * 13)(*pointers)))

    def gram_session(self, call: Any, device: int) -> int:
        return self.part(0, call)

    def gram_figures(self, n: int, device: int) -> int:
        return max((n + 7) // 8, 3)

    def gram_begin(self, call: Any, device: int) -> None:
        self.digits.append((call.digits, call.square_digits))
        self.part(1, call)

    def gram_add(self, call: Any, device: int) -> None:
        self.adds += 1
        self.part(2, call)

    def gram_end(self, call: Any, device: int) -> None:
        self.part(3, call)


@pytest.fixture
def binary(kernels: Any, monkeypatch: pytest.MonkeyPatch) -> Binary:
    binary = Binary(kernels)
    monkeypatch.setattr(sessions, "_C", binary)
    monkeypatch.setattr(choice, "digits_to_try", lambda *shape: [2, 3])
    monkeypatch.setattr(choice, "LIMIT", 1.0)
    monkeypatch.setattr(many_features, "piece_of", lambda *shape: 128)
    return binary


def add_to(sums: GramSums, x: Tensor, neurons: Neurons, scratch_bytes: int = 2**28) -> bool:
    return sessions.add_to(sums, x, neurons, "relu", False, scratch_bytes, 2048, None)


@pytest.mark.parametrize(("n", "d"), [(30, 70), (130, 65)])
@pytest.mark.parametrize("drawn", [False, True])
def test_many_features(binary: Binary, n: int, d: int, drawn: bool) -> None:
    """More than the kernels form z of: by pieces, within the bound that goes with the steps; same bits on any card."""
    x, weight, output_weight = problem(n, 300, d)
    neurons = Neurons(300, weight, output_weight)
    if drawn:
        weight, output_weight = (part.double() for part in reference.random_weights(5, 3, 300, d, x.device))
        neurons = Neurons(300, None, None, 5, 3, reference.random_weights)
    sums = zero_sums(x)
    assert add_to(sums, x, neurons)
    assert binary.adds == 3
    exact, figures = exact_sums(x, weight, output_weight), figures_of(x, weight, output_weight)
    bounds = many_features.bounds(x, neurons)
    figures = replace(figures, norm2=1.0, largest=float(bounds.max()), samples=float(bounds.square().sum()))
    off = whole(sums.value_product - exact.value_product)
    assert off.norm() <= choice.value_error(figures, 2, 300)
    off = (x @ x.mT) * whole(sums.slope_product - exact.slope_product)
    assert off.norm() <= choice.slope_error(figures, 2, 300)
    for got, true in zip(sums[:2], exact[:2], strict=True):
        torch.testing.assert_close(got, true, rtol=0, atol=1e-13 * float(true.abs().max()))
    binary.kernels.limit_card(80, 99 * 1024)
    again = zero_sums(x)
    assert add_to(again, x, neurons)
    assert all(torch.equal(one, two) for one, two in zip(sums, again, strict=True))


@pytest.mark.parametrize("kind", ["z beyond its bound", "weight is NaN", "weight is infinite", "budget"])
def test_what_many_features_leave_to_the_library(binary: Binary, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight, output_weight = problem(30, 300, 70)
    neurons = Neurons(300, weight, output_weight)
    whole_bounds: Callable[..., Tensor] = many_features.bounds
    if kind == "z beyond its bound":  # one neuron alone, of the last piece
        weight[:299] *= 0.5
        weight[299] = 4.0 * weight[299]
        monkeypatch.setattr(many_features, "bounds", lambda x, neurons: 0.6 * whole_bounds(x, neurons))
    elif kind != "budget":
        weight[299, 69] = torch.nan if "NaN" in kind else torch.inf
    sums = zero_sums(x)
    assert not add_to(sums, x, neurons, 2**20 if kind == "budget" else 2**28)
    assert not any(part.any() for part in sums)
    assert binary.digits == ([] if kind == "budget" else [(2, 2)])


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("d", [65, 1000])
def test_bounds_hold_and_are_close(d: int, scale: float) -> None:
    """By |w_k| |x_i| they would be far off."""
    x, weight, output_weight = problem(20, 2000, d)
    weight, x[3] = scale * weight, 0.0
    seen = (x @ weight.mT).abs().amax(1)
    bounds = many_features.bounds(x, Neurons(2000, weight, output_weight))
    assert (seen <= bounds).all()
    assert (bounds <= 1.2 * seen).all()


def test_which_cards_serve(kernels: Any) -> None:
    """From compute capability 8.0 and 99 KB on; a card of little shared memory forms z of fewer features."""
    binary = Binary(kernels)

    def served(features: int, capability: int, shared: int) -> bool:
        kernels.limit_card(capability, shared)
        x = torch.ones(3, features).double()
        call = sessions.gram_call(zero_sums(x), x, Neurons(10), "relu", 2, 1 << 20, [])
        return binary.gram_session(call, 0) > 0

    compiled, sessions._C = sessions._C, binary
    try:
        assert served(64, 90, 227 * 1024)
        assert not served(65, 90, 227 * 1024)
        assert served(28, 86, 99 * 1024)
        assert not served(29, 86, 99 * 1024)
        assert not served(4, 80, 98 * 1024)
        assert not served(4, 75, 99 * 1024)
    finally:
        sessions._C = compiled
