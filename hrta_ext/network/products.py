"""The two-layer network on a GPU with more features than kernels hold, a chunk of neurons at a time.

torch multiplies samples and weights, two kernels do what lies between the products in one sweep each. All products are
in float64, in which these devices multiply as fast as in float32, or half as fast: no sign of a pre-activation is
wrong, and neither TF32 nor autocast touches them. Memory beyond arguments and results is that of a chunk's
pre-activations, whatever m is. Same functions as ``native``, of the same plain tensors.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from hrta_ext.bases import BASES
from hrta_ext.compiled import _C, KINDS, address
from hrta_ext.inputs import Parameter
from hrta_ext.network import reference
from hrta_ext.network.reference import Gradients, Needs, neuron_chunks, output_scale

_FAST_FLOAT64 = ((8, 0), (9, 0), (10, 0))  # compute capabilities; on others float64 has a 32nd of float32's speed


def serves(device: torch.device) -> bool:
    """Whether this is the way for many features on the device; others go by ``reference``."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) in _FAST_FLOAT64


def _pieces(count: int, which: int) -> int:
    return -(-count // _C.TWO_LAYER_PIECES[which])


def _wide(tensor: Tensor | None, name: str, z: Tensor, count: int) -> int:
    """The address of float64 values on z's device."""
    return address(tensor, f"two_layer: {name}", torch.float64, z.get_device(), count)


def _call(z: Tensor, output_weight: Tensor, s: Parameter, base: str) -> Any:
    """What a kernel is told of a chunk with pre-activations z (..., n, m); s a float, or float64 on z's device."""
    *batch, n, width = z.shape
    networks, dtype = math.prod(batch), output_weight.dtype
    return _C.TwoLayerCall(
        dtype=KINDS[dtype],
        base=BASES[base].number,
        networks=networks,
        n=n,
        width=width,
        output_weight=address(output_weight, "two_layer: output_weight", dtype, z.get_device(), networks * width),
        s=0.0 if isinstance(s, Tensor) else s,
        s_value=_wide(s, "s", z, 1) if isinstance(s, Tensor) else 0,
    )


def sum_neurons(
    z: Tensor,
    output_weight: Tensor,
    s: Parameter,
    base: str,
    scale: float,
    replace: bool = False,
    excess: bool = False,
) -> Tensor:
    """sum_k a_k sigma_s(z_ik), or with ``excess`` that of sigma(z_ik) - z_ik; ``replace`` puts a_k sigma_s' into z.

    Args:
        z: Contiguous float64 (..., n, m).
        output_weight: Contiguous (..., m), in whose dtype sigma is evaluated.
        s: A float, or a float64 tensor of one element on z's device.
        base: Base activation.
        scale: A factor of all results.
        replace, excess: Not both.
    Returns:
        float64 (..., n).
    """
    sums = z.new_empty((*z.shape[:-1], _pieces(z.shape[-1], 0)))
    places = _wide(z, "z", z, z.numel()), _wide(sums, "sums", z, sums.numel())
    _C.two_layer_sum_neurons(_call(z, output_weight, s, base), scale, *places, replace, excess, z.get_device())
    return sums.sum(-1)


def sum_samples(
    z: Tensor, y: Tensor | None, output_weight: Tensor, grad_f: Tensor | None, s: Parameter, base: str, scale: float
) -> Tensor:
    """sum_i g_i sigma_s(z_ik) + y_ik sigma_s'(z_ik).

    Puts a_k (g_i sigma_s' + y_ik sigma_s'') into z and a_k sigma_s' into y.

    Args:
        z, output_weight, s, base, scale: As for ``sum_neurons``.
        y: As z, or None for 0.
        grad_f: Contiguous (..., n) of output_weight's dtype, or None for 0.
    Returns:
        float64 (..., m).
    """
    *networks, n, width = z.shape
    sums = z.new_empty((*networks, _pieces(n, 1), width))
    of_f = address(grad_f, "two_layer: grad_f", output_weight.dtype, z.get_device(), z.numel() // width)
    places = [_wide(t, name, z, z.numel()) for t, name in ((z, "z"), (y, "y"))]
    call = _call(z, output_weight, s, base)
    _C.two_layer_sum_samples(call, scale, of_f, *places, _wide(sums, "sums", z, sums.numel()), z.get_device())
    return sums.sum(-2)


def _number(s: Parameter) -> Parameter:
    on_device = isinstance(s, Tensor) and not s.is_cpu
    return s.detach().to(torch.float64) if isinstance(s, Tensor) and on_device else float(s)


@torch.no_grad()
def outputs(
    x: Tensor, weight: Tensor, output_weight: Tensor, s: Parameter, base: str, with_gradient: bool
) -> tuple[Tensor, ...]:
    """f (..., n) and, if asked for, df/dx (..., n, D)."""
    samples, number, scale = x.double(), _number(s), output_scale(output_weight)
    networks = output_weight.shape[:-1]
    f = samples.new_zeros((*networks, x.shape[0]))
    df_dx = samples.new_zeros((*networks, *x.shape)) if with_gradient else None
    for at in neuron_chunks(x.shape[0], output_weight):
        w = weight[..., at, :].double()
        z = (samples @ w.mT).contiguous()
        f += sum_neurons(z, output_weight[..., at].contiguous(), number, base, scale, replace=with_gradient)
        if df_dx is not None:
            df_dx += z @ w
    return tuple(result.to(x.dtype) for result in (f, df_dx) if result is not None)


@torch.no_grad()
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

    That in s is computed by ``reference`` where grad_df_dx is given.
    """
    samples, number, scale = x.double(), _number(s), output_scale(output_weight)
    along = None if grad_df_dx is None else grad_df_dx.double()
    grad_x = torch.zeros_like(samples) if needs[0] else None
    grad_weight = torch.empty_like(weight) if needs[1] else None
    grad_output_weight = torch.empty_like(output_weight) if needs[2] else None
    grad_s = samples.new_zeros(()) if needs[3] else None
    if needs[3] and grad_df_dx is not None:
        only_s = (False, False, False, True)
        grad_s = reference.gradients(grad_f, grad_df_dx, x, weight, output_weight, s, base, only_s)[3]
    for at in neuron_chunks(x.shape[0], output_weight):
        w, a = weight[..., at, :].double(), output_weight[..., at].contiguous()
        z = (samples @ w.mT).contiguous()
        if grad_s is not None and grad_f is not None and along is None:
            grad_s += (grad_f * sum_neurons(z, a, number, base, scale, excess=True)).sum()
        if not any(needs[:3]):
            continue
        y = None if along is None else (along @ w.mT).contiguous()
        of_output_weight = sum_samples(z, y, a, grad_f, number, base, scale)
        if grad_output_weight is not None:
            grad_output_weight[..., at] = of_output_weight
        if grad_x is not None:
            grad_x += (z @ w).reshape(-1, *x.shape).sum(0)
        if grad_weight is not None:
            rows = z.mT @ samples
            if y is not None and along is not None:
                rows += y.mT @ along
            grad_weight[..., at, :] = rows
    return None if grad_x is None else grad_x.to(x.dtype), grad_weight, grad_output_weight, grad_s
