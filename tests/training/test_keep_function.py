"""Stages that meet without a jump of the loss: both engines, moments, resuming, and what is refused."""

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
        (hx.ramp(0.5, 1.0, 5), 10, "stages of one s each, value 0 is ramp"),
        (hx.AdaptiveHomotopy(0.5, 1.0), 10, "stages of one s each, got an AdaptiveHomotopy"),
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
