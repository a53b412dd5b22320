"""Derivatives of hx.two_layer of every kind: gradcheck, second order, torch.func, compilers, the dispatcher ops."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import Any

import pytest
import torch
from cases import BASES
from network.cases import dense, dense_gradient, problem
from torch import Tensor
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, stack_module_state, vmap
from torch.utils._pytree import tree_leaves

import hrta_ext as hx
from hrta_ext.network import reference as reference_two_layer

needs_compiler = pytest.mark.skipif(shutil.which("c++") is None, reason="Inductor compiles C++")
compilers = pytest.mark.parametrize("compiler", ["aot_eager", pytest.param("inductor", marks=needs_compiler)])


def leaves(n: int, m: int, features: int, networks: tuple[int, ...] = (), s: float = 1.3) -> list[Tensor]:
    """(x, weight, output_weight, s) in float64, none of whose pre-activations lies near a kink."""
    x, weight, output_weight = problem(n, m, features, networks=networks, seed=4)
    x[0] = 1.0
    assert (x @ weight.mT).abs().min() > 1e-4
    return [t.requires_grad_() for t in (x, weight, output_weight, torch.tensor(s, dtype=torch.float64))]


def op(base: str) -> Callable[..., Tensor]:
    return lambda *inputs: hx.two_layer(*inputs, base=base)


def pair(base: str) -> Callable[..., tuple[Tensor, Tensor]]:
    return lambda *inputs: hx.two_layer_with_gradient(*inputs, base=base)


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("function", [op, pair])
@pytest.mark.parametrize("networks", [(), (2,)])
def test_first_and_second_derivatives(
    device: torch.device, monkeypatch: pytest.MonkeyPatch, base: str, function: Any, networks: tuple[int, ...]
) -> None:
    """In every input, in reverse, batched reverse and forward mode; with the width cut into several chunks."""
    monkeypatch.setattr(reference_two_layer, "CHUNK_ELEMENTS", 16)
    inputs = [t.detach().to(device).requires_grad_() for t in leaves(4, 5, 2, networks)]
    assert torch.autograd.gradcheck(
        function(base), inputs, check_batched_grad=not networks, check_forward_ad=not networks
    )
    assert torch.autograd.gradgradcheck(function(base), inputs)


@pytest.mark.parametrize("base", ["tanh", "relu2"])
def test_third_derivative_and_forward_over_reverse(device: torch.device, base: str) -> None:
    inputs = [t.detach().to(device).requires_grad_() for t in leaves(3, 4, 2)]

    def gradient(*tensors: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(op(base)(*tensors).square().sum(), tensors, create_graph=True)

    assert torch.autograd.gradgradcheck(gradient, inputs)
    assert torch.autograd.gradgradcheck(op(base), inputs, check_fwd_over_rev=True)


def dense_pair(base: str) -> Callable[..., tuple[Tensor, Tensor]]:
    return lambda *inputs: (dense(*inputs, base), dense_gradient(*inputs, base))


def total(f: Callable[..., Any]) -> Callable[..., Tensor]:
    """A loss that is curved in every output."""
    return lambda *inputs: sum(y.square().sum() for y in tree_leaves(f(*inputs)))


X3, WEIGHT3, OUTPUT3 = (
    torch.stack([leaves(4, 5, 2)[0].detach() + i for i in (0.0, 0.25, 0.5)]),
    *problem(1, 5, 2, networks=(3,))[1:],
)
S3 = torch.tensor([0.5, 1.0, 1.5], dtype=torch.float64)
ALL = (0, 1, 2, 3)
TRANSFORMS: dict[str, Callable[..., Any]] = {
    "grad": lambda f, x, w, a, s: grad(total(f), ALL)(x, w, a, s),
    "networks": lambda f, x, w, a, s: vmap(f, (None, 0, 0, None))(x, WEIGHT3, OUTPUT3, s),
    "weights alone": lambda f, x, w, a, s: vmap(f, (None, 0, None, None))(x, WEIGHT3, a, s),
    "samples": lambda f, x, w, a, s: vmap(f, (0, None, None, None))(X3, w, a, s),
    "samples, batch last": lambda f, x, w, a, s: vmap(f, (2, None, None, None))(X3.movedim(0, 2), w, a, s),
    "samples of networks": lambda f, x, w, a, s: vmap(lambda z: f(z, WEIGHT3, OUTPUT3, s))(X3),
    "everything": lambda f, x, w, a, s: vmap(f)(X3, WEIGHT3, OUTPUT3, S3),
    "networks' gradients": lambda f, x, w, a, s: vmap(grad(total(f), (1, 2)), (None, 0, 0, None))(
        x, WEIGHT3, OUTPUT3, s
    ),
    "networks' gradients in all": lambda f, x, w, a, s: vmap(grad(total(f), ALL), (None, 0, 0, None))(
        x, WEIGHT3, OUTPUT3, s
    ),
    "gradient in x, sample by sample": lambda f, x, w, a, s: vmap(grad(lambda z: total(f)(z[None], w, a, s)))(x),
    "gradient in weights, sample by sample": lambda f, x, w, a, s: vmap(
        grad(lambda v, z: total(f)(z[None], v, a, s)), (None, 0)
    )(w, x),
    "jacrev": lambda f, x, w, a, s: jacrev(f, ALL)(x, w, a, s),
    "jacfwd": lambda f, x, w, a, s: jacfwd(f, ALL)(x, w, a, s),
    "jvp": lambda f, x, w, a, s: jvp(f, (x, w, a, s), (x + 1, w - 1, 2 * a, s)),
    "hessian in weights": lambda f, x, w, a, s: hessian(lambda v: total(f)(x, v, a, s))(w),
    "reverse over reverse": lambda f, x, w, a, s: jacrev(jacrev(lambda v: total(f)(x, w, v, s)))(a),
    "hessian in x, sample by sample": lambda f, x, w, a, s: vmap(hessian(lambda z: total(f)(z[None], w, a, s)))(x),
    "mixed": lambda f, x, w, a, s: grad(lambda v: grad(lambda z: total(f)(z, v, a, s))(x).square().sum())(w),
}


@pytest.mark.parametrize("name", TRANSFORMS)
@pytest.mark.parametrize("base", ["relu", "tanh"])
@pytest.mark.parametrize(("function", "oracle"), [(op, lambda base: lambda *t: dense(*t, base)), (pair, dense_pair)])
def test_torch_func(device: torch.device, function: Any, oracle: Any, base: str, name: str) -> None:
    """Against the same transform of the dense formula."""
    inputs = [t.detach().to(device) for t in leaves(4, 5, 2)]
    ours = tree_leaves(TRANSFORMS[name](function(base), *inputs))
    theirs = tree_leaves(TRANSFORMS[name](oracle(base), *inputs))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-11)


def test_ensemble_of_modules(device: torch.device) -> None:
    """torch.func's recipe for ensembles: stacked parameters and buffers, one vmap."""
    nets = [hx.TwoLayerNet(2, 9, s=0.5, seed=i).double().to(device) for i in range(3)]
    x = torch.randn(5, 2, dtype=torch.float64).to(device)
    parameters, buffers = stack_module_state(nets)  # type: ignore[arg-type]
    found = vmap(lambda p, b: functional_call(nets[0], (p, b), (x,)))(parameters, buffers)
    torch.testing.assert_close(found, torch.stack([net(x) for net in nets]))


@compilers
def test_compiled_network_follows_s_and_trains(compiler: str) -> None:
    torch._dynamo.reset()
    net = hx.TwoLayerNet(1, 50, s=0.5, seed=0)
    compiled = torch.compile(net, fullgraph=True, backend=compiler)
    x = torch.randn(9, 1)
    for s in (0.5, 1.0, 1.5):
        hx.set_homotopy(net, s)
        results = []
        for function in (compiled, net):
            y = function(x)
            results.append((y, *torch.autograd.grad(y.square().sum(), list(net.parameters()))))
        torch.testing.assert_close(*results)


@compilers
@pytest.mark.parametrize("base", ["relu", "gelu"])
def test_compiled_sobolev_loss(compiler: str, base: str) -> None:
    """f and df/dx in one graph, gradients in all inputs; a transform inside the graph."""
    torch._dynamo.reset()
    inputs = leaves(4, 5, 2)

    def loss(*tensors: Tensor) -> Tensor:
        return total(pair(base))(*tensors)

    compiled = torch.compile(loss, fullgraph=True, backend=compiler)
    expected = torch.autograd.grad(loss(*inputs), inputs)
    torch.testing.assert_close(torch.autograd.grad(compiled(*inputs), inputs), expected)

    def gradient(x: Tensor, weight: Tensor, output_weight: Tensor, s: Tensor) -> Tensor:
        return grad(lambda w: total(op(base))(x, w, output_weight, s))(weight)

    plain = [t.detach() for t in inputs]
    torch.testing.assert_close(
        torch.compile(gradient, fullgraph=True, backend=compiler)(*plain),
        torch.autograd.grad(total(op(base))(*inputs), inputs[1])[0],
    )


def test_the_compiled_graph_holds_one_opaque_op() -> None:
    """And so nothing of size n x m."""
    net = hx.TwoLayerNet(2, 64, seed=0)
    program = torch.export.export(net, (torch.randn(9, 2),))
    assert "hrta_ext.two_layer" in program.graph_module.code
    assert all(
        node.meta["val"].numel() < 9 * 64 for node in program.graph.nodes if isinstance(node.meta.get("val"), Tensor)
        and node.op == "call_function"
    )  # fmt: skip


def test_fake_and_meta_tensors() -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        f = hx.two_layer(torch.empty(3, 2), torch.empty(4, 9, 2), torch.empty(4, 9))
        assert (f.shape, f.dtype) == ((4, 3), torch.float32)
    sizes = (3, 2), (4, 9, 2), (4, 9)
    f, df_dx = hx.two_layer_with_gradient(*(torch.empty(size, device="meta") for size in sizes), 0.5, base="relu")
    assert (f.shape, df_dx.shape) == ((4, 3), (4, 3, 2))
    assert hx.TwoLayerNet(2, 5).to("meta")(torch.empty(3, 2, device="meta")).shape == (3,)


@pytest.mark.parametrize("networks", [(), (2,)])
def test_opcheck(networks: tuple[int, ...]) -> None:
    x, weight, output_weight, s = leaves(4, 5, 2, networks)
    ops = torch.ops.hrta_ext
    for base in (0, 3):
        for name in ("two_layer", "two_layer_with_gradient"):
            torch.library.opcheck(getattr(ops, name).default, (x, weight, output_weight, s, base))
        plain = [t.detach() for t in (x, weight, output_weight, s)]
        f, df_dx = torch.ones(*networks, 4, dtype=torch.float64), torch.ones(*networks, 4, 2, dtype=torch.float64)
        for needs in ((True, True, True, True), (False, True, False, False)):
            torch.library.opcheck(ops.two_layer_backward.default, (f, *plain, base, *needs))
            torch.library.opcheck(ops.two_layer_with_gradient_backward.default, (f, df_dx, *plain, base, *needs))


def test_the_ops_check_what_protects_memory() -> None:
    """Called directly, with shapes that do not fit."""
    x, weight, output_weight, s = (t.detach() for t in leaves(4, 5, 2))
    run = torch.ops.hrta_ext.two_layer
    bad = [
        (x.half(), weight, output_weight, s, 0),
        (x, weight.float(), output_weight, s, 0),
        (x, weight[:, :1], output_weight, s, 0),
        (x, weight, output_weight[:3], s, 0),
        (x, weight[:0], output_weight[:0], s, 0),
        (x, weight, output_weight, s.float(), 0),
        (x, weight, output_weight, s, 8),
    ]
    for arguments in bad:
        with pytest.raises((TypeError, ValueError), match="two_layer: "):
            run(*arguments)
    with pytest.raises(ValueError, match=r"two_layer_backward: grad must have shape \(4,\)"):
        torch.ops.hrta_ext.two_layer_backward(
            torch.ones(3).double(), x, weight, output_weight, s, 0, True, True, True, True
        )
