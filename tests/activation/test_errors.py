"""Bad input: one clear error each, before any work, naming the argument, what is expected and what came."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import hrta_ext as hx

X = torch.randn(4, 3)

CALLS = [
    (
        (torch.zeros(3, dtype=torch.int64),),
        {},
        TypeError,
        "x must be float16, bfloat16, float32 or float64, got torch.int64",
    ),
    ((torch.zeros(3, dtype=torch.complex64),), {}, TypeError, "got torch.complex64"),
    (([1.0, 2.0],), {}, TypeError, "x must be a tensor, got list"),
    ((X.to_sparse(),), {}, TypeError, "x must be a dense .strided. tensor, got layout torch.sparse_coo"),
    ((X, "1"), {}, TypeError, "s must be a float or a tensor, got str"),
    ((X, None), {}, TypeError, "s must be a float or a tensor, got NoneType"),
    ((X, True), {}, TypeError, "s must be a float or a tensor, got bool"),
    ((X, math.nan), {}, ValueError, "s must be finite, got nan"),
    ((X, math.inf), {}, ValueError, "s must be finite, got inf"),
    (
        (X, torch.ones(4)),
        {},
        ValueError,
        r"s must have shape \(\), \(1,\) or \(3,\) for x of shape \(4, 3\), got \(4,\)",
    ),
    ((X, torch.ones(1, 3)), {}, ValueError, r"got \(1, 3\)"),
    (
        (torch.zeros(()), torch.ones(2)),
        {},
        ValueError,
        r"s must have shape \(\) or \(1,\) for x of shape \(\), got \(2,\)",
    ),
    ((X, torch.ones((), dtype=torch.int64)), {}, TypeError, "got a tensor of torch.int64"),
    ((X, 0.5, "swish"), {}, ValueError, "base must be one of relu, relu2, .*, got 'swish'"),
    ((X, 0.5, ["relu"]), {}, TypeError, r"base must be the name of a base activation \(str\), got list"),
    ((X, 0.5, 3), {}, TypeError, r"base must be the name of a base activation \(str\), got int"),
]


@pytest.mark.parametrize(("arguments", "keywords", "error", "message"), CALLS)
@pytest.mark.parametrize("function", [hx.homotopy, hx.homotopy_, hx.homotopy_value_and_slope])
def test_each_bad_argument_has_its_message(function, arguments, keywords, error, message) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(error, match=message) as caught:
        function(*arguments, **keywords)
    if "base" not in message:
        assert str(caught.value).startswith(function.__name__ + ": ")


@pytest.mark.parametrize("order", [3, -1, 0.5, "1"])
def test_order(order: object) -> None:
    with pytest.raises(ValueError, match="order must be 0, 1 or 2, got"):
        hx.homotopy(X, 0.5, order=order)  # type: ignore[arg-type]


def test_numpy_numbers_are_numbers() -> None:
    for s in (np.float64(0.5), np.float32(0.5), np.int64(1)):
        assert torch.equal(hx.homotopy(X, s), hx.homotopy(X, float(s)))
        assert hx.HomotopyActivation(s).s.item() == float(s)


def test_in_place_on_a_leaf_that_requires_grad_leaves_it_as_it_was() -> None:
    x = torch.randn(5, requires_grad=True)
    before = x.detach().clone()
    with pytest.raises(ValueError, match="homotopy_: x is a leaf tensor that requires grad"):
        hx.homotopy_(x, 0.5)
    assert torch.equal(x.detach(), before)


def test_s_on_another_device() -> None:
    if not hx.backends()["cuda"]:
        with pytest.raises(ValueError, match="s must be on x's device cpu, got meta"):
            hx.homotopy(X, torch.ones(3, device="meta"))
        return
    with pytest.raises(ValueError, match="s must be on x's device cpu, got cuda"):
        hx.homotopy(X, torch.ones(3, device="cuda"))
    with pytest.raises(ValueError, match="s must be on x's device cuda"):
        hx.homotopy(X.cuda(), torch.ones(3))


def test_register_base() -> None:
    with pytest.raises(ValueError, match="'relu' is a built-in base"):
        hx.register_base("relu", torch.cos, torch.cos, torch.cos)
    with pytest.raises(TypeError, match="slope must be callable, got float"):
        hx.register_base("test_bad", torch.cos, 1.0, torch.cos)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="curvature must return a tensor of its argument's shape"):
        hx.register_base("test_bad", torch.cos, torch.sin, torch.sum)
    with pytest.raises(TypeError, match="name must be a non-empty str"):
        hx.register_base("", torch.cos, torch.cos, torch.cos)
    with pytest.raises(ValueError, match="base must be one of"):
        hx.homotopy(X, 0.5, "test_bad")


def test_layers() -> None:
    with pytest.raises(ValueError, match="s must be finite"):
        hx.HomotopyActivation(math.inf)
    with pytest.raises(ValueError, match="num_features must be at least 1, got 0"):
        hx.HomotopyActivation(num_features=0)
    with pytest.raises(TypeError, match="num_features must be an int or None, got float"):
        hx.HomotopyActivation(num_features=1.5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="base must be one of"):
        hx.HomotopyActivation(base="swish")
    with pytest.raises(ValueError, match=r"Linear has no homotopy layer; put an hx.HomotopyActivation into it"):
        hx.set_homotopy(torch.nn.Linear(2, 2), 0.5)
    with pytest.raises(TypeError, match=r"module must be a torch.nn.Module, got str"):
        hx.set_homotopy("net", 0.5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="s must be finite, got nan"):
        hx.set_homotopy(hx.HomotopyActivation(), math.nan)


def test_two_layer_net() -> None:
    with pytest.raises(ValueError, match="width must be at least 1, got 0"):
        hx.TwoLayerNet(1, 0)
    with pytest.raises(TypeError, match=r"^TwoLayerNet: in_features must be an int, got 1\.0"):
        hx.TwoLayerNet(1.0, 5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"^TwoLayerNet: seed must be an int or None, got 1\.5"):
        hx.TwoLayerNet(1, 5, seed=1.5)  # type: ignore[arg-type]
    net = hx.TwoLayerNet(2, 5, seed=0)
    with pytest.raises(ValueError, match=r"x must have shape \(n, 2\), got \(4, 3\)"):
        net(X)
    with pytest.raises(TypeError, match=r"^TwoLayerNet: x must be a tensor, got list"):
        net([1.0])
    with pytest.raises(ValueError, match=r"needs base \"relu\", this network has 'tanh'"):
        hx.TwoLayerNet(2, 5, base="tanh").to_relu()
    with pytest.raises(TypeError, match="x must be a tensor, got list"):
        hx.with_bias([1.0])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"x must have shape \(..., d\), got a 0-dim tensor"):
        hx.with_bias(torch.zeros(()))


def test_function_apply_checks_what_it_is_given() -> None:
    """What stands behind hx.homotopy is public too: a wrong order once was a wrong quantity of the kernel."""
    apply = hx.HomotopyFunction.apply
    for order in (2, 3, -1, 0.5, "1", None):
        with pytest.raises(ValueError, match=r"^HomotopyFunction: order must be 0 or 1, got"):
            apply(X, 0.5, "relu", order)
    for arguments, _, error, message in CALLS[:-3]:
        with pytest.raises(error, match=f"^HomotopyFunction: .*{message}"):
            apply(*arguments)
    for base, error in (("swish", ValueError), (3, TypeError), (None, TypeError)):
        with pytest.raises(error, match=r"^base must be"):
            apply(X, 0.5, base)
    for count in (0, 5):
        with pytest.raises(TypeError, match="positional argument"):
            apply(*(X, 0.5, "relu", 0, 0)[:count])
    with pytest.raises(TypeError, match="keyword"):
        apply(X, s=0.5)
