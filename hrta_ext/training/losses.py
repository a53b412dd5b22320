"""The loss of a training, by autograd: half the mean square error, with sample weights and gradients where given."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hrta_ext.inputs import with_bias
from hrta_ext.network.functions import two_layer_with_gradient
from hrta_ext.network.module import TwoLayerNet
from hrta_ext.training.data import Samples

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def training_loss(net: nn.Module, samples: Samples) -> Tensor:
    """R = 1/(2n) sum_i c_i [ |net(x_i) - y_i|^2 + |grad net(x_i) - g_i|^2 ], 0-dim, differentiable in the parameters.

    c = 1 without ``sample_weight``, no second term without ``target_gradient``. The sum is divided by n, not by
    sum_i c_i. Where outputs depend on other samples too, as with batch norm in train mode, the gradient is that of the
    sum of all outputs.
    """
    y, weight, target = samples.y, samples.sample_weight, samples.target_gradient
    output, gradient = (net(samples.x), None) if target is None else value_and_gradient(net, samples.x)
    output = fitting_output(output, y)
    if weight is None:
        squares = F.mse_loss(output, y, reduction="sum")
        if gradient is not None and target is not None:
            squares = squares + F.mse_loss(gradient, target, reduction="sum")
    else:
        of_samples = (output - y).square().reshape(y.shape[0], -1).sum(1)
        if gradient is not None and target is not None:
            of_samples = of_samples + (gradient - target).square().sum(1)
        squares = torch.dot(weight, of_samples)
    return squares * (0.5 / y.shape[0])


def fitting_output(output: Tensor, y: Tensor) -> Tensor:
    """``output`` in the shape of ``y``, from which it may differ by a trailing 1.

    Raises:
        ValueError: The shapes differ otherwise; (n, 1) against (n,) must never broadcast to (n, n).
    """
    if not isinstance(output, Tensor):
        raise TypeError(f"fit: the network must return a tensor, got {type(output).__name__}")
    if output.shape != y.shape:
        if output.shape != (*y.shape, 1) and (*output.shape, 1) != y.shape:
            shapes = f"{tuple(output.shape)}, got {tuple(y.shape)}"
            raise ValueError(f"fit: y must have the shape of the output of the network, {shapes}")
        output = output.reshape(y.shape)
    return output


def is_plain(net: nn.Module) -> bool:
    """Whether ``net`` is a TwoLayerNet whose call is no more than its formula: none of its own, no hooks."""
    return type(net) is TwoLayerNet and "forward" not in vars(net) and not any(getattr(net, name) for name in HOOKS)


def value_and_gradient(net: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """The outputs of ``net`` and their gradient in x (n, d), both differentiable in the parameters.

    Raises:
        ValueError: No path for derivatives leads from x to the outputs.
    """
    if is_plain(net) and x.dim() == 2 and x.shape[1] == net.in_features:
        assert isinstance(net, TwoLayerNet)
        points = with_bias(x) if net.bias else x
        f, df_dx = net.outputs(two_layer_with_gradient, points)
        if net.skip is not None:
            f, df_dx = f + points @ net.skip, df_dx + net.skip
        return f, df_dx[:, : net.in_features]
    with torch.enable_grad():
        return by_autograd(net, x.detach().requires_grad_(), "target_gradient")


def by_autograd(net: nn.Module, points: Tensor, purpose: str) -> tuple[Tensor, Tensor]:
    """As :func:`value_and_gradient`, for points that require grad; ``purpose`` is the argument that asks for it."""
    output = net(points)
    if not isinstance(output, Tensor):
        raise TypeError(f"fit: the network must return a tensor, got {type(output).__name__}")
    if output.requires_grad:
        (gradient,) = torch.autograd.grad(output.sum(), points, create_graph=True, allow_unused=True)
        if gradient is not None:
            return output, gradient
    raise ValueError(
        f"fit: {purpose} needs outputs that are differentiable in x, those of {type(net).__name__} are not"
    )
