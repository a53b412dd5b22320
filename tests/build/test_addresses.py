"""Bits depend on values, not on where the values lie: a library's matrix product may round by the address of x."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import hrta_ext as hx

N, M, D = 23, 67, 7
Case = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, ...]]


def at_offset(tensor: Tensor, offset: int) -> Tensor:
    """The same values, ``offset`` elements into memory of their own."""
    memory = torch.empty(tensor.numel() + offset, dtype=tensor.dtype)
    return memory[offset:].view(tensor.shape).copy_(tensor)


def network(x: Tensor, weight: Tensor, output_weight: Tensor) -> tuple[Tensor, ...]:
    tensors = [t.detach().requires_grad_() for t in (x, weight, output_weight)]
    s = torch.tensor(0.5, requires_grad=True)
    f = hx.two_layer(*tensors, s, base="tanh")
    value, gradient = hx.two_layer_with_gradient(*tensors, s, base="tanh")
    first = torch.autograd.grad(
        f.square().sum() + gradient.square().sum() + value.sum(), [*tensors, s], create_graph=True
    )
    second = torch.autograd.grad(sum(g.square().sum() for g in first), tensors)
    return f, value, gradient, *first, *second


def gram(x: Tensor, weight: Tensor, output_weight: Tensor) -> tuple[Tensor, ...]:
    path = hx.gram_path(x, weight, output_weight, base="tanh")
    return *hx.gram(x, weight, output_weight, [0.5, 1.5]), *path.derivative(0.5), path.lambda_min(1.0)


def drawn(x: Tensor, weight: Tensor, output_weight: Tensor) -> tuple[Tensor, ...]:
    path = hx.random_gram_path(x, 300, batches=3, base="silu")
    batch = copy.copy(path.batch(1))
    batch.sums = type(batch.sums)(*(part.clone() for part in batch.sums))  # not a view
    return *path(0.7), *path.standard_error(0.7), *path.batch(1)(0.7), *batch(0.7)


def infinite(x: Tensor, weight: Tensor, output_weight: Tensor) -> tuple[Tensor, ...]:
    return *hx.infinite_gram(x, 0.5), *hx.infinite_gram(x, 0.5, base="tanh", x2=weight), *hx.infinite_gram(x, depth=3)


def regression(x: Tensor, weight: Tensor, output_weight: Tensor) -> tuple[Tensor, ...]:
    model = hx.KernelRegression(ridge=1e-3).fit(weight, output_weight)
    return model.predict(x), model.dual_coef_


def training(x: Tensor, weight: Tensor, output_weight: Tensor) -> tuple[Tensor, ...]:
    net = hx.TwoLayerNet(D, 40, bias=False, seed=0, base="tanh").to(x.dtype)
    result = hx.fit(net, x, output_weight[:N], steps=(3, 3), engine="torch")
    return result.loss, net.weight.detach(), net.output_weight.detach()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("case", [network, gram, drawn, infinite, regression, training])
def test_the_same_values_at_other_addresses(device: torch.device, case: Case, dtype: torch.dtype) -> None:
    """Offsets that leave no alignment above that of one element."""
    if device.type != "cpu":
        pytest.skip("addresses of CPU tensors are what this is about")
    generator = torch.Generator().manual_seed(0)
    tensors = [torch.randn(*shape, generator=generator, dtype=dtype) for shape in ((N, D), (M, D), (M,))]
    expected = case(*tensors)
    for offset in (1, 2, 3, 5):
        for one, two in zip(expected, case(*(at_offset(tensor, offset) for tensor in tensors)), strict=True):
            assert torch.equal(one, two), f"offset {offset}"
