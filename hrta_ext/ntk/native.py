"""The compiled Gram builder on CPU tensors: addresses and sizes. Same functions as ``reference_gram``."""

from __future__ import annotations

import torch
from torch import Tensor

from hrta_ext import compiled
from hrta_ext.bases import BASES
from hrta_ext.ntk.types import Gram, GramSums, Neurons


def least_scratch(n_samples: int, n_features: int, width: int, base: str, high: bool) -> int:
    """Bytes of scratch that the builder needs."""
    return compiled._C.gram_least_scratch(BASES[base].number, high, n_samples, n_features, width)


def random_weights(seed: int, first: int, count: int, n_features: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Weights (count, D) and output weights (count,) of the drawn neurons, float32."""
    weight = torch.empty(count, n_features, dtype=torch.float32)
    output_weight = torch.empty(count, dtype=torch.float32)
    compiled._C.random_weights(seed, first, count, n_features, weight.data_ptr(), output_weight.data_ptr())
    return weight, output_weight


def add_to(sums: GramSums, x: Tensor, neurons: Neurons, base: str, high: bool, scratch_bytes: int) -> None:
    """Add all neurons to the sums (upper triangles of the products). x (n, D) float64."""
    kind, weight, output_weight = compiled.KINDS[torch.float32], None, None
    addresses = (0, 0)
    if neurons.weight is not None and neurons.output_weight is not None:
        weight, output_weight = neurons.weight.contiguous(), neurons.output_weight.contiguous()
        kind, addresses = compiled.KINDS[weight.dtype], (weight.data_ptr(), output_weight.data_ptr())
    finite = compiled._C.gram_sums(
        BASES[base].number, high, x.shape[0], x.shape[1], neurons.count, x.data_ptr(), kind, *addresses,
        neurons.seed, neurons.first, scratch_bytes, tuple(tensor.data_ptr() for tensor in sums),
    )  # fmt: skip
    if not finite:
        for tensor in sums:
            tensor.fill_(torch.nan)


def evaluate(x: Tensor, sums: GramSums, width: int, s: Tensor, derivative: bool, dtype: torch.dtype) -> Gram:
    """Both matrices, or their derivatives in s, at s () or (S,): (..., n, n) or (S, ..., n, n), exactly symmetric."""
    n, networks = x.shape[0], sums.square_sum.shape[:-1]
    count = networks.numel()
    a, w = (torch.empty(count, *s.shape, n, n, dtype=dtype) for _ in range(2))
    inner = x @ x.mT
    for network in range(count if n else 0):
        one = sums if not networks else GramSums(*(part.flatten(0, len(networks) - 1)[network] for part in sums))
        linear, cross = one.linear @ x.mT, one.cross @ x.mT
        compiled._C.gram_evaluate(
            n, s.numel(), dtype == torch.float64, derivative, width, s.data_ptr(),
            (inner.data_ptr(), linear.data_ptr(), cross.data_ptr()),
            tuple(part.data_ptr() for part in one[2:]),
            (a[network].data_ptr(), w[network].data_ptr()),
        )  # fmt: skip
    if not networks:
        return Gram(a[0], w[0])
    shape = (*s.shape, *networks, n, n)
    return Gram(*(part.movedim(0, s.dim()).reshape(shape) for part in (a, w)))


def power_sum(left: Tensor, right: Tensor, base: Tensor) -> Tensor:
    """sum_k left[i, k] right[k, j] base[i, j]^k: left (n, terms), right (terms, n2), base (n, n2), float64."""
    left, right, base = left.contiguous(), right.contiguous(), base.contiguous()
    result = torch.empty_like(base)
    compiled._C.power_sum(
        *base.shape, left.shape[1], left.data_ptr(), right.data_ptr(), base.data_ptr(), result.data_ptr()
    )
    return result
