"""`hrta doctor` calls nothing healthy that is not: settings, binaries, and every kernel."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("typer")
pytest.importorskip("rich")

import torch

import hrta_ext as hx
from hrta_ext.activation import native as activation
from hrta_ext.cli import gpus, main, selftest
from hrta_ext.network import native as network
from hrta_ext.ntk import native as ntk
from hrta_ext.training import native as training

DOCTOR = importlib.import_module("hrta_ext.cli.doctor")
PACKAGE = Path(hx.__file__).parent
NATIVE = pytest.mark.skipif(not hx.backends()["cpp"], reason="needs the compiled kernels")


@pytest.fixture
def quick(monkeypatch):
    """The doctor without its tests of the kernels, which have tests of their own; no variable set from outside."""
    monkeypatch.setattr(DOCTOR, "_results", lambda usable: {name: [] for name in usable})
    for name in [name for name in os.environ if name.startswith("HRTA")]:
        monkeypatch.delenv(name)


# ---- the whole ----


def test_doctor_tests_every_usable_backend(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("HRTA_EXT_SIMD", raising=False)
    assert main(["doctor", "--out", str(tmp_path / "doctor.json")]) == 0
    text = capsys.readouterr().out
    content = json.loads((tmp_path / "doctor.json").read_text())
    for name, usable in hx.backends().items():
        assert name in text
        assert content["backends"][name]["usable"] == usable
        assert content["backends"][name]["failure"] is None
        assert (content["backends"][name]["reason"] is None) == usable
    assert content["problems"] == []
    assert "every op is right" in text
    assert main(["doctor", "--out", str(tmp_path / "doctor.json")]) == 1


def test_doctor_gives_reason_and_cure(capsys, monkeypatch, quick):
    monkeypatch.setattr(DOCTOR, "backends", lambda: {"cuda": False, "torch": True})
    monkeypatch.setattr(DOCTOR, "why_not", lambda name: "no compiler; get one" if name == "cuda" else None)
    monkeypatch.setattr(DOCTOR, "broken_binary", lambda: None)
    assert main(["doctor"]) == 0
    assert "no compiler; get one" in capsys.readouterr().out


# ---- GPUs ----


def test_speeds_of_gpus_are_shown_and_written(tmp_path, capsys, monkeypatch, quick):
    """2^26 numbers read and written in 128 us are 4.19 TB/s; a card without kernels, and one without memory, say so."""
    found = [
        gpus.Speed("Card A", 141 << 30, 1 << 26, 128e-6, 160e-6),
        gpus.Speed("Card B", 16 << 30, 1 << 26, 2e-3, None, "no kernel image; build for it"),
        gpus.Speed("Card C", 80 << 30, 0, None, None, "CUDA out of memory"),
    ]
    monkeypatch.setattr(DOCTOR, "speeds", lambda usable: found)
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["doctor", "--out", str(tmp_path / "doctor.json")]) == 0
    lines = {line.split("  ")[0].strip(): line for line in capsys.readouterr().out.splitlines()}
    for name, expected in (
        ("Card A", ("141 GiB", "4,194 GB/s", "160 us, n = 67,108,864", "80%")),
        ("Card B", ("268 GB/s", "no kernel image; build for it")),
        ("Card C", ("80 GiB", "CUDA out of memory")),
    ):
        assert all(text in lines[name] for text in expected), lines[name]
    assert "us" not in lines["Card C"]
    written = json.loads((tmp_path / "doctor.json").read_text())["gpus"]
    rates = [gpu["copy_bytes_per_second"] for gpu in written]
    assert rates == [pytest.approx(8 * 2**26 / 128e-6), pytest.approx(8 * 2**26 / 2e-3), None]


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_nothing_is_measured_without_a_gpu(tmp_path, capsys, quick):
    assert gpus.speeds(True) == []
    assert main(["doctor", "--out", str(tmp_path / "doctor.json")]) == 0
    assert "GB/s" not in capsys.readouterr().out
    assert json.loads((tmp_path / "doctor.json").read_text())["gpus"] == []


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_every_gpu_is_measured():
    """A rate is what can be checked without knowing the card: above 10 GB/s, and the kernel not beyond the copy's."""
    usable = hx.backends()["cuda"]
    for speed in gpus.speeds(usable):
        assert speed.copy_bytes_per_second > 1e10
        assert (speed.kernel is not None) == (usable and not speed.reason)
        assert speed.share is None or speed.share < 1.5


# ---- settings ----


@pytest.mark.parametrize(
    ("name", "value", "code", "message"),
    [
        ("HRTA_EXT_SIMD", "AVX2", 1, "got 'AVX2': it is ignored; did you mean 'avx2'?"),
        ("HRTA_EXT_SIMD", "sse9", 1, "must be one of baseline, avx2, avx512, got 'sse9'"),
        ("HRTA_EXT_SMID", "avx2", 0, "did you mean HRTA_EXT_SIMD?"),
        ("HRTA_SOMETHING_OF_MINE", "1", 0, "nothing reads it"),
        ("hrta_ext_backend", "torch", 0, "did you mean HRTA_EXT_BACKEND?"),
        ("HRTA_EXT_CUDA", "0", 0, "pip install alone"),
        ("HRTA_EXT_BACKEND", "", 0, "as good as unset"),
    ],
)
def test_every_variable_is_named(capsys, monkeypatch, quick, name, value, code, message):
    monkeypatch.setenv(name, value)
    assert main(["doctor"]) == code
    captured = capsys.readouterr()
    assert name in captured.out
    assert message in " ".join((captured.out + captured.err).split())
    assert len(captured.err.strip().splitlines()) == code  # one line for what is wrong


@NATIVE
def test_a_level_above_the_processors_is_wrong(capsys, monkeypatch, quick):
    monkeypatch.setenv("HRTA_EXT_SIMD", "avx512")
    monkeypatch.setattr(DOCTOR, "build_info", lambda: {**hx.build_info(), "simd": "avx2"})
    assert main(["doctor"]) == 1
    assert "HRTA_EXT_SIMD=avx512 cannot be used: here the kernels run at avx2" in capsys.readouterr().err


def doctor_of(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """The doctor of the package in ``folder``, without the tests of the kernels."""
    code = (
        # An editable install would lend its own binary to a package that has none.
        "import sys; sys.meta_path[:] = [f for f in sys.meta_path if 'editable' not in getattr(f, '__module__', '')]\n"
        "from hrta_ext.cli import main; import hrta_ext.cli.doctor; doctor = sys.modules['hrta_ext.cli.doctor']\n"
        "doctor._results = lambda usable: {name: [] for name in usable}\n"
        "sys.exit(main(['doctor']))"
    )
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HRTA")}
    command = [sys.executable, "-c", code]
    variables = {**kept, "PYTHONPATH": str(folder), "COLUMNS": "200", **environment}
    return subprocess.run(command, env=variables, cwd=folder, capture_output=True, text=True, timeout=300, check=False)


def errors(done: subprocess.CompletedProcess[str]) -> list[str]:
    return [line for line in done.stderr.splitlines() if line.startswith("hrta: error: ")]


def test_a_nonsense_backend_is_wrong():
    done = doctor_of(PACKAGE.parent, HRTA_EXT_BACKEND="Torch")
    assert done.returncode == 1, done.stderr
    (line,) = errors(done)
    assert "HRTA_EXT_BACKEND must be one of torch, native, cpp, cuda, got 'Torch'; did you mean 'torch'?" in line


# ---- the binary ----


@pytest.fixture
def copy(tmp_path):
    """A copy of the package without a binary: where a broken one is put."""
    ignored = shutil.ignore_patterns("__pycache__", "_C.*")
    return Path(shutil.copytree(PACKAGE, tmp_path / "hrta_ext", ignore=ignored))


def binary() -> Path:
    return Path(hx.compiled._C.__file__)


@NATIVE
@pytest.mark.parametrize("kind", ["of another Python", "cut short", "of other sources"])
def test_a_broken_binary_is_wrong(copy, kind):
    """A call would not raise: the torch backend serves it. But nobody who has a binary wants that."""
    content = binary().read_bytes()
    if kind == "of another Python":
        (copy / "_C.cpython-399-x86_64-linux-gnu.so").write_bytes(content)
        message = "are for another Python (_C.cpython-399-x86_64-linux-gnu.so; this is"
    elif kind == "cut short":
        (copy / binary().name).write_bytes(content[: len(content) // 2])
        message = "is cut short"
    else:
        (copy / "_C.py").write_text("def build_info(): return {}\n")
        message = "was built from other sources: it lacks"
    done = doctor_of(copy.parent)
    assert done.returncode == 1, done.stderr
    (line,) = errors(done)
    assert message in line
    assert "run 'pip install --no-build-isolation .'" in line


def test_no_binary_is_no_failure(copy):
    done = doctor_of(copy.parent)
    assert done.returncode == 0, done.stderr
    assert "was installed without its compiled kernels" in " ".join(done.stdout.split())


def test_the_names_that_are_asked_of_the_binary_are_those_that_are_used():
    """A binary that lacks one of them is refused at import; one that nobody listed would fail in a call."""
    import re

    sources = "".join(path.read_text("utf-8") for path in PACKAGE.rglob("*.py"))
    used = set(re.findall(r"(?<![\w.])(?:compiled\.)?_C\.([A-Za-z]\w*)", sources)) | {
        "BASES",
        "SCALAR_KINDS",
        "QUANTITIES",
    }
    assert used - {"so"} == hx.compiled.NAMES


# ---- the kernels ----


def scaled(result):
    """Every tensor that a kernel returns, off by a thousandth."""
    if isinstance(result, torch.Tensor):
        return result * 1.001 if result.is_floating_point() else result
    return (
        type(result)(*map(scaled, result))
        if hasattr(result, "_fields")
        else (tuple(map(scaled, result)) if isinstance(result, tuple) and result and result[0] is not None else result)
    )


KERNELS = [
    (activation, "evaluate", "homotopy"),
    (activation, "evaluate", "torch.ops.hrta_ext.homotopy"),
    (activation, "value_and_slope", "homotopy_value_and_slope"),
    (activation, "relu_mask_backward", "homotopy_"),
    (activation, "backward", "backward of homotopy"),
    (activation, "parameter_gradient", "backward of homotopy in s"),
    (network, "outputs", "two_layer"),
    (network, "outputs", "two_layer_with_gradient"),
    (network, "outputs", "torch.ops.hrta_ext.two_layer"),
    (network, "gradients", "two_layer"),
    (network, "gradients", "two_layer_with_gradient"),
    (ntk, "evaluate", "gram"),
    (ntk, "evaluate", "gram_path"),
    (ntk, "random_weights", "random_gram_path"),
    (ntk, "power_sum", "infinite_gram"),
]


@NATIVE
@pytest.mark.parametrize(("module", "kernel", "op"), KERNELS, ids=lambda value: getattr(value, "__name__", str(value)))
def test_every_wrong_kernel_is_found(monkeypatch, module, kernel, op):
    right = getattr(module, kernel)
    with hx.use_backend("cpp"):
        selftest.checks("fused")[op]("cpu")
        monkeypatch.setattr(module, kernel, lambda *args, **named: scaled(right(*args, **named)))
        with pytest.raises(selftest.Wrong, match="off by"):
            selftest.checks("fused")[op]("cpu")


@NATIVE
def test_kernels_that_write_in_place_are_found_too(monkeypatch):
    """Those that return nothing that could be scaled."""

    def in_place(x, s, base):
        x.mul_(1.001)

    def add_to(sums, *rest):
        for tensor in sums:
            tensor += 1.0

    def train(trainings, rates, s, losses, present, keep):
        losses.fill_(1.0)
        return [losses.shape[1]] * len(trainings)

    for module, name, wrong, op in (
        (activation, "evaluate_in_place", in_place, "homotopy_"),
        (ntk, "add_to", add_to, "gram"),
        (training, "train", train, "fit"),
    ):
        monkeypatch.setattr(module, name, wrong)
        with hx.use_backend("cpp"), pytest.raises(selftest.Wrong):
            selftest.checks("fused")[op]("cpu")


@NATIVE
def test_the_fast_lane_is_tested_apart(monkeypatch):
    """Without a use_backend block, short calls reach the kernels by another way."""
    module = sys.modules["hrta_ext.activation.functions"]
    monkeypatch.setattr(module, "_native_value", lambda *args: None)
    assert any("homotopy:" in line for line in selftest.failures("cpu", "fused"))


def test_what_is_wrong_ends_in_one_line_each(capsys, monkeypatch, quick):
    monkeypatch.setattr(
        DOCTOR, "_results", lambda usable: {name: [] for name in usable} | {"torch": ["gram: bad", "fit: worse"]}
    )
    assert main(["doctor"]) == 1
    captured = capsys.readouterr()
    assert "BROKEN" in captured.out
    assert [line.split("; ")[0] for line in captured.err.splitlines()] == [
        "hrta: error: backend torch gives wrong results: gram: bad",
        "hrta: error: backend torch gives wrong results: fit: worse",
    ]


@NATIVE
def test_a_kernel_that_crashes_or_hangs_is_a_finding(monkeypatch):
    """It takes down the process of the test, not the doctor."""

    def process(code):
        return subprocess.Popen([sys.executable, "-c", code])

    assert DOCTOR._end_of(process("import os; os.kill(os.getpid(), 11)")) == "end the process with SIGSEGV"
    assert DOCTOR._end_of(process("pass")) is None
    monkeypatch.setattr(DOCTOR, "_PATIENCE", 0.2)
    assert "do not come back" in DOCTOR._end_of(process("import time; time.sleep(60)"))
