"""The Gram builder on a GPU, at widths where its int8 digits serve; they have an emulation of their own beside this.

A binary for "90" in place of "90a" has a card of compute capability 9.0 run the products by mma.sync.
"""

from __future__ import annotations

import pytest
import torch
from cases import BASES
from ntk.cases import CLASSES, dense, problem, relative_error
from torch import Tensor

import hrta_ext as hx
from hrta_ext.compiled import _C
from hrta_ext.ntk import choice, many_features, reference, sessions

pytestmark = pytest.mark.skipif(not hx.backends()["cuda"], reason="needs a GPU")
VALUES = (0.0, 0.5, 1.0, 1.5, 2.0)


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """The digits of values and squares of every session that was tried."""
    digits: list[tuple[int, int]] = []
    whole = sessions._session

    def session(*arguments: object) -> object:
        digits.append(arguments[4])  # type: ignore[arg-type]
        return whole(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(sessions, "_session", session)
    return digits


def hopper() -> bool:
    return torch.cuda.get_device_capability() == (9, 0)


def on_gpu(*tensors: Tensor) -> list[Tensor]:
    return [tensor.cuda() for tensor in tensors]


def check(x: Tensor, weight: Tensor, output_weight: Tensor, dtype: torch.dtype, base: str = "relu") -> None:
    found = hx.gram_path(*on_gpu(x, weight, output_weight), dtype=dtype, base=base)(VALUES)
    for i, s in enumerate(VALUES):  # one by one, for the memory of the dense formula
        for got, true in zip(found, dense(x, weight, output_weight, s, base), strict=True):
            assert relative_error(got[i], true) <= CLASSES[dtype], s


# Private sums (n <= 512), atomics, one block a tile; features with and without a kernel of their own.
SHAPES = [
    (1, 50_000, 3),
    (100, 1_000_000, 3),
    (129, 300_000, 4),
    (600, 100_000, 17),
    (2000, 30_000, 4),
    (300, 60_000, 64),
    (300, 100_000, 128),
    (64, 60_000, 1000),
    (1500, 40_001, 100),
]


@pytest.mark.parametrize(("n", "m", "d"), SHAPES)
def test_class_holds_whatever_the_settings_of_matmuls(n: int, m: int, d: int, served: list[tuple[int, int]]) -> None:
    x, weight, output_weight = problem(n, m, d, dtype=torch.float32)
    before = torch.backends.cuda.matmul.allow_tf32
    try:
        torch.backends.cuda.matmul.allow_tf32 = True
        check(x, weight, output_weight, torch.float32)
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
    assert served or not (choice.digits_to_try(n, d, m) or choice.digits_to_try(n, d, m, True))


# Sums in shared memory, and beyond it; weights that the windows do not hold are in the emulation's tests.
ARCS = [(1, 1), (100, 1_000_003), (1000, 100_000), (2500, 20_001)]


@pytest.mark.parametrize("dtype", CLASSES)
@pytest.mark.parametrize(("n", "m"), ARCS)
def test_two_features_go_by_arcs(n: int, m: int, dtype: torch.dtype, served: list[int]) -> None:
    """In both classes, on every card, and to the same bits on smaller ones."""
    tensors = problem(n, m, 2, dtype=dtype)
    check(*tensors, dtype)
    assert not served
    first = hx.gram_path(*on_gpu(*tensors))
    for limits in ({}, {"multiprocessors": 7, "shared": 48 * 1024}):
        _C.limit_cuda(**limits)
        try:
            again = hx.gram_path(*on_gpu(*tensors))
        finally:
            _C.limit_cuda()
        for one, two in zip(first.sums, again.sums, strict=True):
            assert torch.equal(one, two), limits


@pytest.mark.parametrize("dtype", CLASSES)
def test_drawn_neurons_by_arcs(dtype: torch.dtype, served: list[int]) -> None:
    x = problem(100, 1, 2, dtype=dtype)[0].cuda()
    seen: list[tuple[int, int]] = []
    told = {"progress": lambda done, width: seen.append((done, width))}
    path = hx.random_gram_path(x, 1_000_000, seed=2, first_neuron=2**40, batches=3, **told)
    assert not served
    assert seen[-1] == (1_000_000, 1_000_000)
    weight, output_weight = hx.random_weights(2**40, 1_000_000, 2, seed=2, device="cuda", dtype=dtype)
    stored = hx.gram_path(x, weight, output_weight)
    for one, two in zip(path(1.5), stored(1.5), strict=True):
        assert relative_error(one, two.double().cpu()) <= CLASSES[dtype]


@pytest.mark.parametrize("kind", ["neuron", "one that is not finite"])
def test_arcs_with_an_outlier(kind: str) -> None:
    x, weight, output_weight = problem(60, 100_000, 2)
    weight[5] *= 1e12 if kind == "neuron" else torch.inf
    if kind == "neuron":
        check(x, weight, output_weight, torch.float64)
        return
    for part in hx.gram(*on_gpu(x, weight, output_weight), 0.5):
        assert part.isnan().all()


@pytest.mark.parametrize("dtype", CLASSES)
@pytest.mark.parametrize("base", BASES)
def test_every_base_by_levels(base: str, dtype: torch.dtype, served: list[int]) -> None:
    """Private sums, atomics, one block a tile; neurons few and many; on other cards the library."""
    for n, m, d in ((65, 300, 4), (130, 20_000, 3), (700, 5_000, 17), (2100, 3_000, 64)):
        served.clear()
        check(*problem(n, m, d, dtype=dtype), dtype, base)
        assert served or not hopper()


def test_few_samples_are_the_librarys(served: list[int]) -> None:
    check(*problem(40, 20_000, 3, dtype=torch.float64), torch.float64, "tanh")
    assert not served


@pytest.mark.parametrize(("base", "dtype"), [("gelu", torch.float32), ("relu", torch.float64)])
def test_levels_have_the_same_bits_for_any_budget(base: str, dtype: torch.dtype) -> None:
    x = problem(600, 1, 3, dtype=dtype)[0].cuda()
    first = hx.random_gram_path(x, 50_000, seed=1, batches=1, base=base)
    for budget in (None, 1 << 29, 160 << 20):
        again = hx.random_gram_path(x, 50_000, seed=1, batches=1, base=base, memory_budget=budget)
        for one, two in zip(first.sums, again.sums, strict=True):
            assert torch.equal(one, two)


@pytest.mark.parametrize(("base", "dtype"), [("relu", torch.float64), ("gelu", torch.float32), ("silu", torch.float64)])
def test_library_products_have_the_same_bits_for_any_budget_and_setting(base: str, dtype: torch.dtype) -> None:
    """Reduced precision is a matter of float32 products, of which there are none."""
    problems = on_gpu(*problem(130, 20_000, 70, dtype=dtype))
    least = reference.least_scratch(130, 0, 70, 20_000, base, dtype == torch.float64)
    first = hx.gram(*problems, 0.7, base=base), hx.gram_path(*problems, base=base).sums
    for got, true in zip(first[0], dense(*problems, 0.7, base), strict=True):
        assert relative_error(got, true) <= CLASSES[dtype]
    matmul = torch.backends.cuda.matmul
    before = torch.get_float32_matmul_precision(), matmul.allow_tf32, matmul.allow_fp16_reduced_precision_reduction
    for budget in (least, 3 * least, None):
        try:
            torch.set_float32_matmul_precision("medium")
            matmul.allow_tf32 = matmul.allow_fp16_reduced_precision_reduction = True
            one = hx.gram(*problems, 0.7, base=base, memory_budget=budget)
            sums = hx.gram_path(*problems, base=base, memory_budget=budget).sums
        finally:
            matmul.allow_fp16_reduced_precision_reduction, matmul.allow_tf32 = before[2], before[1]
            torch.set_float32_matmul_precision(before[0])
        for part, expected in zip((*one, *sums), (*first[0], *first[1]), strict=True):
            assert torch.equal(part, expected)


@pytest.mark.parametrize("kind", ["neuron", "output weight"])
@pytest.mark.parametrize(("n", "last"), [(60, 3), (130, 7)])
def test_an_outlier_ends_in_more_digits_or_float64(kind: str, n: int, last: int, served: list[tuple[int, int]]) -> None:
    x, weight, output_weight = problem(n, 100_000, 3, dtype=torch.float32)
    if kind == "neuron":
        weight[5] *= 1000.0
    else:
        output_weight[5] *= 1000.0
    check(x, weight, output_weight, torch.float32)
    assert not hopper() or 3 in served[-1] or served[-1][0] in (5, last)


def test_squares_of_equal_size_take_two_digits(served: list[tuple[int, int]]) -> None:
    x, weight, output_weight = problem(100, 200_000, 3, dtype=torch.float32)
    check(x, weight, output_weight.sign(), torch.float32)
    assert served[0][1] == 2


def test_z_beyond_its_bound_is_noticed(monkeypatch: pytest.MonkeyPatch, served: list[tuple[int, int]]) -> None:
    """What a survey of bounds missed ends in float64."""
    bounds = many_features.bounds
    monkeypatch.setattr(many_features, "bounds", lambda x, neurons: 0.7 * bounds(x, neurons))
    check(*problem(50, 60_000, 100, dtype=torch.float32), torch.float32)
    assert len(served) == 1


@pytest.mark.parametrize("place", ["weight", "output_weight"])
def test_nan_in_every_entry(place: str) -> None:
    x, weight, output_weight = problem(20, 100_000, 3, dtype=torch.float32)
    (weight[77, 1:2] if place == "weight" else output_weight[77:78])[0] = torch.nan
    for part in hx.gram(*on_gpu(x, weight, output_weight), 0.5):
        assert part.isnan().all()


@pytest.mark.parametrize(("n", "d"), [(100, 3), (600, 3), (3000, 3), (100, 100)])
def test_same_bits_for_any_budget_and_on_every_call(n: int, d: int) -> None:
    x = problem(n, 1, d, dtype=torch.float32)[0].cuda()
    first = hx.random_gram_path(x, 200_000, seed=1, batches=1)
    for budget in (None, 1 << 29, 160 << 20) if d == 3 else (None, 1 << 29):
        again = hx.random_gram_path(x, 200_000, seed=1, batches=1, memory_budget=budget)
        for one, two in zip(first.sums, again.sums, strict=True):
            assert torch.equal(one, two)


def test_fewer_multiprocessors_change_no_bit() -> None:
    x = problem(200, 1, 3, dtype=torch.float32)[0].cuda()
    first = hx.random_gram_path(x, 100_000, batches=1)
    _C.limit_cuda(multiprocessors=7)
    try:
        again = hx.random_gram_path(x, 100_000, batches=1)
    finally:
        _C.limit_cuda()
    for one, two in zip(first.sums, again.sums, strict=True):
        assert torch.equal(one, two)


def test_drawn_is_the_same_network_as_stored_and_networks_stay_apart() -> None:
    x = problem(40, 1, 4, dtype=torch.float32)[0].cuda()
    weight, output_weight = hx.random_weights(0, 100_000, 4, seed=2, device="cuda", dtype=torch.float32)
    assert torch.equal(weight.cpu(), hx.random_weights(0, 100_000, 4, seed=2, dtype=torch.float32)[0])
    two = hx.gram_path(x, torch.stack([weight, -weight]), torch.stack([output_weight, 2.0 * output_weight]))
    drawn = hx.random_gram_path(x, 100_000, seed=2, batches=1)
    torch.testing.assert_close(two(1.5).ntk[0], drawn(1.5).ntk, rtol=1e-5, atol=0)
    assert not torch.allclose(two(1.0).w[0], two(1.0).w[1])


def test_progress_counts_what_is_done() -> None:
    x = problem(10, 1, 3, dtype=torch.float32)[0].cuda()
    seen: list[tuple[int, int]] = []
    hx.random_gram_path(x, 300_000, batches=3, progress=lambda done, width: seen.append((done, width)))
    assert seen[-1] == (300_000, 300_000)
    assert sorted(seen) == seen
