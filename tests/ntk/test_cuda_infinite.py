"""The GPU's kernels of infinite width without a GPU, compiled as C++ and run thread by thread (tests/emulation)."""

from __future__ import annotations

import ctypes
import math
from typing import Any

import mpmath
import pytest
import torch
from cases import BASES
from emulated import Guarded, address, emulated
from ntk.infinite_cases import awkward, by_quadrature, relu_recursion
from torch import Tensor

import hrta_ext as hx
from hrta_ext.bases import BASES as NUMBERS
from hrta_ext.ntk.expectations import CLOSED_FORMS, lengths, widths_of

S = (0.5, 1.0, 2.0)


@pytest.fixture(scope="module")
def kernels() -> Any:
    return emulated("infinite.cpp")


def on_emulation(
    kernels: Any, x: Tensor, s: tuple[float, ...], base: str, x2: Tensor | None = None, depth: int = 1
) -> hx.Gram:
    """(S, n, n2) each, guarded."""
    y = x if x2 is None else x2
    mixture, values = widths_of(base), torch.tensor(s, dtype=torch.float64)
    links = 1 if depth == 1 else len(s) * depth
    inputs = [x, y, lengths(x), lengths(y), values, mixture.weights, mixture.squares]
    chain = torch.full((links, 2, len(x)), torch.nan, dtype=torch.float64)
    chain2 = chain if x2 is None else torch.full((links, 2, len(y)), torch.nan, dtype=torch.float64)
    a, w = (Guarded((len(s), len(x), len(y)), torch.float64, off=1) for _ in range(2))
    work = [chain, chain2, a.result, w.result]
    numbers = [NUMBERS[base].number, x2 is None, len(x), len(y), x.shape[1], len(s), depth, len(mixture.weights)]
    sizes = torch.tensor(numbers)
    kernels.infinite(
        address(sizes),
        (ctypes.c_void_p * len(inputs))(*(tensor.data_ptr() for tensor in inputs)),
        (ctypes.c_void_p * len(work))(*(tensor.data_ptr() for tensor in work)),
    )
    return hx.Gram(a.checked(), w.checked())


def random(n: int, d: int, seed: int) -> Tensor:
    return torch.randn(n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) / d**0.5


def check(kernels: Any, x: Tensor, base: str, x2: Tensor | None = None, depth: int = 1) -> None:
    """Against the torch backend, to 1e-13 of the largest entry; exactly symmetric; no barrier is missing."""
    found = on_emulation(kernels, x, S, base, x2, depth)
    with hx.use_backend("torch"):
        expected = hx.infinite_gram(x, S, base=base, x2=x2, depth=depth)
    for got, true in zip(found, expected, strict=True):
        torch.testing.assert_close(got, true, rtol=0, atol=1e-13 * float(true.abs().max()))
        assert x2 is not None or torch.equal(got, got.mT)
    kernels.run_backwards(1)
    again = on_emulation(kernels, x, S, base, x2, depth)
    kernels.run_backwards(0)
    assert all(torch.equal(one, two) for one, two in zip(found, again, strict=True))


# Tiles of 32 by 32, blocks of 32 features: one less, as many, one more.
@pytest.mark.parametrize(("n", "d"), [(1, 1), (31, 32), (65, 33)])
def test_symmetric_tiles(kernels: Any, n: int, d: int) -> None:
    check(kernels, random(n, d, n), "relu")
    check(kernels, random(n, d, n), "sin", depth=2)


@pytest.mark.parametrize(("n", "n2", "d"), [(1, 33, 3), (64, 1, 65), (33, 31, 2)])
def test_rectangular_tiles(kernels: Any, n: int, n2: int, d: int) -> None:
    check(kernels, random(n, d, 1), "erf", random(n2, d, 2))
    check(kernels, random(n, d, 1), "relu", random(n2, d, 2), depth=3)


@pytest.mark.parametrize("base", BASES)
def test_every_base_on_awkward_samples(kernels: Any, base: str) -> None:
    """Duplicate, parallel, opposite and zero samples; through layers too."""
    mixture = base not in CLOSED_FORMS
    check(kernels, awkward(9 if mixture else 34), base)
    if not mixture:
        check(kernels, awkward(9), base, depth=3)


@pytest.mark.parametrize("base", ["tanh", "silu", "softplus"])
def test_mixtures_against_quadrature(kernels: Any, base: str) -> None:
    """Nothing of the package; test_infinite.py has longer samples."""
    x = torch.tensor([[3.0, 0.5], [-0.2, 0.3]], dtype=torch.float64)
    found = on_emulation(kernels, x, (1.0,), base)
    value, slope = by_quadrature(x[0], x[1], base, 1.0)
    assert float(found.a[0, 0, 1]) == pytest.approx(value, abs=1e-13)
    assert float(found.w[0, 1, 0]) == pytest.approx(float(x[0] @ x[1]) * slope, abs=1e-13)


@pytest.mark.parametrize("depth", [1, 3])
def test_relu_against_fifty_digits(kernels: Any, depth: int) -> None:
    """Small and nearly straight angles, to 1e-14 of the diagonal."""
    for angle in (0.0, 1e-12, 1e-7, 1e-3, 1.0, math.pi - 1e-3, math.pi - 1e-7):
        y = [[1.0, 0.0], [math.cos(angle), math.sin(angle)]]
        found = on_emulation(kernels, torch.tensor(y, dtype=torch.float64), S, "relu", depth=depth)
        for i, s in enumerate(S):
            a, w = relu_recursion(angle, s, depth)
            assert float(found.a[i, 0, 1]) == pytest.approx(a, abs=1e-14 * float(found.a[i, 0, 0]))
            assert float(found.w[i, 0, 1]) == pytest.approx(w, abs=1e-14 * float(found.w[i, 0, 0]))


def test_erf_and_sin_against_fifty_digits(kernels: Any) -> None:
    x = torch.tensor([[0.3, -1.1, 0.5], [0.7, 0.2, -2.0], [-0.3, 1.1, -0.5001]], dtype=torch.float64)
    erf, sin = (on_emulation(kernels, x, (1.0,), base).a[0] for base in ("erf", "sin"))
    with mpmath.workdps(50):
        for i in range(3):
            for j in range(3):
                p, q, q2 = (mpmath.mpf(0),) * 3
                for u, v in zip(x[i].tolist(), x[j].tolist(), strict=True):
                    p, q, q2 = p + mpmath.mpf(u) * v, q + mpmath.mpf(u) ** 2, q2 + mpmath.mpf(v) ** 2
                exact = 2 / mpmath.pi * mpmath.asin(2 * p / mpmath.sqrt((1 + 2 * q) * (1 + 2 * q2)))
                assert float(erf[i, j]) == pytest.approx(float(exact), rel=1e-14)
                exact = mpmath.exp(-(q + q2) / 2) * mpmath.sinh(p)
                assert float(sin[i, j]) == pytest.approx(float(exact), rel=1e-14)


# Blocks of 8 rows, 256 columns and 64 terms.
@pytest.mark.parametrize(("n", "n2", "terms"), [(7, 300, 130), (17, 1, 64), (8, 256, 5)])
def test_sums_of_powers(kernels: Any, n: int, n2: int, terms: int) -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = (n, terms), (terms, n2), (n, n2)
    left, right, base = (torch.rand(shape, generator=generator, dtype=torch.float64) for shape in shapes)
    result, sizes = Guarded((n, n2), torch.float64, off=1), torch.tensor([n, n2, terms])
    kernels.powers(address(sizes), *map(address, (left, right, base, result.result)))
    exact = torch.einsum("ik,kj,ijk->ij", left, right, base[..., None] ** torch.arange(terms))
    torch.testing.assert_close(result.checked(), exact, rtol=1e-13, atol=0)
