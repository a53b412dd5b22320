"""Values and derivatives against float64 formulas, over the whole range of floats.

Tolerance: 4 ulp in float32, the documented bound; an ulp is the spacing of float32 at the larger of the two terms
|(1 - s) x| and |s sigma(x)|. Half types are computed in float32 and rounded once: half an ulp of theirs and a little.
"""

from __future__ import annotations

import math

import mpmath
import pytest
import torch
from cases import BASES, DTYPES, PARAMETERS, curvature, every_float32, homotopy, sigma, slope, spread, ulp

import hrta_ext as hx

RANDOM_PARAMETERS = (0.3, 0.909, 1.0999, 1.38, 1.7, 3.2, -0.7)


def inputs() -> torch.Tensor:
    return torch.cat([every_float32(100_000, seed=1), spread(count=100_000), torch.linspace(-120, 120, 100_001)])


@pytest.mark.parametrize("base", BASES)
def test_float32_values_within_4_ulp(device: torch.device, base: str) -> None:
    x = inputs()
    for s in PARAMETERS + RANDOM_PARAMETERS:
        y = hx.homotopy(x.to(device), s, base).cpu().double()
        exact = homotopy(x, s, base)
        unit = ulp(torch.maximum(((1 - s) * x.double()).abs(), (s * sigma(x, base)).abs()))
        fits = exact.abs() <= torch.finfo(torch.float32).max
        error = ((y - exact).abs() / unit)[fits]
        assert error.max() <= 4.0, f"s={s}: {error.max():.2f} ulp at x={x[fits][error.argmax()].item()!r}"
        assert torch.equal(y[~fits], exact[~fits].float().double()), f"s={s}: overflow must give inf of the right sign"


# (base, s, x): where an adversarial search over s and x found the largest errors, some of them above 4 ulp once. s just
# below 1 puts |s sigma| just below a power of two, where an ulp is smallest.
WORST = [
    ("relu2", 0.7041379, 0.8392833),
    ("tanh", 0.6654977, 0.1886366),
    ("tanh", 0.6319139, 1.0654949),
    ("gelu", 0.973, -1.836),
    ("gelu", 0.9218, -1.2325),
    ("gelu", 0.9748007, -1.8657225),
    ("gelu", 0.9805872, -1.8197520),
    ("gelu", 1.2764, -0.8),
    ("gelu", 1.3075634, -0.7937348),
    ("gelu", 0.9575706, 0.0040624),
    ("gelu", 0.9903183, -2.1922159),
    ("gelu", 0.9676626, -1.8594586),
    ("silu", 0.9704924, -3.1982925),
    ("silu", 0.7573447, -0.4016955),
    ("silu", 0.9056453, -1.0252457),
    ("softplus", 1.4916370, -1.0045292),
    ("erf", 0.4959396, 0.4785992),
    ("sin", 0.6835914, -0.7909732),
]


@pytest.mark.parametrize(("base", "s", "centre"), WORST)
def test_float32_values_within_4_ulp_where_it_is_hardest(
    device: torch.device, base: str, s: float, centre: float
) -> None:
    x = (centre * torch.linspace(0.99, 1.01, 40_001, dtype=torch.float64)).float()
    for parameter in (s + torch.linspace(-1e-3, 1e-3, 21, dtype=torch.float64)).tolist():
        y = hx.homotopy(x.to(device), parameter, base).cpu().double()
        unit = ulp(torch.maximum(((1 - parameter) * x.double()).abs(), (parameter * sigma(x, base)).abs()))
        error = (y - homotopy(x, parameter, base)).abs() / unit
        assert error.max() <= 4.0, f"s={parameter}: {error.max():.2f} ulp at x={x[error.argmax()].item()!r}"


@pytest.mark.parametrize("base", BASES)
def test_float32_slopes_within_4_ulp(device: torch.device, base: str) -> None:
    """An ulp of the largest of |1 - s|, |s sigma'| and |s|: sigma' crosses zero, where no relative bound can hold."""
    x = inputs()
    for s in PARAMETERS + RANDOM_PARAMETERS:
        y = hx.homotopy(x.to(device), s, base, order=1).cpu().double()
        exact = homotopy(x, s, base, order=1)
        unit = ulp(torch.maximum((s * slope(x, base)).abs(), torch.tensor(max(abs(1 - s), abs(s)))))
        fits = exact.abs() <= torch.finfo(torch.float32).max
        error = ((y - exact).abs() / unit)[fits]
        assert error.max() <= 4.0, f"s={s}: {error.max():.2f} ulp at x={x[fits][error.argmax()].item()!r}"


@pytest.mark.parametrize("base", BASES)
def test_float32_curvatures_within_6_ulp(device: torch.device, base: str) -> None:
    """An ulp of s, the scale of s sigma''; two more than the value's, for one more product."""
    x = inputs()
    for s in PARAMETERS + RANDOM_PARAMETERS:
        y = hx.homotopy(x.to(device), s, base, order=2).cpu().double()
        unit = ulp(torch.maximum((s * curvature(x, base)).abs(), torch.tensor(abs(s))))
        error = (y - homotopy(x, s, base, order=2)).abs() / unit
        assert error.max() <= 6.0, f"s={s}: {error.max():.2f} ulp at x={x[error.argmax()].item()!r}"


def exact_sigma(x: float, base: str) -> mpmath.mpf:
    z = mpmath.mpf(x)
    if abs(z) > 1e4 and base in ("tanh", "erf"):  # mpmath cannot take the exponentials of what follows
        return mpmath.sign(z)
    if abs(z) > 1e4 and base in ("gelu", "silu", "softplus"):
        return max(z, mpmath.mpf(0))
    return {
        "relu": lambda: max(z, mpmath.mpf(0)),
        "relu2": lambda: max(z, mpmath.mpf(0)) ** 2 / 2,
        "tanh": lambda: mpmath.tanh(z),
        "gelu": lambda: z * mpmath.erfc(-z / mpmath.sqrt(2)) / 2,
        "silu": lambda: z / (1 + mpmath.exp(-z)),
        "softplus": lambda: mpmath.log1p(mpmath.exp(z)) if z < 0 else z + mpmath.log1p(mpmath.exp(-z)),
        "erf": lambda: mpmath.erf(z),
        "sin": lambda: mpmath.sin(z),
    }[base]()


@pytest.mark.parametrize("base", BASES)
def test_float64_values_against_mpmath(request: pytest.FixtureRequest, device: torch.device, base: str) -> None:
    """Within 8 ulp, tails included; 60 digits as the reference. The torch backend's GELU has torch's erfc behind it,
    whose argument is rounded: x^2 ulp more in the lower tail."""
    rounded_argument = base == "gelu" and request.node.callspec.params["device"] == "torch"
    x = torch.cat([spread(torch.float64, 160), torch.linspace(-37, 37, 60, dtype=torch.float64)])
    x = torch.cat([x, torch.tensor([1e-300, -1e-300, 5e-324, 1e5, -1e5, 1e6, 1e22, -1e300], dtype=torch.float64)])
    with mpmath.workdps(60):
        for s in (0.5, 1.0, 1.7):
            y = hx.homotopy(x.to(device), s, base).cpu()
            for z, value in zip(x.tolist(), y.tolist(), strict=True):
                linear, bent = (1 - mpmath.mpf(s)) * mpmath.mpf(z), mpmath.mpf(s) * exact_sigma(z, base)
                largest = max(abs(linear), abs(bent))
                if largest > mpmath.mpf(2) ** 1023:
                    continue
                unit = math.ulp(float(largest)) if largest > 0 else 5e-324
                error = abs(mpmath.mpf(value) - linear - bent) / unit
                assert error <= (8 * (1 + z * z) if rounded_argument else 8), (
                    f"s={s}: {float(error):.2f} ulp at x={z!r}"
                )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("base", BASES)
def test_half_types_round_once(
    request: pytest.FixtureRequest, device: torch.device, dtype: torch.dtype, base: str
) -> None:
    """Every number of the type: 0.5 ulp, and on top 2^-8 ulp that the kernels' own formulas are made for, or 4 ulp of
    float32 on the torch backend."""
    backend = request.node.callspec.params["device"]
    x = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)
    x = x[torch.isfinite(x)]
    for s in PARAMETERS:
        for order in (0, 1):
            y = hx.homotopy(x.to(device), s, base, order=order).cpu()
            assert y.dtype == dtype
            exact = homotopy(x, s, base, order)
            scale = torch.maximum((s * (sigma if order == 0 else slope)(x, base)).abs(), exact.abs())
            scale = torch.maximum(scale, ((1 - s) * (x.double() if order == 0 else torch.ones_like(exact))).abs())
            scale = torch.maximum(scale, torch.tensor(abs(s) * order))  # sigma' crosses zero
            fits = exact.abs() < torch.finfo(dtype).max
            beyond = 4 * ulp(scale, torch.float32) if backend == "torch" else 2.0**-8 * ulp(scale, dtype)
            error = (y.double() - exact).abs() - 0.5 * ulp(exact, dtype) - beyond
            assert (error[fits] <= 0).all(), f"s={s}, order={order} at x={x[fits][error[fits].argmax()]}"
            over = exact.abs() >= ulp(torch.tensor(torch.finfo(dtype).max), dtype) / 2 + torch.finfo(dtype).max
            assert torch.isinf(y[over]).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("base", BASES)
def test_nan_stays_nan(device: torch.device, dtype: torch.dtype, base: str) -> None:
    for s in (*PARAMETERS, -0.5):
        assert torch.isnan(hx.homotopy(torch.full((19,), torch.nan, dtype=dtype, device=device), s, base)).all()


INF = math.inf
NAN = math.nan
# (base, s): the limits at -inf and +inf
LIMITS = {
    "relu": {0.0: (-INF, INF), 0.5: (-INF, INF), 1.0: (0.0, INF), 1.5: (INF, INF)},
    "gelu": {0.0: (-INF, INF), 0.5: (-INF, INF), 1.0: (0.0, INF), 1.5: (INF, INF)},
    "silu": {0.0: (-INF, INF), 0.5: (-INF, INF), 1.0: (0.0, INF), 1.5: (INF, INF)},
    "softplus": {0.0: (-INF, INF), 0.5: (-INF, INF), 1.0: (0.0, INF), 1.5: (INF, INF)},
    "relu2": {0.0: (-INF, INF), 0.5: (-INF, INF), 1.0: (0.0, INF), 1.5: (INF, INF), -0.5: (-INF, -INF)},
    "tanh": {0.0: (-INF, INF), 0.5: (-INF, INF), 1.0: (-1.0, 1.0), 1.5: (INF, -INF)},
    "erf": {0.0: (-INF, INF), 0.5: (-INF, INF), 1.0: (-1.0, 1.0), 1.5: (INF, -INF)},
    "sin": {0.0: (-INF, INF), 0.5: (-INF, INF), 1.0: (NAN, NAN), 1.5: (INF, -INF)},
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("base", BASES)
def test_infinity_gives_the_limit_of_the_formula(device: torch.device, dtype: torch.dtype, base: str) -> None:
    x = torch.tensor([-INF, INF], dtype=dtype, device=device)
    for s, limits in LIMITS[base].items():
        y = hx.homotopy(x, s, base)
        assert torch.equal(y.isnan().cpu(), torch.tensor(limits).isnan())
        if not math.isnan(limits[0]):
            assert y.tolist() == list(limits), f"s={s}"


def test_signed_zeros_pass_through_as_in_torch(device: torch.device) -> None:
    """sigma_s(-0) = -0 for the odd and the ramp-like bases while s < 1, as F.leaky_relu has it."""
    x = torch.tensor([-0.0, 0.0], device=device)
    for base in ("relu", "tanh", "erf", "sin"):
        for s in (0.5, 0.3, 0.7):  # 0.3 and 0.7 leave a rest when rounded to float32
            y = hx.homotopy(x, s, base)
            assert torch.signbit(y).tolist() == [True, False], f"{base}, s={s}"
    for base in ("tanh", "erf"):  # as torch.tanh and torch.erf; s = 1 has loops of its own
        for dtype in DTYPES:
            y = hx.homotopy(x.to(dtype), 1.0, base)
            assert torch.signbit(y).tolist() == [True, False], f"{base}, s=1, {dtype}"


def test_tanh_is_odd_and_stays_within_1(device: torch.device) -> None:
    """Pieces of a table meet at their ends, and the last one ends at 1."""
    x = torch.cat([every_float32(200_000, seed=3).abs(), torch.linspace(0, 10, 1_000_001)]).to(device)
    y = hx.homotopy(x, 1.0, "tanh")
    assert y.max() == 1.0
    assert torch.equal(y[x >= 9.1], torch.ones_like(y[x >= 9.1]))
    assert torch.equal(hx.homotopy(-x, 1.0, "tanh"), -y)


def test_the_slope_of_tanh_keeps_its_digits_in_the_tail(device: torch.device) -> None:
    """6 ulp of itself, until denormal numbers end: more than sigma_s' promises, whose ulp is that of s."""
    x = torch.cat([torch.linspace(0, 55, 500_001), torch.linspace(0, 3, 200_001)])
    y = hx.homotopy(x.to(device), 1.0, "tanh", order=1).cpu().double()
    exact = slope(x, "tanh")
    error = (y - exact).abs() / ulp(exact)
    assert error.max() <= 6.0, f"{error.max():.2f} ulp at x={x[error.argmax()].item()!r}"


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_value_and_slope_equal_the_two_calls(device: torch.device, base: str, dtype: torch.dtype) -> None:
    x = torch.cat([spread(dtype, 2051), every_float32(2051, seed=2).to(dtype)]).to(device)
    for s in (0.0, 0.3, 1.0, 1.5):
        value, derivative = hx.homotopy_value_and_slope(x, s, base)
        torch.testing.assert_close(value, hx.homotopy(x, s, base), rtol=0, atol=0, equal_nan=True)
        torch.testing.assert_close(derivative, hx.homotopy(x, s, base, order=1), rtol=0, atol=0, equal_nan=True)
