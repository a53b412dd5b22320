"""The dense two-layer network in float64, neuron by neuron where it matters: the oracle of the fused op's tests."""

from __future__ import annotations

import torch
from cases import curvature, homotopy, third
from cases import slope as base_slope
from torch import Tensor


def problem(
    n: int, m: int, features: int, dtype: torch.dtype = torch.float64, networks: tuple[int, ...] = (), seed: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """x (n, D), weight (..., m, D), output_weight (..., m), N(0, 1); the first sample is zero, where n > 2."""
    generator = torch.Generator().manual_seed(seed)
    shapes = ((n, features), (*networks, m, features), (*networks, m))
    x, weight, output_weight = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes)
    if n > 2:
        x[0] = 0.0
    return x.to(dtype), weight.to(dtype), output_weight.to(dtype)


def in_the_plane(kind: str, n: int, dtype: torch.dtype) -> Tensor:
    """Rows of zeros and ties among them, but for the grid of the paper's first example."""
    generator = torch.Generator().manual_seed(n)
    if kind == "grid":
        return torch.stack((torch.linspace(0, 1, n, dtype=torch.float64), torch.ones(n)), 1).to(dtype)
    if kind == "integers":  # parallel, antiparallel, on the axes
        return torch.randint(-3, 4, (n, 2), generator=generator).to(dtype)
    x = torch.randn(n, 2, generator=generator, dtype=torch.float64)
    if kind == "spread":  # over 30 orders of magnitude
        x *= 10.0 ** (30 * torch.rand(n, 2, generator=generator, dtype=torch.float64) - 15)
    return x.to(dtype)


def dense(x: Tensor, weight: Tensor, output_weight: Tensor, s: float | Tensor, base: str) -> Tensor:
    """f (..., n) in float64, from the n x m matrix."""
    z = x.double() @ weight.double().mT
    return (homotopy(z, s, base) * output_weight.double().unsqueeze(-2)).sum(-1) / weight.shape[-2] ** 0.5


def dense_gradient(x: Tensor, weight: Tensor, output_weight: Tensor, s: float | Tensor, base: str) -> Tensor:
    """df/dx (..., n, D) in float64."""
    z = x.double() @ weight.double().mT
    factor = homotopy(z, s, base, 1) * output_weight.double().unsqueeze(-2)
    return factor @ weight.double() / weight.shape[-2] ** 0.5


def dense_weight_gradients(
    grad_f: Tensor, grad_df_dx: Tensor | None, x: Tensor, weight: Tensor, output_weight: Tensor, s: float, base: str
) -> tuple[Tensor, Tensor]:
    """The gradients of sum_i grad_f_i f_i + grad_df_dx_i . df_dx_i in the weights, written out, in float64."""
    x, w, a, g = (t.double() for t in (x, weight, output_weight, grad_f))
    z, scale = x @ w.mT, w.shape[-2] ** -0.5
    slope = (1 - s) + s * base_slope(z, base)
    factor, value = g.unsqueeze(-1) * slope, g.unsqueeze(-1) * homotopy(z, s, base)
    rows = factor.mT @ x
    if grad_df_dx is not None:
        along = grad_df_dx.double() @ w.mT
        rows = (factor + along * s * curvature(z, base)).mT @ x + slope.mT @ grad_df_dx.double()
        value = value + along * slope
    return scale * a.unsqueeze(-1) * rows, scale * value.sum(-2)


def quadratic_matrix(numbers: Tensor, form: str, columns: list[int], features: int) -> Tensor:
    """The symmetric (..., D, D) of which w^T . w is the sum of ``numbers`` (..., R) times the jet's V."""
    full = numbers.new_zeros((*numbers.shape[:-1], features, features))
    if form != "hessian":
        full[..., columns, columns] = numbers
        return full
    for number, (c, other) in zip(numbers.unbind(-1), torch.triu_indices(len(columns), len(columns)).T, strict=True):
        full[..., columns[c], columns[other]] += number / 2
        full[..., columns[other], columns[c]] += number / 2
    return full


def dense_second(
    x: Tensor, weight: Tensor, output_weight: Tensor, s: float, base: str, form: str, columns: list[int]
) -> Tensor:
    """The numbers of second derivatives (..., n, R) in float64, a Hessian's upper triangle row by row."""
    w = weight.double()
    factor = homotopy(x.double() @ w.mT, s, base, 2) * output_weight.double().unsqueeze(-2)
    full = torch.einsum("...nm,...mc,...md->...ncd", factor, w, w)[..., columns, :][..., columns] * w.shape[-2] ** -0.5
    diagonal = full.diagonal(dim1=-2, dim2=-1)
    if form == "hessian":
        upper = torch.triu_indices(len(columns), len(columns))
        return full[..., upper[0], upper[1]]
    return diagonal if form == "diagonal" else diagonal.sum(-1, keepdim=True)


def dense_jet_gradients(
    grads: tuple[Tensor | None, Tensor | None, Tensor],
    x: Tensor,
    weight: Tensor,
    output_weight: Tensor,
    s: float,
    base: str,
    form: str,
    columns: list[int],
) -> tuple[Tensor, Tensor]:
    """The gradients in the weights of the outputs times ``grads``, of f, df/dx and second, written out in float64."""
    x, w, a = (t.double() for t in (x, weight, output_weight))
    z, scale = x @ w.mT, w.shape[-2] ** -0.5
    S = quadratic_matrix(grads[2].double(), form, columns, x.shape[1])
    along = torch.einsum("...ncd,...md->...nmc", S, w)
    e, value = s * third(z, base), s * curvature(z, base)
    of_second = (along * w.unsqueeze(-3)).sum(-1)
    rows = 2 * (value.unsqueeze(-1) * along).sum(-3) + (e * of_second).mT @ x
    outputs = (value * of_second).sum(-2)
    if grads[0] is not None or grads[1] is not None:
        g = torch.zeros(*w.shape[:-2], x.shape[0]) if grads[0] is None else grads[0]
        more = dense_weight_gradients(g, grads[1], x, w, a, s, base)
        return scale * a.unsqueeze(-1) * rows + more[0], scale * outputs + more[1]
    return scale * a.unsqueeze(-1) * rows, scale * outputs


def jet_limits(
    x: Tensor, weight: Tensor, output_weight: Tensor, s: float, base: str, form: str
) -> tuple[Tensor, Tensor, Tensor]:
    """f, df/dx and the second derivatives in all columns, in float64, as infinities are approached: NaN without a limit
    (the numbers at 1e6 and 1e7 in their place differ)."""
    found = []
    for far in (1e6, 1e7):
        given = [t.double().clamp(-far, far) for t in (x, weight, output_weight)]
        second = dense_second(*given, s, base, form, list(range(x.shape[1])))
        found.append((dense(*given, s, base), dense_gradient(*given, s, base), second))
    f, df_dx, second = (
        torch.where((farther - near).abs() <= 1e-9 * near.abs().clamp(min=1.0), near, torch.nan)
        for near, farther in zip(*found, strict=True)
    )
    return f, df_dx, second
