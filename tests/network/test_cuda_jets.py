"""The CUDA kernels of the jet without a GPU, by lanes and by tiles, as test_cuda_emulation.py has the others."""

from __future__ import annotations

import ctypes
from typing import Any

import pytest
import torch
from cases import BASES
from emulated import Guarded, address, emulated
from network.cases import dense, dense_gradient, dense_jet_gradients, dense_second, jet_limits, problem
from torch import Tensor

from hrta_ext.bases import BASES as NUMBERED
from hrta_ext.compiled import KINDS
from hrta_ext.network.second import FORMS, Second

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}
Grads = tuple[Tensor | None, Tensor | None, Tensor | None]


@pytest.fixture(scope="module")
def kernels() -> Any:
    loaded = emulated("network.cpp")
    loaded.two_layer_jet_pass.restype = ctypes.c_int64
    return loaded


def described(backward: bool, base: str, dtype: torch.dtype, second: Second) -> list[Any]:
    columns = ctypes.c_uint64(sum(1 << column for column in second.columns))
    return [int(backward), KINDS[dtype], NUMBERED[base].number, FORMS.index(second.form), columns]


def run(
    kernels: Any,
    arguments: tuple[Tensor, Tensor, Tensor],
    s: float,
    base: str,
    second: Second,
    grads: Grads = (None, None, None),
) -> list[Tensor]:
    """The jet, or its gradients where ``grads`` has those of second; threads in either order give the same bits."""
    x, weight, output_weight = arguments
    networks, (n, features) = output_weight.shape[:-1], x.shape
    sizes = torch.tensor([output_weight.numel() // output_weight.shape[-1], *x.shape, weight.shape[-2]])
    shapes = [(*networks, n), (*networks, n, features), (*networks, n, second.size())]
    if grads[2] is not None:
        shapes = [tuple(weight.shape), tuple(output_weight.shape)]
    s_value = torch.tensor(s, dtype=torch.float64)
    found = []
    for backwards in (0, 1):
        kernels.run_backwards(backwards)
        results = [Guarded(shape, x.dtype, off=1) for shape in shapes]
        fixed = [*described(grads[2] is not None, base, x.dtype, second), address(sizes)]
        fixed += [address(t) for t in (x, weight, output_weight, s_value, *grads)]
        fixed += [address(None if g is None else g.result) for g in (*results, None)[:3]]
        scratch = Guarded((kernels.two_layer_jet_pass(*fixed, None) // 8,), torch.float64, off=1)
        kernels.two_layer_jet_pass(*fixed, address(scratch.result))
        scratch.checked()
        found.append([result.checked() for result in results])
    kernels.run_backwards(0)
    torch.testing.assert_close(found[0], found[1], rtol=0.0, atol=0.0, equal_nan=True)
    return found[0]


def near(ours: Tensor, exact: Tensor, dtype: torch.dtype) -> None:
    scale = exact.abs().max().item() if exact.numel() else 0.0
    torch.testing.assert_close(ours.double(), exact, rtol=0.0, atol=TOLERANCE[dtype] * scale + 1e-300)


def check(
    kernels: Any,
    dtype: torch.dtype,
    base: str,
    s: float,
    sizes: tuple[int, int, int],
    form: str = "laplacian",
    columns: list[int] | None = None,
    networks: tuple[int, ...] = (),
) -> None:
    """The jet, its gradients, and those of the second derivatives alone."""
    n, m, features = sizes
    columns = list(range(features)) if columns is None else columns
    second = Second(form, tuple(columns))
    arguments = problem(n, m, features, dtype, networks)
    f, df_dx, seconds = run(kernels, arguments, s, base, second)
    near(f, dense(*arguments, s, base), dtype)
    near(df_dx, dense_gradient(*arguments, s, base), dtype)
    near(seconds, dense_second(*arguments, s, base, form, columns), dtype)
    generator = torch.Generator().manual_seed(1)
    g, G, h = (torch.randn(t.shape, generator=generator, dtype=torch.float64).to(dtype) for t in (f, df_dx, seconds))
    for grads in ((g, G, h), (None, None, h)):
        exact = dense_jet_gradients(grads, *arguments, s, base, form, columns)
        for ours, theirs in zip(run(kernels, arguments, s, base, second, grads), exact, strict=True):
            near(ours, theirs, dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("base", BASES)
def test_every_base(kernels: Any, dtype: torch.dtype, base: str) -> None:
    """By lanes and by tiles; batched networks; columns that are not all."""
    check(kernels, dtype, base, 1.5, (37, 70, 3), columns=[0, 2])
    check(kernels, dtype, base, 0.5, (35, 37, 3), "hessian", networks=(2,))


@pytest.mark.parametrize("features", [1, 2, 4, 5, 6, 8])
def test_every_number_of_features_in_lanes(kernels: Any, features: int) -> None:
    """Padded to the next number that a kernel was compiled for; any form of one number is a Laplacian."""
    form = FORMS[features % 3]
    columns = [features - 1] if form != "laplacian" else None
    check(kernels, torch.float32, "tanh", 1.0, (33, 66, features), form, columns)
    check(kernels, torch.float64, "gelu", 0.7, (5, 65, features), form, columns, (3,))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("sizes", "form", "columns", "networks"),
    [
        ((33, 65, 9), "laplacian", None, ()),
        ((70, 33, 13), "laplacian", [3, 11], (2,)),
        ((5, 66, 4), "diagonal", [1, 3], ()),
        ((1, 1, 2), "hessian", None, (3,)),
        ((34, 35, 11), "hessian", list(range(10)), ()),
        ((17, 33, 33), "diagonal", None, ()),
        ((33, 5, 64), "diagonal", None, ()),
        ((5, 34, 64), "laplacian", None, ()),
    ],
)
def test_tiles(
    kernels: Any,
    dtype: torch.dtype,
    sizes: tuple[int, int, int],
    form: str,
    columns: list[int] | None,
    networks: tuple[int, ...],
) -> None:
    """One to eight features or numbers of a thread; ragged tiles, less than one, and the most numbers."""
    check(kernels, dtype, "softplus", 1.5, sizes, form, columns, networks)


@pytest.mark.parametrize("sizes", [(129, 129, 2), (300, 5, 2), (3, 1100, 2)])
@pytest.mark.parametrize("form", ["laplacian", "hessian"])
def test_ragged_sizes(kernels: Any, form: str, sizes: tuple[int, int, int]) -> None:
    """Chunks of many tiles; samples split where neurons are few."""
    check(kernels, torch.float32, "sin", 0.7, sizes, form)


@pytest.mark.parametrize("form", ["laplacian", "diagonal"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_infinity_and_nan_stay_where_they_belong(kernels: Any, dtype: torch.dtype, form: str) -> None:
    """tanh is finite at infinity, and what pads a tile is neither sample nor neuron."""
    x, weight, output_weight = problem(35, 37, 3, dtype)
    second = Second(form, (0, 1, 2))
    x = x.abs() + 0.1
    x[1, 0], x[2, 0] = torch.nan, torch.inf
    for part in run(kernels, (x, weight, output_weight), 1.0, "tanh", second):
        assert part.isnan().reshape(35, -1).any(1).nonzero().tolist() == [[1]]
    x, weight[4, 0] = x[3:].contiguous(), torch.nan
    ones = torch.ones(32, 3, dtype=dtype)
    grads = ones[:, 0].contiguous(), ones, ones[:, : second.size()].contiguous()
    for part in run(kernels, (x, weight, output_weight), 1.0, "tanh", second, grads):
        assert part.reshape(37, -1).isfinite().all(1).logical_not().nonzero().tolist() == [[4]]


def test_no_samples_and_no_networks(kernels: Any) -> None:
    """Zero gradients, and nothing that a GPU would refuse to launch."""
    for form in ("laplacian", "hessian"):
        second = Second(form, (0, 1))
        arguments = problem(0, 5, 2)
        assert all(part.numel() == 0 for part in run(kernels, arguments, 0.5, "tanh", second))
        for grad in run(kernels, arguments, 0.5, "tanh", second, (None, None, torch.zeros(0, second.size()).double())):
            assert torch.equal(grad, torch.zeros_like(grad))
        none = problem(4, 5, 2, networks=(0,))
        assert all(part.numel() == 0 for part in run(kernels, none, 0.5, "tanh", second))


@pytest.mark.parametrize(
    ("n", "features", "form"), [(100, 3, "laplacian"), (1000, 11, "laplacian"), (1000, 3, "hessian")]
)
def test_scratch_memory_does_not_grow_with_the_width(kernels: Any, n: int, features: int, form: str) -> None:
    """At most 64 MiB at a billion neurons, and no more than at ten million."""
    second = Second(form, tuple(range(features)))

    def scratch(backward: bool, width: int) -> int:
        sizes = torch.tensor([1, n, features, width])
        given = [*described(backward, "tanh", torch.float32, second), address(sizes), *[None] * 11]
        found: int = kernels.two_layer_jet_pass(*given)
        return found

    for backward in (False, True):
        assert 0 < scratch(backward, 10**9) <= min(scratch(backward, 10**7) * 1.05, 64 * 2**20)


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("form", ["laplacian", "diagonal"])
def test_infinity_gives_the_limit_or_no_number(kernels: Any, base: str, form: str) -> None:
    """As on the CPU (test_jets.py), by lanes and by tiles, which are padded in both directions."""
    for dtype, s in ((torch.float32, 1.0), (torch.float64, 0.5), (torch.float64, 1.5)):
        for place, infinity in ((0, torch.inf), (0, -torch.inf), (1, torch.inf), (2, -torch.inf)):
            given = problem(6, 37, 3, dtype, seed=1)
            given[place].view(-1)[4] = infinity
            expected = jet_limits(*given, s, base, form)
            for got, limit in zip(run(kernels, given, s, base, Second(form, (0, 1, 2))), expected, strict=True):
                finite = got.isfinite()
                assert torch.equal(finite, limit.isfinite()) if place == 0 else bool((finite <= limit.isfinite()).all())
                near(got[finite], limit[finite], dtype)
