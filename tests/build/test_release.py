"""What a release is made of: one version, files that parse, an sdist with every source, and the checks of a wheel."""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

import hrta_ext as hx

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.skipif(not (ROOT / "setup.py").exists(), reason="needs the checkout")


def test_the_version_stands_in_one_place() -> None:
    """Releases are named by hand in hrta_ext/__init__.py alone; what repeats the number may not lag behind."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert "version" not in project["project"]
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "hrta_ext.__version__"}
    assert re.fullmatch(r"\d+\.\d+\.\d+", hx.__version__)
    assert f"\nversion: {hx.__version__}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    literal = re.compile(r"(?m)^(?:__)?version(?:__)?\s*=\s*[\"']\d")
    found = [path for path in (ROOT / "hrta_ext").rglob("*.py") if literal.search(path.read_text(encoding="utf-8"))]
    assert [path.name for path in found] == ["__init__.py"]


def test_the_citation_names_paper_and_software() -> None:
    """GitHub and Zenodo read it; the keys are those that the format 1.2.0 requires."""
    yaml = pytest.importorskip("yaml")
    content = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert content["cff-version"] == "1.2.0"
    assert {"title", "message", "authors", "license", "version"} <= set(content)
    (paper,) = content["references"]
    assert [author["family-names"] for author in paper["authors"]] == ["Yang", "Chen", "Hao"]
    assert paper["doi"].startswith("10.1007/")


def test_issue_forms_are_what_the_host_reads() -> None:
    """A form with a key missing is silently not offered."""
    yaml = pytest.importorskip("yaml")
    forms = [path for path in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml") if path.name != "config.yml"]
    assert forms
    for path in forms:
        form = yaml.safe_load(path.read_text(encoding="utf-8"))
        assert {"name", "description", "body"} <= set(form)
        fields = [field for field in form["body"] if field["type"] != "markdown"]
        assert len({field["id"] for field in fields}) == len(fields) > 0
        assert all(field["attributes"]["label"] for field in fields)


def sources(folder: Path) -> set[str]:
    """Files that a build reads, named from ``folder`` on."""
    found = [path for room in ("hrta_ext", "csrc") for path in (folder / room).rglob("*")]
    kept = {str(path.relative_to(folder)) for path in found if path.is_file() and path.suffix not in (".so", ".pyc")}
    return kept | {"CMakeLists.txt", "setup.py", "pyproject.toml", "README.md", "LICENSE"}


def test_an_sdist_holds_every_source(tmp_path: Path) -> None:
    """A folder that MANIFEST.in forgets is missed by whoever builds from PyPI, not in a checkout."""
    if importlib.util.find_spec("setuptools") is None:
        pytest.skip("needs setuptools")
    checkout = tmp_path / "checkout"
    for name in (*sources(ROOT), "MANIFEST.in"):
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, checkout / name)
    (checkout / "hrta_ext" / "_C.cpython-311-x86_64-linux-gnu.so").touch()  # of an editable install
    code = "from setuptools.build_meta import build_sdist; build_sdist('dist')"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=checkout, env=os.environ | {"HRTA_EXT_BUILD": "0"},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (sdist,) = (checkout / "dist").iterdir()
    assert sdist.name == f"hrta_ext-{hx.__version__}.tar.gz"
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert sources(ROOT) - names == set()
    assert not [name for name in names if name.endswith((".so", ".pyc"))]


# ---- release/check_wheel.py ----


@pytest.fixture(scope="module")
def checker() -> ModuleType:
    spec = importlib.util.spec_from_file_location("check_wheel", ROOT / "release" / "check_wheel.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


METADATA = (
    "Metadata-Version: 2.4\nName: hrta_ext\nVersion: 1.2.3\nLicense-Expression: MIT\n"
    "Requires-Dist: torch>=2.11\nRequires-Dist: numpy>=1.26\nRequires-Dist: scipy<9; extra == 'all'\n"
)
INFO = "hrta_ext-1.2.3.dist-info"
FILES = {"hrta_ext/__init__.py": "", f"{INFO}/METADATA": METADATA, f"{INFO}/licenses/LICENSE": "MIT"}


def record(files: dict[str, str]) -> str:
    """A RECORD as the format has it."""
    lines = [f"{INFO}/RECORD,,"]
    for name, text in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).decode().rstrip("=")
        lines.append(f"{name},sha256={digest},{len(text)}")
    return "\n".join(lines) + "\n"


def faults(checker: ModuleType, folder: Path, files: dict[str, str], recorded: str | None = None) -> str:
    path = folder / "hrta_ext-1.2.3-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        for name, text in files.items():
            wheel.writestr(name, text)
        wheel.writestr(f"{INFO}/RECORD", record(files) if recorded is None else recorded)
    return "; ".join(checker.check(path))


def test_a_wheel_without_faults_passes(checker: ModuleType, tmp_path: Path) -> None:
    assert faults(checker, tmp_path, FILES) == ""


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda files: files | {"tests/test_a.py": ""}, "tests/test_a.py lies outside"),
        (lambda files: files | {"hrta_ext/a.cu": ""}, "a.cu is not to be installed"),
        (lambda files: {k: v for k, v in files.items() if "LICENSE" not in k}, "the licence is missing"),
        (lambda files: files | {f"{INFO}/METADATA": METADATA.replace("1.2.3", "1.2.4")}, "the version is 1.2.4"),
        (lambda files: files | {f"{INFO}/METADATA": METADATA.replace(">=2.11", ">=2.11,<3")}, "an upper bound"),
        (lambda files: files | {f"{INFO}/METADATA": METADATA + "Requires-Dist: scipy\n"}, "more than numpy and torch"),
        (lambda files: files | {"hrta_ext/_C.so": ""}, "is in a wheel for any machine"),
    ],
)
def test_faults_of_a_wheel_are_named(
    checker: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable, fault: str
) -> None:
    monkeypatch.setattr(checker, "check_binary", lambda binary: [])
    monkeypatch.setattr(checker, "versions", lambda binary: {})
    assert fault in faults(checker, tmp_path, change(FILES))


def test_a_record_that_lies_is_found(checker: ModuleType, tmp_path: Path) -> None:
    """pip trusts RECORD when it uninstalls and when it looks for damage."""
    name = "hrta_ext/__init__.py"
    assert "is not in RECORD" in faults(checker, tmp_path, FILES, record({k: v for k, v in FILES.items() if k != name}))
    assert "is not what RECORD says" in faults(checker, tmp_path, FILES, record(FILES | {name: "x = 1"}))
    assert "which is not there" in faults(checker, tmp_path, FILES, record(FILES | {"hrta_ext/gone.py": ""}))


def test_a_wheel_that_is_too_large_is_refused(
    checker: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checker, "MOST_BYTES", 100)
    assert "MB of the 0 allowed" in faults(checker, tmp_path, FILES)


@pytest.mark.skipif(not (shutil.which("readelf") and shutil.which("c++")), reason="needs a compiler and readelf")
def test_what_a_binary_asks_for_is_read(checker: ModuleType, tmp_path: Path) -> None:
    """The oldest glibc is what the docs promise; names left in, folders of its own and foreign libraries are faults."""
    source, bad, good = tmp_path / "a.cpp", tmp_path / "bad.so", tmp_path / "good.so"
    source.write_text('#include <cstdio>\nextern "C" int f() { return std::puts("x"); }\n', encoding="utf-8")
    build = ["c++", "-shared", "-fPIC", source, "-o"]
    subprocess.run([*build, good, "-s"], check=True)
    subprocess.run(
        [*build, bad, "-Wl,-rpath,/elsewhere", "-Wl,--no-as-needed", f"-L{tmp_path}", "-l:good.so"], check=True
    )
    assert checker.check_binary(good) == []
    assert re.fullmatch(r"2\.\d+(\.\d+)?", checker.versions(good)["GLIBC"])
    found = "; ".join(checker.check_binary(bad))
    assert "not stripped" in found
    assert "a folder of its own" in found
    assert "needs good.so" in found


def test_the_changelog_has_the_form_of_keep_a_changelog() -> None:
    """Tools cut a release's section out of it by these headings, and a line under none of them is lost."""
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    headings = re.findall(r"(?m)^## (.*)$", text)
    assert headings[0] == "[Unreleased]"
    assert all(re.fullmatch(r"\[\d+\.\d+\.\d+\]( - \d{4}-\d{2}-\d{2})?", heading) for heading in headings[1:])
    kinds = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    for section in re.split(r"(?m)^## ", text)[1:]:
        parts = re.split(r"(?m)^### ", section)
        assert "\n- " not in parts[0]
        found = [part.partition("\n")[0] for part in parts[1:]]
        assert set(found) <= kinds
        assert len(set(found)) == len(found)
