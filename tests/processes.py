"""Processes that tests start."""

from __future__ import annotations

import os
from pathlib import Path

import hrta_ext


def same_package() -> dict[str, str]:
    """The environment in which a script, wherever it lies, imports the package that is being tested."""
    return {**os.environ, "PYTHONPATH": str(Path(hrta_ext.__file__).parents[1])}
