"""ReLU with two features by arcs on a GPU, without one: the kernels run thread by thread on the CPU (tests/emulation).

A sample is active on a neuron where w . x > 0, exactly: the search is held to that sign, ties included. Sums are held
to the float64 formulas: 1e-5 (float32) and 1e-12 (float64) of the result's largest element, as everywhere.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import pytest
import torch
from emulated import Guarded, address, emulated
from network.cases import dense, dense_gradient, dense_weight_gradients, in_the_plane, problem
from torch import Tensor

from hrta_ext.bases import BASES as NUMBERED
from hrta_ext.compiled import KINDS

DTYPES = [torch.float32, torch.float64]
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}
SMALL_CARD = 16 * 1024  # bytes of shared memory, less than any plan's table and bounds: sums in global memory


@pytest.fixture(scope="module")
def loaded() -> Any:
    library = emulated("arcs.cpp")
    for name in ("arcs_search", "arcs_forward", "lanes_forward", "arcs_backward", "chosen_forward"):
        getattr(library, name).restype = ctypes.c_int64
    return library


@pytest.fixture
def kernels(loaded: Any) -> Iterator[Any]:
    yield loaded
    loaded.run_backwards(0)
    loaded.limit_shared(0)


def neurons(x: Tensor, m: int) -> Tensor:
    """Directions of every kind: random, perpendicular to a sample, next to that, on the axes, huge, tiny and zero."""
    generator = torch.Generator().manual_seed(m)
    w = torch.randn(m, 2, generator=generator, dtype=torch.float64).to(x.dtype)
    owner = torch.randint(len(x), (m,), generator=generator)
    sign = torch.randint(2, (m, 1), generator=generator).to(x.dtype) * 2 - 1
    tie = torch.stack((-x[owner, 1], x[owner, 0]), 1) * sign
    kind = torch.arange(m) % 8
    w = torch.where((kind == 1)[:, None], tie, w)
    away = torch.where(torch.rand(m, 2, generator=generator) < 0.5, torch.inf, -torch.inf).to(x.dtype)
    w = torch.where((kind == 2)[:, None], torch.nextafter(tie, away), w)
    w = torch.where((kind == 3)[:, None], torch.randint(-2, 3, (m, 2), generator=generator).to(x.dtype), w)
    w[kind == 4, 0] *= 1e36
    w[kind == 5] *= 1e-36
    w[kind == 6, 1] *= 1e-41  # not normal in float32
    return w


def exact_signs(x: Tensor, w: Tensor) -> Tensor:
    """Of w . x, shape (m, n). Products of float32 are exact in float64, and so is the sign of a sum of two."""
    if x.dtype == torch.float32:
        return torch.sign(w.double()[:, :1] * x.double()[:, 0] + w.double()[:, 1:] * x.double()[:, 1])
    rows, columns = ([[Fraction(v) for v in row] for row in t.tolist()] for t in (w, x))
    signs = [[(lambda z: (z > 0) - (z < 0))(a * c + b * d) for c, d in columns] for a, b in rows]
    return torch.tensor(signs, dtype=torch.float64)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["grid", "ring", "integers", "spread"])
@pytest.mark.parametrize("n", [1, 2, 7, 60, 4200])
def test_every_neuron_is_active_where_the_exact_sign_says(kernels: Any, kind: str, n: int, dtype: torch.dtype) -> None:
    """For every pair. Arcs know how many samples are active on them; w = 0 is active on none. 4200: a finer table, and
    ranks among the bounds nearby, with and without ties.
    """
    if n == 4200 and (kind not in ("ring", "integers") or dtype != torch.float32):
        pytest.skip("two kinds are enough")
    x = in_the_plane(kind, n, dtype)
    w = neurons(x, 4000 if dtype == torch.float32 else 400)
    sizes = torch.tensor([n, len(w)])
    found = [torch.full((count,), -7, dtype=torch.int32) for count in (len(w), n, n, 2 * n + 2)]
    fixed = [KINDS[dtype], *map(address, (sizes, x, w, *found))]
    scratch = torch.full((kernels.arcs_search(*fixed, None),), 255, dtype=torch.uint8)
    for backwards in (0, 1) if n < 4200 else (0,):
        kernels.run_backwards(backwards)
        assert kernels.arcs_search(*fixed, address(scratch)) == 1
        arc, begin, end, active = (t.long() for t in found)
        past_begin, past_end = arc[:, None] > begin, arc[:, None] > end
        on = torch.where(begin < end, past_begin & ~past_end, past_begin | ~past_end)
        on &= (begin >= 0) & (arc != 2 * n + 1)[:, None]
        assert torch.equal(on, exact_signs(x, w) > 0)
        assert torch.equal(active[arc], on.sum(1))
        assert ((begin < 0) == (x == 0).all(1)).all()
    x[0, 1] = torch.nan
    assert kernels.arcs_search(*fixed, address(scratch)) == 0


class Problem:
    """One call by arcs, run twice, the second time with the threads in the opposite order, to the same bits."""

    def __init__(self, kernels: Any, x: Tensor, weight: Tensor, output_weight: Tensor, s: float) -> None:
        self.kernels, self.arguments, self.s = kernels, (x, weight, output_weight), s
        self.networks = output_weight.numel() // output_weight.shape[-1]
        self.sizes = torch.tensor([self.networks, len(x), weight.shape[-2]])
        self.s_value = torch.tensor(s, dtype=torch.float64)
        self.leading = output_weight.shape[:-1]

    def run(self, function: str, results: list[Guarded | None], *more: Any, between: tuple[Any, ...] = ()) -> None:
        given = [KINDS[self.arguments[0].dtype], *map(address, (self.sizes, *self.arguments, self.s_value))]
        given += [*between, *(address(None if g is None else g.result) for g in results), *more]
        found = []
        for backwards in (0, 1):
            self.kernels.run_backwards(backwards)
            bytes_ = getattr(self.kernels, function)(*given, None)
            scratch = Guarded(((bytes_ + 7) // 8,), torch.float64, off=1)
            for g in results:
                if g is not None:
                    g.result.fill_(torch.nan)
            getattr(self.kernels, function)(*given, address(scratch.result))
            scratch.checked()
            found.append([g.checked().clone() for g in results if g is not None])
        self.kernels.run_backwards(0)
        for a, b in zip(*found, strict=True):
            assert torch.equal(a.nan_to_num(7.0), b.nan_to_num(7.0))

    def forward(
        self,
        in_double: bool,
        slope: bool = True,
        of_s: bool = False,
        done: Tensor | None = None,
        off: int = 1,
        function: str = "arcs_forward",
    ) -> tuple[Tensor, Tensor | None]:
        """f and df/dx, or with ``of_s`` df/ds and nothing."""
        x = self.arguments[0]
        dtype = torch.float64 if in_double else x.dtype
        f = Guarded((*self.leading, len(x)), dtype, off)
        df_dx = Guarded((*self.leading, *x.shape), dtype, off) if slope and not of_s else None
        self.run(function, [f, df_dx], int(in_double), int(of_s), address(done))
        return f.result, None if df_dx is None else df_dx.result

    def backward(self, grad_f: Tensor | None, grad_df_dx: Tensor | None, off: int = 1) -> list[Tensor]:
        _, weight, output_weight = self.arguments
        results = [Guarded(tuple(t.shape), t.dtype, off) for t in (weight, output_weight)]
        self.run("arcs_backward", [*results], between=(address(grad_f), address(grad_df_dx)))
        return [g.result for g in results]

    def check(self, off: int = 1) -> None:
        """f, df/dx, df/ds, and the gradients in the weights, against the dense formulas."""
        x = self.arguments[0]
        generator = torch.Generator().manual_seed(1)
        grad_f = torch.randn(*self.leading, len(x), generator=generator, dtype=torch.float64).to(x.dtype)
        grad_df_dx = torch.randn(*self.leading, *x.shape, generator=generator, dtype=torch.float64).to(x.dtype)
        exact = dense(*self.arguments, self.s, "relu"), dense_gradient(*self.arguments, self.s, "relu")
        for in_double in (False, True):
            for ours, theirs in zip(self.forward(in_double, off=off), exact, strict=True):
                near(ours, theirs, x.dtype)
        at_1, at_0 = (dense(*self.arguments, t, "relu") for t in (1.0, 0.0))
        near(self.forward(True, of_s=True)[0], at_1 - at_0, x.dtype)
        for given in ((grad_f, None), (None, grad_df_dx), (grad_f, grad_df_dx)):
            of_f = torch.zeros_like(grad_f) if given[0] is None else grad_f
            theirs = dense_weight_gradients(of_f, given[1], *self.arguments, self.s, "relu")
            for ours, other in zip(self.backward(*given, off=off), theirs, strict=True):
                near(ours, other, x.dtype)


def near(ours: Tensor, exact: Tensor, dtype: torch.dtype) -> None:
    atol = TOLERANCE[dtype] * exact.abs().max().item() + 1e-300
    torch.testing.assert_close(ours.double(), exact, rtol=0.0, atol=atol)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shared", [0, SMALL_CARD])
@pytest.mark.parametrize(
    ("n", "m", "networks", "s"),
    [(1, 1, (), 1.5), (2, 3, (3,), 0.5), (37, 4097, (), 1.0), (130, 5000, (2,), 0.5), (520, 100, (), 1.5)],
)
def test_every_pass_at_ragged_sizes(
    kernels: Any, dtype: torch.dtype, shared: int, n: int, m: int, networks: tuple[int, ...], s: float
) -> None:
    """Against warps, tiles and shares, with sums in shared memory and, on a smaller card, in global memory."""
    kernels.limit_shared(shared)
    Problem(kernels, *problem(n, m, 2, dtype, networks), s).check()


@pytest.mark.parametrize(
    ("shared", "n", "m", "networks"), [(0, 5, 3, 140), (0, 3, 4100, 70), (SMALL_CARD, 3, 4100, 70)]
)
def test_many_networks_and_tiles(kernels: Any, shared: int, n: int, m: int, networks: int) -> None:
    """More networks than there are shares to give; shares of two tiles and of one, and two blocks for one share."""
    kernels.limit_shared(shared)
    one = Problem(kernels, *problem(n, m, 2, torch.float64, (networks,)), 0.5)
    near(one.forward(False)[0], dense(*one.arguments, 0.5, "relu"), torch.float64)
    if shared == 0:
        grad_f = torch.ones(networks, n, dtype=torch.float64)
        theirs = dense_weight_gradients(grad_f, None, *one.arguments, 0.5, "relu")
        for ours, other in zip(one.backward(grad_f, None), theirs, strict=True):
            near(ours, other, torch.float64)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [1100])
def test_many_samples(kernels: Any, dtype: torch.dtype, n: int) -> None:
    """A finer table, and the wide block that goes around the circle."""
    Problem(kernels, in_the_plane("grid", n, dtype), *problem(1, 300, 2, dtype)[1:], 1.5).check()


@pytest.mark.parametrize("off", [1, 2, 3])
def test_arrays_off_the_16_byte_grid(kernels: Any, off: int) -> None:
    """Views of larger arrays begin anywhere: no 16-byte access then, which would fault here too."""
    arguments = []
    for tensor in problem(9, 70, 2, torch.float32, (2,)):
        view = Guarded(tuple(tensor.shape), tensor.dtype, off)
        view.result.copy_(tensor)
        arguments.append(view.result)
    Problem(kernels, *arguments, 0.5).check(off)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shared", [0, SMALL_CARD])
def test_ties_and_zeros_give_exactly_zero(kernels: Any, dtype: torch.dtype, shared: int) -> None:
    """At s = 1: samples that no neuron is active on have f = df/dx = 0, and neurons that are active on no sample no
    gradient, whatever the sums beside them round to."""
    kernels.limit_shared(shared)
    generator = torch.Generator().manual_seed(2)
    x = torch.tensor([[1.0, 0.0], [3.0, 0.0], [1.0, 1.0], [0.0, 0.0], [0.1, 1.0], [0.7, 1.3], [-1.0, 0.0]]).to(dtype)
    weight = torch.rand(300, 2, generator=generator, dtype=torch.float64).to(dtype)
    weight[:, 0] = 0.0  # ties with the first two samples and the last
    weight[5] = 0.0
    output_weight = torch.randn(300, generator=generator, dtype=torch.float64).to(dtype)
    one = Problem(kernels, x, weight, output_weight, 1.0)
    f, df_dx = one.forward(False)
    silent = torch.tensor([0, 1, 3, 6])
    assert torch.equal(f[silent], torch.zeros(4, dtype=dtype))
    assert torch.equal(df_dx[silent], torch.zeros(4, 2, dtype=dtype))
    assert (f[[2, 4, 5]] != 0).all()
    weight[100:200] = torch.tensor([-1.0, -1.0]) * torch.rand(100, 1, generator=generator)
    weight[100:200:2] = -torch.tensor([0.0, 1.0], dtype=dtype)
    x[6] = 0.0
    grad_w, grad_a = Problem(kernels, x, weight, output_weight, 1.0).backward(0.1 + torch.rand(7).to(dtype), None)
    assert torch.equal(grad_w[100:200], torch.zeros(100, 2, dtype=dtype))
    assert torch.equal(grad_a[100:200], torch.zeros(100, dtype=dtype))
    assert (grad_a[:5] != 0).all()
    assert torch.equal(grad_w[5], torch.zeros(2, dtype=dtype))
    Problem(
        kernels,
        in_the_plane("integers", 200, dtype),
        in_the_plane("integers", 500, dtype),
        output_weight.repeat(2)[:500],
        0.5,
    ).check()


@pytest.mark.parametrize("shared", [0, SMALL_CARD])
def test_outliers_and_extremes(kernels: Any, shared: int) -> None:
    """The last neurons are a million times larger than those by which their share judges its fixed point, so that it
    begins again; products near float32's largest and smallest."""
    kernels.limit_shared(shared)
    networks = (70,) if shared == 0 else (1,)  # 70: three tiles for two shares; in global memory nobody begins again
    x, weight, output_weight = problem(3, 4130, 2, torch.float64, networks)
    output_weight[:, -30:] *= 1e6
    one = Problem(kernels, x, weight, output_weight, 0.5)
    near(one.forward(True)[0], dense(*one.arguments, 0.5, "relu"), torch.float64)
    x, weight, output_weight = problem(11, 200, 2, torch.float32)
    Problem(kernels, x / 7, weight * 1e30, output_weight, 0.5).check()
    Problem(kernels, x, weight / 1e30, output_weight * 1e-6, 1.5).check()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("where", ["x", "weight", "output_weight", "grad"])
@pytest.mark.parametrize("s", [1.0, 0.5])
def test_what_is_not_finite_shows_where_it_belongs(kernels: Any, where: str, value: float, s: float) -> None:
    """In f of the samples that see it and in the gradients of the neurons that do; forward the lanes do the work."""
    x, weight, output_weight = problem(20, 100, 2, torch.float32)
    grad = torch.ones(20)
    {"x": x[5], "weight": weight[6], "output_weight": output_weight[7:8], "grad": grad[8:9]}[where][0] = value
    one = Problem(kernels, x, weight, output_weight, s)
    found = one.forward(False, slope=False)[0], *one.backward(grad, None)
    for ours, theirs in zip(found, by_pairs(x, weight, output_weight, grad, s), strict=True):
        fine = theirs.isfinite()
        assert torch.equal(ours.isfinite(), fine)
        torch.testing.assert_close(ours[fine].double(), theirs[fine], rtol=1e-5, atol=1e-5)
    if where == "grad":
        return
    for arguments in ({"in_double": True}, {"in_double": False}, {"in_double": True, "of_s": True}):
        ours, theirs = one.forward(**arguments), one.forward(**arguments, function="lanes_forward")
        for a, b in zip(ours, theirs, strict=True):
            assert a is b is None or torch.equal(a.nan_to_num(7.0), b.nan_to_num(7.0))


def by_pairs(x: Tensor, weight: Tensor, output_weight: Tensor, grad: Tensor, s: float) -> tuple[Tensor, ...]:
    """f and the weights' gradients by sums over active pairs alone, in which nobody multiplies 0 by infinity."""
    x, w, a, g = (t.double() for t in (x, weight, output_weight, grad))
    z = x[:, :1] * w[:, 0] + x[:, 1:] * w[:, 1]  # (n, m)
    active, q, scale = z > 0, 1.0 - s, w.shape[0] ** -0.5
    none = torch.zeros((), dtype=torch.float64)

    def combined(linear: Tensor, curved: Tensor) -> Tensor:
        return scale * ((q * linear if q != 0 else none) + s * curved)

    V = (a[:, None] * w).sum(0)
    S = (a * torch.where(active | z.isnan(), z, none)).sum(1)
    r = g[:, None] * x
    R = r.sum(0)
    H = torch.where(active.T[..., None], r, none).sum(1)  # (m, D)
    return (
        combined((x * V).sum(1), S),
        a[:, None] * combined(R.expand_as(H), H),
        combined((w * R).sum(1), (w * H).sum(1)),
    )


def test_nothing_is_done_once_a_training_has_stopped(kernels: Any) -> None:
    one = Problem(kernels, *problem(5, 40, 2), 0.5)
    for shared in (0, SMALL_CARD):
        kernels.limit_shared(shared)
        f, df_dx = one.forward(True, done=torch.tensor(1))
        assert f.isnan().all()
        assert df_dx.isnan().all()
        assert one.forward(True, done=torch.tensor(0))[0].isfinite().all()


def test_the_shared_memory_of_a_card_changes_no_bit(kernels: Any) -> None:
    """Fewer copies of each sum fit on a smaller card: integers, so the same sums."""
    one = Problem(kernels, *problem(300, 4500, 2, torch.float32), 0.5)
    found = []
    for shared in (0, 100 * 1024, 48 * 1024):
        kernels.limit_shared(shared)
        found.append(one.forward(False)[0].clone())
    assert torch.equal(found[1], found[0])
    assert torch.equal(found[2], found[0])


def test_only_where_they_win(kernels: Any) -> None:
    """ReLU, two features, neurons enough to repay the plan; and then the pass that chooses takes them."""

    def serve(networks: int, n: int, m: int, base: str = "relu", features: int = 2) -> bool:
        sizes = torch.tensor([networks, n, m])
        return bool(
            kernels.arcs_serve(KINDS[torch.float32], NUMBERED[base].number, ctypes.c_int64(features), address(sizes))
        )

    assert serve(1, 1000, 140_000)
    assert serve(100, 1000, 5000)
    assert not serve(1, 1000, 100_000)
    assert not serve(1, 100, 10**6)
    assert serve(1, 100, 10**7)
    assert serve(1, 1, 10**8)
    assert not serve(1, 40_000, 10**9)
    assert not serve(10**6, 1000, 1000)
    assert not serve(1, 1000, 10**7, features=3)
    assert not serve(1, 1000, 10**7, base="relu2")
    one = Problem(kernels, *problem(100, 1_350_000, 2, torch.float32), 1.5)
    f, chosen = one.forward(False)[0], Guarded((100,), torch.float32)
    one.run("chosen_forward", [chosen])
    assert torch.equal(chosen.result, f)
