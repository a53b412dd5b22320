"""Gram matrices of infinitely wide networks (docs/theory.md, sections 3.2 and 3.3), in float64."""

from __future__ import annotations

import math
import warnings

import torch
from torch import Tensor

from hrta_ext.bases import get_base
from hrta_ext.callers import aligned
from hrta_ext.inputs import Parameters, check_integer, check_samples, check_second_samples, parameter_values
from hrta_ext.ntk.expectations import CLOSED_FORMS, MIXTURE_ERROR, MIXTURES, Expectations, Pairs, pairs_of_samples
from hrta_ext.ntk.hermite import expanded
from hrta_ext.ntk.types import Gram

_WORST_ERROR = 1e-8  # relative; beyond it infinite_gram warns


def _expectations(base: str, pairs: Pairs) -> Expectations:
    exact = CLOSED_FORMS.get(base) or MIXTURES.get(base)
    return expanded(get_base(base), pairs) if exact is None else exact(pairs)


def _layer(inner: Tensor, e: Expectations, s: Tensor) -> tuple[Tensor, Tensor]:
    """K^[a] and the sigma' factor of K^[w] at s (..., 1, 1)."""
    linear, mixed = (1.0 - s) ** 2, s * (1.0 - s)
    means = e.mean_slope + e.mean_slope2
    return inner * (linear + mixed * means) + s**2 * e.values, linear + mixed * means + s**2 * e.slopes


def _variances(base: str, norm: Tensor, s: Tensor) -> Tensor:
    """K^[a] of each sample with itself, from |x|: same shape."""
    r = norm.reshape(-1, 1)
    pairs = Pairs(r.square(), torch.zeros_like(r), r, r)
    return _layer(pairs.inner, CLOSED_FORMS[base](pairs), s)[0].clamp(min=0.0).reshape(norm.shape)


def _half_angle(apart: Tensor, together: Tensor) -> Tensor:
    """The angle whose 1 - cos and 1 + cos are proportional to the arguments."""
    return 2.0 * torch.atan2(apart.clamp(min=0.0).sqrt(), together.clamp(min=0.0).sqrt())


def _next_angle(base: str, pairs: Pairs, sigma: Tensor, norm: Tensor, norm2: Tensor, s: Tensor) -> Tensor:
    """The angle between hidden layers of covariance sigma (n, n2)."""
    if base == "relu":
        # sigma_s(z) = (1 - s/2) z + (s/2) |z|; the odd and the even part are uncorrelated, and with the angle phi
        # between the lines 1 - cos of the even part is (1 - cos phi) - (2 / pi) (sin phi - phi cos phi).
        odd, even, half = (1.0 - 0.5 * s) ** 2, (0.5 * s) ** 2, 0.5 * pairs.angle
        phi = torch.minimum(pairs.angle, math.pi - pairs.angle)
        lost = 2.0 * torch.sin(0.5 * phi).square() - (2.0 / math.pi) * (torch.sin(phi) - phi * torch.cos(phi))
        return _half_angle(
            odd * 2.0 * torch.sin(half).square() + even * lost,
            odd * 2.0 * torch.cos(half).square() + even * (2.0 - lost),
        )
    product = norm * norm2
    duplicates = (pairs.angle == 0.0) & (pairs.norm == pairs.norm2)
    return torch.where(duplicates, 0.0, _half_angle(product - sigma, product + sigma))


def _deep(base: str, pairs: Pairs, s: Tensor, depth: int) -> Gram:
    tangent = pairs.inner
    for layer in range(1, depth + 1):
        sigma, factor = _layer(pairs.inner, CLOSED_FORMS[base](pairs), s)
        rest = tangent * factor
        if layer < depth:
            tangent = sigma + rest
            norm, norm2 = (_variances(base, z, s).sqrt() for z in (pairs.norm, pairs.norm2))
            pairs = Pairs(sigma, _next_angle(base, pairs, sigma, norm, norm2, s), norm, norm2, pairs.same)
    return Gram(sigma, rest)


def _check(x: Tensor, s: Parameters, base: str, x2: Tensor | None, depth: int, function: str) -> tuple[Pairs, Tensor]:
    get_base(base)
    x = check_samples(x, function)
    values = parameter_values(s, function, x.dtype)
    x2 = check_second_samples(x2, x, function)
    depth = check_integer(depth, f"{function}: depth")
    if depth > 1 and base not in CLOSED_FORMS:
        known = ", ".join(CLOSED_FORMS)
        raise ValueError(f"{function}: depth > 1 needs a base with a closed form ({known}), got {base!r}")
    samples, others = (None if z is None else aligned(z.detach().double()) for z in (x, x2))
    assert samples is not None
    pairs = pairs_of_samples(samples, others)
    return pairs, values.to(x.device)


def infinite_gram(
    x: Tensor, s: Parameters = 1.0, *, base: str = "relu", x2: Tensor | None = None, depth: int = 1
) -> Gram:
    """The kernels of a network of infinite width with weights N(0, 1) (docs/theory.md 3.2 and 3.3), in float64.

    K^[a]_s = (1-s)^2 x.y + s(1-s) x.y (mu'(|x|) + mu'(|y|)) + s^2 E[sigma(u) sigma(v)],
    K^[w]_s = x.y ((1-s)^2 + s(1-s) (mu'(|x|) + mu'(|y|)) + s^2 E[sigma'(u) sigma'(v)]),
    with u = w . x, v = w . y, w ~ N(0, I) and mu'(r) = E sigma'(r g).

    Closed forms for relu, relu2, erf, gelu and sin; tanh, silu and softplus are mixtures of those at 28 widths each
    (``expectations.py``), 3 to 8 microseconds per pair of samples. Accurate to 1e-13 of the largest entry at every norm
    and angle, for parallel, duplicate, antiparallel and zero samples too. A base of :func:`register_base` is expanded
    in Hermite polynomials, which takes a smooth base and moderate norms: :func:`infinite_gram_error` estimates the
    error, and an estimate above 1e-8 is warned of.

    For depth > 1 and a base other than relu the angles between hidden layers come from their covariances: at an angle
    t, ``w`` is accurate to about 1e-15 / t. Duplicates and relu keep full accuracy.

    Args:
        x: Samples, (n, D), the bias column included where there is one; float32 or float64.
        s: One s, or a 1-D sequence or tensor of S values.
        base: Base activation.
        x2: Second set of samples, (n2, D), for cross-kernels; default x itself.
        depth: Hidden layers. For depth > 1: Sigma^{l+1} = K^[a] applied to Sigma^l and
            Theta^{l+1} = Sigma^{l+1} + Theta^l o (the sigma' factor); ``a`` is then Sigma^depth, ``w`` the rest of the
            NTK, so that ``ntk`` is Theta^depth.
    Returns:
        ``Gram(a, w)``, float64, (n, n2) for one s and (S, n, n2) for S values; exactly symmetric without ``x2``.
    Raises:
        TypeError, ValueError: Wrong shapes, dtypes or devices; x or s not finite; depth > 1 for a base without closed
            form.

    Example:
        >>> import torch, hrta_ext as hx
        >>> x = hx.with_bias(torch.linspace(0, 1, 100, dtype=torch.float64)[:, None])
        >>> [f"{float(hx.lambda_min(hx.infinite_gram(x, s).w)):.3e}" for s in (0.5, 1.0, 2.0)]
        ['2.010e-04', '8.040e-04', '3.216e-03']
    """
    pairs, values = _check(x, s, base, x2, depth, "infinite_gram")
    if depth > 1:
        a, w = (values.new_empty(len(values.reshape(-1)), *pairs.inner.shape) for _ in range(2))
        for i, value in enumerate(values.reshape(-1)):
            a[i], w[i] = _deep(base, pairs, value, depth)
        a, w = (part.reshape(*values.shape, *pairs.inner.shape) for part in (a, w))
    else:
        e = _expectations(base, pairs)
        if e.error > _WORST_ERROR:
            warnings.warn(
                f"infinite_gram: the expansion of base {base!r} is accurate to {e.error:.1g} only on these samples "
                "(hx.infinite_gram_error); a smoother base or smaller norms help",
                RuntimeWarning,
                stacklevel=2,
            )
        a, factor = _layer(pairs.inner, e, values[..., None, None])
        w = pairs.inner * factor
    if pairs.same:  # matrix products round entries (i, j) and (j, i) alike only up to the last bit
        a, w = (torch.triu(part) + torch.triu(part, 1).mT for part in (a, w))
    return Gram(a, w)


def infinite_gram_error(x: Tensor, *, base: str = "relu", x2: Tensor | None = None) -> float:
    """An estimate of the error of :func:`infinite_gram` at s = 1, depth 1, beside rounding; 0 for closed forms.

    That of E[sigma(u) sigma(v)] and E[sigma'(u) sigma'(v)], over their largest possible entry on these samples. For
    tanh, silu and softplus it is the same everywhere: 2e-15, how well the mixture equals the base. For a base of your
    own it is what the expansion leaves out (a bound, by Parseval's identity and Cauchy-Schwarz) plus the difference
    that twice the quadrature's step makes; large norms and kinks raise it.

    Example:
        >>> import torch, hrta_ext as hx
        >>> hx.infinite_gram_error(torch.ones(1, 2, dtype=torch.float64), base="tanh") < 1e-13
        True
    """
    pairs, _ = _check(x, 1.0, base, x2, 1, "infinite_gram_error")
    if base in CLOSED_FORMS:
        return 0.0
    return MIXTURE_ERROR if base in MIXTURES else _expectations(base, pairs).error
