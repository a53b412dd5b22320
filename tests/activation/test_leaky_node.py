"""What torch's own leaky_relu node would give in place of the kernels: the same bits, wherever the fast lane takes it.

torch's formula is the same on the CPU and on a GPU, a product with 1 - s in float (double for float64), rounded once;
so the comparison is made on the CPU too, with the kernels there. s = 1 is left out: 0 times -inf is NaN there, 0 here.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from cases import DTYPES, every_float32, spread
from torch import Tensor
from torch.autograd import grad

import hrta_ext as hx

SOME = [-1.0, 0.3, 0.5, 1.5, 2.0, 0.0, 1.0 + 2.0**-52, 1.0 - 2.0**-53]
S = [*SOME, *(torch.rand(12, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 4 - 1).tolist()]
SPECIAL = [0.0, -0.0, torch.inf, -torch.inf, torch.nan, 1e-40, -1e-40, 6e-8, -6e-8, 6e4, -6e4]


@pytest.fixture(params=["cpu", "cuda"])
def place(request: pytest.FixtureRequest) -> str:
    """Where both compute; no block of use_backend, which would close the lane."""
    backend = {"cpu": "cpp", "cuda": "cuda"}[request.param]
    if not hx.backends()[backend]:
        pytest.skip(f"backend {backend} is not usable here")
    return request.param


def numbers(dtype: torch.dtype) -> Tensor:
    """Every number of a half type; 30 000 of all exponents and the special ones of the others."""
    if dtype in (torch.float16, torch.bfloat16):
        return torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)
    x = torch.cat([every_float32(20_000, seed=1).double(), spread(torch.float64, 10_000)])
    return torch.cat([x, torch.tensor(SPECIAL, dtype=torch.float64)]).to(dtype)


def same_bits(one: Tensor, other: Tensor) -> bool:
    """Equal as bits, but for what a NaN carries."""
    integers = {2: torch.int16, 4: torch.int32, 8: torch.int64}[one.itemsize]
    number = ~one.isnan()
    same = one[number].view(integers), other[number].view(integers)
    return one.dtype == other.dtype and torch.equal(number, ~other.isnan()) and torch.equal(*same)


def derivatives(function: Callable[[Tensor], Tensor], x: Tensor) -> list[Tensor]:
    """Value; gradient with and without a graph; what the graph's gradient gives back to x and to the direction."""
    leaf = x.clone().requires_grad_()
    direction = x.flip(0).clone().requires_grad_()
    y = function(leaf)
    (plain,) = grad(y, leaf, direction.detach(), retain_graph=True)
    (first,) = grad(y, leaf, direction, create_graph=True)
    second = grad(first, (leaf, direction), x.roll(1))
    return [y.detach(), plain, first.detach(), *second]


@pytest.mark.parametrize("dtype", DTYPES)
def test_bits_of_value_and_derivatives(place: str, dtype: torch.dtype) -> None:
    """Of the kernels that keep the mask: as the lane calls them, and in place."""
    x = numbers(dtype).to(place)
    for s in S:
        theirs = derivatives(lambda z, s=s: torch._C._nn.leaky_relu(z, 1.0 - s), x)
        with hx.use_backend("native"):
            slow = derivatives(lambda z, s=s: hx.homotopy(z, s), x)
            over = derivatives(lambda z, s=s: hx.homotopy_(z * 1.0, s), x)
        for ours in (slow, over, derivatives(lambda z, s=s: hx.homotopy(z, s), x)):
            assert [same_bits(a, b) for a, b in zip(theirs, ours, strict=True)] == [True] * 5, s


def test_at_s_1_the_two_differ() -> None:
    """The reason for the exception; torch.relu has the 0 as well."""
    x = torch.tensor([-torch.inf])
    assert torch._C._nn.leaky_relu(x, 0.0).isnan().all()
    assert hx.homotopy(x, 1.0).item() == 0.0


@pytest.mark.parametrize("dtype", DTYPES)
def test_who_takes_it_on_the_cpu(dtype: torch.dtype) -> None:
    """One fixed s other than 1 and few elements, outside of blocks that choose a backend; the module too."""
    if not hx.backends()["cpp"]:
        pytest.skip("no compiled kernels")
    few, many = (torch.ones(n, dtype=dtype, requires_grad=True) for n in (131_072, 131_073))
    s = torch.tensor(0.5, dtype=torch.float64)
    layer = hx.HomotopyActivation(0.5)
    for y in (hx.homotopy(few, 0.5), hx.homotopy(few, s), layer(few)):
        assert type(y.grad_fn).__name__ == "LeakyReluBackward0"
    with hx.use_backend("cpp"):
        forced = hx.homotopy(few, 0.5)
    for y in (forced, hx.homotopy(many, 0.5), hx.homotopy(few, 1.0), hx.homotopy(few, s.clone().requires_grad_())):
        assert type(y.grad_fn).__name__ != "LeakyReluBackward0"


def test_who_takes_it_on_a_gpu() -> None:
    """One fixed s other than 1, up to 65536 elements, outside of blocks that choose a backend."""
    if not hx.backends()["cuda"]:
        pytest.skip("needs a GPU")
    small, large = (torch.randn(n, device="cuda", requires_grad=True) for n in (65_536, 65_537))
    tensor = torch.tensor(0.5, dtype=torch.float64)
    for s in (0.5, tensor):
        assert type(hx.homotopy(small, s).grad_fn).__name__ == "LeakyReluBackward0"
    for y in (
        hx.homotopy(small, 1.0),
        hx.homotopy(large, 0.5),
        hx.homotopy(small, 0.5, "sin"),
    ):
        assert type(y.grad_fn).__name__ != "LeakyReluBackward0"
    with hx.use_backend("cuda"):
        assert type(hx.homotopy(small, 0.5).grad_fn).__name__ != "LeakyReluBackward0"
    for n in (0, 1, 65_536, 65_537):
        x = small.detach()[:n] if n <= 65_536 else large.detach()
        gradients = []
        for function in (hx.homotopy, torch.nn.functional.leaky_relu):
            leaf = x.clone().requires_grad_()
            (g,) = grad(function(leaf, 0.5), leaf, x)
            gradients.append(g)
        assert torch.equal(*gradients)


@pytest.mark.parametrize("offset", [0, 3])
def test_freed_storage_is_an_error_on_a_gpu_too(offset: int) -> None:
    """torch's own node would read it."""
    if not hx.backends()["cuda"]:
        pytest.skip("needs a GPU")
    whole = torch.ones(9, device="cuda")
    x = whole[offset:].requires_grad_()
    whole.untyped_storage().resize_(0)
    for call in (hx.homotopy, hx.homotopy_value_and_slope):
        with pytest.raises(ValueError, match="x must have memory for its values"):
            call(x, 0.5)
