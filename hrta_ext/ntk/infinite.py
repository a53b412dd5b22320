"""Gram matrices of infinitely wide networks (docs/theory.md, sections 3.2 and 3.3), in float64."""

from __future__ import annotations

import warnings

from torch import Tensor

from hrta_ext.backends import serve
from hrta_ext.bases import get_base
from hrta_ext.callers import aligned
from hrta_ext.inputs import Parameters, check_integer, check_samples, check_second_samples, parameter_values
from hrta_ext.ntk import infinite_native, infinite_reference
from hrta_ext.ntk.expectations import CLOSED_FORMS, MIXTURE_ERROR, MIXTURES
from hrta_ext.ntk.hermite import Expansion
from hrta_ext.ntk.types import Gram

_WORST_ERROR = 1e-8  # relative; beyond it infinite_gram warns


def _check(
    x: Tensor, s: Parameters, base: str, x2: Tensor | None, depth: int, function: str
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Both sets of samples in float64, and s."""
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
    return samples, others, values


def infinite_gram(
    x: Tensor, s: Parameters = 1.0, *, base: str = "relu", x2: Tensor | None = None, depth: int = 1
) -> Gram:
    """The kernels of a network of infinite width with weights N(0, 1) (docs/theory.md 3.2 and 3.3), in float64.

    K^[a]_s = (1-s)^2 x.y + s(1-s) x.y (mu'(|x|) + mu'(|y|)) + s^2 E[sigma(u) sigma(v)],
    K^[w]_s = x.y ((1-s)^2 + s(1-s) (mu'(|x|) + mu'(|y|)) + s^2 E[sigma'(u) sigma'(v)]),
    with u = w . x, v = w . y, w ~ N(0, I) and mu'(r) = E sigma'(r g).

    Closed forms for relu, relu2, erf, gelu and sin; tanh, silu and softplus are mixtures of those at 28 widths each
    (``expectations.py``), two hundred times the work. Beside the results no memory grows with n n2. Accurate to 1e-13
    of the largest entry at every norm and angle, for parallel, duplicate, antiparallel and zero samples too. A base of
    :func:`register_base` is expanded in Hermite polynomials, which takes a smooth base and moderate norms:
    :func:`infinite_gram_error` estimates the error, and an estimate above 1e-8 is warned of.

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
    samples, others, values = _check(x, s, base, x2, depth, "infinite_gram")
    if base in CLOSED_FORMS or base in MIXTURES:
        return serve(infinite_native, infinite_reference, samples, base).infinite_gram(
            samples, others, values, base, depth
        )
    expansion = Expansion(get_base(base), samples, others)
    if expansion.error > _WORST_ERROR:
        warnings.warn(
            f"infinite_gram: the expansion of base {base!r} is accurate to {expansion.error:.1g} only on these samples "
            "(hx.infinite_gram_error); a smoother base or smaller norms help",
            RuntimeWarning,
            stacklevel=2,
        )
    return infinite_reference.in_blocks(samples, others, values, base, depth, expansion.find)


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
    samples, others, _ = _check(x, 1.0, base, x2, 1, "infinite_gram_error")
    if base in CLOSED_FORMS:
        return 0.0
    return MIXTURE_ERROR if base in MIXTURES else Expansion(get_base(base), samples, others).error
