"""The Gram builder in plain PyTorch, by library matmuls: the torch backend, and what a GPU's kernels do not serve."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hrta_ext.bases import get_base
from hrta_ext.callers import aligned
from hrta_ext.ntk.normals import normals
from hrta_ext.ntk.types import Gram, GramSums, Neurons, cross_columns

_BYTES_PER_ENTRY = 64  # z, sigma, a sigma', their products' operands and the temporaries of the base, at most
_KEPT = 16  # of them: two operands
_ROWS = 512  # of the products at a time: the lower triangle is not computed


def _chunk(n_samples: int) -> int:
    """Neurons at a time: a function of n alone, so that the bits do not depend on the memory budget."""
    return min(max(2**27 // (_BYTES_PER_ENTRY * n_samples), 64), 1024)


def least_scratch(n_samples: int, n2: int, n_features: int, width: int, base: str, high: bool) -> int:
    """Bytes of scratch that the builder needs."""
    return _chunk(n_samples) * (_BYTES_PER_ENTRY * n_samples + 16 * (n_features + 1))


def random_weights(seed: int, first: int, count: int, n_features: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Weights (count, D) and output weights (count,) of the drawn neurons, float32."""
    drawn = normals(seed, first, count, n_features + 1, device)
    return drawn[:, 1:].contiguous(), drawn[:, 0].contiguous()


class _Cut(NamedTuple):
    """Neurons of one matmul, by shapes alone; of one allocation; of one evaluation of the base, all from the budget.

    On a GPU the last two change no bit, since they cut elementwise work alone; on the CPU a library's loops might
    differ at their ends, so all three are one.
    """

    product: int
    allocation: int
    evaluation: int


def _cut(x: Tensor, scratch_bytes: int) -> _Cut:
    n, features = x.shape
    chunk = _chunk(n)
    if not x.is_cuda:
        return _Cut(chunk, chunk, chunk)
    kept, rest = _KEPT * n + 16 * (features + 1), _BYTES_PER_ENTRY * n
    least = chunk * (rest + 16 * (features + 1))
    product = max(min(3 * chunk, 3 * least // (4 * kept)) // 64 * 64, 32)  # a quarter is left for the evaluation
    at_once = scratch_bytes // (kept + rest) // product
    if at_once:
        return _Cut(product, at_once * product, at_once * product)
    return _Cut(product, product, max((scratch_bytes - product * kept) // rest, 1))


def _chunks(x: Tensor, neurons: Neurons, cut: _Cut) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Weights (count, D), output weights (count,) and pre-activations (count, n), float64.

    In float64 the signs are those that the formula has, and no setting of reduced precision applies.
    """
    for begin in range(0, neurons.count, cut.allocation):
        count = min(cut.allocation, neurons.count - begin)
        if neurons.weight is None or neurons.output_weight is None:
            draw = random_weights if neurons.draw is None else neurons.draw
            weight, a = draw(neurons.seed, neurons.first + begin, count, x.shape[1], x.device)
        else:
            weight, a = neurons.weight[begin : begin + count], neurons.output_weight[begin : begin + count]
        weight, a = aligned(weight.double()), aligned(a.double())
        z = torch.empty(count, x.shape[0], dtype=torch.float64, device=x.device)
        for part, rows in zip(z.split(cut.product), weight.split(cut.product), strict=True):
            torch.mm(rows, x.mT, out=part)
        yield weight, a, z


def _apply(function: Callable[..., Tensor], cut: _Cut, out: Tensor, *arguments: Tensor) -> Tensor:
    """function(*arguments), where it is made a few rows at a time in ``out``; all (count, ...)."""
    if len(out) <= cut.evaluation:
        return function(*arguments)
    for part, *rows in zip(*(tensor.split(cut.evaluation) for tensor in (out, *arguments)), strict=True):
        part.copy_(function(*rows))
    return out


def piece(x: Tensor, base: str, step: int, crossed: bool) -> int | None:
    """None: sums of no neurons are made by themselves before they are added."""
    return None


def entries_stand_alone(x: Tensor, base: str, crossed: bool) -> bool:
    """No: a library's products depend on the shapes."""
    return False


def add_to(
    sums: GramSums,
    x: Tensor,
    neurons: Neurons,
    base: str,
    high: bool,
    scratch_bytes: int,
    step: int,
    report: Callable[[int], Any] | None,
) -> bool:
    """Add all neurons to the sums (upper triangles of symmetric products). x (n, D) float64, with those of x2.

    Returns:
        True: all is served.
    """
    done = 0
    for stretch in neurons.stretches(step):
        _add_stretch(sums, x, stretch, base, scratch_bytes)
        done += stretch.count
        if report is not None:
            report(done)
    return True


def _add_stretch(sums: GramSums, x: Tensor, neurons: Neurons, base: str, scratch_bytes: int) -> None:
    functions, cut, crossed = get_base(base), _cut(x, scratch_bytes), cross_columns(x, sums) > 0
    probe = torch.zeros((), dtype=torch.float64, device=x.device)
    with torch.no_grad():
        for weight, a, z in _chunks(x, neurons, cut):
            probe += _not_finite(weight, a)
            value = _apply(functions.value, cut, torch.empty_like(z), z)
            for rows, one, two in zip(*(t.split(cut.product) for t in (weight, z, value)), strict=True):
                sums.linear.add_(one.mT @ rows)  # not addmm_, whose bits depend on where the sums lie
                sums.cross.add_(two.mT @ rows)
            _add_product(value, cut, sums.value_product, crossed)
            slope = _apply(lambda rows, a: functions.slope(rows) * a[:, None], cut, z, z, a)
            for one, two in zip(slope.split(cut.product), a.split(cut.product), strict=True):
                sums.slope_sum.add_(one.mT @ two)
                sums.square_sum.add_(two.square().sum())
            _add_product(slope, cut, sums.slope_product, crossed)
        for tensor in sums:
            tensor.add_(probe)


def direct(
    x: Tensor, weight: Tensor, output_weight: Tensor, base: str, s: float, dtype: torch.dtype, scratch_bytes: int
) -> Gram | None:
    """Both matrices at one s without the sums: fewer products, and nothing cancels but what sigma_s cancels.

    Args:
        x, weight, output_weight: (n, D), (m, D), (m,), of one dtype.
    Returns:
        None on the CPU in the float64 class, where the sums' bits are kept.
    """
    if x.is_cpu and dtype == torch.float64:
        return None
    x = aligned(x.double())
    n, functions, cut = x.shape[0], get_base(base), _cut(x, scratch_bytes)

    def sigma(z: Tensor) -> Tensor:
        return torch.lerp(z, functions.value(z), s)

    def slope(z: Tensor, a: Tensor) -> Tensor:
        return (functions.slope(z) * s).add_(1.0 - s).mul_(a[:, None])

    products = torch.zeros(2, n, n, dtype=torch.float64, device=x.device)
    probe = torch.zeros((), dtype=torch.float64, device=x.device)
    with torch.no_grad():
        for weights, a, z in _chunks(x, Neurons(weight.shape[0], weight, output_weight), cut):
            probe += _not_finite(weights, a)
            _add_product(_apply(sigma, cut, torch.empty_like(z), z), cut, products[0])
            _add_product(_apply(slope, cut, z, z, a), cut, products[1])
        products += probe
        _add_product(x.mT.contiguous(), cut, inner := torch.zeros_like(products[0]))
        a, w = (_mirrored(upper).mul_(1.0 / weight.shape[0]) for upper in (products[0], products[1].mul_(inner)))
        return Gram(a.to(dtype), w.to(dtype))


def _not_finite(weight: Tensor, a: Tensor) -> Tensor:
    """NaN if an element is not finite, else 0."""
    return 0.0 * (torch.linalg.vector_norm(weight, torch.inf) + torch.linalg.vector_norm(a, torch.inf))


def _add_product(columns: Tensor, cut: _Cut, product: Tensor, crossed: bool = False) -> None:
    """product (n, n) += columns^T columns, columns (count, n), on and above the diagonal.

    Crossed: product (n, n2) += the first n of the columns (count, n + n2), transposed, times the others.
    """
    n = product.shape[0]
    for part in columns.split(cut.product):
        rows, others = part[:, :n], part[:, n:] if crossed else part
        for begin in range(0, n, _ROWS):
            first = 0 if crossed else begin
            left, right = rows[:, begin : begin + _ROWS].mT, others[:, first:]
            to = product[begin : begin + _ROWS, first:]
            if to.is_cuda:
                to.addmm_(left, right)  # without a matrix between, which costs a GPU as much as the product
            else:
                to += left @ right


def evaluate(
    x: Tensor, sums: GramSums, width: int, s: Tensor, derivative: bool, dtype: torch.dtype, x2: Tensor | None = None
) -> Gram:
    """Both matrices, or their derivatives in s, at s () or (S,): (..., n, n) or (S, ..., n, n), exactly symmetric.

    Cross-kernels with samples x2 (n2, D): (..., n, n2).
    """
    x, n = aligned(x), x.shape[0]
    rows, columns = sums.slope_sum[..., :n, None], sums.slope_sum[..., None, 0 if x2 is None else n :]
    value_product, slope_product = sums.value_product, sums.slope_product
    if x2 is None:
        inner = x @ x.mT
        inner = 0.5 * (inner + inner.mT)
        value_product, slope_product = _mirrored(value_product), _mirrored(slope_product)
    else:
        inner = x @ aligned(x2).mT
    linear, cross = _both_ways(sums.linear, x, x2), _both_ways(sums.cross, x, x2)
    coefficients = (
        (0.5 * linear, cross, value_product),
        (inner * sums.square_sum[..., None], inner * (rows + columns), inner * slope_product),
    )
    values = s.to(x.device).reshape(s.shape + (1,) * linear.dim())
    rest = 1.0 - values
    factors = (-2.0 * rest, rest - values, 2.0 * values) if derivative else (rest**2, rest * values, values**2)
    # Products and sums of two tensors only: a fused form might round entries (i, j) and (j, i) differently.
    a, w = (factors[0] * c[0] + factors[1] * c[1] + factors[2] * c[2] for c in coefficients)
    return Gram((a / width).to(dtype), (w / width).to(dtype))


def _both_ways(part: Tensor, x: Tensor, x2: Tensor | None) -> Tensor:
    """part_i . x_j + part_j . x_i: (..., n, n), or (..., n, n2) from part (..., n + n2, D)."""
    if part.dim() > 2 and len(part) > 0:  # each by itself: a library's bits may depend on how many there are
        return torch.stack([_both_ways(one, x, x2) for one in part])
    if x2 is None:
        products = aligned(part) @ x.mT
        return products + products.mT
    n = x.shape[0]
    return aligned(part[..., :n, :]) @ aligned(x2).mT + x @ aligned(part[..., n:, :]).mT


def _mirrored(upper: Tensor) -> Tensor:
    return torch.triu(upper) + torch.triu(upper, 1).mT


def power_sum(left: Tensor, right: Tensor, base: Tensor) -> Tensor:
    """sum_k left[i, k] right[k, j] base[i, j]^k: left (n, terms), right (terms, n2), base (n, n2), float64."""
    result = torch.empty_like(base)
    step = (
        16 if base.is_cpu else max(2**24 // max(base.shape[1], 1), 1)
    )  # rows that stay in the cache, or fill a device
    for begin in range(0, base.shape[0], step):
        rows = slice(begin, begin + step)
        sums = torch.zeros_like(base[rows])
        for k in range(left.shape[1] - 1, -1, -1):
            sums.mul_(base[rows]).addr_(left[rows, k], right[k])
        result[rows] = sums
    return result
