"""Gram matrices of wide two-layer networks: the whole homotopy path from one pass over the neurons.

Both matrices are quadratic in s (docs/theory.md 3.1), so a pass collects six sums, and any s, derivative or spectrum
follows from them (path.py). ``native`` and ``reference`` collect the sums.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hrta_ext.backends import serve
from hrta_ext.bases import get_base
from hrta_ext.callers import aligned
from hrta_ext.compiled import require_memory
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
from hrta_ext.ntk import native, reference, sessions
from hrta_ext.ntk.path import GramPath
from hrta_ext.ntk.types import Drawn, Gram, GramSums, Neurons, sum_shapes

# --- building ---------------------------------------------------------------------------------------------------------


class _Samples:
    """Checked samples in float64: ``x`` (n, D), ``x2`` (n2, D) of cross-kernels or None, and ``every`` one of both."""

    def __init__(self, x: Tensor, x2: Tensor | None) -> None:
        self.x = aligned(x.detach().resolve_neg().double())
        self.x2 = None if x2 is None else aligned(x2.detach().resolve_neg().double())
        self.every = self.x if self.x2 is None else torch.cat([self.x, self.x2])
        self.n2 = 0 if self.x2 is None else self.x2.shape[0]
        self.pairs = self.x.shape[0] * (self.x.shape[0] if self.x2 is None else self.n2)

    def zero_sums(self, leading: tuple[int, ...]) -> GramSums:
        shapes = sum_shapes(self.x, self.x2)
        return GramSums(*(torch.zeros(*leading, *shape, dtype=torch.float64, device=self.x.device) for shape in shapes))


def _least_scratch(builder: Any, x: Tensor, x2: Tensor | None, width: int, base: str, high: bool) -> int:
    n, n2 = x.shape[0], 0 if x2 is None else x2.shape[0]
    if n == 0 or (x2 is not None and n2 == 0):
        return 0
    return int(builder.least_scratch(n + n2, n2, x.shape[1], width, base, high))


def _builders(x: Tensor, base: str) -> list[Any]:
    """Who builds, the first that serves the call to its class: on a GPU the kernels hand much to the libraries."""
    builder = serve(native, reference, x, base)
    return [builder, reference] if x.is_cuda and builder is native else [builder]


def gram_path(
    x: Tensor,
    weight: Tensor,
    output_weight: Tensor,
    *,
    x2: Tensor | None = None,
    base: str = "relu",
    dtype: torch.dtype | None = None,
    memory_budget: int | None = None,
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
        memory_budget: Bytes of scratch memory beside the sums (16 n^2 or 16 n n2 bytes per network); default 256 MiB.
            Scratch does not grow with m.
    Raises:
        TypeError, ValueError: Wrong shapes, dtypes, devices; x or x2 not finite (the message names the row); width 0; a
            budget below the least that works (the message says how much). A weight that is not finite gives NaN.

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
    return _path(_checked(x, weight, output_weight, x2, base, dtype, memory_budget, "gram_path"))


class _Problem(NamedTuple):
    """Checked arguments."""

    x: Tensor
    x2: Tensor | None
    weight: Tensor
    output_weight: Tensor
    base: str
    dtype: torch.dtype
    builders: list[Any]
    budget: int


def _checked(
    x: Tensor,
    weight: Tensor,
    output_weight: Tensor,
    x2: Tensor | None,
    base: str,
    dtype: torch.dtype | None,
    memory_budget: int | None,
    function: str,
) -> _Problem:
    get_base(base)
    x = check_samples(x, function).detach().resolve_neg()
    x2 = check_second_samples(x2, x, function)
    check_weights(function, x, weight, output_weight)
    for name, tensor in (("weight", weight), ("output_weight", output_weight)):
        require_memory(tensor, f"{function}: {name}")
    weight, output_weight = weight.detach().resolve_neg(), output_weight.detach().resolve_neg()
    result = check_result_dtype(dtype, x, function)
    builders = _builders(x, base)
    least = _least_scratch(builders[-1], x, x2, weight.shape[-2], base, result == torch.float64)
    budget = check_budget(memory_budget, least, function)
    return _Problem(x, x2, weight, output_weight, base, result, builders, budget)


def _path(problem: _Problem) -> GramPath:
    x, x2, weight, output_weight, base, result, builders, budget = problem
    samples = _Samples(x, x2)
    high, features = result == torch.float64, x.shape[1]
    networks, width = weight.shape[:-2], weight.shape[-2]
    sums = samples.zero_sums((1, *networks))
    for network in range(networks.numel() if samples.pairs else 0):
        if networks:
            one = GramSums(*(value.flatten(0, len(networks))[network] for value in sums))
            w, a = weight.reshape(-1, width, features)[network], output_weight.reshape(-1, width)[network]
        else:  # the views of a general case would cost a tenth of a small matrix's time
            one, w, a = GramSums(*(value[0] for value in sums)), weight, output_weight
        for builder in builders:
            if builder.add_to(one, samples.every, Neurons(width, w, a), base, high, budget, width, None):
                break
    return GramPath(samples.x, base, result, (width,), sums, samples.x2)


def _direct(problem: _Problem, s: float) -> Gram | None:
    """Both matrices of one network at one s without the sums, by the first builder that has a way for it."""
    x, _, weight, output_weight, base, result, builders, budget = problem
    if weight.dim() != 2 or x.shape[0] == 0:
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
    problem = _checked(x, weight, output_weight, x2, base, dtype, memory_budget, "gram")
    found = None if values.dim() or x2 is not None else _direct(problem, float(values))
    return _path(problem)._evaluate(values, dtype=problem.dtype) if found is None else found


# --- drawn weights ----------------------------------------------------------------------------------------------------


def _stretch(samples: _Samples, cheap: bool) -> int:
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
        progress: True for a tqdm bar, or a function called with (neurons done, width) about ten times a second or more.
    Raises:
        TypeError, ValueError: As :func:`gram_path`; width not in 1 .. 2^48.

    Example:
        >>> import torch, hrta_ext as hx
        >>> x = hx.with_bias(torch.linspace(0, 1, 4, dtype=torch.float64)[:, None])
        >>> path = hx.random_gram_path(x, 100_000)
        >>> error = (path(1.0).ntk - hx.infinite_gram(x).ntk).abs() / path.standard_error(1.0).ntk
        >>> bool((error < 5).all())
        True
    """
    function = "random_gram_path"
    get_base(base)
    x = check_samples(x, function)
    x2 = check_second_samples(x2, x, function)
    check_draw(seed, first_neuron, width, "width", function)
    if width < 1:
        raise ValueError(f"{function}: width must be at least 1, got {width}")
    samples = _Samples(x, x2)
    if batches is None:
        batches = 16 if samples.pairs <= 512**2 else 8 if samples.pairs <= 1024**2 else 1
    batches = min(check_integer(batches, f"{function}: batches"), width)
    result = check_result_dtype(dtype, x, function)
    builders, high = _builders(x, base), result == torch.float64
    budget = check_budget(memory_budget, _least_scratch(builders[-1], x, x2, 1, base, high), function)
    step = _stretch(samples, base == "relu" and x.shape[1] == 2)
    sums = samples.zero_sums((batches,))
    edges = [width * batch // batches for batch in range(batches + 1)]
    widths = tuple(edges[batch + 1] - edges[batch] for batch in range(batches))
    report, close = _reporter(progress, width)
    try:
        for batch in range(batches) if samples.pairs else ():
            one = GramSums(*(value[batch] for value in sums))
            neurons = Neurons(widths[batch], None, None, seed, first_neuron + edges[batch], builders[0].random_weights)
            told = None if report is None else partial(_told, report, edges[batch])
            for builder in builders:
                if builder.add_to(one, samples.every, neurons, base, high, budget, step, told):
                    break
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
