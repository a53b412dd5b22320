"""The gradient in s, a sum of sigma(x) - x, where the two nearly cancel: at small |x| for tanh, sin and erf, at large x
for gelu, silu and softplus. A plain difference has lost all digits of float32 at |x| = 1e-4.

Tolerance: 8 ulp of the exact sigma(x) - x or sigma'(x) - 1, in the type that computes (float32 for half types, float64
on the torch backend); measured 5. On a GPU 2^-8 ulp of a half type at the larger of sigma(x) and x. Where it crosses
zero (erf(x) = x at 0.617; the slopes of erf, gelu and silu are 1 at 0.348, 0.752 and 1.278) sigma itself, known to an
ulp, leaves an ulp or two of its own.
"""

from __future__ import annotations

import mpmath
import pytest
import torch
from cases import BASES, DTYPES, SMOOTH_BASES

import hrta_ext as hx
from hrta_ext.activation.formula import compose

HALF_TYPES = (torch.float16, torch.bfloat16)
POINTS = [10.0 ** (k / 4) for k in range(-28, 6)] + [0.3, 0.5, 0.74, 0.76, 0.8, 1.1, 2.0, 4.0]


def points(dtype: torch.dtype) -> torch.Tensor:
    """Both signs, from 1e-7 to 18, as the type rounds them."""
    x = torch.tensor(POINTS, dtype=torch.float64)
    return torch.cat([x, -x]).to(dtype)


def exact(x: float, base: str, order: int) -> mpmath.mpf:
    """sigma(x) - x or sigma'(x) - 1; call it with 60 digits."""
    z = mpmath.mpf(x)
    logistic = 1 / (1 + mpmath.exp(-z))
    normal, density = mpmath.erfc(-z / mpmath.sqrt(2)) / 2, mpmath.npdf(z)
    value, slope = {
        "relu": lambda: (max(z, mpmath.mpf(0)), mpmath.mpf(z > 0)),
        "relu2": lambda: (max(z, mpmath.mpf(0)) ** 2 / 2, max(z, mpmath.mpf(0))),
        "tanh": lambda: (mpmath.tanh(z), mpmath.sech(z) ** 2),
        "gelu": lambda: (z * normal, normal + z * density),
        "silu": lambda: (z * logistic, logistic * (1 + z * (1 - logistic))),
        "softplus": lambda: (mpmath.log1p(mpmath.exp(z)), logistic),
        "erf": lambda: (mpmath.erf(z), 2 / mpmath.sqrt(mpmath.pi) * mpmath.exp(-z * z)),
        "sin": lambda: (mpmath.sin(z), mpmath.cos(z)),
    }[base]()
    return value - z if order == 0 else slope - 1


def allowed(x: float, truth: mpmath.mpf, base: str, order: int, epsilon: float, library: bool) -> float:
    """The tolerance of the docstring, and the least number of float32, below which the true result underflows."""
    crosses = base == "erf" or (order == 1 and base in ("gelu", "silu"))
    known = 2 * epsilon * (abs(x) if order == 0 else 1.0) if crosses and abs(x) < 3 else 0.0
    # The library's erfc rounds its argument: x^2 ulp in the tail.
    factor = 8 * (1 + x * x) if base == "gelu" and library else 8
    return factor * epsilon * float(abs(truth)) + known + 1e-44


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("order", [0, 1])
@pytest.mark.parametrize("base", BASES)
def test_every_element_s_share_to_a_few_ulp(
    request: pytest.FixtureRequest, device: torch.device, base: str, order: int, dtype: torch.dtype
) -> None:
    """One row with an s per feature: entry j of the gradient is the share of x_j alone."""
    library = request.node.callspec.params["device"] == "torch"
    x = points(dtype)
    s = torch.full((len(x),), 0.5, dtype=torch.float64, device=device, requires_grad=True)
    y = hx.homotopy(x[None].to(device), s, base, order=order)
    (grad_s,) = torch.autograd.grad(y, s, torch.ones_like(y))
    epsilon = torch.finfo(torch.float64 if library or dtype == torch.float64 else torch.float32).eps
    with mpmath.workdps(60):
        for z, found in zip(x.tolist(), grad_s.tolist(), strict=True):
            truth = exact(z, base, order)
            error, bound = float(abs(mpmath.mpf(found) - truth)), allowed(z, truth, base, order, epsilon, library)
            if device.type == "cuda" and dtype in HALF_TYPES and order == 0:
                bound += 2.0**-9 * torch.finfo(dtype).eps * max(abs(z), abs(float(truth + z)))
            assert error <= bound, f"x={z!r}: {found!r}, not {truth}"


@pytest.mark.parametrize("base", SMOOTH_BASES)
def test_many_small_elements_add_up(device: torch.device, base: str) -> None:
    """The sum over a tensor: weights of x's sign, so that the terms do not cancel each other."""
    x = 1e-3 * torch.randn(2001, generator=torch.Generator().manual_seed(0))
    s = torch.tensor(0.5, dtype=torch.float64, device=device, requires_grad=True)
    (grad_s,) = torch.autograd.grad(hx.homotopy(x.to(device), s, base), s, x.sign().to(device))
    with mpmath.workdps(40):
        truth = sum(mpmath.sign(z) * exact(z, base, 0) for z in x.tolist())
    assert abs(float(grad_s) / float(truth) - 1) < 8 * torch.finfo(torch.float32).eps


def by_backward(x: torch.Tensor, s: torch.Tensor, base: str, order: int) -> torch.Tensor:
    (grad_s,) = torch.autograd.grad(hx.homotopy(x, s, base, order=order), s, torch.ones_like(x))
    return grad_s


def by_backward_to_be_differentiated(x: torch.Tensor, s: torch.Tensor, base: str, order: int) -> torch.Tensor:
    y = hx.homotopy(x, s, base, order=order)
    return torch.autograd.grad(y, s, torch.ones_like(x), create_graph=True)[0].detach()


def by_forward_mode(x: torch.Tensor, s: torch.Tensor, base: str, order: int) -> torch.Tensor:
    s = s.detach()
    return torch.func.jvp(lambda t: hx.homotopy(x, t, base, order=order), (s,), (torch.ones_like(s),))[1][0]


def by_transform(x: torch.Tensor, s: torch.Tensor, base: str, order: int) -> torch.Tensor:
    return torch.func.grad(lambda t: hx.homotopy(x, t, base, order=order).sum())(s.detach())


def by_formula(x: torch.Tensor, s: torch.Tensor, base: str, order: int) -> torch.Tensor:
    """What compilers differentiate."""
    return torch.autograd.grad(compose(x, s, base, order), s, torch.ones_like(x))[0]


def by_op(x: torch.Tensor, s: torch.Tensor, base: str, order: int) -> torch.Tensor:
    y = torch.ops.hrta_ext.homotopy(x, s, BASES.index(base), order)
    return torch.autograd.grad(y, s, torch.ones_like(x))[0]


WAYS = (by_backward, by_backward_to_be_differentiated, by_forward_mode, by_transform, by_formula, by_op)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("order", [0, 1])
@pytest.mark.parametrize("base", SMOOTH_BASES)
def test_every_way_to_the_gradient(device: torch.device, base: str, order: int, way: object) -> None:
    """float32 to 1e-5, where a difference of float32 numbers keeps one digit of tanh(x) - x, or none."""
    x = torch.tensor([[1e-3, 2e-3, 5e-4, 3e-3]], device=device)
    s = torch.full((4,), 0.5, dtype=torch.float64, device=device, requires_grad=True)
    found = way(x, s, base, order).reshape(-1).tolist()  # type: ignore[operator]
    with mpmath.workdps(40):
        truth = [float(exact(z, base, order)) for z in x[0].tolist()]
    assert found == pytest.approx(truth, rel=1e-5)


@pytest.mark.parametrize("base", SMOOTH_BASES)
def test_mixed_second_derivative(device: torch.device, base: str) -> None:
    """d/dx of the gradient in s is sigma'(x) - 1, -x^2 for tanh: through create_graph in float32."""
    x = torch.tensor([1e-3, -2e-3, 3e-3], device=device, requires_grad=True)
    s = torch.tensor(0.7, device=device, requires_grad=True)
    (grad_s,) = torch.autograd.grad(hx.homotopy(x, s, base).sum(), s, create_graph=True)
    (mixed,) = torch.autograd.grad(grad_s, x)
    with mpmath.workdps(40):
        truth = [float(exact(z, base, 1)) for z in x.tolist()]
    assert mixed.tolist() == pytest.approx(truth, rel=1e-5)


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_infinite_elements(device: torch.device, base: str, dtype: torch.dtype) -> None:
    """The limits of sigma(x) - x; sin has none."""
    x = torch.tensor([[torch.inf, -torch.inf]], dtype=dtype, device=device)
    s = torch.full((2,), 0.5, dtype=torch.float64, device=device, requires_grad=True)
    (grad_s,) = torch.autograd.grad(hx.homotopy(x, s, base), s, torch.ones_like(x))
    far = {"relu2": torch.inf, "tanh": -torch.inf, "erf": -torch.inf, "sin": torch.nan}.get(base, 0.0)
    expected = torch.tensor([far, torch.nan if base == "sin" else torch.inf], dtype=torch.float64, device=device)
    torch.testing.assert_close(grad_s, expected, rtol=0, atol=0, equal_nan=True)
