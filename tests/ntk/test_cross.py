"""Cross-kernels at finite width: ``x2=`` of gram, gram_path and random_gram_path.

The error of a block K(x, x2) is measured against |K(x, x)|^(1/2) |K(x2, x2)|^(1/2), which bounds |K(x, x2)|
(Cauchy-Schwarz) and is |K| where x2 = x: blocks of antiparallel samples vanish for ReLU.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from ntk.cases import CLASSES, dense, problem
from torch import Tensor

import hrta_ext as hx

# (n, n2, m, D): one sample, no tile's sizes, more rows and more columns than a panel; arcs for relu with D = 2.
SHAPES = [(1, 1, 70, 3), (5, 40, 700, 2), (1, 300, 513, 4), (200, 3, 600, 17), (33, 97, 4100, 3), (40, 33, 4200, 2)]
VALUES = (0.0, 0.5, 1.0, 2.0)


def split(n: int, n2: int, m: int, d: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, ...]:
    """x (n, D), x2 (n2, D), weights and output weights; one sample of x2 is one of x."""
    x, weight, output_weight = problem(n + n2, m, d, seed=n + n2, dtype=dtype)
    x[-1] = x[0]
    return x[:n], x[n:], weight, output_weight


def assert_block(found: hx.Gram, x: Tensor, x2: Tensor, weight: Tensor, a: Tensor, s: float, base: str) -> None:
    """``found`` is the block of the square matrix of all samples, within the class of its dtype."""
    n = x.shape[0]
    for got, square in zip(found, dense(torch.cat([x, x2]), weight, a, s, base), strict=True):
        scale = (square[:n, :n].norm() * square[n:, n:].norm()).sqrt()
        assert got.shape == (n, x2.shape[0])
        assert float((got.double().cpu() - square[:n, n:]).norm()) <= CLASSES[got.dtype] * float(scale)


def same(one: tuple[Tensor, ...], two: tuple[Tensor, ...]) -> bool:
    return all(torch.equal(u, v) for u, v in zip(one, two, strict=True))


# --- values -----------------------------------------------------------------------------------------------------------


def check_blocks(base: str, dtype: torch.dtype, device: torch.device) -> None:
    for shape in SHAPES:
        tensors = split(*shape, dtype=dtype)
        x, x2, weight, output_weight = (t.to(device) for t in tensors)
        path = hx.gram_path(x, weight, output_weight, x2=x2, base=base)
        for s in VALUES:
            assert_block(path(s), *tensors, s, base)
        assert same(hx.gram(x, weight, output_weight, 0.5, x2=x2, base=base), path(0.5))


@pytest.mark.parametrize("dtype", CLASSES)
@pytest.mark.parametrize("base", ["relu", "tanh"])
def test_blocks_by_the_formula(base: str, dtype: torch.dtype, device: torch.device) -> None:
    check_blocks(base, dtype, device)


@pytest.mark.parametrize("level", ["baseline", "avx2"])
def test_blocks_at_lower_simd_levels(level: str) -> None:
    """Those below the processor's own, which the other tests run at (or its matrix tiles)."""
    info = hx.build_info()
    if level not in info["simd_levels"] or info["simd"] in (level, "baseline"):
        pytest.skip(f"this processor, or this binary, has nothing above {level}")
    code = (
        "import sys; sys.path.insert(0, 'tests')\n"
        "import torch, hrta_ext as hx, ntk.test_cross as tests\n"
        f"assert hx.build_info()['simd'] == {level!r}\n"
        "for base in ('relu', 'tanh'):\n"
        "    for dtype in tests.CLASSES:\n"
        "        tests.check_blocks(base, dtype, torch.device('cpu'))\n"
    )
    environment = os.environ | {"HRTA_EXT_SIMD": level, "HRTA_EXT_BACKEND": "cpp"}
    root = Path(__file__).parents[2]
    run = subprocess.run([sys.executable, "-c", code], env=environment, cwd=root, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


def test_the_ntk_is_the_product_of_two_jacobians(device: torch.device) -> None:
    """K(x, x2) = J(x) J(x2)^T with J = df/d(weights) of the network itself, by torch.autograd."""
    net = hx.TwoLayerNet(3, 50, s=1.5, base="gelu", seed=0).double().to(device)
    generator = torch.Generator().manual_seed(1)
    x, x2 = (torch.randn(n, 3, generator=generator, dtype=torch.float64).to(device) for n in (6, 9))

    def jacobian(samples: Tensor) -> Tensor:
        rows = [torch.autograd.grad(f, list(net.parameters()), retain_graph=True) for f in net(samples)]
        return torch.stack([torch.cat([part.reshape(-1) for part in row]) for row in rows])

    expected = jacobian(x) @ jacobian(x2).mT
    torch.testing.assert_close(net.gram(x, x2=x2).ntk, expected, rtol=1e-12, atol=1e-12)
    assert net.gram(x, [0.5, 1.0], x2=x2).a.shape == (2, 6, 9)


@pytest.mark.parametrize("base", ["relu", "tanh"])
@pytest.mark.parametrize("d", [2, 3])
def test_networks_values_of_s_derivatives_and_batches(d: int, base: str, device: torch.device) -> None:
    """Shapes (S, ..., n, n2), each part as if alone; derivatives as differences, which are exact for a quadratic."""
    generator = torch.Generator().manual_seed(0)
    sizes = ((4, d), (7, d), (2, 3, 70, d), (2, 3, 70))
    x, x2, weight, a = (torch.randn(size, generator=generator, dtype=torch.float64).to(device) for size in sizes)
    path = hx.gram_path(x, weight, a, x2=x2, base=base)
    many, derivative = path([0.5, 1.5]), path.derivative(1.0)
    assert many.w.shape == (2, 2, 3, 4, 7)
    assert repr(path) == f"GramPath(n=4, n2=7, D={d}, width=70, base={base!r}, batches=1, networks=(2, 3))"
    for part, slope in zip(many, derivative, strict=True):
        torch.testing.assert_close(slope, part[1] - part[0], rtol=1e-12, atol=1e-12 * float(part.abs().max()))
    alone = hx.gram_path(x, weight[1, 2], a[1, 2], x2=x2, base=base)
    assert same(alone([0.5, 1.5]), (many.a[:, 1, 2], many.w[:, 1, 2]))
    drawn = hx.random_gram_path(x, 1001, x2=x2, base=base, batches=4)
    assert drawn.standard_error([0.5, 1.0]).ntk.shape == (2, 4, 7)
    parts = [drawn.batch(b) for b in range(4)]
    assert repr(parts[0]).startswith("GramPath(n=4, n2=7")
    together = sum(part.width * part(0.7).w for part in parts) / drawn.width
    torch.testing.assert_close(together, drawn(0.7).w, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("networks", [(0,), (2, 0)])
def test_no_networks_give_no_matrices(networks: tuple[int, ...], device: torch.device) -> None:
    x, weight = torch.ones(3, 2, device=device), torch.ones(*networks, 5, 2, device=device)
    for x2, columns in ((None, 3), (x[:2], 2)):
        path = hx.gram_path(x, weight, weight[..., 0], x2=x2, base="tanh")
        assert path(0.5).a.shape == (*networks, 3, columns)


# --- blocks of the square matrix --------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", CLASSES)
@pytest.mark.parametrize("base", ["relu", "gelu"])
def test_a_block_is_that_of_the_square_matrix_bit_for_bit(base: str, dtype: torch.dtype) -> None:
    """The compiled builder, matrices of more than 192 samples: above and below the diagonal, for any cut of x."""
    if not hx.backends()["cpp"]:
        pytest.skip("needs the compiled kernels")
    for n, m, d in ((230, 4500, 3), (197, 600, 18)):
        x, weight, a = problem(n, m, d, dtype=dtype)
        with hx.use_backend("cpp"):
            path = hx.gram_path(x, weight, a, base=base)
            square = path.sums
            cuts = (slice(3, 50), slice(100, n)), (slice(0, 1), slice(0, 40)), (slice(170, n), slice(0, 9))
            for rows, columns in cuts:
                block = hx.gram_path(x[rows], weight, a, x2=x[columns], base=base)
                for got, whole in zip(
                    (*block(1.3), *block.derivative(0.7)), (*path(1.3), *path.derivative(0.7)), strict=True
                ):
                    assert torch.equal(got, whole[rows, columns])
                found = block.sums
                for name in ("linear", "cross", "slope_sum"):
                    whole = getattr(square, name)[0]
                    assert torch.equal(getattr(found, name)[0], torch.cat([whole[rows], whole[columns]])), name
                for name in ("value_product", "slope_product"):
                    upper = getattr(square, name)[0]
                    whole = torch.triu(upper) + torch.triu(upper, 1).mT
                    assert torch.equal(getattr(found, name)[0], whole[rows, columns]), name


@pytest.mark.parametrize("d", [2, 3])
@pytest.mark.parametrize("n", [30, 210])
def test_blocks_of_rows_and_the_square_call(n: int, d: int, device: torch.device) -> None:
    """Working through many samples in blocks of rows: their matrices are the whole one, to the rounding of sums."""
    x, weight, a = (t.to(device) for t in problem(n, 700, d))
    whole, at_once = hx.gram(x, weight, a, 1.5), hx.gram(x, weight, a, 1.5, x2=x)
    blocks = [hx.gram(rows, weight, a, 1.5, x2=x) for rows in x.split(64)]
    for i, matrix in enumerate(whole):
        # On a GPU the square matrix may come from digits, to its class.
        tolerance = 1e-14 * float(matrix.abs().max()) if device.type == "cpu" else 2e-13 * float(matrix.norm())
        for found in (at_once[i], torch.cat([block[i] for block in blocks])):
            torch.testing.assert_close(found, matrix, rtol=0, atol=tolerance)


# --- drawn weights ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("base", "d"), [("relu", 2), ("relu", 4), ("erf", 3)])
def test_drawn_neurons_in_stretches(base: str, d: int, device: torch.device) -> None:
    """They are those of random_weights, and stretches computed apart add up."""
    x, x2 = (t.to(device) for t in split(6, 9, 1, d)[:2])
    weight, a = hx.random_weights(3, 9001, d, seed=5, device=device, dtype=torch.float64)
    whole = hx.random_gram_path(x, 9001, x2=x2, seed=5, first_neuron=3, base=base)
    parts = [
        hx.random_gram_path(x, width, x2=x2, seed=5, first_neuron=first, base=base, batches=batches)
        for first, width, batches in ((3, 1, 1), (4, 8500, 7), (8504, 500, 2))
    ]
    total = parts[0] + parts[1] + parts[2]
    assert total.width == whole.width == 9001
    assert whole.batches == 16
    assert total.drawn == ((5, 3, 1), (5, 4, 8500), (5, 8504, 500))
    expected = hx.gram_path(x, weight, a, x2=x2, base=base)
    for found in (whole, total):
        for got, true in zip(found([0.5, 1.0]), expected([0.5, 1.0]), strict=True):
            torch.testing.assert_close(got, true, rtol=1e-12, atol=1e-13)


def test_progress_and_default_batches_go_by_entries() -> None:
    calls: list[int] = []
    x = torch.ones(1000, 3)
    path = hx.random_gram_path(x[:300], 16, x2=x, progress=lambda done, _: calls.append(done))
    assert path.batches == 8
    assert calls == list(range(2, 17, 2))


# --- bits -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", CLASSES)
@pytest.mark.parametrize("base", ["relu", "gelu"])
def test_same_bits_for_every_call_budget_and_number_of_threads(
    base: str, dtype: torch.dtype, device: torch.device
) -> None:
    threads = torch.get_num_threads()
    for shape in SHAPES[1:5]:
        x, x2, weight, a = (t.to(device) for t in split(*shape, dtype=dtype))
        with pytest.raises(ValueError, match="at least") as caught:
            hx.gram_path(x, weight, a, x2=x2, base=base, memory_budget=0)
        least = int(str(caught.value).split("at least ")[1].split()[0])
        first = hx.gram_path(x, weight, a, x2=x2, base=base)
        for budget in (None, least, 2 * least + 12345) if device.type == "cpu" else (None, 2**28, 2**29 + 12345):
            assert same(hx.gram_path(x, weight, a, x2=x2, base=base, memory_budget=budget).sums, first.sums)
        if not hx.backends()["cpp"] or device.type != "cpu":
            continue
        results = []
        try:
            for count in (1, 2, 3):
                torch.set_num_threads(count)
                with hx.use_backend("cpp"):
                    results.append(hx.gram_path(x, weight, a, x2=x2, base=base).sums)
        finally:
            torch.set_num_threads(threads)
        assert same(results[1], results[0])
        assert same(results[2], results[0])


def test_weights_that_are_not_finite_show_in_every_entry(device: torch.device) -> None:
    for d, base in ((2, "relu"), (3, "relu"), (3, "tanh")):
        x, x2, weight, a = (t.to(device) for t in split(5, 4, 60, d))
        weight[7, 0] = float("nan")
        for part in hx.gram(x, weight, a, x2=x2, base=base):
            assert bool(part.isnan().all())


def test_no_samples_on_one_side_or_both(device: torch.device) -> None:
    for d in (2, 3):
        x, x2, weight, a = (t.to(device) for t in split(3, 4, 20, d))
        for rows, columns in ((x[:0], x2), (x, x2[:0]), (x[:0], x2[:0])):
            shape = (rows.shape[0], columns.shape[0])
            for path in (hx.gram_path(rows, weight, a, x2=columns), hx.random_gram_path(rows, 20, x2=columns)):
                assert path(0.5).ntk.shape == path.derivative(0.5).w.shape == shape
                assert path([0.5, 1.0, 1.5]).a.shape == (3, *shape)
                assert (path + path).width == 40
            networks = hx.gram(rows, weight.expand(4, 20, d), a.expand(4, 20), [0.5, 1.0], x2=columns)
            assert networks.a.shape == (2, 4, *shape)


# --- files, addition, errors ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_saving_and_loading_keeps_every_bit(suffix: str, device: torch.device, tmp_path: Path) -> None:
    if suffix == ".safetensors":
        pytest.importorskip("safetensors")
    x, x2, weight, a = (t.to(device) for t in split(5, 4, 60, 3))
    for path in (hx.random_gram_path(x, 50, x2=x2, batches=3), hx.gram_path(x, weight, a, x2=x2, dtype=torch.float32)):
        path.save(tmp_path / f"path{suffix}")
        loaded = hx.GramPath.load(tmp_path / f"path{suffix}")
        assert repr(loaded) == repr(path)
        assert loaded.drawn == path.drawn
        assert loaded.x2 is not None
        assert same((loaded.x, loaded.x2, *loaded.sums), tuple(t.cpu() for t in (x.double(), x2.double(), *path.sums)))
        if device.type == "cpu":
            assert (loaded + path).drawn == (None if path.drawn is None else path.drawn * 2)


def _rewritten(source: Path, target: Path, change: object) -> None:
    with np.load(source) as file:
        arrays = {name: file[name] for name in file.files}
    about = json.loads(str(arrays.pop("about")))
    change(about, arrays)  # type: ignore[operator]
    np.savez(target, about=np.array(json.dumps(about)), **arrays)


def test_files_of_before_and_files_that_contradict_themselves(tmp_path: Path) -> None:
    """Those of 0.1.0 had neither x2 nor drawn; compiled code reads by address, so shapes must fit."""
    x, x2 = split(5, 4, 1, 3)[:2]
    square, cross = hx.random_gram_path(x, 50, batches=3), hx.random_gram_path(x, 50, x2=x2, batches=3)
    for name, path in (("square", square), ("cross", cross)):
        path.save(tmp_path / f"{name}.npz")
    _rewritten(tmp_path / "square.npz", tmp_path / "old.npz", lambda about, arrays: about.pop("drawn"))
    old = hx.GramPath.load(tmp_path / "old.npz")
    assert old.drawn is None
    assert old.x2 is None
    assert same(old(0.5), square(0.5))
    assert (old + square).drawn is None
    for change in (
        lambda about, arrays: arrays.pop("x2"),
        lambda about, arrays: arrays.update(x2=arrays["x2"][:, :2]),
        lambda about, arrays: arrays.update(x2=arrays["x2"][:3]),
        lambda about, arrays: arrays.update(x2=arrays["x2"].astype(np.float32)),
        lambda about, arrays: about.update(drawn=[[0, 0, 49]]),
        lambda about, arrays: about.update(drawn=[[0, -1, 50]]),
        lambda about, arrays: about.update(drawn="all"),
    ):
        _rewritten(tmp_path / "cross.npz", tmp_path / "bad.npz", change)
        with pytest.raises(ValueError, match=r"GramPath.load: .* is not a saved GramPath"):
            hx.GramPath.load(tmp_path / "bad.npz")


def test_pickles_of_before_have_no_second_samples() -> None:
    path = hx.random_gram_path(torch.eye(3), 50)
    old = object.__new__(hx.GramPath)
    old.__dict__ |= {name: value for name, value in path.__dict__.items() if name not in ("x2", "drawn")}
    assert same(old(0.5), path(0.5))
    assert repr(old) == repr(path)
    assert (old + path).width == 100


def test_paths_that_do_not_add() -> None:
    x, x2 = split(5, 5, 1, 3)[:2]
    square, cross = hx.random_gram_path(x, 50), hx.random_gram_path(x, 50, x2=x2)
    for one, two in ((square, cross), (cross, square)):
        with pytest.raises(ValueError, match=r"a path of cross-kernels \(x2\) and one of symmetric matrices"):
            one + two
    with pytest.raises(ValueError, match="both paths must have the same samples x2"):
        cross + hx.random_gram_path(x, 50, x2=x2 + 1)
    with pytest.raises(ValueError, match="both paths must have the same samples x2"):
        cross + hx.random_gram_path(x, 50, x2=x2[:4])
    elsewhere = hx.GramPath(x.to("meta"), "relu", square.dtype, square.widths, square.sums)
    with pytest.raises(ValueError, match="both paths must be on the same device, got cpu and meta"):
        square + elsewhere


@pytest.mark.parametrize("method", ["eigenvalues", "lambda_min", "lambda_min_error"])
def test_cross_kernels_have_no_eigenvalues(method: str) -> None:
    x, x2 = split(5, 5, 1, 3)[:2]
    path = hx.random_gram_path(x, 50, x2=x2)
    with pytest.raises(ValueError, match=rf"GramPath.{method}: cross-kernels have no eigenvalues"):
        getattr(path, method)(0.5)


def test_reports_are_of_symmetric_matrices() -> None:
    from hrta_ext.ntk.report import spectra_report

    x, x2 = split(5, 5, 1, 3)[:2]
    with pytest.raises(ValueError, match="spectra_report: path must be one of symmetric matrices"):
        spectra_report(hx.random_gram_path(x, 50, x2=x2), [0.5])


BAD = {
    "number": (3.0, TypeError, "x2 must be a tensor, got float"),
    "half": (torch.zeros(2, 3).half(), TypeError, "x2 must be float32 or float64"),
    "vector": (torch.zeros(3, dtype=torch.float64), ValueError, r"x2 must have shape \(n, D\)"),
    "features": (torch.zeros(2, 4, dtype=torch.float64), ValueError, r"x2 must have shape \(n2, 3\) to match x"),
    "dtype": (torch.zeros(2, 3), TypeError, "x2 must have the dtype of x, torch.float64, got torch.float32"),
    "nan": (torch.full((2, 3), torch.nan, dtype=torch.float64), ValueError, "x2 must be finite, row 0 is"),
}


@pytest.mark.parametrize("kind", BAD)
def test_second_samples_that_are_refused(kind: str) -> None:
    """The same words in all three calls, and in infinite_gram."""
    x, _, weight, a = split(5, 4, 10, 3)
    x2, error, message = BAD[kind]
    calls = {
        "gram": lambda: hx.gram(x, weight, a, x2=x2),  # type: ignore[arg-type]
        "gram_path": lambda: hx.gram_path(x, weight, a, x2=x2),  # type: ignore[arg-type]
        "random_gram_path": lambda: hx.random_gram_path(x, 10, x2=x2),  # type: ignore[arg-type]
        "infinite_gram": lambda: hx.infinite_gram(x, x2=x2),  # type: ignore[arg-type]
    }
    for name, call in calls.items():
        with pytest.raises(error, match=f"^{name}: {message}"):  # type: ignore[call-overload]
            call()


def test_second_samples_that_are_views(device: torch.device) -> None:
    """Strided, lazily negated, tracked by autograd: read as torch shows them."""
    x, x2, weight, a = (t.to(device) for t in split(5, 4, 60, 3))
    expected = hx.gram(x, weight, a, x2=x2)
    views = (x2.mT.contiguous().mT, torch.complex(x2, -x2).conj().imag, x2.clone().requires_grad_())
    for view in views:
        found = hx.gram(x, weight, a, x2=view)
        assert same(found, expected)
        assert not found.a.requires_grad
