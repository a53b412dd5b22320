"""Kernels of infinite width, and what a path of finite width gives at s, on a GPU beside the CPU."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from cases import BASES
from ntk.cases import problem
from ntk.infinite_cases import awkward
from torch import Tensor

import hrta_ext as hx
from hrta_ext.ntk.expectations import CLOSED_FORMS

pytestmark = pytest.mark.skipif(not hx.backends()["cuda"], reason="needs a GPU")
S = (0.0, 0.5, 1.0, 2.0)


def random(n: int, d: int, seed: int = 0) -> Tensor:
    return torch.randn(n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) / d**0.5


def check(x: Tensor, base: str, x2: Tensor | None = None, depth: int = 1) -> None:
    """1e-13 of the largest entry; exactly symmetric; the same bits again."""
    on_gpu = x.cuda(), None if x2 is None else x2.cuda()
    found, again = (hx.infinite_gram(on_gpu[0], S, base=base, x2=on_gpu[1], depth=depth) for _ in range(2))
    for got, same, true in zip(found, again, hx.infinite_gram(x, S, base=base, x2=x2, depth=depth), strict=True):
        assert got.is_cuda
        assert torch.equal(got, same)
        torch.testing.assert_close(got.cpu(), true, rtol=0, atol=1e-13 * float(true.abs().max()))
        assert x2 is not None or torch.equal(got, got.mT)


@pytest.mark.parametrize("base", BASES)
def test_every_base(base: str) -> None:
    check(awkward(40), base)
    check(random(200, 40), base, random(67, 40, 1))
    check(random(1, 1), base)
    if base in CLOSED_FORMS:
        check(random(100, 3), base, depth=3)


@pytest.mark.parametrize("float32", [False, True])
def test_many_samples(float32: bool) -> None:
    """Hundreds of tiles, against rows by themselves."""
    x = random(3001, 5)
    x = (x.float() if float32 else x).cuda()
    found = hx.infinite_gram(x, S, base="gelu")
    rows = hx.infinite_gram(x[1234:1240], S, base="gelu", x2=x)
    for got, true in zip(found, rows, strict=True):
        torch.testing.assert_close(got[:, 1234:1240], true, rtol=0, atol=1e-13 * float(true.abs().max()))
        assert torch.equal(got, got.mT)


def test_nothing_of_the_size_of_the_results_beside_them() -> None:
    x = random(4000, 4).cuda()
    for base in ("relu", "tanh"):
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        found = hx.infinite_gram(x, base=base)
        results = sum(part.nbytes for part in found)
        assert torch.cuda.max_memory_allocated() - before < results + (8 << 20)
        del found


def test_a_base_of_one_s_own() -> None:
    hx.register_base("cosine", torch.cos, lambda z: -torch.sin(z), lambda z: -torch.cos(z))
    for x, x2 in ((awkward(300), None), (random(33, 4), random(260, 4, 1))):
        found = hx.infinite_gram(x.cuda(), S, base="cosine", x2=None if x2 is None else x2.cuda())
        for got, true in zip(found, hx.infinite_gram(x, S, base="cosine", x2=x2), strict=True):
            torch.testing.assert_close(got.cpu(), true, rtol=0, atol=1e-12 * float(true.abs().max()))


def test_samples_that_are_not_finite_or_elsewhere() -> None:
    x = random(5, 2).cuda()
    with pytest.raises(ValueError, match="x2 must be on the device of x, cuda:0, got cpu"):
        hx.infinite_gram(x, x2=x.cpu())
    x[3, 1] = torch.nan
    with pytest.raises(ValueError, match="x must be finite, row 3"):
        hx.infinite_gram(x)


@pytest.fixture(scope="module")
def paths() -> tuple[hx.GramPath, hx.GramPath]:
    """The same sums on the GPU and on the CPU."""
    path = hx.random_gram_path(random(60, 3).cuda(), 50_000, batches=4)
    return path, path.to("cpu")


@pytest.mark.parametrize("where", ["cpu", "cuda"])
def test_values_at_s(paths: tuple[hx.GramPath, hx.GramPath], where: str) -> None:
    """s on either device; results on the path's."""
    s = torch.tensor([0.3, 1.0, 1.7], device=where)
    for name in ("__call__", "derivative", "standard_error", "eigenvalues", "lambda_min", "lambda_min_error"):
        got, true = (getattr(path, name)(s) for path in paths)
        for one, two in zip(*((v,) if isinstance(v, Tensor) else v for v in (got, true)), strict=True):
            assert one.is_cuda
            assert one.shape == two.shape
            loose = 1e-9 if name == "lambda_min_error" else 1e-12
            torch.testing.assert_close(one.cpu(), two, rtol=loose, atol=1e-13 * float(paths[1](2.0).ntk.max()))


def test_networks_have_spectra_of_their_own() -> None:
    x, weight, output_weight = problem(20, 3000, 3)
    stacked = torch.stack([weight, 2 * weight]), torch.stack([output_weight, output_weight])
    on_cpu = hx.gram_path(x, *stacked).lambda_min(S)
    on_gpu = hx.gram_path(x.cuda(), *(part.cuda() for part in stacked)).lambda_min(S)
    torch.testing.assert_close(on_gpu.cpu(), on_cpu, rtol=0, atol=1e-12 * float(on_cpu.abs().max() + 1))


def test_files_hold_values_and_paths_of_two_devices_do_not_add(
    paths: tuple[hx.GramPath, hx.GramPath], tmp_path: Path
) -> None:
    on_gpu, on_cpu = paths
    for name in ("path.npz", *(["path.safetensors"] if find_spec("safetensors") else [])):
        on_gpu.save(tmp_path / name)
        loaded = hx.GramPath.load(tmp_path / name)
        assert loaded.x.is_cpu
        assert all(torch.equal(one, two) for one, two in zip(loaded.sums, on_cpu.sums, strict=True))
    with pytest.raises(ValueError, match="same device, got cuda:0 and cpu"):
        on_gpu + on_cpu
    assert torch.equal((on_gpu + loaded.to("cuda"))(1.0).a, (on_gpu + on_gpu)(1.0).a)


def test_laws_of_spectra_on_two_devices(paths: tuple[hx.GramPath, hx.GramPath]) -> None:
    s = torch.tensor([0.5, 1.0, 2.0])
    assert hx.square_law(s, paths[0].lambda_min(s), 60, 3).exponent == pytest.approx(2.0, abs=0.2)
