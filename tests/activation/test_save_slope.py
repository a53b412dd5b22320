"""save_slope: the same function and gradients, of what forward kept; nobody else's results or state change."""

from __future__ import annotations

import pickle

import pytest
import torch
from cases import BASES, DTYPES, SMOOTH_BASES, homotopy, spread
from torch.autograd import gradcheck, gradgradcheck

import hrta_ext as hx

PER_FEATURE = torch.tensor([0.5, 1.0, 1.7], dtype=torch.float64)


def gradients(x: torch.Tensor, s: float | torch.Tensor, base: str, **chosen: bool) -> list[torch.Tensor]:
    x = x.clone().requires_grad_()
    wanted = [x] + ([s] if isinstance(s, torch.Tensor) and s.requires_grad else [])
    y = hx.homotopy(x, s, base, **chosen)
    return [
        y.detach(),
        *torch.autograd.grad(y, wanted, torch.linspace(-1, 2, x.numel(), dtype=x.dtype).reshape(x.shape).to(x)),
    ]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("base", BASES)
def test_values_and_gradients_are_those_without_it(device: torch.device, base: str, dtype: torch.dtype) -> None:
    """But for one rounding: of the slope to x's type, before the product."""
    x = spread(dtype, 48).reshape(-1, 3).to(device)
    learned = torch.tensor(1.3, dtype=torch.float64, device=device, requires_grad=True)
    for s in (1.0, 0.5, learned, PER_FEATURE.to(device), PER_FEATURE.to(device).requires_grad_()):
        kept, plain = gradients(x, s, base, save_slope=True), gradients(x, s, base)
        for i, (ours, expected) in enumerate(zip(kept, plain, strict=True)):
            eps, tiny = torch.finfo(dtype).eps, torch.finfo(dtype).smallest_normal
            rtol, atol = (2 * eps, 2 * eps * tiny) if i == 1 else (0, 0)
            torch.testing.assert_close(ours, expected, rtol=rtol, atol=atol, equal_nan=True)


@pytest.mark.parametrize("base", SMOOTH_BASES)
def test_it_can_be_differentiated_twice(device: torch.device, base: str) -> None:
    x = torch.linspace(-2, 2, 6, dtype=torch.float64, device=device).reshape(2, 3).requires_grad_()
    for s in (torch.tensor(0.7, dtype=torch.float64, device=device), PER_FEATURE.to(device)):
        s.requires_grad_()
        call = lambda z, t: hx.homotopy(z, t, base, save_slope=True)  # noqa: E731
        assert gradcheck(call, (x, s))
        assert gradgradcheck(call, (x, s))
    assert gradgradcheck(lambda z: hx.homotopy(z, 1.0, base, save_slope=True), x)


def test_backward_keeps_the_slope_beside_x(device: torch.device) -> None:
    """The memory that docs/activation.md states; ReLU has its mask either way."""
    for base, s, shapes in (("gelu", 1.0, [(40,), (40,)]), ("relu", 0.5, None)):
        kept: list[torch.Size] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.shape) or t, lambda t: t):  # noqa: B023
            hx.homotopy(torch.ones(40, device=device, requires_grad=True), s, base, save_slope=True)
        plain: list[torch.Size] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: plain.append(t.shape) or t, lambda t: t):  # noqa: B023
            hx.homotopy(torch.ones(40, device=device, requires_grad=True), s, base)
        assert kept == (plain if shapes is None else shapes)


def test_compilers_and_transforms_take_it() -> None:
    x = torch.linspace(-3, 3, 13, dtype=torch.float64)
    slope = homotopy(x, 0.5, "gelu", 1)

    def total(z: torch.Tensor) -> torch.Tensor:
        return hx.homotopy(z, 0.5, "gelu", save_slope=True).sum()

    torch.testing.assert_close(torch.func.grad(total)(x), slope)
    torch.testing.assert_close(torch.func.vmap(torch.func.grad(total))(x), slope)
    torch.testing.assert_close(torch.func.jvp(total, (x,), (torch.ones_like(x),))[1], slope.sum())
    leaf = x.clone().requires_grad_()
    torch.compile(total, fullgraph=True, backend="aot_eager")(leaf).backward()
    torch.testing.assert_close(leaf.grad, slope)


def test_the_module_passes_it_on_and_saves_none_of_it() -> None:
    layer = hx.HomotopyActivation(0.5, "silu", save_slope=True)
    plain = hx.HomotopyActivation(0.5, "silu")
    assert layer.state_dict().keys() == plain.state_dict().keys()
    assert repr(layer) == "HomotopyActivation(s=0.5, base='silu', save_slope=True)"
    assert repr(plain) == "HomotopyActivation(s=0.5, base='silu')"
    twin = pickle.loads(pickle.dumps(layer))
    x = torch.randn(7, requires_grad=True)
    assert twin(x).grad_fn.name() != plain(x).grad_fn.name()
    del twin.__dict__["save_slope"]  # as pickled by an earlier version
    assert torch.equal(twin(x), plain(x))


def test_what_is_refused() -> None:
    x = torch.zeros(3)
    with pytest.raises(
        ValueError, match=r"homotopy: save_slope must be False where order is not 0, got True and order 1"
    ):
        hx.homotopy(x, 0.5, "gelu", order=1, save_slope=True)
    with pytest.raises(TypeError, match="HomotopyActivation: save_slope must be a bool, got 1"):
        hx.HomotopyActivation(0.5, save_slope=1)
