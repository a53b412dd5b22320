"""The two-layer network on a GPU, by every number of features that goes another way, against the float64 formulas."""

from __future__ import annotations

import pytest
import torch
from network.cases import dense, dense_gradient, dense_weight_gradients, problem
from torch import Tensor

import hrta_ext as hx

pytestmark = pytest.mark.skipif(not hx.backends()["cuda"], reason="needs a GPU")
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}


def near(ours: Tensor, exact: Tensor) -> None:
    assert (ours.double() - exact).abs().max() <= TOLERANCE[ours.dtype] * exact.abs().max()


@pytest.mark.parametrize("features", [1, 4, 5, 8, 9, 32, 33, 64, 65, 200])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("base", ["relu2", "tanh", "gelu", "sin"])
def test_values_and_gradients(base: str, dtype: torch.dtype, features: int) -> None:
    """Bases without a jump, so that no rounded sign matters; unaligned views, s on the device, the same bits twice."""
    n, m = 301, 1003
    x, weight, output_weight = (
        torch.cat((t.flatten()[:1], t.flatten())).cuda()[1:].view(t.shape) for t in problem(n, m, features, dtype)
    )
    s = torch.tensor(1.5, dtype=torch.float64, device="cuda")
    generator = torch.Generator().manual_seed(2)
    grad_f = torch.randn(n, generator=generator).to("cuda", dtype)
    grad_df_dx = torch.randn(n, features, generator=generator).to("cuda", dtype)
    leaves = weight.requires_grad_(), output_weight.requires_grad_()

    def run() -> tuple[Tensor, ...]:
        f, df_dx = hx.two_layer_with_gradient(x, *leaves, s, base=base)
        alone = torch.autograd.grad((hx.two_layer(x, *leaves, s, base=base) * grad_f).sum(), leaves)
        both = torch.autograd.grad((f * grad_f).sum() + (df_dx * grad_df_dx).sum(), leaves)
        return f.detach(), df_dx.detach(), *alone, *both

    found = run()
    assert all(torch.equal(a, b) for a, b in zip(found, run(), strict=True))
    arguments = x, weight.detach(), output_weight.detach()
    exact = [
        dense(*arguments, 1.5, base),
        dense_gradient(*arguments, 1.5, base),
        *dense_weight_gradients(grad_f, None, *arguments, 1.5, base),
        *dense_weight_gradients(grad_f, grad_df_dx, *arguments, 1.5, base),
    ]
    for ours, theirs in zip(found, exact, strict=True):
        near(ours, theirs)


@pytest.mark.parametrize("features", [3, 40, 70])
def test_settings_of_torch_change_nothing(features: int) -> None:
    """TF32, half-precision sums and autocast round what torch multiplies, never what this op does."""
    arguments = tuple(t.cuda() for t in problem(100, 300, features, torch.float32))
    found = hx.two_layer(*arguments, 0.5, base="tanh")
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        with torch.autocast("cuda", dtype=torch.bfloat16):
            assert torch.equal(hx.two_layer(*arguments, 0.5, base="tanh"), found)
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("features", [12, 70])
def test_ties_are_inactive(features: int) -> None:
    """Samples and neurons of zeros: z = 0 exactly, where ReLU's slope is 0."""
    x, weight, output_weight = (t.cuda() for t in problem(70, 90, features, torch.float32))
    x[5], weight[7] = 0.0, 0.0
    f, df_dx = hx.two_layer_with_gradient(x, weight.requires_grad_(), output_weight, 1.0, base="relu")
    assert f[5] == 0
    assert torch.equal(df_dx[5], torch.zeros_like(df_dx[5]))
    (grad,) = torch.autograd.grad(f.sum(), weight)
    assert torch.equal(grad[7], torch.zeros_like(grad[7]))
