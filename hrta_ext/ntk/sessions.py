"""The Gram builder on a GPU: which ways a call goes, one after the other, and their sessions (csrc/ntk/gram.h)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from hrta_ext.bases import BASES
from hrta_ext.compiled import _C, KINDS, address, own, plain
from hrta_ext.ntk import choice, levels, many_features
from hrta_ext.ntk.types import GramSums, Neurons, cross_columns

Report = Callable[[int], Any]
_LEAST_SCRATCH = 2**22  # bytes that a session of digits may take, whatever the budget


def gram_call(
    sums: GramSums, x: Tensor, neurons: Neurons, base: str, digits: int, scratch_bytes: int, kept: list[Tensor]
) -> Any:
    """A GramCall on x's device. What it points to besides the arguments is added to ``kept``."""
    dtype, weight, output_weight = torch.float32, None, None
    if neurons.output_weight is not None:
        output_weight = plain(neurons.output_weight, "gram: output_weight")
        kept.append(output_weight)
        dtype = output_weight.dtype
    if neurons.weight is not None:
        weight = plain(neurons.weight, "gram: weight")
        kept.append(weight)
    (n, features), device = x.shape, x.get_device()
    return _C.GramCall(
        base=BASES[base].number,
        digits=digits,
        n=n,
        n2=cross_columns(x, sums),
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
    report: Report | None,
) -> bool:
    """As ``native.add_to``: sessions of as many neurons as their integers hold."""
    if cross_columns(x, sums):
        return False  # the kernels' products are symmetric
    done = 0
    for part in neurons.stretches(choice.MOST_NEURONS):
        # The sums themselves hold the integers of a session.
        one = sums if part.count == neurons.count else GramSums(*(torch.zeros_like(total) for total in sums))
        told = done

        def tell(count: int, before: int = done) -> None:
            nonlocal told
            if report is not None:
                torch.cuda.current_stream(x.device).synchronize()  # launched is not done
                told = max(told, before + count)  # a second session begins again
                report(told)

        if not _add_part(one, x, part, base, high, scratch_bytes, step, tell):
            for total in sums:
                total.zero_()
            return False
        if one is not sums:
            for total, more in zip(sums, one, strict=True):
                total.add_(more)
        done += part.count
    return True


def serves(x: Tensor, width: int, base: str, high: bool, scratch_bytes: int) -> bool:
    """Whether these ways are open to a call on x's GPU, the bounds on their errors apart."""
    (n, features), device = x.shape, x.get_device()

    def session(digits: int, **more: Any) -> bool:
        call = _C.GramCall(base=BASES[base].number, digits=digits, n=n, D=features, m=width, total=float(width), **more)
        return bool((_C.gram_arcs_session if digits == 0 else _C.gram_session)(call, device) >= 0)

    if base == "relu" and features == 2 and session(0):
        return True
    if base == "relu" and not high:
        for bounds in (None, own(x)):
            tries = choice.digits_to_try(n, features, width, bounds is not None)
            room = bounds is None or scratch_bytes >= many_features.SCRATCH
            if tries and room and session(tries[-1], square_digits=3, bounds=bounds):
                return True
    return any(session(count) for count in levels.tries(base, high, n, features, width))


def _add_part(
    sums: GramSums,
    x: Tensor,
    neurons: Neurons,
    base: str,
    high: bool,
    scratch_bytes: int,
    step: int,
    report: Report,
) -> bool:
    """By arcs, by the fewest digits or levels whose bound is good enough; False where none is."""
    figures = None
    if base == "relu":
        if _by_arcs(sums, x, neurons, high, step, report):
            return True
        if not high:
            good, figures = _by_digits(sums, x, neurons, scratch_bytes, step, report)
            if good:
                return True
    return _by_levels(sums, x, neurons, base, high, figures, scratch_bytes, step, report)


def _by_arcs(sums: GramSums, x: Tensor, neurons: Neurons, high: bool, step: int, report: Report) -> bool:
    """ReLU and two features, in both classes; False where D is not 2 or n too large."""
    if x.shape[1] != 2:
        return False
    kept: list[Tensor] = []
    device = x.get_device()
    digits = _C.gram_digits(BASES["relu"].number, high, neurons.count)
    call = gram_call(sums, x, neurons, "relu", digits, 0, kept)
    call.total = float(neurons.count)
    size = _C.gram_arcs_session(call, device)
    if size < 0:
        return False
    scratch = torch.empty(size, dtype=torch.uint8, device=x.device)
    call.scratch = own(scratch)
    _C.gram_arcs_begin(call, device)
    _add_stretches(call, neurons, _stretch(neurons, step), _C.gram_arcs_add, device, report)
    _C.gram_arcs_end(call, device)
    return True


def _by_digits(
    sums: GramSums, x: Tensor, neurons: Neurons, scratch_bytes: int, step: int, report: Report
) -> tuple[bool, choice.Figures | None]:
    """ReLU in the float32 class: sessions until both matrices are of it; one that is keeps its product.

    Returns:
        Whether they are, and where they are not the last figures, if they are worth something to levels.
    """
    (n, features), width = x.shape, neurons.count
    asked = gram_call(sums, x, Neurons(width), "relu", 2, scratch_bytes, [])
    values = choice.digits_to_try(n, features, width)
    many = not values or _C.gram_session(asked, x.get_device()) < 0
    if many:  # z by the library and surveyed steps, where there is room
        values = choice.digits_to_try(n, features, width, True)
        asked.bounds = asked.x
        if not values or scratch_bytes < many_features.SCRATCH or _C.gram_session(asked, x.get_device()) < 0:
            return False, None
    tries = [values, choice.square_digits_to_try(n, features, width, neurons.output_weight)]
    bounds = many_features.bounds(x, neurons) if many else None
    products = sums.value_product, sums.slope_product
    good = [False, False]
    figures = None
    while all(done or left for done, left in zip(good, tries, strict=True)):
        digits = [0 if done else left.pop(0) for done, left in zip(good, tries, strict=True)]
        figures = _session(sums, x, neurons, "relu", (digits[0], digits[1]), bounds, scratch_bytes, step, report)
        found = (math.inf, math.inf) if figures is None else choice.errors(figures, digits[0], digits[1], width)
        if math.isinf(found[0]):  # no digits help
            break
        good = [done or error <= choice.LIMIT for done, error in zip(good, found, strict=True)]
        if all(good):
            return True, None
        for done, product in zip(good, products, strict=True):
            if not done:
                product.zero_()
    for total in sums:
        total.zero_()
    return False, None if many else figures


def _by_levels(
    sums: GramSums,
    x: Tensor,
    neurons: Neurons,
    base: str,
    high: bool,
    found: choice.Figures | None,
    scratch_bytes: int,
    step: int,
    report: Report,
) -> bool:
    """Sessions until the bound on the errors of one says that it is good enough; else False, and zeros.

    The figures of one that is not, ``found`` to begin with, say which of the other ways are worth a session.
    """
    n, features = x.shape
    for count in levels.tries(base, high, n, features, neurons.count):
        if found is not None and max(levels.errors(found, count, neurons.count, base)) > levels.limit(high):
            continue
        figures = _session(sums, x, neurons, base, (count, 0), None, scratch_bytes, step, report)
        if figures is None:
            continue
        if max(levels.errors(figures, count, neurons.count, base)) <= levels.limit(high):
            return True
        found = figures
        for total in sums:
            total.zero_()
    return False


def _session(
    sums: GramSums,
    x: Tensor,
    neurons: Neurons,
    base: str,
    digits: tuple[int, int],
    bounds: Tensor | None,
    scratch_bytes: int,
    step: int,
    report: Report,
) -> choice.Figures | None:
    """One session, for products of zeros: the figures of its sums; None where the kernels do not serve it.

    Args:
        digits: Of the values and of a^2, 0 where that product is there already; or levels, and 0.
        bounds: Of |z| (n,), where the library forms z.
    """
    kept: list[Tensor] = []
    device, stretch, there = x.get_device(), _stretch(neurons, step), neurons
    if bounds is not None:
        stretch, there = many_features.piece_of(*x.shape), replace(neurons, weight=None)
    call = gram_call(sums, x, there, base, digits[0], scratch_bytes, kept)
    call.square_digits, call.bounds = digits[1], own(bounds)
    call.m, call.total = min(neurons.count, stretch), float(neurons.count)
    size = _C.gram_session(call, device)
    if size < 0 or size > max(scratch_bytes, _LEAST_SCRATCH):
        return None
    scratch = torch.empty(size, dtype=torch.uint8, device=x.device)
    figures = torch.empty(_C.gram_figures(x.shape[0], device), choice.COLUMNS, dtype=torch.float64, device=x.device)
    call.scratch, call.figures = own(scratch), own(figures)
    _C.gram_begin(call, device)
    if bounds is None:
        _add_stretches(call, neurons, stretch, _C.gram_add, device, report)
    else:
        _add_pieces(call, sums, x, neurons, report)
    call.m = min(neurons.count, stretch)
    _C.gram_end(call, device)
    return choice.Figures.read(figures)


def _stretch(neurons: Neurons, step: int) -> int:
    """Neurons of a call: all of those in memory, or as many as are drawn between two reports."""
    return neurons.count if neurons.weight is not None else step


def _add_stretches(
    call: Any, neurons: Neurons, stretch: int, add: Callable[[Any, int], Any], device: int, report: Report
) -> None:
    """Neurons whose z the kernels form."""
    for begin in range(0, neurons.count, stretch):
        call.m = min(stretch, neurons.count - begin)
        call.neurons = _C.Neurons(
            dtype=call.neurons.dtype,
            weight=call.neurons.weight,
            output_weight=call.neurons.output_weight,
            seed=neurons.seed,
            first=neurons.first + begin,
        )
        add(call, device)
        report(begin + call.m)


def _add_pieces(call: Any, sums: GramSums, x: Tensor, neurons: Neurons, report: Report) -> None:
    """Neurons whose z, and what is linear in their weights, the library forms."""
    sums.linear.zero_()
    sums.cross.zero_()
    done = 0
    for piece, z in many_features.pieces(sums, x, neurons):
        kept: list[Tensor] = []
        call.neurons = gram_call(sums, x, piece, "relu", call.digits, call.scratch_bytes, kept).neurons
        call.m, call.z = piece.count, own(z)
        _C.gram_add(call, x.get_device())
        done += piece.count
        report(done)
