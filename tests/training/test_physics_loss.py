"""``fit`` with losses of the user's own: their gradients, terms, samplers, unknowns, checkpoints and refusals."""

from __future__ import annotations

import json
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import hrta_ext as hx
from hrta_ext.training.fit import fit
from hrta_ext.training.jets import Need, passes_of
from hrta_ext.training.results import StepInfo
from hrta_ext.training.terms import Term

ALL = [(None, None), ("laplacian", None), ("laplacian", [1]), ("diagonal", [1, 0]), ("hessian", None)]
SGD: dict[str, Any] = {"s": 0.7, "steps": 1, "optimizer": "sgd", "lr": 1e-2}


def draw(k: int, count: int = 12) -> Tensor:
    """A sampler: points of the unit square, a function of k."""
    return torch.rand(count, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(k))


POINTS = draw(100)


def square_net(base: str = "tanh", width: int = 6) -> hx.TwoLayerNet:
    return hx.TwoLayerNet(2, width, base=base, seed=0).double()


def deep(outputs: int = 1) -> nn.Sequential:
    torch.manual_seed(1)
    layers = [nn.Linear(2, 5), hx.HomotopyActivation(base="tanh"), nn.Linear(5, 4), hx.HomotopyActivation(base="silu")]
    return nn.Sequential(*layers, nn.Linear(4, outputs)).double()


def dense_jet(net: nn.Module, x: Tensor, second: str | None, columns: list[int] | None) -> tuple[Tensor, ...]:
    """u, grad u and second derivatives, point by point, by autograd of the formula."""

    def u(point: Tensor) -> Tensor:
        if not isinstance(net, hx.TwoLayerNet):
            return net(point[None]).reshape(())
        z = net.weight @ torch.cat([point, point.new_ones(1)])
        activation = (1.0 - net.s) * z + net.s * (torch.tanh(z) if net.base == "tanh" else 0.5 * torch.relu(z) ** 2)
        skip = 0.0 if net.skip is None else net.skip @ torch.cat([point, point.new_ones(1)])
        return net.output_weight @ activation / net.width**0.5 + skip

    value = torch.stack([u(point) for point in x])
    gradient = torch.stack([torch.autograd.functional.jacobian(u, point, create_graph=True) for point in x])
    if second is None:
        return value, gradient
    hessian = torch.stack([torch.autograd.functional.hessian(u, point, create_graph=True) for point in x])
    chosen = [0, 1] if columns is None else columns
    hessian = hessian[:, chosen][:, :, chosen]
    diagonal = hessian.diagonal(dim1=1, dim2=2)
    return value, gradient, {"laplacian": diagonal.sum(1), "diagonal": diagonal, "hessian": hessian}[second]


def pointwise(parts: tuple[Tensor, ...], x: Tensor) -> Tensor:
    """A loss in which everything that a jet has appears, none of it linearly."""
    value, gradient, *second = parts
    result = (value - x[:, 0]).square() + gradient[:, 0] * gradient[:, 1].exp() * value
    return result + sum(part.reshape(len(x), -1).sin().sum(1) * (1.0 + value) for part in second)


@pytest.mark.parametrize("make", [square_net, deep])
@pytest.mark.parametrize(("second", "columns"), ALL)
@pytest.mark.parametrize("inside_count", [9, 28])  # all terms go through the neurons together where one has the most
def test_one_step_follows_the_gradient_of_the_dense_formula(
    make: Any, second: str | None, columns: list[int] | None, inside_count: int
) -> None:
    """Jets, their mean with weights, and the update: the native jet and that by autograd of other networks."""
    net, twin = make(), make()
    hx.set_homotopy(twin, SGD["s"])
    inside, few = draw(3, inside_count), POINTS[:4]
    rule = torch.rand(4, dtype=torch.float64)
    terms = [
        Term(draw(7, 3), lambda u, x: u.value.exp(), second=None, name="b"),
        Term(inside, lambda u, x: pointwise(tuple(u) if second else (u.value, u.gradient), x), 0.3, second=second,
             second_columns=columns, name="a"),
        Term(few, lambda u, x: u.value * u.gradient[:, 1], -2.0, second=None, quadrature=rule, name="c"),
    ]  # fmt: skip
    result = fit(net, loss=terms, **SGD)
    others = dense_jet(twin, few, None, None)
    expected = [
        dense_jet(twin, draw(7, 3), None, None)[0].exp().mean(),
        0.3 * pointwise(dense_jet(twin, inside, second, columns), inside).mean(),
        -2.0 * (rule * others[0] * others[1][:, 1]).sum(),
    ]
    torch.testing.assert_close(torch.cat([*result.terms.values()]), torch.stack(expected).detach())
    torch.testing.assert_close(result.loss, torch.stack(expected).sum().detach()[None])
    torch.stack(expected).sum().backward()
    for p, q in zip(net.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p, q - SGD["lr"] * q.grad, rtol=1e-10, atol=1e-12)


def test_terms_share_passes_where_that_is_cheaper() -> None:
    """Equal needs always, lesser ones where their points are few; the first of a pass needs the most."""
    value, gradient, full, other = Need("value"), Need("gradient"), Need("laplacian"), Need("diagonal", (0,))
    assert passes_of([value, full, gradient, full], [10, 300, 90, 100]) == [[1, 3, 2, 0]]
    assert passes_of([value, full, gradient], [10, 100, 90]) == [[1, 0], [2]]
    assert passes_of([value, gradient, full, other], [40, 9, 30, 30]) == [[2], [3], [1], [0]]
    assert passes_of([gradient, value, gradient], [100, 10, 100]) == [[0, 2, 1]]


def test_every_backend_takes_the_same_steps(device: torch.device) -> None:
    """Points of a sampler come from the CPU wherever the network is; so does the course of the training."""
    courses = []
    for where in (device, torch.device("cpu")):
        net = square_net().to(where)
        inside = Term(draw, lambda u, x: (u.second + x[:, 0]).square())
        edge = Term(POINTS.to(where), lambda u, x: u.value.square() + u.gradient[:, 0], 3.0, second=None)
        with nullcontext() if not courses else hx.use_backend("torch"):
            courses.append(fit(net, loss=[inside, edge], s=(0.5, 1.2), steps=(3, 4), lr=1e-2))
    torch.testing.assert_close(courses[0].loss, courses[1].loss, rtol=1e-9, atol=0.0)
    assert courses[0].settings["device"].startswith(device.type)


def test_a_skip_is_part_of_the_jet_and_a_switch_keeps_the_loss() -> None:
    """keep_function goes with any loss: at the switch the loss goes on from where it was."""

    def loss(u: Any, x: Tensor) -> Tensor:
        return (u.second - x[:, 0]).square() + u.gradient[:, 0].square() + u.value.square()

    kept = fit(square_net(), POINTS, loss=loss, s=(1.0, 1.8), steps=(3, 2), lr=1e-6, keep_function=True).loss
    jumps = fit(square_net(), POINTS, loss=loss, s=(1.0, 1.8), steps=(3, 2), lr=1e-6).loss
    assert abs(kept[3] - kept[2]) < 1e-4 < 1e-2 < abs(jumps[3] - jumps[2])


def test_ramps_and_rates_move_as_elsewhere() -> None:
    """s of every step, the rate of every step: the loss of a linear function of s and of the weights says both."""
    net = square_net()
    s = hx.ramp(1.0, 2.0, 4)
    result = fit(
        net,
        POINTS,
        loss=lambda u, x: u.value.square(),
        s=s,
        steps=6,
        optimizer="sgd",
        lr=1.0,
        lr_schedule=lambda k: 0.0,
    )
    assert result.s.tolist() == [s(k) for k in range(6)]
    for value, expected in zip(result.loss, result.s, strict=True):
        net.set_s(float(expected))
        torch.testing.assert_close(value, net(POINTS).square().mean().detach())


def test_a_sampler_is_asked_for_the_draws_in_turn() -> None:
    """Draw of a step: step // resample, moved to the network's dtype; 16 more draws measure the loss afterwards."""
    net = hx.TwoLayerNet(2, 5, base="tanh", seed=0)
    seen: list[Tensor] = []

    def loss(u: Any, x: Tensor) -> Tensor:
        seen.append(x)
        return u.value.square()

    with torch.no_grad():  # as the torch engine goes on under it
        result = fit(net, loss=[Term(draw, loss, resample=3, second=None)], s=1.0, steps=7, optimizer="sgd", lr=1e-9)
    assert all(torch.equal(x, draw(k // 3).float()) for k, x in enumerate(seen[:7]))
    assert all(torch.equal(x, draw(3 + k).float()) for k, x in enumerate(seen[7:]))
    values = torch.stack([net(draw(3 + k).float()).square().mean() for k in range(16)]).double()
    found = result.settings["loss_on_new_points"]
    assert found["draws"] == len(seen) - 7 == 16
    assert found["mean"] == pytest.approx(float(values.mean().detach()))
    assert found["standard_error"] == pytest.approx(float(values.std().detach()) / 4.0, rel=1e-4)


def test_new_points_leave_the_run_as_it_is() -> None:
    """What is measured afterwards moves neither the random state nor buffers; where it fails, the result is there."""
    net = nn.Sequential(
        nn.Linear(2, 4), nn.BatchNorm1d(4), hx.HomotopyActivation(base="tanh"), nn.Dropout(0.5), nn.Linear(4, 1)
    )
    net = net.double()
    ends: list[Any] = []

    def remember(info: StepInfo) -> None:
        ends[:] = [torch.get_rng_state(), net[1].running_mean.clone(), net[1].num_batches_tracked.clone()]

    fit(net, draw, loss=lambda u, x: u.value.square(), s=1.0, steps=3, callbacks=[remember])
    assert all(map(torch.equal, ends, [torch.get_rng_state(), net[1].running_mean, net[1].num_batches_tracked]))
    listed = [draw(0), draw(1)]
    with pytest.warns(UserWarning, match="on new points: list index"):
        result = fit(square_net(), lambda k: listed[k], loss=lambda u, x: u.value.square(), s=1.0, steps=2)
    assert result.stop_reason == "finished"
    assert "loss_on_new_points" not in result.settings


def square(u: Any, x: Tensor) -> Tensor:
    return u.value.square()


class Scaled(nn.Module):
    """A loss with an unknown and a buffer of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.k = nn.Parameter(torch.tensor(0.5))
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def forward(self, u: Any, x: Tensor) -> Tensor:
        self.calls += 1
        return (u.second - self.k * x[:, 0]).square()


def test_unknowns_in_losses_are_trained() -> None:
    """Found in a module, given by ``parameters``, once each: u = k x^2 / 2 at s = 0 makes u'' - k x trainable."""
    loss, other = Scaled(), nn.Parameter(torch.tensor([1.0, -1.0], dtype=torch.float64))
    terms = [Term(POINTS, loss), Term(POINTS, lambda u, x: (u.value - other[0] * x[:, 1] - loss.k).square())]
    result = fit(square_net(), loss=terms, parameters=[other, loss.k], s=1.0, steps=1, optimizer="sgd", lr=0.1)
    net = square_net()
    net.set_s(1.0)
    jet = net.jet(POINTS)
    k, c = torch.tensor(0.5, requires_grad=True), torch.tensor(1.0, requires_grad=True)
    ((jet.second - k * POINTS[:, 0]) ** 2).mean().add(((jet.value - c * POINTS[:, 1] - k) ** 2).mean()).backward()
    assert k.grad is not None
    assert c.grad is not None
    torch.testing.assert_close(loss.k.detach(), 0.5 - 0.1 * k.grad)
    torch.testing.assert_close(other.detach(), torch.stack([1.0 - 0.1 * c.grad, torch.tensor(-1.0)]).double())
    assert result.settings["n_unknowns"] == 3


@pytest.mark.parametrize("optimizer", ["adam", partial(torch.optim.LBFGS, max_iter=3, line_search_fn="strong_wolfe")])
def test_a_resumed_run_is_the_one_that_was_never_interrupted(optimizer: Any, tmp_path: Path) -> None:
    """Weights, unknowns, buffers of losses, draws, values of terms, s on a ramp: bitwise."""

    def task() -> tuple[Any, Scaled, nn.Parameter, dict[str, Any]]:
        loss, other = Scaled(), nn.Parameter(torch.tensor(0.3))
        terms = [Term(draw, loss, resample=2), Term(POINTS, lambda u, x: (u.value - other).square(), second=None)]
        options = {"loss": terms, "parameters": [other], "s": hx.ramp(1.0, 1.5, 8), "steps": 11, "optimizer": optimizer}
        return square_net(), loss, other, {**options, "lr": 1e-2}

    net, loss, other, options = task()
    whole = fit(net, **options)

    def stop(info: StepInfo) -> None:
        if info.step == 4:
            raise StopIteration

    begun = task()
    fit(begun[0], **begun[3], callbacks=[stop], checkpoint=tmp_path / "run.pt")
    again = task()
    resumed = fit(again[0], **again[3], checkpoint=tmp_path / "run.pt", resume=True)
    assert torch.equal(resumed.loss, whole.loss)
    assert all(map(torch.equal, resumed.terms.values(), whole.terms.values()))
    assert all(map(torch.equal, again[0].state_dict().values(), net.state_dict().values()))
    assert torch.equal(again[1].k, loss.k)
    assert torch.equal(again[2], other)
    settings = [result.settings["loss_on_new_points"] for result in (resumed, whole)]
    assert settings[0] == settings[1]
    assert whole.loss.shape == (11,)


def test_a_checkpoint_of_another_loss_is_refused(tmp_path: Path) -> None:
    """Names, weights, points, samplers and resampling are compared."""

    def named(name: str, points: Any = POINTS, weight: float = 1.0, resample: int = 1) -> Term:
        return Term(points, lambda u, x: u.value.square(), weight, resample, name=name)

    path = tmp_path / "run.pt"
    fit(square_net(), loss=[named("a")], s=1.0, steps=2, checkpoint=path)
    changed = [named("b"), named("a", POINTS + 1.0), named("a", weight=1.0 + 1e-9), named("a", draw)]
    for term in changed:
        with pytest.raises(ValueError, match="of another run"):
            fit(square_net(), loss=[term], s=1.0, steps=2, checkpoint=path, resume=True)
    fit(square_net(), loss=[named("a", draw)], s=1.0, steps=2, checkpoint=tmp_path / "drawn.pt")
    for term in (named("a", lambda k: draw(k + 1)), named("a", draw, resample=2)):
        with pytest.raises(ValueError, match="of another run"):
            fit(square_net(), loss=[term], s=1.0, steps=2, checkpoint=tmp_path / "drawn.pt", resume=True)


class Counting(nn.Module):
    """A loss with a buffer of its own."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(size))

    def forward(self, u: Any, x: Tensor) -> Tensor:
        return u.value.square()


def test_a_checkpoint_of_a_loss_with_other_buffers_is_refused(tmp_path: Path) -> None:
    """Before the network takes anything from it."""
    path, net = tmp_path / "run.pt", square_net()
    fit(square_net(), POINTS, loss=Counting(1), s=1.5, steps=2, checkpoint=path)
    before = net.weight.detach().clone()
    with pytest.raises(ValueError, match="of another run"):
        fit(net, POINTS, loss=Counting(2), s=1.5, steps=2, checkpoint=path, resume=True)
    assert torch.equal(net.weight, before)
    assert float(net.s) == 1.0


def test_lbfgs_ends_what_adam_began() -> None:
    """Adam, then torch's L-BFGS with a line search; the closure is called several times a step, one value is kept."""
    net = square_net(width=20)
    equation = hx.Residual(lambda u, x: u.second + x[:, 0])
    adam = fit(net, POINTS, loss=equation, s=1.0, steps=30, lr=1e-2)
    search = partial(torch.optim.LBFGS, line_search_fn="strong_wolfe")
    after = fit(net, POINTS, loss=equation, s=1.0, steps=10, optimizer=search, lr=1.0)
    assert after.loss[-1] < 1e-3 * adam.loss[-1]
    assert after.loss.shape == after.terms["residual"].shape == (10,)


def test_terms_are_reported_and_negative_losses_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Values by name, in JSON too; a picture of losses of both signs has every point on its axis, and ticks."""
    from hrta_ext.plots import draw_loss, new_figure, plot_loss

    terms = [Term(POINTS, lambda u, x: -1.0 - u.value.square(), second=None)] * 2
    result = fit(square_net(), loss=terms, s=1.0, steps=4)
    assert list(result.terms) == ["loss", "loss 1"]
    torch.testing.assert_close(sum(result.terms.values()), result.loss)
    result.to_json(tmp_path / "r.json")
    assert json.loads((tmp_path / "r.json").read_text())["terms"]["loss 1"] == result.terms["loss 1"].tolist()
    result.plot(tmp_path / "r.png")
    assert (tmp_path / "r.png").stat().st_size > 1000
    axis = new_figure()[1][0]
    draw_loss(axis, torch.tensor([10.0, -1.0, 0.0]), linear_up_to=1.0)
    assert axis.get_yscale() == "symlog"
    assert list(axis.lines[0].get_ydata()) == [10.0, -1.0, 0.0]
    drawn = []
    monkeypatch.setattr("hrta_ext.plots.save_figure", lambda figure, path: drawn.append(figure))
    for loss, scale in ((torch.linspace(-4.2, -45.0, 20), "linear"), (torch.linspace(3.0, -0.9, 20), "symlog")):
        plot_loss(loss, torch.ones(20), "loss.png")
        (axis,) = drawn.pop().axes
        assert axis.get_yscale() == scale
        low, high = axis.get_ylim()
        assert sum(low <= tick <= high for tick in axis.get_yticks()) > 2


def test_a_loss_that_turns_nan_ends_the_run_as_diverged() -> None:
    """Later than the first step, where NaN is the loss's own fault."""
    result = fit(square_net(), POINTS, loss=square, s=1.0, steps=500, optimizer="sgd", lr=1e300)
    assert result.stop_reason == "diverged"
    assert len(result.terms["square"]) == len(result.loss) <= 200
