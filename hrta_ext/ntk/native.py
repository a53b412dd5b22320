"""The compiled Gram builder on CPU tensors: addresses and sizes. Same functions as ``reference``."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hrta_ext.bases import BASES
from hrta_ext.callers import aligned
from hrta_ext.compiled import _C, KINDS, address
from hrta_ext.ntk.types import Gram, GramSums, Neurons


def serves(x: Tensor) -> bool:
    """Whether these kernels take x, of a device and dtype that the binary serves: on the CPU alone so far."""
    return x.is_cpu


def least_scratch(n_samples: int, n_features: int, width: int, base: str, high: bool) -> int:
    """Bytes of scratch that the builder needs."""
    return _C.gram_least_scratch(BASES[base].number, high, n_samples, n_features, width)


def random_weights(seed: int, first: int, count: int, n_features: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Weights (count, D) and output weights (count,) of the drawn neurons, float32."""
    weight = torch.empty(count, n_features, dtype=torch.float32)
    output_weight = torch.empty(count, dtype=torch.float32)
    _C.random_weights(seed, first, count, n_features, weight.data_ptr(), output_weight.data_ptr())
    return weight, output_weight


def add_to(sums: GramSums, x: Tensor, neurons: Neurons, base: str, high: bool, scratch_bytes: int) -> None:
    """Add all neurons to the sums (upper triangles of the products). x (n, D) float64."""
    number, dtype, weight, output_weight = BASES[base].number, torch.float32, None, None
    if neurons.weight is not None and neurons.output_weight is not None:
        weight, output_weight = neurons.weight.contiguous(), neurons.output_weight.contiguous()
        dtype = weight.dtype
    call = _C.GramCall(
        base=number,
        digits=_C.gram_digits(number, high, neurons.count),
        n=x.shape[0],
        D=x.shape[1],
        m=neurons.count,
        x=x.data_ptr(),
        neurons=_C.Neurons(
            dtype=KINDS[dtype],
            weight=address(weight),
            output_weight=address(output_weight),
            seed=neurons.seed,
            first=neurons.first,
        ),
        scratch_bytes=scratch_bytes,
        sums=_described(sums),
    )
    if not _C.gram_sums(call):
        for tensor in sums:
            tensor.fill_(torch.nan)


def _described(sums: GramSums) -> Any:
    return _C.GramSums(
        linear=sums.linear.data_ptr(),
        cross=sums.cross.data_ptr(),
        square_sum=sums.square_sum.data_ptr(),
        slope_sum=sums.slope_sum.data_ptr(),
        value_product=sums.value_product.data_ptr(),
        slope_product=sums.slope_product.data_ptr(),
    )


def evaluate(x: Tensor, sums: GramSums, width: int, s: Tensor, derivative: bool, dtype: torch.dtype) -> Gram:
    """Both matrices, or their derivatives in s, at s () or (S,): (..., n, n) or (S, ..., n, n), exactly symmetric."""
    n, networks = x.shape[0], sums.square_sum.shape[:-1]
    count = networks.numel()
    a, w = (torch.empty(count, *s.shape, n, n, dtype=dtype) for _ in range(2))
    x = aligned(x)
    inner = x @ x.mT
    for network in range(count if n else 0):
        one = sums if not networks else GramSums(*(part.flatten(0, len(networks) - 1)[network] for part in sums))
        linear, cross = aligned(one.linear) @ x.mT, aligned(one.cross) @ x.mT
        call = _C.GramEvaluation(
            n=n,
            S=s.numel(),
            high=dtype == torch.float64,
            derivative=derivative,
            width=width,
            s=s.data_ptr(),
            inner=inner.data_ptr(),
            linear=linear.data_ptr(),
            cross=cross.data_ptr(),
            sums=_described(one),
            a=a[network].data_ptr(),
            w=w[network].data_ptr(),
        )
        _C.gram_evaluate(call)
    if not networks:
        return Gram(a[0], w[0])
    shape = (*s.shape, *networks, n, n)
    return Gram(*(part.movedim(0, s.dim()).reshape(shape) for part in (a, w)))


def power_sum(left: Tensor, right: Tensor, base: Tensor) -> Tensor:
    """sum_k left[i, k] right[k, j] base[i, j]^k: left (n, terms), right (terms, n2), base (n, n2), float64."""
    left, right, base = left.contiguous(), right.contiguous(), base.contiguous()
    result = torch.empty_like(base)
    _C.power_sum(
        n=base.shape[0],
        n2=base.shape[1],
        terms=left.shape[1],
        left=left.data_ptr(),
        right=right.data_ptr(),
        base=base.data_ptr(),
        result=result.data_ptr(),
    )
    return result
