"""The compiled two-layer kernels on CPU tensors: memory order, allocation, addresses. See ``reference_two_layer``."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hrta_ext import reference_two_layer as reference
from hrta_ext.bases import BASES
from hrta_ext.native import _C, KINDS
from hrta_ext.reference import Parameter
from hrta_ext.reference_two_layer import Gradients, Needs


def _plain(tensor: Tensor) -> Tensor:
    return tensor.resolve_neg().contiguous()


def _problem(x: Tensor, weight: Tensor, output_weight: Tensor, s: Parameter, base: str) -> Any:
    """What every kernel is told; the (plain) tensors must outlive the call."""
    *_, width, features = weight.shape
    networks = output_weight.numel() // width
    return _C.TwoLayerProblem(
        x.data_ptr(), weight.data_ptr(), output_weight.data_ptr(), networks, x.shape[0], features, width,
        KINDS[x.dtype], BASES[base].number, s.item() if isinstance(s, Tensor) else float(s),
    )  # fmt: skip


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


def outputs(
    x: Tensor, weight: Tensor, output_weight: Tensor, s: Parameter, base: str, with_gradient: bool
) -> tuple[Tensor, ...]:
    """f (..., n) and, if asked for, df/dx (..., n, D)."""
    x, weight, output_weight = _plain(x), _plain(weight), _plain(output_weight)
    networks = output_weight.shape[:-1]
    f = x.new_empty((*networks, x.shape[0]))
    df_dx = x.new_empty((*networks, *x.shape)) if with_gradient else None
    _C.two_layer_forward(_problem(x, weight, output_weight, s, base), f.data_ptr(), _address(df_dx))
    return (f,) if df_dx is None else (f, df_dx)


def gradients(
    grad_f: Tensor | None,
    grad_df_dx: Tensor | None,
    x: Tensor,
    weight: Tensor,
    output_weight: Tensor,
    s: Parameter,
    base: str,
    needs: Needs,
) -> Gradients:
    """The gradients of sum_i grad_f_i f_i + grad_df_dx_i . df_dx_i in x, weight, output_weight and s, as needed.

    Those in x and s have kernels where grad_df_dx is None, and are computed by ``reference_two_layer`` otherwise.
    """
    x, weight, output_weight = _plain(x), _plain(weight), _plain(output_weight)
    grad_f = None if grad_f is None else _plain(grad_f)
    grad_df_dx = None if grad_df_dx is None else _plain(grad_df_dx)
    problem = _problem(x, weight, output_weight, s, base)
    grad_x = grad_s = None
    if grad_df_dx is not None and (needs[0] or needs[3]):
        others = (needs[0], False, False, needs[3])
        grad_x, _, _, grad_s = reference.gradients(grad_f, grad_df_dx, x, weight, output_weight, s, base, others)
    elif grad_f is not None:
        if needs[0]:
            grad_x = torch.empty_like(x)
            _C.two_layer_input_gradient(problem, grad_f.data_ptr(), grad_x.data_ptr())
        if needs[3]:
            grad_s = torch.tensor(_C.two_layer_parameter_gradient(problem, grad_f.data_ptr()), dtype=torch.float64)
    grad_weight = torch.empty_like(weight) if needs[1] else None
    grad_output_weight = torch.empty_like(output_weight) if needs[2] else None
    if needs[1] or needs[2]:
        addresses = (_address(tensor) for tensor in (grad_f, grad_df_dx, grad_weight, grad_output_weight))
        _C.two_layer_backward(problem, *addresses)
    return grad_x, grad_weight, grad_output_weight, grad_s
