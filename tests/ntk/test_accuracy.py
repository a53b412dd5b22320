"""Accuracy classes of the Gram builder: float32 1e-6, float64 1e-13, relative, against the dense float64 formula.

The builder adds up three terms, with factors (1 - s)^2, (1 - s) s and s^2. For s beyond [0, 1] they cancel, for bases
other than ReLU without limit: float64 results can then be no better than the rounding of the terms themselves,
1e-15 x (their norms), which is what is asked where that exceeds 1e-13. float32 results have digits in reserve.
"""

from __future__ import annotations

import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from cases import BASES, sigma, slope
from ntk.cases import CLASSES, VALUES, dense, problem, relative_error
from torch import Tensor

import hrta_ext as hx

SAMPLES = (1, 5, 100, 129, 257)
WIDTHS = (1, 33, 63, 64, 65, 513, 3001)
FEATURES = (1, 2, 3, 4, 5, 9, 17, 40)
ROUNDING = 1e-15  # of the terms, relative to their norms: a few float64 roundings
COUNT = 8  # shapes per base: over all bases every width meets every number of features


def _shape(base: str, index: int) -> tuple[int, int, int]:
    b = BASES.index(base)
    return SAMPLES[(index + 2 * b) % 5], WIDTHS[index % 7], FEATURES[(index + b) % 8]


@cache
def _exact(base: str, index: int, dtype: torch.dtype) -> tuple[hx.Gram, hx.Gram]:
    """Dense matrices at VALUES, and the sum (S,) of the Frobenius norms of the terms that are added up."""
    x, weight, output_weight = (t.double() for t in problem(*_shape(base, index), seed=index, dtype=dtype))
    z, m = x @ weight.mT, weight.shape[0]
    value, rise = sigma(z, base), slope(z, base) * output_weight
    cross = z @ value.mT
    rows = (rise * output_weight).sum(1)
    inner = x @ x.mT
    terms = (
        (z @ z.mT, cross + cross.mT, value @ value.mT),
        (inner * output_weight.square().sum(), inner * (rows[:, None] + rows), inner * (rise @ rise.mT)),
    )
    s = torch.tensor(VALUES, dtype=torch.float64)
    factors = ((1 - s) ** 2, ((1 - s) * s).abs(), s**2)
    sizes = (sum(f * term.norm() / m for f, term in zip(factors, part, strict=True)) for part in terms)
    return dense(x, weight, output_weight, VALUES, base), hx.Gram(*sizes)


@pytest.mark.parametrize("base", BASES)
def test_accuracy_class(base: str, device: torch.device) -> None:
    for index in range(COUNT):
        n, m, d = _shape(base, index)
        for dtype, tolerance in CLASSES.items():
            tensors = [tensor.to(device) for tensor in problem(n, m, d, seed=index, dtype=dtype)]
            result = hx.gram_path(*tensors, base=base)(VALUES)
            exact, size = _exact(base, index, dtype)
            for name in ("a", "w"):
                got, true = getattr(result, name).double().cpu(), getattr(exact, name)
                assert getattr(result, name).dtype == dtype
                for i, s in enumerate(VALUES):
                    allowed = max(tolerance * float(true[i].norm()), ROUNDING * float(getattr(size, name)[i]))
                    error = float((got[i] - true[i]).norm())
                    assert error <= allowed, (name, dtype, (n, m, d), s, error / float(true[i].norm()))


@pytest.mark.parametrize("base", ["relu", "tanh"])
def test_wide_network_keeps_its_accuracy(base: str, device: torch.device) -> None:
    """A float32 running sum over the width would lose a digit or two here (docs/theory.md, section 3.1)."""
    for dtype, tolerance in CLASSES.items():
        x, weight, output_weight = problem(40, 100_000, 3, dtype=dtype)
        tensors = [tensor.to(device) for tensor in (x, weight, output_weight)]
        for dtype_asked, bound in {dtype: tolerance, torch.float32: 1e-6}.items():
            result = hx.gram(*tensors, 0.5, base=base, dtype=dtype_asked)
            for got, true in zip(result, dense(x, weight, output_weight, 0.5, base), strict=True):
                assert got.dtype == dtype_asked
                assert relative_error(got, true) <= bound


@pytest.mark.parametrize("base", BASES)
def test_float64_results_of_float32_data(base: str, device: torch.device) -> None:
    """``dtype`` is the class of the result, whatever the data are."""
    tensors = problem(50, 129, 3, dtype=torch.float32)
    result = hx.gram(*(t.to(device) for t in tensors), 1.0, base=base, dtype=torch.float64)
    for got, true in zip(result, dense(*tensors, 1.0, base), strict=True):
        assert relative_error(got, true) <= 1e-13


BLOCKS = [(n, m) for n in (15, 16, 17, 31, 32, 33, 191, 192, 193, 385) for m in (511, 512, 513)]


@pytest.mark.parametrize("dtype", CLASSES)
def test_around_the_block_sizes(dtype: torch.dtype, device: torch.device) -> None:
    """Tiles of 32 samples, panels of 192, blocks of 512 neurons: one less, as many, one more."""
    for base, shapes in (("relu", BLOCKS), ("tanh", BLOCKS[::4])):
        for n, m in shapes:
            tensors = problem(n, m, 3, dtype=dtype)
            result = hx.gram(*(t.to(device) for t in tensors), 0.5, base=base)
            for got, true in zip(result, dense(*tensors, 0.5, base), strict=True):
                assert relative_error(got, true) <= CLASSES[dtype], (base, n, m)


@pytest.mark.parametrize(("base", "s"), [("relu2", 1.0), ("silu", 2.0), ("softplus", 2.0), ("gelu", 2.0), ("sin", 1.0)])
def test_float32_class_of_small_samples(base: str, s: float, device: torch.device) -> None:
    """Samples of norm 0.1: G^[a] or G^[w] is a few thousandths of what is added up."""
    x, weight, output_weight = problem(100, 3001, 3, dtype=torch.float32)
    tensors = (0.1 * x, weight, output_weight)
    result = hx.gram(*(t.to(device) for t in tensors), s, base=base)
    for got, true in zip(result, dense(*tensors, s, base), strict=True):
        assert relative_error(got, true) <= 1e-6


@pytest.mark.parametrize("dtype", CLASSES)
@pytest.mark.parametrize("d", [2, 4])
def test_one_neuron_and_one_sample_dominate(d: int, dtype: torch.dtype, device: torch.device) -> None:
    """The large neuron is inactive for the large sample: at s = 1 nothing of its size may be left over."""
    x, weight, output_weight = problem(60, 700, d, dtype=dtype)
    x[7] *= 1e6
    weight[11] *= 1e7
    if x[7] @ weight[11] > 0:
        weight[11] = -weight[11]
    tensors = (x, weight, output_weight)
    for s in (0.5, 1.0, 2.0):
        for got, true in zip(hx.gram(*(t.to(device) for t in tensors), s), dense(*tensors, s), strict=True):
            assert relative_error(got, true) <= CLASSES[dtype]


# --- ReLU with two features, where the compiled builder sorts the neurons by angle ------------------------------------


def _with_ties(d: int) -> tuple[Tensor, Tensor, Tensor]:
    """Small integers: many z = 0, duplicate, parallel and antiparallel samples, zero samples, zero weights."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randint(-3, 4, (60, d), generator=generator).double()
    weight = torch.randint(-3, 4, (700, d), generator=generator).double()
    output_weight = torch.randint(-3, 4, (700,), generator=generator).double()
    x[0], x[1], x[3], x[4], x[5] = 0, x[2], -x[2], 2 * x[2], -3 * x[2]
    weight[:3] = 0
    z = x @ weight.mT
    assert 0.02 < float((z == 0).double().mean()) < 0.5
    return x, weight, output_weight


@pytest.mark.parametrize("d", [1, 2, 3])
@pytest.mark.parametrize("dtype", CLASSES)
def test_ties(d: int, dtype: torch.dtype, device: torch.device) -> None:
    """sigma'(0) = 0 on every path. All sums are integers, so float64 results are exact up to the division by m."""
    x, weight, output_weight = _with_ties(d)
    tensors = [tensor.to(device, dtype) for tensor in (x, weight, output_weight)]
    for s in (0.5, 1.0, 2.0):
        for got, true in zip(hx.gram(*tensors, s), dense(x, weight, output_weight, s), strict=True):
            assert relative_error(got, true) <= (1e-6 if dtype == torch.float32 else 1e-15)


@pytest.mark.parametrize(
    "rows",
    [
        [[0, 0], [0, 0]],
        [[1, 0]],
        [[1, 0], [-1, 0]],
        [[0, 1], [0, 2], [0, -1]],
        [[1, 1], [-1, -1], [1, -1], [-1, 1]],
        [[0, 0], [1, 0], [0, 1], [-1, 0], [0, -1]],
    ],
)
def test_few_lines_of_samples(rows: list[list[float]], device: torch.device) -> None:
    """None, one or two distinct lines: the arcs are half turns or quarters, the neurons lie on the rays as well."""
    x = torch.tensor(rows, dtype=torch.float64)
    angles = torch.arange(16, dtype=torch.float64) * (torch.pi / 8)
    weight = torch.stack([angles.cos(), angles.sin()], dim=1)
    weight = torch.where(weight.abs() < 1e-12, torch.zeros_like(weight), weight)
    weight[2::4] = torch.tensor([[1, 1], [-1, 1], [-1, -1], [1, -1]], dtype=torch.float64)  # exact diagonals
    weight = torch.cat([weight, torch.zeros(2, 2, dtype=torch.float64)])
    output_weight = torch.arange(1, 19, dtype=torch.float64)
    result, exact = (
        hx.gram(x.to(device), weight.to(device), output_weight.to(device), 1.5),
        dense(x, weight, output_weight, 1.5),
    )
    for got, true in zip(result, exact, strict=True):
        torch.testing.assert_close(got.cpu(), true, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("directions", [1, 2, 3, 4])
def test_samples_that_are_parallel_up_to_rounding(directions: int, device: torch.device) -> None:
    """Float64 rays a few ulp apart, where no sign of a cross product is certain. G^[a] is continuous there, also for
    weights perpendicular to the samples; G^[w] is compared without such weights.
    """
    generator = torch.Generator().manual_seed(directions)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    def ulps(shape: torch.Size) -> Tensor:
        return 1 + 2.0**-52 * torch.randint(-3, 4, shape, generator=generator)

    for _ in range(10):
        lines = normal(directions, 2)[torch.randint(0, directions, (40,), generator=generator)] * normal(40, 1)
        x = lines * ulps(lines.shape)
        across = torch.stack([-x[:, 1], x[:, 0]], dim=1) * normal(40, 1)
        weight, output_weight = torch.cat([normal(60, 2), across * ulps(across.shape), x]), normal(140)
        for kernel, count in (("a", 140), ("w", 60)):
            tensors = (x, weight[:count], output_weight[:count])
            result, exact = hx.gram(*(t.to(device) for t in tensors), 1.5), dense(*tensors, 1.5)
            assert relative_error(getattr(result, kernel), getattr(exact, kernel)) <= 1e-13


@pytest.mark.parametrize("scale", [1e8, 1e-8])
@pytest.mark.parametrize("d", [2, 4])
def test_common_scale_of_the_weights(d: int, scale: float, device: torch.device) -> None:
    """ReLU is homogeneous: the class is relative."""
    for dtype, tolerance in CLASSES.items():
        x, weight, output_weight = problem(70, 1000, d, dtype=dtype)
        for factors in ((scale, 1.0), (1.0, scale), (scale, scale)):
            tensors = (x, weight * factors[0], output_weight * factors[1])
            result, exact = hx.gram(*(t.to(device) for t in tensors), (0.5, 1.0, 2.0)), dense(*tensors, (0.5, 1.0, 2.0))
            for got, true in zip(result, exact, strict=True):
                for i in range(3):
                    assert relative_error(got[i], true[i]) <= tolerance


def test_neurons_of_very_different_size(device: torch.device) -> None:
    """Fixed-point operands have to keep the small neurons of a block with large ones within the class."""
    for dtype, tolerance in CLASSES.items():
        x, weight, output_weight = problem(70, 1000, 4, dtype=dtype)
        size = torch.logspace(-4, 4, 1000, dtype=dtype)
        tensors = (x, weight * size[:, None], output_weight * size.flip(0))
        for s in (0.5, 1.5):
            for got, true in zip(hx.gram(*(t.to(device) for t in tensors), s), dense(*tensors, s), strict=True):
                assert relative_error(got, true) <= tolerance


# --- other references -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("base", BASES)
def test_ntk_of_autograd(base: str, device: torch.device) -> None:
    """path.ntk is the empirical NTK of TwoLayerNet: J J^T with the Jacobian in all parameters, by torch.func."""
    net = hx.TwoLayerNet(2, 37, s=0.7, base=base, seed=1).to(device, torch.float64)
    x = torch.randn(9, 2, generator=torch.Generator().manual_seed(2), dtype=torch.float64).to(device)
    parameters = dict(net.named_parameters())
    jacobian = torch.func.jacrev(lambda p: torch.func.functional_call(net, p, (x,)))(parameters)
    flat = torch.cat([part.flatten(1) for part in jacobian.values()], dim=1)
    path = hx.gram_path(hx.with_bias(x), net.weight, net.output_weight, base=base)
    assert relative_error(path(0.7).ntk, (flat @ flat.mT).detach().cpu()) <= 1e-13


def _ill_conditioned() -> tuple[Tensor, Tensor, Tensor]:
    """d = 1, 100 grid points and a bias, 20 000 neurons."""
    x = hx.with_bias(torch.linspace(0, 1, 100, dtype=torch.float64)[:, None])
    return x, *problem(1, 20_000, 2, seed=5)[1:]


@cache
def _longdouble_extremes(s: float) -> tuple[float, float]:
    """Smallest and largest eigenvalue of G^[a], ReLU: 64-bit mantissas, Cholesky, inverse iteration."""
    x, weight, _ = _ill_conditioned()
    z = x.numpy().astype(np.longdouble) @ weight.numpy().astype(np.longdouble).T
    value = np.where(z > 0, z, (1 - np.longdouble(s)) * z)
    matrix = value @ value.T / weight.shape[0]
    n = matrix.shape[0]
    lower = np.zeros_like(matrix)
    for j in range(n):
        column = matrix[j:, j] - lower[j:, :j] @ lower[j, :j]
        lower[j:, j] = column / np.sqrt(column[0])
    vector, size = np.ones(n, dtype=np.longdouble), np.longdouble(1)
    for _ in range(60):
        for j in range(n):
            vector[j] = (vector[j] - lower[j, :j] @ vector[:j]) / lower[j, j]
        for j in reversed(range(n)):
            vector[j] = (vector[j] - lower[j + 1 :, j] @ vector[j + 1 :]) / lower[j, j]
        size = np.sqrt(vector @ vector)
        vector = vector / size
    return float(1 / size), float(torch.linalg.eigvalsh(torch.from_numpy(matrix.astype(np.float64)))[-1])


@pytest.mark.skipif(np.finfo(np.longdouble).eps > 1e-18, reason="needs an 80-bit long double")
def test_lambda_min_where_the_conditioning_is_1e10(device: torch.device) -> None:
    """What the float64 class is for: lambda_min of G^[a], d = 1, 100 grid points, to 1e-6."""
    path = hx.gram_path(*(t.to(device) for t in _ill_conditioned()))
    for s in (1.0, 1.5):
        smallest, largest = _longdouble_extremes(s)
        assert largest / smallest > 1e10
        assert float(path.lambda_min(s, "a")) == pytest.approx(smallest, rel=1e-6)


# --- SIMD levels ------------------------------------------------------------------------------------------------------

LEVEL_CASES = [
    ("relu", 100, 3001, 4),
    ("relu", 257, 600, 17),
    ("relu", 100, 3001, 2),
    ("gelu", 100, 1000, 5),
    ("tanh", 33, 65, 3),
]
LEVEL_CODE = """
import sys; sys.path.insert(0, "tests")
import torch, hrta_ext as hx
from ntk.test_accuracy import LEVEL_CASES
from ntk.cases import CLASSES, problem
grams = [hx.gram(*problem(n, m, d, dtype=dtype), (0.5, 1.0), base=base)
         for base, n, m, d in LEVEL_CASES for dtype in CLASSES]
drawn = [hx.random_weights(first, 1003, 6, seed=9) for first in (0, 2**32 - 500)]
torch.save({"level": hx.build_info()["simd"], "grams": [tuple(g) for g in grams], "drawn": drawn}, sys.argv[1])
"""


@pytest.mark.parametrize("level", ["baseline", "avx2", "avx512"])
def test_every_simd_level(level: str, tmp_path: Path) -> None:
    """Classes hold on each level without the matrix tiles, and drawn weights have the same bits on all of them."""
    if level not in hx.build_info()["simd_levels"]:
        pytest.skip(f"{level} is not compiled in here")
    done = subprocess.run(
        [sys.executable, "-c", LEVEL_CODE, str(tmp_path / "out.pt")],
        env=os.environ | {"HRTA_EXT_SIMD": level, "HRTA_EXT_BACKEND": "cpp"},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    out = torch.load(tmp_path / "out.pt")
    if out["level"] != level:
        pytest.skip(f"this processor runs {out['level']} at most")
    grams = iter(out["grams"])
    for base, n, m, d in LEVEL_CASES:
        for dtype, tolerance in CLASSES.items():
            exact = dense(*problem(n, m, d, dtype=dtype), (0.5, 1.0), base)
            for got, true in zip(next(grams), exact, strict=True):
                for i in range(2):
                    assert relative_error(got[i], true[i]) <= tolerance, (base, n, m, d, dtype, i)
    with hx.use_backend("torch"):
        for first, drawn in zip((0, 2**32 - 500), out["drawn"], strict=True):
            for got, expected in zip(drawn, hx.random_weights(first, 1003, 6, seed=9), strict=True):
                assert torch.equal(got, expected)
