"""The compiled two-layer kernels on tensors: memory order, allocation, addresses. See ``reference_two_layer``.

CUDA kernels serve up to ``most_features`` features; nothing here waits for the device.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hrta_ext.bases import BASES
from hrta_ext.compiled import _C, KINDS
from hrta_ext.inputs import Parameter
from hrta_ext.network import reference
from hrta_ext.network.reference import Gradients, Needs


def _plain(tensor: Tensor) -> Tensor:
    return tensor.resolve_neg().contiguous()


def most_features(device: torch.device) -> float:
    """D up to which kernels serve tensors on the device."""
    return _C.two_layer_cuda_features if device.type == "cuda" else float("inf")


class Problem:
    """What every kernel is told about plain tensors, which it keeps."""

    def __init__(self, x: Tensor, weight: Tensor, output_weight: Tensor, s: Parameter, base: str) -> None:
        *_, width, features = weight.shape
        networks = output_weight.numel() // width
        on_device = isinstance(s, Tensor) and not s.is_cpu
        self.x, self.weight, self.output_weight = x, weight, output_weight
        self.s = s.detach().to(torch.float64) if isinstance(s, Tensor) and on_device else None
        self.described = _C.TwoLayerProblem(
            x.data_ptr(), weight.data_ptr(), output_weight.data_ptr(), networks, x.shape[0], features, width,
            KINDS[x.dtype], BASES[base].number, 0.0 if on_device else float(s), _address(self.s),
        )  # fmt: skip

    def run(self, name: str, *tensors: Tensor | None, scratch_of: str | None = None) -> None:
        """The kernel ``name`` on the tensors' device; ``scratch_of``: the pass it serves, unless ``name`` says it."""
        addresses = map(_address, tensors)
        if self.x.is_cpu:
            getattr(_C, f"two_layer_{name}")(self.described, *addresses)
            return
        count = _C.two_layer_cuda_scratch(self.described, getattr(_C.TwoLayerPass, scratch_of or name))
        scratch = torch.empty(count, dtype=torch.uint8, device=self.x.device)
        function = getattr(_C, f"two_layer_cuda_{name}")
        function(self.described, *addresses, scratch.data_ptr(), self.x.get_device())


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
    scratch_of = "forward_with_gradient" if with_gradient else None
    Problem(x, weight, output_weight, s, base).run("forward", f, df_dx, scratch_of=scratch_of)
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
    problem = Problem(x, weight, output_weight, s, base)
    grad_x = grad_s = None
    if grad_df_dx is not None and (needs[0] or needs[3]):
        others = (needs[0], False, False, needs[3])
        grad_x, _, _, grad_s = reference.gradients(grad_f, grad_df_dx, x, weight, output_weight, s, base, others)
    elif grad_f is not None:
        if needs[0]:
            grad_x = torch.empty_like(x)
            problem.run("input_gradient", grad_f, grad_x)
        if needs[3]:
            grad_s = torch.empty((), dtype=torch.float64, device=x.device)
            problem.run("parameter_gradient", grad_f, grad_s)
    grad_weight = torch.empty_like(weight) if needs[1] else None
    grad_output_weight = torch.empty_like(output_weight) if needs[2] else None
    if needs[1] or needs[2]:
        problem.run("backward", grad_f, grad_df_dx, grad_weight, grad_output_weight)
    return grad_x, grad_weight, grad_output_weight, grad_s
