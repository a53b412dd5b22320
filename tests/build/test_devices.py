"""What only machines with GPUs show: too little memory, and tensors on another device than the current one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

import hrta_ext as hx

pytestmark = pytest.mark.skipif(not hx.backends()["cuda"], reason="needs the CUDA kernels and a GPU")
MIB = 1 << 20


@pytest.fixture
def little_memory() -> Iterator[None]:
    """48 MiB more than this process holds."""
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 48 * MIB) / total)
    yield
    torch.cuda.set_per_process_memory_fraction(1.0)


@pytest.mark.parametrize("what", ["activation", "forward and backward", "training"])
def test_too_little_memory_is_torchs_error_with_the_size_and_harms_nothing(little_memory: None, what: str) -> None:
    """36 or 32 MiB of arguments leave no room for as much again; a small call afterwards is right."""

    def call(n: int) -> torch.Tensor:
        weight = torch.ones(n, 2, device="cuda", requires_grad=True)
        if what == "activation":
            return hx.homotopy(weight, 0.5)
        x, a = torch.ones(5, 2, device="cuda"), torch.ones(n, device="cuda")
        if what == "forward and backward":
            return torch.autograd.grad(hx.two_layer(x, weight, a, 0.5).sum(), weight)[0]
        net = hx.TwoLayerNet(2, 10, bias=False, seed=0).to("cuda")
        net.width, net.weight, net.output_weight = n, torch.nn.Parameter(weight.detach()), torch.nn.Parameter(a)
        return hx.fit(net, x, x[:, 0], s=1.0, steps=2, engine="fused").loss

    n = 3 * MIB if what != "activation" else 4 * MIB
    with pytest.raises(torch.OutOfMemoryError, match=r"[Tt]ried to allocate [\d.]+ .iB"):
        call(n)
    assert call(100).isfinite().all()


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_tensors_on_another_device_than_the_current_one() -> None:
    """Kernels, scratch and streams are the tensors' device's; the current device stays what it was."""
    generator = torch.Generator().manual_seed(0)
    x, weight, a = (torch.randn(shape, generator=generator) for shape in ((33, 2), (1001, 2), (1001,)))

    def results(device: str) -> list[torch.Tensor]:
        on = [tensor.to(device).requires_grad_() for tensor in (x, weight, a)]
        f = hx.two_layer(*on, 0.5)
        y = hx.homotopy(on[0], 1.5, "gelu")
        found = [f, y, *torch.autograd.grad(f.sum() + y.sum(), on)]
        assert all(tensor.device == torch.device(device) for tensor in found)
        net = hx.TwoLayerNet(2, 100, seed=0).to(device)
        fitted = hx.fit(net, on[0].detach(), on[0].detach()[:, 0], s=1.0, steps=20, engine="fused")
        return [tensor.detach().cpu() for tensor in (*found, fitted.loss, net.weight)]

    with torch.cuda.device(0):
        here, there = results("cuda:0"), results("cuda:1")
        assert torch.cuda.current_device() == 0
    same = torch.cuda.get_device_name(0) == torch.cuda.get_device_name(1)
    for one, other in zip(here, there, strict=True):
        if same:
            assert torch.equal(one, other)
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
    with pytest.raises((ValueError, RuntimeError), match="device"):
        hx.two_layer(x.to("cuda:0"), weight.to("cuda:1"), a.to("cuda:1"), 0.5)
