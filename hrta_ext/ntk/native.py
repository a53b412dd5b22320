"""The compiled Gram builder on CPU tensors: addresses and sizes. Same functions as ``reference``."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hrta_ext.bases import BASES
from hrta_ext.compiled import _C, KINDS, address, own, placed, plain
from hrta_ext.ntk.types import Gram, GramSums, Neurons, sum_shapes


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
    _C.random_weights(seed, first, count, n_features, own(weight), own(output_weight))
    return weight, output_weight


def add_to(sums: GramSums, x: Tensor, neurons: Neurons, base: str, high: bool, scratch_bytes: int) -> None:
    """Add all neurons to the sums (upper triangles of the products). x (n, D) float64."""
    number, dtype, weight, output_weight = BASES[base].number, torch.float32, None, None
    if neurons.weight is not None and neurons.output_weight is not None:
        weight, output_weight = (
            plain(neurons.weight, "gram: weight"),
            plain(neurons.output_weight, "gram: output_weight"),
        )
        dtype = weight.dtype
    n, features = x.shape
    call = _C.GramCall(
        base=number,
        digits=_C.gram_digits(number, high, neurons.count),
        n=n,
        D=features,
        m=neurons.count,
        x=address(x, "gram: x", torch.float64, -1, n * features),
        neurons=_C.Neurons(
            dtype=KINDS[dtype],
            weight=address(weight, "gram: weight", dtype, -1, neurons.count * features),
            output_weight=address(output_weight, "gram: output_weight", dtype, -1, neurons.count),
            seed=neurons.seed,
            first=neurons.first,
        ),
        scratch_bytes=scratch_bytes,
        sums=_C.GramSums(**{name: own(part) for name, part in zip(sums._fields, sums, strict=True)}),
    )
    if not _C.gram_sums(call):
        for tensor in sums:
            tensor.fill_(torch.nan)


def evaluate(x: Tensor, sums: GramSums, width: int, s: Tensor, derivative: bool, dtype: torch.dtype) -> Gram:
    """Both matrices, or their derivatives in s, at s () or (S,): (..., n, n) or (S, ..., n, n), exactly symmetric."""
    n, networks = x.shape[0], sums.square_sum.shape[:-1]
    count = networks.numel()
    a, w = (torch.empty(count, *s.shape, n, n, dtype=dtype) for _ in range(2))
    x = placed(x)
    s, inner = plain(s, "gram: s"), x @ x.mT
    sizes = [math.prod(shape) for shape in sum_shapes(x)]
    for network in range(count if n else 0):
        one = sums if not networks else GramSums(*(part.flatten(0, len(networks) - 1)[network] for part in sums))
        # GramPath is public: its sums may have been made by anybody.
        one = GramSums(*(plain(part, name) for name, part in zip(sums._fields, one, strict=True)))
        linear, cross = placed(one.linear) @ x.mT, placed(one.cross) @ x.mT
        call = _C.GramEvaluation(
            n=n,
            S=s.numel(),
            high=dtype == torch.float64,
            derivative=derivative,
            width=width,
            s=address(s, "gram: s", torch.float64, -1, s.numel()),
            inner=own(inner),
            linear=own(linear),
            cross=own(cross),
            sums=_C.GramSums(
                **{
                    name: address(part, name, torch.float64, -1, size)
                    for name, part, size in zip(one._fields, one, sizes, strict=True)
                }
            ),
            a=own(a[network]),
            w=own(w[network]),
        )
        _C.gram_evaluate(call)
    if not networks:
        return Gram(a[0], w[0])
    shape = (*s.shape, *networks, n, n)
    return Gram(*(part.movedim(0, s.dim()).reshape(shape) for part in (a, w)))


def power_sum(left: Tensor, right: Tensor, base: Tensor) -> Tensor:
    """sum_k left[i, k] right[k, j] base[i, j]^k: left (n, terms), right (terms, n2), base (n, n2), float64."""
    left, right, base = (plain(tensor, "infinite_gram: x") for tensor in (left, right, base))
    result = torch.empty_like(base)
    (n, n2), terms = base.shape, left.shape[1]
    _C.power_sum(
        n=n,
        n2=n2,
        terms=terms,
        left=address(left, "infinite_gram: left", torch.float64, -1, n * terms),
        right=address(right, "infinite_gram: right", torch.float64, -1, terms * n2),
        base=address(base, "infinite_gram: base", torch.float64, -1, n * n2),
        result=own(result),
    )
    return result
