"""Kernel regression: interpolation, ridge, gradient flow, and agreement with a trained wide network."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

import hrta_ext as hx


def data(n: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.linspace(-1, 1, n, dtype=torch.float64)[:, None]
    return x, torch.sin(3 * x[:, 0])


@pytest.mark.parametrize("kernel", ["ntk", "nngp"])
def test_interpolates_and_ridge_solves_its_normal_equations(kernel: str) -> None:
    """Without ridge f(x_i) = y_i; with it (K + ridge n I) alpha = y, checked by a plain solve, to 1e-9."""
    x, y = data()
    assert torch.allclose(hx.KernelRegression(kernel=kernel).fit(x, y).predict(x), y, atol=1e-6)
    ridge, new = 1e-3, torch.linspace(-1.5, 1.5, 7, dtype=torch.float64)[:, None]
    gram = hx.infinite_gram(hx.with_bias(x), 1.5)
    cross = hx.infinite_gram(hx.with_bias(new), 1.5, x2=hx.with_bias(x))
    k, k_new = (gram.ntk, cross.ntk) if kernel == "ntk" else (gram.a, cross.a)
    expected = k_new @ torch.linalg.solve(k + ridge * len(x) * torch.eye(len(x), dtype=torch.float64), y)
    model = hx.KernelRegression(s=1.5, kernel=kernel, ridge=ridge).fit(x, y)
    torch.testing.assert_close(model.predict(new), expected, rtol=1e-9, atol=1e-9)


def test_gradient_flow_solves_its_differential_equation() -> None:
    """f_t on the training samples is (I - exp(-K t / n)) y, by torch's matrix exponential; t -> inf interpolates."""
    x, y = data()
    k = hx.infinite_gram(hx.with_bias(x)).ntk
    for t in (0.1, 10.0, 1000.0):
        expected = y - torch.linalg.matrix_exp(-k * t / len(x)) @ y
        found = hx.KernelRegression(time=t).fit(x, y).predict(x)
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)
    assert torch.allclose(hx.KernelRegression(time=1e12).fit(x, y).predict(x), y, atol=1e-5)


@pytest.mark.parametrize("time", [None, 1e14, float("inf")])
def test_contradictory_duplicates_get_their_mean(time: float | None) -> None:
    """The kernel is singular: what training for ever gives is the least-squares fit, not amplified rounding."""
    x, y = data()
    model = hx.KernelRegression(time=time).fit(torch.cat([x, x]), torch.cat([y, y + 0.2]))
    torch.testing.assert_close(model.predict(x), y + 0.1, rtol=0, atol=1e-6)


def test_early_times_keep_the_small_eigenvalues() -> None:
    """f_t = k (t / n) y + O(t^2) away from the samples too, for a kernel with eigenvalues down to rounding."""
    x, y = data(40)
    new, t = torch.tensor([[0.123], [2.0]], dtype=torch.float64), 1e-6
    found = hx.KernelRegression(base="erf", time=t).fit(x, y).predict(new)
    expected = hx.infinite_gram(hx.with_bias(new), base="erf", x2=hx.with_bias(x)).ntk @ y * (t / 40)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)


def test_score_of_constant_targets() -> None:
    """scikit-learn's convention: 1 if every prediction is exact, else 0."""
    x, y = data()
    zero = torch.zeros_like(y)
    assert hx.KernelRegression().fit(x, zero).score(x, zero) == 1.0
    assert hx.KernelRegression().fit(x, y).score(x, zero) == 0.0


def test_agrees_with_a_wide_network_trained_by_gradient_descent() -> None:
    """Width 20 000 against infinity: predictions of the flow within 0.05, a few times m^(-1/2) = 0.007.

    Two copies of the same weights with opposite output weights start at f = 0, as the kernel flow does.
    """
    x, y = data(8)
    s, t, steps = 1.5, 20.0, 400
    generator = torch.Generator().manual_seed(0)
    m = 20_000
    half, out = torch.randn(m // 2, 2, generator=generator), torch.randn(m // 2, generator=generator)
    net = hx.TwoLayerNet(1, m, s=s).double()
    with torch.no_grad():
        net.weight.copy_(torch.cat([half, half]))
        net.output_weight.copy_(torch.cat([out, -out]))
    optimizer = torch.optim.SGD(net.parameters(), lr=t / steps)
    for _ in range(steps):
        optimizer.zero_grad()
        (0.5 * (net(x) - y).square().mean()).backward()
        optimizer.step()
    new = torch.linspace(-1, 1, 15, dtype=torch.float64)[:, None]
    expected = hx.KernelRegression(s=s, time=t).fit(x, y).predict(new)
    assert float((net(new) - expected).detach().abs().max()) < 0.05
    assert float(expected.abs().max()) > 0.3  # the flow has gone somewhere


def test_numpy_in_numpy_out_and_many_outputs() -> None:
    x, y = (z.numpy() for z in data())
    both = np.stack([y, 2 * y], axis=1)
    model = hx.KernelRegression(base="erf", depth=2).fit(x, both)
    assert isinstance(model.predict(x), np.ndarray)
    assert model.predict(x).shape == both.shape
    assert model.score(x, both) == pytest.approx(1.0, abs=1e-6)


def test_parameters_are_scikit_learn_s() -> None:
    model = hx.KernelRegression(s=0.5)
    assert model.set_params(ridge=0.1).get_params()["ridge"] == 0.1
    assert "ridge=0.1" in repr(model)
    with pytest.raises(ValueError, match="'alpha' is no parameter"):
        model.set_params(alpha=1)


def test_works_inside_scikit_learn() -> None:
    selection = pytest.importorskip("sklearn.model_selection")
    x, y = (z.numpy() for z in data(30))
    folds = selection.KFold(3, shuffle=True, random_state=0)
    search = selection.GridSearchCV(hx.KernelRegression(), {"s": [0.5, 1.0], "ridge": [1e-8, 1e-2]}, cv=folds)
    assert search.fit(x, y).best_score_ > 0.99


@pytest.mark.parametrize(
    ("options", "x", "y", "message"),
    [
        ({"kernel": "rbf"}, [[1.0]], [1.0], 'kernel must be "ntk" or "nngp"'),
        ({"ridge": -1.0}, [[1.0]], [1.0], "ridge must be finite and not negative"),
        ({"time": 0.0}, [[1.0]], [1.0], "time must be positive or None"),
        ({"time": "a"}, [[1.0]], [1.0], "time must be positive or None"),
        ({"s": [0.5, 1.0]}, [[1.0]], [1.0], "s must be one number"),
        ({"time": 1.0, "ridge": 1.0}, [[1.0]], [1.0], "time and ridge cannot be combined"),
        ({}, [1.0], [1.0], r"x must have shape \(n, d\)"),
        ({}, [[1.0]], [1.0, 2.0], r"y must have shape \(1,\)"),
        ({}, [[float("nan")]], [1.0], "x must be finite"),
        ({}, [["a"]], [1.0], "x must hold real numbers"),
        ({}, np.zeros((0, 2)), np.zeros(0), "at least one sample"),
    ],
)
def test_bad_input(options: dict[str, object], x: object, y: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        hx.KernelRegression(**options).fit(x, y)


def test_predict_needs_fit_and_the_same_features() -> None:
    with pytest.raises(ValueError, match="call fit before predict"):
        hx.KernelRegression().predict([[1.0]])
    x, y = data()
    with pytest.raises(ValueError, match=r"x must have shape \(n, 1\), as in fit"):
        hx.KernelRegression().fit(x, y).predict(torch.zeros(3, 2))


def test_arrays_of_any_kind_are_read() -> None:
    """Reversed, read-only, in Fortran's order, of the other order of bytes, or strided: the numbers are what counts."""
    x, y = np.random.default_rng(0).normal(size=(12, 3)), np.linspace(-1, 1, 12)
    expected = hx.KernelRegression().fit(x, y).predict(x)
    frozen = x.copy()
    frozen.flags.writeable = False
    views = {
        "reversed": x[::-1].copy()[::-1],
        "read-only": frozen,
        "Fortran": np.asfortranarray(x),
        "other bytes": x.astype(">f8"),
        "strided": np.repeat(x, 2, axis=1)[:, ::2],
        "unaligned": np.frombuffer(b"\0" + x.tobytes(), dtype=np.uint8)[1:].view(np.float64).reshape(12, 3),
        "negative bit": torch._neg_view(torch.from_numpy(-x)),
    }
    for name, view in views.items():
        found = np.asarray(hx.KernelRegression().fit(view, y[::-1][::-1]).predict(view))
        np.testing.assert_array_equal(found, expected, err_msg=name)


class Table:
    """Columns with names, as pandas and polars have them, and no more."""

    def __init__(self, values: np.ndarray, columns: list[str]) -> None:
        self.values, self.columns = values, columns

    def __array__(self, dtype: object = None, copy: object = None) -> np.ndarray:
        return np.asarray(self.values, dtype=dtype)


SQUARE = np.arange(6.0).reshape(3, 2)
NO_NUMBERS = {
    "complex array": (SQUARE + 1j, "Complex data not supported"),
    "complex tensor": (torch.from_numpy(SQUARE + 1j), "Complex data not supported"),
    "complex lists": ([[1j, 1.0]] * 3, "Complex data not supported"),
    "complex objects": (np.array([[1.0, np.complex128(1)]] * 3, dtype=object), "complex128"),
    "sparse tensor": (torch.from_numpy(SQUARE).to_sparse(), "sparse"),
    "text": (SQUARE.astype(str), "dtype <U32"),
    "bytes": (SQUARE.astype(bytes), r"dtype \|S32"),
    "text objects": (SQUARE.astype(str).astype(object), "str '0.0' among objects"),
    "other objects": (np.array([[{}, 1.0]] * 3), "argument must be a string or a real number"),
    "dates": (SQUARE.astype("datetime64[D]"), "datetime64"),
    "dates as objects": (np.array([[np.datetime64(1, "D")] * 2] * 3, dtype=object), "datetime64"),
    "durations": (SQUARE.astype("timedelta64[D]"), "timedelta64"),
    "records": (np.zeros((3, 2), dtype=[("a", float)]), "dtype"),
    "masked": (np.ma.masked_less(SQUARE, 1.0), "masked"),
    "meta": (torch.empty(3, 2, device="meta"), "meta tensor"),
    "too large": ([[10**400, 1]] * 3, "too large"),
}


@pytest.mark.parametrize("which", ["x", "y"])
@pytest.mark.parametrize("kind", NO_NUMBERS)
def test_what_is_no_dense_array_of_real_numbers_is_refused(kind: str, which: str) -> None:
    """By name, as TypeError and ValueError: NumPy would drop imaginary parts and masks, and read text as numbers."""
    values, message = NO_NUMBERS[kind]
    arguments = (values, SQUARE[:, 0]) if which == "x" else (SQUARE, values)
    for error in (TypeError, ValueError):
        with pytest.raises(error, match=rf"KernelRegression: {which} must hold .*{message}"):
            hx.KernelRegression().fit(*arguments)


def test_scipy_s_sparse_matrices_are_refused() -> None:
    sparse = pytest.importorskip("scipy.sparse")
    for x in (sparse.csr_matrix(SQUARE), sparse.coo_array(SQUARE)):
        with pytest.raises(TypeError, match="x must hold real numbers in a dense array, got sparse data"):
            hx.KernelRegression().fit(x, SQUARE[:, 0])


def test_every_kind_of_real_number_is_taken() -> None:
    expected = hx.KernelRegression().fit(SQUARE, SQUARE[:, 0]).predict(SQUARE)
    kinds = (
        SQUARE.astype(int),
        SQUARE.astype(object),
        SQUARE.astype(">f4"),
        np.asfortranarray(SQUARE),
        SQUARE.tolist(),
    )
    for x in (*kinds, np.ma.array(SQUARE)):
        np.testing.assert_array_equal(hx.KernelRegression().fit(x, SQUARE[:, 0]).predict(x), expected)
    halves = torch.from_numpy(SQUARE).bfloat16()
    np.testing.assert_array_equal(hx.KernelRegression().fit(halves, halves[:, 0]).predict(halves).numpy(), expected)


def test_columns_are_known_by_their_names() -> None:
    model = hx.KernelRegression(ridge=0.1).fit(Table(SQUARE, ["a", "b"]), SQUARE[:, 0])
    assert list(model.feature_names_in_) == ["a", "b"]
    assert model.n_features_in_ == 2
    model.predict(Table(SQUARE, ["a", "b"]))
    with pytest.raises(ValueError, match="same order"):
        model.predict(Table(SQUARE, ["b", "a"]))
    with pytest.raises(
        ValueError, match="unseen at fit time:\n- c\nFeature names seen at fit time, yet now missing:\n- b"
    ):
        model.predict(Table(SQUARE, ["a", "c"]))
    with pytest.warns(UserWarning, match="does not have valid feature names"):
        model.predict(SQUARE)
    model.fit(SQUARE, SQUARE[:, 0])
    assert not hasattr(model, "feature_names_in_")
    with pytest.warns(UserWarning, match="fitted without feature names"):
        model.predict(Table(SQUARE, ["a", "b"]))


# A check that may fail, by name, and why; check_estimator takes it as expected_failed_checks. There is none.
EXPECTED_FAILED_CHECKS: dict[str, str] = {}


def test_passes_scikit_learn_s_checks() -> None:
    checks = pytest.importorskip("sklearn.utils.estimator_checks")
    for model in (hx.KernelRegression(), hx.KernelRegression(base="erf", kernel="nngp", bias=False, ridge=1e-6)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = checks.check_estimator(
                model, expected_failed_checks=EXPECTED_FAILED_CHECKS, on_fail=None, on_skip=None
            )
        failed = {check["check_name"]: check["exception"] for check in found if check["status"] == "failed"}
        assert failed == {}
        assert sum(check["status"] == "passed" for check in found) > 30


def test_predict_before_fit_is_scikit_learn_s_error() -> None:
    exceptions = pytest.importorskip("sklearn.exceptions")
    with pytest.raises(exceptions.NotFittedError, match="call fit before predict"):
        hx.KernelRegression().predict(SQUARE)
