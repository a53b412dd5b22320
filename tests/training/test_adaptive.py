"""s that moves as far as the loss allows: the closed form, what a run records, resuming, and what is refused."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import hrta_ext as hx
from hrta_ext.training.adaptive import AdaptiveScheduler, residuals
from hrta_ext.training.data import Samples
from hrta_ext.training.losses import training_loss

RULE = hx.AdaptiveHomotopy(1.0, 2.0, tolerance=0.01, patience=10)


def task(weights: bool = False, gradient: bool = False) -> Samples:
    x = torch.linspace(-1, 1, 20, dtype=torch.float64)[:, None]
    weight = torch.linspace(0, 2, 20, dtype=torch.float64) if weights else None
    return Samples(x, torch.sin(3 * x[:, 0]), weight, 3 * torch.cos(3 * x) if gradient else None)


def net_of(seed: int = 1, s: float = 1.0) -> hx.TwoLayerNet:
    return hx.TwoLayerNet(1, 50, base="relu2", s=s, seed=seed).double()


@pytest.mark.parametrize(("weights", "gradient"), [(False, False), (True, False), (True, True)])
@pytest.mark.parametrize("skip", [False, True])
def test_residuals_are_those_of_the_loss(weights: bool, gradient: bool, skip: bool) -> None:
    net, samples = net_of(s=0.5), task(weights, gradient)
    if skip:
        net.set_s(1.3, keep_function=True)
    loss = float(residuals(net, samples, float(net.s)).square().sum() / 40)
    assert loss == pytest.approx(training_loss(net, samples).item(), rel=1e-12)


@pytest.mark.parametrize("end", [2.0, -1.0])
@pytest.mark.parametrize("tolerance", [0.01, 1.0])
@pytest.mark.parametrize("seed", range(6))
def test_a_step_takes_the_tolerance_or_the_rest(end: float, tolerance: float, seed: int) -> None:
    """The loss at the new s is (1 + tolerance) times the old one, or s is at the end and the loss below that."""
    net, samples = net_of(seed, 0.7), task()
    before = training_loss(net, samples).item()
    scheduler = AdaptiveScheduler(net, hx.AdaptiveHomotopy(0.7, end, tolerance, 1), samples)
    scheduler.step()
    after, s = training_loss(net, samples).item(), scheduler.get_last_s()
    assert net.s.item() == s
    assert (s - 0.7) * (end - 0.7) > 0
    if s == end:
        assert after <= (1 + tolerance) * before
    else:
        assert after == pytest.approx((1 + tolerance) * before, rel=1e-9)


@pytest.mark.parametrize("engine", ["fused", "torch"])
def test_a_run_moves_every_so_many_steps_and_says_how_far(engine: str) -> None:
    samples, net = task(), net_of()
    result = hx.fit(net, samples.x, samples.y, s=RULE, steps=95, lr=1e-2, engine=engine)
    s = result.s
    assert s[0] == 1.0
    changes = (s.diff() != 0).nonzero().flatten() + 1
    assert changes.numel() > 1
    assert (changes % 10 == 0).all()
    assert (s.diff() >= 0).all()
    assert result.settings["s_reached_end"] is (s[-1].item() == 2.0)
    assert net.s.item() == s[-1].item()
    # In a run a step of s is one of the losses: the first at the new s, over what it would have been at the old one.
    twin, change = net_of(), int(changes[0])
    hx.fit(twin, samples.x, samples.y, s=1.0, steps=change, lr=1e-2, engine=engine)
    assert result.loss[change] == pytest.approx(1.01 * training_loss(twin, samples).item(), rel=1e-9)


@pytest.mark.parametrize("engine", ["fused", "torch"])
@pytest.mark.parametrize("at", [13, 29, 30])
def test_resuming_has_the_same_bits(engine: str, at: int, tmp_path: Path) -> None:
    samples, whole, fresh = task(True), net_of(), net_of(0)
    settings: dict[str, Any] = {"s": RULE, "steps": (50, 20), "lr": 1e-2, "engine": engine}
    settings |= {"sample_weight": samples.sample_weight}
    expected = hx.fit(whole, samples.x, samples.y, **settings)

    def stop(info: hx.training.StepInfo) -> None:
        if info.step == at:
            raise StopIteration

    path = tmp_path / "run.pt"
    hx.fit(net_of(), samples.x, samples.y, checkpoint=path, callbacks=[stop], **settings)
    result = hx.fit(fresh, samples.x, samples.y, checkpoint=path, resume=True, **settings)
    assert torch.equal(result.loss, expected.loss)
    assert torch.equal(result.s, expected.s)
    assert torch.equal(fresh.weight, whole.weight)
    other = hx.AdaptiveHomotopy(1.0, 2.0, tolerance=0.4, patience=10)
    with pytest.raises(ValueError, match="of another run"):
        hx.fit(net_of(), samples.x, samples.y, checkpoint=path, resume=True, **{**settings, "s": other})


def test_an_ensemble_has_the_bits_of_fit() -> None:
    samples = task()
    nets = [[net_of(seed) for seed in range(3)] for _ in range(2)]
    for result, twin in zip(hx.fit_ensemble(nets[0], samples.x, samples.y, s=RULE, steps=45), nets[1], strict=True):
        alone = hx.fit(twin, samples.x, samples.y, s=RULE, steps=45)
        assert torch.equal(result.loss, alone.loss)
        assert torch.equal(result.s, alone.s)


def test_a_loss_of_zero_allows_no_step() -> None:
    """And the result says so: nothing divides by it."""
    x = torch.linspace(-1, 1, 20, dtype=torch.float64)[:, None]
    net = net_of()
    result = hx.fit(net, x, net(x).detach(), s=RULE, steps=25)
    assert result.s.tolist() == [1.0] * 25
    assert result.settings["s_reached_end"] is False


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"start": math.nan}, ValueError, "start must be finite"),
        ({"end": "2"}, TypeError, "end must be a real number"),
        ({"tolerance": 0.0}, ValueError, "tolerance must be positive and finite, got 0.0"),
        ({"tolerance": None}, TypeError, "tolerance must be a number"),
        ({"patience": 0}, ValueError, "patience must be at least 1"),
    ],
)
def test_wrong_rules(change: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        hx.AdaptiveHomotopy(**{"start": 1.0, "end": 2.0, **change})


def test_deep_networks_are_refused() -> None:
    """Their outputs are not affine in s, so the loss at another s is not known."""
    net = nn.Sequential(nn.Linear(1, 4), hx.HomotopyActivation(), nn.Linear(4, 1)).double()
    samples = task()
    with pytest.raises(ValueError, match="needs a TwoLayerNet, affine in its buffer s, got Sequential"):
        hx.fit(net, samples.x, samples.y[:, None], s=RULE, steps=5)


def test_the_end_may_be_the_start() -> None:
    samples, nets = task(), [net_of(), net_of()]
    still = hx.fit(nets[0], samples.x, samples.y, s=hx.AdaptiveHomotopy(1.2, 1.2), steps=150)
    losses: Tensor = hx.fit(nets[1], samples.x, samples.y, s=1.2, steps=150).loss
    assert torch.equal(still.loss, losses)
    assert still.settings["s_reached_end"] is True
