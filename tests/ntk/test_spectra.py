"""Smallest eigenvalues, the decay rate they promise, and the s^2 law."""

from __future__ import annotations

import math

import pytest
import torch

import hrta_ext as hx


def test_known_spectrum() -> None:
    """Q diag(d) Q^T has the eigenvalues d, to 1e-14 of the largest."""
    q = torch.linalg.qr(torch.randn(3, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))[0]
    d = torch.tensor([1e-6, 0.5, 1.0, 2.0, 3.0, 10.0], dtype=torch.float64)
    matrix = q * d @ q.mT
    matrix = 0.5 * (matrix + matrix.mT)
    torch.testing.assert_close(hx.eigenvalues(matrix), d.expand(3, 6), rtol=0, atol=1e-14 * 10)
    assert hx.lambda_min(matrix).shape == (3,)
    torch.testing.assert_close(hx.lambda_min(matrix), d[:1].expand(3), rtol=0, atol=1e-13)
    assert hx.lambda_min(matrix.float()).dtype == torch.float64


def test_decay_rate_bounds_gradient_flow() -> None:
    """exp(-K t / n) from any start: R(t) <= R(0) exp(-rate t), with equality along the smallest eigenvector."""
    kernel = hx.infinite_gram(hx.with_bias(torch.linspace(0, 1, 8, dtype=torch.float64)[:, None])).ntk
    values, vectors = torch.linalg.eigh(kernel)
    rate, n, t = float(hx.decay_rate(kernel)), 8, 30.0
    flow = vectors * torch.exp(-values * t / n) @ vectors.T
    start = torch.randn(n, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    assert float((flow @ start).square().sum()) <= float(start.square().sum()) * math.exp(-rate * t)
    slowest = (flow @ vectors[:, 0]).square().sum()
    assert float(slowest) == pytest.approx(math.exp(-rate * t), rel=1e-9)


def test_square_law_on_the_infinite_kernel_and_where_it_fails() -> None:
    x = hx.with_bias(torch.linspace(0, 1, 20, dtype=torch.float64)[:, None])
    s = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0])
    law = hx.square_law(s, hx.lambda_min(hx.infinite_gram(x, s).w), 20, 2)
    assert law.holds
    assert law.exponent == pytest.approx(2.0, abs=1e-3)
    assert "grows like s^2" in law.sentence
    cubic = hx.square_law(s, s**3, 20, 2)
    assert not cubic.holds
    assert cubic.exponent == pytest.approx(3.0)
    assert "does not grow like s^2" in cubic.sentence
    assert "needs n > D" in hx.square_law(s, s**2, 2, 2).sentence
    assert not hx.square_law(s, -s, 20, 2).holds
    assert "two different values" in hx.square_law(torch.ones(3), torch.ones(3), 20, 2).sentence


@pytest.mark.parametrize("function", [hx.lambda_min, hx.eigenvalues, hx.decay_rate])
def test_bad_matrices(function: object) -> None:
    assert callable(function)
    for matrix, error, message in (
        ([[1.0]], TypeError, "matrix must be a tensor"),
        (hx.infinite_gram(torch.eye(2), 1.0), TypeError, "got Gram; its ntk is one"),
        (torch.eye(2, dtype=torch.int64), TypeError, "matrix must be float32 or float64"),
        (torch.ones(2, 3), ValueError, r"matrix must have shape \(..., n, n\)"),
        (torch.ones(0, 0), ValueError, "at least one row"),
        (torch.tensor([[math.nan]]), ValueError, "matrix must be finite"),
        (torch.tensor([[1.0, 2.0], [3.0, 4.0]]), ValueError, "matrix must be symmetric"),
    ):
        with pytest.raises(error, match=message):
            function(matrix)
