"""The wide two-layer network as a module (docs/theory.md, section 1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hrta_ext.activation.modules import HomotopyLayer, shown
from hrta_ext.callers import stand_in
from hrta_ext.inputs import Parameters, check_flag, check_homotopy_parameter, check_integer, check_seed, with_bias
from hrta_ext.network.functions import two_layer
from hrta_ext.network.jets import Jet, two_layer_jet
from hrta_ext.network.keeping import rescale
from hrta_ext.ntk.gram import gram
from hrta_ext.ntk.types import Gram


class TwoLayerNet(HomotopyLayer):
    """Two-layer network in the NTK parametrisation, f_s(x) = m^(-1/2) sum_k a_k sigma_s(w_k . x) + c . x.

    All weights start as N(0, 1) (docs/theory.md 1; Yang, Chen, Hao 2025, eq. 3). With ``bias`` a 1 is appended to
    every sample, so that the last column of ``weight`` holds the biases. c is there only after
    ``set_s(s, keep_function=True)``.

    Args:
        in_features: d, the number of features of a sample.
        width: m, the number of neurons.
        s: Homotopy parameter; ``.s`` is a 0-dim float64 buffer that :func:`hrta_ext.set_homotopy` sets.
        base: Base activation.
        bias: Append the constant 1 to the samples.
        seed: Seed of the starting weights, the same numbers on every device; None draws from torch's global generator.
    Attributes:
        weight: W, shape (m, D) with D = d + 1 (or d without bias).
        output_weight: a, shape (m,).
        skip: c, shape (D,), or None: a buffer, so that training leaves it as it is.
    Shapes:
        Input (n, d), output (n,).

    Example:
        >>> import torch, hrta_ext as hx
        >>> net = hx.TwoLayerNet(1, 1000, s=0.5, seed=0)
        >>> net(torch.linspace(0, 1, 5)[:, None]).shape
        torch.Size([5])
    """

    def __init__(
        self,
        in_features: int,
        width: int,
        *,
        s: float = 1.0,
        base: str = "relu",
        bias: bool = True,
        seed: int | None = None,
    ) -> None:
        super().__init__(check_homotopy_parameter(s, "TwoLayerNet: s", torch.get_default_dtype()), base)
        self.skip: Tensor | None
        self.register_buffer("skip", None)
        self.in_features = check_integer(in_features, "TwoLayerNet: in_features")
        self.width = check_integer(width, "TwoLayerNet: width")
        self.bias = check_flag(bias, "TwoLayerNet: bias")
        seed = None if seed is None else check_seed(seed, "TwoLayerNet: seed")
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        weight = torch.randn(self.width, self.in_features + self.bias, generator=generator)
        output_weight = torch.randn(self.width, generator=generator)
        self.weight = nn.Parameter(weight.to(torch.get_default_device()))
        self.output_weight = nn.Parameter(output_weight.to(torch.get_default_device()))

    def forward(self, x: Tensor) -> Tensor:
        """f_s at every sample: x (n, d) -> (n,)."""
        samples = self._samples(x)
        f = two_layer(samples, self.weight, self.output_weight, self.s, base=self.base)
        return f if self.skip is None else f + samples @ self.skip

    def _samples(self, x: Tensor) -> Tensor:
        """(n, D), with the column of ones."""
        if not stand_in(x):  # a tracer's proxy has no shape to look at
            if not isinstance(x, Tensor):
                raise TypeError(f"TwoLayerNet: x must be a tensor, got {type(x).__name__}")
            if x.dim() != 2 or x.shape[1] != self.in_features:
                raise ValueError(f"TwoLayerNet: x must have shape (n, {self.in_features}), got {tuple(x.shape)}")
        return with_bias(x) if self.bias else x

    def jet(self, x: Tensor, *, second: str = "laplacian", second_columns: Sequence[int] | None = None) -> Jet:
        """The network with its first and second derivatives in x (n, d), those in the inputs (:func:`two_layer_jet`).

        Args:
            x: Samples, (n, d).
            second: "laplacian", "diagonal" or "hessian".
            second_columns: Inputs that ``second`` is taken in; default: all.
        """
        samples = self._samples(x)
        jet = two_layer_jet(
            samples,
            self.weight,
            self.output_weight,
            self.s,
            base=self.base,
            second=second,
            columns=range(self.in_features),
            second_columns=second_columns,
        )
        if self.skip is None:
            return jet
        return Jet(jet.value + samples @ self.skip, jet.gradient + self.skip[: self.in_features], jet.second)

    def set_s(self, s: float, *, keep_function: bool = False) -> None:
        """Set s in place.

        With ``keep_function`` the network computes what it did: a becomes a s / s', which keeps s sum_k a_k sigma(z_k),
        and the rest of the difference, (1 - s / s') m^(-1/2) sum_k a_k w_k . x, goes to ``skip`` (docs/theory.md 1).

        Args:
            s: s', finite.
            keep_function: Exact to rounding (1e-6 in float32, 1e-15 in float64, relative to m^(-1/2) sum |a_k| |w_k|
                |x|). G^[w] shrinks by (s / s')^2 through a, which takes back what s' adds to it.
        Raises:
            ValueError: s not finite; with ``keep_function`` s = 0, now or then: at s = 0 the network is linear.
        """
        value = check_homotopy_parameter(s, dtype=self.s.dtype)
        if check_flag(keep_function, "TwoLayerNet.set_s: keep_function"):
            rescale(self, value)
        super().set_s(value)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        if "skip" in self._buffers:  # there or not, as in what is loaded
            saved = state_dict.get(f"{prefix}skip")
            if saved is None and f"{prefix}weight" in state_dict:
                self.skip = None
            elif saved is not None and self.skip is None:
                self.skip = torch.zeros_like(self.weight[0])
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if "skip" not in self._parameters:
            self._buffers.setdefault("skip", None)  # pickles of before there was one

    def to_relu(self) -> TwoLayerNet:
        """The pure-ReLU network (s = 1) of width 2m that computes the same function (Remark 1 of the paper).

        (1 - s) z + s ReLU(z) = ReLU(z) - (1 - s) ReLU(-z), so neuron (w, a) becomes (w, a sqrt 2) and
        (-w, -(1 - s) a sqrt 2); the factor sqrt 2 makes up for (2m)^(-1/2). A skip c becomes one more pair, (c, a) and
        (-c, -a) with a = (2m + 2)^(1/2), since ReLU(z) - ReLU(-z) = z: the width is 2m + 2 then.

        Raises:
            ValueError: The base is not "relu".
        """
        if self.base != "relu":
            raise ValueError(f'TwoLayerNet.to_relu: needs base "relu", this network has {self.base!r}')
        pairs = self.width + (self.skip is not None)
        net = TwoLayerNet(self.in_features, 2 * pairs, s=1.0, bias=self.bias, seed=0)
        net = net.to(self.weight)
        with torch.no_grad():
            weight: Tensor = self.weight
            a = self.output_weight * (2.0 * pairs / self.width) ** 0.5
            opposite = -(1.0 - self.s.to(a.dtype)) * a
            if self.skip is not None:
                of_skip = a.new_full((1,), (2.0 * pairs) ** 0.5)
                weight = torch.cat([weight, self.skip[None]])
                a, opposite = torch.cat([a, of_skip]), torch.cat([opposite, -of_skip])
            net.weight.copy_(torch.cat([weight, -weight]))
            net.output_weight.copy_(torch.cat([a, opposite]))
        return net

    def gram(self, x: Tensor, s: Parameters | None = None, *, x2: Tensor | None = None) -> Gram:
        """The Gram matrices of the current weights on samples x (n, d), the bias appended (:func:`hrta_ext.gram`).

        They are those of the neurons: where ``skip`` is made a parameter and trained, the NTK has x_i . x_j besides.

        Args:
            x: Samples, (n, d), of the weights' dtype.
            s: One s or S values; None takes the network's own.
            x2: Samples (n2, d) of the columns of cross-kernels; default: x.
        """
        samples = with_bias(x) if self.bias else x
        others = with_bias(x2) if self.bias and x2 is not None else x2
        value = float(self.s) if s is None else s
        return gram(samples, self.weight.detach(), self.output_weight.detach(), value, x2=others, base=self.base)

    def extra_repr(self) -> str:
        """The arguments, for ``repr``."""
        return (
            f"in_features={self.in_features}, width={self.width}, s={shown(self.s)}, base={self.base!r}, "
            f"bias={self.bias}"
        )
