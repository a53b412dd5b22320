"""The Gram builder in plain PyTorch, by library matmuls: the torch backend, and what a GPU's kernels do not serve."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from hrta_ext.bases import get_base
from hrta_ext.callers import aligned
from hrta_ext.ntk.normals import normals
from hrta_ext.ntk.types import Gram, GramSums, Neurons

_BYTES_PER_ENTRY = 64  # z, sigma, a sigma', their products' operands and the temporaries of the base, at most
_FEW_NEURONS = 4096
_ROWS = 512  # of the products at a time: the lower triangle is not computed


def _chunk(n_samples: int) -> int:
    """Neurons at a time: a function of n alone, so that the bits do not depend on the memory budget."""
    return min(max(2**27 // (_BYTES_PER_ENTRY * n_samples), 64), 1024)


def least_scratch(n_samples: int, n_features: int, width: int, base: str, high: bool) -> int:
    """Bytes of scratch that the builder needs."""
    return _chunk(n_samples) * (_BYTES_PER_ENTRY * n_samples + 16 * (n_features + 1))


def random_weights(seed: int, first: int, count: int, n_features: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Weights (count, D) and output weights (count,) of the drawn neurons, float32."""
    drawn = normals(seed, first, count, n_features + 1, device)
    return drawn[:, 1:].contiguous(), drawn[:, 0].contiguous()


def _gpu_chunk(x: Tensor, scratch_bytes: int) -> int:
    """Neurons at a time that fill a GPU: 256 MiB for any shape; as on the CPU where the budget is for less."""
    n, features = x.shape
    per_neuron = _BYTES_PER_ENTRY * n + 16 * (features + 1)
    wide = min(max(2**28 // per_neuron, 64), 2**17)
    return wide if wide * per_neuron <= scratch_bytes else _chunk(n)


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
    """Add all neurons to the sums (upper triangles of the products). x (n, D) float64. Always True: all is served."""
    done = 0
    for stretch in neurons.stretches(step):
        _add_stretch(sums, x, stretch, base, high, scratch_bytes)
        done += stretch.count
        if report is not None:
            report(done)
    return True


def direct(
    x: Tensor, weight: Tensor, output_weight: Tensor, base: str, s: float, dtype: torch.dtype, scratch_bytes: int
) -> Gram | None:
    return None


def _add_stretch(sums: GramSums, x: Tensor, neurons: Neurons, base: str, high: bool, scratch_bytes: int) -> None:
    functions = get_base(base)
    # As in csrc/ntk/gram.h: terms cancel, for ReLU by a factor that the averaging over many neurons makes good. On a
    # GPU float32 might mean TF32, and costs as much as float64 where that has tensor cores.
    low = base == "relu" and not high and neurons.count >= _FEW_NEURONS and x.is_cpu
    dtype = torch.float32 if low else torch.float64
    chunk = _chunk(x.shape[0]) if x.is_cpu else _gpu_chunk(x, scratch_bytes)
    probe = torch.zeros((), dtype=torch.float64, device=x.device)  # becomes NaN if a weight is not finite
    with torch.no_grad():
        for begin in range(0, neurons.count, chunk):
            count = min(chunk, neurons.count - begin)
            if neurons.weight is None or neurons.output_weight is None:
                draw = random_weights if neurons.draw is None else neurons.draw
                weight, a = draw(neurons.seed, neurons.first + begin, count, x.shape[1], x.device)
            else:
                weight, a = neurons.weight[begin : begin + count], neurons.output_weight[begin : begin + count]
            weight, a = aligned(weight.double()), aligned(a.double())
            probe += (weight * 0.0).sum() + (a * 0.0).sum()
            z = x @ weight.mT  # in float64, so that its sign is the one that the float64 formula has
            sums.linear.add_(z @ weight)
            value, slope = functions.value(z), functions.slope(z)
            sums.cross.add_(value @ weight)
            sums.square_sum.add_((a * a).sum())
            sums.slope_sum.add_(slope @ (a * a))
            _add_product(value.to(dtype), sums.value_product)
            _add_product((slope * a).to(dtype), sums.slope_product)
        for tensor in sums:
            tensor.add_(probe)


def _add_product(rows: Tensor, product: Tensor) -> None:
    """product (n, n) += rows rows^T, rows (n, count), on and above the diagonal."""
    for begin in range(0, rows.shape[0], _ROWS):
        left, right, to = rows[begin : begin + _ROWS], rows[begin:].mT, product[begin : begin + _ROWS, begin:]
        if to.dtype == rows.dtype:
            to.addmm_(left, right)  # without a matrix between, which costs a GPU as much as the product
        else:
            to += left @ right


def evaluate(x: Tensor, sums: GramSums, width: int, s: Tensor, derivative: bool, dtype: torch.dtype) -> Gram:
    """Both matrices, or their derivatives in s, at s () or (S,): (..., n, n) or (S, ..., n, n), exactly symmetric."""
    x = aligned(x)
    inner = x @ x.mT
    inner = 0.5 * (inner + inner.mT)
    linear, cross = aligned(sums.linear) @ x.mT, aligned(sums.cross) @ x.mT
    row = sums.slope_sum[..., :, None]
    coefficients = (
        (0.5 * (linear + linear.mT), cross + cross.mT, _mirrored(sums.value_product)),
        (inner * sums.square_sum[..., None], inner * (row + row.mT), inner * _mirrored(sums.slope_product)),
    )
    values = s.to(x.device).reshape(s.shape + (1,) * linear.dim())
    rest = 1.0 - values
    factors = (-2.0 * rest, rest - values, 2.0 * values) if derivative else (rest**2, rest * values, values**2)
    # Products and sums of two tensors only: a fused form might round entries (i, j) and (j, i) differently.
    a, w = (factors[0] * c[0] + factors[1] * c[1] + factors[2] * c[2] for c in coefficients)
    return Gram((a / width).to(dtype), (w / width).to(dtype))


def _mirrored(upper: Tensor) -> Tensor:
    return torch.triu(upper) + torch.triu(upper, 1).mT


def power_sum(left: Tensor, right: Tensor, base: Tensor) -> Tensor:
    """sum_k left[i, k] right[k, j] base[i, j]^k: left (n, terms), right (terms, n2), base (n, n2), float64."""
    result = torch.empty_like(base)
    for begin in range(0, base.shape[0], 16):  # rows that stay in the cache
        rows = slice(begin, begin + 16)
        sums = torch.zeros_like(base[rows])
        for k in range(left.shape[1] - 1, -1, -1):
            sums.mul_(base[rows]).addr_(left[rows, k], right[k])
        result[rows] = sums
    return result
