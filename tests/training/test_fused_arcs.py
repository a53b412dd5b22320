"""ReLU, two features, many samples: native training by arcs of directions against autograd on the dense formula."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor
from training.cases import assert_divergence_keeps_the_good_checkpoint

from hrta_ext import backends, fit_ensemble
from hrta_ext.bases import BASES
from hrta_ext.inputs import with_bias
from hrta_ext.network.module import TwoLayerNet
from hrta_ext.training.fit import fit
from hrta_ext.training.results import FitResult

FUSED = backends()["cpp"] and os.environ.get("HRTA_EXT_BACKEND") != "torch"
pytestmark = pytest.mark.skipif(not FUSED, reason="needs the compiled kernels")

N, M = 300, 1100
STAGES = {"s": (0.0, 0.5, 1.0, 1.5, 2.0), "steps": (40,) * 5}
MOMENTUM = partial(torch.optim.SGD, momentum=0.9)
# fit's optimizer, torch's, and the rate
RULES = {
    "adam": ("adam", torch.optim.Adam, 1e-2),
    "gd": ("gd", torch.optim.SGD, 5e-2),
    "sgd with momentum": (MOMENTUM, MOMENTUM, 1e-2),
}
# Sums in another order; it grows with the steps, and the bounds are those promised for 200.
TOLERANCES = {torch.float32: 1e-5, torch.float64: 1e-10}


def by_arcs(n: int, features: int, width: int, base: str = "relu") -> bool:
    from hrta_ext.compiled import _C, KINDS

    found: bool = _C.TwoLayerTraining(
        dtype=KINDS[torch.float32], base=BASES[base].number, n=n, features=features, width=width
    ).by_arcs
    return found


def plane(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Samples all round, one of them zero, some twice; and y."""
    x = torch.randn(N, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    x[0] = 0.0
    x[10:20] = x[20:30]
    return x.to(dtype), torch.sin(3.0 * x.sum(1)).to(dtype)


def make_net(dtype: torch.dtype = torch.float64, width: int = M, seed: int = 3) -> TwoLayerNet:
    return TwoLayerNet(2, width, bias=False, seed=seed).to(dtype)


def dense_losses(
    net: TwoLayerNet,
    x: Tensor,
    y: Tensor,
    make_optimizer,
    lr: float,
    sample_weight: Tensor | None = None,
) -> Tensor:
    """The losses of STAGES by autograd on the n x m formula, in the dtype of x."""
    weight, output_weight = (p.detach().clone().requires_grad_() for p in (net.weight, net.output_weight))
    optimizer = make_optimizer([weight, output_weight], lr=lr)
    losses = []
    for s, steps in zip(STAGES["s"], STAGES["steps"], strict=True):
        for _ in range(steps):
            z = x @ weight.T
            slope = torch.where(z > 0, 1.0, 1.0 - s).to(z.dtype)
            squares = ((slope * z) @ output_weight / len(weight) ** 0.5 - y) ** 2
            loss = (squares if sample_weight is None else sample_weight * squares).sum() / (2 * len(x))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
    return torch.stack(losses)


def assert_same(net: TwoLayerNet, result: FitResult, other_net: TwoLayerNet, other: FitResult) -> None:
    assert (result.engine, other.engine) == ("fused", "fused")
    assert torch.equal(result.loss, other.loss)
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), other_net.parameters(), strict=True))


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("rule", RULES)
def test_losses_are_those_of_autograd_on_the_dense_formula(dtype: torch.dtype, rule: str) -> None:
    """200 steps through s = 0, 0.5, 1, 1.5 and 2."""
    assert by_arcs(N, 2, M)
    optimizer, torchs, lr = RULES[rule]
    x, y = plane(dtype)
    net = make_net(dtype)
    expected = dense_losses(net, x, y, torchs, lr)
    result = fit(net, x, y, **STAGES, optimizer=optimizer, lr=lr, engine="fused")
    torch.testing.assert_close(result.loss, expected.double(), rtol=TOLERANCES[dtype], atol=0)


@pytest.mark.parametrize("spread", [False, True])
def test_one_feature_and_a_bias(spread: bool) -> None:
    """The paper's first example: directions in an eighth of the circle; and some of them nearly along an axis."""
    x = torch.linspace(0, 1, N, dtype=torch.float64)[:, None]
    if spread:
        x = torch.tan(3 * (x - 0.5))
    y = torch.sin(6 * x[:, 0])
    net = TwoLayerNet(1, M, seed=0).double()
    expected = dense_losses(net, with_bias(x), y, torch.optim.Adam, 1e-3)
    result = fit(net, x, y, **STAGES, lr=1e-3, engine="fused")
    torch.testing.assert_close(result.loss, expected, rtol=1e-10, atol=0)


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
def test_weighted_samples(dtype: torch.dtype) -> None:
    x, y = plane(dtype)
    weight = torch.linspace(0, 2, N, dtype=dtype)
    net = make_net(dtype)
    expected = dense_losses(net, x, y, torch.optim.SGD, 1e-2, weight)
    result = fit(net, x, y, **STAGES, optimizer="gd", lr=1e-2, sample_weight=weight, engine="fused")
    torch.testing.assert_close(result.loss, expected.double(), rtol=TOLERANCES[dtype], atol=0)


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("s", [0.0, 0.5, 1.0, 1.5, 2.0])
def test_ties_zeros_and_duplicates_count_as_inactive(dtype: torch.dtype, s: float) -> None:
    """Small integers: many w . x are exactly zero, where the slope is 1 - s; rows and neurons that are zero."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(-3, 4, (N, 2), generator=generator).to(dtype)
    y = torch.randn(N, generator=generator).to(dtype)
    net = make_net(dtype)
    with torch.no_grad():
        net.weight.copy_(torch.randint(-3, 4, (M, 2), generator=generator))
    exact = [p.detach().double().clone().requires_grad_() for p in (net.weight, net.output_weight)]
    z = x.double() @ exact[0].T
    assert (z == 0).double().mean() > 0.05
    assert (x == 0).all(1).any()
    assert (net.weight == 0).all(1).any()
    f = (torch.where(z > 0, 1.0, 1.0 - s) * z) @ exact[1] / M**0.5
    loss = ((f - y.double()) ** 2).sum() / (2 * N)
    gradients = torch.autograd.grad(loss, exact)
    result = fit(net, x, y, s=s, steps=1, optimizer="gd", lr=0.5, engine="fused")
    tolerance = 1e-6 if dtype == torch.float32 else 1e-13
    torch.testing.assert_close(result.loss[0], loss.detach(), rtol=tolerance, atol=0)
    for moved, start, gradient in zip((net.weight, net.output_weight), exact, gradients, strict=True):
        torch.testing.assert_close(
            moved.detach().double(), start.detach() - 0.5 * gradient, rtol=tolerance, atol=tolerance
        )


def test_silent_neurons_do_not_move() -> None:
    """What rounding leaves of running sums would be a full step to Adam, whose rule forgets the gradient's size."""
    x = torch.linspace(0, 1, N, dtype=torch.float64)[:, None]
    net = TwoLayerNet(1, M, seed=0).double()
    silent = (with_bias(x) @ net.weight.T <= 0).all(0)
    assert silent.double().mean() > 0.2
    before = [p.detach().clone() for p in (net.weight, net.output_weight)]
    fit(net, x, 1e12 * torch.sin(6 * x[:, 0]), s=1.0, steps=5, lr=1e-3, engine="fused")
    for now, start in zip((net.weight, net.output_weight), before, strict=True):
        assert torch.equal(now[silent], start[silent])
        assert not torch.equal(now, start)


def test_bits_do_not_depend_on_the_number_of_threads() -> None:
    """9000 neurons are several chunks, and enough work to wake the second thread."""
    x, y = plane(torch.float32)
    threads, runs = torch.get_num_threads(), []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            net = make_net(torch.float32, 9000)
            runs += [net, fit(net, x, y, s=(0.5, 1.0), steps=(20, 20), lr=1e-2, engine="fused")]
    finally:
        torch.set_num_threads(threads)
    assert_same(*runs)


def test_bits_do_not_depend_on_how_the_steps_are_cut_into_calls(tmp_path: Path) -> None:
    x, y = plane(torch.float32)
    nets = [make_net(torch.float32) for _ in range(3)]
    whole = fit(nets[0], x, y, **STAGES, engine="fused")
    watched = fit(nets[1], x, y, **STAGES, engine="fused", callbacks=[lambda info: None])
    cut = fit(nets[2], x, y, **STAGES, engine="fused", checkpoint=tmp_path / "run.pt", checkpoint_every=7)
    assert_same(nets[0], whole, nets[1], watched)
    assert_same(nets[0], whole, nets[2], cut)


def test_resuming_gives_the_bits_of_an_uninterrupted_run(tmp_path: Path) -> None:
    x, y = plane(torch.float32)
    nets = [make_net(torch.float32, seed=seed) for seed in (0, 0, 5)]
    whole = fit(nets[0], x, y, **STAGES, engine="fused")

    def stop(info) -> None:
        if info.step + 1 == 93:
            raise StopIteration

    path = tmp_path / "run.pt"
    fit(nets[1], x, y, **STAGES, engine="fused", checkpoint=path, callbacks=[stop])
    resumed = fit(nets[2], x, y, **STAGES, engine="fused", checkpoint=path, resume=True)
    assert_same(nets[0], whole, nets[2], resumed)


def test_an_ensemble_gets_the_bits_of_single_trainings() -> None:
    x, y = plane(torch.float32)
    alone, together = ([make_net(torch.float32, seed=seed) for seed in range(3)] for _ in range(2))
    results = fit_ensemble(together, x, y, s=(0.5, 1.0), steps=(10, 10), lr=1e-2)
    for net, other, result in zip(alone, together, results, strict=True):
        assert_same(net, fit(net, x, y, s=(0.5, 1.0), steps=(10, 10), lr=1e-2, engine="fused"), other, result)


def test_divergence_stops_at_the_first_loss_that_is_not_finite_and_keeps_the_good_checkpoint(tmp_path: Path) -> None:
    x, y = plane(torch.float32)
    assert_divergence_keeps_the_good_checkpoint(make_net(torch.float32), x, y, tmp_path / "run.pt")


@pytest.mark.parametrize("where", ["weight", "silent weight", "output_weight", "huge y"])
def test_what_is_not_finite_ends_the_run_as_it_does_without_arcs(where: str) -> None:
    """A third feature that is zero everywhere changes nothing, but makes the engine take the loops."""
    x, y = plane(torch.float32)
    x = x.abs()  # neurons with two negative weights are silent at s = 1
    net, wide = make_net(torch.float32), TwoLayerNet(3, M, bias=False, seed=0)
    assert not by_arcs(N, 3, M)
    with torch.no_grad():
        if where == "weight":
            net.weight[7] = torch.inf
        elif where == "silent weight":
            net.weight[7] = -torch.inf
        elif where == "output_weight":
            net.output_weight[7] = torch.nan
        else:
            y[5] = 3e38  # its square is finite in float64, the step that follows is not in float32
        wide.weight.copy_(torch.cat([net.weight, torch.zeros(M, 1)], 1))
        wide.output_weight.copy_(net.output_weight)
    runs = []
    for trained, samples in ((net, x), (wide, torch.cat([x, torch.zeros(N, 1)], 1))):
        runs.append(fit(trained, samples, y, s=1.0, steps=20, optimizer="gd", lr=1e4, engine="fused"))
        assert runs[-1].stop_reason == "diverged"
    torch.testing.assert_close(runs[0].loss, runs[1].loss, rtol=1e-4, atol=0, equal_nan=True)
    assert torch.equal(net.weight.isfinite(), wide.weight[:, :2].isfinite())
    assert torch.equal(net.output_weight.isfinite(), wide.output_weight.isfinite())


def test_only_where_they_win() -> None:
    """ReLU, two features, enough samples and neurons."""
    assert by_arcs(256, 2, 1024)
    assert not by_arcs(255, 2, 10_000)
    assert not by_arcs(10_000, 2, 1000)
    assert not by_arcs(N, 3, M)
    assert not by_arcs(N, 2, M, base="relu2")
