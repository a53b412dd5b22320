"""The jet of the wide two-layer network: its value with first and second derivatives in x, in one pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor
from torch.overrides import handle_torch_function

from hrta_ext.callers import stand_in
from hrta_ext.inputs import Parameter, check_columns, check_network
from hrta_ext.network.functions import HALF_TYPES, autocast, run, warn_alone
from hrta_ext.network.second import FORMS, Second
from hrta_ext.network.shares import sharded


class Jet(NamedTuple):
    """What a loss of physics sees of a network u at n points.

    Attributes:
        value: u, shape (..., n).
        gradient: du/dx_c for the d differentiated columns c, shape (..., n, d).
        second: The Laplacian (..., n), the diagonal (..., n, d) or the Hessian (..., n, d, d).
    """

    value: Tensor
    gradient: Tensor
    second: Tensor


def two_layer_jet(
    x: Tensor,
    weight: Tensor,
    output_weight: Tensor,
    s: Parameter = 1.0,
    *,
    base: str = "tanh",
    second: str = "laplacian",
    columns: Sequence[int] | None = None,
    second_columns: Sequence[int] | None = None,
    group: Any = None,
) -> Jet:
    """f_s, its gradient and its second derivatives in x, in one pass over the neurons; nothing of size n x m is stored.

    d^2 f_i / dx_c dx_c' = m^(-1/2) sum_k a_k s sigma''(w_k . x_i) w_kc w_kc' (docs/theory.md 1; Yang, Chen, Hao 2025,
    eq. 3 differentiated twice).

    Args:
        x: Samples, shape (n, D), with the column of ones if there is a bias (:func:`with_bias`).
        weight: W, shape (..., m, D).
        output_weight: a, shape (..., m).
        s: Homotopy parameter: a finite float or a tensor of shape () or (1,).
        base: Base activation, see :func:`homotopy`. relu and relu2 have second derivatives that are constant between
            their kinks, so the gradient of ``second`` in the biases is 0: not for a strong form.
        second: "laplacian", the sum over ``second_columns`` of d^2 f / dx_c^2; "diagonal", each of them; or "hessian".
        columns: Which of x's columns ``gradient`` is taken in, d of them; default: all D. With a bias name the columns
            of the input, since the derivative in the constant means nothing.
        second_columns: Those of ``second``; default: ``columns``. For the heat equation in (x, t):
            ``columns=[0, 1], second_columns=[0]``.
        group: As in :func:`two_layer`.
    Returns:
        :class:`Jet`, of x's dtype: float32 or float64; half types are computed in float32.

    Differentiable in x, weight, output_weight and, when s is a tensor that requires grad, in s. The gradient in the
    weights is fused like the jet; those in x and s, and derivatives of a higher order, are recomputed a chunk of
    neurons at a time. Sums over neurons are in float64 in a fixed order. Beyond 64 features, or 136 numbers of
    ``second`` (a Hessian in 16 columns), plain torch takes chunks of neurons. Cost: docs/two_layer.md.

    Raises:
        TypeError: an argument is no dense floating-point tensor, the dtypes differ, or columns are no integers.
        ValueError: shapes or devices do not fit, unknown base or form, a column twice or outside of x.

    Example:
        >>> import torch, hrta_ext as hx
        >>> x = torch.tensor([[0.5, 1.0]])  # one input and the bias
        >>> weight, output_weight = torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.ones(2)
        >>> jet = hx.two_layer_jet(x, weight, output_weight, base="sin", columns=[0])
        >>> [round(float(part.squeeze()), 4) for part in jet]  # (sin(2 x) + sin(1)) / sqrt(2)
        [1.19, 0.7641, -2.38]
    """
    named: dict[str, Any] = {"base": base, "second": second, "columns": columns, "second_columns": second_columns}
    if group is not None:
        x, weight, output_weight = autocast(x, weight, output_weight)
        of_all: Jet = sharded("two_layer_jet", two_layer_jet, group, x, weight, output_weight, s, **named)
        return of_all
    warn_alone("two_layer_jet")
    if stand_in(x, weight, output_weight, s):
        of_tensors = (x, weight, output_weight, s)
        return handle_torch_function(two_layer_jet, of_tensors, *of_tensors, **named)
    x, weight, output_weight = autocast(x, weight, output_weight)
    s = check_network("two_layer_jet", x, weight, output_weight, s, base)
    if second not in FORMS:
        raise ValueError(f"two_layer_jet: second must be one of {', '.join(FORMS)}, got {second!r}")
    first = check_columns(columns, x.shape[1], "two_layer_jet: columns")
    asked = (
        first if second_columns is None else check_columns(second_columns, x.shape[1], "two_layer_jet: second_columns")
    )
    if x.dtype in HALF_TYPES:
        jet = two_layer_jet(x.float(), weight.float(), output_weight.float(), s, **named)
        return Jet(*(part.to(x.dtype) for part in jet))
    form = Second(second, tuple(sorted(asked)))
    f, df_dx, packed = run(x, weight, output_weight, s, base, True, form)
    gradient = df_dx if first == list(range(x.shape[1])) else df_dx[..., first]
    result = form.unpacked(packed)
    if second != "laplacian" and asked != sorted(asked):
        order = [sorted(asked).index(column) for column in asked]
        result = result[..., order] if second == "diagonal" else result[..., order, :][..., order]
    return Jet(f, gradient, result)
