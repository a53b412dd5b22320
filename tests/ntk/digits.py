"""The GPU's Gram builder under emulation: sessions on CPU tensors, exact sums, and figures by their definition."""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from cases import sigma, slope
from emulated import address
from torch import Tensor

from hrta_ext.bases import BASES
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
    base: str = "relu",
) -> tuple[GramSums, Tensor]:
    """The sums and the figures of one session, whose scratch memory starts as rubbish and has a guard behind it."""
    stored = isinstance(neurons[0], Tensor)
    weight, output_weight = neurons[:2] if stored else (None, None)
    seed, first, count = (0, 0, len(neurons[0])) if stored else neurons
    dtype = weight.dtype if stored else torch.float32
    sizes = [*x.shape, count, digits, KINDS[dtype], scratch_bytes, stretch or count, square_digits, BASES[base].number]
    sizes = torch.tensor(sizes)
    sums = zero_sums(x) if sums is None else sums
    rows = max((x.shape[0] + 7) // 8, 3)
    figures = torch.full((rows, choice.COLUMNS), torch.nan, dtype=torch.float64)
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


def exact_sums(x: Tensor, weight: Tensor, output_weight: Tensor, base: str = "relu") -> GramSums:
    weight, squares = weight.double(), output_weight.double().square()
    z = x @ weight.mT
    value, rise = sigma(z, base), slope(z, base)
    products = torch.triu(value @ value.mT), torch.triu((rise * squares) @ rise.mT)
    return GramSums(z @ weight, value @ weight, squares.sum()[None], rise @ squares, *products)


def whole(upper: Tensor) -> Tensor:
    return torch.triu(upper) + torch.triu(upper, 1).mT


def largest(x: Tensor, base: str) -> Tensor:
    """The largest |sigma(z)| and |sigma'(z)| for |z| <= x, (2, n), by looking."""
    z = torch.linspace(-1.0, 1.0, 20_001, dtype=torch.float64) * x[:, None]
    return torch.stack([sigma(z, base).abs().amax(1), slope(z, base).abs().amax(1)])


def figures_of(x: Tensor, weight: Tensor, output_weight: Tensor, base: str = "relu") -> choice.Figures:
    """What a session tells of these neurons, by its definition."""
    sums = exact_sums(x, weight, output_weight, base)
    inner, row, cross = x @ x.mT, sums.slope_sum[:, None], sums.cross @ x.mT
    a = [sums.linear @ x.mT, cross + cross.mT, whole(sums.value_product)]
    w = [inner * sums.square_sum, inner * (row + row.mT), inner * whole(sums.slope_product)]
    pairs = [(0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2)]
    products = [[float((part[i] * part[j]).sum()) for i, j in pairs] for part in (a, w)]
    norms = x.norm(dim=1)
    bounds = float(weight.double().square().sum(1).max()), float(output_weight.double().square().max())
    value, rise = largest(norms * bounds[0] ** 0.5, base)
    rise = bounds[1] * rise.square()
    weights, q = inner.square(), sums.slope_product.diagonal()
    return choice.Figures(
        *products,
        trace=float(a[2].trace()),
        samples=float(norms.square().sum()),
        largest=float(norms.max()),
        norm2=bounds[0],
        square=bounds[1],
        square_sum=float(sums.square_sum),
        slope_sizes=float(rise @ weights @ rise),
        slope_trace=float(rise @ weights @ q),
        sizes=float(value.square().sum()),
        size=float(value.max()),
    )
