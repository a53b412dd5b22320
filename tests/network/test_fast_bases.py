"""The fused network's own functions on a GPU (csrc/network/cuda/fast_bases.cuh), compiled as C++.

Here the hardware's power of two, logarithm and inverse are rounded once; of the errors that the header states half is
left for theirs (2^-22.7, 2^-22 and 2^-23.3).
"""

from __future__ import annotations

import ctypes
from typing import Any

import pytest
import torch
from cases import BASES, curvature, every_float32, sigma, slope, third
from emulated import address, emulated
from torch import Tensor

from hrta_ext.bases import BASES as NUMBERED


@pytest.fixture(scope="module")
def functions() -> Any:
    return emulated("fast_bases.cpp")


def evaluate(functions: Any, base: str, z: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    results = torch.full((4, z.numel()), torch.nan)
    number = ctypes.c_int(NUMBERED[base].number)
    functions.fast_base(number, ctypes.c_int64(z.numel()), address(z), *(address(row) for row in results))
    return results[0], results[1], results[2], results[3]


@pytest.mark.parametrize("base", BASES)
def test_errors_are_those_that_the_header_states(functions: Any, base: str) -> None:
    """Over every exponent, densely where the forms change, and at both zeros."""
    dense = [torch.linspace(-12, 12, 200_001), torch.linspace(-120, 120, 100_001), torch.tensor([0.0, -0.0])]
    z = torch.cat([every_float32(100_000, seed=2), *dense])
    z = z[z.abs() <= 1e5]
    ours = evaluate(functions, base, z)
    values, slopes, curvatures = sigma(z, base), slope(z, base), curvature(z, base)
    one = torch.ones_like(values)
    scale = torch.maximum(values.abs(), torch.minimum(z.double().abs(), one))
    for what, exact, largest, bound in (
        (ours[0], values, scale, 4e-7),
        (ours[1], slopes, torch.maximum(slopes.abs(), one), 4e-7),
        (ours[2], curvatures, one, 8e-7),
        (ours[3], third(z, base), one, 1.6e-6),
    ):
        error = (what.double() - exact).abs() - 2e-45  # of subnormal numbers
        at = (error - bound * largest).argmax()
        assert error[at] <= bound * largest[at], f"{error[at] / largest[at]:.2e} at z={z[at].item()!r}"


@pytest.mark.parametrize("base", BASES)
def test_far_out(functions: Any, base: str) -> None:
    """Nothing overflows before sigma does; infinity gives the limits; NaN stays NaN, and sin's infinity becomes NaN."""
    far = torch.tensor([1e5, 1e6, 3.3e7, 1e12, 3e15, 1e20, 3e38])
    z = torch.cat([far, -far])
    value, slopes, curvatures, thirds = evaluate(functions, base, z)
    if base == "sin":
        exact = z.abs() < 1e16
        torch.testing.assert_close(value[exact].double(), sigma(z, base)[exact], rtol=0.0, atol=2e-7)
        torch.testing.assert_close(slopes[exact].double(), slope(z, base)[exact], rtol=0.0, atol=2e-7)
        assert value.abs().max() <= 1
        assert slopes.abs().max() <= 1
    else:
        torch.testing.assert_close(value.double(), sigma(z, base).float().double(), rtol=2e-7, atol=4e-8)
        torch.testing.assert_close(slopes.double(), slope(z, base), rtol=2e-7, atol=4e-8)
        assert curvatures.isfinite().all()
        assert thirds.abs().max() < 1e-30
    infinite = torch.tensor([torch.inf, -torch.inf])
    value, slopes, curvatures, thirds = evaluate(functions, base, infinite)
    if base == "sin":
        assert value.isnan().all()
    else:
        torch.testing.assert_close(
            value, torch.where(sigma(infinite, base).isnan(), 0.0, sigma(infinite, base)).float(), rtol=0, atol=4e-8
        )
        assert not slopes.isnan().any()
        assert not curvatures.isnan().any()
        assert thirds.abs().max() < 1e-30
    value, slopes, _, thirds = evaluate(functions, base, torch.tensor([torch.nan]))
    assert value.isnan().all()
    assert base == "relu" or slopes.isnan().all()
    assert base in ("relu", "relu2") or thirds.isnan().all()
