"""Gram matrices of wide two-layer networks: the whole homotopy path from one pass over the neurons.

Both matrices are quadratic in s (docs/theory.md 3.1), so a pass collects six sums, and any s, derivative or spectrum
follows from them (path.py). ``native`` and ``reference`` collect the sums.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hrta_ext.bases import get_base
from hrta_ext.compiled import require_memory
from hrta_ext.groups import Facts, Ranks, digest, ranks_of
from hrta_ext.inputs import (
    Parameters,
    check_budget,
    check_draw,
    check_flag,
    check_integer,
    check_result_dtype,
    check_samples,
    check_second_samples,
    check_weights,
    parameter_values,
)
from hrta_ext.ntk import sessions
from hrta_ext.ntk.building import Building, Samples, builders_for, each_batch, least_scratch
from hrta_ext.ntk.path import GramPath
from hrta_ext.ntk.sharing import add_drawn, add_held, edges_of
from hrta_ext.ntk.types import Drawn, Gram, GramSums, Neurons

_FEW, _FEW_FOR_ARCS = 2**18, 2**24  # neurons in memory that are added up as one


def gram_path(
    x: Tensor,
    weight: Tensor,
    output_weight: Tensor,
    *,
    x2: Tensor | None = None,
    base: str = "relu",
    dtype: torch.dtype | None = None,
    memory_budget: int | None = None,
    group: Any = None,
) -> GramPath:
    """One pass over the neurons, then G^[a] and G^[w] at any s.

    Cost: two symmetric products, n^2 m multiplications together, whatever the number of s values; for ReLU and D = 2
    (one feature and a bias) O(m + n^2). The sums of the compiled kernels have the same bits on every call, for any
    number of threads and any memory budget; those of the torch backend for any budget, at one number of threads.

    Args:
        x: Samples, (n, D), the bias column included where there is one (:func:`with_bias`); float32 or float64.
        weight: First-layer weights, (..., m, D); leading dimensions are networks of their own.
        output_weight: (..., m).
        x2: Samples (n2, D) of the columns of cross-kernels (n, n2); default: x, and symmetric matrices (n, n).
        base: Base activation.
        dtype: Type of the results and class of accuracy: relative Frobenius error at most 1e-6 for float32, 1e-13 for
            float64, against the formula in float64, at any width (docs/kernels.md: where terms cancel; the error of
            cross-kernels K(x, x2) is relative to |K(x, x)|^(1/2) |K(x2, x2)|^(1/2)). Default: x's.
        memory_budget: Bytes of scratch memory beside the sums (16 n^2 or 16 n n2 bytes per network; twice that on the
            CPU from 2^18 neurons on, up to n = 1024); default 256 MiB. Scratch does not grow with m.
        group: A ``torch.distributed`` process group, "world" for all processes, or None for this process alone. The
            weights are this rank's neurons, in the order of the ranks, perhaps none of them; every rank has the same x
            and returns the whole path (docs/distributed.md says with which bits).
    Raises:
        TypeError, ValueError: Wrong shapes, dtypes, devices; x or x2 not finite (the message names the row); width 0; a
            budget below the least that works (the message says how much); arguments that differ between ranks. A
            weight that is not finite gives NaN.
        RankError: Another rank of the group raised an error, which the message tells.

    Example:
        >>> import torch, hrta_ext as hx
        >>> x = hx.with_bias(torch.linspace(0, 1, 4, dtype=torch.float64)[:, None])
        >>> weight, output_weight = hx.random_weights(0, 1000, 2, dtype=torch.float64)
        >>> path = hx.gram_path(x, weight, output_weight)
        >>> path([0.5, 1.0, 1.5]).ntk.shape
        torch.Size([3, 4, 4])
        >>> hx.gram_path(x[:3], weight, output_weight, x2=x)(0.5).ntk.shape
        torch.Size([3, 4])
    """
    problem = _checked("gram_path", x, weight, output_weight, x2, base, dtype, memory_budget, group)
    return _path(problem)


class _Problem(NamedTuple):
    """Checked arguments."""

    function: str
    x: Tensor
    x2: Tensor | None
    weight: Tensor
    output_weight: Tensor
    dtype: torch.dtype
    base: str
    builders: list[Any]
    budget: int
    ranks: Ranks | None
    counts: list[int]  # neurons of every rank


def _checked(
    function: str,
    x: Tensor,
    weight: Tensor,
    output_weight: Tensor,
    x2: Tensor | None,
    base: str,
    dtype: torch.dtype | None,
    memory_budget: int | None,
    group: Any,
    s: Tensor | None = None,
) -> _Problem:
    ranks = ranks_of(group, function)
    with nullcontext(Facts()) if ranks is None else ranks.together(function) as facts:
        get_base(base)
        x = check_samples(x, function).detach().resolve_neg()
        x2 = check_second_samples(x2, x, function)
        check_weights(function, x, weight, output_weight, least=0 if ranks else 1)
        for name, tensor in (("weight", weight), ("output_weight", output_weight)):
            require_memory(tensor, f"{function}: {name}")
        weight, output_weight = weight.detach().resolve_neg(), output_weight.detach().resolve_neg()
        result = check_result_dtype(dtype, x, function)
        builders, facts.count = builders_for(x, base), weight.shape[-2]
        least = least_scratch(builders[-1], x, x2, max(facts.count, 1), base, result == torch.float64)
        budget = check_budget(memory_budget, least, function)
        if ranks is not None:
            facts |= _alike(x, x2, base, result, builders)
            facts |= {"networks": tuple(weight.shape[:-2]), "s": None if s is None else s.tolist()}
    counts = [weight.shape[-2]] if ranks is None else facts.counts
    if sum(counts) == 0:
        raise ValueError(f"{function}: weight must hold at least one neuron on one of the {len(counts)} ranks")
    return _Problem(function, x, x2, weight, output_weight, result, base, builders, budget, ranks, counts)


def _alike(x: Tensor, x2: Tensor | None, base: str, result: torch.dtype, builders: list[Any]) -> dict[str, object]:
    """What every rank of a group must be given alike."""
    backend = builders[0].__name__.rpartition(".")[2]
    return {
        "x": digest(x),
        "x2": digest(x2),
        "base": base,
        "dtype": result,
        "device": x.device.type,
        "backend": backend,
    }


def _parts(samples: Samples, width: int, base: str) -> int:
    """Parts of neurons in memory whose sums are made by themselves, so that ranks can take them: by shapes alone."""
    few = _FEW_FOR_ARCS if base == "relu" and samples.x.shape[1] == 2 else _FEW
    return 1 if samples.x.is_cuda or width < few else samples.most_parts()


def _path(problem: _Problem) -> GramPath:
    samples = Samples(problem.x, problem.x2)
    weight, output_weight, base = problem.weight, problem.output_weight, problem.base
    building = Building(samples, base, problem.dtype == torch.float64, problem.builders, problem.budget)
    networks, here, width = weight.shape[:-2], weight.shape[-2], sum(problem.counts)
    sums, parts = samples.zero_sums((1, *networks)), _parts(samples, width, base)
    for network in range(networks.numel() if samples.pairs else 0):
        if networks:
            one = GramSums(*(value.flatten(0, len(networks))[network] for value in sums))
            w, a = weight.flatten(0, -3)[network], output_weight.flatten(0, -2)[network]
        else:  # the views of a general case would cost a tenth of a small matrix's time
            one, w, a = GramSums(*(value[0] for value in sums)), weight, output_weight
        neurons = Neurons(here, w, a)
        if problem.ranks is not None:
            add_held(building, one, neurons, parts, problem.ranks, problem.counts, problem.function)
        elif parts == 1:
            building.add(one, neurons, width)
        else:
            _add_parts(building, one, neurons, parts)
    return GramPath(samples.x, base, problem.dtype, (width,), sums, samples.x2)


def _add_parts(building: Building, sums: GramSums, neurons: Neurons, parts: int) -> None:
    scratch = building.samples.zero_sums()
    for begin, end in pairwise(edges_of(neurons.count, parts)):
        for value in scratch:
            value.zero_()
        building.add(scratch, neurons.part(begin, end), end - begin)
        for total, value in zip(sums, scratch, strict=True):
            total += value


def _direct(problem: _Problem, s: float) -> Gram | None:
    """Both matrices of one network at one s without the sums, by the first builder that has a way for it."""
    x, weight, output_weight = problem.x, problem.weight, problem.output_weight
    base, result, builders, budget = problem.base, problem.dtype, problem.builders, problem.budget
    if problem.ranks is not None or problem.x2 is not None or weight.dim() != 2 or x.shape[0] == 0:
        return None
    if x.is_cuda and len(builders) > 1 and sessions.serves(x, weight.shape[0], base, result == torch.float64, budget):
        return None  # the kernels' sums cost less than library products
    for builder in builders:
        found: Gram | None = builder.direct(x, weight, output_weight, base, s, result, budget)
        if found is not None:
            return found
    return None


def gram(
    x: Tensor,
    weight: Tensor,
    output_weight: Tensor,
    s: Parameters = 1.0,
    *,
    x2: Tensor | None = None,
    base: str = "relu",
    dtype: torch.dtype | None = None,
    memory_budget: int | None = None,
    group: Any = None,
) -> Gram:
    """The Gram matrices of a two-layer network of finite width (docs/theory.md, section 3).

    G^[a]_ij = (1/m) sum_k sigma_s(z_ik) sigma_s(z_jk),
    G^[w]_ij = (x_i . x_j) (1/m) sum_k a_k^2 sigma_s'(z_ik) sigma_s'(z_jk), with z_ik = w_k . x_i.

    Args:
        x: Samples, (n, D).
        weight: (..., m, D).
        output_weight: (..., m).
        s: One s, or a 1-D sequence or tensor of S values: all of them cost one pass (:func:`gram_path`). One alone
            costs less in the float32 class, and on a GPU; it agrees with a path at that s within the class.
        x2: Samples (n2, D) of the columns of cross-kernels, as in :func:`gram_path`; default: x.
        base: Base activation.
        dtype: As in :func:`gram_path`, like ``memory_budget``.
        memory_budget: Bytes of scratch memory beside the results and 16 n^2 bytes of sums; default 256 MiB.
        group: As in :func:`gram_path`: the weights are this rank's neurons, and the result has the bits of a path at s.
    Returns:
        ``Gram(a, w)``, each (..., n, n) for one s and (S, ..., n, n) for S values, exactly symmetric; (..., n, n2) with
        ``x2``. ``.ntk`` is their sum.
    Raises:
        TypeError, ValueError: As :func:`gram_path`; s not finite.

    Example:
        >>> import torch, hrta_ext as hx
        >>> net = hx.TwoLayerNet(1, 100, seed=0)
        >>> x = hx.with_bias(torch.linspace(0, 1, 4)[:, None])
        >>> hx.gram(x, net.weight, net.output_weight, s=0.5).ntk.shape
        torch.Size([4, 4])
    """
    wide = dtype == torch.float64 or (dtype is None and isinstance(x, Tensor) and x.dtype == torch.float64)
    values = parameter_values(s, "gram", torch.float64 if wide else torch.float32)
    problem = _checked("gram", x, weight, output_weight, x2, base, dtype, memory_budget, group, values)
    found = None if values.dim() else _direct(problem, float(values))
    return _path(problem)._evaluate(values, dtype=problem.dtype) if found is None else found


# --- drawn weights ----------------------------------------------------------------------------------------------------


def _stretch(samples: Samples, cheap: bool) -> int:
    """Neurons between two calls of ``progress``: a function of the problem and the device's kind alone."""
    # A narrow cross-kernel costs what its many samples do, not its few pairs.
    work = samples.pairs + (1024 if samples.x2 is None else 64 * samples.every.shape[0] + 1024)
    if samples.x.is_cuda:
        return 2**26 if cheap else min(max(2**40 // work // 8192 * 8192, 8192), 2**26)
    return 2**22 if cheap else min(max(2**31 // work // 8192 * 8192, 8192), 2**22)


def random_gram_path(
    x: Tensor,
    width: int,
    *,
    x2: Tensor | None = None,
    seed: int = 0,
    base: str = "relu",
    dtype: torch.dtype | None = None,
    first_neuron: int = 0,
    batches: int | None = None,
    memory_budget: int | None = None,
    progress: bool | Callable[[int, int], None] = False,
    group: Any = None,
) -> GramPath:
    """:func:`gram_path` of a network with weights and output weights N(0, 1) that are drawn on the fly.

    Nothing of size m is stored. Neuron k has the numbers of ``random_weights(first_neuron + k, 1, D, seed=seed)``, so
    stretches of one network computed anywhere add up: ``path(0, m) + path(m, m2)``.

    Args:
        x: Samples, (n, D).
        width: m, up to 2^48.
        x2: Samples (n2, D) of the columns of cross-kernels, as in :func:`gram_path`; default: x.
        seed: Seed of the weights.
        base: Base activation.
        dtype: Type of the results and class of accuracy, as in :func:`gram_path`.
        first_neuron: Number of the first neuron.
        batches: The sums are kept in that many batches of neurons, for error bars (16 n^2 or 16 n n2 bytes each).
            Default: 16 up to n = 512, 8 up to n = 1024, then 1; with ``x2`` by the number of entries, n n2.
        memory_budget: Bytes of scratch memory, as in :func:`gram_path`.
        progress: True for a tqdm bar, or a function called with (neurons done, width) about ten times a second or more;
            with ``group`` every two seconds, on rank 0 alone.
        group: A ``torch.distributed`` process group, "world" for all processes, or None for this process alone. The
            ranks share the work, all with the same arguments, and each returns the whole path: on processors of one
            kind the bits of one process, whatever the number of ranks. It is fastest where that divides ``batches``
            (docs/distributed.md).
    Raises:
        TypeError, ValueError: As :func:`gram_path`; width not in 1 .. 2^48.
        RankError: Another rank of the group raised an error, which the message tells.

    Example:
        >>> import torch, hrta_ext as hx
        >>> x = hx.with_bias(torch.linspace(0, 1, 4, dtype=torch.float64)[:, None])
        >>> path = hx.random_gram_path(x, 100_000)
        >>> error = (path(1.0).ntk - hx.infinite_gram(x).ntk).abs() / path.standard_error(1.0).ntk
        >>> bool((error < 5).all())
        True
    """
    function = "random_gram_path"
    ranks = ranks_of(group, function)
    with nullcontext(Facts()) if ranks is None else ranks.together(function) as facts:
        get_base(base)
        x = check_samples(x, function)
        x2 = check_second_samples(x2, x, function)
        check_draw(seed, first_neuron, width, "width", function)
        if width < 1:
            raise ValueError(f"{function}: width must be at least 1, got {width}")
        samples = Samples(x, x2)
        batches = samples.most_parts() if batches is None else batches
        batches = min(check_integer(batches, f"{function}: batches"), width)
        result = check_result_dtype(dtype, x, function)
        high, builders = result == torch.float64, builders_for(x, base)
        columns = x if x2 is None and ranks is not None else x2  # ranks may cut a symmetric matrix into others
        budget = check_budget(memory_budget, least_scratch(builders[-1], x, columns, 1, base, high), function)
        report, close = _reporter(progress if ranks is None or ranks.rank == 0 else False, width)
        if ranks is not None:
            facts |= _alike(x, x2, base, result, builders)
            facts |= {"width": width, "seed": seed, "first_neuron": first_neuron, "batches": batches}
    building = Building(samples, base, high, builders, budget)
    step = _stretch(samples, base == "relu" and x.shape[1] == 2)
    sums, edges = samples.zero_sums((batches,)), edges_of(width, batches)
    widths = tuple(end - begin for begin, end in pairwise(edges))
    draw = builders[0].random_weights
    parts = [Neurons(end - begin, None, None, seed, first_neuron + begin, draw) for begin, end in pairwise(edges)]
    try:
        if ranks is not None and samples.pairs:
            add_drawn(building, sums, parts, step, ranks, function, report)
        elif samples.pairs:
            for one, neurons, begin in zip(each_batch(sums), parts, edges[:-1], strict=True):
                building.add(one, neurons, step, None if report is None else partial(_told, report, begin))
    finally:
        close()
    return GramPath(samples.x, base, result, widths, sums, samples.x2, (Drawn(seed, first_neuron, width),))


def _told(report: Callable[[int], Any], before: int, done: int) -> None:
    report(before + done)


def _reporter(
    progress: bool | Callable[[int, int], None], width: int
) -> tuple[Callable[[int], Any] | None, Callable[[], Any]]:
    """What to call with the number of neurons done, if anybody wants to know, and when all is over."""
    if callable(progress):
        return lambda done: progress(done, width), lambda: None
    if not check_flag(progress, "random_gram_path: progress"):
        return None, lambda: None
    from tqdm import tqdm

    bar = tqdm(total=width, unit="neuron", unit_scale=True)
    return lambda done: bar.update(done - bar.n), bar.close
