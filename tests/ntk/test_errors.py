"""Bad input to the Gram builder: one clear error each, before any work, naming the argument and what came."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ntk.cases import problem

import hrta_ext as hx

X, W, A = problem(4, 10, 3)
PATH = hx.gram_path(X, W, A)
LATE = torch.cat([X, torch.tensor([[0.0, math.inf, 1.0]], dtype=torch.float64), X * math.nan])

WEIGHT_ERRORS = [
    (("x", W, A), TypeError, "x must be a tensor, got str"),
    ((X.long(), W, A), TypeError, "x must be float32 or float64, got torch.int64"),
    ((X.half(), W.half(), A.half()), TypeError, "x must be float32 or float64, got torch.float16"),
    ((X[0], W, A), ValueError, r"x must have shape \(n, D\) with D >= 1, got \(3,\)"),
    ((X[:, :0], W, A), ValueError, r"x must have shape \(n, D\) with D >= 1, got \(4, 0\)"),
    ((LATE, W, A), ValueError, r"x must be finite, row 4 is \[0.0, inf, 1.0\]"),
    ((X, None, A), TypeError, "weight must be a tensor, got NoneType"),
    ((X, W, [1.0]), TypeError, "output_weight must be a tensor, got list"),
    ((X, W.float(), A), TypeError, "weight must have x's dtype torch.float64, got torch.float32"),
    ((X, W, A.long()), TypeError, "output_weight must have x's dtype torch.float64, got torch.int64"),
    ((X, W.to("meta"), A), ValueError, "weight must be on x's device cpu, got meta"),
    ((X, W, A.to("meta")), ValueError, "output_weight must be on x's device cpu, got meta"),
    ((X, W[:, :2], A), ValueError, r"weight must have shape \(\.\.\., width, 3\) to match x, got \(10, 2\)"),
    ((X, W[0], A), ValueError, r"weight must have shape \(\.\.\., width, 3\) to match x, got \(3,\)"),
    ((X, W, A[1:]), ValueError, r"output_weight must have shape \(10,\) to match weight, got \(9,\)"),
    ((X, W.expand(2, 10, 3), A), ValueError, r"output_weight must have shape \(2, 10\) to match weight, got \(10,\)"),
    ((X, W[:0], A[:0]), ValueError, "weight must hold at least one neuron"),
]
OPTION_ERRORS: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"base": "swish"}, ValueError, "base must be one of relu, relu2, .*, got 'swish'"),
    ({"base": 3}, TypeError, r"base must be the name of a base activation \(str\), got int"),
    ({"dtype": torch.float16}, ValueError, "dtype must be torch.float32 or torch.float64, got torch.float16"),
    ({"dtype": torch.int64}, ValueError, "dtype must be torch.float32 or torch.float64, got torch.int64"),
    ({"memory_budget": 1.5}, TypeError, r"memory_budget must be a number of bytes \(int\), got 1.5"),
    ({"memory_budget": True}, TypeError, r"memory_budget must be a number of bytes \(int\), got True"),
    ({"memory_budget": 1}, ValueError, r"memory_budget must be at least \d+ bytes here, got 1"),
]
DRAW_ERRORS: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"width": 0}, ValueError, "width must be at least 1, got 0"),
    ({"width": -1}, ValueError, "neurons are numbered 0 to 2\\^48 - 1, got first_neuron=0, width=-1"),
    ({"width": 1e9}, TypeError, "width must be an int, got 1000000000.0"),
    ({"width": True}, TypeError, "width must be an int, got True"),
    ({"width": 2**48 + 1}, ValueError, "neurons are numbered"),
    ({"first_neuron": -1}, ValueError, "neurons are numbered 0 to .*, got first_neuron=-1, width=10"),
    ({"first_neuron": 2**48 - 9}, ValueError, "neurons are numbered"),
    ({"first_neuron": 0.0}, TypeError, "first_neuron must be an int, got 0.0"),
    ({"seed": -1}, ValueError, r"seed must be in \[0, 2\^64\), got -1"),
    ({"seed": 2**64}, ValueError, r"seed must be in \[0, 2\^64\), got 18446744073709551616"),
    ({"seed": "1"}, TypeError, "seed must be an int, got '1'"),
    ({"batches": 0}, ValueError, "batches must be at least 1, got 0"),
    ({"batches": 2.0}, TypeError, "batches must be an int, got 2.0"),
]
S_ERRORS: list[tuple[Any, type[Exception], str]] = [
    (math.nan, ValueError, "s must be finite, got nan"),
    ([0.5, math.inf], ValueError, "s must be finite, got inf"),
    (torch.tensor([0.5, -math.inf]), ValueError, "s must be finite, got -inf"),
    ([[0.5]], ValueError, r"s must be a float or have shape \(S,\), got shape \(1, 1\)"),
    (torch.zeros(2, 2), ValueError, r"s must be a float or have shape \(S,\), got shape \(2, 2\)"),
    ("1", TypeError, "s must be a float or a 1-D sequence of floats, got str"),
    (None, TypeError, "s must be a float or a 1-D sequence of floats, got NoneType"),
    (True, TypeError, "s must be a float or a 1-D sequence of floats, got bool"),
    (["a"], TypeError, r"s must be a float or a 1-D sequence of floats, got \['a'\]"),
    ([[0.5], [1.0, 2.0]], TypeError, r"s must be a float or a 1-D sequence of floats, got \[\[0.5\], \[1.0, 2.0\]\]"),
]


def _raises(error: Any, message: str, function: Callable[..., Any], *arguments: Any, **options: Any) -> None:
    with pytest.raises(error, match=message) as caught:
        function(*arguments, **options)
    if "base" not in options:
        assert str(caught.value).startswith(function.__qualname__.removeprefix("_") + ": ")


@pytest.mark.parametrize(("arguments", "error", "message"), WEIGHT_ERRORS)
@pytest.mark.parametrize("function", [hx.gram, hx.gram_path])
def test_samples_and_weights(function: Any, arguments: Any, error: Any, message: str) -> None:
    _raises(error, message, function, *arguments)


@pytest.mark.parametrize(("arguments", "error", "message"), [case for case in WEIGHT_ERRORS if "x must" in case[2]])
def test_samples_of_drawn_networks(arguments: Any, error: Any, message: str) -> None:
    _raises(error, message, hx.random_gram_path, arguments[0], 10)


@pytest.mark.parametrize(("options", "error", "message"), OPTION_ERRORS)
def test_options(options: dict[str, Any], error: Any, message: str, device: torch.device) -> None:
    x, weight, output_weight = (t.to(device) for t in (X, W, A))
    for function in (hx.gram, hx.gram_path):
        _raises(error, message, function, x, weight, output_weight, **options)
    _raises(error, message, hx.random_gram_path, x, 10, **options)


@pytest.mark.parametrize(("options", "error", "message"), DRAW_ERRORS)
def test_drawing(options: dict[str, Any], error: Any, message: str) -> None:
    given = {"width": 10} | options
    _raises(error, message, hx.random_gram_path, X, given.pop("width"), **given)


def test_random_weights() -> None:
    for arguments, error, message in (
        ((0, -1, 3), ValueError, "got first_neuron=0, count=-1"),
        ((0, 1.0, 3), TypeError, "count must be an int, got 1.0"),
        ((2**48, 1, 3), ValueError, "neurons are numbered"),
        ((0, 1, 0), ValueError, "n_features must be an int of at least 1, got 0"),
        ((0, 1, 2.0), ValueError, "n_features must be an int of at least 1, got 2.0"),
    ):
        _raises(error, message, hx.random_weights, *arguments)
    _raises(
        ValueError,
        "dtype must be a floating-point type, got torch.int64",
        hx.random_weights,
        0,
        1,
        1,
        dtype=torch.int64,
    )


@pytest.mark.parametrize(("s", "error", "message"), S_ERRORS)
def test_parameters(s: Any, error: Any, message: str) -> None:
    _raises(error, message, hx.gram, X, W, A, s)
    for name in ("derivative", "eigenvalues", "lambda_min", "standard_error", "lambda_min_error"):
        _raises(error, f"^GramPath.{name}: {message}", getattr(PATH, name), s)
    with pytest.raises(error, match=f"^GramPath: {message}"):
        PATH(s)


def test_large_finite_samples_are_accepted(device: torch.device) -> None:
    """The sum of x overflows here, x does not."""
    x = torch.full((4, 3), 3e38, device=device)
    assert hx.gram(x, torch.zeros(2, 3, device=device), torch.zeros(2, device=device)).a.shape == (4, 4)


@pytest.mark.parametrize("shape", [(4, 10, 2), (4, 10, 3), (100, 1000, 40), (300, 50, 3)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_budget_that_the_message_names_works(
    shape: tuple[int, int, int], dtype: torch.dtype, device: torch.device
) -> None:
    tensors = [t.to(device) for t in problem(*shape, dtype=dtype)]
    with pytest.raises(ValueError, match=r"memory_budget must be at least \d+ bytes here, got 0") as caught:
        hx.gram_path(*tensors, memory_budget=0)
    least = int(str(caught.value).split("at least ")[1].split()[0])
    for call in (
        lambda budget: hx.gram_path(*tensors, memory_budget=budget),
        lambda budget: hx.gram(*tensors, memory_budget=budget),
        lambda budget: hx.random_gram_path(tensors[0], 10, memory_budget=budget),
    ):
        call(least)
        with pytest.raises(ValueError, match=f"at least {least} bytes here, got {least - 1}"):
            call(least - 1)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("base", ["relu", "tanh"])
@pytest.mark.parametrize("d", [2, 3])
def test_a_weight_that_is_not_finite_gives_nan(d: int, base: str, bad: float, device: torch.device) -> None:
    """In every entry of both matrices, never in those of another network."""
    x, weight, output_weight = problem(4, 3000, d)
    for weight_is_bad in (True, False):
        weights, outputs = weight.expand(3, 3000, d).clone(), output_weight.expand(3, 3000).clone()
        if weight_is_bad:
            weights[1, 2999, 0] = bad
        else:
            outputs[1, 5] = bad
        result = hx.gram(x.to(device), weights.to(device), outputs.to(device), [0.5, 1.0], base=base)
        for matrix in result:
            assert matrix[:, 1].isnan().all()
            assert matrix[:, [0, 2]].isfinite().all()


# --- paths ------------------------------------------------------------------------------------------------------------


def _adds(one: hx.GramPath, two: Any) -> None:
    _ = one + two


def test_addition() -> None:
    for other, message in (
        (hx.gram_path(X, W, A, base="tanh"), "must have the same base, got 'relu' and 'tanh'"),
        (hx.gram_path(X[:3], W, A), "must have the same samples x"),
        (hx.gram_path(X + 1e-12, W, A), "must have the same samples x"),
        (hx.gram_path(X, W[None], A[None]), "must have the same leading dimensions of networks"),
    ):
        with pytest.raises(ValueError, match=f"^GramPath: both paths {message}"):
            _adds(PATH, other)
    for other in (3, None, X):
        with pytest.raises(TypeError):
            _adds(PATH, other)


def test_spectra() -> None:
    for method in (PATH.eigenvalues, PATH.lambda_min):
        with pytest.raises(ValueError, match=r"^GramPath: kernel must be one of ntk, a, w, got 'nngp'"):
            method(0.5, kernel="nngp")
    empty = hx.gram_path(X[:0], W, A)
    with pytest.raises(ValueError, match=r"^GramPath\.lambda_min: there are no samples, so no eigenvalues"):
        empty.lambda_min(0.5)
    with pytest.raises(ValueError, match=r"^GramPath\.lambda_min_error: there are no samples, so no eigenvalues"):
        hx.random_gram_path(X[:0], 100).lambda_min_error(0.5)
    with pytest.raises(ValueError, match="kernel must be one of ntk, a, w, got 'nngp'"):
        hx.random_gram_path(X, 100).lambda_min_error(0.5, kernel="nngp")


def test_error_bars_need_batches() -> None:
    for path in (PATH, hx.random_gram_path(X, 1), hx.random_gram_path(X, 100, batches=1)):
        for name in ("standard_error", "lambda_min_error"):
            message = rf"^GramPath\.{name}: needs at least 2 batches of neurons, this path has 1; random_gram_path"
            with pytest.raises(ValueError, match=message):
                getattr(path, name)(0.5)


# --- files ------------------------------------------------------------------------------------------------------------


def _npz(path: Path, about: dict[str, Any], **changes: Any) -> Path:
    tensors = {"x": PATH.x.numpy(), **{name: part.numpy() for name, part in PATH.sums._asdict().items()}} | changes
    np.savez(path, about=np.array(json.dumps(about)), **tensors)
    return path


ABOUT = {"base": "relu", "dtype": "float64", "widths": [10]}


def test_names_of_files(tmp_path: Path) -> None:
    for name in ("path.pt", "path"):
        with pytest.raises(ValueError, match=r"^GramPath\.save: path must end in \.npz or \.safetensors, got .*path"):
            PATH.save(tmp_path / name)
        with pytest.raises(ValueError, match=r"^GramPath\.load: path must end in \.npz or \.safetensors, got .*path"):
            hx.GramPath.load(tmp_path / name)
    assert not list(tmp_path.iterdir())
    for name in ("none.npz", "none.safetensors"):
        if name.endswith("safetensors"):
            pytest.importorskip("safetensors")
        with pytest.raises(FileNotFoundError):
            hx.GramPath.load(tmp_path / name)


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
@pytest.mark.parametrize("content", [b"", b"not a path at all", b"\xff" * 1000])
def test_files_of_something_else(content: bytes, suffix: str, tmp_path: Path) -> None:
    if suffix == ".safetensors":
        pytest.importorskip("safetensors")
    file = tmp_path / f"other{suffix}"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"^GramPath\.load: .*other.* is not a saved GramPath"):
        hx.GramPath.load(file)


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_cut_file(suffix: str, tmp_path: Path) -> None:
    if suffix == ".safetensors":
        pytest.importorskip("safetensors")
    file = tmp_path / f"cut{suffix}"
    PATH.save(file)
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"^GramPath\.load: .* is not a saved GramPath"):
        hx.GramPath.load(file)


def test_files_without_safetensors(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(__import__("sys").modules, "safetensors", None)
    with pytest.raises(ValueError, match="safetensors files need the package safetensors"):
        PATH.save(tmp_path / "path.safetensors")
    assert not list(tmp_path.iterdir())


OTHER_WRITERS: dict[str, Any] = {
    "Fortran's order": np.asfortranarray,
    "bytes in the other order": lambda a: a.astype(a.dtype.newbyteorder()),
    "both": lambda a: np.asfortranarray(a.astype(a.dtype.newbyteorder())),
}


@pytest.mark.parametrize("style", OTHER_WRITERS)
@pytest.mark.parametrize("batches", [1, 3])
def test_arrays_of_other_writers_give_the_same_numbers(
    style: str, batches: int, tmp_path: Path, device: torch.device
) -> None:
    """The kernels read the sums by address, in C's order and the machine's own."""
    path = hx.random_gram_path(X.to(device), 500, batches=batches)
    path.save(tmp_path / "path.npz")
    with np.load(tmp_path / "path.npz") as file:
        arrays = {name: OTHER_WRITERS[style](file[name]) if file[name].ndim else file[name] for name in file.files}
    np.savez(tmp_path / "other.npz", **arrays)
    loaded = hx.GramPath.load(tmp_path / "other.npz")
    assert torch.equal(loaded(0.7).ntk, path(0.7).ntk.cpu())
    assert torch.equal((loaded + loaded).derivative([0.5, 1.5]).w, (path + path).derivative([0.5, 1.5]).w.cpu())


def test_sums_of_any_strides_or_wrong_shapes() -> None:
    """GramPath is public: whoever makes one by hand gets right numbers or an error."""
    sums = type(PATH.sums)(*(torch.stack([part, part], -1)[..., 0] for part in PATH.sums))
    assert torch.equal(hx.GramPath(PATH.x, "relu", torch.float64, (10,), sums)(0.7).ntk, PATH(0.7).ntk)
    short = PATH.sums._replace(value_product=PATH.sums.value_product[:, :2])
    with pytest.raises((ValueError, RuntimeError), match=r"value_product must be 16 values|size of tensor"):
        hx.GramPath(PATH.x, "relu", torch.float64, (10,), short)(0.7)


CHANGES: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"base": "swish"}, {}),
    ({"dtype": "float16"}, {}),
    ({"widths": [10, 10]}, {}),
    ({"widths": []}, {}),
    ({"widths": [0]}, {}),
    ({"widths": [10**30]}, {}),
    ({}, {"x": PATH.x.numpy()[:3]}),
    ({}, {"x": PATH.x.numpy()[:, :2]}),
    ({}, {"value_product": PATH.sums.value_product.numpy()[:, :3]}),
    ({}, {"slope_sum": PATH.sums.slope_sum.numpy().astype(np.float32)}),
    ({}, {"linear": PATH.sums.linear.numpy()[None]}),
]


@pytest.mark.parametrize(("about", "tensors"), CHANGES)
def test_files_whose_parts_do_not_fit(about: dict[str, Any], tensors: dict[str, Any], tmp_path: Path) -> None:
    """The compiled kernels read the sums by address: a wrong shape must not reach them."""
    file = _npz(tmp_path / "path.npz", ABOUT)
    assert torch.equal(hx.GramPath.load(file)(0.5).a, PATH(0.5).a)
    _npz(file, ABOUT | about, **tensors)
    with pytest.raises(ValueError, match=r"^GramPath\.load: .* is not a saved GramPath"):
        hx.GramPath.load(file)


def test_a_failed_save_keeps_the_old_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "path.npz"
    PATH.save(file)
    before = file.read_bytes()

    def fail(*arguments: Any, **keywords: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(np, "savez", fail)
    with pytest.raises(OSError, match="disk full"):
        PATH.save(file)
    assert file.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["path.npz"]
