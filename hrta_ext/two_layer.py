"""The wide two-layer network f_s(x) = m^(-1/2) sum_k a_k sigma_s(w_k . x) (THEORY, section 1)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hrta_ext.activation import homotopy
from hrta_ext.gram_builder import gram
from hrta_ext.kernels import Gram, Parameters
from hrta_ext.layers import HomotopyLayer


def with_bias(x: Tensor) -> Tensor:
    """Append the column of ones that makes the last weight of every neuron its bias.

    Args:
        x: Samples, shape (..., d).
    Returns:
        Shape (..., d + 1).

    Example:
        >>> import torch, hrta_ext as hx
        >>> hx.with_bias(torch.tensor([[2.0], [3.0]]))
        tensor([[2., 1.],
                [3., 1.]])
    """
    if not isinstance(x, Tensor):
        raise TypeError(f"with_bias: x must be a tensor, got {type(x).__name__}")
    if x.dim() < 1:
        raise ValueError("with_bias: x must have shape (..., d), got a 0-dim tensor")
    return torch.cat([x, x.new_ones((*x.shape[:-1], 1))], dim=-1)


class TwoLayerNet(HomotopyLayer):
    """Two-layer network in the NTK parametrisation, f_s(x) = m^(-1/2) sum_k a_k sigma_s(w_k . x).

    All weights start as N(0, 1) (THEORY, section 1; Yang, Chen, Hao 2025, eq. 3). With ``bias`` a 1 is appended to
    every sample, so that the last column of ``weight`` holds the biases.

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
        super().__init__(s, base)
        for name, value in (("in_features", in_features), ("width", width)):
            if isinstance(value, bool) or not isinstance(value, int):
                raise TypeError(f"TwoLayerNet: {name} must be an int, got {type(value).__name__}")
            if value < 1:
                raise ValueError(f"TwoLayerNet: {name} must be at least 1, got {value}")
        self.in_features, self.width, self.bias = in_features, width, bool(bias)
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        weight = torch.randn(width, in_features + self.bias, generator=generator)
        output_weight = torch.randn(width, generator=generator)
        self.weight = nn.Parameter(weight.to(torch.get_default_device()))
        self.output_weight = nn.Parameter(output_weight.to(torch.get_default_device()))

    def forward(self, x: Tensor) -> Tensor:
        """f_s at every sample: x (n, d) -> (n,)."""
        if x.dim() != 2 or x.shape[1] != self.in_features:
            raise ValueError(f"TwoLayerNet: x must have shape (n, {self.in_features}), got {tuple(x.shape)}")
        samples = with_bias(x) if self.bias else x
        z = samples @ self.weight.T
        return homotopy(z, self.s, self.base) @ (self.output_weight * self.width**-0.5)

    def to_relu(self) -> TwoLayerNet:
        """The pure-ReLU network (s = 1) of width 2m that computes the same function (Remark 1 of the paper).

        (1 - s) z + s ReLU(z) = ReLU(z) - (1 - s) ReLU(-z), so neuron (w, a) becomes (w, a sqrt 2) and
        (-w, -(1 - s) a sqrt 2); the factor sqrt 2 makes up for (2m)^(-1/2).

        Raises:
            ValueError: The base is not "relu".
        """
        if self.base != "relu":
            raise ValueError(f'TwoLayerNet.to_relu: needs base "relu", this network has {self.base!r}')
        net = TwoLayerNet(self.in_features, 2 * self.width, s=1.0, bias=self.bias, seed=0)
        net = net.to(self.weight)
        with torch.no_grad():
            a = self.output_weight * 2.0**0.5
            net.weight.copy_(torch.cat([self.weight, -self.weight]))
            net.output_weight.copy_(torch.cat([a, -(1.0 - self.s.to(a.dtype)) * a]))
        return net

    def gram(self, x: Tensor, s: Parameters | None = None) -> Gram:
        """The Gram matrices of the current weights on samples x (n, d), the bias appended (:func:`hrta_ext.gram`).

        Args:
            x: Samples, (n, d), of the weights' dtype.
            s: One s or S values; None takes the network's own.
        """
        samples = with_bias(x) if self.bias else x
        value = float(self.s) if s is None else s
        return gram(samples, self.weight.detach(), self.output_weight.detach(), value, base=self.base)

    def extra_repr(self) -> str:
        """The arguments, for ``repr``."""
        return (
            f"in_features={self.in_features}, width={self.width}, s={self.s.item():g}, base={self.base!r}, "
            f"bias={self.bias}"
        )
