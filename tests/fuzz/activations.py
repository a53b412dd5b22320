"""Calls of the activation at random."""

from __future__ import annotations

import torch
from cases import BASES, DTYPES, curvature, homotopy, sigma, slope
from fuzz.draws import FLOATS, Draw
from fuzz.judge import Finding, attempt, same
from torch import Tensor

import hrta_ext as hx


def _allowed(x: Tensor, s: Tensor | float, base: str, order: int) -> Tensor:
    """Where the sum of the terms is ``size``: 8 ulp of it, 2 ulp of half types (4 and 1 are promised).

    The float64 formula itself loses x^2 ulp where exp(-x^2) does. Infinite, so that everything is allowed, where the
    result overflows and where x is not finite: NaN stays NaN, the limits at infinity have tests of their own.
    """
    z, info = x.double(), torch.finfo(x.dtype)
    s = torch.as_tensor(s).double()
    if order == 0:
        size = ((1 - s) * z).abs() + (s * sigma(x, base)).abs()
    elif order == 1:
        size = (1 - s).abs() + s.abs() * (1 + slope(x, base).abs())
    else:
        size = s.abs() * (1 + curvature(x, base).abs()) + 0 * z
    ulps = {torch.float64: 64 * (1 + z * z), torch.float32: 8.0}.get(x.dtype, 2.0)
    tiny = 16 * info.smallest_normal * info.eps * (1 + s.abs())  # sigma(x) is rounded before s multiplies it
    size = torch.where(torch.isfinite(z) & torch.isfinite(size) & (size < info.max / 8), size, float("inf"))
    return ulps * info.eps * size + tiny


def _compare(name: str, got: Tensor, x: Tensor, s: Tensor | float, base: str, order: int) -> None:
    s = s if isinstance(s, Tensor) else float(s)
    allowed = _allowed(x, s, base, order)
    same(f"{name}, order {order}", got, homotopy(x, s, base, order) + 0 * x.double(), allowed, x.dtype)
    if bool((x.isnan() & ~got.isnan()).any()) and order == 0:
        raise Finding(f"{name}: NaN did not stay NaN")


def activation(draw: Draw) -> None:
    name = draw.one_of(["homotopy", "homotopy_", "homotopy_value_and_slope", "backward", "op"])
    shape = [draw.size(33) for _ in range(draw.random.randrange(5))]
    if shape and draw.chance(0.5):
        shape = [draw.size(4097), *shape[:1]] if draw.chance(0.5) else [*shape[:1], draw.size(4097)]
    while torch.Size(shape).numel() > 20_000:
        shape[draw.random.randrange(len(shape))] = 1
    dtype = draw.one_of([*DTYPES, *FLOATS])
    x = draw.tensor(shape, dtype, wild=0.3)
    if draw.chance(0.02):
        draw.fair = False
        x = draw.one_of([x.to(torch.int32), x.to(torch.complex64), x.to_sparse() if x.dim() else x.bool(), None, 1.0])
    s, base = draw.s(shape[-1] if shape else None), draw.base()
    if isinstance(s, Tensor) and not (s.dim() == 0 or (shape and s.shape == (shape[-1],))) and s.shape != (1,):
        draw.fair = False
    {
        "homotopy": _value,
        "homotopy_": _in_place,
        "homotopy_value_and_slope": _pair,
        "backward": _backward,
        "op": _op,
    }[name](draw, x, s, base)


def _value(draw: Draw, x: Tensor, s: Tensor | float, base: str) -> None:
    order = draw.one_of([0, 0, 1, 2])
    if draw.chance(0.02):
        draw.fair, order = False, draw.one_of([3, -1, "a", None, 0.5])
    result = attempt(draw, lambda: hx.homotopy(x, s, base, order=order))
    if result is not None:
        _compare("homotopy", result, x, s, base, order)


def _pair(draw: Draw, x: Tensor, s: Tensor | float, base: str) -> None:
    result = attempt(draw, lambda: hx.homotopy_value_and_slope(x, s, base))
    for order, part in enumerate(result or ()):
        _compare("homotopy_value_and_slope", part, x, s, base, order)


def _in_place(draw: Draw, x: Tensor, s: Tensor | float, base: str) -> None:
    if isinstance(x, Tensor) and x.layout is torch.strided:
        if any(step == 0 and size > 1 for step, size in zip(x.stride(), x.shape, strict=True)):
            x = x.contiguous()  # torch itself refuses to write where elements share memory
        old = x.clone()
    result = attempt(draw, lambda: hx.homotopy_(x, s, base))
    if result is not None:
        if result is not x:
            raise Finding("homotopy_ returned another tensor")
        _compare("homotopy_", result, old, s, base, 0)
    elif isinstance(x, Tensor) and x.layout is torch.strided and not x.equal(old):
        kept = x.isnan() & old.isnan() if x.is_floating_point() else torch.zeros_like(x, dtype=torch.bool)
        if not bool((kept | (x == old)).all()):
            raise Finding("homotopy_ refused, and changed x")


def _backward(draw: Draw, x: Tensor, s: Tensor | float, base: str) -> None:
    if not isinstance(x, Tensor) or not x.is_floating_point() or x.layout is not torch.strided:
        return
    grad = draw.tensor(x.shape, x.dtype, wild=0.0)
    learned = isinstance(s, Tensor) and s.is_floating_point() and draw.chance(0.5)
    leaf, parameter = x.detach().requires_grad_(), s.detach().requires_grad_() if learned else s

    def run() -> tuple[Tensor, ...]:
        y = hx.homotopy(leaf, parameter, base)
        return torch.autograd.grad(y, [leaf, parameter] if learned else [leaf], grad)

    result = attempt(draw, run)
    if result is None:
        return
    g, s = grad.double(), s if isinstance(s, Tensor) else float(s)
    exact = g * homotopy(x, s, base, 1)
    allowed = 2 * g.abs() * _allowed(x, s, base, 1) + 2 * torch.finfo(x.dtype).eps * exact.abs()
    allowed = torch.where(exact.abs() < torch.finfo(x.dtype).max / 8, allowed, float("inf"))
    same("backward in x", result[0], exact, allowed + 16 * torch.finfo(x.dtype).smallest_normal, x.dtype)
    if learned and draw.tame:
        terms = g * (sigma(x, base) - x.double())
        size = (g.abs() * (sigma(x, base).abs() + x.double().abs())).sum()
        per_feature = s.numel() != 1
        total = terms.flatten(0, -2).sum(0) if per_feature and x.dim() > 1 else terms if per_feature else terms.sum()
        eps = max(torch.finfo(s.dtype).eps, torch.finfo(x.dtype).eps if x.dtype in FLOATS else 2.0**-20)
        fits = float(size) < torch.finfo(s.dtype).max / 8
        same("backward in s", result[1], total.reshape(s.shape), 8 * eps * size if fits else float("inf"), s.dtype)


def _op(draw: Draw, x: Tensor, s: Tensor | float, base: str) -> None:
    """``torch.ops.hrta_ext.homotopy``, which anybody may call with any tensors."""
    if not isinstance(x, Tensor) or x.layout is not torch.strided:
        return
    parameter = s if isinstance(s, Tensor) else torch.tensor(float(s) if isinstance(s, float) else 0.5)
    if draw.chance(0.9):
        parameter = parameter.double() if not parameter.is_complex() else parameter
    order, number = draw.random.randrange(-1, 4), draw.random.randrange(-1, 9)
    draw.fair = False
    result = attempt(draw, lambda: torch.ops.hrta_ext.homotopy(x, parameter, number, order))
    if result is not None and parameter.isfinite().all() and not x.is_complex():
        name = BASES[number]
        flat = parameter.reshape(()) if parameter.numel() == 1 else parameter
        _compare("torch.ops.hrta_ext.homotopy", result, x, flat, name, order)
