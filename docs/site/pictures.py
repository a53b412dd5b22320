"""Draw the pictures of the gallery again: the Python of its pages is run in docs/images, which it saves them to."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

import torch

DOCS = Path(__file__).parents[1]


def main() -> None:
    """Run every block, in a namespace of its own."""
    pages = [(page, page.read_text(encoding="utf-8")) for page in sorted((DOCS / "gallery").glob("*.md"))]
    os.chdir(DOCS / "images")
    for page, text in pages:
        for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
            torch.manual_seed(0)
            start = time.perf_counter()
            exec(compile(block, page.name, "exec"), {})
            print(f"{page.name}: {time.perf_counter() - start:.1f} s")


if __name__ == "__main__":
    main()
