"""What one element's result may depend on: its x, its s as it was given, nothing of its neighbours."""

from __future__ import annotations

import math

import pytest
import torch
from cases import BASES, DTYPES, curvature, homotopy, sigma, slope, spread, ulp

import hrta_ext as hx

NEAR_ONE = [1.0379, 1.001, 1 + 1e-5, 1 + 1e-9, 1.0, 1 - 1e-9, 0.999999, 0.97, 0.5, -0.3, 1.7]


@pytest.mark.parametrize("of_s", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("base", BASES)
def test_s_per_feature_keeps_its_digits(device: torch.device, base: str, dtype: torch.dtype, of_s: torch.dtype) -> None:
    """1 - s is formed of the s that was given: rounded to float32 first it would be off by 1e7 ulp at s = 1 + 1e-9.

    4 ulp of float32 and 6 of the curvature, as documented; 8 of float64, beside two of the oracle's own; half types
    2^-8 ulp of theirs and half an ulp.
    """
    s = torch.tensor(NEAR_ONE, dtype=torch.float64).to(of_s)
    x = torch.cat([spread(dtype, 242), -spread(dtype, 99).abs()]).reshape(-1, len(s))
    computed = torch.float64 if dtype == torch.float64 else torch.float32
    tail = 1.0
    if base == "gelu" and computed == torch.float64:
        tail = 1.0 + x.double().square()  # the library's erfc, of the oracle too
    for order in (0, 1, 2):
        y = hx.homotopy(x.to(device), s.to(device), base, order=order).cpu()
        wide = s.double().expand(x.shape)
        truth = homotopy(x, wide, base, order)
        terms = {
            0: lambda w: torch.maximum(((1 - w) * x.double()).abs(), (w * sigma(x, base)).abs()),
            1: lambda w: torch.maximum(torch.maximum((1 - w).abs(), w.abs()), (w * slope(x, base)).abs()),
            2: lambda w: w.abs() * curvature(x, base).abs().clamp(min=1.0),
        }
        unit = ulp(terms[order](wide), computed)
        bound = tail * ((10 if computed == torch.float64 else 6 if order == 2 else 4) * unit)
        if dtype in (torch.float16, torch.bfloat16):
            own = 2.0**-8 * ulp(terms[order](wide), dtype)  # of the kernels' own formulas
            bound = torch.maximum(bound, own) + 0.5 * ulp(truth, dtype)
        excess = (y.double() - truth).abs() - bound
        worst = int(excess.argmax())
        assert excess.max() <= 0, f"order {order}, s={wide.flatten()[worst]}, x={x.flatten()[worst]}"


@pytest.mark.parametrize("order", [0, 1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("base", BASES)
def test_infinite_and_huge_elements_leave_the_others_alone(
    device: torch.device, base: str, dtype: torch.dtype, order: int
) -> None:
    """Each element among others and by itself; 1e200 became 1e150 on the torch backend beside an infinity."""
    huge = 1e200 if dtype == torch.float64 else 1e30
    x = torch.tensor(
        [huge, -huge, math.inf, -math.inf, math.nan, 1.0, -1.0, 0.0, 1e7, -1e7], dtype=dtype, device=device
    )
    for s in (0.0, 0.5, 1.0, 1.5, -1.0):
        together = hx.homotopy(x, s, base, order=order)
        alone = torch.cat([hx.homotopy(x[i : i + 1], s, base, order=order) for i in range(len(x))])
        torch.testing.assert_close(together, alone, rtol=0, atol=0, equal_nan=True)
        assert together[4].isnan() or order == 2 or base in ("relu", "relu2")


@pytest.mark.parametrize("order", [0, 1, 2])
@pytest.mark.parametrize("base", BASES)
def test_backends_agree_far_out(base: str, order: int) -> None:
    """The limits of value, slope and curvature at infinity, and no NaN of 0 times infinity before it."""
    if not hx.backends()["cpp"]:
        pytest.skip("backend cpp is not usable here")
    x = torch.tensor([1e200, -1e200, math.inf, -math.inf, math.nan, 50.0, -50.0, 1e308, -1e308], dtype=torch.float64)
    for s in (0.0, 0.5, 1.0, 3.0, -1.0):
        found = []
        for name in ("torch", "cpp"):
            with hx.use_backend(name):
                found.append(hx.homotopy(x, s, base, order=order))
        torch.testing.assert_close(*found, rtol=1e-6, atol=1e-12, equal_nan=True)


@pytest.mark.skipif(not hx.backends()["cpp"], reason="no compiled kernels")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("base", BASES)
def test_an_element_has_the_same_bits_wherever_it_stands(base: str, dtype: torch.dtype) -> None:
    """In the middle of a tensor, at its end, where vectors are not full, and alone; values, slopes and gradients."""
    x, grad = (torch.randn(203, dtype=dtype, generator=torch.Generator().manual_seed(i)) * 3 for i in (0, 1))
    with hx.use_backend("native"):
        for s in (0.7, 1.0):
            leaf = x.clone().requires_grad_()
            whole = (
                *hx.homotopy_value_and_slope(x, s, base),
                *torch.autograd.grad(hx.homotopy(leaf, s, base), leaf, grad),
            )
            for first, last in ((0, 1), (3, 11), (5, 38), (17, 203), (202, 203)):
                part = x[first:last].clone().requires_grad_()
                y = hx.homotopy(part, s, base)
                results = (
                    y.detach(),
                    hx.homotopy(part.detach(), s, base, order=1),
                    *torch.autograd.grad(y, part, grad[first:last]),
                )
                for ours, expected in zip(results, whole, strict=True):
                    assert torch.equal(ours, expected[first:last])
