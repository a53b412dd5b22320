"""GramPath: evaluation, derivative, addition, files, spectra, error bars, and what the results promise bit by bit."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from cases import BASES
from ntk.cases import CLASSES, VALUES, dense, problem, relative_error
from torch import Tensor

import hrta_ext as hx

SHAPES = [(100, 3001, 2), (129, 700, 3), (257, 600, 4), (1, 5, 2), (40, 30, 17)]


def _same(one: tuple[Tensor, ...], two: tuple[Tensor, ...]) -> bool:
    return all(torch.equal(u, v) for u, v in zip(one, two, strict=True))


def _path(device: torch.device, n: int, m: int, d: int, base: str = "relu", seed: int = 0) -> hx.GramPath:
    return hx.gram_path(*(t.to(device) for t in problem(n, m, d, seed=seed)), base=base)


# --- evaluation -------------------------------------------------------------------------------------------------------


def test_one_s_many_s_and_gram_agree_bit_for_bit(device: torch.device) -> None:
    tensors = [t.to(device) for t in problem(40, 300, 3)]
    path = hx.gram_path(*tensors)
    many = path(VALUES)
    assert many.a.shape == many.w.shape == (len(VALUES), 40, 40)
    for same in (path(list(VALUES)), path(torch.tensor(VALUES, dtype=torch.float64)), hx.gram(*tensors, VALUES)):
        assert _same(same, many)
    for i, s in enumerate(VALUES):
        one = path(s)
        assert one.a.shape == (40, 40)
        assert _same(one, (many.a[i], many.w[i]))
        assert _same(path(torch.tensor(s, dtype=torch.float64)), one)
        assert torch.equal(one.ntk, one.a + one.w)
    for one, other in zip(hx.gram(*tensors), path(1.0), strict=True):  # on a GPU one s goes without the sums
        torch.testing.assert_close(one, other, rtol=1e-12 if device.type == "cuda" else 0, atol=0)
    assert path([]).a.shape == (0, 40, 40)
    assert path(1).a.shape == (40, 40)


@pytest.mark.parametrize("base", BASES)
def test_derivative_by_central_differences(base: str, device: torch.device) -> None:
    """The matrices are quadratic in s, so a central difference of the dense formula is exact for any step."""
    tensors = problem(30, 130, 3)
    path = hx.gram_path(*(t.to(device) for t in tensors), base=base)
    derivative = path.derivative(VALUES)
    for i, s in enumerate(VALUES):
        above, below = dense(*tensors, s + 1.0, base), dense(*tensors, s - 1.0, base)
        for got, high, low in zip(derivative, above, below, strict=True):
            scale = float(high.norm() + low.norm())
            assert float((got[i].cpu() - (high - low) / 2).norm()) <= 1e-13 * scale
        assert _same(path.derivative(s), (derivative.a[i], derivative.w[i]))


def test_float32_path_gives_float32_and_keeps_its_class(device: torch.device) -> None:
    tensors = problem(30, 130, 3, dtype=torch.float32)
    path = hx.gram_path(*(t.to(device) for t in tensors))
    assert path.dtype == torch.float32
    assert path(0.5).a.dtype == path.derivative(0.5).w.dtype == torch.float32
    assert path.eigenvalues(0.5).dtype == path.lambda_min(0.5).dtype == torch.float64
    high, low = dense(*tensors, 1.5), dense(*tensors, -0.5)
    for got, u, v in zip(path.derivative(0.5), high, low, strict=True):
        assert relative_error(got, (u - v) / 2) <= 1e-6


@pytest.mark.parametrize("base", ["relu", "tanh"])
@pytest.mark.parametrize("d", [2, 3])
def test_leading_dimensions_are_networks_of_their_own(d: int, base: str, device: torch.device) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(11, d, generator=generator, dtype=torch.float64).to(device)
    weight = torch.randn(2, 3, 70, d, generator=generator, dtype=torch.float64).to(device)
    output_weight = torch.randn(2, 3, 70, generator=generator, dtype=torch.float64).to(device)
    path = hx.gram_path(x, weight, output_weight, base=base)
    one, many, derivative = path(0.5), path([0.5, 1.5]), path.derivative([0.5, 1.5])
    assert one.a.shape == (2, 3, 11, 11)
    assert many.w.shape == derivative.w.shape == (2, 2, 3, 11, 11)
    assert path.eigenvalues([0.5, 1.5]).shape == (2, 2, 3, 11)
    assert path.lambda_min(0.5).shape == (2, 3)
    assert "networks=(2, 3)" in repr(path)
    for i in range(2):
        for j in range(3):
            alone = hx.gram_path(x, weight[i, j], output_weight[i, j], base=base)
            assert _same(alone(0.5), (one.a[i, j], one.w[i, j]))
            assert _same(alone([0.5, 1.5]), (many.a[:, i, j], many.w[:, i, j]))
            assert _same(alone.derivative([0.5, 1.5]), (derivative.a[:, i, j], derivative.w[:, i, j]))
    # A transposed view of the weights gives the same numbers.
    view = hx.gram_path(
        x, weight.mT.contiguous().mT, output_weight.transpose(0, 1).contiguous().transpose(0, 1), base=base
    )
    assert _same(view(0.5), one)


@pytest.mark.filterwarnings("error")
def test_gradients_are_not_tracked(device: torch.device) -> None:
    x, weight, output_weight = (t.to(device).requires_grad_() for t in problem(5, 30, 3))
    assert not hx.gram(x, weight, output_weight).ntk.requires_grad


# --- bits -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", CLASSES)
@pytest.mark.parametrize(("n", "m", "d"), SHAPES)
@pytest.mark.parametrize("base", ["relu", "tanh"])
def test_exactly_symmetric_and_semidefinite(
    base: str, n: int, m: int, d: int, dtype: torch.dtype, device: torch.device
) -> None:
    """Symmetric bit for bit; no eigenvalue below -16 eps |K|: entries are rounded to eps / 2, and the norm of that
    perturbation, like what eigvalsh adds, stays below a few eps |K| for these sizes.
    """
    path = hx.gram_path(*(t.to(device) for t in problem(n, m, d, dtype=dtype)), base=base)
    for matrix in (*path(VALUES), *path.derivative(VALUES), *path(0.7), *path.derivative(0.7)):
        assert torch.equal(matrix, matrix.mT)
    for matrix in path((0.0, 0.5, 1.0)):
        eigenvalues = torch.linalg.eigvalsh(matrix.double())
        assert (eigenvalues[:, 0] >= -16 * torch.finfo(dtype).eps * eigenvalues[:, -1]).all()


@pytest.mark.parametrize("dtype", CLASSES)
@pytest.mark.parametrize(("n", "m", "d"), SHAPES)
@pytest.mark.parametrize("base", ["relu", "gelu"])
def test_same_bits_on_every_call_and_for_every_budget(
    base: str, n: int, m: int, d: int, dtype: torch.dtype, device: torch.device
) -> None:
    tensors = [t.to(device) for t in problem(n, m, d, dtype=dtype)]
    with pytest.raises(ValueError, match="at least") as caught:
        hx.gram_path(*tensors, base=base, memory_budget=0)
    least = int(str(caught.value).split("at least ")[1].split()[0])
    first = hx.gram_path(*tensors, base=base)
    for budget in (None, least, 2 * least + 12345, 2**30):
        assert _same(hx.gram_path(*tensors, base=base, memory_budget=budget).sums, first.sums)


@pytest.mark.parametrize("dtype", CLASSES)
@pytest.mark.parametrize(("n", "m", "d"), [*SHAPES, (100, 200_000, 2)])
@pytest.mark.parametrize("base", ["relu", "gelu"])
def test_compiled_builder_gives_the_same_bits_for_any_number_of_threads(
    base: str, n: int, m: int, d: int, dtype: torch.dtype
) -> None:
    if not hx.backends()["cpp"]:
        pytest.skip("needs the compiled kernels")
    if base == "gelu" and m > 100_000:
        m //= 20
    tensors, results = problem(n, m, d, dtype=dtype), []
    threads = torch.get_num_threads()
    try:
        with hx.use_backend("cpp"):
            for count in (1, 2, 3):
                torch.set_num_threads(count)
                path = hx.gram_path(*tensors, base=base)
                drawn = hx.random_gram_path(tensors[0], m, base=base)
                results.append((*path.sums, *path(VALUES), *path.derivative(0.5), *drawn.sums))
    finally:
        torch.set_num_threads(threads)
    assert _same(results[1], results[0])
    assert _same(results[2], results[0])


# --- addition ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("d", [2, 3])
def test_paths_over_disjoint_neurons_add_up(d: int, device: torch.device) -> None:
    x, weight, output_weight = (t.to(device) for t in problem(30, 1000, d))
    whole = hx.gram_path(x, weight, output_weight)
    parts = [
        hx.gram_path(x, weight[begin:end], output_weight[begin:end]) for begin, end in ((0, 1), (1, 600), (600, 1000))
    ]
    total = parts[0] + parts[1] + parts[2]
    assert total.width == 1000
    assert total.dtype == torch.float64
    for got, true in zip(total(VALUES), whole(VALUES), strict=True):
        assert relative_error(got, true.cpu()) <= 1e-14


@pytest.mark.parametrize(("one", "two"), [(16, 16), (16, 5), (5, 16), (16, 1), (3, 2)])
def test_unequal_batches_add_up(one: int, two: int) -> None:
    x = problem(6, 1, 3)[0]
    first, second = (
        hx.random_gram_path(x, 1000, batches=one),
        hx.random_gram_path(x, 777, batches=two, first_neuron=1000),
    )
    total = first + second
    assert total.batches == min(one, two)
    assert total.width == sum(total.widths) == 1777
    whole = hx.random_gram_path(x, 1777, batches=1)
    for got, true in zip(total(1.5), whole(1.5), strict=True):
        assert relative_error(got, true) <= 1e-14
    assert _same(total(1.5), (second + first)(1.5))
    for batch, width in enumerate(total.widths):  # sums and widths are folded alike: a batch is a mean of its neurons
        share = total.sums.square_sum[batch, 0] / width
        assert abs(float(share) - 1) < 6 * math.sqrt(2 / width)


def test_the_sum_has_the_lower_class() -> None:
    x, weight, output_weight = problem(6, 10, 3, dtype=torch.float32)
    low, high = (hx.gram_path(x, weight, output_weight, dtype=dtype) for dtype in CLASSES)
    assert (low + high).dtype == (high + low).dtype == (low + low).dtype == torch.float32
    assert (high + high).dtype == torch.float64


def test_paths_on_two_devices_are_named() -> None:
    path = hx.random_gram_path(torch.eye(2), 10)
    assert path.to("cpu") is path
    with pytest.raises(ValueError, match="must be on the same device, got cpu and meta; path"):
        path + path.to("meta")


# --- files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
@pytest.mark.parametrize("dtype", CLASSES)
def test_saving_and_loading_keeps_every_bit(
    suffix: str, dtype: torch.dtype, device: torch.device, tmp_path: Path
) -> None:
    if suffix == ".safetensors":
        pytest.importorskip("safetensors")
    x = problem(9, 1, 3)[0].to(device)
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(2, 3, 70, 3, generator=generator, dtype=torch.float64).to(device)
    paths = {
        "drawn": hx.random_gram_path(x, 1001, base="gelu", dtype=dtype, batches=5),
        "networks": hx.gram_path(x, weight, weight[..., 0], base="relu", dtype=dtype),
        "empty": hx.random_gram_path(x[:0], 1001, dtype=dtype),
    }
    for name, path in paths.items():
        file = tmp_path / (name + suffix)
        path.save(file)
        path.save(str(file))  # again, over the old one
        loaded = hx.GramPath.load(file)
        assert (loaded.base, loaded.dtype, loaded.widths) == (path.base, path.dtype, path.widths)
        assert repr(loaded) == repr(path)
        assert _same(loaded.sums, tuple(part.cpu() for part in path.sums))
        assert torch.equal(loaded.x, path.x.cpu())
        if device.type == "cpu":
            assert _same(loaded(VALUES), path(VALUES))
            assert (loaded + path).width == 2 * path.width
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted(name + suffix for name in paths)


# --- spectra and error bars -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", ["ntk", "a", "w"])
def test_spectra(kernel: str, device: torch.device) -> None:
    tensors = problem(12, 400, 3)
    path = hx.gram_path(*(t.to(device) for t in tensors))
    for s in (0.5, 1.5):
        exact = torch.linalg.eigvalsh(getattr(dense(*tensors, s), kernel))
        eigenvalues = path.eigenvalues(s, kernel).cpu()
        torch.testing.assert_close(eigenvalues, exact, rtol=1e-12, atol=1e-13 * float(exact[-1]))
        assert torch.equal(path.lambda_min(s, kernel).cpu(), eigenvalues[0])
    assert path.lambda_min([0.5, 1.5], kernel).shape == (2,)
    assert torch.equal(path.eigenvalues(0.5), path.eigenvalues(0.5, "ntk"))


def test_lambda_min_grows_as_s_squared(device: torch.device) -> None:
    """Theorem 3.1 for a finite network: lambda_min(s) / s^2 tends to a constant for n > D as s -> 0."""
    path = hx.gram_path(*(t.to(device) for t in problem(12, 4000, 3)))
    rate = path.lambda_min([0.01, 0.02], "w").cpu() / torch.tensor([1e-4, 4e-4], dtype=torch.float64)
    assert float(rate[0] / rate[1]) == pytest.approx(1.0, abs=0.05)
    assert float(rate[0]) > 1e-4


def _batch_values(x: Tensor, widths: tuple[int, ...], s: float, device: torch.device) -> tuple[Tensor, Tensor]:
    """The NTK and G^[a] of each batch by the dense formula: (2, B, n, n)."""
    grams, begin = [], 0
    for width in widths:
        drawn = hx.random_weights(begin, width, x.shape[1], seed=4, device=device, dtype=torch.float64)
        grams.append(dense(x, *(tensor.cpu() for tensor in drawn), s))
        begin += width
    return torch.stack([g.a for g in grams]), torch.stack([g.w for g in grams])


def test_standard_error_is_that_of_a_mean_of_batches(device: torch.device) -> None:
    """Equal batches: the textbook std / sqrt(B)."""
    x = problem(5, 1, 3)[0]
    path = hx.random_gram_path(x.to(device), 800, seed=4, batches=8)
    error = path.standard_error(1.5)
    for got, batches in zip(error, _batch_values(x, path.widths, 1.5, device), strict=True):
        torch.testing.assert_close(got.cpu(), batches.std(0) / math.sqrt(8), rtol=1e-9, atol=1e-15)
    assert path.standard_error([0.5, 1.5]).a.shape == (2, 5, 5)
    assert torch.equal(path.standard_error([0.5, 1.5]).w[1], error.w)


def test_lambda_min_error_is_the_jackknife(device: torch.device) -> None:
    x = problem(5, 1, 3)[0]
    path = hx.random_gram_path(x.to(device), 801, seed=4, batches=8)
    batches = sum(_batch_values(x, path.widths, 1.5, device))
    widths = torch.tensor(path.widths, dtype=torch.float64)
    left_out = []
    for out in range(8):
        keep = [b for b in range(8) if b != out]
        mean = (widths[keep, None, None] * batches[keep]).sum(0) / widths[keep].sum()
        left_out.append(torch.linalg.eigvalsh(mean)[0])
    jackknife = torch.stack(left_out)
    expected = (7 / 8 * (jackknife - jackknife.mean()).square().sum()).sqrt()
    torch.testing.assert_close(path.lambda_min_error(1.5).cpu(), expected, rtol=1e-9, atol=1e-15)
    assert path.lambda_min_error([0.5, 1.5], "a").shape == (2,)


def test_blocks_of_s_change_no_bit(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two matrices of 5 samples a block: three blocks of five values."""
    path = hx.random_gram_path(problem(5, 1, 3)[0].to(device), 300, batches=3)
    s = [0.2, 0.5, 1.0, 1.5, 2.0]
    methods = path.eigenvalues, path.lambda_min, path.lambda_min_error, path.standard_error
    whole = [method(s) for method in methods]
    monkeypatch.setattr("hrta_ext.ntk.path._BLOCK_ENTRIES", 50)
    for method, expected in zip(methods, whole, strict=True):
        assert _same(tuple(method(s)), tuple(expected))


# --- no samples -------------------------------------------------------------------------------------------------------


def test_no_samples_give_empty_matrices(device: torch.device) -> None:
    for d in (2, 3):
        x, weight, output_weight = (t.to(device) for t in problem(1, 20, d))
        for path in (hx.gram_path(x[:0], weight, output_weight), hx.random_gram_path(x[:0], 20)):
            assert path(0.5).a.shape == path(0.5).ntk.shape == path.derivative(0.5).w.shape == (0, 0)
            assert path([0.5, 1.0, 1.5]).w.shape == (3, 0, 0)
            assert path.eigenvalues(0.5).shape == (0,)
            assert path.eigenvalues([0.5, 1.0]).shape == (2, 0)
            assert (path + path).width == 40
        assert hx.gram(x[:0], weight, output_weight).a.shape == (0, 0)
        networks = hx.gram(x[:0], weight.expand(4, 20, d), output_weight.expand(4, 20), [0.5, 1.0])
        assert networks.a.shape == (2, 4, 0, 0)
        assert hx.random_gram_path(x[:0], 20).standard_error(0.5).a.shape == (0, 0)


def test_arguments_that_are_views(device: torch.device) -> None:
    """Strided s, transposed weights and lazily negated samples are read as torch shows them, not as stored."""
    x, weight, output_weight = (t.to(device) for t in problem(7, 20, 3))
    s = torch.linspace(0, 2, 9, dtype=torch.float64)
    expected = hx.gram(x, weight, output_weight, s[::2].tolist())
    negated = torch.complex(x, -x).conj().imag  # equals x, stored with the other sign
    assert negated.is_neg()
    found = hx.gram(negated, weight.mT.contiguous().mT, output_weight, s[::2])
    for got, true in zip(found, expected, strict=True):
        assert torch.equal(got, true)


def test_batches_are_the_parts_of_their_path() -> None:
    x = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    path = hx.random_gram_path(x, 50, seed=3, batches=4)
    parts = [path.batch(b) for b in range(path.batches)]
    assert tuple(part.width for part in parts) == path.widths
    assert all(part.batches == 1 and part.dtype == path.dtype and part.base == path.base for part in parts)
    together = sum(part.width * part(0.7).w for part in parts) / path.width
    torch.testing.assert_close(together, path(0.7).w, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("b", [-1, 4])
def test_a_batch_that_is_not_there(b: int) -> None:
    path = hx.random_gram_path(torch.eye(2), 50, batches=4)
    with pytest.raises(ValueError, match=rf"GramPath.batch: b must be from 0 to 3, got {b}"):
        path.batch(b)


@pytest.mark.parametrize("b", [True, 0.5, "0", None])
def test_a_batch_has_a_whole_number(b: object) -> None:
    with pytest.raises(TypeError, match=r"GramPath.batch: b must be an int, got "):
        hx.random_gram_path(torch.eye(2), 50, batches=4).batch(b)


@pytest.mark.parametrize("base", ["tanh", "sin"])
def test_derivative_where_sigma_is_nearly_the_identity(device: torch.device, base: str) -> None:
    """At |z| of 1e-3 it is a millionth of the terms it comes from: the float32 class keeps its 1e-6 all the same."""
    x, weight, output_weight = problem(12, 200, 3)
    x, s = 1e-3 * x, 0.7
    z = x @ weight.mT
    excess = -z.pow(3) / 3 + 2 * z.pow(5) / 15 if base == "tanh" else -z.pow(3) / 6 + z.pow(5) / 120
    value = z + s * excess
    truth = (value @ excess.mT + excess @ value.mT) / 200
    path = hx.gram_path(*(t.to(device) for t in (x, weight, output_weight)), base=base, dtype=torch.float32)
    assert relative_error(path.derivative(s).a, truth) < 1e-6
