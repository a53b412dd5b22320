"""Docstrings as they are written, for mkdocstrings: their marks turned into Markdown before they are parsed."""

from __future__ import annotations

import re
import textwrap
from typing import Any

from griffe import Extension, Object

MARK = re.compile(r"``[^`]+``|:\w+:`~?(?:[^`<]*<)?([\w.]+)>?`")  # code, and roles such as :func:`fit`
# Parts that the parser would take apart at their colons.
PART = re.compile(r"^(Returns|Raises|Shapes):\n((?: {4}.*(?:\n|$))+)", re.MULTILINE)
EXAMPLE = re.compile(r"^Example:$", re.MULTILINE)


class Marks(Extension):
    """Rewrites every docstring that is read."""

    def on_instance(self, *, obj: Object, **_: Any) -> None:
        """Called for every module, class, function and attribute."""
        if obj.docstring is not None:
            obj.docstring.value = as_markdown(obj.docstring.value)


def as_markdown(text: str) -> str:
    """Roles become code, pages links, and characters of formulas that Markdown would eat are escaped."""
    prose, *example = EXAMPLE.split(text)
    pieces, last = [], 0
    for match in MARK.finditer(prose):
        pieces += [_escaped(prose[last : match.start()]), f"`{match[1]}`" if match[1] else match[0]]
        last = match.end()
    pieces.append(_escaped(prose[last:]))
    parts = re.sub(r"(?<=\S)\nAttributes:$", "\n\nAttributes:", "".join(pieces), flags=re.MULTILINE)
    return "Examples:".join([PART.sub(_part, parts), *example])


def _part(match: re.Match[str]) -> str:
    """A paragraph, or a list where there are several errors, each of which begins a line."""
    entries = re.split(r"\n(?=\S)", textwrap.dedent(match[2]).strip()) if match[1] == "Raises" else [match[2].strip()]
    entries = [re.sub(r"\n +", "\n", entry) for entry in entries]
    if len(entries) == 1:
        return f"\n**{match[1]}:** {entries[0]}\n"
    return "\n".join([f"\n**{match[1]}:**\n", *("- " + entry.replace("\n", " ") for entry in entries)]) + "\n"


def _escaped(prose: str) -> str:
    """Of ``*``, ``<`` and brackets none is meant as a mark; pages of docs/ are linked from the folder reference/."""
    escaped = re.sub(r"([*\[\]`])", r"\\\1", prose).replace("<", "&lt;")
    return re.sub(r"\bdocs/(\w+)\.md", r"[docs/\1.md](../\1.md)", escaped)
