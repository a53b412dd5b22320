"""The CUDA kernels of the activation, each between guards at ragged sizes: compiled as C++ and run thread by thread on
the CPU (tests/emulation), and on a GPU where there is one.

The emulation shows that indices, bounds, masks and sums are right and that the device's own formulas keep their promise
where the special-function unit is replaced by correctly rounded functions; neither speed nor the unit's own error
(2^-22.7). Tolerances: float32 and float64 as in test_accuracy.py; half types half an ulp and 2^-8 of one.
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

import hrta_ext as hx
from hrta_ext import compiled
from hrta_ext.bases import BASES as NUMBERED
from hrta_ext.compiled import KINDS

VALUE, SLOPE, CURVATURE, PARAMETER_GRADIENT, PARAMETER_GRADIENT_1 = range(5)
DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
# A tile is 256 threads of one or two vectors of 16 bytes: 512 to 4096 elements.
SIZES = [1, 2, 7, 255, 257, 511, 512, 513, 1024, 2048, 4095, 4096, 4097, 9001]
S = [0.0, 0.5, 1.0, 1.5, 2.0, -0.7, 0.9705]


class Emulated:
    """The launchers in a library of their own, on the CPU's memory."""

    device = "cpu"

    def __init__(self, library: Any) -> None:
        self.library = library
        library.parameter_gradient.restype = ctypes.c_int64

    def transform(
        self,
        quantity: int,
        base: int,
        x: Tensor,
        grad: Tensor | None,
        y: Tensor,
        slope: Tensor | None,
        s: float | Tensor,
    ) -> None:
        many = isinstance(s, Tensor)
        self.library.transform(
            quantity, base, KINDS[x.dtype], ctypes.c_int64(x.numel()), address(x), address(grad), address(y),
            address(slope), ctypes.c_double(0.0 if many else s), address(s if many else None),
            ctypes.c_int64(s.numel() if many else 0),
        )  # fmt: skip

    def relu_mask(self, forward: bool, given: Tensor, result: Tensor, mask: Tensor, s: float | Tensor) -> None:
        many = isinstance(s, Tensor)
        self.library.relu_mask(
            int(forward), KINDS[given.dtype], ctypes.c_int64(given.numel()), address(given), address(result),
            address(mask), ctypes.c_double(0.0 if many else s), address(s if many else None),
        )  # fmt: skip

    def scratch(self, n: int, features: int) -> int:
        return self.library.parameter_gradient(
            0, 0, 0, ctypes.c_int64(n), None, None, ctypes.c_int64(features), None, None
        )

    def parameter_gradient(
        self, quantity: int, base: int, x: Tensor, grad: Tensor, features: int, partial: Tensor, result: Tensor
    ) -> None:
        self.library.parameter_gradient(
            quantity, base, KINDS[x.dtype], ctypes.c_int64(x.numel()), address(x), address(grad),
            ctypes.c_int64(features), address(partial), address(result),
        )  # fmt: skip


class OnGpu:
    """The same of the binary, on the current device."""

    device = "cuda"

    def transform(
        self,
        quantity: int,
        base: int,
        x: Tensor,
        grad: Tensor | None,
        y: Tensor,
        slope: Tensor | None,
        s: float | Tensor,
    ) -> None:
        many = isinstance(s, Tensor)
        compiled._C.transform(
            x.data_ptr(), y.data_ptr(), x.numel(), KINDS[x.dtype], base, quantity, 0.0 if many else s,
            s.data_ptr() if many else 0, s.numel() if many else 0, compiled.own(grad), compiled.own(slope),
            x.get_device(),
        )  # fmt: skip

    def relu_mask(self, forward: bool, given: Tensor, result: Tensor, mask: Tensor, s: float | Tensor) -> None:
        run = compiled._C.relu_mask_forward if forward else compiled._C.relu_mask_backward
        number, value = (0.0, s.data_ptr()) if isinstance(s, Tensor) else (s, 0)
        addresses, kind = (given.data_ptr(), result.data_ptr(), mask.data_ptr()), KINDS[given.dtype]
        run(*addresses, given.numel(), kind, number, value, given.get_device())

    def scratch(self, n: int, features: int) -> int:
        return compiled._C.parameter_gradient_scratch(n, features, torch.cuda.current_device())

    def parameter_gradient(
        self, quantity: int, base: int, x: Tensor, grad: Tensor, features: int, partial: Tensor, result: Tensor
    ) -> None:
        compiled._C.parameter_gradient(
            grad.data_ptr(), x.data_ptr(), result.data_ptr(), partial.data_ptr(), x.numel(), KINDS[x.dtype], base,
            quantity, features, x.get_device(),
        )  # fmt: skip


@pytest.fixture(scope="module", params=["emulated", "gpu"])
def kernels(request: pytest.FixtureRequest) -> Any:
    if request.param == "emulated":
        return Emulated(emulated("activation.cpp"))
    if not hx.backends()["cuda"]:
        pytest.skip("needs a GPU")
    return OnGpu()


@pytest.fixture(params=["forwards", "backwards"])
def either_way(request: pytest.FixtureRequest, kernels: Any) -> Iterator[Any]:
    """The kernels with the threads of a block in one order and in the other: a missing barrier would show."""
    if not isinstance(kernels, Emulated):
        yield kernels
        return
    kernels.library.run_backwards(request.param == "backwards")
    yield kernels
    kernels.library.run_backwards(0)


def placed(kernels: Any, x: Tensor, off: int) -> Tensor:
    """x in the kernels' memory, on the 16-byte grid or off it."""
    guarded = Guarded(x.shape, x.dtype, off, kernels.device)
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
    """The result and, if asked for, the slope, on the CPU; the call's tensors lie ``off`` elements off the grid."""
    y = Guarded(x.shape, x.dtype, off, kernels.device)
    second = Guarded(x.shape, x.dtype, off, kernels.device) if with_slope else None
    there = placed(kernels, x, off), None if grad is None else placed(kernels, grad, off)
    s = s.to(kernels.device) if isinstance(s, Tensor) else s
    kernels.transform(quantity, NUMBERED[base].number, *there, y.result, second and second.result, s)
    return y.checked().cpu(), None if second is None else second.checked().cpu()


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
        x, s, off = inputs(dtype, n), S[at % len(S)], at % 2
        grad = torch.linspace(-2, 2, n, dtype=torch.float64).to(dtype)
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
    x = torch.tensor([float("inf"), -float("inf"), 0.0, -0.0], dtype=dtype)
    for s in (0.0, 0.5, 1.0, 1.5):
        got, expected = transform(kernels, x, s, base, VALUE)[0], hx.homotopy(x, s, base)
        assert torch.equal(got[:2].nan_to_num(nan=7.0), expected[:2].nan_to_num(nan=7.0)), s
        assert torch.equal(got[2:], expected[2:])
        if base != "softplus" and s <= 1:  # beyond, the terms have opposite signs
            assert torch.equal(got[2:].signbit(), expected[2:].signbit()), s
    if base == "sin":  # s = 0 takes the cosine of infinity away, not NaN, in a vector that holds both too
        x = torch.tensor([float("inf"), float("nan")], dtype=dtype).repeat(2048)
        got = transform(kernels, x, 0.0, base, SLOPE)[0].view(-1, 2)
        assert bool((got[:, 0] == 1).all())
        assert bool(got[:, 1].isnan().all())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("base", BASES)
def test_one_s_per_feature(kernels: Any, dtype: torch.dtype, base: str) -> None:
    """The bits of the kernels for one s, column by column, and the formula; widths that divide no vector or many."""
    for rows, features in [(1, 2), (3, 3), (40, 7), (9, 8), (5, 33), (2, 300), (300, 16)]:
        off = rows % 2
        x = inputs(dtype, rows * features)
        grad = torch.linspace(-2, 2, rows * features, dtype=torch.float64).to(dtype)
        values = [S[k % len(S)] + k // len(S) / 512 for k in range(features)]
        s = torch.tensor(values, dtype=torch.float64)
        value, second = transform(kernels, x, s, base, VALUE, with_slope=True, off=off)
        assert second is not None
        results = [value, second, transform(kernels, x, s, base, CURVATURE, off=off)[0]]
        assert torch.equal(value.nan_to_num(), transform(kernels, x, s, base, VALUE, off=off)[0].nan_to_num())
        products = [transform(kernels, x, s, base, order, grad=grad, off=off)[0] for order in (SLOPE, CURVATURE)]
        for k in range(0, features, 1 + features // 5):
            column, factor = (t.view(rows, features)[:, k].contiguous() for t in (x, grad))
            for order, result in enumerate(results):
                got = result.view(rows, features)[:, k]
                check(got, column, values[k], base, order)
                expected = transform(kernels, column, values[k], base, order)[0]
                assert torch.equal(got.nan_to_num(), expected.nan_to_num())
            for order, product in enumerate(products, SLOPE):
                expected = transform(kernels, column, values[k], base, order, grad=factor)[0]
                assert torch.equal(product.view(rows, features)[:, k].nan_to_num(), expected.nan_to_num())


def test_one_s_per_feature_of_a_large_tensor(kernels: Any) -> None:
    """From 2^18 vectors on a thread goes round several times with the parameters it has made."""
    rows, features = 400_001, 5
    x = torch.sin(torch.arange(rows * features, dtype=torch.float32)).view(rows, features)
    s = torch.tensor([0.5, 1.0, 1.5, 0.0, 2.0], dtype=torch.float64)
    expected = torch.where(x > 0, x, (1.0 - s).float() * x)
    for off in (0, 1):
        assert torch.equal(transform(kernels, x, s, "relu", VALUE, off=off)[0], expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [1, 7, 8, 9, 255, 2047, 2048, 2049, 5000])
def test_relu_and_its_mask(either_way: Any, dtype: torch.dtype, n: int) -> None:
    """Bit i % 8 of byte i / 8 is x_i > 0; no bit beyond n is set and no byte beyond the mask is touched."""
    for off in (0, 1):
        x, device = placed(either_way, inputs(dtype, n), off), either_way.device
        y = Guarded((n,), dtype, off, device)
        mask = torch.full(((n + 7) // 8 + 2,), 170, dtype=torch.uint8, device=device)
        either_way.relu_mask(True, x, y.result, mask[1:], 1.5)
        unpacked = (mask.cpu()[1:-1, None] >> torch.arange(8, dtype=torch.uint8) & 1).flatten()
        assert torch.equal(unpacked[:n].bool(), x.cpu() > 0)
        assert not unpacked[n:].any()
        assert (mask[0], mask[-1]) == (170, 170)
        expected = torch.where(x > 0, x, (x.double() * -0.5).to(dtype))
        assert torch.equal(y.checked().nan_to_num(nan=7.0), expected.nan_to_num(nan=7.0))
        grad, grad_x = placed(either_way, torch.linspace(-2, 2, n).to(dtype), off), Guarded((n,), dtype, off, device)
        s = torch.tensor([1.5], dtype=torch.float64, device=device)
        either_way.relu_mask(False, grad, grad_x.result, mask[1:], s)
        assert torch.equal(grad_x.checked(), torch.where(x > 0, grad, (grad.double() * -0.5).to(dtype)))


def gradient_in_s(
    kernels: Any, quantity: int, base: str, x: Tensor, grad: Tensor, features: int, off: int = 0
) -> Tensor:
    partial = Guarded((kernels.scratch(x.numel(), features),), torch.float64, 0, kernels.device)
    result = Guarded((features,), torch.float64, 0, kernels.device)
    there = placed(kernels, x, off), placed(kernels, grad, off)
    kernels.parameter_gradient(quantity, NUMBERED[base].number, *there, features, partial.result, result.result)
    partial.checked()
    return result.checked().cpu()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("base", BASES)
def test_gradient_in_s(either_way: Any, dtype: torch.dtype, base: str) -> None:
    """One s and one per feature, the same bits on and off the 16-byte grid. float64 sums of terms that are good to 4
    ulp of float32, or 2^-8 ulp of a half type, of the sum of magnitudes."""
    for n, features in [(1, 1), (4097, 1), (20_001, 1), (2, 2), (9, 3), (700, 7), (3200, 40), (600, 300), (2062, 1031)]:
        x = spread(torch.float64, 4000)[:n] if n < 4000 else torch.linspace(-6, 6, n, dtype=torch.float64)
        x = x.clamp(-1e3, 1e3).to(dtype)
        grad = torch.sin(torch.arange(n, dtype=torch.float64)).to(dtype)
        for quantity in (PARAMETER_GRADIENT, PARAMETER_GRADIENT_1):
            result = gradient_in_s(either_way, quantity, base, x, grad, features)
            assert torch.equal(gradient_in_s(either_way, quantity, base, x, grad, features, off=1), result)
            terms = (sigma(x, base) - x.double()) if quantity == PARAMETER_GRADIENT else slope(x, base) - 1.0
            size = (
                (sigma(x, base).abs() + x.double().abs())
                if quantity == PARAMETER_GRADIENT
                else slope(x, base).abs() + 1
            )
            exact = (grad.double() * terms).view(-1, features).sum(0)
            bound = (grad.double().abs() * size).view(-1, features).sum(0)
            bits = {torch.float64: 50, torch.float32: 21, torch.bfloat16: 16, torch.float16: 19}[dtype]
            assert ((result - exact).abs() <= 2.0**-bits * bound + 1e-300).all()


def test_gradient_in_s_of_many_rows(either_way: Any) -> None:
    """Several chunks, and so many sums of them that a warp adds each feature's; exact, since every term is."""
    n, features = 300_000, 3
    x, grad = torch.full((n,), -0.5, dtype=torch.float16), (torch.arange(n) % 7).half()
    expected = (0.5 * grad.double()).view(-1, features).sum(0)
    for off in (0, 1):
        result = gradient_in_s(either_way, PARAMETER_GRADIENT, "relu", x, grad, features, off)
        assert torch.equal(result, expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("base", BASES)
def test_every_term_of_the_gradient_in_s_of_half_types(kernels: Any, dtype: torch.dtype, base: str) -> None:
    """sigma(x) - x of every number of the type, as the gradient of its own s: 2^-8 ulp of the type at the larger of the
    two; below |x| = 1/2 of the odd bases tanh and sin, whose x cancels, 2^-8 ulp of what is left."""
    x = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)
    x = x[x.isfinite() & (x.abs() < 1e4)]
    result = gradient_in_s(kernels, PARAMETER_GRADIENT, base, x, torch.ones_like(x), x.numel())
    exact = homotopy(x, 1.0, base) - x.double()
    size = torch.maximum(sigma(x, base).abs(), x.double().abs())
    if base in ("tanh", "sin"):
        series = x.double() ** 3 * (-1 / 3 if base == "tanh" else -1 / 6)  # where float64 cancels
        exact = torch.where(x.abs() < 1e-4, series, exact)
        size = torch.where(x.abs() < 0.5, exact.abs(), size)
    assert ((result - exact).abs() <= 2.0**-8 * torch.finfo(dtype).eps / 2 * size + 2.0**-126).all()


@pytest.mark.parametrize("base", ["relu", "gelu", "silu", "softplus"])
def test_every_term_of_the_gradient_in_s_of_float32(kernels: Any, base: str) -> None:
    """8 ulp of itself, max(-x, 0) + sigma(-|x|), also where it is nothing but the tail."""
    x = torch.cat([torch.linspace(-20, 20, 4001), torch.logspace(-6, 2, 999), -torch.logspace(-6, 2, 999)])
    x = x[x.abs() < 12] if base == "gelu" else x[x.abs() < 80]  # beyond, the tail is no normal float32
    result = gradient_in_s(kernels, PARAMETER_GRADIENT, base, x, torch.ones_like(x), x.numel())
    exact = (-x.double()).clamp(min=0) + sigma(-x.abs(), base)
    assert ((result - exact).abs() <= 8 * torch.finfo(torch.float32).eps * exact.abs()).all()


def test_three_runs_have_the_same_bits(kernels: Any) -> None:
    """Sums of a hundred blocks, one s and many."""
    x, grad = (torch.randn(300_000, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    for features in (1, 3, 1000):
        runs = [gradient_in_s(kernels, PARAMETER_GRADIENT, "tanh", x, grad, features) for _ in range(3)]
        assert torch.equal(runs[0], runs[1])
        assert torch.equal(runs[0], runs[2])
