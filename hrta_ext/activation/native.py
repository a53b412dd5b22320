"""The compiled kernels on tensors: allocation, memory order and addresses. Same functions as ``reference``.

A kernel sees dense memory as one flat array, so any dense layout passes as it is and its result keeps the layout; other
strides are copied first, into the layout torch's own elementwise operations would give the result.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hrta_ext.bases import BASES
from hrta_ext.compiled import _C, KINDS, address, memory, own, plain, require_memory
from hrta_ext.inputs import Parameter

# Numbers of Quantity in csrc/ (_C.QUANTITIES); the derivatives of sigma_s by their order.
VALUE, PARAMETER_GRADIENT = 0, 3


def serves(x: Tensor) -> bool:
    """Whether these kernels take x, of a device and dtype that the binary serves."""
    return True


def _dense(x: Tensor) -> Tensor:
    """x itself if its memory is dense, else a dense copy; either way laid out as ``empty_like(x)``."""
    if x.is_neg():
        require_memory(x, "activation: x")
        x = x.resolve_neg()
    if x.is_contiguous():
        return x
    like = torch.empty_like(x)
    if x.stride() == like.stride():
        return x
    require_memory(x, "activation: x")
    return like.copy_(x)


def _arranged(x: Tensor, s: Parameter) -> Tensor:
    """x as the kernels want it: with one s per feature the features must be innermost."""
    if isinstance(s, Tensor) and s.numel() > 1:
        return plain(x, "activation: x")
    return _dense(x)


def _output(dense: Tensor, x: Tensor) -> Tensor:
    """Where the result goes: over the copy, if ``_arranged(x)`` made one, else into new memory."""
    return torch.empty_like(dense) if dense is x else dense


def _like(grad: Tensor, x: Tensor) -> Tensor:
    """A gradient in the memory order of x."""
    if grad.is_neg() or grad.stride() != x.stride():
        if grad.untyped_storage().nbytes() == 0:
            require_memory(grad, "activation: grad")
        return torch.empty_like(x).copy_(grad)
    return grad


def _restored(y: Tensor, x: Tensor) -> Tensor:
    """A result in the layout that ``empty_like(x)`` has."""
    if x.is_contiguous():
        return y
    result = torch.empty_like(x)
    return y if y.stride() == result.stride() else result.copy_(y)


def _ready(s: Parameter) -> Parameter:
    """s with its own sign in contiguous memory; to be kept while the kernel runs."""
    return plain(s, "activation: s") if isinstance(s, Tensor) else s


def _number(s: Parameter, device: int) -> tuple[float, int, int]:
    """s as a number, its address and its count of features, as the kernels take it."""
    if isinstance(s, Tensor):
        features = s.numel()
        return 0.0, address(s, "activation: s", torch.float64, device, features), features
    return s, 0, 0


def _transform(
    x: Tensor, s: Parameter, base: str, quantity: int, y: Tensor, *, grad: Tensor | None = None, slope: int = 0
) -> None:
    """The pass over dense x and, in its order, grad, to y and, at the address ``slope``, the slope."""
    s = _ready(s)
    device = x.get_device()
    number, values, features = _number(s, device)
    _C.transform(
        memory(x, "activation: x"), own(y), x.numel(), KINDS[x.dtype], BASES[base].number, quantity, number, values,
        features, 0 if grad is None else _beside(grad, x), slope, device,
    )  # fmt: skip


def _beside(grad: Tensor, x: Tensor) -> int:
    """Where a gradient is, which the kernel takes to be like x, element by element."""
    strides = None if x.is_contiguous() else x.stride()
    return address(grad, "activation: grad", x.dtype, x.get_device(), x.numel(), strides)


def evaluate(x: Tensor, s: Parameter, base: str, order: int) -> Tensor:
    """The ``order``-th derivative of sigma_s at x."""
    dense = _arranged(x, s)
    y = _output(dense, x)
    _transform(dense, s, base, order, y)
    return _restored(y, x)


def evaluate_in_place(x: Tensor, s: Parameter, base: str) -> None:
    """Overwrite x with sigma_s(x)."""
    if isinstance(s, Tensor):
        s = s.clone()  # it may be a part of x
    dense = _arranged(x, s)
    _transform(dense, s, base, VALUE, dense)
    if dense is not x:
        x.copy_(dense)


def value_and_slope(x: Tensor, s: Parameter, base: str) -> tuple[Tensor, Tensor]:
    """sigma_s(x) and sigma_s'(x) in one pass over x."""
    dense = _arranged(x, s)
    y, slope = _output(dense, x), torch.empty_like(dense)
    _transform(dense, s, base, VALUE, y, slope=own(slope))
    return _restored(y, x), _restored(slope, x)


def backward(grad: Tensor, x: Tensor, s: Parameter, base: str, order: int) -> Tensor:
    """``grad`` times the derivative of order + 1 at x."""
    dense = _arranged(x, s)
    grad = _like(grad, dense)
    grad_x = _output(dense, x)
    _transform(dense, s, base, order + 1, grad_x, grad=grad)
    return _restored(grad_x, x)


def parameter_gradient(grad: Tensor, x: Tensor, s: Tensor, base: str, order: int) -> Tensor:
    """The sum of ``grad`` times d sigma_s^(order) / ds over all dimensions that s does not have, float64."""
    if x.numel() == 0:
        return torch.zeros(s.shape, dtype=torch.float64, device=x.device)
    dense = _arranged(x, s)
    grad = _like(grad, dense)
    grad_s = torch.empty(s.shape, dtype=torch.float64, device=x.device)
    device, n, features = x.get_device(), x.numel(), s.numel()
    partial = torch.empty(_C.parameter_gradient_scratch(n, features, device), dtype=torch.float64, device=x.device)
    _C.parameter_gradient(
        _beside(grad, dense), memory(dense, "activation: x"), own(grad_s), own(partial), n, KINDS[x.dtype],
        BASES[base].number, PARAMETER_GRADIENT + order, features, device,
    )  # fmt: skip
    return grad_s


def relu_mask_forward(x: Tensor, s: Parameter, in_place: bool = False) -> tuple[Tensor, Tensor, tuple[int, ...]]:
    """sigma_s(x) for ReLU, the bits x > 0 in memory order (1/8 byte per element), and the strides of that order."""
    s = _ready(s.clone() if in_place and isinstance(s, Tensor) else s)
    dense = _dense(x)
    y = dense if in_place else _output(dense, x)
    device, n = x.get_device(), x.numel()
    mask = torch.empty((n + 7) // 8, dtype=torch.uint8, device=x.device)
    number, value, _ = _number(s, device)
    at = memory(dense, "activation: x")
    _C.relu_mask_forward(at, own(y), own(mask), n, KINDS[x.dtype], number, value, device)
    return (x.copy_(y) if in_place and y is not x else y), mask, dense.stride()


def relu_mask_backward(grad: Tensor, mask: Tensor, s: Parameter, stride: tuple[int, ...]) -> Tensor:
    """``grad`` where the bit is set, (1 - s) ``grad`` elsewhere."""
    s = _ready(s)
    if grad.is_neg() or grad.stride() != stride:
        grad = torch.empty_strided(grad.shape, stride, dtype=grad.dtype, device=grad.device).copy_(grad)
    grad_x = torch.empty_like(grad)
    device, n = grad.get_device(), grad.numel()
    number, value, _ = _number(s, device)
    at = address(grad, "activation: grad", grad.dtype, device, n, stride)
    bits = address(mask, "activation: mask", torch.uint8, device, (n + 7) // 8)
    _C.relu_mask_backward(at, own(grad_x), bits, n, KINDS[grad.dtype], number, value, device)
    return grad_x
