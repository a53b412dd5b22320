"""fit: what it refuses, with the network left as it was."""

import math

import pytest
import torch
from torch import Tensor, nn
from training.cases import QUICK, net64

from hrta_ext.activation.modules import HomotopyActivation
from hrta_ext.network.module import TwoLayerNet
from hrta_ext.training.ensemble import fit_ensemble
from hrta_ext.training.fit import fit

X, Y = torch.zeros(6, 1, dtype=torch.float64), torch.zeros(6, dtype=torch.float64)
HOLE = torch.tensor([0.0, 0.0, math.nan, 0.0, math.inf, 0.0], dtype=torch.float64)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"net": 3}, TypeError, r"net must be a torch.nn.Module, got int"),
        ({"net": nn.Linear(1, 1)}, ValueError, "Linear has no homotopy layer; put an hx.HomotopyActivation into it"),
        ({"net": HomotopyActivation()}, ValueError, "HomotopyActivation has no parameter that requires grad"),
        (
            {"net": net64().to("meta"), "x": X.to("meta"), "y": Y.to("meta")},
            ValueError,
            "net must hold numbers, TwoLayerNet has parameters on the device meta",
        ),
        ({"x": X.to_sparse()}, TypeError, r"x must be a dense \(strided\) tensor, got layout torch.sparse_coo"),
        ({"x": [1.0]}, TypeError, "x must be a tensor, got list; torch.as_tensor makes one"),
        ({"x": X.long()}, TypeError, r"x must be a floating-point tensor, got torch.int64"),
        ({"y": Y.bool()}, TypeError, r"y must be a floating-point tensor, got torch.bool"),
        ({"x": torch.tensor(1.0)}, ValueError, r"x must have shape \(n, ...\) with n at least 1, got \(\)"),
        ({"x": X[:0], "y": Y[:0]}, ValueError, r"x must have shape \(n, ...\) with n at least 1, got \(0, 1\)"),
        ({"x": X.to("meta")}, ValueError, "x must be on the device of the network, cpu, got meta"),
        ({"x": X.float()}, TypeError, r"x must have the dtype of the network, torch.float64, got torch.float32"),
        ({"y": Y.half()}, TypeError, r"y must have the dtype of the network, torch.float64, got torch.float16"),
        ({"y": Y[:5]}, ValueError, r"y must have shape \(6,\) to match x, got \(5,\)"),
        ({"y": torch.zeros(5, 2).double()}, ValueError, r"y must have shape \(6, 2\) to match x, got \(5, 2\)"),
        ({"x": HOLE[:, None]}, ValueError, r"x must be finite, row 2 \(counted from 0\) holds NaN or Inf"),
        ({"y": HOLE}, ValueError, r"y must be finite, row 2 \(counted from 0\) holds NaN or Inf"),
        ({"y": torch.zeros(6, 2).double()}, ValueError, r"y must have .* of the network, \(6,\), got \(6, 2\)"),
        ({"sample_weight": [1.0]}, TypeError, "sample_weight must be a tensor, got list; torch.as_tensor makes one"),
        ({"sample_weight": X[:5, 0]}, ValueError, r"sample_weight must have shape \(6,\), got \(5,\)"),
        ({"sample_weight": X}, ValueError, r"sample_weight must have shape \(6,\), got \(6, 1\)"),
        (
            {"sample_weight": Y.float()},
            TypeError,
            "sample_weight must have x's dtype, torch.float64, got torch.float32",
        ),
        ({"sample_weight": Y.to("meta")}, ValueError, "sample_weight must be on x's device, cpu, got meta"),
        (
            {"sample_weight": HOLE},
            ValueError,
            r"sample_weight must be finite, row 2 \(counted from 0\) holds NaN or Inf",
        ),
        ({"sample_weight": Y}, ValueError, "sample_weight must not be zero everywhere, nothing would be trained"),
        (
            {"sample_weight": torch.arange(2.0, -4.0, -1.0).double()},
            ValueError,
            r"sample_weight must not be negative, entry 3 \(counted from 0\) is -1",
        ),
        ({"target_gradient": 2.0}, TypeError, "target_gradient must be a tensor, got float; torch.as_tensor makes one"),
        ({"target_gradient": Y}, ValueError, r"target_gradient must have shape \(6, 1\), got \(6,\)"),
        ({"target_gradient": X.float()}, TypeError, "target_gradient must have x's dtype, torch.float64, got .*32"),
        ({"target_gradient": X.to("meta")}, ValueError, "target_gradient must be on x's device, cpu, got meta"),
        ({"target_gradient": HOLE[:, None]}, ValueError, r"target_gradient must be finite, row 2 \(counted from 0\)"),
        (
            {"target_gradient": X, "x": X[:, :, None]},
            ValueError,
            r"target_gradient needs x of shape \(n, d\), got \(6, 1, 1\)",
        ),
        (
            {"target_gradient": X, "y": torch.zeros(6, 2).double()},
            ValueError,
            r"target_gradient needs scalar outputs, y of shape \(6,\) or \(6, 1\), got \(6, 2\)",
        ),
        ({"s": (0.5, 1.0), "steps": 3}, ValueError, "steps must have one entry for each of the 2 s, got 1; steps=3"),
        ({"s": 1.0, "steps": (3, 4)}, ValueError, "steps must have .* 1 s, got 2; one s goes with one number, such as"),
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


def test_a_wrong_dtype_is_caught_as_in_the_first_version_too() -> None:
    with pytest.raises(ValueError, match="x must have the dtype of the network"):
        fit(net64(), X.float(), Y, s=1.0, steps=2)


@pytest.mark.parametrize("engine", ["auto", "torch"])
def test_a_buffer_that_requires_grad_is_no_parameter_and_says_what_is(engine: str) -> None:
    """Training would leave it as it was, without a word; what the message writes trains it."""
    x, y = torch.rand(6, 1), torch.rand(6)
    net = TwoLayerNet(1, 5, seed=0)
    net.set_s(0.5, keep_function=True)
    net.skip.requires_grad_()
    with pytest.raises(
        ValueError, match=r"fit: net\.skip is a buffer that requires grad.*net\.skip = torch\.nn\.Param"
    ):
        fit(net, x, y, s=1.0, steps=2, engine=engine)
    net.skip = nn.Parameter(net.skip)
    before = net.skip.detach().clone()
    fit(net, x, y, s=1.0, steps=2, engine=engine)
    assert not torch.equal(net.skip, before)
    deep = nn.Sequential(nn.Linear(1, 4), HomotopyActivation(), nn.Linear(4, 1))
    deep[1].s.requires_grad_()
    with pytest.raises(ValueError, match=r"net\[1\]\.s = torch\.nn\.Parameter\(net\[1\]\.s\) makes it one"):
        fit(deep, x, y[:, None], s=1.0, steps=2, engine=engine)
    in_optimizer = lambda parameters, lr: torch.optim.SGD([*parameters, deep[1].s], lr=lr)  # noqa: E731
    fit(deep, x, y[:, None], s=1.0, steps=2, engine=engine, optimizer=in_optimizer)
    assert float(deep[1].s.detach()) != 1.0


def test_inference_mode_is_named_before_autograd_stumbles_over_it() -> None:
    net = net64()
    with torch.inference_mode():
        made_here = net64()
        data = X.clone()
        with pytest.raises(ValueError, match=r"fit called, outside of torch\.inference_mode"):
            fit(net, X, Y, s=1.0, steps=2, engine="torch")
    for arguments in ((made_here, X, Y), (net, data, Y)):
        with pytest.raises(
            ValueError, match=r"^fit: autograd needs net and data made, .* outside of torch\.inference_mode"
        ):
            fit(*arguments, s=1.0, steps=2)


def test_a_network_that_returns_no_tensor_is_named(data) -> None:
    class Pair(TwoLayerNet):
        def forward(self, x: Tensor) -> Tensor:
            return (super().forward(x),)  # type: ignore[return-value]

    with pytest.raises(TypeError, match=r"^fit: the network must return a tensor, got tuple"):
        fit(Pair(1, 3).double(), *data, **QUICK)


class Refusing(torch.optim.SGD):
    """Raises before its first update."""

    def step(self, closure=None):
        closure()
        raise RuntimeError("refused")


@pytest.mark.parametrize("learnable", [False, True])
@pytest.mark.parametrize("call", [fit, lambda net, x, y, **given: fit_ensemble([net], x, y, **given)])
def test_an_optimizer_that_raises_in_its_first_step_leaves_the_network_as_it_was(call, learnable):
    """The schedule has set s by then, and autograd the gradients."""
    layer = HomotopyActivation(0.7, "tanh", learnable=learnable)
    net = nn.Sequential(nn.Linear(1, 4), nn.BatchNorm1d(4), layer, nn.Linear(4, 1)).double()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with pytest.raises(RuntimeError, match="refused"):
        call(net, X, Y, s=0.2, steps=3, optimizer=Refusing)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters())


def test_an_optimizer_that_raises_later_keeps_what_was_trained():
    """Only a run without any step leaves no trace."""

    class Tired(torch.optim.SGD):
        steps = 0

        def step(self, closure=None):
            Tired.steps += 1
            if Tired.steps > 2:
                raise RuntimeError("tired")
            return super().step(closure)

    net = net64()
    start = net.weight.detach().clone()
    with pytest.raises(RuntimeError, match="tired"):
        fit(net, X + 1.0, Y + 1.0, s=0.2, steps=3, optimizer=Tired)
    assert float(net.s) == pytest.approx(0.2)
    assert not torch.equal(net.weight, start)
