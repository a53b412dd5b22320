"""Both matrices at one s without the sums over neurons: class, signs, what is refused, bits, settings of matmuls."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from cases import BASES
from ntk.cases import CLASSES, dense, problem, relative_error
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import hrta_ext as hx
from hrta_ext.ntk import native, reference

needs_kernels = pytest.mark.skipif(not hx.backends()["cpp"], reason="backend cpp is not usable here")


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each call that asked for the direct way got its matrices by it."""
    answers: list[bool] = []
    whole = native.direct

    def direct(*arguments: Any) -> hx.Gram | None:
        found = whole(*arguments)
        answers.append(found is not None)
        return found

    monkeypatch.setattr(native, "direct", direct)
    return answers


def check(tensors: tuple[Tensor, Tensor, Tensor], s: float, base: str = "relu") -> None:
    found = hx.gram(*tensors, s, base=base)
    for got, true in zip(found, dense(*tensors, s, base), strict=True):
        assert got.dtype == torch.float32
        assert torch.equal(got, got.mT)
        assert relative_error(got, true) <= CLASSES[torch.float32], (base, s)


# Around groups of 16 samples, runs of 48 neurons, panels and blocks of 192, chains of 64 and slabs of 256 features.
SHAPES = [
    (1, 600, 1),
    (8, 513, 63),
    (17, 1000, 64),
    (47, 777, 65),
    (100, 1003, 3),
    (191, 576, 5),
    (193, 579, 257),
    (250, 1000, 17),
]


@needs_kernels
@pytest.mark.parametrize("base", BASES)
def test_class(base: str, served: list[bool]) -> None:
    for index, (n, m, d) in enumerate(SHAPES):
        check(problem(n, m, d, seed=index, dtype=torch.float32), (0.0, 0.5, 1.0, 1.5)[index % 4], base)
    assert sum(served) >= len(SHAPES) - 2


@needs_kernels
def test_signs_near_zero_are_those_of_float64(served: list[bool]) -> None:
    """Weights nearly perpendicular to the samples: float32 sums over the features would take either sign."""
    x, weight, output_weight = problem(40, 600, 300, dtype=torch.float32)
    one = x[7].double()
    across = weight[:200].double() - torch.outer(weight[:200].double() @ one / (one @ one), one)
    weight[:200] = across.float()  # z is what this rounding leaves, some 1e-8
    output_weight[:200] *= 30.0
    z = x.double() @ weight.double().mT
    assert float(z[7, :200].abs().max()) < 1e-6
    check((x, weight, output_weight), 1.0)
    assert served == [True]


@needs_kernels
@pytest.mark.parametrize("base", ["tanh", "erf", "gelu", "silu", "softplus"])
@pytest.mark.parametrize("size", [12.0, 40.0])
def test_many_features(base: str, size: float, served: list[bool]) -> None:
    """Few |z| are small enough for sigma_s to curve, and float32 leaves few digits of what many features add up to."""
    x, weight, output_weight = problem(33, 600, 700, dtype=torch.float32)
    if base != "softplus":  # see below
        x[5] = 0.0
    for s in (0.7, 1.0, 1.5):
        check((size * x, weight, output_weight), s, base)
    assert served == [True] * 3


@needs_kernels
@pytest.mark.parametrize("features", [3, 100])
def test_softplus_that_is_nearly_constant_goes_by_the_sums(features: int, served: list[bool]) -> None:
    """softplus(z) near log 2 for every neuron: the roundings of float products have one sign and are not averaged."""
    x, weight, output_weight = problem(33, 600, features, dtype=torch.float32)
    x[5] = 0.0
    check((x, weight, output_weight), 0.7, "softplus")
    assert served == [False]


@needs_kernels
def test_zero_samples_neurons_and_ties(served: list[bool]) -> None:
    """sigma'(0) = 0; sums of small integers are exact."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(-2, 3, (30, 6), generator=generator).float()
    weight = torch.randint(-2, 3, (700, 6), generator=generator).float()
    x[3], weight[5:9] = 0.0, 0.0
    check((x, weight, torch.randint(-3, 4, (700,), generator=generator).float()), 1.0)
    assert served == [True]


REFUSED = ["cancelling features", "huge weights", "tiny weights", "sigma_s nearly zero", "steep sine", "few neurons"]


@needs_kernels
@pytest.mark.parametrize("kind", REFUSED)
def test_what_float32_does_not_keep_to_its_class_goes_by_the_sums(kind: str, served: list[bool]) -> None:
    x, weight, output_weight = problem(20, 100 if kind == "few neurons" else 700, 40, dtype=torch.float32)
    base, s = "relu", 1.5
    if kind == "cancelling features":  # z is a thousandth of what is added up
        x = 1000.0 + x
        weight = weight - weight.mean(1, keepdim=True)
    elif kind == "huge weights":
        weight *= 1e16
    elif kind == "tiny weights":
        weight *= 1e-16
    elif kind == "sigma_s nearly zero":
        x, base, s = 1e-3 * x, "gelu", 2.0
    elif kind == "steep sine":
        x, base = 1e3 * x, "sin"
    check((x, weight, output_weight), s, base)
    assert served == [False]


@needs_kernels
@pytest.mark.parametrize(
    "kind", ["tanh beside a large sample", "gelu on a weak feature", "one output weight", "equal neurons"]
)
def test_one_sample_or_neuron_may_dominate(kind: str) -> None:
    """The bound is asked of every sample: a mean over them hides the one that the matrix is made of."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    base, s = kind.split()[0] if "large" in kind or "weak" in kind else "sin", 1.0
    x, weight, output_weight = normal(60, 64), normal(1024, 64), torch.ones(1024)
    if "large" in kind:
        x *= 0.15
        x[0] = 37.0 * normal(64)
    elif "weak" in kind:
        x, weight, output_weight, s = normal(50, 10), normal(1000, 10), normal(1000), 2.0
        x[:, 0], x[0], weight[:, 0] = 0.0, 0.0, 1e-7 * weight[:, 0]
        x[0, 0] = 1e4
    elif "output" in kind:
        output_weight[0] = 1e4
    else:
        weight = weight[:1].repeat(1024, 1)
    check((x, weight, output_weight), s, base)


@needs_kernels
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("place", ["weight", "output_weight"])
def test_a_weight_that_is_not_finite_gives_nan(place: str, bad: float) -> None:
    x, weight, output_weight = problem(5, 700, 3, dtype=torch.float32)
    (weight[650, 1:2] if place == "weight" else output_weight[650:651])[0] = bad
    for base in ("relu", "tanh"):
        for part in hx.gram(x, weight, output_weight, 0.5, base=base):
            assert part.isnan().all()


@needs_kernels
@pytest.mark.parametrize("n", [20, 200])
def test_same_bits_for_any_budget_threads_and_place(n: int, served: list[bool]) -> None:
    tensors = problem(n, 2000, 70, dtype=torch.float32)
    first = hx.gram(*tensors, 0.5, base="tanh")
    moved = [torch.cat([t.new_zeros(3), t.flatten()])[3:].view(t.shape) for t in tensors]
    threads = torch.get_num_threads()
    for count, budget in ((1, None), (3, 1 << 25)):
        torch.set_num_threads(count)
        try:
            results = [hx.gram(*these, 0.5, base="tanh", memory_budget=budget) for these in (tensors, moved)]
        finally:
            torch.set_num_threads(threads)
        for result in results:
            assert torch.equal(result.a, first.a)
            assert torch.equal(result.w, first.w)
    assert all(served)


LEVEL_CODE = """
import sys; sys.path.insert(0, "tests")
import torch, hrta_ext as hx
from ntk.test_direct import SHAPES
from ntk.cases import problem
grams = [tuple(hx.gram(*problem(*shape, dtype=torch.float32), 0.5, base=base))
         for shape in SHAPES for base in ("relu", "gelu")]
torch.save((hx.build_info()["simd"], grams), sys.argv[1])
"""


@needs_kernels
@pytest.mark.parametrize("level", ["baseline", "avx512"])
def test_every_simd_level(level: str, tmp_path: Path) -> None:
    """The loops of the other levels, and vectors where this processor has matrix tiles."""
    done = subprocess.run(
        [sys.executable, "-c", LEVEL_CODE, str(tmp_path / "out.pt")],
        env=os.environ | {"HRTA_EXT_SIMD": level, "HRTA_EXT_BACKEND": "cpp"},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    used, grams = torch.load(tmp_path / "out.pt")
    if used != level:
        pytest.skip(f"this processor runs {used} at most")
    found = iter(grams)
    for shape in SHAPES:
        for base in ("relu", "gelu"):
            for got, true in zip(next(found), dense(*problem(*shape, dtype=torch.float32), 0.5, base), strict=True):
                assert relative_error(got, true) <= 1e-6


# --- library matmuls --------------------------------------------------------------------------------------------------


class _NoFloat32Products(TorchDispatchMode):
    """Raises where a matrix product has float32 operands, which settings may round to TF32 or bfloat16."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(name in str(func) for name in ("mm", "bmm", "addmv", "mv", "dot", "linear.default")):
            assert all(a.dtype == torch.float64 for a in args if isinstance(a, Tensor)), func
        return func(*args, **(kwargs or {}))


@pytest.fixture
def reduced_precision() -> Iterator[None]:
    """Every setting that lets matrix products of float32 be less."""
    before = torch.get_float32_matmul_precision(), torch.backends.cuda.matmul.allow_tf32
    torch.set_float32_matmul_precision("medium")
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before[1]
        torch.set_float32_matmul_precision(before[0])


@pytest.mark.parametrize("base", ["relu", "gelu"])
@pytest.mark.parametrize("backend", ["torch", "cpp"])
def test_no_setting_of_matmuls_touches_the_class(backend: str, base: str, reduced_precision: None) -> None:
    if not hx.backends()[backend]:
        pytest.skip(f"backend {backend} is not usable here")
    tensors = problem(60, 5000, 9, dtype=torch.float32)
    with hx.use_backend(backend), _NoFloat32Products():
        found = hx.gram(*tensors, 1.5, base=base), hx.gram_path(*tensors, base=base)(1.5)
    for result in found:
        for got, true in zip(result, dense(*tensors, 1.5, base), strict=True):
            assert relative_error(got, true) <= 1e-6


@pytest.mark.parametrize(("n", "m", "d"), [(40, 6000, 3), (520, 3500, 7), (30, 2200, 200)])
def test_a_gpus_chunks_give_the_same_bits_for_any_budget(
    n: int, m: int, d: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Matmuls are cut by shapes alone; what the budget cuts is elementwise, or memory. Here on the CPU."""
    cut, cuts = reference._cut, []

    def as_on_a_gpu(x: Tensor, scratch_bytes: int) -> Any:
        cuts.append(cut(SimpleNamespace(shape=x.shape, is_cuda=True), scratch_bytes))  # type: ignore[arg-type]
        return cuts[-1]

    monkeypatch.setattr(reference, "_cut", as_on_a_gpu)
    tensors = problem(n, m, d, dtype=torch.float32)
    least = reference.least_scratch(n, 0, d, m, "gelu", False)
    results = []
    with hx.use_backend("torch"):
        for budget in (least, least + 1_000_000, 3 * least, None):
            path = hx.gram_path(*tensors, base="gelu", memory_budget=budget)
            one = hx.gram(*tensors, 0.7, base="gelu", memory_budget=budget)
            results.append((*path.sums, *one))
    for result in results[1:]:
        for part, first in zip(result, results[0], strict=True):
            assert torch.equal(part, first)
    assert len({one.product for one in cuts}) == 1 < len({one.evaluation for one in cuts})
    for got, true in zip(results[0][-2:], dense(*tensors, 0.7, "gelu"), strict=True):
        assert relative_error(got, true) <= 1e-6


@needs_kernels
@pytest.mark.parametrize("base", ["tanh", "gelu"])
def test_denormal_tails_are_zero_in_the_sums_alone(base: str) -> None:
    """Kernels that sum over neurons flush denormal numbers; what their threads compute afterwards still has them."""
    x, weight, output_weight = problem(40, 500, 128, dtype=torch.float32)
    tensors = 16.0 * x, weight, output_weight  # |z| up to 60: slopes down to exp(-120)
    tiny = torch.full((1 << 20,), 2.0**-130)
    check(tensors, 0.7, base)
    hx.gram_path(*tensors, base=base)(0.7)
    hx.two_layer(*tensors, 0.7, base=base)
    assert torch.equal(tiny * 0.5, torch.full_like(tiny, 2.0**-131))
