"""ReLU, two features, many samples: the sums over arcs of directions against the dense formula.

Tolerances as in test_two_layer_op.py: 1e-12 (float64) and 1e-5 (float32) of the result's largest element.
"""

from __future__ import annotations

import pytest
import torch
from network.cases import dense, dense_gradient, dense_weight_gradients, problem
from torch import Tensor

import hrta_ext as hx
from hrta_ext.network import native as native_two_layer

pytestmark = pytest.mark.skipif(not hx.backends()["cpp"], reason="needs the compiled kernels")

N, M = 1100, 4200
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}


def takes_arcs(x: Tensor, weight: Tensor, output_weight: Tensor, base: str = "relu") -> bool:
    found: bool = native_two_layer.Problem(x, weight, output_weight, 1.0, base).call.takes_arcs
    return found


def check(x: Tensor, weight: Tensor, output_weight: Tensor, s: float) -> None:
    """f, df/dx and all gradients, alone and together."""
    assert takes_arcs(x, weight, output_weight)
    dtype = x.dtype
    generator = torch.Generator().manual_seed(7)
    networks = output_weight.shape[:-1]
    grad_f = torch.randn(*networks, len(x), generator=generator, dtype=torch.float64).to(dtype)
    grad_df_dx = torch.randn(*networks, *x.shape, generator=generator, dtype=torch.float64).to(dtype)
    leaves = [t.clone().requires_grad_() for t in (x, weight, output_weight)]
    s_leaf = torch.tensor(s, dtype=torch.float64, requires_grad=True)
    f = hx.two_layer(*leaves, s_leaf)
    pair = hx.two_layer_with_gradient(*leaves, s, base="relu")
    exact, slope = (of(x, weight, output_weight, s, "relu") for of in (dense, dense_gradient))
    *grads, grad_s = torch.autograd.grad(f, (*leaves, s_leaf), grad_f)
    both = torch.autograd.grad(pair, leaves[1:], (grad_f, grad_df_dx))
    exact_x = (grad_f.double().unsqueeze(-1) * slope).reshape(-1, *x.shape).sum(0)
    compared = [
        (f, exact),
        (pair[0], exact),
        (pair[1], slope),
        (grads[0], exact_x),
        *zip(grads[1:], dense_weight_gradients(grad_f, None, x, weight, output_weight, s, "relu"), strict=True),
        *zip(both, dense_weight_gradients(grad_f, grad_df_dx, x, weight, output_weight, s, "relu"), strict=True),
    ]
    for ours, theirs in compared:
        atol = TOLERANCE[dtype] * theirs.abs().max().item()
        torch.testing.assert_close(ours.detach().double(), theirs, rtol=0.0, atol=atol)
    at_1, at_0 = (dense(x, weight, output_weight, t, "relu") for t in (1.0, 0.0))
    terms = grad_f.double() * (at_1 - at_0)
    assert abs(grad_s.item() - terms.sum().item()) <= TOLERANCE[dtype] * terms.abs().sum().item()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("s", "networks"), [(0.0, ()), (0.5, (2,)), (1.0, ()), (1.5, ())])
def test_directions_all_round(dtype: torch.dtype, s: float, networks: tuple[int, ...]) -> None:
    """Samples in the whole plane, one of them zero."""
    check(*problem(N, M, 2, dtype, networks), s)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_feature_and_a_bias(dtype: torch.dtype) -> None:
    """The paper's first example: samples in an eighth of the circle, in order; and with some far out."""
    _, weight, output_weight = problem(1, M, 2, dtype)
    grid = torch.linspace(0, 1, N, dtype=dtype)[:, None]
    check(hx.with_bias(grid), weight, output_weight, 1.5)
    check(hx.with_bias(torch.tan(3 * (grid - 0.5))), weight, output_weight, 0.5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("s", "scale"), [(0.5, 1.0), (1.0, 2.0**-11)])
def test_ties_zeros_and_duplicates(dtype: torch.dtype, s: float, scale: float) -> None:
    """Small integers: many w . x are exactly zero, where sigma_s' is 1 - s; rows and neurons that are zero."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(-3, 4, (N, 2), generator=generator).to(dtype) * scale
    weight = torch.randint(-3, 4, (M, 2), generator=generator).to(dtype)
    assert ((x @ weight.T) == 0).double().mean() > 0.05
    assert (x == 0).all(1).any()
    assert (weight == 0).all(1).any()
    check(x, weight, torch.randn(M, generator=generator, dtype=dtype), s)


def test_samples_of_one_direction_and_none_at_all() -> None:
    """Every sample on one ray; all samples zero."""
    _, weight, output_weight = problem(1, M, 2)
    check(torch.tensor([[1.0, 2.0]], dtype=torch.float64) * torch.arange(1, N + 1)[:, None], weight, output_weight, 0.5)
    x = torch.zeros(N, 2, dtype=torch.float64)
    assert takes_arcs(x, weight, output_weight)
    assert torch.equal(hx.two_layer(x, weight, output_weight, 0.5), torch.zeros(N, dtype=torch.float64))


@pytest.mark.parametrize("where", ["x", "weight", "output_weight", "grad"])
def test_what_is_not_finite_stays_where_it_is(where: str) -> None:
    """Sums over arcs would spread it, so such calls take the loops."""
    x, weight, output_weight = problem(N, M, 2, torch.float32)
    grad = torch.ones(N)
    {"x": x[5], "weight": weight[6], "output_weight": output_weight[7:8], "grad": grad[8:9]}[where][0] = torch.nan
    leaves = [t.requires_grad_() for t in (x, weight, output_weight)]
    f = hx.two_layer(*leaves, 1.0)
    bad = torch.arange(N) == 5 if where == "x" else torch.full((N,), where in ("weight", "output_weight"))
    assert torch.equal(f.isnan(), bad)
    grad_w, grad_a = torch.autograd.grad(f, leaves[1:], grad)
    if where == "output_weight":
        assert torch.equal(grad_w.isnan().any(1), torch.arange(M) == 7)
        assert grad_a.isfinite().all()
    elif where == "weight":
        assert torch.equal(grad_a.isnan(), torch.arange(M) == 6)
    elif where == "x":
        assert grad_w.isnan().any(1).all()
    else:  # s = 1: the neurons that are inactive on the sample keep their gradients
        assert 0.2 < grad_w.isnan().any(1).double().mean() < 0.8


def test_the_number_of_threads_changes_no_bit() -> None:
    leaves = [t.requires_grad_() for t in problem(N, 40_000, 2, torch.float32)]
    threads, results = torch.get_num_threads(), []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            f, df_dx = hx.two_layer_with_gradient(*leaves, 1.3, base="relu")
            f_alone = hx.two_layer(*leaves, 1.3)
            results.append((f, df_dx, f_alone, *torch.autograd.grad(f_alone.sin().sum(), leaves)))
    finally:
        torch.set_num_threads(threads)
    for found in results[1:]:
        assert all(torch.equal(ours, first) for ours, first in zip(found, results[0], strict=True))


def test_only_where_they_win() -> None:
    """ReLU, two features, enough samples and neurons."""
    assert not takes_arcs(*problem(511, M, 2))
    assert not takes_arcs(*problem(N, 1000, 2))
    assert takes_arcs(*problem(N, 1000, 2, networks=(8,)))
    assert not takes_arcs(*problem(N, M, 3))
    assert not takes_arcs(*problem(N, M, 2), base="relu2")
