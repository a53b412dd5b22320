"""The command line ``hrta``. It needs the extra "cli"; without it :func:`main` says so in one line."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

__all__ = ["app", "main"]

_NEEDED = ("typer", "rich", "tqdm")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``hrta`` with ``arguments`` (those of the process by default); returns the exit code."""
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        line = f"hrta: the command line needs {', '.join(missing)}: pip install 'hrta_ext[cli]'"
        print(line, file=sys.stderr)
        return 1
    from hrta_ext.cli.commands import run

    return run(arguments)


def __getattr__(name: str) -> Any:
    """``hrta_ext.cli.app``, the Typer app: imported when asked for, so that this module works without Typer."""
    if name == "app":
        from hrta_ext.cli.commands import app

        return app
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
