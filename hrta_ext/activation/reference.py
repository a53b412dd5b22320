"""sigma_s and its derivatives in plain PyTorch, in place of the compiled kernels where those are absent.

In float64 where the device has it, so that the kernels' accuracy is kept, and with the limits at infinite x. Same
functions as ``native``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hrta_ext.activation.formula import by_parameter, compose, sum_dtype
from hrta_ext.bases import BASES
from hrta_ext.inputs import Parameter


def _wide(x: Tensor, base: str) -> Tensor:
    """x in the precision that the torch backend computes in."""
    if x.dtype == torch.float64 or (base == "relu" and x.dtype == torch.float32):
        return x
    return x.float() if x.device.type == "mps" else x.double()


def _at_infinity(x: Tensor, s: Parameter, base: str) -> Tensor:
    """The limit of sigma_s at x = +-inf (values elsewhere are unused)."""
    functions = BASES[base]
    linear = torch.as_tensor(1.0 - s, dtype=x.dtype, device=x.device)
    s = torch.as_tensor(s, dtype=x.dtype, device=x.device)
    sign = torch.sign(x)
    if functions.rectifier or base == "relu2":
        above = torch.where((s < 0) & (base == "relu2"), -x, x)
        return torch.where(x > 0, above, torch.where(linear == 0, torch.zeros_like(x), linear * x))
    bounded = torch.nan if base == "sin" else s * functions.value(sign * 40.0)
    return torch.where(linear == 0, bounded * torch.ones_like(x), torch.sign(linear) * x)


def _evaluate(x: Tensor, s: Parameter, base: str, order: int) -> Tensor:
    """``evaluate`` before it is rounded to x's dtype. Every element's result depends on that element alone."""
    with torch.no_grad():
        z = _wide(x, base)
        y = compose(z, s, base, order)
        infinite = torch.isinf(z) if order < 2 and BASES[base].number is not None else None
        if infinite is not None and bool(infinite.any()):  # asked for speed alone
            if order == 0:
                y = torch.where(infinite, _at_infinity(z, s, base), y)
            else:  # 1 - s + s sigma'(x): 1 at s = 0, whatever sigma' is
                y = torch.where(infinite & (torch.as_tensor(s, device=z.device) == 0.0), 1.0, y)
        return y


def evaluate(x: Tensor, s: Parameter, base: str, order: int) -> Tensor:
    """The ``order``-th derivative of sigma_s at x, outside autograd: x's shape, dtype and layout."""
    return torch.empty_like(x).copy_(_evaluate(x, s, base, order))


def value_and_slope(x: Tensor, s: Parameter, base: str) -> tuple[Tensor, Tensor]:
    """sigma_s(x) and sigma_s'(x), outside autograd."""
    return evaluate(x, s, base, 0), evaluate(x, s, base, 1)


def backward(grad: Tensor, x: Tensor, s: Parameter, base: str, order: int) -> Tensor:
    """``grad`` times the derivative of order + 1 at x."""
    with torch.no_grad():
        return torch.empty_like(x).copy_(_evaluate(x, s, base, order + 1) * grad)


def parameter_gradient(grad: Tensor, x: Tensor, s: Tensor, base: str, order: int) -> Tensor:
    """The sum of ``grad`` times d sigma_s^(order) / ds over all dimensions that s does not have, float64."""
    with torch.no_grad():
        quantity = by_parameter(_wide(x, base), base, order)
        product = grad.to(quantity.dtype) * quantity
        product = product.to(sum_dtype(x))
        leading = tuple(range(product.dim() - s.dim()))
        return product.sum(leading) if leading else product


def relu_mask_forward(x: Tensor, s: Parameter, in_place: bool = False) -> tuple[Tensor, Tensor, tuple[int, ...]]:
    """sigma_s(x) for ReLU and what its backward needs: x > 0, here one byte per element, and x's strides."""
    mask = x.detach() > 0
    y = evaluate(x, s, "relu", 0)
    return (x.copy_(y) if in_place else y), mask, x.stride()


def relu_mask_backward(grad: Tensor, mask: Tensor, s: Parameter, stride: tuple[int, ...]) -> Tensor:
    """``grad`` where the mask is set, (1 - s) ``grad`` elsewhere; the strides matter to the compiled kernels alone."""
    with torch.no_grad():
        return torch.where(mask, grad, ((1.0 - s) * grad).to(grad.dtype))


def evaluate_in_place(x: Tensor, s: Parameter, base: str) -> None:
    """Overwrite x with sigma_s(x), outside autograd."""
    with torch.no_grad():
        x.copy_(evaluate(x, s, base, 0))
