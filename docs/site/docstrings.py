"""Docstrings as they are written, for mkdocstrings: their marks turned into Markdown before they are parsed."""

from __future__ import annotations

import re
from typing import Any

from griffe import Extension, Object

MARK = re.compile(r"``[^`]+``|:\w+:`~?(?:[^`<]*<)?([\w.]+)>?`")  # code, and roles such as :func:`fit`
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
    return "Examples:".join(["".join(pieces) + _escaped(prose[last:]), *example])


def _escaped(prose: str) -> str:
    """Of ``*``, ``<`` and brackets none is meant as a mark; pages of docs/ are linked from the folder reference/."""
    escaped = re.sub(r"([*\[\]`])", r"\\\1", prose).replace("<", "&lt;")
    return re.sub(r"\bdocs/(\w+)\.md", r"[docs/\1.md](../\1.md)", escaped)
