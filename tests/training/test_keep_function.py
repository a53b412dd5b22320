"""Stages that meet without a jump of the loss: both engines, moments, resuming, and what is refused."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import hrta_ext as hx

STAGES: dict[str, Any] = {"s": (0.5, 1.0, 1.5), "steps": (20, 15, 25), "lr": 1e-2, "keep_function": True}


def task() -> tuple[Tensor, Tensor]:
    x = torch.linspace(-1, 1, 20, dtype=torch.float64)[:, None]
    return x, torch.sin(3 * x[:, 0])


def net_of(base: str = "tanh", seed: int = 0) -> hx.TwoLayerNet:
    return hx.TwoLayerNet(1, 50, base=base, seed=seed).double()


@pytest.mark.parametrize("optimizer", ["adam", "gd", torch.optim.SGD])
@pytest.mark.parametrize("gradient", [False, True])
def test_steps_are_those_by_hand(optimizer: Any, gradient: bool) -> None:
    """Every stage by autograd on the formula with its skip, moments scaled by the ratio of the s: both engines."""
    x, y = task()
    slope = 3 * torch.cos(3 * x) if gradient else None
    factory = {"adam": torch.optim.Adam, "gd": torch.optim.SGD}.get(optimizer, optimizer)
    more = {} if factory is torch.optim.Adam else {"momentum": 0.9 if optimizer is torch.optim.SGD else 0.0}
    by_hand = net_of()
    rule = factory(by_hand.parameters(), lr=1e-2, **more)
    losses = []
    for p, (s, steps) in enumerate(zip(STAGES["s"], STAGES["steps"], strict=True)):
        ratio = 1.0 if p == 0 else s / by_hand.s.item()
        by_hand.set_s(s, keep_function=p > 0)
        for name, value in rule.state.get(by_hand.output_weight, {}).items():
            if name != "step":
                value.mul_(ratio**2 if name == "exp_avg_sq" else ratio)
        for _ in range(steps):
            points = x.clone().requires_grad_()
            f = by_hand(points)
            squares = (f - y).square().sum()
            if slope is not None:
                (df_dx,) = torch.autograd.grad(f.sum(), points, create_graph=True)
                squares = squares + (df_dx - slope).square().sum()
            loss = squares / (2 * len(y))
            rule.zero_grad()
            loss.backward()
            rule.step()
            losses.append(loss.detach())
    chosen = optimizer if isinstance(optimizer, str) else lambda parameters, lr: optimizer(parameters, lr=lr, **more)
    for engine in ("fused", "torch"):
        net = net_of()
        result = hx.fit(net, x, y, optimizer=chosen, target_gradient=slope, engine=engine, **STAGES)
        torch.testing.assert_close(result.loss, torch.stack(losses), rtol=1e-9, atol=0.0)
        torch.testing.assert_close(net.skip, by_hand.skip, rtol=1e-9, atol=1e-12)
        assert result.settings["keep_function"] is True


def test_the_loss_does_not_jump() -> None:
    """A step of plain gradient descent with a tiny rate moves the loss by less than 1e-6; a bare switch by a third."""
    x, y = task()
    jumps = []
    for keep in (True, False):
        loss = hx.fit(
            net_of("relu"), x, y, s=(0.5, 1.5), steps=(2, 2), lr=1e-9, optimizer="gd", keep_function=keep
        ).loss
        jumps.append(float((loss[2] / loss[1] - 1).abs()))
    assert jumps[0] < 1e-6
    assert jumps[1] > 0.1


@pytest.mark.parametrize("engine", ["fused", "torch"])
@pytest.mark.parametrize("at", [12, 20, 50])
@pytest.mark.parametrize("same", [True, False])
def test_resuming_has_the_same_bits(engine: str, at: int, same: bool, tmp_path: Path) -> None:
    """Before, right after and long after a switch; with the net that was interrupted, and with a fresh one."""
    x, y = task()
    whole = net_of()
    expected = hx.fit(whole, x, y, engine=engine, **STAGES)

    def stop(info: hx.training.StepInfo) -> None:
        if info.step == at:
            raise StopIteration

    path = tmp_path / "run.pt"
    stopped = net_of()
    hx.fit(stopped, x, y, engine=engine, checkpoint=path, callbacks=[stop], **STAGES)
    fresh = stopped if same else net_of(seed=1)
    result = hx.fit(fresh, x, y, engine=engine, checkpoint=path, resume=True, **STAGES)
    assert torch.equal(result.loss, expected.loss)
    assert torch.equal(fresh.output_weight, whole.output_weight)
    assert torch.equal(fresh.skip, whole.skip)
    with pytest.raises(ValueError, match="of another run"):
        hx.fit(net_of(), x, y, engine=engine, checkpoint=path, resume=True, **{**STAGES, "keep_function": False})


def test_an_ensemble_has_the_bits_of_fit() -> None:
    x, y = task()
    nets = [[net_of(seed=seed) for seed in range(2)] for _ in range(2)]
    for result, twin in zip(hx.fit_ensemble(nets[0], x, y, **STAGES), nets[1], strict=True):
        assert torch.equal(result.loss, hx.fit(twin, x, y, **STAGES).loss)


@pytest.mark.parametrize(
    ("s", "steps", "message"),
    [
        ((0.0, 1.0), (5, 5), "an s other than 0 in every stage, value 0 is 0"),
        (hx.ramp(-0.5, 0.5, 4), 10, "an s other than 0 at every step, step 2 has 0"),
        (hx.AdaptiveHomotopy(-0.5, 1.0), 10, "a start and an end of one sign, other than 0"),
    ],
)
def test_what_cannot_be_kept_is_refused(s: Any, steps: Any, message: str) -> None:
    x, y = task()
    with pytest.raises(ValueError, match=message):
        hx.fit(net_of(), x, y, s=s, steps=steps, keep_function=True)


def test_other_networks_are_refused() -> None:
    x, y = task()
    net = nn.Sequential(nn.Linear(1, 4), hx.HomotopyActivation(), nn.Linear(4, 1)).double()
    with pytest.raises(ValueError, match="keep_function needs a TwoLayerNet with s as a buffer, got Sequential"):
        hx.fit(net, x, y[:, None], keep_function=True)
    with pytest.raises(ValueError, match="keep_function needs a TwoLayerNet"):
        hx.HomotopyScheduler(net, [0.5, 1.0], [5], keep_function=True)


def test_a_skip_that_learns_goes_by_autograd() -> None:
    x, y = task()
    net = net_of()
    net.set_s(0.5, keep_function=True)
    net.skip = nn.Parameter(net.skip)
    before = net.skip.detach().clone()
    assert hx.fit(net, x, y, s=1.0, steps=3).engine == "torch"
    assert not torch.equal(net.skip, before)
    with pytest.raises(ValueError, match=r"it cannot learn s, nor net\.skip"):
        hx.fit(net, x, y, s=1.0, steps=3, engine="fused")


def wave(step: int) -> float:
    return 1.0 + 0.3 * math.sin(step)


MOVING: dict[str, dict[str, Any]] = {
    "ramp": {"s": hx.ramp(1.0, 2.0, 20), "steps": 40},
    "stages": {"s": (0.5, hx.ramp(1.0, 1.5, 12, shape="cosine"), 0.8), "steps": (10, 20, 10)},
    "function": {"s": wave, "steps": 40},
    "adaptive": {"s": hx.AdaptiveHomotopy(1.5, 0.5, tolerance=0.01, patience=3), "steps": 40},
}


@pytest.mark.parametrize("name", MOVING)
@pytest.mark.parametrize("optimizer", ["adam", "gd"])
def test_a_moving_s_by_hand(name: str, optimizer: str) -> None:
    """Every step by autograd, s and weights by set_s, moments by the ratio; result.s is what the steps had."""
    x, y = task()
    results = {}
    nets = {engine: net_of() for engine in ("fused", "torch")}
    for engine, net in nets.items():
        options = {"optimizer": optimizer, "lr": 1e-2, "keep_function": True, "engine": engine}
        results[engine] = hx.fit(net, x, y, **options, **MOVING[name])
    s, net = results["torch"].s, net_of()
    assert s.unique().numel() > 3
    net.set_s(float(s[0]))
    rule = (torch.optim.Adam if optimizer == "adam" else torch.optim.SGD)(net.parameters(), lr=1e-2)
    losses = []
    for value in s.tolist():
        ratio = value / net.s.item()
        net.set_s(value, keep_function=True)
        for key, power in (("exp_avg", 1), ("exp_avg_sq", 2)):
            if key in rule.state.get(net.output_weight, {}):
                rule.state[net.output_weight][key].mul_(ratio**power)
        rule.zero_grad()
        loss = (net(x) - y).square().mean() / 2
        loss.backward()
        rule.step()
        losses.append(loss.detach())
    for engine, result in results.items():
        torch.testing.assert_close(result.s, s, rtol=1e-9, atol=0.0)
        torch.testing.assert_close(result.loss, torch.stack(losses), rtol=1e-9, atol=0.0)
        torch.testing.assert_close(nets[engine].skip, net.skip, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("change", "steps"), [(0.5, 4000), (4e-6, 400)])
def test_thousands_of_changes_keep_float32(change: float, steps: int) -> None:
    """b = s a without the roundings of the steps; changes of 1e-8 are such as a product in float32 would not see."""
    net = hx.TwoLayerNet(3, 500, seed=0)
    x = torch.randn(20, 3, generator=torch.Generator().manual_seed(1))
    first, before = net.output_weight.detach().clone(), net(x).detach().double()
    size = (net.output_weight.abs() * net.weight.norm(dim=1)).sum() / 500**0.5 * hx.with_bias(x).norm(dim=1).max()
    scheduler = hx.HomotopyScheduler(net, hx.ramp(1.0, 1.0 + change, steps), keep_function=True)
    for _ in range(steps):
        scheduler.step()
    assert net.s.item() == 1.0 + change
    torch.testing.assert_close(net.output_weight.double(), first.double() / (1.0 + change), rtol=6e-8, atol=1e-30)
    assert (net(x).detach() - before).abs().max() < 1e-6 * size.detach()
    linear = (1 - 1 / (1 + change)) * (first.double() @ net.weight.detach().double()) / 500**0.5
    torch.testing.assert_close(net.skip.double(), linear, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("engine", ["fused", "torch"])
@pytest.mark.parametrize("name", ["stages", "adaptive"])
@pytest.mark.parametrize("at", [10, 17])
def test_resuming_a_moving_s_has_the_same_bits(engine: str, name: str, at: int, tmp_path: Path) -> None:
    """float32, where the rounding errors that are carried along count: they are in the checkpoint."""
    x, y = (part.float() for part in task())
    options = {"engine": engine, "lr": 1e-2, "keep_function": True, **MOVING[name]}
    whole = net_of().float()
    expected = hx.fit(whole, x, y, **options)

    def stop(info: hx.training.StepInfo) -> None:
        if info.step == at:
            raise StopIteration

    path = tmp_path / "run.pt"
    hx.fit(net_of().float(), x, y, checkpoint=path, callbacks=[stop], **options)
    fresh = net_of(seed=1).float()
    result = hx.fit(fresh, x, y, checkpoint=path, resume=True, **options)
    assert torch.equal(result.loss, expected.loss)
    assert torch.equal(result.s, expected.s)
    assert all(torch.equal(fresh.state_dict()[key], value) for key, value in whole.state_dict().items())


def test_a_moving_ensemble_has_the_bits_of_fit() -> None:
    x, y = task()
    nets = [[net_of(seed=seed) for seed in range(2)] for _ in range(2)]
    options = {"lr": 1e-2, "keep_function": True, **MOVING["ramp"]}
    for result, twin in zip(hx.fit_ensemble(nets[0], x, y, **options), nets[1], strict=True):
        assert torch.equal(result.loss, hx.fit(twin, x, y, **options).loss)


def test_a_state_of_rounding_errors_is_checked() -> None:
    net = net_of()
    scheduler = hx.HomotopyScheduler(net, hx.ramp(1.0, 2.0, 4), keep_function=True)
    scheduler.step()
    state = scheduler.state_dict()
    with pytest.raises(ValueError, match=r"load_state_dict: rest must be float64 tensors of shapes"):
        scheduler.load_state_dict({**state, "rest": [torch.zeros(3)]})
    with pytest.raises(ValueError, match=r"state must have the keys"):
        hx.HomotopyScheduler(net_of(), hx.ramp(1.0, 2.0, 4)).load_state_dict(state)
    scheduler.load_state_dict(state)
    assert torch.equal(scheduler.rest[0], state["rest"][0])
