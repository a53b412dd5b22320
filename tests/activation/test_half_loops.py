"""The CPU's own loops for float16 and bfloat16: registers at a time, remainders on copies, hardware conversions."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from cases import BASES, homotopy, sigma, slope, ulp
from torch import Tensor

import hrta_ext as hx

TYPES = [torch.float16, torch.bfloat16]


@pytest.fixture(autouse=True)
def kernels() -> None:
    if not hx.backends()["cpp"]:
        pytest.skip("no compiled kernels")


def every(dtype: torch.dtype) -> Tensor:
    """All 65536 bit patterns: denormal numbers, infinities and every NaN among them."""
    return torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)


def same(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and torch.equal(a.view(torch.int16), b.view(torch.int16))


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("base", BASES)
def test_every_nan_stays_one_and_nothing_else_becomes_one(dtype: torch.dtype, base: str) -> None:
    """bfloat16 is rounded by an integer addition, which would carry a NaN with bits in its low half into -0."""
    x = every(dtype)
    with hx.use_backend("native"):
        for s in (0.5, 1.0):
            value, derivative = hx.homotopy_value_and_slope(x, s, base)
            finite = ~x.isinf()  # at infinity sin has no limit
            assert torch.equal(value.isnan()[finite], x.isnan()[finite])
            if base != "relu":  # whose slope at NaN is 1 - s
                assert torch.equal(derivative.isnan()[finite], x.isnan()[finite])
        payload = torch.tensor([0x7FFFFFFFFFFFFFFF]).view(torch.float64).reshape(())
        assert hx.homotopy(-x.abs()[x != 0], payload, base).isnan().all()
        leaf = torch.ones(2**16, dtype=dtype, requires_grad=True)
        (g,) = torch.autograd.grad(hx.homotopy(leaf, 0.5, base), leaf, x)  # every NaN as a gradient
        assert torch.equal(g.isnan(), x.isnan())


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("base", BASES)
def test_backward_rounds_the_product_once(dtype: torch.dtype, base: str) -> None:
    """Half an ulp, and 2^-8 ulp of the slope's larger term times the gradient."""
    x = every(dtype)[::7]
    x = x[torch.isfinite(x)]
    grad = torch.randn(x.numel(), generator=torch.Generator().manual_seed(0)).to(dtype)
    with hx.use_backend("native"):
        for s in (0.5, 1.0, 1.7):
            leaf = x.clone().requires_grad_()
            (g,) = torch.autograd.grad(hx.homotopy(leaf, s, base), leaf, grad)
            exact = homotopy(x, s, base, 1) * grad.double()
            terms = torch.maximum((s * slope(x, base)).abs(), torch.tensor(max(abs(s), abs(1 - s)))) * grad.abs()
            allowed = 0.5 * ulp(exact, dtype) + 2.0**-8 * ulp(torch.maximum(terms, exact.abs()), dtype)
            fits = torch.maximum(exact.abs(), (s * slope(x, base)).abs()) < torch.finfo(dtype).max
            assert ((g.double() - exact).abs() <= allowed)[fits].all(), s


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("base", BASES)
def test_bits_do_not_depend_on_the_place(dtype: torch.dtype, base: str) -> None:
    """Vectors, remainders of every length, far arguments of sin beside near ones, and s per feature."""
    x = every(dtype)[torch.randperm(2**16, generator=torch.Generator().manual_seed(1))[:1100]]
    x = x[~x.isnan()]
    n = x.numel() // 7 * 7
    with hx.use_backend("native"):
        value, derivative = hx.homotopy_value_and_slope(x, 0.3, base)
        assert same(hx.homotopy(x, 0.3, base, order=1), derivative)
        for first, count in ((0, 1), (1, 7), (3, 15), (5, 16), (2, 33), (1, 1000)):
            part = slice(first, first + count)
            assert same(hx.homotopy(x[part].clone(), 0.3, base), value[part])
            assert same(hx.homotopy(x[part].clone(), 0.3, base, order=1), derivative[part])
        s = torch.full((7,), 0.3, dtype=torch.float64)
        assert same(hx.homotopy(x[:n].reshape(-1, 7), s, base).flatten(), value[:n])
        if base == "relu":
            leaf = x.clone().requires_grad_()
            assert same(hx.homotopy(leaf, 0.3).detach(), value)


def test_levels_agree(tmp_path: Path) -> None:
    """The lowest SIMD level, in a process of its own, beside this one: an ulp at most, and hardly ever that.

    The s makes no ties of what small x become: one would count at every exponent.
    """
    code = (
        "import sys, torch, hrta_ext as hx\n"
        "x = [torch.arange(-(2**15), 2**15, 5, dtype=torch.int32).to(torch.int16).view(t)"
        " for t in (torch.float16, torch.bfloat16)]\n"
        "torch.save([hx.homotopy(z, 0.7123, b, order=o) for z in x for b in sys.argv[2:] for o in (0, 1)], sys.argv[1])"
    )
    if hx.build_info()["simd"] == "baseline":
        pytest.skip("one SIMD level only")
    x = [every(dtype)[::5] for dtype in TYPES]
    path, environment = str(tmp_path / "lowest.pt"), {**os.environ, "HRTA_EXT_SIMD": "baseline"}
    subprocess.run([sys.executable, "-c", code, path, *BASES], check=True, env=environment)
    one = torch.load(path)
    with hx.use_backend("native"):
        other = [hx.homotopy(z, 0.7123, base, order=order) for z in x for base in BASES for order in (0, 1)]
    cases = [(z, base, order) for z in x for base in BASES for order in (0, 1)]
    for (z, base, order), a, b in zip(cases, one, other, strict=True):
        scale = torch.tensor(1.0, dtype=torch.float64)
        if order == 0:
            scale = torch.maximum((0.7123 * sigma(z, base)).abs(), (0.2877 * z.double()).abs())
        largest = torch.maximum(scale, a.double().abs())
        near = (a.double() - b.double()).abs() <= ulp(largest, z.dtype)
        assert (near | (a == b) | (a.isnan() & b.isnan())).all(), (base, order, z.dtype)
        ordinary = z.isfinite()
        assert (a[ordinary] == b[ordinary]).double().mean() > 0.99, (base, order, z.dtype)
