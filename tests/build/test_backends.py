"""Choice of backend, build facts, SIMD levels, and what an install without compiled kernels does."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from cases import BASES, spread

import hrta_ext as hx
from hrta_ext import compiled
from hrta_ext.backends import asked_for, why_not, why_not_on

PACKAGE = Path(hx.__file__).parent


def python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], env=os.environ | environment, capture_output=True, text=True, timeout=300
    )


def test_backends_and_build_info_say_what_is_there() -> None:
    usable = hx.backends()
    assert set(usable) == {"cuda", "cpp", "torch"}
    assert usable["torch"] is True
    info = hx.build_info()
    assert info["torch"] == torch.__version__
    assert info["version"] == hx.__version__
    if usable["cpp"]:
        assert info["simd"] in info["simd_levels"]
        assert info["compiler"]
    assert (info["cuda_reason"] is None) == usable["cuda"]


def test_use_backend_forces_and_restores() -> None:
    x = spread(torch.float32)
    with hx.use_backend("torch"):
        inside = hx.homotopy(x, 0.5, "tanh")
        with pytest.raises(RuntimeError, match="stop"), hx.use_backend("torch"):
            raise RuntimeError("stop")
        assert asked_for() == "torch"
    assert asked_for() is None
    torch.testing.assert_close(inside, hx.homotopy(x, 0.5, "tanh"), rtol=1e-6, atol=1e-6)


def test_use_backend_errors() -> None:
    with (
        pytest.raises(ValueError, match="use_backend must be one of torch, native, cpp, cuda, got 'gpu'"),
        hx.use_backend("gpu"),
    ):
        pass
    if not hx.backends()["cuda"]:
        with pytest.raises(ValueError, match=r"use_backend: backend 'cuda' is not usable: .+"), hx.use_backend("cuda"):
            pass
    if hx.backends()["cpp"]:
        hx.register_base("test_backends_cos", torch.cos, lambda x: -x.sin(), lambda x: -x.cos())
        with hx.use_backend("native"), pytest.raises(ValueError, match="cannot serve a base that you registered"):
            hx.homotopy(torch.zeros(2), 0.5, "test_backends_cos")


CARDS = {(7, 5): "T4", (8, 6): "A10", (9, 0): "H100", (10, 3): "B300", (12, 0): "RTX 5090"}


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """One GPU of each compute capability given, and a binary with CUDA kernels for ``targets``."""

    def pretend(targets: str, *capabilities: tuple[int, int]) -> None:
        compiled.has_image.cache_clear()
        monkeypatch.setattr(compiled, "IMPORT_ERROR", None)
        monkeypatch.setattr(compiled, "old_driver", lambda: None)
        monkeypatch.setattr(compiled, "cuda_architectures", lambda: targets)
        monkeypatch.setattr(torch.version, "cuda", "13.0")
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: len(capabilities))
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capabilities[device])
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: CARDS[capabilities[device]])

    yield pretend
    compiled.has_image.cache_clear()


@pytest.mark.parametrize(
    ("targets", "served"),
    [
        ("80,90a,100,100+PTX", {(8, 6), (9, 0), (10, 3), (12, 0)}),
        ("80", {(8, 6)}),
        ("80,80+PTX", {(8, 6), (9, 0), (10, 3), (12, 0)}),
        ("90a", {(9, 0)}),
        ("86", {(8, 6)}),
        ("75", {(7, 5)}),
        ("100f", {(10, 3)}),
        ("120", {(12, 0)}),
        ("native", set(CARDS)),
        ("", set()),
    ],
)
def test_a_card_has_kernels_if_its_code_or_older_ptx_is_there(card, targets: str, served: set[tuple[int, int]]) -> None:
    """Code runs on its major version from its minor one on, with an a on that card alone; PTX on all later cards."""
    card(targets, *CARDS)
    assert {capability for i, capability in enumerate(CARDS) if compiled.has_image(i)} == served


def test_a_card_without_kernels_is_named_with_the_cure(card) -> None:
    card("80,90a", (12, 0))
    reason = why_not("cuda")
    assert reason is not None
    assert "RTX 5090 has compute capability 12.0, the CUDA kernels are built for 80,90a" in reason
    assert "HRTA_EXT_CUDA_ARCHITECTURES=120-real" in reason
    assert "\n" not in reason
    assert not hx.backends()["cuda"]
    with pytest.raises(ValueError, match=r"'cuda' is not usable: RTX 5090 .*120-real"), hx.use_backend("cuda"):
        pass
    card("80", (9, 0))
    assert "HRTA_EXT_CUDA_ARCHITECTURES=90a-real" in str(why_not("cuda"))
    card("80,90a,100,100+PTX", (7, 5))
    assert "T4 has compute capability 7.5, the CUDA kernels need 8.0" in str(why_not("cuda"))


def test_the_kernels_are_usable_where_one_card_of_several_has_them(card) -> None:
    card("90a", (7, 5), (9, 0))
    assert hx.backends()["cuda"]
    assert [why_not_on(device) is None for device in (0, 1)] == [False, True]


def test_an_older_driver_leaves_everything_to_torch(card, monkeypatch: pytest.MonkeyPatch) -> None:
    """The CUDA runtime is in the binary: it refuses drivers of an earlier release, and every call would raise."""
    old_driver = compiled.old_driver
    card("80,90a", (9, 0))
    monkeypatch.setattr(compiled, "old_driver", old_driver.__wrapped__)
    for driver, served in ((13000, True), (13020, True), (14000, True), (12080, False), (0, False)):
        binary = SimpleNamespace(cuda_versions=lambda driver=driver: (driver, 13000))
        monkeypatch.setattr(compiled, "_C", binary)
        compiled.has_image.cache_clear()
        assert compiled.has_image(0) is served
        assert hx.backends()["cuda"] is served


def test_an_older_driver_is_named_with_the_cure(card, monkeypatch: pytest.MonkeyPatch) -> None:
    card("80,90a", (9, 0))
    monkeypatch.setattr(compiled, "old_driver", lambda: (12, 13))
    assert "the driver is of CUDA 12, the kernels need one of CUDA 13; update it" in str(why_not("cuda"))


def test_environment_variable_forces_a_backend() -> None:
    done = python("from hrta_ext.backends import asked_for; print(asked_for())", HRTA_EXT_BACKEND="torch")
    assert done.stdout.strip() == "torch", done.stderr
    wrong = python("import torch, hrta_ext as hx; hx.homotopy(torch.ones(2))", HRTA_EXT_BACKEND="gpu")
    assert wrong.returncode != 0
    assert "HRTA_EXT_BACKEND must be one of torch, native, cpp, cuda, got 'gpu'" in wrong.stderr


def test_without_the_extension_everything_works_and_it_is_said_once() -> None:
    code = (
        "import sys; sys.modules['hrta_ext._C'] = None\n"
        "import torch, hrta_ext as hx\n"
        "x = torch.tensor([-2.0, 2.0], requires_grad=True)\n"
        "y = hx.homotopy(x, 1.5); y.sum().backward()\n"
        "hx.homotopy(x, 1.5, 'gelu'); hx.homotopy_(torch.ones(2), 0.5)\n"
        "print(y.tolist(), x.grad.tolist(), hx.backends())\n"
    )
    done = python(code)
    assert done.stdout.strip() == "[1.0, 2.0] [-0.5, 1.0] {'cuda': False, 'cpp': False, 'torch': True}", done.stderr
    assert done.stderr.count("hrta_ext runs on its torch backend") == 1
    assert "pip install --no-build-isolation ." in done.stderr


@pytest.mark.parametrize("level", ["baseline", "avx2", "avx512"])
def test_every_simd_level_gives_accurate_results(level: str) -> None:
    """Levels differ by a few ulp (with and without fused multiply-add), never by more."""
    if level not in hx.build_info()["simd_levels"]:
        pytest.skip(f"{level} is not compiled in here")
    code = (
        "import sys; sys.path.insert(0, 'tests')\n"
        "import torch, hrta_ext as hx\n"
        "from cases import BASES, DTYPES, homotopy, spread\n"
        "for base in BASES:\n"
        "    for dtype in DTYPES:\n"
        "        x = spread(dtype, 3001)\n"
        "        for order in (0, 1, 2):\n"
        "            y = hx.homotopy(x, 1.5, base, order=order).double()\n"
        "            exact = homotopy(x, 1.5, base, order)\n"
        "            eps = torch.finfo(dtype).eps\n"
        "            torch.testing.assert_close(y, exact, rtol=8 * eps, atol=32 * eps)\n"
        "        leaf = x.clone().requires_grad_()\n"
        "        (g,) = torch.autograd.grad(hx.homotopy(leaf, 1.5, base).sum(), leaf)\n"
        "        assert torch.equal(g, hx.homotopy(x, 1.5, base, order=1))\n"
        "print(hx.build_info()['simd'])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"HRTA_EXT_SIMD": level},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    used = done.stdout.strip()
    if used != level:
        pytest.skip(f"this processor runs {used} at most")


def test_one_openmp_runtime() -> None:
    """The kernels run on torch's own pool; a second OpenMP library in the process would fight it for the cores."""
    if not hx.backends()["cpp"]:
        pytest.skip("needs the compiled kernels")
    (binary,) = PACKAGE.glob("_C.*.so")
    needed = subprocess.run(["readelf", "-d", str(binary)], capture_output=True, text=True, check=False).stdout
    if not needed:
        pytest.skip("no readelf here")
    libraries = [line.split("[")[1].rstrip("]") for line in needed.splitlines() if "(NEEDED)" in line]
    assert not [name for name in libraries if "omp" in name]
    assert not [name for name in libraries if "torch_python" in name or "torch_cuda" in name or "cudart" in name]


@pytest.mark.parametrize("base", BASES)
def test_backends_agree(base: str) -> None:
    """The documented tolerance between backends: 8 ulp of float32."""
    if not hx.backends()["cpp"]:
        pytest.skip("needs the compiled kernels")
    x = spread(torch.float32, 5000)
    native = hx.homotopy(x, 1.5, base)
    with hx.use_backend("torch"):
        torch.testing.assert_close(hx.homotopy(x, 1.5, base), native, rtol=1e-6, atol=1e-6)
