"""The compiled Gram builder: addresses and sizes. Same functions as ``reference``.

On a GPU the builder serves where its bounds reach the class (``sessions``); all else is for both.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from hrta_ext.bases import BASES
from hrta_ext.compiled import _C, address, own, placed, plain
from hrta_ext.ntk import choice, sessions
from hrta_ext.ntk.sessions import gram_call
from hrta_ext.ntk.types import Gram, GramSums, Neurons, sum_shapes

_FEW_NEURONS = 512  # too few for roundings to float to average out
_BLOCKS = 192  # samples up to which symmetric products are added up by blocks of neurons (kPanel in builder.cpp)
_SMALL = 2**15  # pairs of sample and neuron up to which arcs cost more than they save


def serves(x: Tensor) -> bool:
    """Whether these kernels take x, of a device and dtype that the binary serves."""
    return x.is_cpu or x.is_cuda


def least_scratch(n_samples: int, n2: int, n_features: int, width: int, base: str, high: bool) -> int:
    """Bytes of scratch that the builder needs on the CPU; on a GPU it needs less than the torch backend."""
    all_digits = high or base != "relu"  # which small z may ask for
    return _C.gram_least_scratch(BASES[base].number, all_digits, n_samples, n2, n_features, width)


def random_weights(seed: int, first: int, count: int, n_features: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Weights (count, D) and output weights (count,) of the drawn neurons, float32."""
    weight = torch.empty(count, n_features, dtype=torch.float32, device=device)
    output_weight = torch.empty(count, dtype=torch.float32, device=device)
    _C.random_weights(seed, first, count, n_features, own(weight), own(output_weight), weight.get_device())
    return weight, output_weight


def piece(x: Tensor, base: str, step: int, crossed: bool) -> int | None:
    """Drawn neurons whose sums ``add_to`` makes by themselves before it adds them; None: it adds them one by one.

    Args:
        x: (n, D), with those of x2 if the products are ``crossed``.
        step: As ``add_to``'s.
    """
    if x.is_cuda:
        return None if crossed else choice.MOST_NEURONS
    return step if _goes_by_arcs(x, base) else None


def entries_stand_alone(x: Tensor, base: str, crossed: bool) -> bool:
    """Whether an entry of the products, and a sample's sums, have the bits of a cross-kernel with other samples."""
    return x.is_cpu and not _goes_by_arcs(x, base) and (crossed or x.shape[0] > _BLOCKS)


def _goes_by_arcs(x: Tensor, base: str) -> bool:
    return base == "relu" and x.shape[1] == 2


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
    """Add all neurons to sums of zeros (upper triangles of symmetric products). x (n, D) float64, with those of x2.

    Args:
        step: Neurons between two reports of how many are done.
    Returns:
        False where these kernels do not serve the call, or not to its class of accuracy: the sums are zeros then.
    """
    if x.is_cuda:
        return sessions.add_to(sums, x, neurons, base, high, scratch_bytes, step, report)
    done, all_digits = 0, high or (base != "relu" and _nearly_linear(x, neurons))
    for stretch in neurons.stretches(step):
        kept: list[Tensor] = []
        digits = _C.gram_digits(BASES[base].number, all_digits, stretch.count)
        if not _C.gram_sums(gram_call(sums, x, stretch, base, digits, scratch_bytes, kept)):
            for tensor in sums:
                tensor.fill_(torch.nan)
        done += stretch.count
        if report is not None:
            report(done)
    return True


def _nearly_linear(x: Tensor, neurons: Neurons) -> bool:
    """Whether z is so small, by the first neurons, that most digits of sigma(z) are those of a line and cancel."""
    if neurons.weight is None:
        variance = x.square().mean(0).sum()
    else:
        variance = x.square().mean(0) @ neurons.weight[:1024].double().square().mean(0)
    return bool(variance < 2.0**-14)


def direct(
    x: Tensor, weight: Tensor, output_weight: Tensor, base: str, s: float, dtype: torch.dtype, scratch_bytes: int
) -> Gram | None:
    """Both matrices at one s without the sums; None where these kernels do not serve the call to its class.

    Args:
        x, weight, output_weight: (n, D), (m, D), (m,), of one dtype.
    """
    (n, features), width = x.shape, weight.shape[0]
    if dtype != torch.float32 or x.dtype != torch.float32 or not x.is_cpu or width < _FEW_NEURONS:
        return None
    if base == "relu" and features == 2 and n * width > _SMALL:
        return None  # the sums cost less: arcs
    x, weight = plain(x, "gram: x"), plain(weight, "gram: weight")
    output_weight = plain(output_weight, "gram: output_weight")
    a, w = (torch.empty(n, n, dtype=torch.float32, device=x.device) for _ in range(2))
    served = _C.gram_direct(
        BASES[base].number,
        n,
        features,
        width,
        s,
        address(x, "gram: x", torch.float32, -1, n * features),
        address(weight, "gram: weight", torch.float32, -1, width * features),
        address(output_weight, "gram: output_weight", torch.float32, -1, width),
        scratch_bytes,
        own(a),
        own(w),
    )
    return Gram(a, w) if served else None


def evaluate(
    x: Tensor, sums: GramSums, width: int, s: Tensor, derivative: bool, dtype: torch.dtype, x2: Tensor | None = None
) -> Gram:
    """Both matrices, or their derivatives in s, at s () or (S,): (..., n, n) or (S, ..., n, n), exactly symmetric.

    Cross-kernels with samples x2 (n2, D): (..., n, n2).
    """
    (n, features), networks = x.shape, sums.square_sum.shape[:-1]
    n2 = n if x2 is None else x2.shape[0]
    count = networks.numel()
    device = x.get_device()
    a, w = (torch.empty(count, *s.shape, n, n2, dtype=dtype, device=x.device) for _ in range(2))
    s, every = plain(s.to(x.device), "gram: s"), plain(x if x2 is None else torch.cat([x, x2]), "gram: x")
    sizes = [math.prod(shape) for shape in sum_shapes(x, x2)]
    for network in range(count if n and n2 else 0):
        one = sums if not networks else GramSums(*(part.flatten(0, len(networks) - 1)[network] for part in sums))
        # GramPath is public: its sums may have been made by anybody.
        one = GramSums(*(plain(part, name) for name, part in zip(sums._fields, one, strict=True)))
        products = _inner_products(one, x, x2) if x.is_cuda else {}
        call = _C.GramEvaluation(
            n=n,
            n2=0 if x2 is None else n2,
            D=features,
            x=address(every, "gram: x", torch.float64, device, every.numel()),
            S=s.numel(),
            high=dtype == torch.float64,
            derivative=derivative,
            width=width,
            s=address(s, "gram: s", torch.float64, device, s.numel()),
            **{name: own(product) for name, product in products.items()},
            sums=_C.GramSums(
                **{
                    name: address(part, name, torch.float64, device, size)
                    for name, part, size in zip(one._fields, one, sizes, strict=True)
                }
            ),
            a=own(a[network]),
            w=own(w[network]),
        )
        _C.gram_evaluate(call, device)
    if not networks:
        return Gram(a[0], w[0])
    shape = (*s.shape, *networks, n, n2)
    return Gram(*(part.movedim(0, s.dim()).reshape(shape) for part in (a, w)))


def _inner_products(sums: GramSums, x: Tensor, x2: Tensor | None) -> dict[str, Tensor]:
    """What the GPU's GramEvaluation needs, by the library."""
    x, n = placed(x), x.shape[0]
    if x2 is None:
        return {"inner": x @ x.mT, "linear": placed(sums.linear) @ x.mT, "cross": placed(sums.cross) @ x.mT}
    other = placed(x2)
    linear, cross = ((placed(part[:n]) @ other.mT).add_(x @ placed(part[n:]).mT) for part in (sums.linear, sums.cross))
    return {"inner": x @ other.mT, "linear": linear, "cross": cross}


def power_sum(left: Tensor, right: Tensor, base: Tensor) -> Tensor:
    """sum_k left[i, k] right[k, j] base[i, j]^k: left (n, terms), right (terms, n2), base (n, n2), float64."""
    left, right, base = (plain(tensor, "infinite_gram: x") for tensor in (left, right, base))
    result, device = torch.empty_like(base), base.get_device()
    (n, n2), terms = base.shape, left.shape[1]
    _C.power_sum(
        n=n,
        n2=n2,
        terms=terms,
        left=address(left, "infinite_gram: left", torch.float64, device, n * terms),
        right=address(right, "infinite_gram: right", torch.float64, device, terms * n2),
        base=address(base, "infinite_gram: base", torch.float64, device, n * n2),
        result=own(result),
        device=device,
    )
    return result
