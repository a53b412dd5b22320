"""Losses with sample weights and with gradients, in both engines, against dense formulas, autograd and torch.optim."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from training.cases import checkpoint_after_kill, mlp

from hrta_ext import HomotopyActivation, backends, fit_ensemble, register_base
from hrta_ext.network.module import TwoLayerNet
from hrta_ext.training.fit import fit
from hrta_ext.training.results import FitResult

FUSED = backends()["cpp"] and os.environ.get("HRTA_EXT_BACKEND") != "torch"
needs_fused = pytest.mark.skipif(not FUSED, reason="needs the compiled kernels")
ENGINES = [pytest.param("fused", marks=needs_fused), "torch"]
FORMULAS = {
    "relu": torch.relu, "relu2": lambda z: torch.relu(z) ** 2 / 2, "tanh": torch.tanh, "gelu": nn.functional.gelu,
    "silu": nn.functional.silu, "softplus": nn.functional.softplus, "erf": torch.erf, "sin": torch.sin,
}  # fmt: skip
LOSSES = {
    "weights": ("sample_weight",),
    "gradients": ("target_gradient",),
    "both": ("sample_weight", "target_gradient"),
}


def losses_of(base: str) -> dict[str, tuple[str, ...]]:
    """relu has no second derivative to train gradients by."""
    return {name: given for name, given in LOSSES.items() if base != "relu" or "target_gradient" not in given}


# The engines and the formulas differ in the rounding of sums alone; the bounds are those promised for 200 steps.
TOLERANCES = {torch.float32: 1e-5, torch.float64: 1e-10}
RULES = {
    "adam": ("adam", torch.optim.Adam, 1e-2),
    "momentum": (partial(torch.optim.SGD, momentum=0.9), partial(torch.optim.SGD, momentum=0.9), 1e-3),
}
STAGES = {"s": (0.5, 1.0, 1.5), "steps": (70, 80, 50)}


def problem(n: int, d: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """x, y and what the losses may have besides; weights from 0 to 3, some of them 0."""
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(n, d, dtype=torch.float64, generator=generator)
    slopes = torch.linspace(1.0, 2.0, d, dtype=torch.float64)
    weight = (3.0 * torch.rand(n, dtype=torch.float64, generator=generator) - 0.3).clamp(min=0.0)
    gradient = torch.cos(x @ slopes)[:, None] * slopes
    more = {"sample_weight": weight.to(dtype), "target_gradient": gradient.to(dtype)}
    return x.to(dtype), torch.sin(x @ slopes).to(dtype), more


def dense_loss(f: Any, x: Tensor, y: Tensor, sample_weight: Tensor | None = None, target_gradient=None) -> Tensor:
    """The formula of fit's docstring, term by term; f: (n, d) -> (n,)."""
    points = x.clone().requires_grad_()
    outputs = f(points)
    squares = (outputs - y) ** 2
    if target_gradient is not None:
        (gradient,) = torch.autograd.grad(outputs.sum(), points, create_graph=True)
        squares = squares + ((gradient - target_gradient) ** 2).sum(1)
    if sample_weight is not None:
        squares = sample_weight * squares
    return squares.sum() / (2 * len(x))


def dense_network(net: TwoLayerNet, weight: Tensor, a: Tensor, s: float) -> Any:
    def f(x: Tensor) -> Tensor:
        z = x @ weight[:, : net.in_features].T + (weight[:, -1] if net.bias else 0.0)
        return ((1.0 - s) * z + s * FORMULAS[net.base](z)) @ a / net.width**0.5

    return f


def dense_training(net: TwoLayerNet, x: Tensor, y: Tensor, optimizer: Any, lr: float, **more: Any) -> list[float]:
    """The losses of STAGES by formula, autograd and torch's optimizer, on copies of the network's weights."""
    weight, a = (p.detach().clone().requires_grad_() for p in (net.weight, net.output_weight))
    steps = optimizer([weight, a], lr=lr)
    losses = []
    for s, count in zip(STAGES["s"], STAGES["steps"], strict=True):
        for _ in range(count):
            steps.zero_grad()
            loss = dense_loss(dense_network(net, weight, a, s), x, y, **more)
            loss.backward()
            steps.step()
            losses.append(loss.item())
    return losses


def assert_same(net: nn.Module, result: FitResult, other_net: nn.Module, other: FitResult) -> None:
    assert result.engine == other.engine
    assert torch.equal(result.loss, other.loss)
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), other_net.parameters(), strict=True))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(("base", "loss"), [(base, loss) for base in FORMULAS for loss in losses_of(base)])
def test_losses_over_200_steps_are_those_of_the_formula(base: str, loss: str, engine: str) -> None:
    x, y, more = problem(33, 2)
    more = {name: more[name] for name in LOSSES[loss]}
    net = TwoLayerNet(2, 67, base=base, seed=3).double()
    expected = dense_training(net, x, y, torch.optim.Adam, 1e-2, **more)
    result = fit(net, x, y, **STAGES, lr=1e-2, engine=engine, **more)
    assert result.engine == engine
    assert result.loss[-1] < 0.9 * result.loss[0]
    torch.testing.assert_close(result.loss.tolist(), expected, rtol=TOLERANCES[torch.float64], atol=0)


@needs_fused
@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("base", ["relu", "relu2", "silu", "sin"])
def test_both_dtypes_and_rules_keep_to_autograd(base: str, rule: str, dtype: torch.dtype) -> None:
    name, optimizer, lr = RULES[rule]
    x, y, more = problem(33, 2, dtype)
    more = {name: more[name] for name in [*losses_of(base).values()][-1]}
    net = TwoLayerNet(2, 100, base=base, seed=3).to(dtype)
    expected = dense_training(net, x, y, optimizer, lr, **more)
    result = fit(net, x, y, **STAGES, optimizer=name, lr=lr, engine="fused", **more)
    torch.testing.assert_close(result.loss.tolist(), expected, rtol=TOLERANCES[dtype], atol=0)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("base", ["relu", "relu2", "tanh"])
@pytest.mark.parametrize(("features", "bias"), [(2, False), (2, True), (3, True), (5, True), (9, False), (12, True)])
@pytest.mark.parametrize(("n", "width"), [(1, 1), (65, 513), (300, 130)])
def test_one_step_moves_the_weights_by_the_gradient(
    n: int, width: int, features: int, bias: bool, base: str, engine: str
) -> None:
    d = features - bias
    x, y, more = problem(n, d)
    more = {name: more[name] for name in [*losses_of(base).values()][-1]}
    more["sample_weight"][0] = 0.5
    net = TwoLayerNet(d, width, base=base, bias=bias, seed=0).double()
    start = [p.detach().clone().requires_grad_() for p in net.parameters()]
    loss = dense_loss(dense_network(net, *start, 0.7), x, y, **more)
    gradients = torch.autograd.grad(loss, start)
    result = fit(net, x, y, s=0.7, steps=1, optimizer="gd", lr=0.1, engine=engine, **more)
    # float64 sums of at most 40 000 terms: 1e-12 leaves a factor of a hundred.
    torch.testing.assert_close(result.loss[0], loss.detach(), rtol=1e-12, atol=0)
    for moved, before, gradient in zip(net.parameters(), start, gradients, strict=True):
        torch.testing.assert_close(moved.detach(), (before - 0.1 * gradient).detach(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("engine", ENGINES)
def test_weights_of_one_change_nothing_and_a_sample_of_weight_zero_does_not_count(engine: str) -> None:
    x, y, _ = problem(20, 2)
    runs = []
    for change in (0.0, 100.0):
        weight = torch.ones(20, dtype=torch.float64)
        weight[3] = 0.0
        targets = y.clone()
        targets[3] += change
        net = TwoLayerNet(2, 30, seed=0).double()
        runs += [net, fit(net, x, targets, s=1.0, steps=20, engine=engine, sample_weight=weight)]
    assert_same(*runs)
    nets = [TwoLayerNet(2, 30, seed=0).double() for _ in range(2)]
    plain, ones = (
        fit(net, x, y, s=1.0, steps=20, engine=engine, **more)
        for net, more in zip(nets, ({}, {"sample_weight": torch.ones_like(y)}), strict=True)
    )
    torch.testing.assert_close(ones.loss, plain.loss, rtol=1e-12, atol=0)


def test_other_networks_are_differentiated_by_autograd() -> None:
    x, y, more = problem(21, 1)
    net, copy = mlp(), mlp()
    for module in (net, copy):
        module[1] = HomotopyActivation(base="tanh")
    result = fit(net, x, y[:, None], s=1.0, steps=5, optimizer="gd", lr=0.1, **more)
    losses = []
    for _ in range(5):
        copy.zero_grad()
        loss = dense_loss(lambda points: torch.tanh(points @ copy[0].weight.T + copy[0].bias) @ copy[2].weight[0]
                          + copy[2].bias[0], x, y, **more)  # fmt: skip
        loss.backward()
        losses.append(loss.item())
        with torch.no_grad():
            for parameter in copy.parameters():
                parameter -= 0.1 * parameter.grad
    assert result.engine == "torch"
    torch.testing.assert_close(result.loss.tolist(), losses, rtol=1e-12, atol=0)


class Shifted(TwoLayerNet):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + x[:, 0] ** 2


def test_a_network_with_a_forward_of_its_own_is_asked_for_its_own_gradient() -> None:
    x, y, more = problem(15, 2)
    net = Shifted(2, 9, base="relu2", seed=0).double()
    plain = dense_network(net, net.weight.detach(), net.output_weight.detach(), 1.0)
    loss = dense_loss(lambda points: plain(points) + points[:, 0] ** 2, x, y, **more)
    torch.testing.assert_close(fit(net, x, y, s=1.0, steps=1, **more).loss[0], loss, rtol=1e-12, atol=0)


def test_weights_count_all_outputs_of_a_sample() -> None:
    x, y, more = problem(21, 1)
    targets = torch.stack([y, 2 * y], 1)
    net = mlp(2)
    with torch.no_grad():
        expected = (more["sample_weight"][:, None] * (net(x) - targets) ** 2).sum() / 42
    loss = fit(net, x, targets, s=1.0, steps=1, sample_weight=more["sample_weight"]).loss[0]
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)


def test_minibatches_carry_weights_and_gradients_along() -> None:
    x, y, more = problem(13, 2)
    net = TwoLayerNet(2, 30, base="tanh", seed=0).double()
    weight, a = (p.detach().clone().requires_grad_() for p in (net.weight, net.output_weight))
    torch.manual_seed(5)
    result = fit(net, x, y, s=1.0, steps=9, optimizer="sgd", lr=0.05, batch_size=5, **more)
    generator = torch.Generator().manual_seed(5)
    losses = []
    for _ in range(3):
        for chosen in torch.randperm(13, generator=generator).split(5):
            batch = {name: value[chosen] for name, value in more.items()}
            loss = dense_loss(dense_network(net, weight, a, 1.0), x[chosen], y[chosen], **batch)
            gradients = torch.autograd.grad(loss, [weight, a])
            losses.append(loss.item())
            with torch.no_grad():
                weight -= 0.05 * gradients[0]
                a -= 0.05 * gradients[1]
    torch.testing.assert_close(result.loss.tolist(), losses, rtol=1e-12, atol=0)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_callback_may_weigh_the_samples_anew(engine: str) -> None:
    x, y, more = problem(20, 2)
    data = {name: value.clone() for name, value in more.items()}

    def weigh(info: Any) -> None:
        data["sample_weight"].mul_(0.5)

    net = TwoLayerNet(2, 30, base="relu2", seed=0).double()
    weight, a = (p.detach().clone().requires_grad_() for p in (net.weight, net.output_weight))
    result = fit(net, x, y, s=1.0, steps=4, optimizer="gd", lr=0.01, engine=engine, callbacks=[weigh], **data)
    losses = []
    for step in range(4):
        present = {**more, "sample_weight": more["sample_weight"] * 0.5**step}
        loss = dense_loss(dense_network(net, weight, a, 1.0), x, y, **present)
        gradients = torch.autograd.grad(loss, [weight, a])
        losses.append(loss.item())
        with torch.no_grad():
            weight -= 0.01 * gradients[0]
            a -= 0.01 * gradients[1]
    torch.testing.assert_close(result.loss.tolist(), losses, rtol=1e-10, atol=0)


@needs_fused
@pytest.mark.parametrize("base", ["relu2", "tanh"])
def test_bits_do_not_depend_on_threads_or_on_how_the_steps_are_cut(base: str, tmp_path: Path) -> None:
    """4000 neurons are eight blocks, enough work to wake the second thread."""
    x, y, more = problem(100, 2, torch.float32)
    threads = torch.get_num_threads()
    runs = []
    ways: list[tuple[int, dict[str, Any]]] = [
        (1, {}),
        (2, {}),
        (2, {"callbacks": [lambda info: None]}),
        (2, {"checkpoint": tmp_path / "run.pt", "checkpoint_every": 3}),
    ]
    try:
        for count, settings in ways:
            torch.set_num_threads(count)
            net = TwoLayerNet(2, 4000, base=base, seed=0)
            runs.append((net, fit(net, x, y, s=(0.5, 1.0), steps=(4, 5), lr=1e-2, engine="fused", **more, **settings)))
    finally:
        torch.set_num_threads(threads)
    for other in runs[1:]:
        assert_same(*runs[0], *other)


@pytest.mark.parametrize("engine", ENGINES)
def test_resuming_gives_the_bits_of_an_uninterrupted_run(engine: str, tmp_path: Path) -> None:
    x, y, more = problem(33, 2, torch.float32)
    settings = {"s": (0.5, 1.0), "steps": (30, 30), "lr": 1e-2, "engine": engine, **more}
    nets = [TwoLayerNet(2, 100, base="relu2", seed=seed) for seed in (0, 0, 5)]
    whole = fit(nets[0], x, y, **settings)

    def stop(info: Any) -> None:
        if info.step + 1 == 41:
            raise StopIteration

    path = tmp_path / "run.pt"
    fit(nets[1], x, y, **settings, checkpoint=path, callbacks=[stop])
    resumed = fit(nets[2], x, y, **settings, checkpoint=path, resume=True)
    assert_same(nets[0], whole, nets[2], resumed)


KILLED = """
import sys
import torch
from hrta_ext import TwoLayerNet, fit
x = torch.linspace(0, 1, 33)[:, None]
net = TwoLayerNet(1, 300, base="relu2", seed=0)
print("ready", flush=True)
fit(net, x, torch.sin(6 * x[:, 0]), s=1.0, steps=10**7, engine="fused", checkpoint=sys.argv[1], checkpoint_every=50,
    sample_weight=1 + x[:, 0], target_gradient=6 * torch.cos(6 * x))
"""


@needs_fused
def test_kill_9_leaves_a_checkpoint_of_the_sobolev_loss_that_is_exact(tmp_path: Path) -> None:
    saved = checkpoint_after_kill(KILLED, tmp_path / "run.pt")
    x = torch.linspace(0, 1, 33)[:, None]
    net = TwoLayerNet(1, 300, base="relu2", seed=0)
    more = {"sample_weight": 1 + x[:, 0], "target_gradient": 6 * torch.cos(6 * x)}
    whole = fit(net, x, torch.sin(6 * x[:, 0]), s=1.0, steps=saved["step"], engine="fused", **more)
    assert torch.equal(whole.loss, saved["loss"])
    assert torch.equal(net.weight, saved["model"]["weight"])


def test_a_checkpoint_knows_its_weights_and_gradients(tmp_path: Path) -> None:
    x, y, more = problem(20, 2)
    settings = {"s": 1.0, "steps": 3, "checkpoint": tmp_path / "run.pt", "resume": True}

    def run(**data: Tensor) -> FitResult:
        return fit(TwoLayerNet(2, 9, base="relu2", seed=0).double(), x, y, **settings, **data)

    run()
    # A checkpoint without them is that of a version that did not know them.
    assert not set(torch.load(tmp_path / "run.pt", weights_only=True)["fingerprint"]) & set(more)
    run()
    with pytest.raises(ValueError, match=r"of another run \(sample_weight was not given\)"):
        run(sample_weight=more["sample_weight"])
    (tmp_path / "run.pt").unlink()
    run(**more)
    run(**more)
    with pytest.raises(ValueError, match=r"of another run \(target_gradient holds other numbers\)"):
        run(**{**more, "target_gradient": 2 * more["target_gradient"]})
    with pytest.raises(ValueError, match=r"of another run \(target_gradient was given\)"):
        run(sample_weight=more["sample_weight"])


@pytest.mark.parametrize("engine", ["auto", "torch"])
def test_an_ensemble_trains_each_network_as_alone(engine: str) -> None:
    x, y, more = problem(30, 2)
    together, alone = (
        [TwoLayerNet(2, width, base=base, seed=1).double() for width, base in ((50, "relu2"), (600, "tanh"))]
        for _ in range(2)
    )
    settings = {"s": (0.5, 1.0), "steps": (5, 6), "engine": engine, **more}
    results = fit_ensemble(together, x, y, **settings)
    for net, result, other in zip(together, results, alone, strict=True):
        assert_same(net, result, other, fit(other, x, y, **settings))
        assert (result.settings["sample_weight"], result.settings["target_gradient"]) == (True, True)


@pytest.mark.parametrize("engine", ["auto", "torch"])
@pytest.mark.parametrize("base", ["relu", "straight twice"])
def test_a_base_without_a_second_derivative_cannot_follow_gradients(base: str, engine: str) -> None:
    register_base("straight twice", lambda z: z.abs(), torch.sign, torch.zeros_like)
    x, y, more = problem(6, 1)
    deep = nn.Sequential(nn.Linear(1, 7), HomotopyActivation(base="tanh"), TwoLayerNet(7, 5, base=base)).double()
    for net in (TwoLayerNet(1, 9, base=base).double(), deep):
        message = f"fit: target_gradient needs a base with a second derivative, such as .*, net has '{base}'"
        with pytest.raises(ValueError, match=message):
            fit(net, x, y, s=1.0, steps=1, engine=engine, **more)


def test_a_network_whose_output_does_not_depend_on_x_has_no_gradient_to_fit() -> None:
    class Detached(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.detach())

    x, y, more = problem(6, 1)
    net = Detached(*mlp())
    net[1] = HomotopyActivation(base="tanh")
    with pytest.raises(ValueError, match="needs outputs that are differentiable in x, those of Detached are not"):
        fit(net, x, y, s=1.0, steps=1, **more)
