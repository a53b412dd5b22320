"""Where a tensor's memory starts: libraries round matrix products by it, so operands are brought into one form."""

from __future__ import annotations

from torch import Tensor

from hrta_ext.callers import functorch_active, is_legacy_batched, sees_formula

_BYTES = 64  # what torch itself allocates by, and as much as any vector instruction asks for


def aligned(tensor: Tensor) -> Tensor:
    """The tensor as contiguous memory that starts where torch's own would: a copy of what starts elsewhere.

    A product of two such tensors has bits that depend on their shapes and values alone. Differentiable; what has no
    address of its own, in a compiler's or a tracer's hands, passes as it is.
    """
    if sees_formula(tensor):
        return tensor
    if functorch_active() or is_legacy_batched(tensor):
        return tensor.clone()
    tensor = tensor.contiguous()
    return tensor if tensor.data_ptr() % _BYTES == 0 else tensor.clone()
