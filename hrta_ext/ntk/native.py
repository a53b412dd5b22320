"""The compiled Gram builder: addresses and sizes. Same functions as ``reference``.

On a GPU the builder is for ReLU in the float32 class (``add_to`` says where it does not serve); all else is for both.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from hrta_ext.bases import BASES
from hrta_ext.compiled import _C, KINDS, address, own, placed, plain
from hrta_ext.ntk import choice
from hrta_ext.ntk.types import Gram, GramSums, Neurons, sum_shapes

_FEW_NEURONS = 512  # too few for roundings to float to average out
_SMALL = 2**15  # pairs of sample and neuron up to which arcs cost more than they save


def serves(x: Tensor) -> bool:
    """Whether these kernels take x, of a device and dtype that the binary serves."""
    return x.is_cpu or x.is_cuda


def least_scratch(n_samples: int, n_features: int, width: int, base: str, high: bool) -> int:
    """Bytes of scratch that the builder needs on the CPU; on a GPU it needs less than the torch backend."""
    return _C.gram_least_scratch(BASES[base].number, high, n_samples, n_features, width)


def random_weights(seed: int, first: int, count: int, n_features: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Weights (count, D) and output weights (count,) of the drawn neurons, float32."""
    weight = torch.empty(count, n_features, dtype=torch.float32, device=device)
    output_weight = torch.empty(count, dtype=torch.float32, device=device)
    _C.random_weights(seed, first, count, n_features, own(weight), own(output_weight), weight.get_device())
    return weight, output_weight


def _call(
    sums: GramSums, x: Tensor, neurons: Neurons, base: str, digits: int, scratch_bytes: int, kept: list[Tensor]
) -> Any:
    """A GramCall on x's device. What it points to besides the arguments is added to ``kept``."""
    dtype, weight, output_weight = torch.float32, None, None
    if neurons.weight is not None and neurons.output_weight is not None:
        weight = plain(neurons.weight, "gram: weight")
        output_weight = plain(neurons.output_weight, "gram: output_weight")
        kept += [weight, output_weight]
        dtype = weight.dtype
    (n, features), device = x.shape, x.get_device()
    return _C.GramCall(
        base=BASES[base].number,
        digits=digits,
        n=n,
        D=features,
        m=neurons.count,
        x=address(x, "gram: x", torch.float64, device, n * features),
        neurons=_C.Neurons(
            dtype=KINDS[dtype],
            weight=address(weight, "gram: weight", dtype, device, neurons.count * features),
            output_weight=address(output_weight, "gram: output_weight", dtype, device, neurons.count),
            seed=neurons.seed,
            first=neurons.first,
        ),
        scratch_bytes=scratch_bytes,
        sums=_C.GramSums(**{name: own(part) for name, part in zip(sums._fields, sums, strict=True)}),
    )


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
    """Add all neurons to sums of zeros (upper triangles of the products). x (n, D) float64.

    Args:
        step: Neurons between two reports of how many are done.
    Returns:
        False where these kernels do not serve the call, or not to its class of accuracy: the sums are zeros then.
    """
    if x.is_cuda:
        return base == "relu" and not high and _sessions(sums, x, neurons, scratch_bytes, step, report)
    done = 0
    for stretch in neurons.stretches(step):
        kept: list[Tensor] = []
        digits = _C.gram_digits(BASES[base].number, high, stretch.count)
        if not _C.gram_sums(_call(sums, x, stretch, base, digits, scratch_bytes, kept)):
            for tensor in sums:
                tensor.fill_(torch.nan)
        done += stretch.count
        if report is not None:
            report(done)
    return True


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


def has_sessions(x: Tensor, width: int, base: str, high: bool) -> bool:
    """Whether ``add_to`` goes by kernels of this package on x's GPU, the bound on their errors apart."""
    if base != "relu" or high:
        return False
    n, features = x.shape
    for digits in choice.digits_to_try(n, features, width):
        call = _C.GramCall(base=BASES[base].number, digits=digits, n=n, D=features, m=width, total=float(width))
        if _C.gram_session(call, x.get_device()) >= 0:
            return True
    return False


def _sessions(
    sums: GramSums,
    x: Tensor,
    neurons: Neurons,
    scratch_bytes: int,
    step: int,
    report: Callable[[int], Any] | None,
) -> bool:
    """On the GPU: sessions of as many neurons as its integers hold, each with the fewest digits that do it."""
    done = 0
    for part in neurons.stretches(choice.MOST_NEURONS):
        # The sums themselves hold the integers of a session.
        one = sums if part.count == neurons.count else GramSums(*(torch.zeros_like(total) for total in sums))
        before = done

        def tell(count: int, before: int = before) -> None:
            if report is not None:
                torch.cuda.current_stream(x.device).synchronize()  # launched is not done
                report(before + count)

        tries = choice.digits_to_try(x.shape[0], x.shape[1], part.count)
        if not any(_session(one, x, part, digits, scratch_bytes, step, tell) for digits in tries):
            for total in sums:
                total.zero_()
            return False
        if one is not sums:
            for total, more in zip(sums, one, strict=True):
                total.add_(more)
        done += part.count
    return True


def _session(
    sums: GramSums,
    x: Tensor,
    neurons: Neurons,
    digits: int,
    scratch_bytes: int,
    step: int,
    report: Callable[[int], Any],
) -> bool:
    """One session, on sums of zeros; False, and zeros again, where the bound on its errors exceeds the class."""
    kept: list[Tensor] = []
    device = x.get_device()
    stretch = neurons.count if neurons.weight is not None else step
    call = _call(sums, x, neurons, "relu", digits, scratch_bytes, kept)
    call.m, call.total = min(neurons.count, stretch), float(neurons.count)
    size = _C.gram_session(call, device)
    if size < 0:
        return False
    scratch = torch.empty(size, dtype=torch.uint8, device=x.device)
    figures = torch.empty(_C.gram_figures(x.shape[0], device), 16, dtype=torch.float64, device=x.device)
    call.scratch, call.figures = own(scratch), own(figures)
    _C.gram_begin(call, device)
    for begin in range(0, neurons.count, stretch):
        call.m = min(stretch, neurons.count - begin)
        call.neurons = _C.Neurons(
            dtype=call.neurons.dtype,
            weight=call.neurons.weight,
            output_weight=call.neurons.output_weight,
            seed=neurons.seed,
            first=neurons.first + begin,
        )
        _C.gram_add(call, device)
        report(begin + call.m)
    call.m = min(neurons.count, stretch)
    _C.gram_end(call, device)
    found = choice.errors(choice.Figures.read(figures), digits, neurons.count)
    if max(found) <= choice.LIMIT:
        return True
    for total in sums:
        total.zero_()
    return False


def evaluate(x: Tensor, sums: GramSums, width: int, s: Tensor, derivative: bool, dtype: torch.dtype) -> Gram:
    """Both matrices, or their derivatives in s, at s () or (S,): (..., n, n) or (S, ..., n, n), exactly symmetric."""
    n, networks = x.shape[0], sums.square_sum.shape[:-1]
    count = networks.numel()
    device = x.get_device()
    a, w = (torch.empty(count, *s.shape, n, n, dtype=dtype, device=x.device) for _ in range(2))
    x = placed(x)
    s, inner = plain(s.to(x.device), "gram: s"), x @ x.mT
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
            s=address(s, "gram: s", torch.float64, device, s.numel()),
            inner=own(inner),
            linear=own(linear),
            cross=own(cross),
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
    shape = (*s.shape, *networks, n, n)
    return Gram(*(part.movedim(0, s.dim()).reshape(shape) for part in (a, w)))


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
