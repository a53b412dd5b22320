"""A picture of results: what every case reaches of the copy bandwidth or of the matrix rate measured in its own run.

python benchmarks/roofline.py results/*_nvidia_h200.json --out results/roofline_nvidia_h200.png
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from timing import slug

from hrta_ext.plots import COLORS, GREY, new_figure, plain, save_figure

BENCHMARKS = {"activation": 0, "two_layer": 1, "training": 2, "gram": 3}  # their colours
# Which ceiling, its key in the JSON, the unit, and the ceiling in words.
PANELS = (
    ("memory", "copy_bytes_per_second", "B/s", "copy of memory"),
    ("arithmetic", "matmul_flops_per_second", "FLOP/s", "matrix product"),
)
ROW, LABEL = 0.21, 8.5  # inches a bar, points a letter


@dataclass(frozen=True)
class Bar:
    """One case, and its share of the ceiling of its own run."""

    benchmark: str
    name: str
    share: float


def bars(contents: list[dict[str, Any]], bound: str) -> list[Bar]:
    """The cases that this ceiling bounds, in the order of the files."""
    return [
        Bar(content["benchmark"], case["name"], case["floor"]["share"])
        for content in contents
        for case in content["cases"]
        if (case.get("floor") or {}).get("bound") == bound
    ]


def where(contents: list[dict[str, Any]]) -> str:
    """The card, or the processor, that the first file was measured on."""
    environment = contents[0]["environment"]
    place = environment.get("gpu") or f"{environment['cpu']}, {environment['threads']} threads"
    return f"{place}, torch {environment['torch']}"


def draw(contents: list[dict[str, Any]], path: Path) -> bool:
    """Write the picture; False where no case has a floor that says something."""
    panels = [(bars(contents, bound), *rest) for bound, *rest in PANELS]
    panels = [panel for panel in panels if panel[0]]
    if not panels:
        return False
    heights = [len(found) * ROW + 0.95 for found, *_ in panels]
    figure, axes = new_figure(9.0, sum(heights) + 0.5, rows=len(panels))
    axes[0].get_gridspec().set_height_ratios(heights)
    for axis, (found, key, unit, ceiling) in zip(axes, panels, strict=True):
        # Each file has the ceiling of its own run, and the bars are shares of those: one line stands for all.
        reached = max(content["ceilings"][key] for content in contents)
        scale, prefix = (1e12, "T") if reached >= 1e13 else (1e9, "G")
        reached, name = reached / scale, f"{prefix}{unit}"
        kind = f" in {contents[0]['ceilings']['matmul_dtype']}" if key.startswith("matmul") else ""
        places = range(len(found))
        colors = [COLORS[BENCHMARKS.get(bar.benchmark, 4)] for bar in found]
        axis.barh(places, [bar.share * reached for bar in found], height=0.7, color=colors)
        widest = max(reached, *(bar.share * reached for bar in found))
        for place, bar in zip(places, found, strict=True):
            end = bar.share * reached
            inside = end > 0.1 * widest  # beside a long bar it would hit the ceiling
            at, side, color = (-0.01, "right", "white") if inside else (0.01, "left", "black")
            label = f"{100 * bar.share:.0f}%"
            axis.text(end + at * widest, place, label, va="center", ha=side, color=color, fontsize=LABEL)
        axis.axvline(reached, color=GREY, linewidth=1.2, linestyle=(0, (5, 2)), zorder=0.9)
        axis.set_title(f"{ceiling}{kind}: {reached:,.4g} {name}", loc="left", fontsize=10)
        names = [plain(f"{bar.benchmark}: {bar.name.split(' (')[0]}", 70) for bar in found]  # without the peers' width
        axis.set_yticks(list(places), names, fontsize=LABEL)
        axis.set_xlim(0.0, 1.03 * widest)
        axis.set_ylim(len(found) - 0.4, -0.6)
        axis.grid(False, axis="y")
        axis.set_xlabel(f"{name} reached; per cent of the dashed ceiling")
    figure.suptitle(plain(where(contents), 90), fontsize=11, x=0.01, ha="left")
    save_figure(figure, path)
    return True


def main() -> int:
    """Read the files, draw one picture of them all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, nargs="+", help="JSON files of benchmarks, of one machine")
    parser.add_argument("--out", type=Path, required=True, help="picture, or a directory for it")
    arguments = parser.parse_args()
    contents = [json.loads(path.read_text(encoding="utf-8")) for path in arguments.results]
    contents = [content for content in contents if "ceilings" in content and "cases" in content]
    out = arguments.out
    if out.is_dir():
        card = contents[0]["environment"].get("gpu") if contents else None
        out /= f"roofline_{slug(card)}.png" if card else "roofline.png"
    if draw(contents, out):
        print(f"written to {out}")
    else:
        print("no case here is large enough for a roofline")
    return 0


if __name__ == "__main__":
    sys.exit(main())
