"""A pure-Python wheel (HRTA_EXT_BUILD=0) installs and works; needs a source checkout with setuptools beside it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def can_build() -> bool:
    try:
        return (ROOT / "setup.py").exists() and int(version("setuptools").split(".")[0]) >= 77
    except PackageNotFoundError:
        return False


@pytest.mark.skipif(not can_build(), reason="needs the checkout and setuptools 77 or later")
def test_wheel_without_kernels_works(tmp_path: Path) -> None:
    checkout = tmp_path / "checkout"
    shutil.copytree(ROOT / "hrta_ext", checkout / "hrta_ext", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE", "CMakeLists.txt"):
        shutil.copy(ROOT / name, checkout)
    gone = checkout / "build" / "lib" / "hrta_ext" / "gone.py"  # left there by an earlier install
    gone.parent.mkdir(parents=True)
    gone.touch()
    build = [sys.executable, "-m", "pip", "wheel", "--no-build-isolation", "--no-deps", "-w", str(tmp_path), "."]
    done = subprocess.run(
        build, cwd=checkout, env=os.environ | {"HRTA_EXT_BUILD": "0"}, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("hrta_ext-*-py3-none-any.whl")
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        assert "hrta_ext/gone.py" not in archive.namelist()
        assert "hrta_ext/benchmarks/bench_gram.py" in archive.namelist()  # what `hrta bench` runs
        archive.extractall(site)
    code = (
        "import sys\n"
        f"sys.path.insert(0, {str(site)!r})\n"
        "sys.meta_path = [f for f in sys.meta_path if 'editable' not in repr(f).lower()]\n"
        "import torch, hrta_ext as hx\n"
        "assert hx.backends() == {'cuda': False, 'cpp': False, 'torch': True}, hx.__file__\n"
        "x = torch.tensor([-2.0, 2.0], requires_grad=True)\n"
        "hx.homotopy(x, 1.5).sum().backward()\n"
        "print(hx.__file__, x.grad.tolist())\n"
    )
    run = subprocess.run([sys.executable, "-P", "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    assert run.stdout.split(" ", 1)[0].startswith(str(site))
    assert run.stdout.strip().endswith("[-0.5, 1.0]")
