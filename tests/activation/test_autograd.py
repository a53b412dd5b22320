"""Derivatives in x and s: against finite differences, torch's own autograd and closed forms."""

from __future__ import annotations

import copy

import pytest
import torch
from cases import BASES, DTYPES, PARAMETERS, SMOOTH_BASES, homotopy, sigma, slope, spread
from torch.autograd import forward_ad, gradcheck, gradgradcheck
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vmap

import hrta_ext as hx
from hrta_ext.backends import asked_for


def away_from_kinks(shape: tuple[int, ...], device: torch.device, seed: int = 0) -> torch.Tensor:
    """Random float64 numbers at least 0.05 from 0, where finite differences of ReLU make sense."""
    x = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return (x + 0.05 * torch.sign(x)).to(device).requires_grad_()


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("order", [0, 1])
def test_first_and_second_derivatives_in_x_and_s(device: torch.device, base: str, order: int) -> None:
    x = away_from_kinks((3, 5), device)
    per_feature = torch.linspace(0.2, 1.8, 5, dtype=torch.float64, device=device, requires_grad=True)
    single = torch.tensor(1.3, dtype=torch.float64, device=device, requires_grad=True)
    assert gradcheck(lambda z: hx.homotopy(z, 1.5, base, order=order), x)
    assert gradgradcheck(lambda z: hx.homotopy(z, 1.5, base, order=order), x)
    assert gradcheck(lambda z: hx.homotopy(z, per_feature.detach(), base, order=order), x)
    assert gradgradcheck(lambda z: hx.homotopy(z, per_feature.detach(), base, order=order), x)
    for s in (single, per_feature):
        assert gradcheck(lambda z, t: hx.homotopy(z, t, base, order=order), (x, s))
        assert gradgradcheck(lambda z, t: hx.homotopy(z, t, base, order=order), (x, s))


@pytest.mark.parametrize("base", SMOOTH_BASES)
def test_third_derivative_is_there_for_smooth_bases(device: torch.device, base: str) -> None:
    x = away_from_kinks((4,), device)
    assert gradcheck(lambda z: hx.homotopy(z, 1.5, base, order=2), x)
    assert gradgradcheck(lambda z: hx.homotopy(z, 1.5, base, order=1), x)


@pytest.mark.parametrize("base", BASES)
def test_non_contiguous_and_zero_stride_inputs(device: torch.device, base: str) -> None:
    x = away_from_kinks((5, 4), device)
    s = torch.tensor(0.7, dtype=torch.float64, device=device, requires_grad=True)
    assert gradcheck(lambda z, t: hx.homotopy(z.t()[::2], t, base), (x, s))
    row = away_from_kinks((1, 4), device)
    assert gradcheck(lambda z, t: hx.homotopy(z.expand(3, 4), t, base), (row, s))


@pytest.mark.parametrize("base", BASES)
def test_value_and_slope_are_both_differentiable(device: torch.device, base: str) -> None:
    x = away_from_kinks((6,), device)
    s = torch.tensor(1.3, dtype=torch.float64, device=device, requires_grad=True)
    assert gradcheck(lambda z, t: hx.homotopy_value_and_slope(z, t, base), (x, s))
    assert gradgradcheck(lambda z, t: hx.homotopy_value_and_slope(z, t, base), (x, s))
    only_slope = hx.homotopy_value_and_slope(x, 0.5, base)[1]
    (g,) = torch.autograd.grad(only_slope.sum(), x)
    assert torch.allclose(g, homotopy(x.detach(), 0.5, base, order=2), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("s", PARAMETERS)
def test_backward_against_the_float64_formula(device: torch.device, dtype: torch.dtype, base: str, s: float) -> None:
    """grad_y sigma_s'(x): two roundings and the slope's own error, so 8 eps of the largest factor."""
    x = spread(dtype, 1029).to(device).requires_grad_()
    grad_y = spread(dtype, 1029, seed=1).to(device)
    (grad_x,) = torch.autograd.grad(hx.homotopy(x, s, base), x, grad_y)
    exact = grad_y.cpu().double() * homotopy(x.detach().cpu(), s, base, order=1)
    assert grad_x.dtype == dtype
    scale = grad_y.cpu().double().abs() * (1 + homotopy(x.detach().cpu(), s, base, order=1).abs())
    error = (grad_x.cpu().double() - exact).abs()
    assert (error <= 8 * torch.finfo(dtype).eps * scale + torch.finfo(dtype).tiny).all()


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("shape", [(), (0,), (1,), (255,), (256,), (1025,), (7, 3, 65), (3, 300_001)])
def test_gradient_in_s_is_the_sum(device: torch.device, base: str, shape: tuple[int, ...]) -> None:
    """Sum of grad_y (sigma(x) - x), float64 inside: float32 loses 4 ulp of the larger of sigma and x in each term
    (5e-7) and nothing in the sum."""
    generator = torch.Generator().manual_seed(3)
    x = (torch.randn(shape, generator=generator) * 2).to(device)
    g = torch.randn(shape, generator=generator).to(device)
    terms = g.cpu().double() * (sigma(x.cpu(), base) - x.cpu().double())
    sizes = g.cpu().double().abs() * (sigma(x.cpu(), base).abs() + x.cpu().double().abs())
    for s in (torch.tensor(1.3), torch.linspace(0.5, 1.5, shape[-1]) if shape else torch.tensor(0.2)):
        s = s.to(device).requires_grad_()
        (grad_s,) = torch.autograd.grad(hx.homotopy(x, s, base), s, g)
        exact, size = (
            (t.sum() if s.dim() == 0 else t.reshape(*t.shape[:-1], len(s)).flatten(0, -2).sum(0) if t.dim() > 1 else t)
            for t in (terms, sizes)
        )
        assert grad_s.shape == s.shape
        assert grad_s.dtype == s.dtype
        assert ((grad_s.cpu().double() - exact).abs() <= 1e-6 * size + 1e-30).all()


def test_gradient_in_s_has_the_same_bits_on_every_run_and_thread_count(device: torch.device) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(200_003, 5, generator=generator).to(device)
    g = torch.randn(200_003, 5, generator=generator).to(device)
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2, 3, 1):
            torch.set_num_threads(count)
            for s in (torch.tensor(0.5), torch.linspace(0, 2, 5)):
                s = s.to(device).requires_grad_()
                results.append(torch.autograd.grad(hx.homotopy(x, s, "gelu"), s, g)[0])
    finally:
        torch.set_num_threads(threads)
    if asked_for() == "torch":
        return  # the promise is the compiled kernels'; torch's own sums depend on the number of threads
    for result, first in zip(results[2:], results[:2] * 3, strict=True):
        assert torch.equal(result, first)


def saved_bytes(run: object, x: torch.Tensor) -> int:
    """Bytes that autograd keeps for backward, x's own storage not counted."""
    kept = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() != x.untyped_storage().data_ptr():
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        assert callable(run)
        run(x)
    return sum(kept.values())


def test_relu_keeps_one_bit_per_element(device: torch.device) -> None:
    """The documented memory: 1/8 byte per element (torch backend: 1 byte), and x is not among the saved tensors."""
    n = 8000
    x = torch.randn(n, device=device, requires_grad=True)
    bytes_per_element = 1.0 if asked_for() == "torch" else 0.125
    assert saved_bytes(lambda z: hx.homotopy(z, 0.5), x) == n * bytes_per_element
    frozen = torch.tensor(0.5, dtype=torch.float64)
    assert saved_bytes(lambda z: hx.homotopy(z, frozen), x) == n * bytes_per_element
    features = torch.linspace(0.0, 2.0, 8, dtype=torch.float64, device=device)
    matrix = torch.randn(1000, 8, device=device, requires_grad=True)
    kept_bytes = saved_bytes(lambda z: hx.homotopy(z, features), matrix)
    assert kept_bytes == n * bytes_per_element + features.nbytes
    kept: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.data_ptr()) or t, lambda t: t):
        hx.homotopy(x, 0.5)
    assert x.data_ptr() not in kept


def test_smooth_bases_keep_nothing_but_x(device: torch.device) -> None:
    x = torch.randn(8000, device=device, requires_grad=True)
    assert saved_bytes(lambda z: hx.homotopy(z, 0.5, "tanh"), x) == 0


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("s", [0.0, 0.5, 1.0, 1.5, 2.0])
def test_in_place_with_a_correct_backward(device: torch.device, base: str, s: float) -> None:
    leaf = away_from_kinks((9, 7), device)

    def run(z: torch.Tensor) -> torch.Tensor:
        y = z * 1.0
        result = hx.homotopy_(y, s, base)
        assert result is y
        return y

    assert torch.equal(run(leaf), hx.homotopy(leaf, s, base))
    assert gradcheck(run, leaf)
    assert gradgradcheck(run, leaf)


def test_in_place_without_grad_writes_x_and_marks_it_changed(device: torch.device) -> None:
    x = torch.randn(6, 8, device=device)
    for view in (x, x.t(), x[:, ::2], x[1:, 1:]):
        before, version = view.clone(), view._version
        assert hx.homotopy_(view, 1.5) is view
        assert torch.equal(view, hx.homotopy(before, 1.5))
        assert view._version > version


def test_in_place_with_learned_s(device: torch.device) -> None:
    leaf = away_from_kinks((4, 3), device)
    s = torch.tensor([0.5, 1.0, 1.5], dtype=torch.float64, device=device, requires_grad=True)
    assert gradcheck(lambda z, t: hx.homotopy_(z * 1.0, t, "relu"), (leaf, s))
    assert gradgradcheck(lambda z, t: hx.homotopy_(z * 1.0, t, "gelu"), (leaf, s))


@pytest.mark.parametrize("base", BASES)
def test_torch_func_transforms(device: torch.device, base: str) -> None:
    """Each against the closed form, not against another transform."""
    x = away_from_kinks((5,), device).detach()
    s = 1.3
    first, second = homotopy(x.cpu(), s, base, 1).to(device), homotopy(x.cpu(), s, base, 2).to(device)

    def total(z: torch.Tensor) -> torch.Tensor:
        return hx.homotopy(z, s, base).sum()

    def f(z: torch.Tensor) -> torch.Tensor:
        return hx.homotopy(z, s, base)

    close = {"rtol": 1e-11, "atol": 1e-11}
    torch.testing.assert_close(grad(total)(x), first, **close)
    torch.testing.assert_close(jvp(f, (x,), (torch.ones_like(x),))[1], first, **close)
    torch.testing.assert_close(jacrev(f)(x), torch.diag(first), **close)
    torch.testing.assert_close(jacfwd(f)(x), torch.diag(first), **close)
    torch.testing.assert_close(hessian(total)(x), torch.diag(second), **close)
    torch.testing.assert_close(vmap(grad(grad(f)))(x), second, **close)


def test_vmap_over_x_and_s(device: torch.device) -> None:
    x = away_from_kinks((4, 3), device).detach()
    s = torch.tensor([0.0, 0.5, 1.0, 1.5], dtype=torch.float64, device=device)
    rows = torch.stack([hx.homotopy(x[i], float(s[i]), "tanh") for i in range(4)])
    torch.testing.assert_close(vmap(lambda z, t: hx.homotopy(z, t, "tanh"))(x, s), rows)
    torch.testing.assert_close(
        vmap(lambda z: hx.homotopy(z, s[1], "tanh"), in_dims=1)(x), hx.homotopy(x, 0.5, "tanh").T
    )
    per_feature = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64, device=device)
    expected = hx.homotopy(x, per_feature, "gelu")
    torch.testing.assert_close(vmap(lambda z: hx.homotopy(z, per_feature, "gelu"))(x), expected)
    grads = vmap(grad(lambda t, z: hx.homotopy(z, t, "gelu").sum(), argnums=0))(s, x)
    exact = (sigma(x.cpu(), "gelu") - x.cpu()).sum(1)
    torch.testing.assert_close(grads.cpu(), exact)


@pytest.mark.parametrize("base", ["relu", "tanh"])
def test_tensors_that_outlive_their_transform(device: torch.device, base: str) -> None:
    """torch unwraps them wherever they go; without memory of their own they must not reach a kernel."""
    leaked: list[torch.Tensor] = []

    def leak(x: torch.Tensor) -> torch.Tensor:
        leaked.append(2.0 * x)
        return (leaked[-1] ** 2).sum()

    x = torch.linspace(-1.0, 1.0, 9, dtype=torch.float64, device=device)
    torch.func.grad(leak)(x)
    torch.func.grad(lambda z: torch.func.grad(leak)(z).sum())(x)
    torch.func.functionalize(leak)(x)
    torch.func.jvp(leak, (x,), (x,))
    assert len(leaked) == 4
    for tensor in leaked:
        expected = homotopy(2.0 * x, 0.3, base), homotopy(2.0 * x, 0.3, base, order=1)
        torch.testing.assert_close(hx.homotopy(tensor, 0.3, base) + 0.0, expected[0])
        torch.testing.assert_close(hx.homotopy(tensor, 0.3, base, order=1) + 0.0, expected[1])
        for value, wanted in zip(hx.homotopy_value_and_slope(tensor, 0.3, base), expected, strict=True):
            torch.testing.assert_close(value + 0.0, wanted)
        s = torch.tensor(0.3, dtype=torch.float64, device=device, requires_grad=True)
        (grad_s,) = torch.autograd.grad(hx.homotopy(tensor, s, base).sum(), s)
        torch.testing.assert_close(grad_s, (homotopy(2.0 * x, 1.0, base) - 2.0 * x).sum())
        assert hx.homotopy_(tensor, 0.3, base) is tensor
        torch.testing.assert_close(tensor + 0.0, expected[0])


def test_a_tensor_that_outlives_its_vmap_gets_torchs_error(device: torch.device) -> None:
    leaked: list[torch.Tensor] = []
    torch.func.vmap(lambda x: (leaked.append(x), x)[1])(torch.ones(3, 4, device=device))
    for call in (hx.homotopy, hx.homotopy_value_and_slope, hx.homotopy_):
        with pytest.raises(RuntimeError, match=r"escaped from inside a function being vmapped|data pointer"):
            call(leaked[0], 0.5)


@pytest.mark.skipif(not hx.backends()["cpp"], reason="torch's own operations crash on such a tensor")
def test_freed_storage_is_an_error_and_no_crash() -> None:
    x = torch.ones(5)
    x.untyped_storage().resize_(0)
    for call in (hx.homotopy, hx.homotopy_value_and_slope, hx.homotopy_):
        with pytest.raises(ValueError, match="x must have memory for its values"):
            call(x, 0.5)


def test_forward_mode_duals(device: torch.device) -> None:
    x = away_from_kinks((5,), device).detach()
    s = torch.tensor(1.3, dtype=torch.float64, device=device)
    with forward_ad.dual_level():
        dual = hx.homotopy(
            forward_ad.make_dual(x, torch.ones_like(x)), forward_ad.make_dual(s, torch.ones_like(s)), "silu"
        )
        tangent = forward_ad.unpack_dual(dual).tangent
    z = x.cpu()
    exact = homotopy(z, 1.3, "silu", 1) + sigma(z, "silu") - z
    torch.testing.assert_close(tangent.cpu(), exact)


def test_function_apply_is_the_op(device: torch.device) -> None:
    x = spread(torch.float64, 65).to(device).requires_grad_()
    y = hx.HomotopyFunction.apply(x, 1.5, "relu")
    (g,) = torch.autograd.grad(y.sum(), x)
    assert torch.equal(y, hx.homotopy(x, 1.5))
    assert torch.equal(g.cpu(), homotopy(x.detach().cpu(), 1.5, "relu", 1))


def test_registered_base_runs_and_differentiates(device: torch.device) -> None:
    hx.register_base("test_cube", lambda x: x**3, lambda x: 3 * x**2, lambda x: 6 * x)
    if asked_for() == "torch":
        x = away_from_kinks((6,), device)
        assert gradcheck(lambda z: hx.homotopy(z, 0.5, "test_cube"), x)
        assert gradgradcheck(lambda z: hx.homotopy(z, 0.5, "test_cube"), x)
    else:
        with pytest.raises(ValueError, match="base that you registered"):
            hx.homotopy(torch.zeros(2, device=device), 0.5, "test_cube")


def test_grad_through_slope_of_saved_relu_mask_is_linear(device: torch.device) -> None:
    """Double backward from the mask alone: d/dg of g sigma_s'(x)."""
    x = away_from_kinks((8,), device)
    g = torch.randn(8, dtype=torch.float64, device=device, requires_grad=True)
    (grad_x,) = torch.autograd.grad(hx.homotopy(x, 1.5), x, g, create_graph=True)
    (back,) = torch.autograd.grad(grad_x.sum(), g)
    assert torch.equal(back.cpu(), slope(x.detach().cpu(), "relu") * 1.5 - 0.5)


@pytest.mark.parametrize("base", BASES)
def test_batched_gradients(device: torch.device, base: str) -> None:
    """is_grads_batched and vectorised Jacobians run backward under vmap."""
    x = away_from_kinks((5,), device)
    slopes = torch.diag(homotopy(x.detach().cpu(), 1.5, base, 1)).to(device)
    for f in (lambda z: hx.homotopy(z, 1.5, base), lambda z: hx.homotopy_(z * 1.0, 1.5, base)):
        torch.testing.assert_close(torch.autograd.functional.jacobian(f, x, vectorize=True), slopes)
        eye = torch.eye(5, dtype=torch.float64, device=device)
        (batched,) = torch.autograd.grad(f(x), x, eye, is_grads_batched=True)
        torch.testing.assert_close(batched, slopes)


def test_backward_of_a_layout_other_than_the_inputs(device: torch.device) -> None:
    """The mask is in x's memory order; a gradient in another one must be brought into it."""
    x = torch.randn(4, 6, 5, device=device).permute(2, 0, 1).requires_grad_()
    g = torch.randn(5, 4, 6, device=device)
    for base in ("relu", "tanh"):
        (grad_x,) = torch.autograd.grad(hx.homotopy(x, 1.5, base), x, g)
        exact = g.cpu().double() * homotopy(x.detach().cpu(), 1.5, base, 1)
        torch.testing.assert_close(grad_x.cpu().double(), exact, rtol=1e-6, atol=1e-6)


def test_modules_copy_and_differentiate_independently() -> None:
    layer = hx.HomotopyActivation(0.5, learnable=True, num_features=3)
    twin = copy.deepcopy(layer)
    layer(torch.ones(2, 3) * -1).sum().backward()
    assert layer.s.grad is not None
    assert twin.s.grad is None
    assert torch.equal(layer.s.grad, torch.full((3,), 2.0))
