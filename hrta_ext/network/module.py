"""The wide two-layer network f_s(x) = m^(-1/2) sum_k a_k sigma_s(w_k . x) (THEORY, section 1)."""

from __future__ import annotations

from functools import reduce
from operator import index

import torch
from torch import Tensor, nn

from hrta_ext.activation.functions import _check as _check_activation
from hrta_ext.activation.functions import (
    _functorch_active,
    _grad_enabled,
    _is_compiling,
    _sees_formula,
    _transforms_active,
)
from hrta_ext.activation.modules import HomotopyLayer
from hrta_ext.bases import BASES
from hrta_ext.compiled import KINDS
from hrta_ext.inputs import Parameter, Parameters, check_integer, with_bias
from hrta_ext.network import ops as two_layer_ops
from hrta_ext.network import reference
from hrta_ext.network.autograd import TransformableTwoLayer, TwoLayer, two_layer_kernels
from hrta_ext.ntk.gram import gram
from hrta_ext.ntk.types import Gram

_HALF_TYPES = (torch.float16, torch.bfloat16)


def _check(function: str, x: Tensor, weight: Tensor, output_weight: Tensor, s: object, base: str) -> None:
    """Raise TypeError or ValueError for what no backend can serve."""
    for name, tensor in (("x", x), ("weight", weight), ("output_weight", output_weight)):
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{function}: {name} must be a tensor, got {type(tensor).__name__}")
        if tensor.layout is not torch.strided:
            raise TypeError(f"{function}: {name} must be a dense (strided) tensor, got layout {tensor.layout}")
    if x.dtype not in KINDS:
        raise TypeError(f"{function}: x must be float16, bfloat16, float32 or float64, got {x.dtype}")
    for name, tensor in (("weight", weight), ("output_weight", output_weight)):
        if tensor.dtype != x.dtype:
            raise TypeError(f"{function}: {name} must have x's dtype {x.dtype}, got {tensor.dtype}")
        if tensor.device != x.device:
            raise ValueError(f"{function}: {name} must be on x's device {x.device}, got {tensor.device}")
    if x.dim() != 2 or x.shape[1] == 0:
        raise ValueError(f"{function}: x must have shape (n, D) with D at least 1, got {tuple(x.shape)}")
    if weight.dim() < 2 or weight.shape[-1] != x.shape[1]:
        raise ValueError(
            f"{function}: weight must have shape (..., width, {x.shape[1]}) to match x, got {tuple(weight.shape)}"
        )
    if weight.shape[-2] == 0:
        raise ValueError(f"{function}: weight must hold at least one neuron, got shape {tuple(weight.shape)}")
    if output_weight.shape != weight.shape[:-1]:
        raise ValueError(
            f"{function}: output_weight must have shape {tuple(weight.shape[:-1])} to match weight, "
            f"got {tuple(output_weight.shape)}"
        )
    if isinstance(s, Tensor) and s.dim() != 0:
        raise ValueError(f"{function}: s must be a float or a 0-dim tensor, got shape {tuple(s.shape)}")
    _check_activation(function, x, s, base)


def _autocast(*tensors: Tensor) -> tuple[Tensor, ...]:
    """The tensors in the widest of their dtypes where they differ and autocast is on: a layer before may give half."""
    dtypes = {tensor.dtype if isinstance(tensor, Tensor) else None for tensor in tensors}
    if len(dtypes) == 1 or not dtypes <= KINDS.keys() or not reference.autocasts(tensors[0]):
        return tensors
    widest = reduce(torch.promote_types, (tensor.dtype for tensor in tensors))
    return tuple(tensor.to(widest) for tensor in tensors)


def two_layer(x: Tensor, weight: Tensor, output_weight: Tensor, s: Parameter = 1.0, *, base: str = "relu") -> Tensor:
    """f_s(x_i) = m^(-1/2) sum_k a_k sigma_s(w_k . x_i), fused: nothing of size n x m is stored, forward or backward.

    Source: Yang, Chen, Hao (2025), eq. 3; THEORY, section 1. Leading dimensions of the weights are independent
    networks on the same samples. The output is scalar; for more outputs, make each a network of the batch.

    Args:
        x: Samples, shape (n, D), with the column of ones if there is a bias (:func:`with_bias`); n may be 0.
        weight: W, shape (..., m, D).
        output_weight: a, shape (..., m).
        s: Homotopy parameter: a finite float or a 0-dim tensor.
        base: Base activation, see :func:`homotopy`.
    Returns:
        f, shape (..., n), of x's dtype: float32 or float64; float16 and bfloat16 are computed in float32, of which
        copies are made. Under autocast the arguments may differ in dtype; the widest one is that of all.

    Differentiable in x, weight, output_weight and, when s is a tensor that requires grad, in s. First and second
    derivatives need memory for the results and a few MiB; derivatives of the third order keep tensors of size n x m.
    The sum over neurons is in float64 in a fixed order: the same bits on every run, for any number of threads.
    Cost: docs/two_layer.md.

    Raises:
        TypeError: an argument is no dense floating-point tensor, or the dtypes differ.
        ValueError: shapes or devices do not fit, no neurons, unknown base, s not finite.

    Example:
        >>> import torch, hrta_ext as hx
        >>> x = torch.tensor([[1.0, 1.0], [-2.0, 1.0]])
        >>> weight = torch.tensor([[1.0, 0.0], [0.0, 2.0], [-1.0, 1.0], [2.0, 2.0]], requires_grad=True)
        >>> f = hx.two_layer(x, weight, torch.ones(4), s=0.5)
        >>> f
        tensor([3.5000, 1.5000], grad_fn=<...>)
        >>> torch.autograd.grad(f.sum(), weight)[0][0]
        tensor([0.0000, 0.7500])
    """
    x, weight, output_weight = _autocast(x, weight, output_weight)
    _check("two_layer", x, weight, output_weight, s, base)
    if x.dtype in _HALF_TYPES:
        f = two_layer(x.float(), weight.float(), output_weight.float(), s, base=base)
        return f.to(x.dtype)
    return _run(x, weight, output_weight, s, base, False)[0]


def _run(
    x: Tensor, weight: Tensor, output_weight: Tensor, s: Parameter, base: str, with_gradient: bool
) -> tuple[Tensor, ...]:
    """(f,) or (f, df/dx) of checked arguments, by whoever serves such a call."""
    tensors = (x, weight, output_weight)
    if any(_sees_formula(tensor) for tensor in tensors):
        # Dynamo does not trace an op's autograd inside torch.func transforms.
        plain = BASES[base].number is None or (_is_compiling() and _functorch_active())
        serve = reference.outputs if plain else two_layer_ops.outputs
        return serve(x, weight, output_weight, s, base, with_gradient)
    if _transforms_active():
        return TransformableTwoLayer.apply(x, weight, output_weight, s, base, with_gradient)
    if _wants_grad(tensors, s):
        return TwoLayer.apply(x, weight, output_weight, s, base, with_gradient)
    with torch.no_grad():
        return two_layer_kernels(x, base).outputs(x, weight, output_weight, s, base, with_gradient)


def _wants_grad(tensors: tuple[Tensor, ...], s: Parameter) -> bool:
    return _grad_enabled() and (any(t.requires_grad for t in tensors) or (isinstance(s, Tensor) and s.requires_grad))


def two_layer_with_gradient(
    x: Tensor, weight: Tensor, output_weight: Tensor, s: Parameter, *, base: str
) -> tuple[Tensor, Tensor]:
    """f_s and its gradient in x, (f, df/dx), in one pass over the neurons; both differentiable.

    df/dx_i = m^(-1/2) sum_k a_k sigma_s'(w_k . x_i) w_k, for Sobolev and Deep Ritz losses. The gradient in the weights
    is fused like the pair itself; those in x and s are recomputed a chunk of neurons at a time. For ReLU, df/dx is
    piecewise constant: its derivative counts the weights' size, never the moving kinks (its curvature is 0).

    Args and errors as for :func:`two_layer`.

    Returns:
        f of shape (..., n) and df/dx of shape (..., n, D).

    Example:
        >>> import torch, hrta_ext as hx
        >>> x, weight = torch.tensor([[1.0, 1.0]]), torch.tensor([[1.0, 0.0], [0.0, 2.0], [-1.0, 1.0], [2.0, 2.0]])
        >>> hx.two_layer_with_gradient(x, weight, torch.ones(4), 1.0, base="relu2")
        (tensor([5.2500]), tensor([[4.5000, 6.0000]]))
    """
    x, weight, output_weight = _autocast(x, weight, output_weight)
    _check("two_layer_with_gradient", x, weight, output_weight, s, base)
    if x.dtype in _HALF_TYPES:
        pair = two_layer_with_gradient(x.float(), weight.float(), output_weight.float(), s, base=base)
        return pair[0].to(x.dtype), pair[1].to(x.dtype)
    f, df_dx = _run(x, weight, output_weight, s, base, True)
    return f, df_dx


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
        self.in_features = check_integer(in_features, "TwoLayerNet: in_features")
        self.width = check_integer(width, "TwoLayerNet: width")
        self.bias = bool(bias)
        try:
            generator = None if seed is None else torch.Generator().manual_seed(index(seed))
        except TypeError:
            raise TypeError(f"TwoLayerNet: seed must be an int or None, got {seed!r}") from None
        weight = torch.randn(self.width, self.in_features + self.bias, generator=generator)
        output_weight = torch.randn(self.width, generator=generator)
        self.weight = nn.Parameter(weight.to(torch.get_default_device()))
        self.output_weight = nn.Parameter(output_weight.to(torch.get_default_device()))

    def forward(self, x: Tensor) -> Tensor:
        """f_s at every sample: x (n, d) -> (n,)."""
        if not isinstance(x, Tensor):
            raise TypeError(f"TwoLayerNet: x must be a tensor, got {type(x).__name__}")
        if x.dim() != 2 or x.shape[1] != self.in_features:
            raise ValueError(f"TwoLayerNet: x must have shape (n, {self.in_features}), got {tuple(x.shape)}")
        samples = with_bias(x) if self.bias else x
        return two_layer(samples, self.weight, self.output_weight, self.s, base=self.base)

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
