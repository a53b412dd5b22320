"""Run the notebooks from top to bottom: ``make notebooks``, and for the site, which shows them with their outputs."""

from __future__ import annotations

import base64
import re
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).parents[1] / "notebooks"
SECONDS = 120  # for a cell


def run(path: Path) -> nbformat.NotebookNode:
    """The notebook with its outputs; an error of a cell is raised. The file stays as it is."""
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook,
        timeout=SECONDS,
        kernel_name="python3",
        coalesce_streams=True,
        resources={"metadata": {"path": FOLDER}},
        extra_arguments=["--log-level=ERROR"],
    )
    client.execute()
    return notebook


def as_markdown(path: Path) -> tuple[str, dict[str, bytes]]:
    """Text, code, outputs and pictures (by file name) of a notebook that was run."""
    parts, pictures = [], {}
    for cell in run(path).cells:
        if cell.cell_type == "markdown":
            parts.append(cell.source)
            continue
        parts.append(f"```python\n{cell.source}\n```")
        for output in cell.outputs:
            data = output.get("data", {})
            if "image/png" in data:
                name = f"{path.stem}_{len(pictures)}.png"
                pictures[name] = base64.b64decode(data["image/png"])
                parts.append(f"![Output]({name})")
            elif text := output.get("text") or data.get("text/plain"):
                parts.append("```text\n" + re.sub(r"\x1b\[[\d;]*m", "", text).rstrip() + "\n```")
    title, *rest = parts
    return "\n\n".join([title, f"[Download this notebook]({path.name})", *rest]) + "\n", pictures


def main() -> None:
    """Run every notebook and say how long it took."""
    for path in sorted(FOLDER.glob("*.ipynb")):
        start = time.perf_counter()
        run(path)
        print(f"{path.name}: {time.perf_counter() - start:.1f} s")


if __name__ == "__main__":
    sys.exit(main())
