"""The network's gradient in s, sums of a_k (sigma(z) - z) and a_k (sigma'(z) - 1), where the pre-activations are small.

Of float32 differences nothing would be left. Tolerance: 1e-4 of the sum of magnitudes; z is a float32 dot product,
known to 2^-24, and its cube enters.
"""

from __future__ import annotations

import pytest
import torch

import hrta_ext as hx


def shares(z: torch.Tensor, base: str) -> tuple[torch.Tensor, torch.Tensor]:
    """sigma(z) - z and sigma'(z) - 1 in float64, for |z| < 0.02: the first terms of their series."""
    if base == "tanh":
        return -z.pow(3) / 3 + 2 * z.pow(5) / 15, -z.square() + 2 * z.pow(4) / 3
    return -z.pow(3) / 6 + z.pow(5) / 120, -z.square() / 2 + z.pow(4) / 24


@pytest.mark.parametrize("with_gradient", [False, True])
@pytest.mark.parametrize("features", [2, 5])
@pytest.mark.parametrize("base", ["tanh", "sin"])
def test_small_preactivations(device: torch.device, base: str, features: int, with_gradient: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    x, weight = (torch.rand(count, features, generator=generator) for count in (9, 70))
    x, weight = 1e-3 * (0.5 + x), 0.5 + weight  # z > 0, of some 1e-3
    output_weight = torch.rand(70, generator=generator)
    s = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    arguments = [tensor.to(device) for tensor in (x, weight, output_weight)]
    z = x.double() @ weight.double().mT
    value, slope = shares(z, base)
    truth = (value @ output_weight.double()).sum()
    if with_gradient:
        f, df_dx = hx.two_layer_with_gradient(*arguments, s, base=base)
        (found,) = torch.autograd.grad((f.sum(), df_dx.sum()), s)
        truth = truth + ((slope * output_weight.double()) @ weight.double()).sum()
    else:
        (found,) = torch.autograd.grad(hx.two_layer(*arguments, s, base=base).sum(), s)
    assert float(found) == pytest.approx(float(truth) / 70**0.5, rel=1e-4)


@pytest.mark.parametrize("base", ["tanh", "sin"])
def test_forward_mode_and_second_derivatives(device: torch.device, base: str) -> None:
    """d f / ds along a direction, and its gradient in x through create_graph."""
    generator = torch.Generator().manual_seed(1)
    x = (1e-3 * (0.5 + torch.rand(5, 2, generator=generator))).to(device).requires_grad_()
    weight = (0.5 + torch.rand(30, 2, generator=generator)).to(device)
    output_weight = torch.rand(30, generator=generator).to(device)
    s = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    value, slope = shares(x.detach().double().cpu() @ weight.double().cpu().mT, base)
    a = output_weight.double().cpu() / 30**0.5

    def f(t: torch.Tensor) -> torch.Tensor:
        return hx.two_layer(x.detach(), weight, output_weight, t, base=base)

    along = torch.func.jvp(f, (s.detach(),), (torch.ones_like(s.detach()),))[1]
    torch.testing.assert_close(along.double().cpu(), value @ a, rtol=1e-4, atol=0)
    y = hx.two_layer(x, weight, output_weight, s, base=base).sum()
    (grad_s,) = torch.autograd.grad(y, s, create_graph=True)
    (mixed,) = torch.autograd.grad(grad_s, x)
    torch.testing.assert_close(mixed.double().cpu(), (slope * a) @ weight.double().cpu(), rtol=1e-4, atol=0)
