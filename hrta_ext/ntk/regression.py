"""Regression with the kernels of wide networks, infinitely wide or not: what training them converges to."""

from __future__ import annotations

import math
import sys
import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hrta_ext.callers import aligned
from hrta_ext.inputs import DtypeError, as_float, check_finite, check_flag, shown, with_bias
from hrta_ext.ntk.kernels import InfiniteKernel, finite_kernel
from hrta_ext.ntk.types import Gram

Array = Any  # numpy array, tensor or nested sequence


class KernelRegression:
    """Ridge regression or gradient flow with the NTK or NNGP kernel of a wide network; a scikit-learn estimator.

    It passes every check of ``sklearn.utils.estimator_checks.check_estimator`` without needing scikit-learn itself.

    With K the kernel on the training samples and k that between new and training samples:
    f = k (K + ridge n I)^{-1} y, or, with a finite ``time`` t, gradient flow from f = 0 on R = 1/(2n) sum (f - y)^2:
    f = k K^{-1} (I - exp(-K t / n)) y, the mean prediction of an infinitely wide network trained that long (Jacot,
    Gabriel, Hongler 2018; Lee et al. 2019). One eigendecomposition, O(n^3).

    With a ``network`` its own kernel at finite width takes the place of the infinite one: that of its weights as they
    are when fit is called (computed in the float64 class, on their device), or of a path of :func:`random_gram_path` on
    the training samples, whose neurons are drawn again for the kernel between new samples and those. A path in the
    float32 class leaves out eigenvalues below 1e-6 |K|.

    Args:
        s: Homotopy parameter; default: that of the network, 1 for a path and without one.
        base: Base activation, where there is no network.
        depth: Hidden layers, where there is no network.
        kernel: "ntk" (all layers trained) or "nngp" (the last layer alone).
        ridge: Penalty per sample; 0 interpolates, stably, by leaving out eigenvalues below rounding.
        bias: Append the constant 1 to the samples.
        time: Gradient-flow time; None trains for ever. Long times leave out eigenvalues below rounding, too.
        network: A :class:`TwoLayerNet`, a :class:`GramPath` of drawn neurons, or None for infinite width.

    Attributes:
        dual_coef_: (K + ridge n I)^{-1} y or its like for a ``time``, in y's shape.
        samples_: Training samples, with the constant 1 if there is one.
        n_features_in_: d.
        feature_names_in_: Names of the columns (d,), where x was a table that has names.
        kernel_: Where predict gets its kernel from: a network's has copies of its weights.

    Example:
        >>> import numpy as np, hrta_ext as hx
        >>> x = np.linspace(0, 1, 20)[:, None]
        >>> model = hx.KernelRegression(s=1.5).fit(x, np.sin(3 * x[:, 0]))
        >>> model.score(x, np.sin(3 * x[:, 0])) > 0.999
        True
        >>> finite = hx.KernelRegression(network=hx.TwoLayerNet(1, 1000, seed=0))
        >>> finite.fit(x, np.sin(3 * x[:, 0])).predict(x[:2]).shape
        (2,)
    """

    _NAMES = ("s", "base", "depth", "kernel", "ridge", "bias", "time", "network")
    network: Any = None  # of pickles of 0.1.0, like kernel_
    kernel_: Any = None

    def __init__(
        self,
        s: float | None = None,
        base: str = "relu",
        depth: int = 1,
        kernel: str = "ntk",
        ridge: float = 0.0,
        bias: bool = True,
        time: float | None = None,
        network: Any = None,
    ) -> None:
        self.s, self.base, self.depth, self.kernel = s, base, depth, kernel
        self.ridge, self.bias, self.time, self.network = ridge, bias, time, network

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The arguments of the constructor, by name."""
        return {name: getattr(self, name) for name in self._NAMES}

    def set_params(self, **parameters: Any) -> KernelRegression:
        """Set arguments of the constructor."""
        for name, value in parameters.items():
            if name not in self._NAMES:
                raise ValueError(f"KernelRegression: {name!r} is no parameter; there are {', '.join(self._NAMES)}")
            setattr(self, name, value)
        return self

    def __repr__(self) -> str:
        return f"KernelRegression({', '.join(f'{name}={value!r}' for name, value in self.get_params().items())})"

    def __sklearn_tags__(self) -> Any:
        """What scikit-learn asks of an estimator since 1.6."""
        from sklearn.utils import RegressorTags, Tags, TargetTags

        return Tags(
            estimator_type="regressor",
            target_tags=TargetTags(required=True, multi_output=True),
            regressor_tags=RegressorTags(),
        )

    def fit(self, x: Array, y: Array) -> KernelRegression:
        """Fit to samples x (n, d) and targets y (n,) or (n, outputs): tables, arrays, tensors or nested sequences.

        Raises:
            ValueError: Shapes that do not match, values that are not finite or masked, parameters out of range.
            TypeError: Sparse or complex data, text, dates; it is a ValueError too.
        """
        check_flag(self.bias, "KernelRegression: bias")
        if self.kernel not in ("ntk", "nngp"):
            raise ValueError(f'KernelRegression: kernel must be "ntk" or "nngp", got {self.kernel!r}')
        if self.s is not None:
            if not _is_number(self.s):
                raise ValueError(f"KernelRegression: s must be one number, got {shown(self.s)}")
            check_finite(self.s, "KernelRegression: s")
        if not (_is_number(self.ridge) and 0 <= as_float(self.ridge) < math.inf):
            raise ValueError(f"KernelRegression: ridge must be finite and not negative, got {shown(self.ridge)}")
        if self.time is not None and not (_is_number(self.time) and self.time > 0):
            raise ValueError(f"KernelRegression: time must be positive or None, got {shown(self.time)}")
        if self.time is not None and self.ridge > 0:
            raise ValueError("KernelRegression: time and ridge cannot be combined: gradient flow has no penalty")
        if y is None:
            raise ValueError("KernelRegression: requires y to be passed, but the target y is None")
        samples, targets = self._samples(x), _tensor(y, "y")
        if targets.dim() not in (1, 2) or targets.shape[0] != samples.shape[0]:
            raise ValueError(
                f"KernelRegression: y must have shape ({samples.shape[0]},) or ({samples.shape[0]}, outputs), "
                f"got {tuple(targets.shape)}"
            )
        if samples.shape[0] == 0:
            raise ValueError("KernelRegression: x must have at least one sample")
        source = self._source(samples.shape[1])
        kernel = self._chosen(source.between(samples))
        if not bool(kernel.isfinite().all()):
            what = "overflows float64" if self.network is None else "of the network is not finite"
            raise ValueError(f"KernelRegression: the kernel {what} at s = {source.s:g} on these x")
        values, vectors = torch.linalg.eigh(kernel)
        n = samples.shape[0]
        penalty = as_float(self.ridge) * n
        # What rounding makes of a zero eigenvalue, or the kernel's own error.
        cutoff = torch.maximum(n * torch.finfo(torch.float64).eps * values[-1], source.error * values.norm())
        if self.time is not None:
            # (1 - exp(-lambda t / n)) / lambda, t / n at lambda = 0 until times that would blow rounding errors up.
            t = torch.tensor(as_float(self.time) / n, dtype=torch.float64)
            inverse = torch.where(
                values > cutoff, -torch.expm1(-values * t) / values, torch.where(cutoff * t < 1e-3, t, 0.0)
            )
        else:
            inverse = torch.where(values + penalty > cutoff, 1.0 / (values + penalty), 0.0)
        rotated = vectors.mT @ targets.reshape(n, -1)
        self.dual_coef_ = (vectors @ (inverse[:, None] * rotated)).reshape(targets.shape)
        self.samples_, self.kernel_ = samples, source
        self.n_features_in_ = samples.shape[1] - int(self.bias)
        self.__dict__.pop("feature_names_in_", None)
        if (names := _column_names(x)) is not None:
            self.feature_names_in_ = names
        return self

    def predict(self, x: Array) -> Array:
        """Predictions at x (n2, d): (n2,) or (n2, outputs), a tensor if x is one, else a NumPy array."""
        if not hasattr(self, "dual_coef_"):
            # scikit-learn's own error where it is loaded: its searches and pipelines look for it. A ValueError, too.
            exceptions = sys.modules.get("sklearn.exceptions")
            error = ValueError if exceptions is None else exceptions.NotFittedError
            raise error("KernelRegression: call fit before predict")
        self._check_names(_column_names(x))
        samples = self._samples(x)
        if samples.shape[1] != self.samples_.shape[1]:
            came, expected = samples.shape[1] - int(self.bias), self.n_features_in_
            raise ValueError(
                f"KernelRegression: x must have shape (n, {expected}), as in fit, got {(samples.shape[0], came)}: "
                f"X has {came} features, but KernelRegression is expecting {expected} features as input"
            )
        source = self.kernel_ or self._source(samples.shape[1])
        predicted = self._chosen(source.between(samples, self.samples_)) @ self.dual_coef_
        return predicted if isinstance(x, Tensor) else predicted.numpy()

    def score(self, x: Array, y: Array) -> float:
        """R^2, the share of the variance of y that is explained; for constant y 1 if all are exact, else 0."""
        targets, predicted = _tensor(y, "y"), _tensor(self.predict(x), "prediction")
        if targets.shape != predicted.shape:
            raise ValueError(
                f"KernelRegression: y must have shape {tuple(predicted.shape)}, got {tuple(targets.shape)}"
            )
        total = float((targets - targets.mean(0)).square().sum())
        rest = float((targets - predicted).square().sum())
        return 1.0 - rest / total if total > 0.0 else float(rest == 0.0)

    def _source(self, n_features: int) -> Any:
        """Where the kernel of samples (n, n_features) comes from."""
        if self.network is None:
            return InfiniteKernel(self.base, self.depth, 1.0 if self.s is None else self.s)
        source = finite_kernel(self.network, self.s)
        if self.depth != 1 or self.base not in ("relu", source.base):
            raise ValueError(
                f"KernelRegression: base and depth must be those of the network, {source.base!r} and 1, "
                f"got {self.base!r} and {shown(self.depth)}"
            )
        if source.n_features != n_features:
            raise ValueError(
                f"KernelRegression: network takes samples of {source.n_features} features, "
                f"x has {n_features} with bias={self.bias}"
            )
        return source

    def _chosen(self, gram: Gram) -> Tensor:
        return gram.ntk if self.kernel == "ntk" else gram.a

    def _check_names(self, names: Array) -> None:
        """Columns of other names, or in another order, than in fit are not the same features."""
        fitted = getattr(self, "feature_names_in_", None)
        if fitted is None or names is None:
            if fitted is not None:
                text = "X does not have valid feature names, but KernelRegression was fitted with feature names"
                warnings.warn(text, UserWarning, stacklevel=3)
            elif names is not None:
                text = "X has feature names, but KernelRegression was fitted without feature names"
                warnings.warn(text, UserWarning, stacklevel=3)
            return
        if list(fitted) == list(names):
            return
        text = "KernelRegression: The feature names should match those that were passed during fit.\n"
        unseen, missing = sorted(set(names) - set(fitted)), sorted(set(fitted) - set(names))
        for title, group in (("unseen at fit time", unseen), ("seen at fit time, yet now missing", missing)):
            if group:
                text += "".join([f"Feature names {title}:\n", *(f"- {name}\n" for name in group[:5])])
                text += "- ...\n" if len(group) > 5 else ""
        if not unseen and not missing:
            text += "Feature names must be in the same order as they were in fit.\n"
        raise ValueError(text)

    def _samples(self, x: Array) -> Tensor:
        samples = _tensor(x, "x")
        shape = tuple(samples.shape)
        if len(shape) != 2:
            hint = ". Reshape your data: x[:, None] if it has one feature, x[None] if it is one sample"
            raise ValueError(f"KernelRegression: x must have shape (n, d), got {shape}{hint if len(shape) < 2 else ''}")
        if shape[1] == 0:
            raise ValueError(
                f"KernelRegression: x must have shape (n, d) with d >= 1, "
                f"got 0 feature(s) (shape={shape}) while a minimum of 1 is required."
            )
        return with_bias(samples) if self.bias else samples


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)


# Python objects that NumPy would make numbers of.
_NO_NUMBERS = (str, bytes, complex, np.complexfloating, np.datetime64, np.timedelta64)


def _column_names(x: Array) -> Array:
    """The names of a table's columns (d,), None for what has none or whose names are not all text."""
    names = getattr(x, "columns", None)
    if names is None or isinstance(x, (Tensor, np.ndarray)) or not all(isinstance(name, str) for name in names):
        return None
    return np.array(list(names), dtype=object)


def _tensor(values: Array, name: str) -> Tensor:
    """Real numbers as a float64 tensor on the CPU; what NumPy or torch would turn into some in silence is refused."""
    tensor = _of_tensor(values, name) if isinstance(values, Tensor) else _of_array(values, name)
    if not bool(torch.isfinite(tensor).all()):
        raise ValueError(f"KernelRegression: {name} must be finite, got NaN or inf among its values")
    return aligned(tensor)


def _refused(name: str, what: str) -> DtypeError:
    return DtypeError(f"KernelRegression: {name} must hold real numbers in a dense array, got {what}")


def _of_tensor(values: Tensor, name: str) -> Tensor:
    if values.layout is not torch.strided or values.is_nested:
        kind = "nested" if values.is_nested else f"sparse ({values.layout})"
        raise _refused(name, f"a {kind} tensor; to_dense() or to_padded_tensor() makes it one")
    if values.is_complex():
        raise _refused(name, f"{values.dtype}: Complex data not supported")
    if values.is_quantized or values.is_meta:
        raise _refused(name, f"a {'quantized' if values.is_quantized else 'meta'} tensor")
    return values.detach().cpu().double()


def _of_array(values: Array, name: str) -> Tensor:
    if hasattr(values, "tocsr") or hasattr(values, "todense"):
        raise _refused(name, f"sparse data ({type(values).__name__}); toarray() makes it dense")
    if isinstance(values, np.ma.MaskedArray) and np.ma.is_masked(values):
        raise _refused(name, "a masked array with masked values")
    try:
        array = np.asarray(values)
    except (TypeError, ValueError, RuntimeError) as error:  # ragged nested sequences
        raise ValueError(f"KernelRegression: {name} must hold numbers ({error})") from error
    if array.dtype.kind == "c":
        raise _refused(name, f"{array.dtype}: Complex data not supported")
    if array.dtype.kind not in "fiubO":
        raise _refused(name, f"dtype {array.dtype}")
    for value in array.flat if array.dtype.kind == "O" else ():
        if isinstance(value, _NO_NUMBERS):
            raise _refused(name, f"{type(value).__name__} {value!r} among objects")
    try:
        with np.errstate(over="ignore"):  # infinity is refused by its name
            return torch.from_numpy(np.array(array, dtype=np.float64, order="C"))  # a copy, if reversed or read-only
    except (TypeError, ValueError, OverflowError) as error:
        raise DtypeError(f"KernelRegression: {name} must hold numbers ({error})") from error
