"""What goes to the compiled kernels by address passes one gate, which refuses what they would misread."""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

import hrta_ext as hx
from hrta_ext.compiled import address

SOURCES = Path(hx.__file__).parent
# The gate, memory made for a call, and the fast lanes of the activation, which ask its questions in their own `if`.
MAY_TAKE_ADDRESSES = {
    "compiled.py": {"memory", "own", "placed"},  # placed looks where memory starts, and hands nothing on
    "activation/functions.py": {"homotopy", "homotopy_value_and_slope"},
    "activation/autograd.py": {"forward", "backward"},
}
needs_kernels = pytest.mark.skipif(not hx.backends()["cpp"], reason="needs the compiled kernels")


def takers_of_addresses(tree: ast.Module) -> Iterator[str]:
    """The functions that ask for the memory of a tensor or an array, by any of their ways."""
    ways = {"data_ptr", "ctypes", "__array_interface__", "__cuda_array_interface__", "__dlpack__", "_cdata"}
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef):
            nodes = [node for node in ast.walk(function) if isinstance(node, ast.Attribute)]
            yield from {function.name for node in nodes if node.attr in ways}


def test_nobody_takes_an_address_past_the_gate() -> None:
    found = {}
    for path in sorted(SOURCES.rglob("*.py")):
        tree = ast.parse(path.read_text("utf-8"))
        if takers := set(takers_of_addresses(tree)):
            found[path.relative_to(SOURCES).as_posix()] = takers
        # `own` checks nothing: it is for memory that has been made for the call.
        names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names}
        assert path.name in ("native.py", "infinite_native.py", "sessions.py") or "own" not in names
    assert found == MAY_TAKE_ADDRESSES
    assert list(takers_of_addresses(ast.parse("def f(x):\n    return g(x.mT.data_ptr())"))) == ["f"]


def freed(tensor: Tensor, left: int = 0) -> Tensor:
    tensor.untyped_storage().resize_(left)
    return tensor


def fake(*shape: int) -> Tensor:
    with FakeTensorMode():
        return torch.empty(*shape, dtype=torch.float64)


X = torch.arange(12.0, dtype=torch.float64).reshape(3, 4)
REFUSED: list[tuple[Callable[[], Tensor], str]] = [
    (lambda: X.float(), "got torch.float32"),
    (lambda: X[:, :3], r"must be 12 values .* got torch.float64 of shape \(3, 3\)"),
    (lambda: X.mT, r"contiguous, .* strides \(1, 4\)"),
    (lambda: X[:, ::2].repeat(1, 2).mT.contiguous().mT, r"contiguous, .* strides"),
    (lambda: X[:1, :1].expand(3, 4), r"strides \(0, 0\)"),
    (lambda: torch._neg_view(X), "with torch's negative bit"),
    (lambda: X.to("meta"), "got meta|with memory of its own"),
    (lambda: freed(X.clone()), "must have memory for its values, 96 bytes, got a storage of 0 bytes"),
    (lambda: freed(X.clone(), 88), "96 bytes, got a storage of 88 bytes"),
    (lambda: freed(torch.zeros(24).double()[12:].reshape(3, 4)), "192 bytes, got a storage of 0 bytes"),
    (lambda: fake(3, 4), "must be a tensor with memory of its own, got FakeTensor"),
    (lambda: fake(24)[12:].reshape(3, 4), "must be a tensor with memory of its own, got FakeTensor"),
    (lambda: torch._to_functional_tensor(X.clone())[:], "must be a tensor with memory of its own"),
    (lambda: torch._efficientzerotensor(3, 4, dtype=torch.float64), "must be a tensor with memory of its own"),
]


@pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")
@pytest.mark.parametrize(("make", "message"), REFUSED)
def test_what_a_kernel_would_misread_is_refused(make: Callable[[], Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=f"^f: x .*{message}"):
        address(make(), "f: x", torch.float64, -1, 12)


def test_what_a_kernel_reads_right_passes() -> None:
    assert address(None, "f: x", torch.float64, -1, 12) == 0
    for tensor in (X, X[1:], X.as_strided((1, 4), (99, 1)), torch.zeros(24).double()[12:].reshape(3, 4)):
        assert address(tensor, "f: x", torch.float64, -1, tensor.numel()) == tensor.data_ptr()
    assert address(X.mT, "f: x", torch.float64, -1, 12, (1, 4)) == X.data_ptr()
    for empty in (X[:0], freed(torch.zeros(0, 3).double())):
        address(empty, "f: x", torch.float64, -1, 0)


# --- the public functions ---

WEIGHT, OUTPUT_WEIGHT = torch.randn(5, 4, dtype=torch.float64), torch.randn(5, dtype=torch.float64)
VIEWS: dict[str, Callable[[Tensor], Tensor]] = {
    "negative bit": lambda t: torch._neg_view(t.neg()),
    "conj().imag": lambda t: torch.complex(torch.zeros_like(t), t.neg()).conj().imag,
    "transposed": lambda t: t.mT.contiguous().mT if t.dim() > 1 else torch.stack([t, t], -1)[..., 0],
    "every other": lambda t: torch.stack([t, t], -1).flatten(-2)[..., ::2] if t.dim() else t,
    "with an offset": lambda t: torch.cat([t.reshape(-1), t.reshape(-1)])[t.numel() :].reshape(t.shape),
}
CALLS: dict[str, Callable[..., Any]] = {
    "homotopy": lambda x, w, a, s, v: hx.homotopy(x, s, "tanh"),
    "homotopy per feature": lambda x, w, a, s, v: hx.homotopy(x, v),
    "slope": lambda x, w, a, s, v: hx.homotopy(x, v, "gelu", order=1),
    "value and slope": lambda x, w, a, s, v: torch.stack(hx.homotopy_value_and_slope(x, v, "sin")),
    "in place": lambda x, w, a, s, v: hx.homotopy_(x.clone(), v),
    "in place, one s": lambda x, w, a, s, v: hx.homotopy_(x.clone(), s),
    "op": lambda x, w, a, s, v: torch.ops.hrta_ext.homotopy(x, v, 2, 0),
    "gradients": lambda x, w, a, s, v: gradients(lambda z, t: hx.homotopy(z, t, "silu"), x, v),
    "gradient of relu": lambda x, w, a, s, v: gradients(lambda z, t: hx.homotopy(z, t), x, s),
    "gradient in x": lambda x, w, a, s, v: torch.autograd.grad(
        hx.homotopy(z := x.detach().requires_grad_(), v, "erf"), z, x
    )[0],
    "two_layer": lambda x, w, a, s, v: hx.two_layer(x, w, a, s),
    "df_dx": lambda x, w, a, s, v: hx.two_layer_with_gradient(x, w, a, s, base="gelu")[1],
    "op of the network": lambda x, w, a, s, v: torch.ops.hrta_ext.two_layer_with_gradient_backward(
        x[:, 0], x, x, w, a, s, 2, True, True, True, True
    )[1],
    "gram": lambda x, w, a, s, v: hx.gram(x, w, a, v).ntk,
    "infinite_gram": lambda x, w, a, s, v: hx.infinite_gram(x, v, x2=x.flip(0)).ntk,
}


def gradients(function: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
    leaves = [t.detach().requires_grad_() for t in tensors]
    y = function(*leaves)
    found = torch.autograd.grad(y, leaves, torch._neg_view(torch.linspace(-1, 1, y.numel()).to(y).reshape(y.shape)))
    return torch.cat([g.reshape(-1) for g in found])


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("call", CALLS)
def test_views_of_all_kinds_give_the_bits_of_plain_tensors(call: str, view: str, device: torch.device) -> None:
    x = torch.linspace(-3, 3, 12).double().reshape(3, 4)
    plain = [x, WEIGHT, OUTPUT_WEIGHT, torch.tensor(1.3).double(), torch.tensor([0.2, 0.9, 1.4, 2.0]).double()]
    expected = CALLS[call](*plain)
    got = CALLS[call](*(VIEWS[view](t) for t in plain))
    torch.testing.assert_close(got, expected, rtol=1e-13, atol=1e-13)


@needs_kernels
@pytest.mark.parametrize("left", [0, 8])
@pytest.mark.parametrize("at", [1, 2])
@pytest.mark.parametrize("call", ["two_layer", "df_dx", "gram", "op of the network"])
def test_freed_weights_are_an_error_and_no_crash(call: str, at: int, left: int) -> None:
    tensors = [X.clone(), WEIGHT.clone(), OUTPUT_WEIGHT.clone(), torch.tensor(0.5).double(), torch.rand(2)]
    freed(tensors[at], left)
    with pytest.raises(ValueError, match=r"weight must have memory for its values, \d+ bytes, got a storage of"):
        CALLS[call](*tensors)


@needs_kernels
def test_an_s_per_feature_without_memory_is_an_error() -> None:
    with pytest.raises(ValueError, match="s must have memory for its values"):
        hx.homotopy(X, freed(torch.ones(4).double()))


def test_what_is_written_over_holds_every_element_once(device: torch.device) -> None:
    """As torch's own in-place operations, but before any work and by name."""
    for x in (torch.ones(3, 1).expand(3, 4), torch.ones(()).expand(2), torch.ones(1, 3).expand(2, 3)):
        with pytest.raises(ValueError, match=r"^homotopy_: x must not be an expanded tensor"):
            hx.homotopy_(x.to(device), 0.5)
    assert math.isclose(hx.homotopy_(-torch.ones(1, 1).expand(1, 1).to(device), 0.25), -0.75)


@pytest.mark.parametrize("base", ["relu", "tanh"])
def test_s_may_be_a_part_of_what_is_written_over(base: str, device: torch.device) -> None:
    """The kernel reads s while it writes x."""
    x = torch.linspace(-2, 2, 40, device=device).double().reshape(10, 4)
    expected = hx.homotopy(x, x[0].clone(), base)
    torch.testing.assert_close(hx.homotopy_(x, x[0], base), expected, rtol=0, atol=0)
    x = torch.linspace(-2, 2, 40, device=device).double()
    expected = hx.homotopy(x, x[3].clone(), base)
    torch.testing.assert_close(hx.homotopy_(x, x[3], base), expected, rtol=1e-15, atol=0)
