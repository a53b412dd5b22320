"""``torch.ops.hrta_ext`` called by hand, with anything: refused by name or right, never a crash; fakes say the same.

The kernels get addresses, so what an op does not check is read and written beyond its memory.
"""

from __future__ import annotations

import inspect
import logging
import random
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

import hrta_ext as hx
from hrta_ext import schemas

OPS = torch.ops.hrta_ext
NAMES = [
    "homotopy",
    "two_layer",
    "two_layer_backward",
    "two_layer_with_gradient",
    "two_layer_with_gradient_backward",
    "two_layer_jet",
    "two_layer_jet_backward",
]
DTYPES = (torch.float16, torch.bfloat16, torch.int64, torch.bool, torch.complex64, torch.float32, torch.float64)
SIZES = (0, 1, 2, 3, 5, 7)


def valid(op: str, pick: random.Random) -> list[Any]:
    """Arguments that the op takes."""
    n, m, d = pick.choice(SIZES), pick.choice(SIZES[1:]), pick.choice(SIZES[1:])
    dtype = pick.choice((torch.float32, torch.float64))
    base = pick.randrange(8)
    if op == "homotopy":
        x = torch.randn(n, d).to(pick.choice((*DTYPES[:2], *DTYPES[5:])))
        return [x, torch.rand(pick.choice(((), (1,), (d,)))).double(), base, pick.randrange(3)]
    networks = pick.choice(((), (), (2,), (0,), (2, 3)))
    tensors = torch.randn(n, d), torch.randn(*networks, m, d), torch.randn(*networks, m)
    arguments = [t.to(dtype) for t in tensors] + [torch.rand(()).double(), base]
    form, columns = pick.randrange(3), sorted(pick.sample(range(d), pick.randrange(d) + 1))
    numbers = (1, len(columns), len(columns) * (len(columns) + 1) // 2)[form]
    grads = [torch.randn(*networks, n, *last).to(dtype) for last in ((), (d,), (numbers,))]
    if op.endswith("backward"):
        count = 3 if "jet" in op else 1 + ("with_gradient" in op)
        arguments = [*grads[:count], *arguments, *(pick.random() < 0.5 for _ in range(4))]
    return [*arguments, form, columns] if "jet" in op else arguments


def spoiled(value: Any, pick: random.Random) -> Any:
    """Another value in its place, which may be wrong or only unusual."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, list):
        return pick.choice(([], value[::-1], [*value, value[-1]], [-1, *value], [*value, 64], [2**62]))
    if isinstance(value, int):
        return pick.choice((-1, 0, 3, 8, 2**31, 2**62, -(2**63)))
    shape = [pick.choice(SIZES) for _ in range(pick.randrange(4))]
    changes: list[Callable[[Tensor], Tensor]] = [
        lambda t: t.to(pick.choice(DTYPES)),
        lambda t: torch.randn(shape).to(t.dtype),
        lambda t: t.unsqueeze(pick.randrange(t.dim() + 1)),
        lambda t: t[..., :1] if t.dim() else t.expand(3),
        lambda t: torch.cat([t, t], -1) if t.dim() else t.reshape(1),
        lambda t: t.new_ones(()).expand(t.shape),
        lambda t: torch._neg_view(t) if t.is_floating_point() else t,
        lambda t: t.mT.contiguous().mT if t.dim() > 1 else torch.stack([t, t], -1)[..., 0],
        lambda t: t.flip(0) if t.dim() else t,
        lambda t: t.to("meta"),
        lambda t: t.to_sparse() if t.dim() else t,
    ]
    return value if value.is_sparse or value.is_meta else pick.choice(changes)(value)


def outcome(function: Callable[..., Any], arguments: list[Any]) -> tuple[Any, ...] | Exception:
    """Its results as a tuple, or what it raised."""
    try:
        found = function(*arguments)
    except (TypeError, ValueError) as error:
        return error
    return found if isinstance(found, tuple) else (found,)


def as_fake(arguments: list[Any]) -> list[Any]:
    mode = FakeTensorMode()
    return [mode.from_tensor(a) if isinstance(a, Tensor) else a for a in arguments]


def of_the_schemas() -> list[str]:
    return re.findall(r'define\(\s*f?"(\w+)\(', inspect.getsource(schemas))


def test_every_op_is_tried() -> None:
    assert of_the_schemas() == NAMES


@pytest.fixture
def _quiet() -> Iterator[None]:
    """Fake tensors log what a fake kernel raises."""
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    logger.disabled, before = True, logger.disabled
    yield
    logger.disabled = before


@pytest.mark.usefixtures("_quiet")
@pytest.mark.parametrize("name", NAMES)
def test_a_hostile_caller_is_refused_or_served(name: str) -> None:
    taken = refused = 0
    for seed in range(150):
        pick = random.Random(seed)
        torch.manual_seed(seed)
        arguments = valid(name, pick)
        for _ in range(pick.choice((0, 1, 1, 2))):
            at = pick.randrange(len(arguments))
            arguments[at] = spoiled(arguments[at], pick)
        call = getattr(OPS, name)
        found = outcome(call, arguments)
        odd = any(isinstance(a, Tensor) and (a.is_sparse or a.is_meta) for a in arguments)
        if isinstance(found, Exception):
            refused += 1
            assert str(found).startswith(f"{name}: "), str(found)
        elif not odd:
            taken += 1
            with hx.use_backend("torch"):
                expected = outcome(call, arguments)
            for one, other in zip(found, expected, strict=True):
                torch.testing.assert_close(one, other, rtol=1e-2, atol=1e-2, equal_nan=True)
        if not odd:
            fake = outcome(call, as_fake(arguments))
            assert type(fake) is type(found)
            if isinstance(found, Exception):
                assert str(fake) == str(found)
            else:
                assert [(f.shape, f.dtype) for f in fake] == [(f.shape, f.dtype) for f in found]
    assert min(taken, refused) > 25


# --- the same errors from fakes, meta tensors and compilers ---

S = torch.tensor(0.5, dtype=torch.float64)
X, WEIGHT, OUTPUT_WEIGHT = torch.ones(4, 3), torch.ones(5, 3), torch.ones(5)
NETWORK = (X, WEIGHT, OUTPUT_WEIGHT, S, 0)
NEEDS = (True, True, True, True)
REFUSED: list[tuple[str, tuple[Any, ...], type[Exception], str]] = [
    ("homotopy", (X, S.float(), 0, 0), TypeError, "s must be float64, got torch.float32"),
    ("homotopy", (X.int(), S, 0, 0), TypeError, "x must be float16, bfloat16, float32 or float64, got torch.int32"),
    ("homotopy", (X, torch.ones(4).double(), 0, 0), ValueError, "s must have one value, or one per feature"),
    ("homotopy", (X, S, 8, 0), ValueError, r"base must be in \[0, 8\), got 8"),
    ("homotopy", (X, S, 0, -1), ValueError, "order must be 0, 1 or 2, got -1"),
    ("two_layer", (X.half(), *NETWORK[1:]), TypeError, "x must be float32 or float64, got torch.float16"),
    ("two_layer", (X, WEIGHT, OUTPUT_WEIGHT, S.float(), 0), TypeError, "s must be a float64 tensor on the CPU"),
    ("two_layer", (X, WEIGHT, OUTPUT_WEIGHT, S.expand(2), 0), ValueError, r"s must have shape \(\), got \(2,\)"),
    ("two_layer", (torch.ones(50, 1), *NETWORK[1:]), ValueError, r"x must have shape \(n, D\) .* got \(50, 1\) and"),
    ("two_layer_with_gradient", (X.double(), *NETWORK[1:]), TypeError, "weight must have x's dtype, torch.float64"),
    ("two_layer_with_gradient", (X, WEIGHT, torch.ones(4), S, 0), ValueError, "output_weight must have weight's shape"),
    ("two_layer_with_gradient", (X, WEIGHT[:0], torch.ones(0), S, 0), ValueError, "output_weight must have .* m > 0"),
    ("two_layer_backward", (torch.ones(3), *NETWORK, *NEEDS), ValueError, r"grad must have shape \(4,\), got \(3,\)"),
    ("two_layer_backward", (torch.ones(4).double(), *NETWORK, *NEEDS), TypeError, "grad must have x's dtype"),
    ("two_layer_backward", (torch.ones(4, 1), *NETWORK, *NEEDS), ValueError, "grad must have shape"),
    (
        "two_layer_with_gradient_backward",
        (torch.ones(2), torch.ones(2, 2), *NETWORK, *NEEDS),
        ValueError,
        r"grad_f must have shape \(4,\), got \(2,\)",
    ),
    (
        "two_layer_with_gradient_backward",
        (torch.ones(4), torch.ones(4, 2), *NETWORK, *NEEDS),
        ValueError,
        r"grad_df_dx must have shape \(4, 3\), got \(4, 2\)",
    ),
    (
        "two_layer_jet",
        (*NETWORK, 3, [0]),
        ValueError,
        r"form must be in \[0, 3\) and columns not empty, got \(3, \[0\]\)",
    ),
    ("two_layer_jet", (*NETWORK, 0, []), ValueError, r"form must be in \[0, 3\) and columns not empty"),
    ("two_layer_jet", (*NETWORK, 1, [0, 3]), ValueError, r"columns must ascend within \[0, 3\), got \[0, 3\]"),
    ("two_layer_jet", (*NETWORK, 1, [1, 0]), ValueError, r"columns must ascend within \[0, 3\), got \[1, 0\]"),
    (
        "two_layer_jet_backward",
        (torch.ones(4), torch.ones(4, 3), torch.ones(4, 2), *NETWORK, *NEEDS, 2, [0, 2]),
        ValueError,
        r"grad_second must have shape \(4, 3\), got \(4, 2\)",
    ),
]


@pytest.mark.usefixtures("_quiet")
@pytest.mark.parametrize(("name", "arguments", "error", "message"), REFUSED)
def test_eager_fake_and_meta_refuse_alike(name: str, arguments: Any, error: Any, message: str) -> None:
    op = getattr(OPS, name)
    with pytest.raises(error, match=f"^{name}: {message}"):
        op(*arguments)
    with pytest.raises(error, match=f"^{name}: {message}"):
        op(*as_fake(list(arguments)))
    meta = [a.to("meta") if isinstance(a, Tensor) and (name == "homotopy" or a.dim()) else a for a in arguments]
    if "s must have shape" not in message:  # s of the network lies on the CPU
        with pytest.raises(error, match=f"^{name}: {message}"):
            op(*meta)


@pytest.mark.usefixtures("_quiet")
@pytest.mark.parametrize("name", ["homotopy", "two_layer"])
def test_a_compiled_call_is_refused_with_the_same_words(name: str) -> None:
    torch._dynamo.reset()
    _, arguments, _, message = next(case for case in REFUSED if case[0] == name)
    compiled = torch.compile(lambda *tensors: getattr(OPS, name)(*tensors), backend="eager", fullgraph=True)
    with pytest.raises(Exception, match=f"{name}: {message}"):  # Dynamo wraps it
        compiled(*arguments)


def test_gradients_may_be_expanded_or_flipped(device: torch.device) -> None:
    """What autograd gives for a sum is one number with strides of 0."""
    x, weight, output_weight = X.to(device), WEIGHT.to(device), OUTPUT_WEIGHT.to(device)
    arguments = (x, weight, output_weight, S, 2, *NEEDS)
    for grad in (torch.ones(()).expand(4), torch.arange(8.0)[::2], torch._neg_view(torch.ones(4))):
        grad = grad.to(device)
        found = OPS.two_layer_backward(grad, *arguments)
        expected = OPS.two_layer_backward(grad.clone().contiguous(), *arguments)
        assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
