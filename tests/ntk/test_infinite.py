"""Infinite-width kernels: closed forms, an independent quadrature, Monte Carlo, limits, depth, errors."""

from __future__ import annotations

import math

import cases
import pytest
import torch
from ntk.infinite_cases import awkward, by_quadrature, relu_recursion
from torch import Tensor

import hrta_ext as hx
from hrta_ext.bases import get_base
from hrta_ext.ntk import expectations
from hrta_ext.ntk.expectations import CLOSED_FORMS, MIXTURES, pairs_of_samples
from hrta_ext.ntk.hermite import Expansion

S = (0.5, 1.0, 1.5, 2.0)


def line(n: int = 100) -> Tensor:
    return hx.with_bias(torch.linspace(0, 1, n, dtype=torch.float64)[:, None])


def cube(side: int = 5) -> Tensor:
    g = torch.linspace(0, 1, side, dtype=torch.float64)
    return hx.with_bias(torch.cartesian_prod(g, g, g))


def test_relu_is_the_closed_form_of_the_theory() -> None:
    """docs/theory.md, section 3.2, to 1e-13 of the largest entry: a dozen float64 roundings."""
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
    """The table of docs/theory.md 3.4, to its four digits: angles must keep their digits for near-parallel samples."""
    found = hx.lambda_min(getattr(hx.infinite_gram(x, S), kernel)).tolist()
    assert found == pytest.approx(expected, rel=6e-4)


@pytest.mark.parametrize("base", cases.SMOOTH_BASES)
def test_smooth_bases_against_quadrature(base: str) -> None:
    """1e-12: the trapezoid rule's own rounding over a million nodes."""
    x = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    for s in (0.5, 1.5):
        found = hx.infinite_gram(x, s, base=base)
        for i, j in ((0, 0), (0, 1), (2, 3), (4, 1)):
            value, slope = by_quadrature(x[i], x[j], base, s)
            assert float(found.a[i, j]) == pytest.approx(value, abs=1e-12)
            assert float(found.w[i, j]) == pytest.approx(float(x[i] @ x[j]) * slope, abs=1e-12)


@pytest.mark.parametrize("base", ["tanh", "silu", "softplus", "erf", "gelu"])
def test_large_and_unequal_norms_against_quadrature(base: str) -> None:
    """Norms 30 and 0.3, small and wide angles: 1e-12 of |x| |y| for the values, of 1 for the slopes."""
    x = torch.tensor([[30.0, 0.0], [29.0, 1.0], [-20.0, 3.0], [0.1, 0.3]], dtype=torch.float64)
    found = hx.infinite_gram(x, 1.0, base=base)
    for i, j in ((0, 1), (1, 2), (2, 3)):
        value, slope = by_quadrature(x[i], x[j], base, 1.0)
        scale = max(float(x[i].norm() * x[j].norm()), 1.0)
        assert float(found.a[i, j]) == pytest.approx(value, abs=1e-12 * scale)
        assert float(found.w[i, j]) == pytest.approx(float(x[i] @ x[j]) * slope, abs=1e-12 * scale)


def test_logistic_mixture_equals_the_logistic_function() -> None:
    """What makes tanh, silu and softplus right at every norm: E Phi(z / (2 K)) = 1 / (1 + exp(-z)) and its integral.

    2e-15, relative to the values for tanh (z > 0), to max(1, z) for softplus: the package's error estimate.
    """
    mixture = expectations._kolmogorov(2.0)
    weight, width = mixture.weights[:, None], mixture.squares.sqrt()[:, None]
    z = torch.logspace(-8, 4, 5000, dtype=torch.float64)
    tanh = (weight * torch.erf(z / width * math.sqrt(2.0))).sum(0)  # of 2 z: tanh(z) = 2 sigmoid(2 z) - 1
    assert float((tanh / torch.tanh(z) - 1).abs().max()) < expectations.MIXTURE_ERROR
    density = (weight / width * torch.exp(-0.5 * (z / width) ** 2)).sum(0) / math.sqrt(2 * math.pi)
    assert float((density - torch.sigmoid(z) * torch.sigmoid(-z)).abs().max()) < expectations.MIXTURE_ERROR
    both = torch.cat([-z, z])
    normal = torch.exp(-0.5 * (both / width) ** 2) / math.sqrt(2 * math.pi)
    ramp = (weight * (both * 0.5 * torch.erfc(-both / width / math.sqrt(2.0)) + width * normal)).sum(0)
    error = (ramp - cases.sigma(both, "softplus")).abs() / both.abs().clamp(min=1.0)
    assert float(error.max()) < expectations.MIXTURE_ERROR


@pytest.mark.parametrize("base", cases.SMOOTH_BASES)
@pytest.mark.parametrize("scale", [0.1, 1.0, 3.0])
def test_expansion_agrees_with_closed_forms_and_mixtures(base: str, scale: float) -> None:
    """Two derivations of the same kernel, awkward pairs included, to 1e-13 and the expansion's own estimate.

    Both relative to the largest entry. The norms go up to 12 at scale 3, where tanh leaves 1e-10.
    """
    x = scale * awkward()
    pairs, expansion = pairs_of_samples(x, x), Expansion(get_base(base), x)
    exact, found = {**CLOSED_FORMS, **MIXTURES}[base](pairs), expansion.find(pairs, slice(None), slice(None))
    for one, other in ((exact.values, found.values), (exact.slopes, found.slopes)):
        torch.testing.assert_close(other, one, rtol=0, atol=(1e-13 + expansion.error) * float(one.abs().max()))
    torch.testing.assert_close(found.mean_slope, exact.mean_slope, rtol=0, atol=1e-13)
    torch.testing.assert_close(found.mean_slope2, exact.mean_slope2, rtol=0, atol=1e-13)
    assert expansion.error < 1e-10


@pytest.mark.parametrize("base", cases.BASES)
def test_s_0_is_the_linear_network(base: str) -> None:
    x = awkward()
    found = hx.infinite_gram(x, 0.0, base=base)
    torch.testing.assert_close(found.a, x @ x.T, rtol=1e-14, atol=1e-14)
    torch.testing.assert_close(found.w, x @ x.T, rtol=1e-14, atol=1e-14)


def test_float32_samples_are_computed_in_float64() -> None:
    x = awkward().float()
    for base in ("relu", "tanh"):
        found = hx.infinite_gram(x, 0.5, base=base)
        assert found.a.dtype == torch.float64
        assert torch.equal(found.w, hx.infinite_gram(x.double(), 0.5, base=base).w)


@pytest.mark.parametrize("base", cases.BASES)
def test_backends_agree(base: str) -> None:
    """Tiles of 32 by 32 with ragged ends, features beyond a block of 32, one s and several, depth: 1e-13."""
    g = torch.Generator().manual_seed(4)
    x, y = (torch.randn(n, 40, dtype=torch.float64, generator=g) / 4 for n in (35, 65))
    for samples, others in ((awkward(70), None), (x, None), (x, y), (y[:1], None)):
        for depth in (1, 3) if base in CLOSED_FORMS else (1,):
            found = hx.infinite_gram(samples, S, base=base, x2=others, depth=depth)
            with hx.use_backend("torch"):
                expected = hx.infinite_gram(samples, S, base=base, x2=others, depth=depth)
            for got, true in zip(found, expected, strict=True):
                torch.testing.assert_close(got, true, rtol=0, atol=1e-13 * float(true.abs().max()))
                assert others is not None or torch.equal(got, got.mT)


@pytest.mark.parametrize("backend", ["native", "torch"])
@pytest.mark.parametrize("size", [1e-170, 1e-100, 1e80, 1e140])
def test_norms_far_from_one(backend: str, size: float) -> None:
    """The limits: erf and tanh are sign functions of long vectors, gelu and softplus ramps; all are lines near 0."""
    if not hx.backends()["cpp"] and backend == "native":
        pytest.skip("needs the compiled kernels")
    angle = torch.tensor([0.5, 2.0, 3.0], dtype=torch.float64)
    x = size * torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    y = size * torch.stack([torch.cos(angle), torch.sin(angle)], 1)
    ramp = size * size * (torch.sin(angle) + (math.pi - angle) * torch.cos(angle)) / (2 * math.pi)
    sign = 1 - 2 * angle / math.pi
    line = size * size * torch.cos(angle)
    with hx.use_backend(backend):
        for base in ("relu", "gelu", "silu", "softplus", "erf", "tanh"):
            found = hx.infinite_gram(x, base=base, x2=y)
            if base == "relu" or (size > 1 and base in ("gelu", "silu", "softplus")):
                expected = ramp
            elif size > 1:
                expected = sign
            elif base == "softplus":
                expected = torch.full_like(sign, math.log(2.0) ** 2)
            else:
                expected = line * {"gelu": 0.25, "silu": 0.25, "erf": 4 / math.pi, "tanh": 1.0}[base]
            tolerance = max(1e-13 * float(expected.abs().max()), 1e-300)
            torch.testing.assert_close(found.a[0], expected, rtol=0, atol=tolerance)
            assert bool(found.w.isfinite().all())


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


@pytest.mark.parametrize("base", sorted(CLOSED_FORMS))
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


@pytest.mark.parametrize("s", [0.5, 1.0, 1.5, 2.0])
def test_deep_relu_kernels_keep_their_digits_at_small_angles(s: float) -> None:
    """Depth 3 against 50 digits, to 1e-14 of the diagonal: an arccos of the covariance would lose half of them.

    s = 2 is |z|: opposite samples become equal ones.
    """
    angles = (0.0, 1e-12, 1e-7, 1e-3, 1.0, math.pi - 1e-3, math.pi - 1e-7)
    for angle in angles:
        # cos and sin of the angle to full relative accuracy on both ends.
        y = torch.tensor([math.cos(angle), math.sin(angle)], dtype=torch.float64)
        found = hx.infinite_gram(torch.stack([torch.tensor([1.0, 0.0], dtype=torch.float64), y]), s, depth=3)
        a, w = relu_recursion(angle, s, 3)
        assert float(found.a[0, 1]) == pytest.approx(a, abs=1e-14 * float(found.a[0, 0]))
        assert float(found.w[0, 1]) == pytest.approx(w, abs=1e-14 * float(found.w[0, 0]))


@pytest.mark.parametrize("base", sorted(CLOSED_FORMS))
def test_deep_kernels_of_duplicates_are_equal(base: str) -> None:
    """Rows 2 and 3 are one sample; an angle of 1e-8 between them would show in w."""
    for kernel in hx.infinite_gram(awkward(), 0.8, base=base, depth=3):
        torch.testing.assert_close(kernel[2, 3], kernel[2, 2], rtol=1e-13, atol=0)
        assert bool(torch.isfinite(kernel).all())


def test_deep_kernels_stack_over_s() -> None:
    x = awkward()
    many = hx.infinite_gram(x, [0.5, 1.0], depth=3)
    assert many.a.shape == (2, len(x), len(x))
    torch.testing.assert_close(many.w[1], hx.infinite_gram(x, 1.0, depth=3).w)
    assert hx.infinite_gram(x, [], depth=2).a.shape == hx.infinite_gram(x, []).a.shape == (0, len(x), len(x))


def test_registered_base_is_expanded() -> None:
    """cos: E[cos u cos v] = (exp(-|x - y|^2 / 2) + exp(-|x + y|^2 / 2)) / 2."""
    hx.register_base("cosine", torch.cos, lambda z: -torch.sin(z), lambda z: -torch.cos(z))
    x = awkward()
    distance, total = torch.cdist(x, x).square(), torch.cdist(x, -x).square()
    expected = (torch.exp(-distance / 2) + torch.exp(-total / 2)) / 2
    torch.testing.assert_close(hx.infinite_gram(x, 1.0, base="cosine").a, expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("scale", [0.1, 1.0, 5.0])
def test_error_estimate_covers_the_error(scale: float) -> None:
    """Bases with known kernels that are hard to expand: erf(5 z), whose kernel is erf's at 5 x, and |z| = sigma_2."""
    hx.register_base("steep", lambda z: torch.erf(5 * z), lambda z: 5 * get_base("erf").slope(5 * z), torch.zeros_like)
    hx.register_base("absolute", torch.abs, torch.sign, torch.zeros_like)
    x = scale * awkward()
    steep, kinked = CLOSED_FORMS["erf"](pairs_of_samples(5 * x, 5 * x)), hx.infinite_gram(x, 2.0)
    inner = x @ x.T
    slopes = torch.where(inner == 0, 0.0, kinked.w / inner)
    for base, values, slope_products in (
        ("steep", steep.values, 25 * steep.slopes),
        ("absolute", kinked.a, torch.where(inner == 0, torch.nan, slopes)),
    ):
        pairs, estimate = pairs_of_samples(x, x), hx.infinite_gram_error(x, base=base)
        found = Expansion(get_base(base), x).find(pairs, slice(None), slice(None))
        for one, other in ((found.values, values), (found.slopes, slope_products)):
            scale_ = float(other.nan_to_num().abs().max())
            assert float((one - other).nan_to_num().abs().max()) <= (1.01 * estimate + 1e-14) * scale_
        assert estimate < 1.0


def test_error_estimates_and_the_warning() -> None:
    x = awkward()
    hx.register_base("absolute", torch.abs, torch.sign, torch.zeros_like)
    with pytest.warns(RuntimeWarning, match="base 'absolute' is accurate to"):
        hx.infinite_gram(x, base="absolute")
    assert hx.infinite_gram_error(100 * x, base="erf") == 0.0
    assert 0.0 < hx.infinite_gram_error(100 * x, base="tanh") < 1e-14


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
