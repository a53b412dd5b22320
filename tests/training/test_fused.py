"""The native training of two-layer networks against autograd with torch's optimizers, at any cut into calls."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn
from training.cases import problem

from hrta_ext import backends
from hrta_ext.inputs import with_bias
from hrta_ext.network.module import TwoLayerNet
from hrta_ext.training.fit import fit
from hrta_ext.training.results import FitResult

FUSED = backends()["cpp"] and os.environ.get("HRTA_EXT_BACKEND") != "torch"
pytestmark = pytest.mark.skipif(not FUSED, reason="needs the compiled kernels")

STAGES = {"s": (0.5, 1.0, 1.5), "steps": (70, 80, 50)}
MOMENTUM = partial(torch.optim.SGD, momentum=0.9)
RULES = {"adam": ("adam", 1e-2), "sgd with momentum": (MOMENTUM, 1e-2), "gd": ("gd", 5e-2), "sgd": ("sgd", 5e-2)}


def assert_same(net: TwoLayerNet, result: FitResult, other_net: TwoLayerNet, other: FitResult) -> None:
    assert (result.engine, other.engine) == ("fused", "fused")
    assert torch.equal(result.loss, other.loss)
    assert torch.equal(result.s, other.s)
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), other_net.parameters(), strict=True))


def half_the_time(step: int) -> float:
    return 0.5 if step % 2 else 1.0


# The two engines differ in the rounding of sums alone. It grows with the steps; the bounds are those promised for 200.
TOLERANCES = {torch.float32: 1e-5, torch.float64: 1e-10}


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("base", ["relu", "tanh"])
@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("lr_schedule", [None, "cosine", half_the_time])
def test_losses_are_those_of_autograd_and_torchs_optimizers(dtype, base, name, lr_schedule) -> None:
    optimizer, lr = RULES[name]
    x, y = problem(33, 2, dtype)
    nets = [TwoLayerNet(2, 100, base=base, seed=3).to(dtype) for _ in range(2)]
    fused, autograd = (
        fit(net, x, y, **STAGES, optimizer=optimizer, lr=lr, lr_schedule=lr_schedule, engine=engine)
        for net, engine in zip(nets, ("fused", "torch"), strict=True)
    )
    assert (fused.engine, autograd.engine) == ("fused", "torch")
    assert fused.loss.shape == (200,)
    torch.testing.assert_close(fused.loss, autograd.loss, rtol=TOLERANCES[dtype], atol=0)
    assert torch.equal(fused.s, autograd.s)
    assert nets[0].s == nets[1].s == 1.5


@pytest.mark.parametrize("base", ["relu", "relu2", "gelu", "silu", "softplus", "erf", "sin"])
@pytest.mark.parametrize(
    ("n", "features", "width", "bias"), [(1, 1, 1, False), (65, 3, 513, True), (300, 20, 130, True), (7, 8, 1100, True)]
)
def test_one_step_moves_the_weights_by_the_gradient_at_ragged_sizes(base, n, features, width, bias) -> None:
    x, y = problem(n, features, torch.float64)
    net = TwoLayerNet(features, width, base=base, bias=bias, seed=0).double()
    start = [p.detach().clone().requires_grad_() for p in net.parameters()]
    z = (with_bias(x) if bias else x) @ start[0].T
    formulas = {
        "relu": torch.relu, "relu2": lambda z: torch.relu(z) ** 2 / 2, "gelu": nn.functional.gelu,
        "silu": nn.functional.silu, "softplus": nn.functional.softplus, "erf": torch.erf, "sin": torch.sin,
    }  # fmt: skip
    f = (0.3 * z + 0.7 * formulas[base](z)) @ start[1] / width**0.5
    loss = ((f - y) ** 2).sum() / (2 * n)
    gradients = torch.autograd.grad(loss, start)
    result = fit(net, x, y, s=0.7, steps=1, optimizer="gd", lr=0.1, engine="fused")
    # float64 sums of at most 22 000 terms: 1e-12 leaves a factor of a hundred.
    torch.testing.assert_close(result.loss[0], loss.detach(), rtol=1e-12, atol=0)
    for moved, before, gradient in zip(net.parameters(), start, gradients, strict=True):
        torch.testing.assert_close(moved.detach(), (before - 0.1 * gradient).detach(), rtol=1e-12, atol=1e-12)


def test_adam_with_other_constants_keeps_torchs_own_state() -> None:
    """The moments land where torch keeps them, so a checkpoint of one engine is one of the other."""
    x, y = problem(20, 2, torch.float64)
    built: list[torch.optim.Adam] = []

    def make(parameters, lr):
        built.append(torch.optim.Adam(parameters, lr=lr, betas=(0.8, 0.95), eps=1e-3))
        return built[-1]

    for engine in ("fused", "torch"):
        net = TwoLayerNet(2, 40, seed=3).double()
        fit(net, x, y, s=0.5, steps=25, lr=1e-2, optimizer=make, engine=engine)
    states = [optimizer.state_dict()["state"] for optimizer in built]
    assert states[0].keys() == states[1].keys() == {0, 1}
    for index in (0, 1):
        assert states[0][index].keys() == states[1][index].keys()
        for name, value in states[0][index].items():
            assert value.dtype == states[1][index][name].dtype
            torch.testing.assert_close(value, states[1][index][name], rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("width", [100, 60_000])
def test_bits_do_not_depend_on_the_number_of_threads(width: int) -> None:
    """60 000 neurons are enough work to wake the second thread."""
    x, y = problem(60, 2, torch.float32)
    threads = torch.get_num_threads()
    runs = []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            net = TwoLayerNet(2, width, seed=0)
            runs += [net, fit(net, x, y, s=(0.5, 1.0), steps=(4, 5), lr=1e-2, engine="fused")]
    finally:
        torch.set_num_threads(threads)
    assert_same(*runs)


def test_bits_do_not_depend_on_how_the_steps_are_cut_into_calls(tmp_path: Path) -> None:
    x, y = problem(33, 2, torch.float32)
    nets = [TwoLayerNet(2, 700, seed=0) for _ in range(3)]
    whole = fit(nets[0], x, y, **STAGES, engine="fused")
    watched = fit(nets[1], x, y, **STAGES, engine="fused", callbacks=[lambda info: None])
    cut = fit(nets[2], x, y, **STAGES, engine="fused", checkpoint=tmp_path / "run.pt", checkpoint_every=7)
    assert_same(nets[0], whole, nets[1], watched)
    assert_same(nets[0], whole, nets[2], cut)


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("at", [1, 70, 93])
def test_resuming_gives_the_bits_of_an_uninterrupted_run(name: str, at: int, tmp_path: Path) -> None:
    optimizer, lr = RULES[name]
    x, y = problem(33, 2, torch.float32)
    settings = {**STAGES, "optimizer": optimizer, "lr": lr, "lr_schedule": "cosine", "engine": "fused"}
    nets = [TwoLayerNet(2, 100, seed=seed) for seed in (0, 0, 5)]
    whole = fit(nets[0], x, y, **settings)

    def stop(info) -> None:
        if info.step + 1 == at:
            raise StopIteration

    path = tmp_path / "run.pt"
    first = fit(nets[1], x, y, **settings, checkpoint=path, callbacks=[stop])
    assert (first.stop_reason, len(first.loss)) == ("callback", at)
    resumed = fit(nets[2], x, y, **settings, checkpoint=path, resume=True)  # other weights: all must come from the file
    assert_same(nets[0], whole, nets[2], resumed)


def test_a_trained_net_turns_into_its_relu_net() -> None:
    x, y = problem(50, 2, torch.float64)
    net = TwoLayerNet(2, 60, seed=0).double()
    result = fit(net, x, y, s=(0.5, 1.5), steps=(200, 300), lr=1e-2, engine="fused")
    assert result.loss[-1] < 0.1 * result.loss[0]
    with torch.no_grad():
        # The loss of the trained net is that of the net that its weights describe.
        torch.testing.assert_close(net.to_relu()(x), net(x), rtol=1e-12, atol=1e-12)


def test_a_callback_sees_each_step_and_may_change_the_weights() -> None:
    x, y = problem(20, 2, torch.float64)
    results = []
    for engine in ("fused", "torch"):
        net = TwoLayerNet(2, 30, seed=0).double()

        def shrink(info) -> None:
            with torch.no_grad():
                info.net.weight.mul_(0.99)

        results.append(fit(net, x, y, s=1.0, steps=20, lr=1e-2, engine=engine, callbacks=[shrink]))
    torch.testing.assert_close(results[0].loss, results[1].loss, rtol=1e-10, atol=0)


def test_a_callback_called_seldom_may_change_the_weights_too() -> None:
    """The engine keeps outputs from call to call; they must not outlive the weights that they belong to."""

    class Shrink:
        every = 5

        def __call__(self, info) -> None:
            info.net.weight.data.mul_(0.9)

    x, y = problem(20, 2, torch.float64)
    nets = [TwoLayerNet(2, 30, seed=0).double() for _ in range(2)]
    fused, autograd = (
        fit(net, x, y, s=1.0, steps=20, lr=1e-2, engine=engine, callbacks=[Shrink()])
        for net, engine in zip(nets, ("fused", "torch"), strict=True)
    )
    torch.testing.assert_close(fused.loss, autograd.loss, rtol=1e-10, atol=0)


PEAK = """
import sys
import torch
from hrta_ext import TwoLayerNet, fit
def peak():  # in KiB; ru_maxrss would start at that of the parent process
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])
x = torch.rand(int(sys.argv[1]), 2)
fit(TwoLayerNet(2, 10, bias=False), x, x[:, 0], s=1.0, steps=2, engine="fused")
net = TwoLayerNet(2, 2_000_000, bias=False)
before = peak()
fit(net, x, x[:, 0], s=1.0, steps=3, engine="fused")
print(peak() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's account of peak memory")
@pytest.mark.parametrize("n", [100, 10_000])
def test_a_step_needs_no_memory_of_size_n_times_m(n: int) -> None:
    """Adam's moments take 46 MiB here, n x m floats at least 763 MiB; the promise beside moments is 64 MiB."""
    output = subprocess.run([sys.executable, "-c", PEAK, str(n)], capture_output=True, text=True, check=True).stdout
    assert int(output) / 1024 < 46 + 64


def test_autograd_notices_that_the_weights_were_trained() -> None:
    x, y = problem(20, 2, torch.float32)
    net = TwoLayerNet(2, 30, seed=0)
    old = (net.weight * net.weight).sum()
    fit(net, x, y, s=1.0, steps=3, engine="fused")
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        old.backward()


def test_targets_may_have_a_trailing_one() -> None:
    x, y = problem(20, 2, torch.float32)
    nets = [TwoLayerNet(2, 30, seed=0) for _ in range(2)]
    flat, column = (
        fit(net, x, target, s=1.0, steps=5, engine="fused") for net, target in zip(nets, (y, y[:, None]), strict=True)
    )
    assert_same(nets[0], flat, nets[1], column)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_moments_of_silent_neurons_become_zero(dtype):
    """Subnormal moments would stay subnormal by rounding, and every step would take twice as long."""
    built = []

    def adam(parameters, lr):
        built.append(torch.optim.Adam(parameters, lr=lr, betas=(0.5, 0.6)))
        return built[0]

    net = TwoLayerNet(1, 200, seed=0).to(dtype)
    x = torch.linspace(0, 1, 20, dtype=dtype)[:, None]
    fit(net, x, torch.sin(6 * x[:, 0]), s=(0.5, 1.0), steps=(5, 1500), optimizer=adam, lr=1e-3, engine="fused")
    for name in ("exp_avg", "exp_avg_sq"):
        moment = built[0].state[net.weight][name].abs()
        assert (moment == 0).any()  # neurons that are silent at s = 1
        assert not ((moment > 0) & (moment < torch.finfo(dtype).tiny)).any()


@pytest.mark.skipif(not backends()["cuda"], reason="needs a GPU")
@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("base", ["relu", "relu2", "tanh"])
@pytest.mark.parametrize("name", RULES)
def test_losses_on_a_gpu_are_those_of_autograd_on_the_cpu(dtype, base, name) -> None:
    """Sample weights and a Sobolev loss included; in calls of any length the same bits."""
    optimizer, lr = RULES[name]
    x, y = problem(33, 2, dtype)
    loss = {"sample_weight": 0.5 + x[:, 0]}
    if base != "relu":
        loss["target_gradient"] = 3.0 * torch.cos(3.0 * x.sum(1, keepdim=True)).expand(33, 2).contiguous()
    nets = [TwoLayerNet(2, 100, base=base, seed=3).to(dtype) for _ in range(3)]
    expected = fit(nets[0], x, y, **STAGES, optimizer=optimizer, lr=lr, **loss, engine="torch")
    on_gpu = {name: tensor.cuda() for name, tensor in loss.items()}
    seldom = partial(lambda info: None)
    seldom.every = 7
    results = [
        fit(
            net.cuda(), x.cuda(), y.cuda(), **STAGES, optimizer=optimizer, lr=lr, **on_gpu, engine="fused",
            callbacks=callbacks,
        )
        for net, callbacks in zip(nets[1:], ((), (seldom,)), strict=True)
    ]  # fmt: skip
    torch.testing.assert_close(results[0].loss, expected.loss, rtol=TOLERANCES[dtype], atol=0)
    assert_same(nets[1], results[0], nets[2], results[1])


def test_the_negative_bit_of_a_tensor_is_a_sign() -> None:
    """The native code reads memory, where such a tensor's numbers lie without their sign."""
    x, y = problem(20, 2, torch.float32)
    weight, gradient = torch.linspace(0.5, 1.0, 20), torch.ones(20, 2)
    plain, views = TwoLayerNet(2, 9, base="tanh", seed=0), TwoLayerNet(2, 9, base="tanh", seed=0)
    given = {"sample_weight": weight, "target_gradient": gradient}
    expected = fit(plain, x, y, s=0.5, steps=20, **given)
    odd = {name: torch._neg_view(-tensor) for name, tensor in given.items()}
    assert torch.equal(fit(views, torch._neg_view(-x), torch._neg_view(-y), s=0.5, steps=20, **odd).loss, expected.loss)
    views = TwoLayerNet(2, 9, base="tanh", seed=0)
    views.weight = nn.Parameter(torch._neg_view(-views.weight.detach()))
    with pytest.raises(ValueError, match=r"^fit: net has a parameter with torch's negative bit"):
        fit(views, x, y, s=0.5, steps=20)


def test_a_moment_that_does_not_fit_is_an_error() -> None:
    """A callback may put anything in the optimizer's state: it must not reach the native code."""
    x, y = problem(20, 2, torch.float32)
    for replaced in (torch._neg_view(torch.zeros(9, 3)), torch.zeros(9, 3).to("meta")):
        optimizers: list[torch.optim.Optimizer] = []

        def adam(parameters, lr, kept=optimizers):  # type: ignore[no-untyped-def]
            kept.append(torch.optim.Adam(parameters, lr=lr))
            return kept[0]

        def put(info, kept=optimizers, tensor=replaced):  # type: ignore[no-untyped-def]
            kept[0].state[info.net.weight]["exp_avg"] = tensor

        with pytest.raises((ValueError, RuntimeError), match=r"moments of weight must be|exp_avg must be"):
            fit(TwoLayerNet(2, 9), x, y, s=1.0, steps=5, optimizer=adam, engine="fused", callbacks=[put])
