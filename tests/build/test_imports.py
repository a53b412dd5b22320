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
    {"inputs", "backends", "plots"},
    {"activation", "ntk"},
    {"network"},
    {"training"},
    {"tables"},
    {"cli"},
]
# Within the steps of single files, who may see whom.
WITHIN = {"inputs": {"bases", "compiled"}, "backends": {"bases", "compiled"}, "plots": {"files"}}
RANK = {room: rank for rank, rooms in enumerate(ORDER) for room in rooms}
OWN = {"native", "reference"}
FOR_REPRODUCTION = {"plots", "files"}
# The command of the reproduction is a command like the others, and the command line offers it where its extra is there.
ADAPTERS = {("reproduction.command", "cli"), ("cli.commands", "reproduction")}
NATIVE_FALLS_BACK = {("network.native", "network.reference")}


def is_private(name: str) -> bool:
    """The binary, _C, is the one name with an underscore that every native.py knows."""
    return name.startswith("_") and not name.startswith("__") and name != "_C"


def imports_of(source: str) -> Iterator[tuple[str, str]]:
    """(module, name) of everything imported from hrta_ext; modules without "hrta_ext.", "" for the package itself."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "hrta_ext":
                    yield alias.name.partition(".")[2], ""
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "hrta_ext":
            for alias in node.names:
                yield (node.module or "").partition(".")[2], alias.name


def breaches(files: dict[str, str], public: set[str]) -> list[str]:
    """What breaks the rule in a package given as module name -> source, the names without "hrta_ext."."""
    found = []
    for module, source in files.items():
        room = module.split(".")[0]
        aliases = set()
        for origin, name in imports_of(source):
            # "from hrta_ext import compiled" means a module, "from hrta_ext import fit" a public name.
            target = f"{origin}.{name}".strip(".") if f"{origin}.{name}".strip(".") in files else origin
            if target != origin:
                aliases.add(name)
            if is_private(name):
                found.append(f"{module}: private name {name} of {origin}")
            if target == "" and room == "reproduction" and name and name not in public:
                found.append(f"{module}: {name} is no public name")
            there = target.split(".")[0]
            if there in ("", room) or (module, there) in ADAPTERS:
                pass
            elif room == "reproduction":
                if there not in FOR_REPRODUCTION:
                    found.append(f"{module}: the reproduction imports {target}")
            elif room in WITHIN and there not in WITHIN[room]:
                found.append(f"{module}: imports {target}")
            elif there not in RANK or RANK[there] >= RANK.get(room, -1):
                found.append(f"{module}: imports {target}, which does not stand left of it")
            leaf = target.rpartition(".")[2]
            if leaf in OWN and target.rpartition(".")[0] != module.rpartition(".")[0]:
                found.append(f"{module}: imports {target}, which is its folder's own")
            if (
                module.rpartition(".")[2] == "native"
                and leaf == "reference"
                and (module, target) not in NATIVE_FALLS_BACK
            ):
                found.append(f"{module}: imports {target}")
        for node in ast.walk(ast.parse(source)):
            of_a_module = isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
            if of_a_module and node.value.id in aliases and is_private(node.attr):
                found.append(f"{module}: private name {node.value.id}.{node.attr}")
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
    ("inputs", "from hrta_ext.backends import serve", "imports backends"),
    ("activation.functions", "from hrta_ext.network.functions import two_layer", "does not stand left"),
    ("activation.functions", "from hrta_ext.ntk.gram import gram", "does not stand left"),
    ("network.module", "from hrta_ext.training import fit", "does not stand left"),
    ("network.module", "from hrta_ext.activation import native", "its folder's own"),
    ("network.module", "from hrta_ext.activation.functions import _lane", "private name _lane"),
    ("network.module", "from hrta_ext import backends\nbackends._open", "private name backends._open"),
    ("ntk.native", "from hrta_ext.ntk import reference", "imports ntk.reference"),
    ("reproduction.claims.sin", "from hrta_ext.training.fit import fit", "the reproduction imports training.fit"),
    ("reproduction.claims.sin", "from hrta_ext import secret", "secret is no public name"),
    ("cli.train", "from hrta_ext.reproduction.claims import sin", "does not stand left"),
]


@pytest.mark.parametrize(("module", "source", "breach"), BREACHES)
def test_each_kind_of_breach_is_found(module: str, source: str, breach: str) -> None:
    files = dict.fromkeys(
        [
            "backends",
            "activation.native",
            "ntk.reference",
            "training.fit",
            "network.functions",
            "reproduction.claims.sin",
        ],
        "",
    )
    assert any(breach in line for line in breaches(files | {module: source}, set(hx.__all__)))


@needs_sources
def test_the_root_of_the_package_reads_like_a_table_of_contents() -> None:
    names = [path.name for path in (ROOT / "hrta_ext").iterdir() if path.is_file() and not path.name.startswith("_C.")]
    assert len(names) <= 10, names


@needs_sources
def test_no_file_has_more_than_400_lines() -> None:
    paths = [path for folder in ("hrta_ext", "tests") for path in (ROOT / folder).rglob("*.py")]
    assert [str(path) for path in paths if len(path.read_text("utf-8").splitlines()) > 400] == []
