"""Who calls: compilers, tracers, tensor subclasses and dispatch modes, torch.func transforms, or plain eager code."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.overrides import has_torch_function

from hrta_ext.compiled import placed

# Bound once: the fast lane asks on every call.
grad_enabled = torch.is_grad_enabled
is_compiling = torch.compiler.is_compiling
is_dynamo_compiling = torch.compiler.is_dynamo_compiling
functorch_active = torch._C._are_functorch_transforms_active
dispatch_modes = torch._C._len_torch_dispatch_stack
tracing_state = torch._C._get_tracing_state
is_legacy_batched = torch._C._functorch.is_legacy_batchedtensor
_is_functional = torch._is_functional_tensor
_unwrap_if_dead = torch._C._functorch.unwrap_if_dead


def forward_mode() -> bool:
    """A level of forward-mode differentiation is open."""
    return forward_ad._current_level >= 0


def transforms_active() -> bool:
    """A torch.func transform or a forward-mode level is open."""
    return functorch_active() or forward_ad._current_level >= 0


def sees_formula(x: Tensor) -> bool:
    """Whoever handles x wants plain operations: a compiler, a tracer, a subclass, a dispatch mode, an odd layout."""
    return (
        is_compiling()
        or (type(x) is not Tensor and type(x) is not torch.nn.Parameter and not functorch_active())
        or dispatch_modes() > 0
        or tracing_state() is not None
        or x.layout is not torch.strided
        or x.device.type == "meta"
        or _is_functional(x)
    )


def stand_in(*values: object) -> bool:
    """One of the values is no tensor but speaks for one, as torch.fx's proxies do: it takes the call as a whole."""
    return (
        not is_dynamo_compiling()
        and has_torch_function(values)
        and any(not isinstance(value, Tensor) and has_torch_function((value,)) for value in values)
    )


def wants_grad(*values: object) -> bool:
    """Autograd records, and one of the values is a tensor that requires grad."""
    return grad_enabled() and any(isinstance(value, Tensor) and value.requires_grad for value in values)


def needs_operations(grad: Tensor) -> bool:
    """Backward must be made of differentiable, batchable operations: create_graph, torch.func, is_grads_batched."""
    return grad_enabled() or functorch_active() or is_legacy_batched(grad) or forward_ad._current_level >= 0


def alive(tensor: Any) -> Any:
    """What a tensor that outlived its torch.func transform wraps; anything else as it is."""
    while isinstance(tensor, Tensor) and (inner := _unwrap_if_dead(tensor)) is not tensor:
        tensor = inner
    return tensor


def aligned(tensor: Tensor) -> Tensor:
    """The tensor as contiguous memory that starts where torch's own would: a copy of what starts elsewhere.

    Libraries round matrix products by the address of their operands. Of two such tensors a product has bits that depend
    on shapes and values alone. Differentiable; what has no address, in a compiler's or a tracer's hands, passes as it
    is.
    """
    if sees_formula(tensor):
        return tensor
    if functorch_active() or is_legacy_batched(tensor):
        return tensor.clone()
    return placed(tensor)
