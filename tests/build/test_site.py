"""What looks at the built site (`make docs`) sees what is wrong with it; building it takes too long to be done here."""

from __future__ import annotations

import importlib.util
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_check_of_the_site_finds_broken_links_and_foreign_hosts(tmp_path: Path) -> None:
    specification = importlib.util.spec_from_file_location("check", ROOT / "docs/site/check.py")
    assert specification is not None
    assert specification.loader is not None
    check = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(check)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/index.html").write_text('<h1 id="top">there</h1><img src="../picture.png">')
    (tmp_path / "style.css").write_text("@import url(https://fonts.example/a.css); a { background: url(data:x) }")
    (tmp_path / "page.html").write_text(
        '<a href="folder/index.html#top">right</a> <a href="folder/">right</a> <a href="https://example.org">right</a>'
        '<a href="gone.html">wrong</a> <a href="folder/index.html#gone">wrong</a> <a href="#gone">wrong</a>'
        '<script src="https://cdn.example/a.js"></script>'
    )
    found = [line.removeprefix(f"{tmp_path}/") for line in check.problems(tmp_path)]
    assert found == [
        "folder/index.html: no ../picture.png",
        "page.html: loads https://cdn.example/a.js",
        "page.html: no gone.html",
        "page.html: no anchor folder/index.html#gone",
        "page.html: no anchor #gone",
        "style.css: loads https://fonts.example/a.css",
    ]
