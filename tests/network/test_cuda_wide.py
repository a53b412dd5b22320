"""The wide ReLU network on tensor cores: both of its ways under the emulation, and on a GPU through ``hx.two_layer``.

The emulation computes every product of fragments from the lanes' registers and from shared memory by its descriptor, so
layouts, indices and sums are the kernels' own; how wgmma runs beside other instructions is not shown. The right factor
of each product is exact, so what is tested against float64 is z's sign and the sums: 1e-6 of the largest element, a few
times the float32 sums over 32 tiles. A sign within 1e-6 |x| |w| of zero is anybody's guess in float32, so neurons that
have such a pair are taken out of the problem; z = 0 exactly must count as inactive.
"""

from __future__ import annotations

import ctypes
from typing import Any

import pytest
import torch
from emulated import Guarded, address, emulated
from network.cases import dense, dense_gradient, dense_weight_gradients, problem
from torch import Tensor

import hrta_ext as hx
from hrta_ext.bases import BASES
from hrta_ext.compiled import KINDS, cuda_architectures

MMA, WGMMA = 80, 90  # compute capabilities
SHARED = 232448  # bytes of an H100
TOLERANCE = 1e-6
NUMBERS = torch.float64


@pytest.fixture(scope="module")
def kernels() -> Any:
    loaded = emulated("wide.cpp")
    for function in (loaded.wide_forward, loaded.wide_backward):
        function.restype = ctypes.c_int64
    return loaded


def limits(capability: int, multiprocessors: int = 3, shared: int = SHARED) -> Tensor:
    return torch.tensor([capability, multiprocessors, shared], dtype=torch.int32)


def sizes_of(x: Tensor, weight: Tensor) -> Tensor:
    networks = weight.shape[0] if weight.dim() == 3 else 1
    return torch.tensor([networks, *x.shape, weight.shape[-2]])


def call(function: Any, *fixed: Any) -> None:
    """A pass with scratch of the size that it asks for, on an 8-byte grid, between guards."""
    scratch = Guarded((function(*fixed, None) // 8 + 1,), NUMBERS, off=1)
    function(*fixed, address(scratch.result))
    scratch.checked()


Problem = tuple[Tensor, Tensor, Tensor]


def forward(
    kernels: Any, card: Tensor, given: Problem, s: float, dtype: torch.dtype = torch.float32, ds: bool = False
) -> list[Tensor]:
    """f and df/dx, or df/ds."""
    x, weight, output_weight = given
    shape = (*output_weight.shape[:-1], x.shape[0])
    f, df_dx = Guarded(shape, dtype, off=1), Guarded((*shape, x.shape[1]), dtype, off=1)
    kept = card, sizes_of(x, weight), *given, torch.tensor(s, dtype=NUMBERS)
    fixed = [address(t) for t in kept]
    results = [address(f.result), address(None if ds else df_dx.result)]
    call(kernels.wide_forward, *fixed, int(dtype is NUMBERS), int(ds), *results, None)
    return [f.checked()] if ds else [f.checked(), df_dx.checked()]


def backward(
    kernels: Any, card: Tensor, given: Problem, s: float, grad_f: Tensor | None, grad_df_dx: Tensor | None = None
) -> list[Tensor]:
    x, weight, output_weight = given
    results = [Guarded(tuple(t.shape), torch.float32, off=1) for t in (weight, output_weight)]
    kept = card, sizes_of(x, weight), *given, torch.tensor(s, dtype=NUMBERS)
    fixed = [address(t) for t in (*kept, grad_f, grad_df_dx, *(g.result for g in results))]
    call(kernels.wide_backward, *fixed, None, None, None)
    return [g.checked() for g in results]


def clear(x: Tensor, weight: Tensor, output_weight: Tensor) -> Problem:
    """The problem with other weights for the neurons that have a pair of samples whose sign float32 may miss."""
    x, weight = x.double(), weight.double()
    z = (x @ weight.mT).abs()
    close = z <= 1e-6 * x.norm(dim=1)[:, None] * weight.norm(dim=-1).unsqueeze(-2)
    weight[(close & (z > 0)).any(-2)] = 0.0
    return x.float(), weight.float(), output_weight.float()


def gradients_of_outputs(given: Problem) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    shape = (*given[2].shape[:-1], given[0].shape[0])
    return torch.randn(shape, generator=generator), torch.randn((*shape, given[0].shape[1]), generator=generator)


def near(ours: Tensor, exact: Tensor) -> None:
    torch.testing.assert_close(ours.double(), exact, rtol=0.0, atol=TOLERANCE * exact.abs().max().item() + 1e-300)


def check(kernels: Any, card: Tensor, given: Problem, s: float) -> None:
    """Every result against float64, the same with the threads in the opposite order."""
    grad_f, grad_df_dx = gradients_of_outputs(given)
    found = []
    for backwards in (0, 1):
        kernels.run_backwards(backwards)
        found.append(
            forward(kernels, card, given, s)
            + backward(kernels, card, given, s, grad_f)
            + backward(kernels, card, given, s, grad_f, grad_df_dx)
        )
    kernels.run_backwards(0)
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    exact = [dense(*given, s, "relu"), dense_gradient(*given, s, "relu")]
    for gradient in (None, grad_df_dx):
        exact += dense_weight_gradients(grad_f, gradient, *given, s, "relu")
    for ours, theirs in zip(found[0], exact, strict=True):
        near(ours, theirs)


def pieces(kernels: Any, name: str, rows: int, columns: tuple[Any, ...]) -> None:
    generator = torch.Generator().manual_seed(2)
    a, b = (torch.randn(shape, generator=generator).half() for shape in ((rows, 16), (16, 8)))
    d = torch.zeros(rows, 8)
    getattr(kernels, name)(address(a), address(b), address(d), *columns)
    torch.testing.assert_close(d.double(), a.double() @ b.double(), rtol=1e-6, atol=1e-6)


def test_emulated_products_are_those_of_matrices(kernels: Any) -> None:
    """Fragments as PTX lays them out: else both the kernels and their emulation could be wrong alike."""
    rounded = torch.zeros(16, 8, dtype=torch.float16)
    pieces(kernels, "mma_of_matrices", 16, (address(rounded),))
    generator = torch.Generator().manual_seed(2)
    a, b = (torch.randn(shape, generator=generator).half() for shape in ((16, 16), (16, 8)))
    assert torch.equal(rounded, (a.double() @ b.double()).half())
    pieces(kernels, "wgmma_of_matrices", 64, (128,))
    pieces(kernels, "wgmma_of_matrices", 64, (512,))


@pytest.mark.parametrize("features", [1, 3, 4, 5, 8, 13, 16, 27, 32, 45, 64])
@pytest.mark.parametrize("capability", [MMA, WGMMA])
def test_every_number_of_features(kernels: Any, capability: int, features: int) -> None:
    """Padded to 4, 8, 16, 32 or 64; rows in 16-byte words where there are as many as that."""
    check(kernels, limits(capability), clear(*problem(35, 140, features)), 1.5)


@pytest.mark.parametrize(("n", "m"), [(1, 1), (1, 300), (129, 2), (128, 128), (130, 257), (257, 129), (3, 600)])
@pytest.mark.parametrize("capability", [MMA, WGMMA])
def test_ragged_sizes(kernels: Any, capability: int, n: int, m: int) -> None:
    """Against tiles of 128 columns, rows in groups of 128, 256 and 512, and the cuts for few samples."""
    check(kernels, limits(capability), clear(*problem(n, m, 4)), 0.7)


@pytest.mark.parametrize("capability", [MMA, WGMMA])
def test_batches_and_results_in_double(kernels: Any, capability: int) -> None:
    """Networks on the same samples; df/ds and df/dx in float64, as the gradients in s and x take them."""
    x, weight, output_weight = clear(*problem(33, 150, 3, networks=(3,)))
    given = x, weight, output_weight
    check(kernels, limits(capability), given, 1.5)
    (df_ds,) = forward(kernels, limits(capability), given, 0.3, NUMBERS, ds=True)
    near(df_ds, dense(*given, 1.0, "relu") - dense(*given, 0.0, "relu"))
    near(forward(kernels, limits(capability), given, 0.3, NUMBERS)[1], dense_gradient(*given, 0.3, "relu"))


@pytest.mark.parametrize("capability", [MMA, WGMMA])
def test_many_tiles(kernels: Any, capability: int) -> None:
    """More than 32 tiles go through sums in double: of neurons in a chunk, and of samples, which do not fit shared
    memory at once; fewer multiprocessors give the same bits."""
    given = clear(*problem(5, 8 * 33 * 128 + 70, 3))
    f, df_dx = forward(kernels, limits(capability), given, 1.5)
    near(f, dense(*given, 1.5, "relu"))
    near(df_dx, dense_gradient(*given, 1.5, "relu"))
    generator = torch.Generator().manual_seed(0)
    given = clear(*problem(33 * 128 + 5, 20, 3))
    grad_f = torch.randn(33 * 128 + 5, generator=generator)
    exact = dense_weight_gradients(grad_f, None, *given, 1.5, "relu")
    found = [
        backward(kernels, limits(capability, count, shared), given, 1.5, grad_f)
        for count, shared in ((1, SHARED), (40, 101376))
    ]
    for ours, other, theirs in zip(*found, exact, strict=True):
        assert torch.equal(ours, other)
        near(ours, theirs)


@pytest.mark.parametrize("capability", [MMA, WGMMA])
@pytest.mark.parametrize("features", [4, 8, 16])
def test_ties_zero_rows_and_sizes(kernels: Any, capability: int, features: int) -> None:
    """w . x = 0 exactly is inactive, so h and U have exact zeros; magnitudes do not matter to a sign."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(20, features, generator=generator)
    weight, output_weight = torch.zeros(40, features), torch.ones(40)
    x[:, 1] = x[:, 0]
    weight[:, 0] = torch.randn(40, generator=generator)
    weight[:, 1] = -weight[:, 0]
    given = x, weight, output_weight
    f, df_dx = forward(kernels, limits(capability), given, 1.0)
    grads = backward(kernels, limits(capability), given, 1.0, torch.ones(20))
    assert all(not result.any() for result in (f, df_dx, *grads))
    x, weight, output_weight = clear(*problem(20, 40, features))
    powers = 2.0 ** torch.randint(-40, 40, (20,), generator=generator)
    scaled = x * powers[:, None], weight * 2.0**-30, output_weight
    near(forward(kernels, limits(capability), scaled, 1.5)[1], dense_gradient(*scaled, 1.5, "relu"))
    grad_f = torch.ones(20) / powers
    for ours, theirs in zip(
        backward(kernels, limits(capability), scaled, 1.5, grad_f),
        dense_weight_gradients(grad_f, None, *scaled, 1.5, "relu"),
        strict=True,
    ):
        near(ours, theirs)


@pytest.mark.parametrize("capability", [MMA, WGMMA])
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_what_is_not_finite_shows_where_the_formulas_have_it(kernels: Any, capability: int, value: float) -> None:
    """In x, weights and gradients: the same elements are finite as in float64, and those are right."""
    for where in range(4):
        x, weight, output_weight = clear(*problem(35, 140, 5))
        grad_f = torch.ones(35)
        [x, weight, output_weight, grad_f][where].view(-1)[7] = value
        given = x, weight, output_weight
        ours = forward(kernels, limits(capability), given, 1.5) + backward(
            kernels, limits(capability), given, 1.5, grad_f
        )
        exact = [dense(*given, 1.5, "relu"), dense_gradient(*given, 1.5, "relu")]
        exact += dense_weight_gradients(grad_f, None, *given, 1.5, "relu")
        for result, theirs in zip(ours, exact, strict=True):
            assert torch.equal(result.isfinite(), theirs.isfinite())
            finite = theirs.isfinite()
            if finite.any():
                near(result[finite], theirs[finite])


@pytest.mark.parametrize("rule", ["adam", "momentum", "descent"])
@pytest.mark.parametrize("capability", [MMA, WGMMA])
def test_update_in_backward(kernels: Any, capability: int, rule: str) -> None:
    """As torch's optimizers from the same gradients; nothing moves once `done` is set."""
    x, weight, output_weight = clear(*problem(40, 300, 5))
    grad_f, _ = gradients_of_outputs((x, weight, output_weight))
    grads = backward(kernels, limits(capability), (x, weight, output_weight), 1.5, grad_f)
    theirs = [weight.clone().requires_grad_(), output_weight.clone().requires_grad_()]
    made = torch.optim.Adam(theirs, lr=1e-2) if rule == "adam" else None
    optimizer = made or torch.optim.SGD(theirs, lr=1e-2, momentum=0.9 * (rule == "momentum"))
    moments = [torch.zeros_like(t) for _ in range(2) for t in (weight, output_weight)]
    kept = {"adam": 4, "momentum": 2, "descent": 0}[rule]
    addresses = (ctypes.c_void_p * 4)(*(t.data_ptr() for t in moments[:kept]), *[None] * (4 - kept))
    kept = limits(capability), sizes_of(x, weight), x, weight, output_weight, torch.tensor(1.5, dtype=NUMBERS), grad_f
    for step in (1, 2):
        for target, grad in zip(theirs, grads, strict=True):
            target.grad = grad
        optimizer.step()
        adam = (1.0, 1e-2 / (1 - 0.9**step), (1 - 0.999**step) ** 0.5, 0.9, 0.999, 1e-8)
        numbers = torch.tensor(adam if rule == "adam" else (0.0, 1e-2, 1.0, 0.9 * (rule == "momentum"), 0.0, 0.0))
        numbers = numbers.double()
        for done in (torch.tensor(0), torch.tensor(1)):
            fixed = [address(t) for t in kept] + [None, None, None, address(numbers), addresses, address(done)]
            before = weight.clone()
            call(kernels.wide_backward, *fixed)
            assert torch.equal(before, weight) == bool(done)
        torch.testing.assert_close(weight, theirs[0].detach(), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(output_weight, theirs[1].detach(), rtol=1e-5, atol=1e-6)
        grads = backward(kernels, limits(capability), (x, weight, output_weight), 1.5, grad_f)
        for target, mine in zip(theirs, (weight, output_weight), strict=True):
            target.data.copy_(mine)


def test_which_calls_it_serves(kernels: Any) -> None:
    """By shapes, base, dtype and card; not where a tile is mostly padding, or backward would leave the card empty."""

    def serves(
        n: int, m: int, card: Tensor | None = None, base: str = "relu", networks: int = 1, features: int = 4
    ) -> int:
        sizes = torch.tensor([networks, n, features, m])
        card = limits(WGMMA) if card is None else card
        return kernels.wide_serves(address(card), KINDS[torch.float32], BASES[base].number, address(sizes))

    assert serves(1000, 10**7) == serves(1000, 10**7, limits(MMA)) == serves(1000, 2000, networks=64) == 3
    assert serves(1000, 2000) == 1
    assert serves(1000, 1000) == serves(8, 10**7) == serves(0, 10**7) == serves(1000, 10**7, base="relu2") == 0
    assert serves(1000, 10**7, limits(MMA, 100, 101376), features=33) == 0
    assert serves(1000, 10**7, limits(75)) == serves(1000, 10**7, features=65) == 0


@pytest.mark.skipif(not torch.cuda.is_available() or cuda_architectures() == "", reason="needs a GPU and its kernels")
@pytest.mark.parametrize("features", [3, 4, 7, 8, 16, 27, 64])
def test_on_a_gpu(features: int) -> None:
    """Through the op, at sizes that go this way: against float64, and three calls to the same bits."""
    given = clear(*problem(300, 20000, features))
    x, weight, output_weight = (t.cuda().requires_grad_() for t in given)
    grad_f, _ = gradients_of_outputs(given)
    calls = []
    for _ in range(3):
        f = hx.two_layer(x, weight, output_weight, 1.5)
        calls.append((f.detach(), *torch.autograd.grad(f, (x, weight, output_weight), grad_f.cuda())))
    assert all(torch.equal(a, b) for other in calls[1:] for a, b in zip(calls[0], other, strict=True))
    slope = dense_gradient(*given, 1.5, "relu")
    exact = dense(*given, 1.5, "relu"), grad_f.double()[:, None] * slope
    for ours, theirs in zip(
        calls[0], (*exact, *dense_weight_gradients(grad_f, None, *given, 1.5, "relu")), strict=True
    ):
        near(ours.cpu(), theirs)
