"""KernelRegression with the kernel of a network of finite width: a TwoLayerNet, or a path of drawn neurons."""

from __future__ import annotations

import pickle
import warnings

import numpy as np
import pytest
import torch
from ntk.cases import dense
from torch import Tensor

import hrta_ext as hx


def data(n: int = 12) -> tuple[Tensor, Tensor]:
    x = torch.linspace(-1, 1, n, dtype=torch.float64)[:, None]
    return x, torch.sin(3 * x[:, 0])


NEW = torch.linspace(-1.2, 1.2, 7, dtype=torch.float64)[:, None]


def block(x: Tensor, x2: Tensor, weight: Tensor, output_weight: Tensor, s: float, base: str, kernel: str) -> Tensor:
    """K(x, x2) out of the dense matrix of all samples."""
    gram = dense(hx.with_bias(torch.cat([x, x2])), weight, output_weight, s, base)
    return (gram.ntk if kernel == "ntk" else gram.a)[: len(x), len(x) :]


@pytest.mark.parametrize("kernel", ["ntk", "nngp"])
@pytest.mark.parametrize("base", ["relu", "tanh"])
def test_a_network_s_kernel_solves_the_ridge_equations(base: str, kernel: str, device: torch.device) -> None:
    """f = k (K + ridge n I)^-1 y by a plain solve of the dense formula, at the network's s and at one's own."""
    x, y = data()
    net = hx.TwoLayerNet(1, 400, s=1.5, base=base, seed=0).to(device)
    weights = net.weight.detach().double().cpu(), net.output_weight.detach().double().cpu()
    for s in (None, 0.5):
        model = hx.KernelRegression(s=s, kernel=kernel, ridge=1e-3, network=net).fit(x, y)
        value = 1.5 if s is None else s
        k = block(x, x, *weights, value, base, kernel) + 1e-3 * len(x) * torch.eye(len(x), dtype=torch.float64)
        expected = block(NEW, x, *weights, value, base, kernel) @ torch.linalg.solve(k, y)
        torch.testing.assert_close(model.predict(NEW), expected, rtol=1e-9, atol=1e-9)


def test_weights_are_those_of_fit() -> None:
    """Training goes on, or weights are overwritten: a fitted model stays what it was, in a pickle too."""
    x, y = data()
    net = hx.TwoLayerNet(1, 300, seed=0)
    model = hx.KernelRegression(network=net, ridge=1e-4).fit(x, y)
    before = model.predict(NEW)
    with torch.no_grad():
        net.weight.mul_(2.0)
    hx.set_homotopy(net, 0.5)
    assert torch.equal(model.predict(NEW), before)
    assert torch.equal(pickle.loads(pickle.dumps(model)).predict(NEW), before)
    assert not torch.equal(model.fit(x, y).predict(NEW), before)


def test_gradient_flow_is_that_of_the_linearised_network() -> None:
    """Euler steps of gradient descent on the weights of the linear model f(w) = J (w - w_0), by autograd's Jacobian."""
    x, y = data(6)
    net = hx.TwoLayerNet(1, 200, s=1.3, base="tanh", seed=1).double()

    def jacobian(samples: Tensor) -> Tensor:
        rows = [torch.autograd.grad(f, list(net.parameters()), retain_graph=True) for f in net(samples)]
        return torch.stack([torch.cat([part.reshape(-1) for part in row]) for row in rows])

    j, step, steps = jacobian(x), 1e-3, 5000
    change = torch.zeros(j.shape[1], dtype=torch.float64)
    for _ in range(steps):
        change -= step / len(x) * j.mT @ (j @ change - y)
    found = hx.KernelRegression(network=net, time=step * steps).fit(x, y).predict(NEW)
    torch.testing.assert_close(found, jacobian(NEW) @ change, rtol=0, atol=2e-3)  # of the steps' length
    assert float(found.abs().max()) > 0.3


@pytest.mark.parametrize("base", ["relu", "erf"])
def test_a_path_s_neurons_are_drawn_again(base: str, device: torch.device) -> None:
    """As the network that has the drawn weights; sums of paths and loaded ones too."""
    x, y = data()
    samples = hx.with_bias(x).to(device)
    parts = [
        hx.random_gram_path(samples, width, seed=4, first_neuron=first, base=base)
        for first, width in ((10, 700), (710, 15))
    ]
    net = hx.TwoLayerNet(1, 715, base=base).double().to(device)
    with torch.no_grad():
        weight, output_weight = hx.random_weights(10, 715, 2, seed=4, device=device, dtype=torch.float64)
        net.weight.copy_(weight)
        net.output_weight.copy_(output_weight)
    options = {"s": 1.5, "ridge": 1e-4}
    expected = hx.KernelRegression(network=net, **options).fit(x, y).predict(NEW)
    found = hx.KernelRegression(network=parts[0] + parts[1], **options).fit(x, y).predict(NEW)
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-8)


def test_a_path_comes_back_from_its_file(tmp_path: object) -> None:
    x, y = data()
    path = hx.random_gram_path(hx.with_bias(x), 500, seed=2)
    path.save(f"{tmp_path}/path.npz")
    loaded = hx.GramPath.load(f"{tmp_path}/path.npz")
    found, expected = (hx.KernelRegression(network=p, ridge=1e-4).fit(x, y).predict(NEW) for p in (loaded, path))
    assert torch.equal(found, expected)


def test_a_float32_path_leaves_out_what_it_cannot_know() -> None:
    """Its error of 1e-6 |K| is far above float64's rounding: interpolation must not amplify it."""
    x, y = data(60)
    model = hx.KernelRegression(
        network=hx.random_gram_path(hx.with_bias(x).float().double(), 5000, dtype=torch.float32)
    )
    found = model.fit(x.float(), y).predict(NEW[1:-1])
    assert float((found - torch.sin(3 * NEW[1:-1, 0])).abs().max()) < 0.05


def test_inside_scikit_learn() -> None:
    base = pytest.importorskip("sklearn.base")
    selection = pytest.importorskip("sklearn.model_selection")
    checks = pytest.importorskip("sklearn.utils.estimator_checks")
    x, y = (z.numpy() for z in data(30))
    model = hx.KernelRegression(network=hx.TwoLayerNet(1, 500, seed=0), ridge=1e-6)
    np.testing.assert_array_equal(base.clone(model).fit(x, y).predict(x), model.fit(x, y).predict(x))
    folds = selection.KFold(3, shuffle=True, random_state=0)
    search = selection.GridSearchCV(model, {"s": [0.5, 1.0], "ridge": [1e-6, 1.0]}, cv=folds).fit(x, y)
    assert search.best_params_["ridge"] == 1e-6
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        checks.check_no_attributes_set_in_init("KernelRegression", model)
        checks.check_get_params_invariance("KernelRegression", hx.KernelRegression(network=model.network))


PATH = hx.random_gram_path(hx.with_bias(data()[0]), 20)
NET = hx.TwoLayerNet(1, 20, base="erf", seed=0)
HIDDEN = torch.nn.Linear(2, 3)
BAD = {
    "no network": ({"network": "net"}, TypeError, "network must be a TwoLayerNet, a path of random_gram_path or None"),
    "layer": ({"network": HIDDEN}, TypeError, "network must be a TwoLayerNet"),
    "batch": (
        {"network": PATH.batch(0)},
        ValueError,
        "path of given weights or of one batch of neurons",
    ),
    "cross": ({"network": hx.random_gram_path(PATH.x, 20, x2=PATH.x)}, ValueError, r"path of cross-kernels \(x2\)"),
    "bias": (
        {"network": NET, "bias": False},
        ValueError,
        "network takes samples of 2 features, x has 1 with bias=False",
    ),
    "depth": ({"network": NET, "depth": 2}, ValueError, "base and depth must be those of the network, 'erf' and 1"),
    "base": (
        {"network": NET, "base": "tanh"},
        ValueError,
        "must be those of the network, 'erf' and 1, got 'tanh' and 1",
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_networks_that_are_refused(kind: str) -> None:
    options, error, message = BAD[kind]
    with pytest.raises(error, match=f"^KernelRegression: .*{message}"):  # type: ignore[call-overload]
        hx.KernelRegression(**options).fit(*data())  # type: ignore[arg-type]


def test_other_samples_than_the_path_s() -> None:
    x, y = data()
    model = hx.KernelRegression(network=PATH)
    for samples, came in ((x + 1e-9, "got others"), (x[:5], r"got samples of shape \(5, 2\)")):
        with pytest.raises(ValueError, match=rf"KernelRegression: x must be the samples of the path.*{came}"):
            model.fit(samples, y[: len(samples)])


def test_weights_that_are_not_finite() -> None:
    net = hx.TwoLayerNet(1, 20, seed=0)
    with torch.no_grad():
        net.weight[3, 0] = float("nan")
    with pytest.raises(ValueError, match="KernelRegression: the kernel of the network is not finite at s = 1"):
        hx.KernelRegression(network=net).fit(*data())


def test_pickles_of_before_predict() -> None:
    """Those of 0.1.0 had neither network nor kernel_."""
    x, y = data()
    model = hx.KernelRegression(s=1.5).fit(x, y)
    old = object.__new__(hx.KernelRegression)
    old.__dict__ |= {name: value for name, value in model.__dict__.items() if name not in ("network", "kernel_")}
    assert torch.equal(old.predict(NEW), model.predict(NEW))
