"""Shapes, strides and dtypes: the result has x's shape and dtype and the layout that torch's own op gives."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from cases import BASES, DTYPES, homotopy, spread
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

import hrta_ext as hx


def layouts(x: Tensor) -> dict[str, Tensor]:
    """Views of one (2, 3, 4, 6) tensor in every kind of layout."""
    return {
        "contiguous": x,
        "transposed": x.permute(3, 1, 0, 2),
        "channels_last": x.contiguous(memory_format=torch.channels_last),
        "sliced": x[:, :, ::2, 1:5],
        "negative step": x.flip(0)[:, 1:],
        "offset": x.flatten()[3:],
        "expanded": x[:, :1].expand(2, 5, 4, 6),
        "row of zero stride": x[0, 0, 0].expand(7, 6),
        "0-dim": x[0, 0, 0, 0],
        "empty": x[:0],
        "one element": x[:1, :1, :1, :1],
    }


NAMES = tuple(layouts(torch.zeros(2, 3, 4, 6)))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_layout_gives_the_values_and_the_strides_of_torch(
    device: torch.device, name: str, dtype: torch.dtype
) -> None:
    x = layouts(spread(dtype, 144).reshape(2, 3, 4, 6).to(device))[name]
    plain = F.leaky_relu(x, 0.25)
    for base in ("relu", "silu"):
        for s in (0.75, torch.tensor(0.75, dtype=torch.float64, device=device)):
            y = hx.homotopy(x, s, base)
            assert y.shape == x.shape
            assert y.dtype == dtype
            longer = [axis for axis, size in enumerate(x.shape) if size > 1]  # other strides mean nothing
            assert [y.stride(axis) for axis in longer] == [plain.stride(axis) for axis in longer]
            tolerance = 2 * torch.finfo(dtype).eps
            torch.testing.assert_close(
                y.cpu().double(), homotopy(x.cpu(), 0.75, base), rtol=tolerance, atol=4 * torch.finfo(dtype).eps
            )


@pytest.mark.parametrize("name", [n for n in NAMES if n != "0-dim"])
def test_one_s_per_feature_belongs_to_the_last_dimension_in_every_layout(device: torch.device, name: str) -> None:
    x = layouts(spread(torch.float64, 144).reshape(2, 3, 4, 6).to(device))[name]
    s = torch.linspace(0, 2, x.shape[-1], dtype=torch.float64, device=device)
    for base in BASES:
        for order in (0, 1, 2):
            y = hx.homotopy(x, s, base, order=order)
            torch.testing.assert_close(y.cpu(), homotopy(x.cpu(), s.cpu(), base, order), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 255, 256, 257, 1023, 1024, 1025, 16_385, 40_001])
def test_sizes_around_every_block(device: torch.device, count: int) -> None:
    """Bytes of the mask (8), blocks (1024) and tasks (16384): forward, backward, and no write past the end."""
    x = spread(torch.float32, max(count, 8))[:count].to(device).requires_grad_()
    guarded = torch.full((count + 64,), 7.0, device=device)
    for base in ("relu", "gelu"):
        y = hx.homotopy(x, 1.5, base)
        (g,) = torch.autograd.grad(y, x, torch.full_like(y, 2.0))
        torch.testing.assert_close(
            y.detach().cpu().double(), homotopy(x.detach().cpu(), 1.5, base), rtol=1e-6, atol=1e-6
        )
        torch.testing.assert_close(g.cpu().double(), 2 * homotopy(x.detach().cpu(), 1.5, base, 1), rtol=1e-6, atol=1e-6)
        inside = guarded[32 : 32 + count]
        inside.copy_(x.detach())
        hx.homotopy_(inside, 1.5, base)
        assert torch.equal(inside, y.detach())
        assert (guarded[:32] == 7).all()
        assert (guarded[32 + count :] == 7).all()


@st.composite
def problems(draw: st.DrawFn) -> tuple[Tensor, float | Tensor, str, int]:
    """A strided view of random numbers, an s, a base, an order."""
    shape = tuple(draw(st.lists(st.integers(0, 6), min_size=0, max_size=4)))
    dtype = draw(st.sampled_from(DTYPES))
    x = spread(dtype, 6**4 + 6, seed=draw(st.integers(0, 9)))[6:]
    x = x[: torch.Size(shape).numel()].reshape(shape)
    if shape:
        x = x.permute(draw(st.permutations(range(len(shape)))))
        axis, step = draw(st.integers(0, len(shape) - 1)), draw(st.integers(1, 3))
        x = x[(slice(None),) * axis + (slice(None, None, step),)]
    s = draw(st.floats(-3, 3, width=32))
    per_feature = bool(shape) and draw(st.booleans())
    parameter = torch.linspace(s, 1.0, x.shape[-1], dtype=torch.float64) if per_feature else s
    return x, parameter, draw(st.sampled_from(BASES)), draw(st.integers(0, 2))


@given(problem=problems())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_shape_stride_dtype_and_s(device: torch.device, problem: tuple[Tensor, float | Tensor, str, int]) -> None:
    x, s, base, order = problem
    on_device = s.to(device) if isinstance(s, Tensor) else s
    y = hx.homotopy(x.to(device), on_device, base, order=order)
    assert y.shape == x.shape
    assert y.dtype == x.dtype
    exact = homotopy(x, s, base, order)
    size = 1 + x.double().abs() * (1 + x.double().abs() * (base == "relu2"))
    bound = 8 * torch.finfo(x.dtype).eps * size * 4
    assert ((y.cpu().double() - exact).abs() <= bound).all()


def test_conjugate_and_negative_views_are_read_as_they_mean(device: torch.device) -> None:
    """The imaginary part of a conjugate is a view whose sign is only noted, not stored."""
    z = torch.complex(spread(torch.float64, 9), spread(torch.float64, 9, seed=1)).to(device)
    x = z.conj().imag
    assert x.is_neg()
    expected = hx.homotopy(x.clone(), 1.5, "tanh")
    assert torch.equal(hx.homotopy(x, 1.5, "tanh"), expected)
    leaf = spread(torch.float64, 9).to(device).requires_grad_()
    (g,) = torch.autograd.grad(hx.homotopy(leaf, 1.5), leaf, x)
    assert torch.equal(g, x * hx.homotopy(leaf.detach(), 1.5, order=1))


@pytest.mark.parametrize("threads", [1, 2])
def test_number_of_threads_changes_no_bit(device: torch.device, threads: int) -> None:
    x = spread(torch.float32, 200_001).to(device)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        results = [hx.homotopy(x, 0.7, base) for base in BASES]
        torch.set_num_threads(3 - threads)
        for base, result in zip(BASES, results, strict=True):
            assert torch.equal(hx.homotopy(x, 0.7, base), result)
    finally:
        torch.set_num_threads(before)


def test_large_arguments_of_sin_do_not_change_their_neighbours() -> None:
    """One huge |x| sends its block of sin through another loop, whose bits must agree below the limit."""
    if not hx.backends()["cpp"]:
        pytest.skip("needs the compiled kernels")
    for dtype in (torch.float32, torch.float64):
        x = spread(dtype, 2000)
        y = hx.homotopy(x, 0.7, "sin")
        x[5] = 1e30
        z = hx.homotopy(x, 0.7, "sin")
        assert torch.equal(torch.cat([y[:5], y[6:]]), torch.cat([z[:5], z[6:]]))


def test_more_than_two_to_the_31_elements() -> None:
    """Indices are 64-bit: 2^31 + 3 bfloat16 elements in place (4.3 GB); the end must be reached."""
    if not hx.backends()["cpp"]:
        pytest.skip("the torch backend holds temporaries of several times the size")
    count = 2**31 + 3
    try:
        import resource

        available = resource.getrlimit(resource.RLIMIT_AS)[0]
        with open("/proc/meminfo", encoding="ascii") as memory:
            free = next(int(line.split()[1]) * 1024 for line in memory if line.startswith("MemAvailable"))
    except (ImportError, OSError):
        pytest.skip("no way to tell how much memory is free")
    if free < 8e9 or 0 < available < 8e9:
        pytest.skip("needs 8 GB of free memory")
    x = torch.ones(count, dtype=torch.bfloat16)
    x[2**31 - 2 :] = -1
    hx.homotopy_(x, 1.5)
    assert x[2**31 - 4 :].tolist() == [1.0, 1.0, 0.5, 0.5, 0.5, 0.5, 0.5]
