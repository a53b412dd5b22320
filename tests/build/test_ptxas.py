"""`make cuda` fails where a hot kernel spills and where wgmma is serialised, on logs as ptxas writes them."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "csrc" / "gpu" / "check_ptxas.py"
pytestmark = pytest.mark.skipif(not SCRIPT.exists(), reason="needs the sources")

HOT = "_ZN4hrta4cuda16pointwise_kernelIfEEvPf"
WIDE = "_ZN4hrta4cuda4wide14forward_kernelINS1_5WgmmaILi64ELi32EEELi1EEEvNS1_11ForwardWorkE"
OTHER = "_ZN4hrta4cuda12_GLOBAL__N_112other_kernelEPf"
SERIALISED = (
    "ptxas info    : (C7510) Potential Performance Loss: wgmma.mma_async instructions are serialized due to "
    "insufficient register resources for the wgmma pipeline"
)


def compiled(name: str, stores: int = 0, loads: int = 0, registers: int = 96) -> str:
    """What ``nvcc -Xptxas -v`` prints of one kernel."""
    return f"""ptxas info    : Compiling entry function '{name}' for 'sm_90a'
ptxas info    : Function properties for {name}
    40 bytes stack frame, {stores} bytes spill stores, {loads} bytes spill loads
ptxas info    : Used {registers} registers, used 1 barriers, 40 bytes cumulative stack size, 2048 bytes smem
ptxas info    : Compile time = 84.899 ms
"""


def check(log: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), "sm_90a", "csrc/network/cuda/relu.cu"]
    return subprocess.run(command, input=log, capture_output=True, text=True, timeout=60, check=False)


needs_names = pytest.mark.skipif(shutil.which("c++filt") is None, reason="needs c++filt")


def test_a_clean_log_is_a_line() -> None:
    done = check("ptxas info    : 0 bytes gmem\n" + compiled(HOT) + compiled(OTHER, 8, 12, 200))
    assert done.returncode == 0
    assert done.stdout == "sm_90a csrc/network/cuda/relu.cu: 2 kernels, most registers 200, bytes spilled 20\n"
    assert done.stderr == ""


@needs_names
def test_a_spill_of_a_hot_kernel_fails_and_names_it() -> None:
    """Loads alone count too; what another kernel of the file may spill does not excuse it."""
    done = check(compiled(OTHER, 80, 80) + compiled(HOT, 0, 4))
    assert done.returncode == 1
    assert "spills 4 bytes where 0 are allowed: void hrta::cuda::pointwise_kernel<float>" in done.stderr


@needs_names
def test_allowed_bytes_end_somewhere() -> None:
    """What is said of one instance counts before what is said of the kernel."""
    assert check(compiled(WIDE, 36, 36)).returncode == 0
    assert "spills 2000 bytes" in check(compiled(WIDE, 1000, 1000)).stderr


@pytest.mark.parametrize(("code", "wrong"), [(7509, False), (7510, True), (7515, True), (7520, True), (7521, False)])
def test_serialised_wgmma_fails(code: int, wrong: bool) -> None:
    done = check(compiled(OTHER) + SERIALISED.replace("7510", str(code)) + "\n")
    assert done.returncode == int(wrong)
    assert ("wgmma is serialised: ptxas info" in done.stderr) == wrong


def test_every_hot_kernel_exists() -> None:
    """A name that no source has would watch over nothing."""
    code = "import check_ptxas, json; print(json.dumps([part.partition('<')[0] for part in check_ptxas.HOT]))"
    done = subprocess.run([sys.executable, "-c", code], cwd=SCRIPT.parent, capture_output=True, text=True, check=True)
    sources = [path.read_text(encoding="utf-8") for path in (ROOT / "csrc").rglob("*.cu*")]
    names = set(json.loads(done.stdout))
    assert names
    assert all(any(f" {name}(" in source for source in sources) for name in names)


def test_make_cuda_asks_it() -> None:
    recipe = (ROOT / "Makefile").read_text(encoding="utf-8").split("\ncuda:\n")[1].split("\n\n")[0]
    assert "csrc/gpu/check_ptxas.py" in recipe
    assert "csrc/*/cuda/*.cu" in recipe
