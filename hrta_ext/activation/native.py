"""The compiled kernels on tensors: allocation, memory order and addresses. Same functions as ``reference``.

A kernel sees dense memory as one flat array, so any dense layout passes as it is and its result keeps the layout; other
strides are copied first, into the layout torch's own elementwise operations would give the result.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hrta_ext.bases import BASES
from hrta_ext.compiled import _C, KINDS
from hrta_ext.inputs import Parameter

# Numbers of Quantity in csrc/ (_C.QUANTITIES); the derivatives of sigma_s by their order.
VALUE, PARAMETER_GRADIENT = 0, 3


def serves(x: Tensor) -> bool:
    """Whether these kernels take x, of a device and dtype that the binary serves."""
    return True


def _dense(x: Tensor) -> Tensor:
    """x itself if its memory is dense, else a dense copy; either way laid out as ``empty_like(x)``."""
    if x.is_neg():
        x = x.resolve_neg()
    if x.is_contiguous():
        return x
    like = torch.empty_like(x)
    return x if like.stride() == x.stride() else like.copy_(x)


def _arranged(x: Tensor, s: Parameter) -> Tensor:
    """x as the kernels want it: with one s per feature the features must be innermost."""
    if isinstance(s, Tensor) and s.numel() > 1:
        return _dense(x.contiguous())
    return _dense(x)


def _output(dense: Tensor, x: Tensor) -> Tensor:
    """Where the result goes: over the copy, if ``_arranged(x)`` made one, else into new memory."""
    return torch.empty_like(dense) if dense is x else dense


def _like(tensor: Tensor, x: Tensor) -> Tensor:
    """``tensor`` in the memory order of ``x``."""
    if tensor.is_neg() or tensor.stride() != x.stride():
        return torch.empty_like(x).copy_(tensor)
    return tensor


def _restored(y: Tensor, x: Tensor) -> Tensor:
    """A result in the layout that ``empty_like(x)`` has."""
    if x.is_contiguous():
        return y
    result = torch.empty_like(x)
    return y if y.stride() == result.stride() else result.copy_(y)


def _number(s: Parameter) -> tuple[float, int, int]:
    """s as a number, its address and its count of features, as the kernels take it."""
    if isinstance(s, Tensor):
        return 0.0, s.data_ptr(), s.numel()
    return s, 0, 0


def _transform(x: Tensor, s: Parameter, base: str, quantity: int, y: Tensor, grad: int = 0, slope: int = 0) -> None:
    number, address, features = _number(s)
    index = BASES[base].number
    _C.transform(
        x.data_ptr(), y.data_ptr(), x.numel(), KINDS[x.dtype], index, quantity, number, address, features, grad, slope,
        x.get_device(),
    )  # fmt: skip


def evaluate(x: Tensor, s: Parameter, base: str, order: int) -> Tensor:
    """The ``order``-th derivative of sigma_s at x."""
    dense = _arranged(x, s)
    y = _output(dense, x)
    _transform(dense, s, base, order, y)
    return _restored(y, x)


def evaluate_in_place(x: Tensor, s: Parameter, base: str) -> None:
    """Overwrite x with sigma_s(x)."""
    dense = _arranged(x, s)
    _transform(dense, s, base, VALUE, dense)
    if dense is not x:
        x.copy_(dense)


def value_and_slope(x: Tensor, s: Parameter, base: str) -> tuple[Tensor, Tensor]:
    """sigma_s(x) and sigma_s'(x) in one pass over x."""
    dense = _arranged(x, s)
    y, slope = _output(dense, x), torch.empty_like(dense)
    _transform(dense, s, base, VALUE, y, slope=slope.data_ptr())
    return _restored(y, x), _restored(slope, x)


def backward(grad: Tensor, x: Tensor, s: Parameter, base: str, order: int) -> Tensor:
    """``grad`` times the derivative of order + 1 at x."""
    dense = _arranged(x, s)
    grad = _like(grad, dense)
    grad_x = _output(dense, x)
    _transform(dense, s, base, order + 1, grad_x, grad=grad.data_ptr())
    return _restored(grad_x, x)


def parameter_gradient(grad: Tensor, x: Tensor, s: Tensor, base: str, order: int) -> Tensor:
    """The sum of ``grad`` times d sigma_s^(order) / ds over all dimensions that s does not have, float64."""
    if x.numel() == 0:
        return torch.zeros(s.shape, dtype=torch.float64, device=x.device)
    dense = _arranged(x, s)
    grad = _like(grad, dense)
    grad_s = torch.empty(s.shape, dtype=torch.float64, device=x.device)
    features, device = s.numel(), x.get_device()
    scratch = _C.parameter_gradient_scratch(x.numel(), features, device)
    partial = torch.empty(scratch, dtype=torch.float64, device=x.device)
    _C.parameter_gradient(
        grad.data_ptr(), dense.data_ptr(), grad_s.data_ptr(), partial.data_ptr(), x.numel(), KINDS[x.dtype],
        BASES[base].number, PARAMETER_GRADIENT + order, features, device,
    )  # fmt: skip
    return grad_s


def relu_mask_forward(x: Tensor, s: Parameter, in_place: bool = False) -> tuple[Tensor, Tensor, tuple[int, ...]]:
    """sigma_s(x) for ReLU, the bits x > 0 in memory order (1/8 byte per element), and the strides of that order."""
    dense = _dense(x)
    y = dense if in_place else _output(dense, x)
    mask = torch.empty((x.numel() + 7) // 8, dtype=torch.uint8, device=x.device)
    number, address, _ = _number(s)
    _C.relu_mask_forward(
        dense.data_ptr(), y.data_ptr(), mask.data_ptr(), x.numel(), KINDS[x.dtype], number, address, x.get_device()
    )
    return (x.copy_(y) if in_place and y is not x else y), mask, dense.stride()


def relu_mask_backward(grad: Tensor, mask: Tensor, s: Parameter, stride: tuple[int, ...]) -> Tensor:
    """``grad`` where the bit is set, (1 - s) ``grad`` elsewhere."""
    if grad.is_neg() or grad.stride() != stride:
        grad = torch.empty_strided(grad.shape, stride, dtype=grad.dtype, device=grad.device).copy_(grad)
    grad_x = torch.empty_like(grad)
    number, address, _ = _number(s)
    _C.relu_mask_backward(
        grad.data_ptr(), grad_x.data_ptr(), mask.data_ptr(), grad.numel(), KINDS[grad.dtype], number, address,
        grad.get_device(),
    )  # fmt: skip
    return grad_x
