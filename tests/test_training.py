"""fit: the numbers of the loop against loops written out, when it stops, what it tells, what it refuses."""

import functools
import json
import math
import signal
import sys
import threading

import pytest
import torch
from torch import Tensor, nn

import hrta_ext
from hrta_ext.layers import HomotopyActivation
from hrta_ext.training import CHECK_EVERY, StepInfo, fit
from hrta_ext.two_layer import TwoLayerNet

QUICK = {"s": (0.5, 1.5), "steps": (4, 6), "lr": 1e-2}


@pytest.fixture
def data() -> tuple[Tensor, Tensor]:
    x = torch.linspace(0.0, 1.0, 12, dtype=torch.float64)[:, None]
    return x, torch.sin(2 * torch.pi * x[:, 0])


def net64(width: int = 9, seed: int = 0) -> TwoLayerNet:
    return TwoLayerNet(1, width, seed=seed).double()


def mlp(outputs: int = 1) -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(1, 7), HomotopyActivation(), nn.Linear(7, outputs)).double()


def written_out(net: TwoLayerNet, x: Tensor, y: Tensor, s_of_step: list[float]) -> tuple[list[Tensor], Tensor]:
    """The function and loss of THEORY section 1, gradients by hand: (gradients in W and a) and R, ReLU base."""
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


def test_callback_sees_every_step_after_its_update(data) -> None:
    x, y = data
    net, seen, weights = net64(), [], []

    def note(info: StepInfo) -> bool:
        seen.append((info.step, info.stage, info.s, info.total_steps, info.net.s.item(), info.loss))
        weights.append(info.net.weight.detach().clone())
        return True  # a returned value means nothing: tqdm's update() returns one, too

    result = fit(net, x, y, **QUICK, callbacks=[note])
    assert [entry[:5] for entry in seen] == [
        (step, int(step >= 4), s, 10, s) for step, s in enumerate([0.5] * 4 + [1.5] * 6)
    ]
    assert [entry[5] for entry in seen] == result.loss.tolist()
    assert torch.equal(weights[-1], net.weight)
    assert not torch.equal(weights[0], net64().weight)


def test_callback_stops_by_stop_iteration_with_the_s_of_its_stage(data) -> None:
    x, y = data
    net = net64()

    def stop(info: StepInfo) -> None:
        if info.step == 3:  # the last step of stage 0
            raise StopIteration

    result = fit(net, x, y, **QUICK, callbacks=[stop])
    assert result.stop_reason == "callback"
    assert result.loss.shape == result.s.shape == (4,)
    assert net.s.item() == 0.5


@pytest.mark.parametrize("engine", ["auto", "torch"])
def test_callback_with_every_is_called_after_so_many_steps_and_the_last(data, engine) -> None:
    class Every:
        every = 7

        def __init__(self) -> None:
            self.steps: list[int] = []

        def __call__(self, info: StepInfo) -> None:
            self.steps.append(info.step)
            losses.append(info.loss)

    losses: list[float] = []
    seldom, always = Every(), []
    fit(net64(), *data, s=1.0, steps=24, engine=engine, callbacks=[seldom, lambda info: always.append(info.step)])
    assert seldom.steps == [6, 13, 20, 23]
    assert always == list(range(24))
    alone = Every()
    losses.clear()
    result = fit(net64(), *data, s=(0.5, 1.0), steps=(9, 15), engine=engine, callbacks=[alone])
    assert alone.steps == [6, 13, 20, 23]
    assert losses == result.loss[alone.steps].tolist()


def test_error_in_a_callback_reaches_the_caller(data) -> None:
    with pytest.raises(ZeroDivisionError):
        fit(net64(), *data, **QUICK, callbacks=[lambda info: 1 / 0])


def test_divergence_stops_within_the_stated_steps(data) -> None:
    result = fit(net64(), *data, s=0.5, steps=1000, optimizer="gd", lr=1e6)
    assert result.stop_reason == "diverged"
    first = int((~result.loss.isfinite()).nonzero()[0])
    assert first < result.loss.numel() <= first + CHECK_EVERY
    assert result.s.shape == result.loss.shape


def test_a_last_update_that_breaks_the_weights_is_called_divergence(data) -> None:
    x, y = (value.float() for value in data)
    factors = (1e-6, 1e-6, 3e38)
    result = fit(
        TwoLayerNet(1, 5, seed=0), x, 1e3 * y, s=1.0, steps=3, optimizer="gd", lr=1.0, lr_schedule=factors.__getitem__
    )
    assert result.loss.isfinite().all()
    assert result.stop_reason == "diverged"


def test_ctrl_c_ends_after_a_whole_step(data) -> None:
    before = signal.getsignal(signal.SIGINT)
    short, long = net64(), net64()

    def press(info: StepInfo) -> None:
        if info.step == 6:
            signal.raise_signal(signal.SIGINT)

    result = fit(short, *data, s=1.0, steps=50, callbacks=[press])
    assert result.stop_reason == "interrupted"
    assert result.loss.shape == (7,)
    fit(long, *data, s=1.0, steps=7)
    assert torch.equal(short.weight, long.weight)
    assert signal.getsignal(signal.SIGINT) is before


def test_a_second_ctrl_c_raises_at_once(data) -> None:
    before = signal.getsignal(signal.SIGINT)

    def press_twice(info: StepInfo) -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        fit(net64(), *data, **QUICK, callbacks=[press_twice])
    assert signal.getsignal(signal.SIGINT) is before


def test_a_handler_of_the_users_own_stays_in_charge(data) -> None:
    caught = []
    before = signal.signal(signal.SIGINT, lambda *_: caught.append(True))
    try:
        result = fit(net64(), *data, **QUICK, callbacks=[lambda info: signal.raise_signal(signal.SIGINT)])
    finally:
        signal.signal(signal.SIGINT, before)
    assert result.stop_reason == "finished"
    assert len(caught) == 10


def test_fit_works_in_a_thread(data) -> None:
    results = []
    thread = threading.Thread(target=lambda: results.append(fit(net64(), *data, **QUICK)))
    thread.start()
    thread.join()
    assert results[0].stop_reason == "finished"


def test_json_holds_the_whole_story(data, tmp_path) -> None:
    result = fit(net64(), *data, **QUICK, batch_size=5)
    result.to_json(tmp_path / "run.json")
    content = json.loads((tmp_path / "run.json").read_text())
    assert content["loss"] == result.loss.tolist()
    assert content["s"] == result.s.tolist()
    assert content["final_loss"] == result.loss[-1].item()
    assert (content["stop_reason"], content["steps"], content["seconds"]) == ("finished", 10, result.seconds)
    assert content["versions"]["torch"] == torch.__version__
    assert content["versions"]["hrta_ext"] == hrta_ext.__version__
    settings = content["settings"]
    assert (settings["s"], settings["steps"], settings["optimizer"]) == ([0.5, 1.5], [4, 6], "adam")
    assert (settings["lr"], settings["batch_size"], settings["lr_schedule"]) == (0.01, 5, "constant")
    assert (settings["n_samples"], settings["n_parameters"], settings["network"]) == (12, 27, "TwoLayerNet")


def test_json_of_a_diverged_run_has_null_for_what_is_not_finite(data, tmp_path) -> None:
    fit(net64(), *data, s=0.5, steps=200, optimizer="gd", lr=1e6).to_json(tmp_path / "run.json")
    content = json.loads((tmp_path / "run.json").read_text())
    assert content["stop_reason"] == "diverged"
    assert content["final_loss"] is None


def test_result_prints_as_one_short_line(data) -> None:
    assert len(repr(fit(net64(), *data, **QUICK))) < 100


def test_progress_off_a_terminal_is_a_few_plain_lines(data, capsys) -> None:
    fit(net64(), *data, s=(0.5, 1.0), steps=(400, 600), progress=True)
    captured = capsys.readouterr()
    lines = captured.err.splitlines()
    assert captured.out == ""
    assert len(lines) == 10
    assert lines[0].startswith("step 100/1000  s = 0.5  loss ")
    assert lines[-1].startswith("step 1000/1000  s = 1  loss ")


def test_progress_on_a_terminal_is_a_bar(data, capsys, monkeypatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    fit(net64(), *data, **QUICK, progress=True)
    text = capsys.readouterr().err
    assert "10/10" in text
    assert "s=1.5 loss=" in text


def test_progress_is_silent_by_default_and_on_other_ranks(data, capsys, monkeypatch) -> None:
    fit(net64(), *data, **QUICK)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 1)
    fit(net64(), *data, **QUICK, progress=True)
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""


def test_progress_without_tqdm_names_the_cure(data, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "tqdm", None)
    with pytest.raises(ModuleNotFoundError, match=r"progress=True needs tqdm: pip install 'hrta_ext\[cli\]'"):
        fit(net64(), *data, **QUICK, progress=True)


X, Y = torch.zeros(6, 1, dtype=torch.float64), torch.zeros(6, dtype=torch.float64)
HOLE = torch.tensor([0.0, 0.0, math.nan, 0.0, math.inf, 0.0], dtype=torch.float64)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"net": 3}, TypeError, r"net must be a torch.nn.Module, got int"),
        ({"net": nn.Linear(1, 1)}, ValueError, "Linear has no homotopy layer; put an hx.HomotopyActivation into it"),
        ({"net": HomotopyActivation()}, ValueError, "HomotopyActivation has no parameter that requires grad"),
        ({"x": [1.0]}, TypeError, "x must be a tensor, got list; torch.as_tensor makes one"),
        ({"x": X.long()}, TypeError, r"x must be a floating-point tensor, got torch.int64"),
        ({"y": Y.bool()}, TypeError, r"y must be a floating-point tensor, got torch.bool"),
        ({"x": torch.tensor(1.0)}, ValueError, r"x must have shape \(n, ...\) with n at least 1, got \(\)"),
        ({"x": X[:0], "y": Y[:0]}, ValueError, r"x must have shape \(n, ...\) with n at least 1, got \(0, 1\)"),
        ({"x": X.to("meta")}, ValueError, "x must be on the device of the network, cpu, got meta"),
        ({"x": X.float()}, ValueError, r"x must have the dtype of the network, torch.float64, got torch.float32"),
        ({"y": Y.half()}, ValueError, r"y must have the dtype of the network, torch.float64, got torch.float16"),
        ({"y": Y[:5]}, ValueError, r"y must have shape \(6,\) to match x, got \(5,\)"),
        ({"y": torch.zeros(5, 2).double()}, ValueError, r"y must have shape \(6, 2\) to match x, got \(5, 2\)"),
        ({"x": HOLE[:, None]}, ValueError, r"x must be finite, row 2 \(counted from 0\) holds NaN or Inf"),
        ({"y": HOLE}, ValueError, r"y must be finite, row 2 \(counted from 0\) holds NaN or Inf"),
        ({"y": torch.zeros(6, 2).double()}, ValueError, r"y must have .* of the network, \(6,\), got \(6, 2\)"),
        ({"s": (0.5, 1.0), "steps": 3}, ValueError, "steps must have one entry for each of the 2 s, got 1"),
        ({"s": (), "steps": ()}, ValueError, "s must hold at least one value, got none"),
        ({"s": (0.5, math.inf), "steps": (1, 1)}, ValueError, r"s\[1\] must be finite, got inf"),
        ({"s": "relu"}, TypeError, r"s\[0\] must be a real number, got str"),
        ({"steps": 0}, ValueError, r"steps\[0\] must be at least 1, got 0"),
        ({"steps": 2.0}, TypeError, r"steps\[0\] must be an int, got 2.0"),
        ({"lr": 0.0}, ValueError, "lr must be positive and finite, got 0.0"),
        ({"lr": math.nan}, ValueError, "lr must be positive and finite, got nan"),
        ({"lr": "a"}, TypeError, "lr must be a number, got 'a'"),
        (
            {"optimizer": "adma"},
            ValueError,
            'optimizer must be "adam", "sgd", "gd" or a torch.optim class, got \'adma\'',
        ),
        ({"optimizer": 3}, TypeError, r"optimizer must be a name or a torch.optim class, got int"),
        ({"optimizer": torch.optim.SGD([X])}, TypeError, "optimizer must be the class SGD, not an instance of it"),
        ({"optimizer": lambda p, lr: lr}, TypeError, r"optimizer must build a torch.optim.Optimizer, got float"),
        (
            {"optimizer": "gd", "batch_size": 2},
            ValueError,
            'optimizer "gd" takes all samples at once; use optimizer="sgd"',
        ),
        (
            {"lr_schedule": "cos"},
            ValueError,
            "lr_schedule must be None, \"cosine\" or a function of the step, got 'cos'",
        ),
        (
            {"lr_schedule": torch.optim.lr_scheduler.StepLR},
            TypeError,
            "lr_schedule must be .* step -> factor, got StepLR",
        ),
        ({"lr_schedule": lambda i: "a"}, TypeError, "lr_schedule must give a number at every step, got 'a' at step 0"),
        (
            {"lr_schedule": lambda i: -1.0},
            ValueError,
            "lr_schedule must give a finite factor of at least 0, got -1.0 at",
        ),
        ({"batch_size": 0}, ValueError, "batch_size must be at least 1, got 0"),
        ({"batch_size": 7}, ValueError, "batch_size must be at most the number of samples, 6, got 7"),
        ({"batch_size": 2.5}, TypeError, "batch_size must be an int, got 2.5"),
        ({"engine": "jax"}, ValueError, 'engine must be "auto", "fused" or "torch", got \'jax\''),
        ({"callbacks": print}, TypeError, "callbacks must be a sequence of functions, got builtin_function_or_method"),
        ({"callbacks": [3]}, TypeError, r"callbacks\[0\] must be a function, got int"),
        ({"checkpoint_every": 0}, ValueError, "checkpoint_every must be at least 1, got 0"),
        ({"resume": True}, ValueError, "resume=True needs the path of a checkpoint"),
        ({"checkpoint": 3}, TypeError, "checkpoint must be a path or None, got int"),
    ],
)
def test_fit_refuses(change, error, message: str) -> None:
    net = net64()
    start = net.weight.detach().clone()
    arguments = {"net": net, "x": X, "y": Y, "s": 1.0, "steps": 2} | change
    with pytest.raises(error, match=f"^fit: {message}"):
        fit(**arguments)
    assert torch.equal(net.weight, start)


def test_a_network_that_returns_no_tensor_is_named(data) -> None:
    class Pair(TwoLayerNet):
        def forward(self, x: Tensor) -> Tensor:
            return (super().forward(x),)  # type: ignore[return-value]

    with pytest.raises(TypeError, match=r"^fit: the network must return a tensor, got tuple"):
        fit(Pair(1, 3).double(), *data, **QUICK)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_cuda_training_agrees_with_the_cpu(data) -> None:
    x, y = data
    on_cpu, on_gpu = net64(), net64().cuda()
    expected = fit(on_cpu, x, y, **QUICK, batch_size=5)
    result = fit(on_gpu, x.cuda(), y.cuda(), **QUICK, batch_size=5)
    assert result.loss.device.type == "cpu"
    torch.testing.assert_close(result.loss, expected.loss, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(on_gpu.weight.cpu(), on_cpu.weight, rtol=1e-9, atol=1e-12)
