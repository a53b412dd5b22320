"""The GPU's Gram builder under emulation: sessions on CPU tensors, exact sums, and figures by their definition."""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from emulated import address
from torch import Tensor

from hrta_ext.compiled import KINDS
from hrta_ext.ntk import choice
from hrta_ext.ntk.types import GramSums, sum_shapes

POISON = 0xA5


def zero_sums(x: Tensor) -> GramSums:
    return GramSums(*(torch.zeros(shape, dtype=torch.float64) for shape in sum_shapes(x)))


def session(
    kernels: Any,
    x: Tensor,
    neurons: tuple[Tensor, Tensor] | tuple[int, int, int],  # in memory, or seed, first and count
    digits: int,
    sums: GramSums | None = None,
    scratch_bytes: int = 1 << 24,
    stretch: int = 0,
    square_digits: int = 3,
) -> tuple[GramSums, Tensor]:
    """The sums and the figures of one session, whose scratch memory starts as rubbish and has a guard behind it."""
    stored = isinstance(neurons[0], Tensor)
    weight, output_weight = neurons[:2] if stored else (None, None)
    seed, first, count = (0, 0, len(neurons[0])) if stored else neurons
    dtype = weight.dtype if stored else torch.float32
    sizes = torch.tensor([*x.shape, count, digits, KINDS[dtype], scratch_bytes, stretch or count, square_digits])
    sums = zero_sums(x) if sums is None else sums
    rows = max((x.shape[0] + 7) // 8, 3)
    figures = torch.full((rows, 16), torch.nan, dtype=torch.float64)
    pointers = (ctypes.c_void_p * 6)(*(part.data_ptr() for part in sums))
    fixed = [address(sizes), address(x), address(weight), address(output_weight)]
    fixed += [ctypes.c_uint64(seed), ctypes.c_uint64(first), pointers]
    size = kernels.build(*fixed, None, address(figures))
    assert size > 0
    scratch = torch.full((size + 512,), POISON, dtype=torch.uint8)
    begin = -scratch.data_ptr() % 256
    kernels.build(*fixed, address(scratch[begin:]), address(figures))
    assert (scratch[begin + size :] == POISON).all()
    return sums, figures


def exact_sums(x: Tensor, weight: Tensor, output_weight: Tensor) -> GramSums:
    weight, squares = weight.double(), output_weight.double().square()
    z = x @ weight.mT
    value, on = z.clamp(min=0.0), (z > 0).double()
    products = torch.triu(value @ value.mT), torch.triu((on * squares) @ on.mT)
    return GramSums(z @ weight, value @ weight, squares.sum()[None], on @ squares, *products)


def whole(upper: Tensor) -> Tensor:
    return torch.triu(upper) + torch.triu(upper, 1).mT


def figures_of(x: Tensor, weight: Tensor, output_weight: Tensor) -> choice.Figures:
    """What a session tells of these neurons, by its definition."""
    sums = exact_sums(x, weight, output_weight)
    inner, row, cross = x @ x.mT, sums.slope_sum[:, None], sums.cross @ x.mT
    a = [sums.linear @ x.mT, cross + cross.mT, whole(sums.value_product)]
    w = [inner * sums.square_sum, inner * (row + row.mT), inner * whole(sums.slope_product)]
    pairs = [(0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2)]
    products = [[float((part[i] * part[j]).sum()) for i, j in pairs] for part in (a, w)]
    norms = x.norm(dim=1)
    bounds = float(weight.double().square().sum(1).max()), float(output_weight.double().square().max())
    return choice.Figures(
        *products, float(a[2].trace()), float(norms.square().sum()), float(norms.max()), *bounds, float(sums.square_sum)
    )
