"""Infinite-width kernels: closed forms, an independent quadrature, Monte Carlo, limits, depth, errors."""

from __future__ import annotations

import math

import cases
import pytest
import torch
from torch import Tensor

import hrta_ext as hx
from hrta_ext.bases import get_base
from hrta_ext.expectations import CLOSED_FORMS, MIXTURES, pairs_of_samples
from hrta_ext.hermite import expanded

S = (0.5, 1.0, 1.5, 2.0)
CLOSED_FORMS = ("relu", "relu2", "erf", "gelu", "sin")


def line(n: int = 100) -> Tensor:
    return hx.with_bias(torch.linspace(0, 1, n, dtype=torch.float64)[:, None])


def cube(side: int = 5) -> Tensor:
    g = torch.linspace(0, 1, side, dtype=torch.float64)
    return hx.with_bias(torch.cartesian_prod(g, g, g))


def awkward(n: int = 9, d: int = 3, seed: int = 0) -> Tensor:
    """Random samples with a duplicate, a multiple, an antiparallel pair, nearly parallel ones and a zero row."""
    x = torch.randn(n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    x[3], x[4], x[5], x[6], x[7] = x[2], 2 * x[2], -x[2], x[2] * (1 + 1e-9) + 1e-9, 0
    return x


def by_quadrature(x: Tensor, y: Tensor, base: str, s: float) -> tuple[float, float]:
    """K^[a] and the sigma' factor for one pair, by the trapezoid rule in two dimensions: nothing of the package.

    The integrands are analytic or (ReLU) integrated from their kink on, so the rule converges to rounding for the
    smooth bases: step 1/64 on [-9, 9].
    """
    norm, norm2 = float(x.norm()), float(y.norm())
    cosine = float(x @ y) / (norm * norm2)
    g = torch.linspace(-9, 9, 1153, dtype=torch.float64)
    weight = torch.exp(-g * g / 2) * (g[1] - g[0]) / math.sqrt(2 * math.pi)
    u = (norm * g)[:, None].expand(-1, len(g))
    v = norm2 * (cosine * g[:, None] + math.sqrt(max(1 - cosine**2, 0.0)) * g[None, :])
    both = weight[:, None] * weight[None, :]
    values = cases.homotopy(u, s, base) * cases.homotopy(v, s, base)
    slopes = cases.homotopy(u, s, base, 1) * cases.homotopy(v, s, base, 1)
    return float((both * values).sum()), float((both * slopes).sum())


def test_relu_is_the_closed_form_of_the_theory() -> None:
    """THEORY 3.2, to 1e-13 of the largest entry: a dozen float64 roundings."""
    x = torch.randn(40, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    norm = x.norm(dim=1)
    u = x / norm[:, None]
    angle = 2 * torch.atan2((u[:, None] - u).norm(dim=-1), (u[:, None] + u).norm(dim=-1))
    kappa1 = torch.outer(norm, norm) * (torch.sin(angle) + (math.pi - angle) * torch.cos(angle)) / (2 * math.pi)
    kappa0 = (math.pi - angle) / (2 * math.pi)
    for s in (-0.5, 0.0, *S, 3.0):
        found = hx.infinite_gram(x, s)
        a, w = (1 - s) * x @ x.T + s**2 * kappa1, (x @ x.T) * ((1 - s) + s**2 * kappa0)
        torch.testing.assert_close(found.a, a, rtol=0, atol=1e-13 * float(a.abs().max()))
        torch.testing.assert_close(found.w, w, rtol=0, atol=1e-13 * float(w.abs().max()))


@pytest.mark.parametrize(
    ("x", "kernel", "expected"),
    [
        (line(), "w", (2.010e-4, 8.040e-4, 1.809e-3, 3.216e-3)),
        (line(), "a", (1.014e-9, 4.055e-9, 9.123e-9, 1.622e-8)),
        (cube(), "w", (4.459e-3, 1.784e-2, 4.013e-2, 7.134e-2)),
        (cube(), "a", (1.286e-5, 5.143e-5, 1.157e-4, 2.057e-4)),
    ],
)
def test_smallest_eigenvalues_of_the_paper_s_data(x: Tensor, kernel: str, expected: tuple[float, ...]) -> None:
    """The table of THEORY 3.4, to its four digits: needs angles that keep their digits for nearly parallel samples."""
    found = hx.lambda_min(getattr(hx.infinite_gram(x, S), kernel)).tolist()
    assert found == pytest.approx(expected, rel=6e-4)


@pytest.mark.parametrize("base", cases.SMOOTH_BASES)
def test_smooth_bases_against_quadrature(base: str) -> None:
    """1e-12: the trapezoid rule's own rounding over a million nodes, and the expansion's bound."""
    x = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    for s in (0.5, 1.5):
        found = hx.infinite_gram(x, s, base=base)
        for i, j in ((0, 0), (0, 1), (2, 3), (4, 1)):
            value, slope = by_quadrature(x[i], x[j], base, s)
            assert float(found.a[i, j]) == pytest.approx(value, abs=1e-12)
            assert float(found.w[i, j]) == pytest.approx(float(x[i] @ x[j]) * slope, abs=1e-12)


@pytest.mark.parametrize("base", ["erf", "gelu", "sin"])
@pytest.mark.parametrize("scale", [0.1, 1.0, 3.0])
def test_expansion_agrees_with_the_closed_forms(base: str, scale: float) -> None:
    """Two derivations of the same kernel, awkward pairs included, to 1e-13 relative to the largest entry."""
    pairs = _pairs_of_samples(scale * awkward(), scale * awkward())
    exact, expanded = _expectations(base, pairs), _by_expansion(base, pairs)
    for one, other in ((exact.values, expanded.values), (exact.slopes, expanded.slopes)):
        torch.testing.assert_close(other, one, rtol=0, atol=1e-13 * float(one.abs().max()))
    torch.testing.assert_close(expanded.mean_slope, exact.mean_slope, rtol=0, atol=1e-13)


@pytest.mark.parametrize("base", cases.BASES)
def test_monte_carlo(base: str) -> None:
    """Finite width scatters around the infinite width: no entry beyond 5 standard errors (16 batches, fixed seed)."""
    x = awkward()[:6]
    path = hx.random_gram_path(x, 400_000, seed=3, base=base)
    exact, found, error = hx.infinite_gram(x, S, base=base), path(S), path.standard_error(S)
    for kernel in ("a", "w"):
        deviation = (getattr(found, kernel) - getattr(exact, kernel)).abs()
        assert bool((deviation <= 5 * getattr(error, kernel) + 1e-12).all())


@pytest.mark.parametrize("base", cases.BASES)
def test_awkward_samples_give_finite_symmetric_positive_kernels(base: str) -> None:
    """Duplicates give equal rows; no NaN from zero rows; eigenvalues not below -1e-14 of the largest."""
    x = awkward()
    for s in S:
        for kernel in hx.infinite_gram(x, s, base=base):
            assert bool(torch.isfinite(kernel).all())
            assert torch.equal(kernel, kernel.T)
            torch.testing.assert_close(kernel[2], kernel[3], rtol=1e-13, atol=1e-14)
            spectrum = torch.linalg.eigvalsh(kernel)
            assert float(spectrum[0]) >= -1e-14 * len(x) * float(spectrum[-1])


def test_zero_sample_gives_the_limit() -> None:
    """softplus(0)^2 = log(2)^2 for two zero samples; sigma'(0)^2 is multiplied by x . y = 0."""
    zero = torch.zeros(1, 2, dtype=torch.float64)
    found = hx.infinite_gram(zero, 1.0, base="softplus")
    assert float(found.a) == pytest.approx(math.log(2.0) ** 2, rel=1e-13)
    assert float(found.w) == 0.0


def test_s_values_stack() -> None:
    x = awkward()
    many = hx.infinite_gram(x, torch.tensor(S), base="gelu")
    for i, s in enumerate(S):
        torch.testing.assert_close(many.ntk[i], hx.infinite_gram(x, s, base="gelu").ntk, rtol=1e-15, atol=1e-15)


@pytest.mark.parametrize("base", ["relu", "erf", "tanh"])
def test_cross_kernel_is_a_block_of_the_joint_kernel(base: str) -> None:
    x, y = awkward(seed=5), awkward(10, seed=6)
    joint = hx.infinite_gram(torch.cat([x, y]), 0.7, base=base)
    cross = hx.infinite_gram(x, 0.7, base=base, x2=y)
    for whole, block in zip(joint, cross, strict=True):
        torch.testing.assert_close(block, whole[:9, 9:], rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("base", CLOSED_FORMS)
def test_depth_two_is_the_recursion_on_pairs(base: str) -> None:
    """Layer by layer with two-sample networks: the layer's covariance is realised by vectors of a Cholesky factor."""
    x, s = awkward(seed=7)[:3], 0.8
    deep = hx.infinite_gram(x, s, base=base, depth=2)
    first = hx.infinite_gram(x, s, base=base)
    factor = torch.linalg.cholesky(first.a)  # rows have the inner products first.a
    second = hx.infinite_gram(factor, s, base=base)
    torch.testing.assert_close(deep.a, second.a, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(deep.w, first.ntk * (second.w / first.a), rtol=1e-9, atol=1e-12)


def test_depth_two_relu_against_a_wide_network() -> None:
    """The empirical NTK of a three-layer ReLU network of width 4096 in the NTK parametrisation: within 5 percent."""
    x = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(8))
    g = torch.Generator().manual_seed(9)
    m = 4096
    weights = [torch.randn(m, 3, generator=g), torch.randn(m, m, generator=g), torch.randn(m, generator=g)]
    weights = [w.double().requires_grad_() for w in weights]
    rows = []
    for sample in x:
        h = torch.relu(weights[0] @ sample)
        out = torch.relu(weights[1] @ h * m**-0.5) @ weights[2] * m**-0.5
        rows.append(torch.cat([part.flatten() for part in torch.autograd.grad(out, weights)]))
    jacobian = torch.stack(rows)
    # The package's layers carry no factor, and neither does this network's first layer.
    expected = hx.infinite_gram(x, 1.0, depth=2).ntk
    torch.testing.assert_close(jacobian @ jacobian.T, expected, rtol=0.05, atol=0.05 * float(expected.max()))


def test_deep_kernels_stack_over_s() -> None:
    x = awkward()
    many = hx.infinite_gram(x, [0.5, 1.0], depth=3)
    assert many.a.shape == (2, len(x), len(x))
    torch.testing.assert_close(many.w[1], hx.infinite_gram(x, 1.0, depth=3).w)


def test_registered_base_is_expanded() -> None:
    """cos: E[cos u cos v] = (exp(-|x - y|^2 / 2) + exp(-|x + y|^2 / 2)) / 2."""
    hx.register_base("cosine", torch.cos, lambda z: -torch.sin(z), lambda z: -torch.cos(z))
    x = awkward()
    distance, total = torch.cdist(x, x).square(), torch.cdist(x, -x).square()
    expected = (torch.exp(-distance / 2) + torch.exp(-total / 2)) / 2
    torch.testing.assert_close(hx.infinite_gram(x, 1.0, base="cosine").a, expected, rtol=0, atol=1e-13)


def test_error_estimate_bounds_the_error_and_warns() -> None:
    """At |x| = 20 the expansion of erf is off by about 1e-6: the bound covers it and infinite_gram warns for tanh."""
    x = 20 * torch.nn.functional.normalize(torch.randn(4, 3, dtype=torch.float64), dim=1)
    pairs = _pairs_of_samples(x, x)
    exact, expanded = _expectations("erf", pairs), _by_expansion("erf", pairs)
    slopes = float((exact.slopes - expanded.slopes).abs().max() / exact.slopes.max())
    assert 0 < slopes <= 1.01 * expanded.error
    assert hx.infinite_gram_error(x, base="tanh") > 1e-8
    with pytest.warns(RuntimeWarning, match="accurate to"):
        hx.infinite_gram(x, base="tanh")
    assert hx.infinite_gram_error(x, base="erf") == 0.0
    assert hx.infinite_gram_error(x / 20, base="tanh") < 1e-13


def test_no_samples_give_empty_kernels() -> None:
    for base in ("relu", "tanh"):
        assert hx.infinite_gram(torch.zeros(0, 2), [0.5, 1.0], base=base).a.shape == (2, 0, 0)
    assert hx.infinite_gram(torch.zeros(0, 2), x2=torch.zeros(3, 2)).w.shape == (0, 3)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"x": torch.zeros(3)}, ValueError, r"x must have shape \(n, D\).*\(3,\)"),
        ({"x": torch.zeros(3, 2, dtype=torch.int64)}, TypeError, "x must be float32 or float64"),
        ({"x": torch.tensor([[1.0, 2.0], [1.0, math.nan]])}, ValueError, "x must be finite, row 1"),
        ({"s": math.inf}, ValueError, "s must be finite, got inf"),
        ({"s": torch.zeros(2, 2)}, ValueError, r"s must be a float or have shape \(S,\)"),
        ({"s": "1"}, TypeError, "s must be a float"),
        ({"base": "swish"}, ValueError, "base must be one of"),
        ({"x2": torch.zeros(3, 5)}, ValueError, r"x2 must have shape \(n2, 2\)"),
        ({"x2": torch.zeros(3, 2, dtype=torch.float64)}, TypeError, "x2 must have the dtype of x"),
        ({"depth": 0}, ValueError, "depth must be at least 1, got 0"),
        ({"depth": 1.5}, TypeError, "depth must be an int"),
        ({"depth": 2, "base": "tanh"}, ValueError, "depth > 1 needs a base with a closed form"),
    ],
)
def test_bad_input(arguments: dict[str, object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        hx.infinite_gram(**{"x": torch.ones(3, 2), **arguments})
