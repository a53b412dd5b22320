"""The map of the package holds: which way imports point, who may know a private name, how large a file grows."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import hrta_ext as hx

ROOT = Path(__file__).resolve().parents[2]
# Left to right: a file imports from its own folder and from what stands left of it; in one step, from nothing.
ORDER = [
    {"files", "bases", "compiled", "callers", "schemas"},
    {"inputs", "backends", "groups", "plots"},
    {"activation", "ntk"},
    {"network"},
    {"training"},
    {"physics"},
    {"tables"},
    {"benchmarks"},
    {"cli"},
]
# Within the steps of single files, who may see whom.
WITHIN = {
    "callers": {"compiled"},
    "inputs": {"bases", "compiled", "callers"},
    "backends": {"bases", "compiled"},
    "groups": {"files"},
    "plots": {"files"},
}
RANK = {room: rank for rank, rooms in enumerate(ORDER) for room in rooms}
OWN = {"native", "reference"}
FOR_REPRODUCTION = {"plots", "files", "groups"}
# The command of the reproduction is a command like the others, and the command line offers it where its extra is there.
ADAPTERS = {("reproduction.command", "cli"), ("cli.commands", "reproduction")}
NATIVE_FALLS_BACK = {("network.native", "network.reference")}
SOURCES = {".py", ".h", ".cpp", ".cuh", ".cu"}


def is_private(name: str) -> bool:
    """The binary, _C, is the one name with an underscore that every native.py knows."""
    return name.startswith("_") and not name.startswith("__") and name != "_C"


def imports_of(source: str, files: dict[str, str]) -> Iterator[tuple[str, str, str]]:
    """(module, name, what it is called here) of all that is imported from hrta_ext; no name where it is a module."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "hrta_ext":
                    yield alias.name.partition(".")[2], "", alias.asname or alias.name
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "hrta_ext":
            origin = (node.module or "").partition(".")[2]
            for alias in node.names:
                # "from hrta_ext import compiled" means a module, "from hrta_ext import fit" a public name.
                inner = f"{origin}.{alias.name}".strip(".")
                module, name = (inner, "") if inner in files else (origin, alias.name)
                yield module, name, alias.asname or alias.name


def names_of(source: str, files: dict[str, str]) -> Iterator[tuple[str, str]]:
    """(module, name) of every name taken from a module of hrta_ext, by an import or as an attribute."""
    modules = {}
    for module, name, here in imports_of(source, files):
        if name:
            yield module, name
        else:
            modules[here] = module
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) in modules:
            yield modules[ast.unparse(node.value)], node.attr


def arrow(module: str, target: str) -> str | None:
    """What is wrong with this module's importing that one; None if nothing is."""
    room, there = module.split(".")[0], target.split(".")[0]
    folder, _, leaf = target.rpartition(".")
    if leaf in OWN and folder not in (module, module.rpartition(".")[0]):
        return "which is its folder's own"
    if module.rpartition(".")[2] == "native" and leaf == "reference" and (module, target) not in NATIVE_FALLS_BACK:
        return "though only a whole op falls back"
    if there == room or (module, there) in ADAPTERS:
        return None
    if room == "reproduction":
        return None if there in {"", *FOR_REPRODUCTION} else "which is not for the reproduction"
    if there == "":
        return None if room in {"benchmarks", "cli"} else "the package's face, which stands on it"
    if there not in WITHIN[room] if room in WITHIN else RANK.get(there, len(ORDER)) >= RANK.get(room, -1):
        return "which does not stand left of it"
    return None


def breaches(files: dict[str, str], public: set[str]) -> list[str]:
    """What breaks the rule in a package given as module name -> source, the names without "hrta_ext."."""
    found = []
    for module, source in files.items():
        if any(isinstance(node, ast.ImportFrom) and node.level for node in ast.walk(ast.parse(source))):
            found.append(f"{module}: a relative import, which hides where it points")
        for target in sorted({target for target, _, _ in imports_of(source, files)}):
            why = arrow(module, target)
            if why is not None:
                found.append(f"{module}: imports {target or 'hrta_ext'}, {why}")
        for target, name in names_of(source, files):
            if is_private(name) and target != module:
                found.append(f"{module}: private name {name} of {target or 'hrta_ext'}")
            elif target == "" and name not in public and module.startswith("reproduction."):
                found.append(f"{module}: {name} is no public name")
    return found


def package() -> dict[str, str]:
    folder = ROOT / "hrta_ext"
    return {
        ".".join(path.relative_to(folder).with_suffix("").parts).removesuffix(".__init__"): path.read_text("utf-8")
        for path in sorted(folder.rglob("*.py"))
        if path != folder / "__init__.py"
    }


needs_sources = pytest.mark.skipif(not (ROOT / "hrta_ext" / "bases.py").exists(), reason="needs the checkout")


@needs_sources
def test_imports_point_one_way() -> None:
    assert breaches(package(), set(hx.__all__)) == []


BREACHES = [
    ("bases", "from hrta_ext.inputs import check_integer", "does not stand left"),
    ("inputs", "from hrta_ext.backends import serve", "imports backends, which does not stand left"),
    ("schemas", "from hrta_ext import backends", "imports backends, which does not stand left"),
    ("secret", "from hrta_ext import bases", "imports bases, which does not stand left"),
    ("activation.functions", "from hrta_ext.network.functions import two_layer", "does not stand left"),
    ("activation.functions", "from hrta_ext.ntk.gram import gram", "does not stand left"),
    ("ntk.gram", "import hrta_ext.activation.functions", "does not stand left"),
    ("network.module", "from hrta_ext.training import fit", "does not stand left"),
    ("network.module", "from ..training import fit", "a relative import"),
    ("training.fit", "from hrta_ext import __version__", "imports hrta_ext, the package's face"),
    ("training.fit", "from hrta_ext.physics.samplers import Sampler", "does not stand left"),
    ("tables.model", "def f():\n    from hrta_ext.cli import main", "does not stand left"),
    ("benchmarks.timing", "from hrta_ext.cli.output import print_line", "does not stand left"),
    ("network.module", "from hrta_ext.activation import native", "its folder's own"),
    ("network.module", "from hrta_ext.ntk.reference import sums", "its folder's own"),
    ("network.module", "from hrta_ext.activation.functions import _lane", "private name _lane"),
    ("network.module", "from hrta_ext import backends\nbackends._open", "private name _open of backends"),
    ("network.module", "from hrta_ext import backends as b\nb._open", "private name _open of backends"),
    ("network.module", "import hrta_ext.backends\nhrta_ext.backends._open", "private name _open of backends"),
    ("ntk.native", "from hrta_ext.ntk import reference", "imports ntk.reference, though only"),
    ("reproduction.claims.sin", "from hrta_ext.training.fit import fit", "training.fit, which is not for the"),
    ("reproduction.claims.sin", "from hrta_ext.cli import main", "cli, which is not for the reproduction"),
    ("reproduction.claims.sin", "from hrta_ext import secret_sin", "secret_sin is no public name"),
    ("reproduction.claims.sin", "import hrta_ext as hx\nhx.secret_sin", "secret_sin is no public name"),
    ("cli.train", "from hrta_ext.reproduction.claims import sin", "does not stand left"),
]
ALLOWED = [
    ("ntk.gram", "from hrta_ext import compiled\nfrom hrta_ext.backends import serve\ncompiled._C.gram_sums"),
    ("activation.functions", "from hrta_ext.activation import native, reference"),
    ("network.native", "from hrta_ext.network import reference"),
    ("training.fit", "from hrta_ext.network.module import TwoLayerNet\nnet = TwoLayerNet(1, 2)\nnet._private"),
    ("reproduction.claims.sin", "import hrta_ext as hx\nfrom hrta_ext import fit, plots\nhx.gram"),
    ("reproduction.command", "from hrta_ext.cli.output import say"),
    ("benchmarks.timing", "import hrta_ext as hx\nhx.gram"),
    ("cli.bench", "from hrta_ext.benchmarks.results import read"),
    ("cli.commands", "from hrta_ext.reproduction.command import reproduce"),
]
MADE_UP = dict.fromkeys(
    ["bases", "compiled", "backends", "plots", "activation.native", "activation.reference", "ntk.reference"]
    + ["network.reference", "training", "training.fit", "cli", "reproduction.claims.sin"],
    "",
)


@pytest.mark.parametrize(("module", "source", "breach"), BREACHES)
def test_each_kind_of_breach_is_found(module: str, source: str, breach: str) -> None:
    (found,) = breaches(MADE_UP | {module: source}, set(hx.__all__))
    assert breach in found


@pytest.mark.parametrize(("module", "source"), ALLOWED)
def test_what_the_rule_allows_is_no_breach(module: str, source: str) -> None:
    assert breaches(MADE_UP | {module: source}, set(hx.__all__)) == []


def too_many(folder: Path) -> list[str]:
    """The files in the root of a package, where there are more than ten; the binary and py.typed are none."""
    files = {path.name for path in folder.iterdir() if path.is_file()} - {"py.typed"}
    names = sorted(name for name in files if not name.startswith("_C."))
    return names if len(names) > 10 else []


def too_long(*folders: Path) -> list[str]:
    paths = [path for folder in folders for path in sorted(folder.rglob("*")) if path.suffix in SOURCES]
    return [path.name for path in paths if len(path.read_text("utf-8").splitlines()) > 400]


@needs_sources
def test_the_root_of_the_package_reads_like_a_table_of_contents() -> None:
    assert too_many(ROOT / "hrta_ext") == []


@needs_sources
def test_no_file_has_more_than_400_lines() -> None:
    assert too_long(ROOT / "hrta_ext", ROOT / "csrc", ROOT / "tests") == []


def test_a_full_root_and_a_long_file_are_found(tmp_path: Path) -> None:
    names = [f"{letter}.py" for letter in "abcdefghij"]
    for name in (*names, "_C.so", "py.typed"):
        (tmp_path / name).write_text("\n" * 400)
    assert too_many(tmp_path) == too_long(tmp_path) == []
    (tmp_path / "k.cu").write_text("\n" * 401)
    assert too_many(tmp_path) == [*names, "k.cu"]
    assert too_long(tmp_path) == ["k.cu"]
