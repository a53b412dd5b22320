"""The Gram builder by arcs on a GPU, ReLU with two features, without one: its kernels run on the CPU (tests/emulation).

Sums are held to the float64 formulas entry by entry: an arc's sums keep their digits beside neurons of any other size,
within 2^-24 (float32 class) or 2^-46 a neuron of |w|^2 and a^2, and what rounding to float64 adds; running sums around
the circle keep 2^-98 of the whole.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from emulated import Guarded, address, emulated
from network.cases import in_the_plane
from ntk import test_accuracy
from ntk.cases import CLASSES, problem
from ntk.digits import exact_sums, zero_sums
from torch import Tensor

import hrta_ext as hx
from hrta_ext.compiled import _C, KINDS
from hrta_ext.ntk import choice, native, sessions
from hrta_ext.ntk.types import GramSums, Neurons

LOW, HIGH = 3, 7  # what GramCall.digits says of the class
TOLERANCE = {LOW: 1e-7, HIGH: 5e-14}
SMALL_CARD = 16 * 1024  # bytes of shared memory, less than a table, bounds and sums take: sums in global memory
DTYPES = [torch.float32, torch.float64]


@pytest.fixture(scope="module")
def loaded() -> Any:
    library = emulated("gram_arcs.cpp")
    library.build.restype = ctypes.c_int64
    return library


@pytest.fixture
def kernels(loaded: Any) -> Iterator[Any]:
    yield loaded
    loaded.run_backwards(0)
    loaded.limit_card(0, 0)


def session(
    kernels: Any,
    x: Tensor,
    neurons: tuple[Tensor, Tensor] | tuple[int, int, int],  # in memory, or seed, first and count
    digits: int,
    stretch: int = 0,
) -> GramSums:
    """The sums of one session; scratch memory starts as NaN and has guards."""
    stored = isinstance(neurons[0], Tensor)
    weight, output_weight = neurons[:2] if stored else (None, None)
    seed, first, count = (0, 0, len(neurons[0])) if stored else neurons
    sizes = torch.tensor([len(x), count, digits, KINDS[weight.dtype if stored else torch.float32], stretch or count])
    sums = zero_sums(x)
    pointers = (ctypes.c_void_p * 6)(*(part.data_ptr() for part in sums))
    fixed = [*map(address, (sizes, x, weight, output_weight)), ctypes.c_uint64(seed), ctypes.c_uint64(first), pointers]
    scratch = Guarded(((kernels.build(*fixed, None) + 7) // 8,), torch.float64, off=1)
    kernels.build(*fixed, address(scratch.result))
    scratch.checked()
    return sums


def sizes_of_sums(x: Tensor, size: Tensor, squares: Tensor, on: Tensor) -> GramSums:
    """What each entry's error is measured with: its terms with |w| |x| for z. on (n, m): who is active."""
    norms, moment = x.norm(dim=1), (on * size.square()) @ on.mT
    return GramSums(
        (norms * size.square().sum())[:, None].expand(-1, 2),
        (norms * moment.diagonal())[:, None].expand(-1, 2),
        squares.sum()[None],
        on @ squares,
        torch.triu(norms[:, None] * norms * moment),
        torch.triu((on * squares) @ on.mT),
    )


def check(x: Tensor, weight: Tensor, output_weight: Tensor, digits: int, sums: GramSums) -> None:
    weight, squares = weight.double(), output_weight.double().square()
    exact, on, size = exact_sums(x, weight, output_weight), (x @ weight.mT > 0).double(), weight.norm(dim=1)
    own, whole = (sizes_of_sums(x, size, squares, active) for active in (on, torch.ones_like(on)))
    for name, got, true, here, all_ in zip(exact._fields, sums, exact, own, whole, strict=True):
        assert ((got - true).abs() <= TOLERANCE[digits] * here + 2.0**-98 * all_).all(), name


def samples(kind: str, n: int, dtype: torch.dtype) -> Tensor:
    """As the builder gets them, in float64; the first is zero."""
    x = in_the_plane(kind, n, dtype).double()
    if n > 2:
        x[0] = 0.0
    return x


# Tiles of 4096 (float32), 2048 (float64, drawn) neurons, blocks of 32 rows by 256 columns, a quarter of 256 threads for
# each moment of the arcs: one less, as many, one more.
SHAPES = [(1, 1, "ring"), (2, 2047, "grid"), (33, 4097, "integers"), (129, 3000, "ring"), (258, 2049, "grid")]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("digits", [LOW, HIGH])
@pytest.mark.parametrize(("n", "m", "kind"), SHAPES)
def test_sums_are_those_of_the_float64_formulas(
    kernels: Any, n: int, m: int, kind: str, digits: int, dtype: torch.dtype
) -> None:
    """And the CPU builder's; the same bits in the opposite order of threads and with sums in global memory."""
    x = samples(kind, n, dtype)
    weight, output_weight = problem(1, m, 2, seed=n, dtype=dtype)[1:]
    sums = session(kernels, x, (weight, output_weight), digits)
    check(x, weight, output_weight, digits, sums)
    assert not sums.value_product.tril(-1).any()
    assert not sums.slope_product.tril(-1).any()
    assert torch.equal(sums.slope_sum, sums.slope_product.diagonal())
    on_cpu = zero_sums(x)
    with hx.use_backend("native"):
        native.add_to(on_cpu, x, Neurons(m, weight, output_weight), "relu", True, 1 << 28, m, None)
    for got, true in zip(sums, on_cpu, strict=True):
        torch.testing.assert_close(got, true, rtol=0, atol=TOLERANCE[digits] * float(true.abs().max()))
    for backwards, shared in ((1, 0), (0, SMALL_CARD)):
        kernels.run_backwards(backwards)
        kernels.limit_card(0, shared)
        again = session(kernels, x, (weight, output_weight), digits)
        assert all(torch.equal(one, two) for one, two in zip(sums, again, strict=True))


@pytest.mark.parametrize("digits", [LOW, HIGH])
@pytest.mark.parametrize("dtype", DTYPES)
def test_sums_of_integers_are_exact(kernels: Any, dtype: torch.dtype, digits: int) -> None:
    """Weights on the rays of samples, zero weights, zero, duplicate, parallel and opposite samples."""
    x, weight, output_weight = test_accuracy._with_ties(2)
    weight, output_weight = weight.to(dtype), output_weight.to(dtype)
    sums = session(kernels, x, (weight, output_weight), digits)
    exact = exact_sums(x, weight.double(), output_weight)
    assert all(torch.equal(one, two) for one, two in zip(sums, exact, strict=True))


def uneven(kind: str, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Neurons of which the windows hold few, or the wrong ones."""
    x, weight, output_weight = problem(40, 3000, 2, seed=3, dtype=dtype)
    largest = 1e18 if dtype == torch.float32 else 1e150  # squares within float64
    size = largest ** torch.linspace(-1, 1, 3000, dtype=torch.float64)
    if kind == "every size":
        weight, output_weight = (weight * size[:, None]).to(dtype), (output_weight * size.flip(0)).to(dtype)
    elif kind == "one giant":
        weight[1], output_weight[1] = weight[1] * 1e12, output_weight[1] * 1e12
    elif kind == "giants at first":  # all that the windows are chosen by, were they the first neurons
        weight[:64], output_weight[:64] = weight[:64] * 1e12, output_weight[:64] * 1e12
    elif kind == "tiny":
        weight, output_weight = weight / largest, output_weight / largest
    elif kind == "mostly zero":
        weight[::2], output_weight[1::2] = 0.0, 0.0
        weight[1::4, 0] = 0.0
    elif kind == "all the same":
        weight, output_weight = weight[:200], output_weight[:200]  # few: the reference rounds to one side too
        weight[:], output_weight[:] = torch.tensor([0.1, -0.3]), 0.7
    return x.double(), weight, output_weight


UNEVEN = ("every size", "one giant", "giants at first", "tiny", "mostly zero", "all the same")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("digits", [LOW, HIGH])
@pytest.mark.parametrize("kind", UNEVEN)
def test_neurons_of_any_size_keep_their_digits(kernels: Any, kind: str, digits: int, dtype: torch.dtype) -> None:
    """Entry by entry, so that no sample's norm can bring up what is lost beside a giant."""
    x, weight, output_weight = uneven(kind, dtype)
    sums = session(kernels, x, (weight, output_weight), digits)
    check(x, weight, output_weight, digits, sums)


def test_sums_that_leave_their_words_in_shared_memory(kernels: Any) -> None:
    """2^15 neurons of almost 2^48 units each fill a sum of 64 bits, in one copy, upwards and downwards."""
    x = torch.tensor([[0.0, 1.0]], dtype=torch.float64)
    kernels.limit_card(0, 5416)  # what one copy takes
    for sign in (1.0, -1.0):
        weight = torch.tensor([[sign * 1.99, 1.99]]).repeat(36_000, 1)
        output_weight = weight[:, 1].clone()
        sums = session(kernels, x, (weight, output_weight), LOW)
        check(x, weight, output_weight, LOW, sums)


# Neurons between two calls, multiprocessors, shared memory.
CUTS = [(2048, 0, 0), (0, 1, 0), (3000, 3, SMALL_CARD)]


@pytest.mark.parametrize("digits", [LOW, HIGH])
def test_same_bits_for_any_card_and_cut(kernels: Any, digits: int) -> None:
    x = samples("ring", 50, torch.float32)
    first = session(kernels, x, (3, 2**40, 9000), digits)
    for stretch, multiprocessors, shared in CUTS:
        kernels.limit_card(multiprocessors, shared)
        again = session(kernels, x, (3, 2**40, 9000), digits, stretch)
        for name, one, two in zip(first._fields, first, again, strict=True):
            assert torch.equal(one, two), (name, stretch, multiprocessors, shared)


@pytest.mark.parametrize("digits", [LOW, HIGH])
@pytest.mark.parametrize("first", [0, 2**47])
def test_drawn_neurons_are_those_of_random_weights(kernels: Any, first: int, digits: int) -> None:
    x = samples("grid", 30, torch.float64)
    sums = session(kernels, x, (5, first, 2500), digits)
    check(x, *hx.random_weights(first, 2500, 2, seed=5, dtype=torch.float64), digits, sums)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_nan_in_every_entry(kernels: Any, bad: float, dtype: torch.dtype) -> None:
    for place in range(3):
        x, weight, output_weight = problem(40, 500, 2, dtype=dtype)
        x[0] = 0.0
        (output_weight[77:78] if place == 2 else weight[77, place : place + 1])[0] = bad
        sums = session(kernels, x.double(), (weight, output_weight), LOW)
        lower = torch.ones(40, 40).tril(-1).bool()
        for part in sums[:4]:
            assert part.isnan().all()
        for part in sums[4:]:
            assert part[~lower].isnan().all()


def test_what_arcs_serve(kernels: Any) -> None:
    """ReLU, two features, as many samples as the search's table can number, neurons below the integers' limit."""
    served = {"relu": (0, 100, 2, 1), "most samples": (0, 32766, 2, 1), "most neurons": (0, 1, 2, 2**30)}
    others = {"tanh": (1, 100, 2, 1), "D": (0, 100, 3, 1), "n": (0, 32767, 2, 1), "none": (0, 0, 2, 1)}
    others["neurons"] = (0, 1, 2, 2**30 + 1)
    for expected, calls in ((1, served), (0, others)):
        for name, call in calls.items():
            sizes = torch.tensor(call)
            assert kernels.serve(address(sizes)) == expected, name


class Binary:
    """Stands in for the binary on a GPU: sessions by arcs run on the emulation, all else is the CPU's."""

    def __init__(self, kernels: Any) -> None:
        self.kernels, self.sessions = kernels, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(_C, name)

    def gram_arcs_session(self, call: Any, device: int) -> int:
        return self._build(call, call.neurons.first, int(call.total), 1, None)

    def gram_arcs_begin(self, call: Any, device: int) -> None:
        self.first, self.stretch, self.count = call.neurons.first, 0, 0

    def gram_arcs_add(self, call: Any, device: int) -> None:
        self.stretch, self.count = max(self.stretch, call.m), self.count + call.m

    def gram_arcs_end(self, call: Any, device: int) -> None:
        assert self.count == call.total
        self._build(call, self.first, self.count, self.stretch, ctypes.c_void_p(call.scratch))
        self.sessions += 1

    def _build(self, call: Any, first: int, count: int, stretch: int, scratch: Any) -> int:
        sizes = torch.tensor([call.n, count, call.digits, call.neurons.dtype, stretch])
        names = ("linear", "cross", "square_sum", "slope_sum", "value_product", "slope_product")
        pointers = (ctypes.c_void_p * 6)(*(getattr(call.sums, name) for name in names))
        neurons = call.neurons
        addresses = map(ctypes.c_void_p, (call.x, neurons.weight, neurons.output_weight))
        seed, start = ctypes.c_uint64(neurons.seed), ctypes.c_uint64(first)
        return self.kernels.build(address(sizes), *addresses, seed, start, pointers, scratch)


@pytest.fixture
def binary(kernels: Any, monkeypatch: pytest.MonkeyPatch) -> Binary:
    """hx.gram and its like build as on a GPU."""
    binary = Binary(kernels)

    def add_to(sums: Any, x: Tensor, neurons: Neurons, base: str, high: bool, budget: int, step: int, _: Any) -> bool:
        return sessions.add_to(sums, x, neurons, base, high, budget, step, None)

    monkeypatch.setattr(sessions, "_C", binary)
    monkeypatch.setattr(native, "add_to", add_to)
    return binary


@pytest.mark.parametrize("dtype", CLASSES)
def test_matrices_of_the_hard_cases(binary: Binary, dtype: torch.dtype) -> None:
    """Those that the CPU's arcs are tested with: the class of the matrices, whatever dominates them."""
    device = torch.device("cpu")
    with hx.use_backend("native"):
        test_accuracy.test_ties(2, dtype, device)
        test_accuracy.test_one_neuron_and_one_sample_dominate(2, dtype, device)
        if dtype == torch.float64:
            test_accuracy.test_common_scale_of_the_weights(2, 1e8, device)
            test_accuracy.test_samples_that_are_parallel_up_to_rounding(3, device)
            for rows in ([[0, 0], [0, 0]], [[1, 0], [-1, 0]], [[0, 1], [0, 2], [0, -1]]):
                test_accuracy.test_few_lines_of_samples(rows, device)
    assert binary.sessions > 0


def test_lambda_min_where_the_conditioning_is_1e10(binary: Binary, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the CPU's arcs find it, which are compared with long double."""
    tensors = test_accuracy._ill_conditioned()
    with hx.use_backend("native"):
        found = hx.gram_path(*tensors).lambda_min([1.0, 1.5], "a")
        assert binary.sessions == 1
        monkeypatch.undo()
        torch.testing.assert_close(found, hx.gram_path(*tensors).lambda_min([1.0, 1.5], "a"), rtol=1e-6, atol=0)
    assert binary.sessions == 1


def test_sessions_batches_and_networks_add_up(binary: Binary, monkeypatch: pytest.MonkeyPatch) -> None:
    """More neurons than a session's integers hold are several sessions; every batch and network has its own."""
    monkeypatch.setattr(choice, "MOST_NEURONS", 1000)
    x = samples("ring", 20, torch.float64)
    with hx.use_backend("native"):
        path = hx.random_gram_path(x, 5000, seed=2, first_neuron=7, batches=2)
        assert binary.sessions == 6
        weight, output_weight = hx.random_weights(7, 5000, 2, seed=2, dtype=torch.float64)
        stored = hx.gram_path(x, torch.stack([weight, 2.0 * weight]), torch.stack([output_weight] * 2))
        assert binary.sessions == 16
    total = GramSums(*(part.sum(0) for part in path.sums))
    check(x, weight, output_weight, HIGH, total)
    check(x, weight, output_weight, HIGH, GramSums(*(part[0, 0] for part in stored.sums)))
    check(x, 2.0 * weight, output_weight, HIGH, GramSums(*(part[0, 1] for part in stored.sums)))
