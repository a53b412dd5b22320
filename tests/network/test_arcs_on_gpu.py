"""The two-layer op where arcs serve it on a GPU, against the float64 formulas; test_cuda_arcs.py has what needs none.

No pair has to be left out for a flipped sign near z = 0: membership is exact.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from network.cases import dense, dense_gradient, dense_weight_gradients, in_the_plane, problem
from torch import Tensor

import hrta_ext as hx

pytestmark = pytest.mark.skipif(not torch.cuda.is_available() or not hx.backends()["cuda"], reason="needs a GPU")

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}


def near(ours: Tensor, exact: Tensor, dtype: torch.dtype) -> None:
    atol = TOLERANCE[dtype] * exact.abs().max().item()
    torch.testing.assert_close(ours.double(), exact, rtol=0.0, atol=atol)


@pytest.fixture
def card() -> Iterator[Any]:
    """limit_cuda of the binary, lifted again."""
    from hrta_ext import _C

    yield _C.limit_cuda
    _C.limit_cuda()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", ["grid", "ring", "integers"])
@pytest.mark.parametrize(("m", "off", "shared"), [(140_000, 0, 0), (140_001, 1, 0), (140_000, 0, 16 * 1024)])
def test_on_a_gpu(card: Any, kind: str, dtype: torch.dtype, m: int, off: int, shared: int) -> None:
    """The op where arcs serve it, against the formulas, with s on the device; the same call thrice to the same bits."""
    card(shared=shared)
    x = in_the_plane(kind, 1000, dtype).cuda()
    leaves = []
    for given in problem(1, m, 2, dtype)[1:]:
        memory = torch.empty(given.numel() + off, dtype=dtype, device="cuda")
        memory[off:] = given.cuda().flatten()
        leaves.append(memory[off:].view(given.shape).detach().requires_grad_())
    s = torch.tensor(1.5, dtype=torch.float64, device="cuda", requires_grad=True)
    grad = torch.randn(1000, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype).cuda()
    found = []
    for _ in range(3):
        f, df_dx = hx.two_layer_with_gradient(x, *leaves, 1.5, base="relu")
        alone = hx.two_layer(x, *leaves, s)
        found.append([f, df_dx, alone, *torch.autograd.grad(alone, [*leaves, s], grad)])
    for again in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(again, found[0], strict=True))
    with torch.no_grad():
        exact = dense(x, *leaves, 1.5, "relu"), dense_gradient(x, *leaves, 1.5, "relu")
        theirs = dense_weight_gradients(grad, None, x, *leaves, 1.5, "relu")
        terms = grad * (dense(x, *leaves, 1.0, "relu") - dense(x, *leaves, 0.0, "relu"))
    for ours, other in zip(found[0], (*exact, exact[0], *theirs), strict=False):
        near(ours.detach(), other, dtype)
    assert abs(found[0][-1] - terms.sum()) <= TOLERANCE[dtype] * terms.abs().sum()


def test_in_a_graph_on_a_gpu() -> None:
    """Captured once, replayed with other weights: nothing waits for the host, nothing of the first call stays. A weight
    that is not finite is found on the device."""
    x, (_, weight, output_weight) = (
        in_the_plane("grid", 1000, torch.float32).cuda(),
        problem(1, 140_000, 2, torch.float32),
    )
    weight, output_weight = weight.cuda(), output_weight.cuda()
    hx.two_layer(x, weight, output_weight, 1.5)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        f = hx.two_layer(x, weight, output_weight, 1.5)
    for change in (1.0, -1e6, float("nan"), 1.0):
        output_weight[-1] = change
        graph.replay()
        ours, theirs = f.clone(), hx.two_layer(x, weight, output_weight, 1.5)
        assert torch.equal(ours.nan_to_num(7.0), theirs.nan_to_num(7.0))
        assert ours.isfinite().all() == (change == change)
