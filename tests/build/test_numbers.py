"""Numbers of any size and kind, wherever a number is taken: served as a float, or refused by name before any work.

Python's own conversions end in OverflowError, torch's in RuntimeError, and which of the two depends on the backend.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import hrta_ext as hx

HUGE = [pytest.param(10**400, id="400 digits"), pytest.param(10**5000, id="5000 digits")]  # Python prints up to 4300
X, WEIGHT, OUTPUT_WEIGHT = torch.randn(4, 3), torch.randn(5, 3), torch.randn(5)
Y = X[:, 0].clone()


def both_gradients(function: Callable[[Tensor], Any]) -> None:
    """Backward, and backward of backward: s travels with what is recorded."""
    x = X.clone().requires_grad_()
    y = function(x)
    (g,) = torch.autograd.grad((y if isinstance(y, Tensor) else y[0].sum() + y[1].sum()).sum(), x, create_graph=True)
    g.square().sum().backward()


def network(x: Tensor, s: Any) -> Tensor:
    return hx.two_layer(x, WEIGHT, OUTPUT_WEIGHT, s, base="tanh")


def trained(**arguments: Any) -> None:
    hx.fit(hx.TwoLayerNet(3, 4), X, Y, **{"s": 1.0, "steps": 1} | arguments)


OF_S: dict[str, Callable[[Any], Any]] = {
    "homotopy: s": lambda s: hx.homotopy(X, s),
    "homotopy: s ": lambda s: hx.homotopy(X, s, "gelu", order=2),
    "homotopy_value_and_slope: s": lambda s: hx.homotopy_value_and_slope(X, s, "tanh"),
    "homotopy_: s": lambda s: hx.homotopy_(X.clone(), s),
    "homotopy: s  ": lambda s: both_gradients(lambda x: hx.homotopy(x, s, "silu")),
    "homotopy: s   ": lambda s: torch.func.vmap(lambda x: hx.homotopy(x, s, "erf"))(X),
    "homotopy: s    ": lambda s: hx.homotopy(X.to("meta"), s, "tanh"),
    "HomotopyFunction: s": lambda s: hx.HomotopyFunction.apply(X, s),
    "two_layer: s": lambda s: network(X, s),
    "two_layer: s ": lambda s: both_gradients(lambda x: network(x, s)),
    "two_layer_with_gradient: s": lambda s: both_gradients(
        lambda x: hx.two_layer_with_gradient(x, WEIGHT, OUTPUT_WEIGHT, s, base="sin")
    ),
    "gram: s": lambda s: hx.gram(X, WEIGHT, OUTPUT_WEIGHT, s),
    "gram: s ": lambda s: hx.gram(X, WEIGHT, OUTPUT_WEIGHT, [0.5, s]),
    "GramPath: s": lambda s: hx.gram_path(X, WEIGHT, OUTPUT_WEIGHT)(s),
    "GramPath.lambda_min: s": lambda s: hx.gram_path(X, WEIGHT, OUTPUT_WEIGHT).lambda_min(s),
    "infinite_gram: s": lambda s: hx.infinite_gram(X, s),
    "TwoLayerNet: s": lambda s: hx.TwoLayerNet(3, 4, s=s)(X),
    "HomotopyActivation: s": lambda s: hx.HomotopyActivation(s, learnable=True)(X),
    "set_homotopy: s": lambda s: hx.set_homotopy(hx.HomotopyActivation(learnable=True), s),
    r"HomotopyScheduler: values\[1\]": lambda s: hx.HomotopyScheduler(
        hx.HomotopyActivation(learnable=True), [0.5, s], [2]
    ),
    r"PlateauHomotopyScheduler: values\[0\]": lambda s: hx.PlateauHomotopyScheduler(
        hx.HomotopyActivation(learnable=True), [s], patience=1
    ),
    r"fit: s\[0\]": lambda s: trained(s=s),
    r"fit: s\[1\]": lambda s: trained(s=(0.5, s), steps=(1, 1), engine="torch"),
}


@pytest.mark.parametrize("s", [Fraction(1, 2), np.float32(0.5), np.float16(0.5), np.int64(1), 1, 10**30])
@pytest.mark.parametrize("name", OF_S)
def test_real_numbers_are_numbers(name: str, s: Any, device: torch.device) -> None:
    if device.type == "cpu":
        OF_S[name](s)


@pytest.mark.parametrize("s", [1e200, -3.5e38, *HUGE, -(10**400), Fraction(10**5000, 3), np.longdouble("1e400")])
@pytest.mark.parametrize("name", OF_S)
def test_an_s_beyond_the_dtype_is_refused_by_name_on_every_backend(name: str, s: Any, device: torch.device) -> None:
    if device.type == "cpu":
        with pytest.raises(ValueError, match=rf"^{name.strip()} must be finite( in torch.float32)?, got "):
            OF_S[name](s)


@pytest.mark.parametrize("s", [Decimal("0.5"), np.array(0.5), 0.5j, True, "0.5", None])
@pytest.mark.parametrize("name", [name for name in OF_S if name != "gram: s "])  # in a list torch.tensor takes more
def test_what_is_no_real_number_is_refused_by_name(name: str, s: Any) -> None:
    with pytest.raises(TypeError, match=rf"^{name.strip()} must be "):
        OF_S[name](s)


def test_half_precision_holds_less() -> None:
    assert hx.homotopy(X.half(), 65504).dtype == torch.float16
    with pytest.raises(ValueError, match=r"^homotopy: s must be finite in torch.float16, got 65505"):
        hx.homotopy(X.half(), 65505)
    assert hx.homotopy(X.double(), 1e200).isfinite().all()


def test_a_layer_keeps_an_s_in_float64_that_its_input_may_not_hold(device: torch.device) -> None:
    layer = hx.HomotopyActivation(1e200)
    assert layer(X.to(device).double()).isfinite().all()
    for base in ("relu", "tanh"):
        layer.base = base
        if device.type == "cpu":
            with pytest.raises(ValueError, match=r"^homotopy: s must be finite in torch.float32, got 1e\+200"):
                layer(X)


def test_set_homotopy_changes_all_layers_or_none() -> None:
    net = torch.nn.Sequential(hx.HomotopyActivation(0.5), hx.HomotopyActivation(0.5, learnable=True))
    with pytest.raises(ValueError, match=r"^set_homotopy: s must be finite in torch.float32, got 1e\+200"):
        hx.set_homotopy(net, 1e200)
    assert [layer.s.item() for layer in net] == [0.5, 0.5]


OTHERS: list[tuple[str, Callable[[Any], Any]]] = [
    ("gram: memory_budget", lambda n: hx.gram(X, WEIGHT, OUTPUT_WEIGHT, memory_budget=n)),
    ("random_gram_path: memory_budget", lambda n: hx.random_gram_path(X, 10, memory_budget=n)),
    ("random_gram_path: seed", lambda n: hx.random_gram_path(X, 10, seed=2 * n)),
    ("random_gram_path: batches", lambda n: hx.random_gram_path(X, 10, batches=n)),
    ("random_gram_path: neurons", lambda n: hx.random_gram_path(X, n)),
    ("random_weights: neurons", lambda n: hx.random_weights(n, 1, 1)),
    ("random_weights: n_features", lambda n: hx.random_weights(0, 1, n)),
    ("TwoLayerNet: seed", lambda n: hx.TwoLayerNet(1, 2, seed=2 * n)),
    ("TwoLayerNet: width", lambda n: hx.TwoLayerNet(1, n)),
    ("TwoLayerNet: in_features", lambda n: hx.TwoLayerNet(n, 1)),
    ("num_features", lambda n: hx.HomotopyActivation(num_features=n)),
    (r"fit: steps\[0\]", lambda n: trained(steps=n)),
    ("fit: batch_size", lambda n: trained(batch_size=n)),
    ("infinite_gram: depth", lambda n: hx.infinite_gram(X, depth=n)),
    ("HomotopyScheduler: milestones", lambda n: hx.HomotopyScheduler(hx.HomotopyActivation(), [0, 1], [n])),
]


@pytest.mark.parametrize("number", [2**63, 2**64, *HUGE])
@pytest.mark.parametrize(("name", "call"), OTHERS)
def test_counts_seeds_and_budgets_beyond_64_bits(name: str, call: Callable[[Any], Any], number: int) -> None:
    with pytest.raises(ValueError, match=rf"^{name}.* got .*\d"):
        call(number)


@pytest.mark.parametrize("value", HUGE)
@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("fit: lr must be positive and finite", lambda v: trained(lr=v)),
        ("fit: lr_schedule must give a finite factor", lambda v: trained(lr_schedule=lambda _: v)),
        ("KernelRegression: s must be finite", lambda v: hx.KernelRegression(s=v).fit(X, Y)),
        ("KernelRegression: ridge must be finite", lambda v: hx.KernelRegression(ridge=v).fit(X, Y)),
        (
            "PlateauHomotopyScheduler: threshold must be at least 0",
            lambda v: hx.PlateauHomotopyScheduler(hx.HomotopyActivation(), [1], patience=1, threshold=v),
        ),
    ],
)
def test_other_numbers_beyond_float64(name: str, call: Callable[[Any], Any], value: int) -> None:
    with pytest.raises(ValueError, match=f"^{name}"):
        call(value)


def test_kernels_that_overflow_have_no_eigenvalues() -> None:
    """The square of s overflows float64: torch's own word for it is a RuntimeError about convergence."""
    path = hx.gram_path(X.double(), WEIGHT.double(), OUTPUT_WEIGHT.double())
    with pytest.raises(ValueError, match=r"^GramPath: ntk is not finite at these s, so it has no eigenvalues"):
        path.lambda_min(1e200)
    with pytest.raises(ValueError, match=r"^KernelRegression: the kernel overflows float64"):
        hx.KernelRegression(s=1e200).fit(X, Y)
