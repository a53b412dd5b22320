"""Choice of backend, build facts, SIMD levels, and what an install without compiled kernels does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from cases import BASES, spread

import hrta_ext as hx
from hrta_ext.backends import asked_for

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
