"""README, docs and notebooks are right: code runs as printed, commands exist, links lead somewhere, names are known."""

from __future__ import annotations

import ast
import json
import re
import shlex
from pathlib import Path

import pytest
import torch

import hrta_ext as hx

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
NOTEBOOKS = sorted((DOCS / "notebooks").glob("*.ipynb"))
TEXTS = {str(page.relative_to(ROOT)): page.read_text(encoding="utf-8") for page in PAGES}


def blocks(language: str) -> list[object]:
    """The code blocks of all pages in a language."""
    return [
        pytest.param(block, id=f"{name.removeprefix('docs/')}-{i}")
        for name, text in TEXTS.items()
        for i, block in enumerate(re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL))
    ]


@pytest.mark.parametrize("block", blocks("python"))
def test_python_in_the_docs_runs(block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # what an example saves does not end up in the repository
    if "matplotlib" in block:
        monkeypatch.setenv("MPLBACKEND", "agg")
        pytest.importorskip("matplotlib").use("agg")
    if "sklearn" in block:
        pytest.importorskip("sklearn")
    torch.manual_seed(0)
    exec(compile(block, "docs", "exec"), {})


@pytest.mark.parametrize("block", blocks("console"))
def test_commands_in_the_docs_are_understood(block: str) -> None:
    """``hrta`` knows the command and its options, the Makefile the target, pyproject.toml the extra."""
    typer = pytest.importorskip("typer")
    from hrta_ext.cli import app

    commands = typer.main.get_command(app).commands
    for line in block.splitlines():
        words = shlex.split(line, comments=True)
        words = words[: words.index(">")] if ">" in words else words
        if words[:1] == ["hrta"]:
            commands[words[1]].make_context(words[1], words[2:])
        if words[:1] == ["make"]:
            assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE), line
        for extras in re.findall(r"\[([\w,]+)\]", line):
            project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
            assert all(re.search(rf"^{extra} = \[", project, re.MULTILINE) for extra in extras.split(",")), line


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_to_files_lead_somewhere(page: Path) -> None:
    prose = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)  # G^[a](s) is no link
    targets = re.findall(r"\]\((?!https?://)([^)#]+)", prose)
    missing = [target for target in targets if not (page.parent / target).exists()]
    assert missing == []


def test_the_docs_name_what_there_is() -> None:
    """A function that was renamed does not live on in a table."""
    named = {name for text in TEXTS.values() for name in re.findall(r"\bhx\.([A-Za-z_]\w*)", text)}
    assert {name for name in named if not hasattr(hx, name)} == set()


def test_the_reference_shows_every_public_name_once() -> None:
    reference = "".join(text for name, text in TEXTS.items() if name.startswith("docs/reference/"))
    shown = re.findall(r"^::: hrta_ext\.(\w+)$", reference, re.MULTILINE)
    assert sorted(shown) == sorted(hx.__all__)


def test_the_site_has_every_page() -> None:
    """A page that the navigation lacks is found by nobody; the site's build says the same, later."""
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:\n")[2]
    pages = {str(page.relative_to(DOCS)) for page in PAGES[1:]} - {"reproduction/verdicts.md"}
    pages |= {f"notebooks/{notebook.stem}.md" for notebook in NOTEBOOKS}
    assert pages == set(re.findall(r"(\S+\.md)\b", navigation, re.MULTILINE))


def test_the_gallery_shows_the_pictures_that_it_draws() -> None:
    for name, text in TEXTS.items():
        if name.startswith("docs/gallery/") and not name.endswith("index.md"):
            drawn = re.findall(r'savefig\("([^"]+)"', text)
            assert drawn
            assert sorted(drawn) == sorted(re.findall(r"\]\(\.\./images/([^)]+)\)", text))
            assert all(f"../images/{picture}" in TEXTS["docs/gallery/index.md"] for picture in drawn)


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda notebook: notebook.name)
def test_notebooks_have_no_outputs_and_code_that_parses(notebook: Path) -> None:
    """``make notebooks`` runs them; outputs would go out of date, and make differences unreadable."""
    content = json.loads(notebook.read_text(encoding="utf-8"))
    assert content["nbformat"] == 4
    assert len({cell["id"] for cell in content["cells"]}) == len(content["cells"])
    cells = [cell for cell in content["cells"] if cell["cell_type"] == "code"]
    assert cells
    for cell in cells:
        assert cell["outputs"] == []
        assert cell["execution_count"] is None
        for node in ast.walk(ast.parse("".join(cell["source"]))):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "hx":
                assert hasattr(hx, node.attr), node.attr
