"""The compiled two-layer kernels on tensors: memory order, allocation, addresses. Same functions as ``reference``.

CUDA kernels serve up to ``most_features`` features, ``products`` beyond; nothing here waits for the device.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hrta_ext.bases import BASES
from hrta_ext.compiled import _C, KINDS, address, memory, most_features, own, plain
from hrta_ext.inputs import Parameter
from hrta_ext.network import products, reference
from hrta_ext.network.reference import Gradients, Needs


def serves(x: Tensor) -> bool:
    """Whether these kernels take samples x (n, D), of a device and dtype that the binary serves."""
    return x.shape[-1] <= most_features(x.device) or products.serves(x.device)


def _plain(x: Tensor, weight: Tensor, output_weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return (
        plain(x, "two_layer: x"),
        plain(weight, "two_layer: weight"),
        plain(output_weight, "two_layer: output_weight"),
    )


class Problem:
    """What every pass is told about plain tensors, which it keeps."""

    def __init__(self, x: Tensor, weight: Tensor, output_weight: Tensor, s: Parameter, base: str) -> None:
        on_device = isinstance(s, Tensor) and not s.is_cpu
        self.tensors = x, weight, output_weight
        self.s = s.detach().to(torch.float64) if isinstance(s, Tensor) and on_device else None
        self.device = x.get_device()  # -1 for the CPU
        n, features = x.shape
        neurons, width = output_weight.numel(), weight.shape[-2]
        self.count = neurons // width * n  # of outputs
        self.call = _C.TwoLayerCall(
            dtype=KINDS[x.dtype],
            base=BASES[base].number,
            networks=neurons // width,
            n=n,
            features=features,
            width=width,
            x=memory(x, "two_layer: x"),
            weight=self.address(weight, "weight", neurons * features),
            output_weight=self.address(output_weight, "output_weight", neurons),
            s=0.0 if on_device else float(s),
            s_value=address(self.s, "two_layer: s", torch.float64, self.device, 1),
        )

    def address(self, tensor: Tensor | None, name: str, count: int) -> int:
        """Where a tensor of x's dtype and device is."""
        return address(tensor, f"two_layer: {name}", self.tensors[0].dtype, self.device, count)

    def run(self, function: Any, which: Any, given: tuple[int, ...], *results: Tensor | None) -> None:
        """The pass ``which`` by its function of ``_C``: the addresses of what it reads, and what it writes."""
        scratch = None
        if self.device >= 0:
            count = _C.two_layer_scratch(self.call, which, self.device)
            scratch = torch.empty(count, dtype=torch.uint8, device=self.tensors[0].device)
        function(self.call, *given, *map(own, results), own(scratch), self.device)


def outputs(
    x: Tensor, weight: Tensor, output_weight: Tensor, s: Parameter, base: str, with_gradient: bool
) -> tuple[Tensor, ...]:
    """f (..., n) and, if asked for, df/dx (..., n, D)."""
    x, weight, output_weight = _plain(x, weight, output_weight)
    if x.shape[-1] > most_features(x.device):
        return products.outputs(x, weight, output_weight, s, base, with_gradient)
    networks = output_weight.shape[:-1]
    f = x.new_empty((*networks, x.shape[0]))
    df_dx = x.new_empty((*networks, *x.shape)) if with_gradient else None
    which = _C.TwoLayerPass.forward_with_gradient if with_gradient else _C.TwoLayerPass.forward
    Problem(x, weight, output_weight, s, base).run(_C.two_layer_forward, which, (), f, df_dx)
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

    Those in x and s have kernels where grad_df_dx is None, and are computed by ``reference`` otherwise.
    """
    x, weight, output_weight = _plain(x, weight, output_weight)
    grad_f = None if grad_f is None else plain(grad_f, "two_layer: grad_f")
    grad_df_dx = None if grad_df_dx is None else plain(grad_df_dx, "two_layer: grad_df_dx")
    if x.shape[-1] > most_features(x.device):
        return products.gradients(grad_f, grad_df_dx, x, weight, output_weight, s, base, needs)
    problem, passes = Problem(x, weight, output_weight, s, base), _C.TwoLayerPass
    of_f = problem.address(grad_f, "grad_f", problem.count)
    grad_x = grad_s = None
    if grad_df_dx is not None and (needs[0] or needs[3]):
        others = (needs[0], False, False, needs[3])
        grad_x, _, _, grad_s = reference.gradients(grad_f, grad_df_dx, x, weight, output_weight, s, base, others)
    elif grad_f is not None:
        if needs[0]:
            grad_x = torch.empty_like(x)
            problem.run(_C.two_layer_input_gradient, passes.input_gradient, (of_f,), grad_x)
        if needs[3]:
            grad_s = torch.empty((), dtype=torch.float64, device=x.device)
            problem.run(_C.two_layer_parameter_gradient, passes.parameter_gradient, (of_f,), grad_s)
    grad_weight = torch.empty_like(weight) if needs[1] else None
    grad_output_weight = torch.empty_like(output_weight) if needs[2] else None
    if needs[1] or needs[2]:
        given = of_f, problem.address(grad_df_dx, "grad_df_dx", problem.count * x.shape[1])
        problem.run(_C.two_layer_backward, passes.backward, given, grad_weight, grad_output_weight)
    return grad_x, grad_weight, grad_output_weight, grad_s
