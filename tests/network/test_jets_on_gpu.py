"""The jet on a GPU where its kernels part: lanes and tiles, as many numbers as they take, what is left to torch."""

from __future__ import annotations

import pytest
import torch
from network.cases import dense, dense_gradient, dense_jet_gradients, dense_second, problem
from torch import Tensor

import hrta_ext as hx
from hrta_ext.network.second import Second

pytestmark = pytest.mark.skipif(not hx.backends()["cuda"], reason="needs a GPU")
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}
CASES = [
    *((features, "laplacian", tuple(range(features))) for features in (1, 2, 3, 4, 5, 8, 9, 16, 17, 64, 65)),
    (3, "laplacian", (0, 2)),
    (3, "hessian", (1,)),
    (3, "diagonal", (0, 1)),
    (4, "hessian", (0, 1, 3)),
    (11, "hessian", tuple(range(10))),
    (16, "hessian", tuple(range(16))),
    (64, "diagonal", tuple(range(64))),
]


@pytest.mark.parametrize(("features", "form", "columns"), CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("base", ["tanh", "gelu", "sin"])
def test_jets_and_gradients(base: str, dtype: torch.dtype, features: int, form: str, columns: tuple[int, ...]) -> None:
    """Unaligned views, s on the device, batched networks, the same bits twice; against the float64 formulas."""
    n, m = 301, 1003
    given = problem(n, m, features, dtype, (2,))
    x, weight, output_weight = (torch.cat((t.flatten()[:1], t.flatten())).cuda()[1:].view(t.shape) for t in given)
    s = torch.tensor(1.5, dtype=torch.float64, device="cuda")
    leaves = weight.requires_grad_(), output_weight.requires_grad_()
    size = Second(form, columns).size()
    generator = torch.Generator().manual_seed(2)
    shapes = ((2, n), (2, n, features), (2, n, size))
    g, G, h = (torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes)
    upper = torch.triu_indices(len(columns), len(columns))

    def run() -> tuple[Tensor, ...]:
        jet = hx.two_layer_jet(x, *leaves, s, base=base, second=form, second_columns=columns)
        second = jet.second.unsqueeze(-1) if form == "laplacian" else jet.second
        second = second[..., upper[0], upper[1]] if form == "hessian" else second
        whole = (jet.value * g.cuda()).sum() + (jet.gradient * G.cuda()).sum() + (second * h.cuda()).sum()
        alone = (second * h.cuda()).sum()
        grads = [torch.autograd.grad(loss, leaves, retain_graph=True) for loss in (whole, alone)]
        return jet.value.detach(), jet.gradient.detach(), second.detach(), *grads[0], *grads[1]

    found = run()
    assert all(torch.equal(a, b) for a, b in zip(found, run(), strict=True))
    described = 1.5, base, form, list(columns)
    exact = [
        dense(*given, 1.5, base),
        dense_gradient(*given, 1.5, base),
        dense_second(*given, *described),
        *dense_jet_gradients((g, G, h), *given, *described),
        *dense_jet_gradients((None, None, h), *given, *described),
    ]
    for ours, theirs in zip(found, exact, strict=True):
        assert (ours.cpu().double() - theirs).abs().max() <= TOLERANCE[dtype] * theirs.abs().max()


@pytest.mark.parametrize("form", ["laplacian", "hessian"])
def test_a_cuda_graph_has_the_jet_and_its_gradients(form: str) -> None:
    """Nothing waits for the device or allocates what the graph does not own."""
    x, weight, output_weight = (t.cuda() for t in problem(100, 300, 3, torch.float32))
    leaves = weight.requires_grad_(), output_weight.requires_grad_()

    def call() -> tuple[Tensor, ...]:
        jet = hx.two_layer_jet(x, *leaves, 0.7, second=form)
        return *jet, *torch.autograd.grad(tuple(jet), leaves, tuple(torch.ones_like(part) for part in jet))

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = call()
    graph.replay()
    assert all(torch.equal(a, b) for a, b in zip(captured, call(), strict=True))
