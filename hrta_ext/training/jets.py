"""What a loss sees of a network at its points: the fused jet of a two-layer network, autograd's of any other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from hrta_ext.activation.modules import homotopy_layers
from hrta_ext.bases import BASES, Base
from hrta_ext.network.jets import Jet
from hrta_ext.network.module import TwoLayerNet
from hrta_ext.training.losses import by_autograd, is_plain, value_and_gradient

_SERVE = ("relu2, tanh, gelu, silu, softplus, erf and sin serve", "tanh, gelu, silu, softplus, erf and sin serve")


def trainable_order(net: nn.Module) -> tuple[int, str]:
    """How many derivatives in x a loss of ``net`` may contain, up to two, and the base that allows no more.

    A k-th derivative is trained by the base's derivative of order k + 1, which must not be zero almost everywhere: k is
    0 for relu, 1 for relu2, 2 for the smooth bases.
    """
    bases = dict.fromkeys(layer.base for layer in homotopy_layers(net))
    return min((_trainable(BASES[name]), name) for name in bases)


def _trainable(base: Base) -> int:
    probe = torch.linspace(-1.0, 1.0, 5)
    if not base.curvature(probe).any():
        return 0
    try:
        return 1 + bool(base.third_derivative(probe).any())
    except RuntimeError:  # a registered curvature that autograd cannot differentiate
        return 1


def untrainable(order: int, base: str) -> str:
    """Why no loss may contain derivatives beyond ``order``, and what to use instead."""
    kind = "derivatives" if order == 0 else "second derivatives"
    return f"{kind} of base {base!r} are constant between its kinks, which nothing can train; {_SERVE[order]}"


class WithoutSecond(Jet):
    """A jet of value and gradient."""

    why: str

    @property
    def second(self) -> Tensor:
        """Not there."""
        raise ValueError(self.why)


class ValueAlone(WithoutSecond):
    """A jet of no derivatives."""

    @property
    def gradient(self) -> Tensor:
        """Not there."""
        raise ValueError(self.why)


def jet_of(net: nn.Module, x: Tensor, need: str, second_columns: Sequence[int] | None, why: str) -> Jet:
    """u, grad u and second derivatives of scalar outputs at x (n, d), differentiable in all parameters.

    Args:
        net: Outputs (n,) or (n, 1), each of its own point alone.
        x: Points, without the bias column: derivatives are those in its d columns.
        need: "laplacian", "diagonal" or "hessian" of ``second_columns``; "gradient" or "value" for no more than that.
        second_columns: None for all.
        why: What touching a derivative that is not there says.
    """
    if is_plain(net):
        assert isinstance(net, TwoLayerNet)
        if need not in ("value", "gradient"):
            return net.jet(x, second=need, second_columns=second_columns)
        parts = (net(x), None) if need == "value" else value_and_gradient(net, x)
    elif need == "value":
        parts = net(x), None
    else:
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            parts = by_autograd(net, x, "loss")
    value, gradient = _scalar(parts[0], x), parts[1]
    if gradient is None or need == "gradient":
        kind: type[WithoutSecond] = ValueAlone if gradient is None else WithoutSecond
        jet = kind(value, cast(Tensor, gradient), cast(Tensor, None))
        jet.why = why
        return jet
    with torch.enable_grad():
        columns = list(range(x.shape[1]) if second_columns is None else second_columns)
        rows = [_derivative(gradient[:, column], x) for column in columns]
    if need == "hessian":
        return Jet(value, gradient, torch.stack([row[:, columns] for row in rows], 1))
    diagonal = torch.stack([row[:, column] for row, column in zip(rows, columns, strict=True)], 1)
    return Jet(value, gradient, diagonal.sum(1) if need == "laplacian" else diagonal)


def _derivative(values: Tensor, x: Tensor) -> Tensor:
    """Of every value in its own row of x; zero where none depends on x."""
    if not values.requires_grad:
        return torch.zeros_like(x)
    (derivative,) = torch.autograd.grad(values.sum(), x, create_graph=True, allow_unused=True)
    return torch.zeros_like(x) if derivative is None else derivative


def _scalar(output: object, x: Tensor) -> Tensor:
    n = x.shape[0]
    if not isinstance(output, Tensor) or output.shape not in ((n,), (n, 1)):
        found = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise ValueError(f"fit: loss needs a network of scalar outputs, ({n},) or ({n}, 1), got {found}")
    return output.reshape(n)
