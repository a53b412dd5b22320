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
from hrta_ext.network.second import FORMS, Second


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
        count = _C.two_layer_scratch(self.call, which, self.device) if self.device >= 0 else 0
        self._run(function, count, given, results)

    def run_jet(self, function: Any, second: Second, given: tuple[int, ...], *results: Tensor | None) -> None:
        """The jet's pass ``function`` of ``_C``, likewise."""
        described = _described(second)
        backward = function is _C.two_layer_jet_backward
        count = _C.two_layer_jet_scratch(self.call, *described, backward, self.device) if self.device >= 0 else 0
        self._run(function, count, (*described, *given), results)

    def _run(self, function: Any, scratch: int, given: tuple[int, ...], results: tuple[Tensor | None, ...]) -> None:
        memory = torch.empty(scratch, dtype=torch.uint8, device=self.tensors[0].device) if self.device >= 0 else None
        function(self.call, *given, *map(own, results), own(memory), self.device)


def _described(second: Second) -> tuple[int, int]:
    """The form's number in the kernels, and the bits of the columns."""
    return FORMS.index(second.form), sum(1 << column for column in second.columns)


def _has_kernels(x: Tensor, second: Second) -> bool:
    """Whether the kernels of the jet take these second derivatives; torch's chunks do otherwise."""
    features, numbers = _C.TWO_LAYER_JET if x.is_cpu else _C.TWO_LAYER_JET_CUDA
    return x.shape[-1] <= features and second.size() <= numbers


def outputs(
    x: Tensor,
    weight: Tensor,
    output_weight: Tensor,
    s: Parameter,
    base: str,
    with_gradient: bool,
    second: Second | None = None,
) -> tuple[Tensor, ...]:
    """f (..., n) and, if asked for, df/dx (..., n, D) and the second derivatives (..., n, R)."""
    if second is not None and not _has_kernels(x, second):
        return reference.outputs(x, weight, output_weight, s, base, with_gradient, second)
    x, weight, output_weight = _plain(x, weight, output_weight)
    if x.shape[-1] > most_features(x.device):
        return products.outputs(x, weight, output_weight, s, base, with_gradient)
    networks = output_weight.shape[:-1]
    f = x.new_empty((*networks, x.shape[0]))
    df_dx = x.new_empty((*networks, *x.shape)) if with_gradient else None
    if second is not None and df_dx is not None:
        seconds = x.new_empty((*networks, x.shape[0], second.size()))
        problem = Problem(x, weight, output_weight, s, base)
        problem.run_jet(_C.two_layer_jet_forward, second, (), f, df_dx, seconds)
        return f, df_dx, seconds
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
    second: Second | None = None,
    grad_second: Tensor | None = None,
) -> Gradients:
    """The gradients in x, weight, output_weight and s, as needed, of the outputs times their gradients, summed.

    Those in x and s have kernels where grad_f alone is given, and are computed by ``reference`` otherwise.
    """
    if second is not None and grad_second is not None:
        return _jet_gradients(grad_f, grad_df_dx, grad_second, x, weight, output_weight, s, base, needs, second)
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


def _jet_gradients(
    grad_f: Tensor | None,
    grad_df_dx: Tensor | None,
    grad_second: Tensor,
    x: Tensor,
    weight: Tensor,
    output_weight: Tensor,
    s: Parameter,
    base: str,
    needs: Needs,
    second: Second,
) -> Gradients:
    """``gradients`` where those of second derivatives are among the given."""
    fused = _has_kernels(x, second)
    of_inputs = fused and x.is_cpu  # those in x and s have kernels too
    found: Gradients = (None, None, None, None)
    by_chunks = (needs[0] and not of_inputs, needs[1] and not fused, needs[2] and not fused, needs[3] and not of_inputs)
    if any(by_chunks):
        found = reference.gradients(
            grad_f, grad_df_dx, x, weight, output_weight, s, base, by_chunks, second, grad_second
        )
    if not fused:
        return found
    grad_x, _, _, grad_s = found
    x, weight, output_weight = _plain(x, weight, output_weight)
    problem = Problem(x, weight, output_weight, s, base)
    given = [
        None if grad is None else plain(grad, f"two_layer_jet: {name}")
        for grad, name in ((grad_f, "grad_f"), (grad_df_dx, "grad_df_dx"), (grad_second, "grad_second"))
    ]
    sizes = (1, x.shape[1], second.size())
    places = tuple(
        problem.address(grad, "gradients", problem.count * size) for grad, size in zip(given, sizes, strict=True)
    )
    if of_inputs and needs[0]:
        grad_x = torch.empty_like(x)
        _C.two_layer_jet_input_gradient(problem.call, *_described(second), *places, own(grad_x))
    if of_inputs and needs[3]:
        found_s = _C.two_layer_jet_parameter_gradient(problem.call, *_described(second), *places)
        grad_s = torch.tensor(found_s, dtype=torch.float64)
    grad_weight = torch.empty_like(weight) if needs[1] else None
    grad_output_weight = torch.empty_like(output_weight) if needs[2] else None
    if needs[1] or needs[2]:
        problem.run_jet(_C.two_layer_jet_backward, second, places, grad_weight, grad_output_weight)
    return grad_x, grad_weight, grad_output_weight, grad_s
