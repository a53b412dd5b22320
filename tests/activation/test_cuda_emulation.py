"""The CUDA kernels of the activation without a GPU: compiled as C++ and run thread by thread (tests/emulation).

It shows that indices, bounds, masks and sums are right and that the device's own formulas keep their promise where the
special-function unit is replaced by correctly rounded functions; neither speed nor the unit's own error (2^-22.7).
Tolerances: float32 and float64 as in test_accuracy.py; half types within 2^-8 of their ulp beyond half an ulp.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from cases import BASES, curvature, homotopy, sigma, slope, spread, ulp
from emulated import Guarded, address, emulated
from torch import Tensor

from hrta_ext.bases import BASES as NUMBERED
from hrta_ext.compiled import KINDS

VALUE, SLOPE, CURVATURE, PARAMETER_GRADIENT, PARAMETER_GRADIENT_1 = range(5)
DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
# A tile is 256 threads of one or two vectors of 16 bytes: 512 to 4096 elements.
SIZES = [1, 2, 7, 255, 257, 511, 512, 513, 1024, 2048, 4095, 4096, 4097, 9001]
S = [0.0, 0.5, 1.0, 1.5, 2.0, -0.7, 0.9705]


@pytest.fixture(params=["forwards", "backwards"])
def either_way(request: pytest.FixtureRequest, kernels: Any) -> Iterator[Any]:
    """The kernels with the threads of a block in one order and in the other: a missing barrier would show."""
    kernels.run_backwards(request.param == "backwards")
    yield kernels
    kernels.run_backwards(0)


@pytest.fixture(scope="module")
def kernels() -> Any:
    loaded = emulated("activation.cpp")
    loaded.parameter_gradient.restype = ctypes.c_int64
    return loaded


def placed(x: Tensor, off: int) -> Tensor:
    """x in memory that lies on the 16-byte grid, or off it."""
    guarded = Guarded(x.shape, x.dtype, off)
    guarded.result.copy_(x)
    assert (guarded.result.data_ptr() % 16 == 0) == (off == 0)
    return guarded.result


def transform(
    kernels: Any,
    x: Tensor,
    s: float | Tensor,
    base: str,
    quantity: int,
    *,
    grad: Tensor | None = None,
    with_slope: bool = False,
    off: int = 0,
) -> tuple[Tensor, Tensor | None]:
    y = Guarded(x.shape, x.dtype, off)
    second = Guarded(x.shape, x.dtype, off) if with_slope else None
    on_device = isinstance(s, Tensor)
    kernels.transform(
        quantity, NUMBERED[base].number, KINDS[x.dtype], ctypes.c_int64(x.numel()), address(x), address(grad),
        address(y.result), address(second and second.result), ctypes.c_double(0.0 if on_device else s),
        address(s if on_device else None), ctypes.c_int64(s.numel() if on_device else 0),
    )  # fmt: skip
    return y.checked(), None if second is None else second.checked()


def inputs(dtype: torch.dtype, n: int) -> Tensor:
    """Numbers of all sizes and the special ones, shuffled by a fixed seed."""
    x = torch.cat([spread(torch.float64, 4000), torch.linspace(-16, 16, 4001, dtype=torch.float64)])
    special = [0.0, -0.0, float("inf"), -float("inf"), float("nan"), 1e5, -2e5, 3e38, -1e-40, 6e-8]
    x = torch.cat([x, torch.tensor(special, dtype=torch.float64)]).to(dtype)
    order = torch.randperm(x.numel(), generator=torch.Generator().manual_seed(n))
    return x[order].repeat(2)[:n].contiguous()


def check(got: Tensor, x: Tensor, s: float, base: str, order: int, factor: Tensor | None = None) -> None:
    """Against the float64 formula at finite x whose result fits; NaN stays NaN."""
    exact = homotopy(x, s, base, order)
    scale = [(s * sigma(x, base)).abs(), (s * slope(x, base)).abs(), (s * curvature(x, base)).abs()][order]
    line = [
        ((1 - s) * x.double()).abs(),
        torch.full_like(exact, max(abs(1 - s), abs(s))),
        torch.full_like(exact, abs(s)),
    ]
    scale = torch.maximum(torch.maximum(scale, line[order]), exact.abs())
    if factor is not None:
        exact, scale = exact * factor.double(), scale * factor.double().abs()
    dtype = got.dtype
    if dtype in (torch.float16, torch.bfloat16):
        bound = 0.5 * ulp(exact, dtype) + 2.0**-8 * ulp(scale, dtype) * (1 if order < 2 else 2)
        bound += 0 if factor is None else 0.5 * ulp(scale, dtype) * 2.0**-8
    else:
        count = {torch.float32: (4, 4, 6), torch.float64: (8, 8, 8)}[dtype][order] + (factor is not None)
        bound = count * ulp(scale, dtype)
        if base == "gelu" and dtype == torch.float64:  # torch's own erfc rounds its argument in the reference
            bound = bound * (1 + x.double().square())
    assert order > 0 or got[x.isnan()].isnan().all()  # a slope such as ReLU's is a number at NaN too
    fits = x.isfinite() & (scale < torch.finfo(dtype).max)
    error = ((got.double() - exact).abs() - bound)[fits]
    assert error.numel() == 0 or (error <= 0).all(), f"{base} s={s} order={order} at {x[fits][error.argmax()].item()!r}"


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("base", BASES)
def test_every_kernel_against_the_formula(kernels: Any, dtype: torch.dtype, base: str) -> None:
    """Ragged sizes, memory on and off the grid, s known to the host and on the device, guards around every result."""
    for at, n in enumerate(SIZES):
        x, s, off = placed(inputs(dtype, n), at % 2), S[at % len(S)], at % 2
        grad = placed(torch.linspace(-2, 2, n, dtype=torch.float64).to(dtype), off)
        parameter = torch.tensor([s], dtype=torch.float64) if at % 3 == 0 else s
        for order in (VALUE, SLOPE, CURVATURE):
            check(transform(kernels, x, parameter, base, order, off=off)[0], x, s, base, order)
        for order in (SLOPE, CURVATURE):
            check(transform(kernels, x, parameter, base, order, grad=grad, off=off)[0], x, s, base, order, grad)
        value, second = transform(kernels, x, parameter, base, VALUE, with_slope=True, off=off)
        assert torch.equal(value.nan_to_num(), transform(kernels, x, s, base, VALUE)[0].nan_to_num())
        assert second is not None
        assert torch.equal(second.nan_to_num(), transform(kernels, x, s, base, SLOPE)[0].nan_to_num())


@pytest.mark.parametrize("base", BASES)
def test_float32_promise_where_it_is_hardest(kernels: Any, base: str) -> None:
    """4 ulp, over s just below and above 1, where |s sigma| is just below a power of two, and dense x."""
    x = torch.cat([torch.linspace(-9, 9, 20_001), -torch.logspace(-6, 1, 10_000), torch.logspace(-6, 1, 10_000)])
    generator = torch.Generator().manual_seed(1)
    for s in (0.9 + 0.4 * torch.rand(12, generator=generator, dtype=torch.float64)).tolist():
        value, second = transform(kernels, x, s, base, VALUE, with_slope=True)
        check(value, x, s, base, VALUE)
        assert second is not None
        check(second, x, s, base, SLOPE)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("base", BASES)
def test_every_number_of_a_half_type(kernels: Any, dtype: torch.dtype, base: str) -> None:
    x = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)
    for s in (0.5, 1.0, 1.7):
        value, second = transform(kernels, x, s, base, VALUE, with_slope=True)
        check(value, x, s, base, VALUE)
        assert second is not None
        check(second, x, s, base, SLOPE)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("base", BASES)
def test_limits_at_infinity_and_signs_of_zero(kernels: Any, dtype: torch.dtype, base: str) -> None:
    """As the CPU kernels: s = 1 takes the line away, else the line or sigma, whichever grows, decides."""
    import hrta_ext as hx

    x = torch.tensor([float("inf"), -float("inf"), 0.0, -0.0], dtype=dtype)
    for s in (0.0, 0.5, 1.0, 1.5):
        got, expected = transform(kernels, x, s, base, VALUE)[0], hx.homotopy(x, s, base)
        assert torch.equal(got[:2].nan_to_num(nan=7.0), expected[:2].nan_to_num(nan=7.0)), s
        assert torch.equal(got[2:], expected[2:])
        if base != "softplus" and s <= 1:  # beyond, the terms have opposite signs
            assert torch.equal(got[2:].signbit(), expected[2:].signbit()), s


@pytest.mark.parametrize("dtype", DTYPES)
def test_one_s_per_feature(kernels: Any, dtype: torch.dtype) -> None:
    x = inputs(dtype, 700)
    s = torch.tensor([0.5, 1.0, 1.5, 0.0, -0.7, 2.0, 0.97], dtype=torch.float64)
    for base in ("relu", "tanh", "gelu"):
        y = transform(kernels, x, s, base, VALUE)[0].view(100, 7)
        for k in range(7):
            check(y[:, k], x.view(100, 7)[:, k], float(s[k]), base, VALUE)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [1, 7, 8, 9, 255, 2047, 2048, 2049, 5000])
def test_relu_and_its_mask(either_way: Any, dtype: torch.dtype, n: int) -> None:
    """Bit i % 8 of byte i / 8 is x_i > 0; no bit beyond n is set and no byte beyond the mask is touched."""
    for off in (0, 1):
        x = placed(inputs(dtype, n), off)
        y, mask = Guarded((n,), dtype, off), torch.full(((n + 7) // 8 + 2,), 170, dtype=torch.uint8)
        arguments = KINDS[dtype], ctypes.c_int64(n)
        bits = ctypes.c_void_p(mask.data_ptr() + 1)
        either_way.relu_mask(1, *arguments, address(x), address(y.result), bits, ctypes.c_double(1.5), None)
        unpacked = (mask[1:-1, None] >> torch.arange(8, dtype=torch.uint8) & 1).flatten()
        assert torch.equal(unpacked[:n].bool(), x > 0)
        assert not unpacked[n:].any()
        assert (mask[0], mask[-1]) == (170, 170)
        expected = torch.where(x > 0, x, (x.double() * -0.5).to(dtype))
        assert torch.equal(y.checked().nan_to_num(nan=7.0), expected.nan_to_num(nan=7.0))
        grad, grad_x = placed(torch.linspace(-2, 2, n).to(dtype), off), Guarded((n,), dtype, off)
        s = torch.tensor([1.5], dtype=torch.float64)
        either_way.relu_mask(
            0, *arguments, address(grad), address(grad_x.result), bits, ctypes.c_double(0.0), address(s)
        )
        assert torch.equal(grad_x.checked(), torch.where(x > 0, grad, (grad.double() * -0.5).to(dtype)))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("base", BASES)
def test_gradient_in_s(either_way: Any, dtype: torch.dtype, base: str) -> None:
    """One s and one per feature; float64 sums of float32 terms: 4 ulp of the sum of magnitudes."""
    for n, features in [(1, 1), (4097, 1), (20_001, 1), (700, 7), (3200, 40)]:
        x = spread(torch.float64, 4000)[:n] if n < 4000 else torch.linspace(-6, 6, n, dtype=torch.float64)
        x = x.clamp(-1e3, 1e3).to(dtype)[: n // features * features]
        n = x.numel()
        grad = torch.sin(torch.arange(n, dtype=torch.float64)).to(dtype)
        for quantity in (PARAMETER_GRADIENT, PARAMETER_GRADIENT_1):
            arguments = quantity, NUMBERED[base].number, KINDS[dtype], ctypes.c_int64(n), address(x), address(grad)
            count = either_way.parameter_gradient(*arguments, ctypes.c_int64(features), None, None)
            partial = torch.full((count + 1,), torch.nan, dtype=torch.float64)
            result = torch.full((features + 1,), torch.nan, dtype=torch.float64)
            either_way.parameter_gradient(*arguments, ctypes.c_int64(features), address(partial), address(result))
            assert partial[-1].isnan()
            assert result[-1].isnan()
            terms = (sigma(x, base) - x.double()) if quantity == PARAMETER_GRADIENT else slope(x, base) - 1.0
            size = (
                (sigma(x, base).abs() + x.double().abs())
                if quantity == PARAMETER_GRADIENT
                else slope(x, base).abs() + 1
            )
            exact = (grad.double() * terms).view(-1, features).sum(0)
            bound = (grad.double().abs() * size).view(-1, features).sum(0)
            unit = 2.0**-52 if dtype == torch.float64 else 2.0**-23
            assert ((result[:-1] - exact).abs() <= 4 * unit * bound + 1e-300).all()
