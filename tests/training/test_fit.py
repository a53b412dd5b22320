"""fit: the numbers of the loop against loops written out."""

import functools
import math

import pytest
import torch
from torch import Tensor, nn
from training.cases import QUICK, mlp, net64

from hrta_ext.activation.modules import HomotopyActivation
from hrta_ext.network.module import TwoLayerNet
from hrta_ext.training.fit import fit


def written_out(net: TwoLayerNet, x: Tensor, y: Tensor, s_of_step: list[float]) -> tuple[list[Tensor], Tensor]:
    """The function and loss of docs/theory.md 1, gradients by hand: (gradients in W and a) and R, ReLU base."""
    weight, output = net.weight.detach(), net.output_weight.detach()
    samples = torch.cat([x, torch.ones_like(x)], 1)
    s, n, m = s_of_step[0], len(y), len(output)
    z = samples @ weight.T
    active = (z > 0).double()
    value, slope = (1 - s) * z + s * z * active, (1 - s) + s * active
    residual = value @ output / math.sqrt(m) - y
    grad_weight = ((residual[:, None] * slope) * output / math.sqrt(m)).T @ samples / n
    grad_output = value.T @ residual / math.sqrt(m) / n
    return [grad_weight, grad_output], residual.square().sum() / (2 * n)


def test_adam_through_two_stages_is_the_loop_written_out(data) -> None:
    x, y = data
    net, expected = net64(), net64()
    result = fit(net, x, y, s=(0.5, 1.5), steps=(20, 30), lr=0.02)

    parameters = [expected.weight, expected.output_weight]
    first, second = ([torch.zeros_like(p) for p in parameters] for _ in range(2))
    for step in range(50):  # one Adam through both stages: its moments outlive the change of s
        grads, loss = written_out(expected, x, y, [0.5 if step < 20 else 1.5])
        assert result.loss[step].item() == pytest.approx(loss.item(), rel=1e-9)
        with torch.no_grad():
            for p, g, m, v in zip(parameters, grads, first, second, strict=True):
                m.mul_(0.9).add_(0.1 * g)
                v.mul_(0.999).add_(0.001 * g * g)
                p -= 0.02 * (m / (1 - 0.9 ** (step + 1))) / ((v / (1 - 0.999 ** (step + 1))).sqrt() + 1e-8)
    torch.testing.assert_close(net.weight, expected.weight, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(net.output_weight, expected.output_weight, rtol=1e-9, atol=1e-11)
    assert net.s.item() == 1.5
    assert result.loss.dtype == result.s.dtype == torch.float64
    assert result.s.tolist() == [0.5] * 20 + [1.5] * 30
    assert result.stop_reason == "finished"
    assert result.net is net
    assert result.seconds > 0.0


@pytest.mark.parametrize("optimizer", ["gd", "sgd", torch.optim.SGD])
def test_gradient_descent_at_s_0_has_the_closed_form_of_least_squares(optimizer) -> None:
    # f = x . w at s = 0, so w_k = w* + (I - lr H)^k (w_0 - w*) with H = X^T X / n.
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(30, 3, generator=generator, dtype=torch.float64)
    y = torch.randn(30, generator=generator, dtype=torch.float64)
    net = nn.Sequential(nn.Linear(3, 1, bias=False), HomotopyActivation()).double()
    start = net[0].weight.detach().clone()[0]
    result = fit(net, x, y, s=0.0, steps=40, optimizer=optimizer, lr=0.3)

    optimum = torch.linalg.lstsq(x, y[:, None]).solution[:, 0]
    contraction = torch.eye(3, dtype=torch.float64) - 0.3 * x.T @ x / 30
    for k in (0, 1, 7, 39):
        weight = optimum + torch.linalg.matrix_power(contraction, k) @ (start - optimum)
        assert result.loss[k].item() == pytest.approx((x @ weight - y).square().sum().item() / 60, rel=1e-12)
    weight = optimum + torch.linalg.matrix_power(contraction, 40) @ (start - optimum)
    torch.testing.assert_close(net[0].weight[0], weight, rtol=1e-11, atol=1e-12)


def test_minibatch_loss_divides_by_the_size_of_each_batch(data) -> None:
    x, y = data
    net, expected = mlp(), mlp()
    torch.manual_seed(11)
    result = fit(net, x, y, s=1.0, steps=7, optimizer="sgd", lr=0.1, batch_size=5)
    assert torch.get_rng_state().equal(torch.manual_seed(11).get_state())  # shuffles draw from a generator of their own
    generator = torch.Generator().manual_seed(11)
    for step in range(7):
        if step % 3 == 0:
            order = torch.randperm(12, generator=generator)
        chosen = order[5 * (step % 3) : 5 * (step % 3) + 5]
        loss = (expected(x[chosen])[:, 0] - y[chosen]).square().sum() / (2 * len(chosen))
        assert result.loss[step].item() == pytest.approx(loss.item(), rel=1e-12)
        grads = torch.autograd.grad(loss, list(expected.parameters()))
        with torch.no_grad():
            for p, g in zip(expected.parameters(), grads, strict=True):
                p -= 0.1 * g


def test_loss_sums_over_outputs_and_halves_the_mean_over_samples(data) -> None:
    x, _ = data
    y = torch.cat([x, x**2, 1 - x], 1)
    net = mlp(3)
    with torch.no_grad():
        expected = (net(x) - y).square().sum(1).mean() / 2
    assert fit(net, x, y, s=1.0, steps=1).loss[0].item() == pytest.approx(expected.item(), rel=1e-12)


def test_a_trailing_one_never_broadcasts(data) -> None:
    x, y = data
    column, flat = mlp(), mlp()
    assert torch.equal(fit(column, x, y[:, None], **QUICK).loss, fit(flat, x, y, **QUICK).loss)
    column, flat = net64(), net64()
    assert torch.equal(fit(column, x, y[:, None], **QUICK).loss, fit(flat, x, y, **QUICK).loss)


@pytest.mark.parametrize("schedule", ["cosine", lambda step: 0.5 * (1 + math.cos(math.pi * step / 10))])
def test_learning_rate_schedule_scales_each_update(data, schedule) -> None:
    x, y = data
    net, expected = net64(), net64()
    fit(net, x, y, s=1.0, steps=10, optimizer="gd", lr=0.2, lr_schedule=schedule)
    for step in range(10):
        grads, _ = written_out(expected, x, y, [1.0])
        with torch.no_grad():
            for p, g in zip((expected.weight, expected.output_weight), grads, strict=True):
                p -= 0.2 * 0.5 * (1 + math.cos(math.pi * step / 10)) * g
    torch.testing.assert_close(net.weight, expected.weight, rtol=1e-11, atol=1e-13)


def test_any_torch_optimizer_class_or_partial_serves(data) -> None:
    x, y = data
    for optimizer in (torch.optim.AdamW, torch.optim.RMSprop, functools.partial(torch.optim.SGD, momentum=0.9)):
        result = fit(net64(), x, y, s=1.0, steps=40, lr=1e-2, optimizer=optimizer)
        assert result.loss[-1] < result.loss[0]


def test_lbfgs_which_needs_a_closure_matches_its_own_loop(data) -> None:
    x, y = data
    net, expected = net64(), net64()
    result = fit(net, x, y, s=1.0, steps=5, lr=0.5, optimizer=torch.optim.LBFGS)
    optimizer = torch.optim.LBFGS(expected.parameters(), lr=0.5)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = 0.5 * (expected(x) - y).square().mean()
        loss.backward()
        return loss

    losses = [optimizer.step(closure).item() for _ in range(5)]
    torch.testing.assert_close(result.loss, torch.tensor(losses, dtype=torch.float64), rtol=1e-6, atol=0.0)


def test_numbers_of_numpy_are_numbers(data) -> None:
    """Learning rates and seeds often come out of arrays."""
    numpy = pytest.importorskip("numpy")
    nets = [TwoLayerNet(1, 9, seed=3).double(), TwoLayerNet(1, numpy.int64(9), seed=numpy.int64(3)).double()]
    results = [fit(net, *data, s=1.0, steps=3, lr=lr) for net, lr in zip(nets, (0.5, numpy.float32(0.5)), strict=True)]
    assert torch.equal(results[0].loss, results[1].loss)
    assert results[1].settings["lr"] == 0.5


def test_frozen_parameters_and_the_training_mode_stay(data) -> None:
    x, y = data
    net = mlp().eval()
    net[0].weight.requires_grad_(False)
    before = net[0].weight.clone()
    fit(net, x, y, **QUICK)
    assert torch.equal(net[0].weight, before)
    assert not net.training


def test_a_learned_s_is_trained_from_the_scheduled_value(data) -> None:
    x, y = data
    net = nn.Sequential(nn.Linear(1, 7), HomotopyActivation(learnable=True), nn.Linear(7, 1)).double()
    fit(net, x, y, s=0.5, steps=20, lr=1e-2)
    assert 0.3 < net[1].s.item() < 0.7
    assert net[1].s.item() != 0.5


def test_float32_data_trains_a_float32_net(data) -> None:
    x, y = (value.float() for value in data)
    net = TwoLayerNet(1, 9, seed=0)
    result = fit(net, x, y, **QUICK)
    assert net.weight.dtype == torch.float32
    assert result.loss.dtype == torch.float64


def test_targets_that_require_grad_collect_none(data) -> None:
    x, y = data
    y = y.clone().requires_grad_()
    fit(net64(), x, y, **QUICK)
    assert y.grad is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_cuda_training_agrees_with_the_cpu(data) -> None:
    x, y = data
    on_cpu, on_gpu = net64(), net64().cuda()
    expected = fit(on_cpu, x, y, **QUICK, batch_size=5)
    result = fit(on_gpu, x.cuda(), y.cuda(), **QUICK, batch_size=5)
    assert result.loss.device.type == "cpu"
    torch.testing.assert_close(result.loss, expected.loss, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(on_gpu.weight.cpu(), on_cpu.weight, rtol=1e-9, atol=1e-12)
