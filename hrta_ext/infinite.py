"""Gram matrices of infinitely wide networks (THEORY, sections 3.2 and 3.3), in float64.

With u = w . x, v = w . y jointly Gaussian, each kernel needs E[sigma(u) sigma(v)], E[sigma'(u) sigma'(v)] and
mu'(r) = E sigma'(r g). ReLU, ReLU^2/2, erf, exact GELU and sin have closed forms (Cho and Saul 2009; Williams 1997;
Tsuchida, Pearce, van der Heide, Roosta, Gallagher 2020); other bases are expanded in Hermite polynomials, whose tail
bounds the error by Parseval's identity.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from hrta_ext.backends import gram_kernels_for
from hrta_ext.bases import get_base
from hrta_ext.kernels import Gram, Parameters, check_samples, parameter_values

_BLOCK_ENTRIES = 2**22  # of temporaries that do not fit as (n, n2, D)
_WORST_ERROR = 1e-8  # relative; beyond it infinite_gram warns


@dataclass(frozen=True)
class _Pairs:
    """All pairs of two sets of vectors: what the expectations depend on."""

    inner: Tensor  # (n, n2)  x . y
    angle: Tensor  # (n, n2)  in [0, pi], to full relative accuracy near 0 and pi
    norm: Tensor  # (n, 1)  |x|
    norm2: Tensor  # (1, n2)  |y|
    squared_distance: Tensor  # (n, n2)  |x - y|^2
    squared_sum: Tensor  # (n, n2)  |x + y|^2

    @property
    def squared_area(self) -> Tensor:
        """|x|^2 |y|^2 - (x . y)^2 without cancellation."""
        return (self.norm * self.norm2 * torch.sin(self.angle)).square()


@dataclass(frozen=True)
class _Expectations:
    """Of one layer; ``error`` bounds the absolute error of the first two, relative to their largest entry."""

    values: Tensor  # (n, n2)  E[sigma(u) sigma(v)]
    slopes: Tensor  # (n, n2)  E[sigma'(u) sigma'(v)]
    mean_slope: Tensor  # (n, 1)  E sigma'(u)
    mean_slope2: Tensor  # (1, n2)
    error: float = 0.0


def _norms_of_pairs(x: Tensor, y: Tensor, sign: float) -> Tensor:
    """|x_i + sign y_j|: differences first, so that nothing cancels."""
    rows = max(_BLOCK_ENTRIES // max(y.numel(), 1), 1)
    blocks = [torch.linalg.vector_norm(part[:, None, :] + sign * y, dim=-1) for part in x.split(rows)]
    return torch.cat(blocks)


def _pairs_of_samples(x: Tensor, y: Tensor) -> _Pairs:
    norm, norm2 = (torch.linalg.vector_norm(z, dim=1) for z in (x, y))
    # Directions of length 1; zero vectors stay zero, and whatever their angle, their norm makes the entry right.
    u, v = x / norm.clamp(min=1e-300)[:, None], y / norm2.clamp(min=1e-300)[:, None]
    return _Pairs(
        inner=x @ y.mT,
        angle=2.0 * torch.atan2(_norms_of_pairs(u, v, -1.0), _norms_of_pairs(u, v, 1.0)),
        norm=norm[:, None],
        norm2=norm2[None, :],
        squared_distance=_norms_of_pairs(x, y, -1.0).square(),
        squared_sum=_norms_of_pairs(x, y, 1.0).square(),
    )


def _pairs_of_covariance(inner: Tensor, square: Tensor, square2: Tensor) -> _Pairs:
    """For the next layer of a deep network: inner (n, n2), the variances square (n,) and square2 (n2,)."""
    norm, norm2 = square.clamp(min=0.0).sqrt()[:, None], square2.clamp(min=0.0).sqrt()[None, :]
    product = (norm * norm2).clamp(min=1e-300)
    # A difference of a few roundings is none: duplicates are parallel.
    apart, together = (torch.where(gap > 1e-15 * product, gap, 0.0) for gap in (product - inner, product + inner))
    angle = 2.0 * torch.atan2(apart.sqrt(), together.sqrt())
    both = square[:, None] + square2[None, :]
    distance, total = (both - 2.0 * inner).clamp(min=0.0), (both + 2.0 * inner).clamp(min=0.0)
    return _Pairs(inner, angle, norm, norm2, distance, total)


# --- closed forms -----------------------------------------------------------------------------------------------------


def _constant(pairs: _Pairs, value: float) -> tuple[Tensor, Tensor]:
    return torch.full_like(pairs.norm, value), torch.full_like(pairs.norm2, value)


def _arc_cosine(angle: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """J_0, J_1, J_2 of Cho and Saul (2009)."""
    rest, sine, cosine = math.pi - angle, torch.sin(angle), torch.cos(angle)
    return rest, sine + rest * cosine, 3.0 * sine * cosine + rest * (1.0 + 2.0 * cosine.square())


def _relu(pairs: _Pairs) -> _Expectations:
    j0, j1, _ = _arc_cosine(pairs.angle)
    values = pairs.norm * pairs.norm2 * j1 / (2.0 * math.pi)
    return _Expectations(values, j0 / (2.0 * math.pi), *_constant(pairs, 0.5))


def _relu2(pairs: _Pairs) -> _Expectations:
    _, j1, j2 = _arc_cosine(pairs.angle)
    product = pairs.norm * pairs.norm2
    means = pairs.norm / math.sqrt(2.0 * math.pi), pairs.norm2 / math.sqrt(2.0 * math.pi)
    return _Expectations(product.square() * j2 / (8.0 * math.pi), product * j1 / (2.0 * math.pi), *means)


def _erf(pairs: _Pairs) -> _Expectations:
    q, q2 = pairs.norm.square(), pairs.norm2.square()
    determinant = 1.0 + 2.0 * (q + q2) + 4.0 * pairs.squared_area
    values = torch.atan2(2.0 * pairs.inner, determinant.sqrt()) * (2.0 / math.pi)
    slopes = (4.0 / math.pi) / determinant.sqrt()
    mean, mean2 = (2.0 / math.sqrt(math.pi) / (1.0 + 2.0 * z).sqrt() for z in (q, q2))
    return _Expectations(values, slopes, mean, mean2)


def _gelu(pairs: _Pairs) -> _Expectations:
    p, q, q2, area = pairs.inner, pairs.norm.square(), pairs.norm2.square(), pairs.squared_area
    determinant = 1.0 + q + q2 + area
    root = determinant.sqrt()
    both_cdf = 0.25 + torch.atan2(p, root) / (2.0 * math.pi)  # E[Phi(u) Phi(v)]
    both_pdf = 1.0 / (2.0 * math.pi * root)  # E[phi(u) phi(v)]
    inverses = 1.0 / (1.0 + q) + 1.0 / (1.0 + q2)
    values = p * both_cdf + both_pdf * (area + p.square() * inverses)
    slopes = both_cdf + both_pdf * p * (inverses + 1.0 / determinant)
    return _Expectations(values, slopes, *_constant(pairs, 0.5))


def _sin(pairs: _Pairs) -> _Expectations:
    p, distance, total = pairs.inner, pairs.squared_distance, pairs.squared_sum
    # (exp(-|x - y|^2 / 2) - exp(-|x + y|^2 / 2)) / 2: the larger exponential times an expm1.
    smaller = 0.5 * torch.exp(-0.5 * torch.minimum(distance, total))
    values = -torch.sign(p) * smaller * torch.expm1(-2.0 * p.abs())
    slopes = 0.5 * (torch.exp(-0.5 * distance) + torch.exp(-0.5 * total))
    return _Expectations(values, slopes, torch.exp(-0.5 * pairs.norm.square()), torch.exp(-0.5 * pairs.norm2.square()))


_CLOSED_FORMS: dict[str, Callable[[_Pairs], _Expectations]] = {
    "relu": _relu,
    "relu2": _relu2,
    "erf": _erf,
    "gelu": _gelu,
    "sin": _sin,
}


# --- Hermite expansion ------------------------------------------------------------------------------------------------
# E[f(r g) f(r2 g2)] = sum_k f_k(r) f_k(r2) cos(angle)^k with f_k(r) = E[f(r g) h_k(g)], h_k the normalised Hermite
# polynomials. Cut off at K, the error is at most (tail(r) tail(r2))^(1/2), tail(r) = E f(r g)^2 - sum_{k<K} f_k(r)^2.

_MOST_TERMS = 8192
_REACH = 13.0  # exp(-g^2 / 4) is 4e-19 there; the other half of the weight keeps the polynomials bounded


def _hermite_functions(terms: int, steepness: float, device: torch.device) -> tuple[Tensor, Tensor]:
    """Nodes g (N,), and h_k(g) times the trapezoid rule's weight over sqrt(weight): (terms, N).

    The step resolves h_k (wave number sqrt(k)) and functions with a pole at distance 1.5 / steepness, to e^-36.
    """
    step = min(2.0 * math.pi / (math.sqrt(terms) + 24.0 * steepness + 12.0), 0.25)
    count = 2 * math.ceil(_REACH / step) + 1
    nodes = torch.linspace(-_REACH, _REACH, count, dtype=torch.float64, device=device)
    step = 2.0 * _REACH / (count - 1)
    rows = torch.empty(terms, count, dtype=torch.float64, device=device)
    rows[0] = torch.exp(-0.25 * nodes.square()) * math.sqrt(step / math.sqrt(2.0 * math.pi))
    if terms > 1:
        rows[1] = nodes * rows[0]
    for k in range(1, terms - 1):
        rows[k + 1] = (nodes * rows[k] - math.sqrt(k) * rows[k - 1]) / math.sqrt(k + 1)
    return nodes, rows


def _coefficients(function: Callable[[Tensor], Tensor], norms: Tensor, terms: int) -> tuple[Tensor, Tensor, Tensor]:
    """f_k(r) (n, terms), E f(r g)^2 (n,), tail(r) (n,)."""
    nodes, rows = _hermite_functions(terms, float(norms.max()) if norms.numel() else 0.0, norms.device)
    coefficients, squares = [], []
    for part in norms.split(max(_BLOCK_ENTRIES // nodes.numel(), 1)):
        weighted = function(part[:, None] * nodes) * rows[0]  # rows[0] is the square root of the weight
        coefficients.append(weighted @ rows.mT)
        squares.append(weighted.square().sum(1))
    found, square = torch.cat(coefficients), torch.cat(squares)
    return found, square, (square - found.square().sum(1)).clamp(min=0.0)


def _by_expansion(base: str, pairs: _Pairs) -> _Expectations:
    functions = get_base(base)
    norm, norm2 = pairs.norm[:, 0], pairs.norm2[0]
    largest = max((float(r.max()) for r in (norm, norm2) if r.numel()), default=0.0)
    # Coefficients of a function with a pole at distance d fall like exp(-d sqrt(2 k)), d = 1.5 / r for tanh.
    terms = int(min(110.0 * (1.0 + largest) ** 2, _MOST_TERMS))
    cosine = torch.cos(pairs.angle)
    sums, error, means = [], 0.0, []
    for function in (functions.value, functions.slope):
        left, square, tail = _coefficients(function, norm, terms)
        same = torch.equal(norm, norm2)
        right, square2, tail2 = (left, square, tail) if same else _coefficients(function, norm2, terms)
        sums.append(gram_kernels_for(cosine, "relu").power_sum(left, right.mT, cosine))
        means = [left[:, :1], right[:, 0][None, :]]
        if square.numel() and square2.numel():
            scale = float((square.max() * square2.max()).sqrt())
            error = max(error, float((tail.max() * tail2.max()).sqrt()) / max(scale, 1e-300))
    return _Expectations(sums[0], sums[1], means[0], means[1], error)


def _expectations(base: str, pairs: _Pairs) -> _Expectations:
    closed_form = _CLOSED_FORMS.get(base)
    return _by_expansion(base, pairs) if closed_form is None else closed_form(pairs)


# --- the kernels ------------------------------------------------------------------------------------------------------


def _layer(inner: Tensor, e: _Expectations, s: Tensor) -> tuple[Tensor, Tensor]:
    """K^[a] and the sigma' factor of K^[w] at s (..., 1, 1)."""
    linear, mixed = (1.0 - s) ** 2, s * (1.0 - s)
    means = e.mean_slope + e.mean_slope2
    return inner * (linear + mixed * means) + s**2 * e.values, linear + mixed * means + s**2 * e.slopes


def _variances(base: str, squares: Tensor, s: Tensor) -> Tensor:
    """K^[a] of each sample with itself, from |x|^2 (n,)."""
    r = squares.clamp(min=0.0).sqrt()[:, None]
    zero = torch.zeros_like(r)
    pairs = _Pairs(squares[:, None], zero, r, r, zero, 4.0 * squares[:, None])
    return _layer(squares[:, None], _CLOSED_FORMS[base](pairs), s)[0][:, 0]


def _deep(base: str, x: Tensor, y: Tensor, s: Tensor, depth: int) -> Gram:
    pairs = _pairs_of_samples(x, y)
    square, square2 = pairs.norm[:, 0].square(), pairs.norm2[0].square()
    tangent = pairs.inner
    for layer in range(depth):
        sigma, factor = _layer(pairs.inner, _CLOSED_FORMS[base](pairs), s)
        rest = tangent * factor
        if layer == depth - 1:
            return Gram(sigma, rest)
        tangent = sigma + rest
        square, square2 = _variances(base, square, s), _variances(base, square2, s)
        pairs = _pairs_of_covariance(sigma, square, square2)
    raise AssertionError("depth is at least 1")


def _check(
    x: Tensor, s: Parameters, base: str, x2: Tensor | None, depth: int, function: str
) -> tuple[Tensor, Tensor, Tensor]:
    get_base(base)
    values = parameter_values(s, function)
    x = check_samples(x, function)
    if x2 is not None:
        check_samples(x2, function, "x2")
        if x2.shape[1] != x.shape[1]:
            raise ValueError(f"{function}: x2 must have shape (n2, {x.shape[1]}) to match x, got {tuple(x2.shape)}")
        if x2.dtype != x.dtype:
            raise TypeError(f"{function}: x2 must have the dtype of x, {x.dtype}, got {x2.dtype}")
        if x2.device != x.device:
            raise ValueError(f"{function}: x2 must be on the device of x, {x.device}, got {x2.device}")
    if isinstance(depth, bool) or not isinstance(depth, int):
        raise TypeError(f"{function}: depth must be an int, got {depth!r}")
    if depth < 1:
        raise ValueError(f"{function}: depth must be at least 1, got {depth}")
    if depth > 1 and base not in _CLOSED_FORMS:
        known = ", ".join(_CLOSED_FORMS)
        raise ValueError(f"{function}: depth > 1 needs a base with a closed form ({known}), got {base!r}")
    wide = x.detach().double()
    return wide, wide if x2 is None else x2.detach().double(), values.to(x.device)


def infinite_gram(
    x: Tensor, s: Parameters = 1.0, *, base: str = "relu", x2: Tensor | None = None, depth: int = 1
) -> Gram:
    """The kernels of a network of infinite width with weights N(0, 1) (THEORY, sections 3.2 and 3.3), in float64.

    K^[a]_s = (1-s)^2 x.y + s(1-s) x.y (mu'(|x|) + mu'(|y|)) + s^2 E[sigma(u) sigma(v)],
    K^[w]_s = x.y ((1-s)^2 + s(1-s) (mu'(|x|) + mu'(|y|)) + s^2 E[sigma'(u) sigma'(v)]),
    with u = w . x, v = w . y, w ~ N(0, I) and mu'(r) = E sigma'(r g).

    Closed forms for relu, relu2, erf, gelu and sin; relative accuracy 1e-13 also for parallel, duplicate, antiparallel
    and zero samples. The other bases are expanded in Hermite polynomials: to 1e-12 while |x| stays below 7 for tanh and
    20 for silu and softplus; :func:`infinite_gram_error` bounds the error, and a bound above 1e-8 is warned of.

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
    x, y, values = _check(x, s, base, x2, depth, "infinite_gram")
    if depth > 1:
        grams = [_deep(base, x, y, value, depth) for value in values.reshape(-1)]
        a, w = (torch.stack(parts).reshape(*values.shape, *parts[0].shape) for parts in zip(*grams, strict=True))
    else:
        pairs = _pairs_of_samples(x, y)
        e = _expectations(base, pairs)
        if e.error > _WORST_ERROR:
            warnings.warn(
                f"infinite_gram: the expansion of base {base!r} is accurate to {e.error:.1g} only at these norms",
                RuntimeWarning,
                stacklevel=2,
            )
        a, factor = _layer(pairs.inner, e, values[..., None, None])
        w = pairs.inner * factor
    if x2 is None:  # matrix products round entries (i, j) and (j, i) alike only up to the last bit
        a, w = (torch.triu(part) + torch.triu(part, 1).mT for part in (a, w))
    return Gram(a, w)


def infinite_gram_error(x: Tensor, *, base: str = "relu", x2: Tensor | None = None) -> float:
    """A bound of the error of :func:`infinite_gram` at s = 1 from cutting off the expansion; 0 for closed forms.

    Absolute error of E[sigma(u) sigma(v)] and E[sigma'(u) sigma'(v)] over their largest possible entry, by Parseval's
    identity and Cauchy-Schwarz. Rounding adds about 1e-15.

    Example:
        >>> import torch, hrta_ext as hx
        >>> hx.infinite_gram_error(torch.ones(1, 2, dtype=torch.float64), base="tanh") < 1e-13
        True
    """
    x, y, _ = _check(x, 1.0, base, x2, 1, "infinite_gram_error")
    return _expectations(base, _pairs_of_samples(x, y)).error
