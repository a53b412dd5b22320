"""Regression with the infinite-width kernels: what training an infinitely wide network converges to."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hrta_ext.inputs import as_float, check_finite, shown, with_bias
from hrta_ext.ntk.infinite import infinite_gram
from hrta_ext.ntk.types import Gram

Array = Any  # numpy array, tensor or nested sequence


class KernelRegression:
    """Ridge regression or gradient flow with the analytic NTK or NNGP kernel; a scikit-learn estimator.

    With K the kernel on the training samples and k that between new and training samples:
    f = k (K + ridge n I)^{-1} y, or, with a finite ``time`` t, gradient flow from f = 0 on R = 1/(2n) sum (f - y)^2:
    f = k K^{-1} (I - exp(-K t / n)) y, the mean prediction of an infinitely wide network trained that long (Jacot,
    Gabriel, Hongler 2018; Lee et al. 2019). One eigendecomposition, O(n^3).

    Args:
        s: Homotopy parameter.
        base: Base activation.
        depth: Hidden layers.
        kernel: "ntk" (all layers trained) or "nngp" (the last layer alone).
        ridge: Penalty per sample; 0 interpolates, stably, by leaving out eigenvalues below rounding.
        bias: Append the constant 1 to the samples.
        time: Gradient-flow time; None trains for ever. Long times leave out eigenvalues below rounding, too.

    Example:
        >>> import numpy as np, hrta_ext as hx
        >>> x = np.linspace(0, 1, 20)[:, None]
        >>> model = hx.KernelRegression(s=1.5).fit(x, np.sin(3 * x[:, 0]))
        >>> model.score(x, np.sin(3 * x[:, 0])) > 0.999
        True
    """

    _NAMES = ("s", "base", "depth", "kernel", "ridge", "bias", "time")

    def __init__(
        self,
        s: float = 1.0,
        base: str = "relu",
        depth: int = 1,
        kernel: str = "ntk",
        ridge: float = 0.0,
        bias: bool = True,
        time: float | None = None,
    ) -> None:
        self.s, self.base, self.depth, self.kernel = s, base, depth, kernel
        self.ridge, self.bias, self.time = ridge, bias, time

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
            target_tags=TargetTags(required=True),
            regressor_tags=RegressorTags(),
        )

    def fit(self, x: Array, y: Array) -> KernelRegression:
        """Fit to samples x (n, d) and targets y (n,) or (n, outputs).

        Raises:
            ValueError: Shapes that do not match, values that are not finite, parameters out of range.
        """
        if self.kernel not in ("ntk", "nngp"):
            raise ValueError(f'KernelRegression: kernel must be "ntk" or "nngp", got {self.kernel!r}')
        if not _is_number(self.s):
            raise ValueError(f"KernelRegression: s must be one number, got {shown(self.s)}")
        check_finite(self.s, "KernelRegression: s")
        if not (_is_number(self.ridge) and 0 <= as_float(self.ridge) < math.inf):
            raise ValueError(f"KernelRegression: ridge must be finite and not negative, got {shown(self.ridge)}")
        if self.time is not None and not (_is_number(self.time) and self.time > 0):
            raise ValueError(f"KernelRegression: time must be positive or None, got {shown(self.time)}")
        if self.time is not None and self.ridge > 0:
            raise ValueError("KernelRegression: time and ridge cannot be combined: gradient flow has no penalty")
        samples, targets = self._samples(x, "x"), _tensor(y, "y")
        if targets.dim() not in (1, 2) or targets.shape[0] != samples.shape[0]:
            raise ValueError(
                f"KernelRegression: y must have shape ({samples.shape[0]},) or ({samples.shape[0]}, outputs), "
                f"got {tuple(targets.shape)}"
            )
        if samples.shape[0] == 0:
            raise ValueError("KernelRegression: x must have at least one sample")
        kernel = self._kernel(infinite_gram(samples, **self._options()))
        if not bool(kernel.isfinite().all()):
            raise ValueError(f"KernelRegression: the kernel overflows float64 at s = {self.s:g} on these x")
        values, vectors = torch.linalg.eigh(kernel)
        n = samples.shape[0]
        penalty = as_float(self.ridge) * n
        cutoff = n * torch.finfo(torch.float64).eps * values[-1]  # what rounding makes of a zero eigenvalue
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
        self.samples_ = samples
        self.n_features_in_ = samples.shape[1] - int(self.bias)
        return self

    def predict(self, x: Array) -> Array:
        """Predictions at x (n2, d): (n2,) or (n2, outputs), a tensor if x is one, else a NumPy array."""
        if not hasattr(self, "dual_coef_"):
            raise ValueError("KernelRegression: call fit before predict")
        samples = self._samples(x, "x")
        if samples.shape[1] != self.samples_.shape[1]:
            raise ValueError(
                f"KernelRegression: x must have shape (n, {self.n_features_in_}), as in fit, got {np.shape(x)}"
            )
        gram = infinite_gram(samples, x2=self.samples_, **self._options())
        predicted = self._kernel(gram) @ self.dual_coef_
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

    def _options(self) -> dict[str, Any]:
        return {"s": self.s, "base": self.base, "depth": self.depth}

    def _kernel(self, gram: Gram) -> Tensor:
        return gram.ntk if self.kernel == "ntk" else gram.a

    def _samples(self, x: Array, name: str) -> Tensor:
        samples = _tensor(x, name)
        if samples.dim() != 2:
            raise ValueError(f"KernelRegression: {name} must have shape (n, d), got {tuple(samples.shape)}")
        return with_bias(samples) if self.bias else samples


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)


def _tensor(values: Array, name: str) -> Tensor:
    try:
        tensor = (
            values.detach().cpu().double()
            if isinstance(values, Tensor)
            else torch.from_numpy(np.array(values, dtype=np.float64, order="C"))  # read-only and reversed arrays too
        )
    except (TypeError, ValueError) as error:
        raise ValueError(f"KernelRegression: {name} must hold numbers ({error})") from error
    if not bool(torch.isfinite(tensor).all()):
        raise ValueError(f"KernelRegression: {name} must be finite")
    return tensor
