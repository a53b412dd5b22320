"""Every link of the built site leads somewhere in it, anchors too, and no page loads anything from other hosts."""

from __future__ import annotations

import re
import sys
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

LOADED = {"script": "src", "img": "src", "link": "href", "iframe": "src", "source": "src", "object": "data"}


class Document(HTMLParser):
    """What a page names: ``ids``, ``links`` that a reader may follow, ``loads`` that a browser fetches by itself."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """One tag."""
        given = {name: value or "" for name, value in attrs}
        self.ids |= {given[name] for name in ("id", "name") if name in given}
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        elif tag in LOADED and LOADED[tag] in given:
            self.loads.append(given[LOADED[tag]])


@cache
def document(file: Path) -> Document:
    """A page, read once."""
    return Document(file.read_text(encoding="utf-8"))


def problems(site: Path) -> list[str]:
    """One line for each link or file that is wrong."""
    found = []
    for file in sorted(site.rglob("*.html")):
        if file.name == "404.html":  # made for a server's root
            continue
        page = document(file)
        for url in page.loads + page.links:
            parts = urlsplit(url)
            if parts.scheme or parts.netloc:
                if url in page.loads and parts.scheme != "data":
                    found.append(f"{file}: loads {url}")
                continue
            target = (file.parent / unquote(parts.path)).resolve() if parts.path else file
            if target.is_dir():
                target /= "index.html"
            if not target.exists():
                found.append(f"{file}: no {url}")
            elif parts.fragment and target.suffix == ".html" and unquote(parts.fragment) not in document(target).ids:
                found.append(f"{file}: no anchor {url}")
    for file in sorted(site.rglob("*.css")):
        urls = re.findall(r"(?:url\(|@import )[\"']?((?:https?:)?//[^\"')]+)", file.read_text(encoding="utf-8"))
        found += [f"{file}: loads {url}" for url in urls]
    return found


def main() -> int:
    """Print what is wrong with the site in the folder given; the number of problems decides the exit code."""
    site = Path(sys.argv[1])
    found = problems(site)
    print("\n".join(found) if found else f"{site}: {len(list(site.rglob('*.html')))} pages, every link leads somewhere")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
