"""The experiments' data and networks are what they say, and a training keeps the true numbers of its run."""

from __future__ import annotations

import math
from dataclasses import asdict, replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from hrta_ext.inputs import with_bias
from hrta_ext.network.module import TwoLayerNet
from hrta_ext.reproduction.runs.networks import make_network
from hrta_ext.reproduction.runs.problems import PROBLEMS, grid, make_problem
from hrta_ext.reproduction.runs.trainings import Training, measure, read, train, train_network
from hrta_ext.training.fit import fit


def dense(kind, net, x):
    """f of a network by the formula of its paper, float64."""
    z = with_bias(x.double()) @ net.weight.double().T
    a, m = net.output_weight.double(), len(net.output_weight)
    if kind == "prelu":
        return F.prelu(z, net.slope.double()) @ a / math.sqrt(m)
    if kind == "jagtap":
        return F.relu(10.0 * net.scale.double() * z) @ a / math.sqrt(m)
    s = (net.activation.s if kind == "three_layer" else net.s).double()
    hidden = (1 - s) * z + s * F.relu(z)
    if kind == "three_layer":
        z = hidden @ net.hidden_weight.double().T / math.sqrt(m)
        hidden = (1 - s) * z + s * F.relu(z)
    return hidden @ a / math.sqrt(m)


@pytest.mark.parametrize("kind", ["two_layer", "three_layer", "learned_s", "prelu", "jagtap"])
def test_networks_and_their_gradients(kind):
    """float32 sums over 31 neurons: 1e-5 of the largest is generous for values and gradients."""
    torch.manual_seed(0)
    net = make_network(kind, 3, 31, 1.0, "relu", 0)
    x, weights = torch.randn(17, 3), torch.randn(17)
    ours = torch.autograd.grad((net(x) * weights).sum(), list(net.parameters()))
    expected = dense(kind, net, x)
    size = float(expected.detach().abs().max())
    torch.testing.assert_close(net(x).double(), expected, rtol=1e-5, atol=1e-5 * size)
    theirs = torch.autograd.grad((expected * weights).sum(), list(net.parameters()))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5 * float(other.abs().max()))


def test_learned_networks_learn_what_they_should_and_start_alike():
    plain = make_network("two_layer", 1, 8, 1.0, "relu", 3)
    for kind, name, start in (("learned_s", "s", 1.0), ("prelu", "slope", 0.25), ("jagtap", "scale", 0.1)):
        net = make_network(kind, 1, 8, 1.0, "relu", 3)
        assert torch.equal(net.weight, plain.weight)
        assert torch.equal(net.output_weight, plain.output_weight)
        learned = dict(net.named_parameters())[name]
        assert isinstance(learned, nn.Parameter)
        assert torch.all(learned == start)
        x = make_problem("sin1d").x
        fit(net, x, torch.sin(6 * x[:, 0]), s=1.0, steps=5, lr=1e-2)
        assert not torch.any(learned == start)
    with pytest.raises(ValueError, match=r"prelu starts from ReLU, got s = 0.5"):
        make_network("prelu", 1, 8, 0.5, "relu", 0)


def test_sin_problems():
    one, three = make_problem("sin1d"), make_problem("sin3d")
    assert one.x.shape == (100, 1)
    assert three.x.shape == (125, 3)
    assert three.x_test.shape == (21**3, 3)
    for problem in (one, three, make_problem("sin3d", n=343)):
        for x, y in ((problem.x, problem.y), (problem.x_test, problem.y_test)):
            torch.testing.assert_close(y, torch.sin(2 * math.pi * x.sum(1)), rtol=0, atol=2e-6)
    assert torch.equal(three.x, grid(5, 3))
    assert torch.equal(make_problem("sin3d", n=343).x, grid(7, 3))
    drawn = make_problem("sin3d", n=400, seed=1).x
    assert torch.equal(drawn, make_problem("sin3d", n=400, seed=2).x)
    assert drawn.min() >= 0
    assert drawn.max() <= 1


def test_noise_is_on_the_training_targets_alone():
    clean, noisy, other = (
        make_problem("sin1d"),
        make_problem("sin1d", noise=0.1),
        make_problem("sin1d", noise=0.1, seed=1),
    )
    assert torch.equal(clean.y_test, noisy.y_test)
    assert 0.07 < float((noisy.y - clean.y).std()) < 0.13
    assert not torch.equal(noisy.y, other.y)


def test_the_poisson_problem_solves_its_equation():
    problem = make_problem("poisson")
    x = problem.x.double().requires_grad_()
    u = torch.cos(math.pi * x).sum(1)
    (gradient,) = torch.autograd.grad(u.sum(), x, create_graph=True)
    laplace = sum(torch.autograd.grad(gradient[:, i].sum(), x, retain_graph=True)[0][:, i] for i in range(2))
    torch.testing.assert_close(problem.y.double(), u.detach(), rtol=0, atol=1e-6)
    torch.testing.assert_close(problem.gradient.double(), gradient.detach(), rtol=0, atol=1e-6)
    torch.testing.assert_close(-laplace, math.pi**2 * u.detach())
    at_edge = (problem.x[:, 0] == 0) | (problem.x[:, 0] == 1)
    assert problem.gradient[at_edge, 0].abs().max() < 1e-6


@pytest.mark.parametrize("name", ["diabetes", "digits"])
def test_tables_are_split_and_scaled_by_the_training_rows(name):
    problem, other = make_problem(name, seed=0), make_problem(name, seed=1)
    n, n_validation, n_test = len(problem.x), len(problem.x_validation), len(problem.x_test)
    assert n + n_validation + n_test == (442 if name == "diabetes" else 1797)
    assert abs(float(problem.y.mean())) < 1e-5
    assert float(problem.y.std(correction=0)) == pytest.approx(1.0, abs=1e-4)
    assert not torch.equal(problem.x, other.x)
    rows = torch.cat([problem.x, problem.x_validation, problem.x_test])
    assert len(torch.unique(rows, dim=0)) == len(rows) or name == "digits"


def test_problems_are_named():
    with pytest.raises(ValueError, match="name must be one of sin1d"):
        make_problem("cos")
    with pytest.raises(ValueError, match="n and noise are for the sin problems"):
        make_problem("poisson", n=5)
    assert len(PROBLEMS) == 5


def test_a_training_keeps_the_numbers_of_its_run():
    training = Training("sin1d", width=50, s=(0.5, 1.0), steps=(30, 50), lr=1e-2, seed=4)
    kept = train(asdict(training))
    problem = make_problem("sin1d")
    net = TwoLayerNet(1, 50, s=0.5, seed=4)
    result = fit(net, problem.x, problem.y, s=(0.5, 1.0), steps=(30, 50), lr=1e-2, lr_schedule="cosine")
    with torch.no_grad():
        residual = net(problem.x).double() - problem.y.double()
        error = (net(problem.x_test).double() - problem.y_test.double()).norm() / problem.y_test.double().norm()
    assert kept["final_loss"] == pytest.approx(float(residual.square().mean() / 2), rel=1e-12)
    assert kept["error"] == pytest.approx(float(error), rel=1e-12)
    assert kept["switch_steps"] == [30]
    assert not kept["diverged"]
    assert kept["curve"]["loss"] == pytest.approx(result.loss.tolist(), rel=1e-4)
    assert read(asdict(training)) == training
    assert train(asdict(training))["final_loss"] == kept["final_loss"]


def test_errors_of_the_sobolev_problem():
    net, problem = TwoLayerNet(2, 20, base="relu2", seed=0), make_problem("poisson")
    numbers = measure(net, problem)
    x = problem.x_test.double().requires_grad_()
    z = with_bias(x) @ net.weight.double().T
    f = (F.relu(z).square() / 2) @ net.output_weight.double() / math.sqrt(20)
    (gradient,) = torch.autograd.grad(f.sum(), x)
    difference = (f - problem.y_test).square().sum() + (gradient - problem.gradient_test).square().sum()
    size = problem.y_test.double().square().sum() + problem.gradient_test.double().square().sum()
    assert numbers["h1_error"] == pytest.approx(math.sqrt(float(difference / size)), rel=1e-5)


def test_a_plateau_ends_the_first_stage_where_its_loss_levels_off():
    """At a rate of almost nothing the loss stands still, so the switch comes after the patience, 1/32 of the steps."""
    still = Training("sin1d", width=16, s=(1.0, 1.5), steps=(12, 52), switch="plateau", lr=1e-12)
    assert train(asdict(still))["switch_steps"] == [3]  # the first step improves on nothing, two do not improve
    fast = train(asdict(replace(still, width=200, steps=(60, 260), lr=1e-2)))
    assert fast["switch_steps"] == [] or fast["switch_steps"][0] > 10


def test_a_diverged_training_says_so():
    kept = train(asdict(Training("sin1d", width=50, s=(0.5,), optimizer="gd", lr=1e4, steps=(500,))))
    assert kept["diverged"]
    assert not math.isfinite(kept["final_loss"])


def test_a_restarted_training_is_one_fit_after_the_other():
    """New moments and a new cosine in every stage, against the two calls by hand; without restart it differs."""
    training = Training("sin1d", width=20, s=(0.5, 1.0), steps=(30, 50), lr=1e-2, restart=True, seed=4)
    problem = make_problem("sin1d")
    net = make_network("two_layer", 1, 20, 0.5, "relu", 4)
    losses = [fit(net, problem.x, problem.y, s=s, steps=n, lr=1e-2, lr_schedule="cosine").loss
              for s, n in ((0.5, 30), (1.0, 50))]  # fmt: skip
    ours, result = train_network(training, problem)
    assert torch.equal(result.loss, torch.cat(losses))
    assert torch.equal(ours.weight, net.weight)
    assert result.s.tolist() == [0.5] * 30 + [1.0] * 50
    _, running_on = train_network(replace(training, restart=False), problem)
    assert torch.equal(running_on.loss[0], result.loss[0])
    assert not torch.equal(running_on.loss[31:], result.loss[31:])
