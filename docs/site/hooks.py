"""What the site adds to the pages: sources that links lead to, notebooks that ran, options of commands, links of calls.

Links in pages are right in a checkout. Where one leaves ``docs/``, or names a source or a folder, the site gets a page
for it under ``files/``, and the link is turned there.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path

import notebooks
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
LINK = re.compile(r"(?<=\]\()(?!https?:)([^)#\s]+)(?=(#[^)\s]*)?\))")
CODE = re.compile(r"```.*?```|`[^`\n]+`", re.DOTALL)  # G^[a](s) is no link
LANGUAGES = {".py": "python", ".h": "cpp", ".cpp": "cpp", ".cu": "cuda", ".cuh": "cuda", ".toml": "toml", ".sh": "bash"}
NO_SEARCH = "---\nsearch:\n  exclude: true\n---\n"


def outside_code(text: str) -> Iterator[tuple[str, bool]]:
    """The pieces of a Markdown text, each with whether it is prose."""
    last = 0
    for match in CODE.finditer(text):
        yield text[last : match.start()], True
        yield match[0], False
        last = match.end()
    yield text[last:], True


def targets(text: str, folder: str) -> set[str]:
    """Paths in the repository that a text of ``folder`` links to."""
    prose = "".join(piece for piece, is_prose in outside_code(text) if is_prose)
    paths = {posixpath.normpath(posixpath.join(folder, match[1])) for match in LINK.finditer(prose)}
    return {path for path in paths if not path.startswith("..") and (ROOT / path).exists()}


def place(path: str) -> str:
    """Where a path of the repository is found among the sources of the site."""
    file = ROOT / path
    if file.is_dir():
        return f"files/{path}/index.md"
    if file.suffix == ".ipynb":
        return f"notebooks/{file.stem}.md"
    if file.suffix in LANGUAGES or not file.suffix:
        return f"files/{path}.md"
    return path.removeprefix("docs/") if path.startswith("docs/") else f"files/{path}"


def written(path: str) -> str:
    """The page of a folder, a source or a Markdown file outside ``docs/``."""
    file = ROOT / path
    if file.is_dir():
        names = sorted(
            each.name + "/" * each.is_dir() for each in file.iterdir() if not each.name.startswith(("_", "."))
        )
        return NO_SEARCH + f"# {path}\n\n" + "".join(f"- [{name}]({name})\n" for name in names)
    if file.suffix == ".md":
        return file.read_text(encoding="utf-8")
    text = file.read_text(encoding="utf-8").rstrip("\n")
    fence = "`" * (max(map(len, re.findall("`{3,}", text)), default=2) + 1)
    return NO_SEARCH + f"# {path}\n\n{fence}{LANGUAGES.get(file.suffix, 'text')}\n{text}\n{fence}\n"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what links lead to, and what those pages link to, and the notebooks with their outputs."""
    origin.clear()
    waiting = [(file.src_uri, f"docs/{file.src_uri}") for file in files.documentation_pages()]
    for notebook in sorted((ROOT / "docs/notebooks").glob("*.ipynb")):
        text, pictures = notebooks.as_markdown(notebook)
        files.append(File.generated(config, f"notebooks/{notebook.stem}.md", content=text))
        for name, content in pictures.items():
            files.append(File.generated(config, f"notebooks/{name}", content=content))
    for page, source in waiting:  # grows
        origin[page] = posixpath.dirname(source) if not (ROOT / source).is_dir() else source
        text = written(source) if page.startswith("files/") else (ROOT / source).read_text(encoding="utf-8")
        for path in sorted(targets(text, origin[page])):
            if files.get_file_from_path(place(path)) is not None:
                continue
            if place(path).endswith(".md"):
                files.append(File.generated(config, place(path), content=written(path)))
                waiting.append((place(path), path))
            else:
                files.append(File.generated(config, place(path), abs_src_path=str(ROOT / path)))
    return files


origin: dict[str, str] = {}  # folder, in the repository, of the file that each page was made from


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links to what has a page of its own, and put in the options of the commands."""
    here = page.file.src_uri

    def turned(match: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join(origin[here], match[1]))
        if path.startswith("..") or not (ROOT / path).exists():
            return match[1]
        return posixpath.relpath(place(path), posixpath.dirname(here) or ".")

    if here in origin:
        pieces = outside_code(markdown)
        markdown = "".join(LINK.sub(turned, piece) if is_prose else piece for piece, is_prose in pieces)
    return re.sub(r"<!-- options of (\w+) -->", lambda match: options(match[1]), markdown)


def options(command: str) -> str:
    """Arguments and options of a command of ``hrta`` as a table."""
    import typer

    from hrta_ext.cli import app

    found = typer.main.get_command(app).commands[command]  # type: ignore[attr-defined]
    lines = [str(found.help or "").strip(), "", "| | |", "|---|---|"]
    for parameter in found.params:
        if getattr(parameter, "hidden", False):
            continue
        names = " / ".join([*parameter.opts, *parameter.secondary_opts])
        if parameter.param_type_name == "argument":
            names = parameter.metavar or parameter.name.upper()
        text = (parameter.help or "").replace("|", "\\|").replace("\n", " ")
        if (
            parameter.default not in (None, False, "", ())
            and not callable(parameter.default)
            and parameter.show_default
        ):
            text += f" Default: `{parameter.default}`."
        lines.append(f"| `{names}` | {text} |")
    return "\n".join(lines)


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Link ``hx.name`` in text, and ``name`` in docstrings, to its place in the reference."""
    here = page.file.src_uri
    code = r"<code>(\w+)</code>" if here.startswith("reference/") else r"<code>hx\.(\w+)[^<]*</code>"
    entries = reference()

    def linked(match: re.Match[str]) -> str:
        if match[1] not in entries:
            return match[0]
        url = posixpath.relpath(entries[match[1]], posixpath.dirname(here) or ".").removesuffix(".md")
        return f'<a class="call" href="{url}.html#hrta_ext.{match[1]}">{match[0]}</a>'

    return re.sub(rf"<a\b.*?</a>|{code}", linked, html, flags=re.DOTALL)


def reference() -> dict[str, str]:
    """Public names, and the pages that show their docstrings."""
    pages = sorted((ROOT / "docs/reference").glob("*.md"))
    return {
        name: f"reference/{page.name}"
        for page in pages
        for name in re.findall(r"^::: hrta_ext\.(\w+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    }
