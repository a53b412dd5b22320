"""The GPU's Gram builder without a GPU: its kernels compiled as C++ and run thread by thread (tests/emulation).

Indices, digits, masks, integer sums and epilogues are the kernels' own, tensor cores and copies are emulated; it is
blind to races and speed. The bounds of ntk/choice.py are held against the errors that the kernels really make.
"""

from __future__ import annotations

import ctypes
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from emulated import Guarded, address, emulated
from ntk.cases import dense, problem
from ntk.digits import exact_sums, figures_of, session, whole, zero_sums
from torch import Tensor

import hrta_ext as hx
from hrta_ext.ntk import choice, reference, sessions
from hrta_ext.ntk.types import Neurons


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


@pytest.mark.parametrize(("count", "d", "seed", "first"), [(37, 1, 0, 0), (5, 3, 2**63, 7), (33, 8, 5, 2**40 - 3)])
def test_drawn_weights_have_the_bits_of_the_cpu(kernels: Any, count: int, d: int, seed: int, first: int) -> None:
    weight, output_weight = Guarded((count, d), torch.float32), Guarded((count,), torch.float32)
    numbers = ctypes.c_uint64(seed), ctypes.c_uint64(first), ctypes.c_int64(count), ctypes.c_int64(d)
    kernels.draw(*numbers, address(weight.result), address(output_weight.result))
    expected = hx.random_weights(first, count, d, seed=seed, dtype=torch.float32)
    assert torch.equal(weight.checked(), expected[0])
    assert torch.equal(output_weight.checked(), expected[1])


# Row blocks of 128 samples, operand blocks of 64 neurons: one less, as many, one more; features with and without a
# kernel of their own; sums in private planes (n <= 512) and in place.
SHAPES = [(1, 1, 1), (5, 130, 2), (129, 65, 3), (128, 64, 4), (40, 257, 9), (70, 63, 33), (513, 70, 2)]


@pytest.mark.parametrize("digits", [2, 3])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_sums_within_their_bounds(kernels: Any, shape: tuple[int, int, int], digits: int) -> None:
    """Against float64: products within choice.py's bounds, the others to rounding; figures by their definition."""
    n, m, d = shape
    dtype = torch.float32 if digits == 2 else torch.float64
    x, weight, output_weight = problem(n, m, d, seed=n)
    weight, output_weight = weight.to(dtype), output_weight.to(dtype)
    sums, figures = session(kernels, x, (weight, output_weight), digits)
    check_sums(x, weight, output_weight, digits, sums)
    found, expected = choice.Figures.read(figures), figures_of(x, weight, output_weight)
    for name in ("values", "slopes", "trace", "samples", "largest", "norm2", "square", "square_sum"):
        assert getattr(found, name) == pytest.approx(getattr(expected, name), rel=1e-3), name
    kernels.run_backwards(1)
    again, _ = session(kernels, x, (weight, output_weight), digits)
    assert all(torch.equal(one, two) for one, two in zip(sums, again, strict=True))


def check_sums(
    x: Tensor, weight: Tensor, output_weight: Tensor, digits: int, sums: Any, square_digits: int = 3
) -> None:
    exact, m = exact_sums(x, weight, output_weight), len(weight)
    figures = figures_of(x, weight, output_weight)
    inner = x @ x.mT
    assert not sums.value_product.tril(-1).any()
    assert not sums.slope_product.tril(-1).any()
    off = whole(sums.value_product - exact.value_product)
    assert off.norm() <= choice.value_error(figures, digits, m)
    off = inner * whole(sums.slope_product - exact.slope_product)
    assert off.norm() <= choice.slope_error(figures, square_digits, m)
    torch.testing.assert_close(sums.linear, exact.linear, rtol=0, atol=1e-13 * float(exact.linear.abs().max()))
    torch.testing.assert_close(sums.cross, exact.cross, rtol=0, atol=1e-13 * float(exact.linear.abs().max()))
    # Each square is off by one step at most, and the row sums are the diagonal of Q.
    step = m * float(output_weight.double().square().max()) / 2 ** (8 * square_digits)
    assert float((sums.square_sum - exact.square_sum).abs()) <= 1.01 * step
    assert torch.equal(sums.slope_sum, sums.slope_product.diagonal())


def adversarial(kind: str) -> tuple[Tensor, Tensor, Tensor]:
    x, weight, output_weight = problem(20, 300, 3, seed=4)
    if kind == "one large neuron":
        weight[7] *= 1000.0
    elif kind == "one large output weight":
        output_weight[7] *= 1000.0
    elif kind == "identical neurons":
        weight[:], output_weight[:] = weight[0], output_weight[0]
    elif kind == "zero samples and ties":
        x[3:6], weight[:100] = 0.0, weight[:100].round()
        x[7] = x[8].round()
    elif kind == "samples of every size":
        x *= 10.0 ** torch.linspace(-300, 2, 20, dtype=torch.float64)[:, None]
    return x, weight, output_weight


KINDS = ("one large neuron", "one large output weight", "identical neurons", "zero samples and ties")
KINDS += ("samples of every size",)


@pytest.mark.parametrize("digits", [2, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_bounds_hold_for_weights_that_hurt(kernels: Any, kind: str, digits: int) -> None:
    x, weight, output_weight = adversarial(kind)
    sums, _ = session(kernels, x, (weight, output_weight), digits)
    check_sums(x, weight, output_weight, digits, sums)


# Budget, neurons between two calls, multiprocessors: they decide the chunks, the cut by progress, and the shares of a
# tile, whose sums are private (n <= 512), shared by atomics, or, with many tiles a multiprocessor, one block's alone.
CUTS = [(30, 2, 4100, [(1 << 20, 2048, 0), (1 << 26, 0, 1)]), (140, 5, 300, [(1 << 18, 0, 2)])]
CUTS += [(513, 3, 200, [(1 << 24, 0, 1), (1 << 24, 0, 5)])]


@pytest.mark.parametrize(("n", "d", "count", "runs"), CUTS)
def test_same_bits_for_any_card_budget_and_cut(kernels: Any, n: int, d: int, count: int, runs: Any) -> None:
    x = problem(n, 1, d)[0]
    first, _ = session(kernels, x, (3, 0, count), 3)
    for budget, stretch, multiprocessors in runs:
        kernels.limit_multiprocessors(multiprocessors)
        again, _ = session(kernels, x, (3, 0, count), 3, scratch_bytes=budget, stretch=stretch)
        for name, one, two in zip(first._fields, first, again, strict=True):
            assert torch.equal(one, two), (name, budget, stretch, multiprocessors)


def test_drawn_neurons_are_those_in_memory(kernels: Any) -> None:
    x = problem(30, 1, 6)[0]
    drawn, _ = session(kernels, x, (3, 0, 100), 2)
    stored, _ = session(kernels, x, hx.random_weights(0, 100, 6, seed=3, dtype=torch.float32), 2)
    assert all(torch.equal(one, two) for one, two in zip(drawn, stored, strict=True))


@pytest.mark.parametrize("derivative", [False, True])
@pytest.mark.parametrize(("n", "dtype"), [(1, torch.float64), (37, torch.float32), (67, torch.float64)])
def test_matrices_at_s(kernels: Any, n: int, dtype: torch.dtype, derivative: bool) -> None:
    """Against the torch backend, which forms the same quadratic; exactly symmetric."""
    x, weight, output_weight = problem(n, 50, 3)
    sums = exact_sums(x, weight, output_weight)
    s = torch.tensor([0.0, 0.5, 1.0, 2.5], dtype=torch.float64)
    inputs = [x @ x.mT, sums.linear @ x.mT, sums.cross @ x.mT, sums.square_sum, sums.slope_sum, *sums[4:]]
    pointers = (ctypes.c_void_p * 7)(*(part.data_ptr() for part in inputs))
    sizes = torch.tensor([n, len(s), dtype == torch.float64, derivative, 0])
    a, w = (Guarded((len(s), n, n), dtype, off=1) for _ in range(2))
    kernels.evaluate(address(sizes), ctypes.c_double(50.0), address(s), pointers, address(a.result), address(w.result))
    expected = reference.evaluate(x, sums, 50, s, derivative, torch.float64)
    for got, true in zip((a.checked(), w.checked()), expected, strict=True):
        tolerance = 1e-13 if dtype == torch.float64 else 1e-6
        torch.testing.assert_close(got.double(), true, rtol=0, atol=tolerance * float(true.abs().max()))
        assert torch.equal(got, got.mT)


@pytest.mark.parametrize(("n", "n2"), [(1, 40), (37, 5), (9, 9)])
def test_cross_kernels_at_s(kernels: Any, n: int, n2: int) -> None:
    """Against the dense formula; as many columns as rows do not make them symmetric."""
    every, weight, output_weight = problem(n + n2, 50, 3)
    x, x2 = every[:n], every[n:]
    sums = hx.gram_path(x, weight, output_weight, x2=x2).sums
    linear, cross = (part[0, :n] @ x2.mT + x @ part[0, n:].mT for part in (sums.linear, sums.cross))
    s = torch.tensor([0.0, 0.5, 2.5], dtype=torch.float64)
    inputs = [x @ x2.mT, linear, cross, *(part[0] for part in sums[2:])]
    pointers = (ctypes.c_void_p * 7)(*(part.data_ptr() for part in inputs))
    sizes = torch.tensor([n, len(s), True, False, n2])
    a, w = (Guarded((len(s), n, n2), torch.float64, off=1) for _ in range(2))
    kernels.evaluate(address(sizes), ctypes.c_double(50.0), address(s), pointers, address(a.result), address(w.result))
    for got, square in zip(
        (a.checked(), w.checked()), dense(every, weight, output_weight, tuple(s.tolist())), strict=True
    ):
        torch.testing.assert_close(got, square[:, :n, n:], rtol=0, atol=1e-13 * float(square.abs().max()))


class Sessions:
    """Stands in for the binary: a session of sessions.py runs on the emulation."""

    GramCall = GramSums = Neurons = SimpleNamespace

    def __init__(self, kernels: Any) -> None:
        self.kernels, self.digits, self.adds = kernels, [], 0

    def gram_session(self, call: Any, device: int) -> int:
        return 1

    def gram_figures(self, n: int, device: int) -> int:
        return max((n + 7) // 8, 3)

    def gram_begin(self, call: Any, device: int) -> None:
        self.digits.append((call.digits, call.square_digits))
        self.stretch = call.m

    def gram_add(self, call: Any, device: int) -> None:
        self.adds += 1

    def gram_end(self, call: Any, device: int) -> None:
        neurons, sums = call.neurons, call.sums
        dtype, count = neurons.dtype, int(call.total)
        sizes = [call.n, call.D, count, call.digits, dtype, call.scratch_bytes, self.stretch, call.square_digits]
        sizes = torch.tensor([*sizes, call.base])
        names = ("linear", "cross", "square_sum", "slope_sum", "value_product", "slope_product")
        pointers = (ctypes.c_void_p * 6)(*(getattr(sums, name) for name in names))
        first = neurons.first - (self.adds - 1) * self.stretch
        fixed = [address(sizes), *map(ctypes.c_void_p, (call.x, neurons.weight, neurons.output_weight))]
        fixed += [ctypes.c_uint64(neurons.seed), ctypes.c_uint64(first), pointers]
        scratch = torch.empty(self.kernels.build(*fixed, None, None) + 256, dtype=torch.uint8)
        begin = -scratch.data_ptr() % 256
        self.kernels.build(*fixed, address(scratch[begin:]), ctypes.c_void_p(call.figures))
        self.adds = 0


def build(x: Tensor, neurons: Neurons, step: int = 2048) -> tuple[Any, bool]:
    sums = zero_sums(x)
    return sums, sessions.add_to(sums, x, neurons, "relu", False, 1 << 24, step, None)


def test_digits_rise_until_the_bound_holds(kernels: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two digits, then three, then the library's products, for which the sums must be zeros again.

    Those of the squares rise apart, and the product that is good enough is not formed again.
    """
    binary = Sessions(kernels)
    monkeypatch.setattr(sessions, "_C", binary)
    monkeypatch.setattr(choice, "digits_to_try", lambda *shape: [2, 3])
    x, weight, output_weight = problem(12, 500, 3)
    neurons = Neurons(500, weight, output_weight)
    of_a, of_w = (choice.errors(figures_of(x, weight, output_weight), 2, 2, 500)[i] for i in range(2))
    assert of_a < 0.9 * of_w
    for limit, squares, tried in (
        (1.1 * of_w, [2, 3], [(2, 2)]),
        (1.1 * of_a, [2, 3], [(2, 2), (0, 3)]),
        (1e-5, [3], [(2, 3), (3, 0)]),
        (1e-9, [2, 3], [(2, 2), (3, 3)]),
    ):
        monkeypatch.setattr(choice, "square_digits_to_try", lambda *shape, squares=squares: list(squares))
        monkeypatch.setattr(choice, "LIMIT", limit)
        binary.digits.clear()
        sums, served = build(x, neurons)
        assert binary.digits == tried
        assert served == (limit > 1e-9)
        if served:
            values, of_squares = (max(digits) for digits in zip(*tried, strict=True))
            check_sums(x, weight, output_weight, values, sums, of_squares)
        else:
            assert not any(part.any() for part in sums)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_weights_that_are_not_finite_go_to_the_reference(
    kernels: Any, monkeypatch: pytest.MonkeyPatch, bad: float
) -> None:
    """It makes every entry NaN; here no digit is right."""
    monkeypatch.setattr(sessions, "_C", Sessions(kernels))
    monkeypatch.setattr(choice, "digits_to_try", lambda *shape: [3])
    for place in range(2):
        x, weight, output_weight = problem(4, 70, 3)
        (weight[3] if place == 0 else output_weight[3:4])[0] = bad
        sums, served = build(x, Neurons(70, weight, output_weight))
        assert not served
        assert not any(part.any() for part in sums)


def test_more_neurons_than_integers_hold_are_several_sessions(kernels: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    binary = Sessions(kernels)
    drawn = hx.random_weights(9, 6000, 3, seed=1, dtype=torch.float64)
    monkeypatch.setattr(sessions, "_C", binary)
    monkeypatch.setattr(choice, "digits_to_try", lambda *shape: [3])
    monkeypatch.setattr(choice, "square_digits_to_try", lambda *shape: [3])
    monkeypatch.setattr(choice, "LIMIT", 1.0)
    monkeypatch.setattr(choice, "MOST_NEURONS", 4096)
    x = problem(5, 1, 3)[0]
    sums, served = build(x, Neurons(6000, seed=1, first=9))
    assert served
    assert binary.digits == [(3, 3), (3, 3)]
    exact = exact_sums(x, *drawn)
    for got, true in zip(sums, exact, strict=True):
        torch.testing.assert_close(got, true, rtol=0, atol=1e-5 * float(true.abs().max()))
