"""The Gram builder on a GPU, at widths where its int8 digits serve; they have an emulation of their own beside this."""

from __future__ import annotations

import pytest
import torch
from ntk.cases import CLASSES, dense, problem, relative_error
from torch import Tensor

import hrta_ext as hx
from hrta_ext.compiled import _C
from hrta_ext.ntk import choice, native, reference

pytestmark = pytest.mark.skipif(not hx.backends()["cuda"], reason="needs a GPU")
VALUES = (0.0, 0.5, 1.0, 1.5, 2.0)


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The digits of every session that was tried."""
    digits: list[int] = []
    whole = native._session

    def session(*arguments: object) -> bool:
        digits.append(arguments[3])  # type: ignore[arg-type]
        return whole(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(native, "_session", session)
    return digits


def on_gpu(*tensors: Tensor) -> list[Tensor]:
    return [tensor.cuda() for tensor in tensors]


def hopper() -> bool:
    return torch.cuda.get_device_capability() == (9, 0)


def check(x: Tensor, weight: Tensor, output_weight: Tensor, dtype: torch.dtype, base: str = "relu") -> None:
    found = hx.gram_path(*on_gpu(x, weight, output_weight), dtype=dtype, base=base)(VALUES)
    for i, s in enumerate(VALUES):  # one by one, for the memory of the dense formula
        for got, true in zip(found, dense(x, weight, output_weight, s, base), strict=True):
            assert relative_error(got[i], true) <= CLASSES[dtype], s


# Private sums (n <= 512), atomics, one block a tile; features with and without a kernel of their own.
SHAPES = [
    (1, 50_000, 2),
    (100, 1_000_000, 3),
    (129, 300_000, 4),
    (600, 100_000, 17),
    (2000, 30_000, 4),
    (300, 60_000, 64),
]


@pytest.mark.parametrize(("n", "m", "d"), SHAPES)
def test_class_holds_whatever_the_settings_of_matmuls(n: int, m: int, d: int, served: list[int]) -> None:
    x, weight, output_weight = problem(n, m, d, dtype=torch.float32)
    before = torch.backends.cuda.matmul.allow_tf32
    try:
        torch.backends.cuda.matmul.allow_tf32 = True
        check(x, weight, output_weight, torch.float32)
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
    assert not hopper() or served or not choice.digits_to_try(n, d, m)


@pytest.mark.parametrize(("base", "dtype"), [("relu", torch.float64), ("gelu", torch.float32), ("tanh", torch.float64)])
def test_what_the_library_serves(base: str, dtype: torch.dtype, served: list[int]) -> None:
    check(*problem(130, 20_000, 3, dtype=dtype), dtype, base)
    assert not served


@pytest.mark.parametrize(("base", "dtype"), [("relu", torch.float64), ("gelu", torch.float32), ("silu", torch.float64)])
def test_library_products_have_the_same_bits_for_any_budget_and_setting(base: str, dtype: torch.dtype) -> None:
    """Reduced precision is a matter of float32 products, of which there are none."""
    problems = on_gpu(*problem(130, 20_000, 70, dtype=dtype))
    least = reference.least_scratch(130, 70, 20_000, base, dtype == torch.float64)
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
def test_an_outlier_ends_in_float64(kind: str, served: list[int]) -> None:
    x, weight, output_weight = problem(60, 100_000, 3, dtype=torch.float32)
    if kind == "neuron":
        weight[5] *= 1000.0
    else:
        output_weight[5] *= 1000.0
    check(x, weight, output_weight, torch.float32)
    assert not hopper() or served[-1] == 3


@pytest.mark.parametrize("place", ["weight", "output_weight"])
def test_nan_in_every_entry(place: str) -> None:
    x, weight, output_weight = problem(20, 100_000, 3, dtype=torch.float32)
    (weight[77, 1:2] if place == "weight" else output_weight[77:78])[0] = torch.nan
    for part in hx.gram(*on_gpu(x, weight, output_weight), 0.5):
        assert part.isnan().all()


@pytest.mark.parametrize("n", [100, 600, 3000])
def test_same_bits_for_any_budget_and_on_every_call(n: int) -> None:
    x = problem(n, 1, 3, dtype=torch.float32)[0].cuda()
    first = hx.random_gram_path(x, 200_000, seed=1, batches=1)
    for budget in (None, 1 << 29, 160 << 20):
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
