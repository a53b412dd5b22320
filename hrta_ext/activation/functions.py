"""The homotopy activation sigma_s(x) = (1 - s) x + s sigma(x): public functions and autograd.

A call takes one of three ways. Eager calls on ordinary tensors run a compiled kernel (or its stand-in in
``reference``), with a light ``autograd.Function`` when gradients are needed. Under ``torch.func`` transforms and
forward-mode AD the same kernels run behind a Function that knows vmap and jvp. Compilers, tensor subclasses and
dispatch modes see the plain formula ``formula.compose``, which Inductor fuses with its neighbours.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.overrides import handle_torch_function

from hrta_ext import compiled
from hrta_ext.activation import native, reference
from hrta_ext.activation.autograd import (
    MaskedRelu,
    ValueAndSlope,
    derivative,
    kernel_parameter,
    lean_homotopy,
    lean_relu,
    light_saved_slope,
    per_feature,
)
from hrta_ext.backends import open_blocks, serve
from hrta_ext.bases import BASES
from hrta_ext.callers import (
    alive,
    dispatch_modes,
    functorch_active,
    grad_enabled,
    is_dynamo_compiling,
    sees_formula,
    stand_in,
    tracing_state,
    transforms_active,
    wants_grad,
)
from hrta_ext.inputs import Parameter, check_activation, check_flag, check_target

# What the fast lane of `homotopy` looks up on every call.
_KINDS = compiled.KINDS
_NATIVE_BASES = {name: base.number for name, base in BASES.items() if base.number is not None}
_native_value = None if compiled._C is None else compiled._C.value
_empty_like = torch.empty_like
_strided = torch.strided
_has_image = compiled.has_image
_leaky_relu = torch._C._nn.leaky_relu
# Elements up to which torch's leaky_relu serves ReLU: on any call; and where autograd records, since a Function in
# Python costs more than it saves.
_LEAKY_ANY = 16384
_LEAKY_RECORDED, _LEAKY_RECORDED_CUDA = 131072, 65536
_LOWEST_DATA = 1 << 22  # kLowestData of csrc/torch/addresses.h: below it, storage that was freed


def _fast_lane(x: Tensor, s: object, base: object) -> tuple[int, int, int] | None:
    """The kernel's numbers of dtype, base and device, for an ordinary contiguous tensor and one fixed s; else None."""
    if (
        not is_dynamo_compiling()
        and type(x) is Tensor
        and (
            type(s) is float
            or (type(s) is Tensor and s.dim() == 0 and s.is_cpu and not s.requires_grad and s.is_floating_point())
        )
        and type(base) is str
        and (number := _NATIVE_BASES.get(base)) is not None
        and (kind := _KINDS.get(x.dtype)) is not None
        and (device := -1 if x.is_cpu else x.get_device() if x.is_cuda and _has_image(x.get_device()) else -2) > -2
        and x.layout is _strided
        and x.is_contiguous()
        and not x.is_neg()
        and _native_value is not None
        and not open_blocks()
        and not functorch_active()
        and not dispatch_modes()
        and forward_ad._current_level < 0
        and tracing_state() is None
    ):
        return kind, number, device
    return None


def homotopy(x: Tensor, s: Parameter = 1.0, base: str = "relu", *, order: int = 0, save_slope: bool = False) -> Tensor:
    """sigma_s(x) = (1 - s) x + s sigma(x), or its derivative in x.

    Source: Yang, Chen, Hao (2025), section 2; docs/theory.md 1. For ReLU it is a leaky ReLU of negative slope 1 - s,
    negative for s > 1. sigma'(0) = 0 for ReLU, as in torch.

    Args:
        x: Any shape and strides; float16, bfloat16 (computed in float32), float32 or float64.
        s: Homotopy parameter: a finite float, a tensor of shape () or (1,), or (x.shape[-1],) for one s per feature.
        base: "relu", "relu2" (ReLU^2 / 2), "tanh", "gelu" (exact), "silu", "softplus", "erf", "sin", or a name given to
            :func:`register_base`.
        order: 0 for the value, 1 for sigma_s', 2 for sigma_s''.
        save_slope: Compute the slope beside the value and keep it for backward, which then is one product: less time in
            all for one tensor more of memory. ReLU, whose mask does that already, compilers and ``torch.func`` keep
            what they keep without it.
    Returns:
        x's shape and dtype; dense layouts such as channels_last are kept.

    Accuracy: float32 within 4 ulp of the exact value, an ulp of the larger of |(1 - s) x| and |s sigma(x)|, for every
    finite x. NaN stays NaN; at infinite x the limit of the formula (ReLU at -inf: 0 for s = 1, -inf for s < 1).

    Differentiable in x and, when s is a tensor that requires grad, in s, as often as the base allows. Memory kept for
    backward: ReLU with an s that needs no gradient, 1/8 byte per element (torch backend: 1 byte; up to 131072 elements,
    65536 on a GPU: x itself); otherwise x itself, which costs nothing if x lives on. The gradient in s is
    summed in float64 in a fixed order: the same bits on every run and for every number of threads.

    Raises:
        TypeError: x is no floating-point dense tensor, or s no number.
        ValueError: unknown base, wrong shape or device of s, s not finite (in x's dtype), order not 0, 1 or 2, or not 0
            with ``save_slope``.

    Example:
        >>> import torch, hrta_ext as hx
        >>> x = torch.tensor([-2.0, 2.0], requires_grad=True)
        >>> y = hx.homotopy(x, s=1.5)
        >>> y
        tensor([1., 2.], grad_fn=<...>)
        >>> torch.autograd.grad(y.sum(), x)
        (tensor([-0.5000,  1.0000]),)
    """
    if save_slope is not False:
        save_slope = check_flag(save_slope, "homotopy: save_slope")
    # torch's own leaky_relu on few elements: the same bits, of every derivative too, under transforms and tracers as
    # well. Few questions, since each costs half a microsecond in a training step. Not at s = 1, where it has 0 times
    # -inf; and not in place, where it keeps the result, which nobody may then overwrite, and has no backward for s > 1.
    if (
        not is_dynamo_compiling()  # first: a comparison of s would tie a compiled graph to it
        and type(s) is float
        and type(x) is Tensor
        and order == 0
        and s != 1.0
        and -6e4 < s < 6e4  # finite in every dtype
        and type(base) is str
        and base == "relu"
        and not open_blocks()
        and x.dtype in _KINDS
        and (
            (n := x.numel()) <= _LEAKY_ANY or (n <= _LEAKY_RECORDED and x.requires_grad and x.is_cpu and grad_enabled())
        )
        and not x.is_nested
    ):
        try:
            if x.data_ptr() >= _LOWEST_DATA:
                return _leaky_relu(x, 1.0 - s)
        except RuntimeError:  # what has no memory of its own, or is of another layout
            pass
    # The fast lane. _fast_lane's conditions stand here again: a call costs a tenth of the time on a thousand elements.
    if (
        not is_dynamo_compiling()
        and order == 0
        and type(x) is Tensor
        and (
            type(s) is float
            or (type(s) is Tensor and s.dim() == 0 and s.is_cpu and not s.requires_grad and s.is_floating_point())
        )
        and type(base) is str
        and (number := _NATIVE_BASES.get(base)) is not None
        and (kind := _KINDS.get(x.dtype)) is not None
        and (device := -1 if x.is_cpu else x.get_device() if x.is_cuda and _has_image(x.get_device()) else -2) > -2
        and x.layout is _strided
        and x.is_contiguous()
        and not x.is_neg()
        and _native_value is not None
        and not open_blocks()
        and not functorch_active()
        and not dispatch_modes()
        and forward_ad._current_level < 0
        and tracing_state() is None
    ):
        try:
            fixed: float = s if type(s) is float else s.item()  # type: ignore[union-attr]
            if -6e4 < fixed < 6e4:  # finite in every dtype
                records = x.requires_grad and grad_enabled()
                if base == "relu" and fixed != 1.0:
                    most = _LEAKY_RECORDED if device < 0 else _LEAKY_RECORDED_CUDA
                    if x.numel() <= (most if records else _LEAKY_ANY) and x.data_ptr() >= _LOWEST_DATA:
                        return _leaky_relu(x, 1.0 - fixed)
                if records:
                    if base == "relu":
                        return lean_relu(x, fixed, device)[0]
                    if save_slope:
                        return light_saved_slope(x, fixed, base)
                    return lean_homotopy(x, fixed, base, (kind, number, device))
                y = _empty_like(x)
                _native_value(x.data_ptr(), y.data_ptr(), 0, x.numel(), kind, number, fixed, device)
                return y
        except RuntimeError:  # a wrapper without memory of its own: the slow lane knows what to do, or what to say
            pass
    if stand_in(x, s):
        chosen = {"save_slope": save_slope} if save_slope else {}
        return handle_torch_function(homotopy, (x, s), x, s, base, order=order, **chosen)
    s = check_activation("homotopy", x, s, base, order)
    if save_slope and order != 0:
        raise ValueError(
            f"homotopy: save_slope must be False where order is not 0, got {save_slope!r} and order {order}"
        )
    return derivative(x, s, base, order, save_slope)


def homotopy_value_and_slope(x: Tensor, s: Parameter = 1.0, base: str = "relu") -> tuple[Tensor, Tensor]:
    """sigma_s(x) and sigma_s'(x) in one pass over x; both differentiable.

    Args and errors as for :func:`homotopy`. The pair is what PINN and Deep Ritz losses need, and what the kernels of
    the finite-width NTK are made of (docs/theory.md, section 3).

    Returns:
        (value, slope), each of x's shape and dtype.

    Example:
        >>> import torch, hrta_ext as hx
        >>> hx.homotopy_value_and_slope(torch.tensor([-2.0, 2.0]), s=0.5)
        (tensor([-1.,  2.]), tensor([0.5000, 1.0000]))
    """
    if (numbers := _fast_lane(x, s, base)) is not None and not (x.requires_grad and grad_enabled()):
        try:
            fixed: float = s if type(s) is float else s.item()  # type: ignore[union-attr]
            if -6e4 < fixed < 6e4:
                value, slope = _empty_like(x), _empty_like(x)
                kind, number, device = numbers
                addresses = x.data_ptr(), value.data_ptr(), slope.data_ptr()
                compiled._C.value(*addresses, x.numel(), kind, number, fixed, device)
                return value, slope
        except RuntimeError:  # as in homotopy
            pass
    if stand_in(x, s):
        return handle_torch_function(homotopy_value_and_slope, (x, s), x, s, base)
    s = check_activation("homotopy_value_and_slope", x, s, base)
    if sees_formula(x) or transforms_active():
        return homotopy(x, s, base), homotopy(x, s, base, order=1)
    x, s = alive(x), alive(s)
    if wants_grad(x, s):
        value, slope = ValueAndSlope.apply(x, s, base)
        return value, slope
    return serve(native, reference, x, base).value_and_slope(x, kernel_parameter(s, x), base)


def homotopy_(x: Tensor, s: Parameter = 1.0, base: str = "relu") -> Tensor:
    """sigma_s in place: overwrites x and returns it, with a correct backward for every s, also s > 1.

    Args and errors as for :func:`homotopy`. Backward keeps 1/8 byte per element for ReLU with an s that needs no
    gradient; every other case keeps a copy of the old x, since its derivatives cannot be had from the new one.

    Raises:
        ValueError: x is a leaf that requires grad, whose old value autograd could not restore, or an expanded tensor.

    Example:
        >>> import torch, hrta_ext as hx
        >>> x = torch.tensor([-2.0, 2.0])
        >>> hx.homotopy_(x, s=1.5) is x, x
        (True, tensor([1., 2.]))
    """
    if stand_in(x, s):
        return handle_torch_function(homotopy_, (x, s), x, s, base)
    s = check_activation("homotopy_", x, s, base)
    if sees_formula(x) or transforms_active():
        return x.copy_(homotopy(x.clone(), s, base))
    check_target("homotopy_", x)
    if (inner := alive(x)) is not x:
        homotopy_(inner, s, base)
        return x
    s = alive(s)
    if x.is_inference() and not torch.is_inference_mode_enabled():
        raise RuntimeError(
            "homotopy_: x is an inference tensor, which torch lets nobody overwrite outside inference mode; "
            "call hx.homotopy, or x.clone() first"
        )
    if not wants_grad(x, s):
        serve(native, reference, x, base).evaluate_in_place(x, kernel_parameter(s, x), base)
        # The kernel writes behind autograd's back: let saved tensors know that x has changed.
        torch.autograd.graph.increment_version(x)
        return x
    if x.is_leaf and x.requires_grad:
        raise ValueError(
            "homotopy_: x is a leaf tensor that requires grad; call hx.homotopy, or wrap in torch.no_grad()"
        )
    fused = base == "relu" and not (isinstance(s, Tensor) and s.requires_grad) and not per_feature(s)
    if fused and not x._is_view():
        return MaskedRelu.apply(x, s, True)[0]
    # Of some views torch lets nobody overwrite the base; copy_ says so before it writes.
    return x.copy_(homotopy(x.clone(), s, base))
