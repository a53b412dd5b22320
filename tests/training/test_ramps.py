"""s that moves from step to step: its values, both engines, resuming, and what is refused."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import hrta_ext as hx
from hrta_ext.training.data import Samples
from hrta_ext.training.losses import training_loss

RAMP = hx.ramp(0.5, 1.5, 30)


def wave(step: int) -> float:
    return 1.0 + 0.5 * math.sin(0.3 * step)


def task(n: int = 20, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    x = torch.linspace(-1, 1, n, dtype=dtype)[:, None]
    return x, torch.sin(3 * x[:, 0])


def by_hand(net: nn.Module, x: Tensor, y: Tensor, s: list[float]) -> Tensor:
    """Losses of Adam's steps at these s, by autograd."""
    optimizer, losses = torch.optim.Adam(net.parameters(), lr=1e-2), []
    for value in s:
        hx.set_homotopy(net, value)
        optimizer.zero_grad()
        loss = training_loss(net, Samples(x, y))
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return torch.stack(losses)


def test_shapes_start_and_end_where_they_say() -> None:
    linear, cosine = hx.ramp(2.0, 1.0, 4), hx.ramp(0.1, 0.7, 4, shape="cosine")
    assert [linear(step) for step in (0, 1, 2, 3, 4, 9)] == [2.0, 1.75, 1.5, 1.25, 1.0, 1.0]
    expected = [0.1 + 0.6 * (1 - math.cos(math.pi * step / 4)) / 2 for step in range(4)]
    assert [cosine(step) for step in range(4)] == pytest.approx(expected, abs=1e-15)
    assert (cosine(0), cosine(4), cosine(100)) == (0.1, 0.7, 0.7)
    assert repr(cosine) == "ramp(0.1, 0.7, steps=4, shape='cosine')"


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((math.nan, 1.0, 5), ValueError, "ramp: start must be finite"),
        ((1.0, "2", 5), TypeError, "ramp: end must be a real number, got str"),
        ((1.0, 2.0, 0), ValueError, "ramp: steps must be at least 1, got 0"),
        ((1.0, 2.0, 2.5), TypeError, "ramp: steps must be an int"),
    ],
)
def test_ramps_refuse(arguments: tuple[Any, ...], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        hx.ramp(*arguments)
    with pytest.raises(ValueError, match='shape must be "linear" or "cosine"'):
        hx.ramp(1.0, 2.0, 5, shape="quadratic")


@pytest.mark.parametrize("engine", ["fused", "torch"])
@pytest.mark.parametrize("base", ["relu", "tanh"])
@pytest.mark.parametrize(
    ("s", "steps", "path"),
    [
        (RAMP, 40, [RAMP(t) for t in range(40)]),
        (wave, (25, 15), [wave(t) for t in range(40)]),  # one function over all stages
        ((1.0, RAMP, wave), (5, 20, 15), [1.0] * 5 + [RAMP(t) for t in range(20)] + [wave(t) for t in range(15)]),
    ],
    ids=["ramp", "function", "stages"],
)
def test_every_step_has_its_s(engine: str, base: str, s: Any, steps: Any, path: list[float]) -> None:
    """Losses as by hand, in float64: gradients are taken at s_t, the outputs after them at s_{t + 1}."""
    x, y = task()
    nets = [hx.TwoLayerNet(1, 50, base=base, seed=0).double() for _ in range(2)]
    result = hx.fit(nets[0], x, y, s=s, steps=steps, lr=1e-2, engine=engine)
    torch.testing.assert_close(result.loss, by_hand(nets[1], x, y, path), rtol=1e-10, atol=0.0)
    torch.testing.assert_close(nets[0].weight, nets[1].weight, rtol=1e-9, atol=1e-12)
    assert result.s.tolist() == path
    assert nets[0].s.item() == path[-1]


def test_arcs_follow_too() -> None:
    """The passes of two features by arcs keep sums over neurons; s enters where outputs and pulls are formed."""
    x, y = task(300)
    nets = [hx.TwoLayerNet(1, 1100, seed=0).double() for _ in range(2)]
    result = hx.fit(nets[0], x, y, s=RAMP, steps=12, lr=1e-2, engine="fused")
    expected = by_hand(nets[1], x, y, [RAMP(t) for t in range(12)])
    torch.testing.assert_close(result.loss, expected, rtol=1e-9, atol=0.0)


@pytest.mark.parametrize("engine", ["fused", "torch"])
def test_bits_do_not_depend_on_stops(engine: str, tmp_path: Path) -> None:
    """Callbacks after every step, and a run that is stopped at step 13 and resumed, have the bits of one in one go."""
    x, y = task(dtype=torch.float32)
    settings: dict[str, Any] = {"s": (wave, RAMP), "steps": (20, 30), "lr": 1e-2, "engine": engine}
    nets = [hx.TwoLayerNet(1, 50, seed=0) for _ in range(3)]
    whole = hx.fit(nets[0], x, y, **settings)
    seen = []
    hx.fit(nets[1], x, y, callbacks=[lambda info: seen.append((info.s, info.net.s.item()))], **settings)
    assert [s for s, _ in seen] == whole.s.tolist()
    assert all(of_net == pytest.approx(s, rel=1e-7) for s, of_net in seen)

    def stop(info: hx.training.StepInfo) -> None:
        if info.step == 12:
            raise StopIteration

    path = tmp_path / "run.pt"
    assert hx.fit(nets[2], x, y, checkpoint=path, callbacks=[stop], **settings).stop_reason == "callback"
    fresh = hx.TwoLayerNet(1, 50, seed=1)
    resumed = hx.fit(fresh, x, y, checkpoint=path, resume=True, **settings)
    for net in (nets[1], fresh):
        assert torch.equal(net.weight, nets[0].weight)
    assert torch.equal(resumed.loss, whole.loss)
    assert torch.equal(resumed.s, whole.s)


def test_an_ensemble_has_the_bits_of_fit() -> None:
    x, y = task(dtype=torch.float32)
    nets = [[hx.TwoLayerNet(1, 40, seed=seed) for seed in range(3)] for _ in range(2)]
    results = hx.fit_ensemble(nets[0], x, y, s=RAMP, steps=40, lr=1e-2)
    for net, twin, result in zip(*nets, results, strict=True):
        assert torch.equal(hx.fit(twin, x, y, s=RAMP, steps=40, lr=1e-2).loss, result.loss)
        assert torch.equal(net.weight, twin.weight)


def test_a_function_is_called_once_a_step_and_before_the_first(tmp_path: Path) -> None:
    """It may be slow, or no function of the step alone."""
    x, y = task()
    calls: list[int] = []

    def counted(step: int) -> float:
        calls.append(step)
        return 1.0 + 0.01 * len(calls)

    result = hx.fit(hx.TwoLayerNet(1, 10, seed=0).double(), x, y, s=counted, steps=30, checkpoint=tmp_path / "run.pt")
    assert calls == list(range(30))
    nets = [hx.TwoLayerNet(1, 10, seed=seed).double() for seed in range(3)]
    one, *others = (each.s for each in hx.fit_ensemble(nets, x, y, s=counted, steps=30))
    assert calls == [*range(30), *range(30)]
    assert all(torch.equal(one, other) for other in others)
    assert result.s.tolist() == [1.0 + 0.01 * k for k in range(1, 31)]
    assert result.settings["s"] == ["counted"]


def test_another_function_is_another_run(tmp_path: Path) -> None:
    """A checkpoint knows the s of every step, also of steps between those that it compares one by one."""
    x, y = task()
    path = tmp_path / "run.pt"
    hx.fit(hx.TwoLayerNet(1, 10, seed=0).double(), x, y, s=wave, steps=20, checkpoint=path)

    def other(step: int) -> float:
        return wave(step) + (step == 7)

    other.__name__ = "wave"
    with pytest.raises(ValueError, match="of another run \\(s of every step"):
        hx.fit(hx.TwoLayerNet(1, 10, seed=0).double(), x, y, s=other, steps=20, checkpoint=path, resume=True)


@pytest.mark.parametrize(
    ("s", "error", "message"),
    [
        (lambda step: 1.0 / (step - 3) if step != 3 else math.inf, ValueError, r"s\[0\] at step 3 must be finite"),
        (lambda step: "1", TypeError, r"s\[0\] at step 0 must be a real number, got str"),
        ((RAMP, RAMP), ValueError, "steps must have one entry for each of the 2 s, got 1"),
        (float, TypeError, r"s\[0\] must be a real number, got type"),
    ],
)
def test_fit_refuses(s: Any, error: type[Exception], message: str) -> None:
    x, y = task()
    net = hx.TwoLayerNet(1, 10, seed=0).double()
    before = net.weight.clone()
    with pytest.raises(error, match=message):
        hx.fit(net, x, y, s=s, steps=20)
    assert torch.equal(net.weight, before)


def test_a_learned_s_does_not_move_by_itself() -> None:
    net = nn.Sequential(nn.Linear(1, 4), hx.HomotopyActivation(learnable=True), nn.Linear(4, 1))
    x, y = task(dtype=torch.float32)
    with pytest.raises(ValueError, match="where net learns s itself"):
        hx.fit(net, x, y, s=RAMP, steps=5)
    with pytest.raises(ValueError, match="which the network learns itself"):
        hx.HomotopyScheduler(net, RAMP)


def test_scheduler_moves_within_a_stage() -> None:
    net = hx.HomotopyActivation()
    scheduler = hx.HomotopyScheduler(net, [0.25, hx.ramp(1.0, 2.0, 4), 3.0], [2, 5])
    seen = []
    for _ in range(8):
        assert net.s.item() == scheduler.get_last_s()
        seen.append(scheduler.get_last_s())
        scheduler.step()
    assert seen == [0.25, 0.25, 1.0, 1.25, 1.5, 3.0, 3.0, 3.0]


@pytest.mark.parametrize("at", [0, 1, 3, 6])
def test_state_dict_resumes_a_ramp_and_compares_a_function(at: int, tmp_path: Path) -> None:
    first = hx.HomotopyScheduler(hx.HomotopyActivation(), [hx.ramp(1.0, 2.0, 4), wave], [3])
    for _ in range(at):
        first.step()
    torch.save(first.state_dict(), tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    second = hx.HomotopyScheduler(hx.HomotopyActivation(), [0.0, wave], [1])
    second.load_state_dict(state)
    for _ in range(6):
        assert first.get_last_s() == second.get_last_s() == pytest.approx(second.module.s.item(), rel=1e-7)
        assert first.state_dict() == second.state_dict()
        first.step()
        second.step()
    for values in ([0.0, 1.0], [0.0, lambda step: 1.0 + wave(step)]):
        with pytest.raises(ValueError, match="s must be the function of the step that was saved, wave"):
            hx.HomotopyScheduler(hx.HomotopyActivation(), values, [1]).load_state_dict(state)
