"""What the examples share: the command line, the error against a solution, a picture, s compared."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from torch import Tensor

import hrta_ext as hx


@dataclass
class Solved:
    """A trained network and the solution that it is compared with.

    Attributes:
        net, result: Of ``hx.fit``.
        points: (N, d), where errors are measured.
        exact: (N,), the solution there.
        axes: The two columns of ``points`` that the picture shows.
    """

    net: hx.TwoLayerNet
    result: hx.FitResult
    points: Tensor
    exact: Tensor
    axes: tuple[int, int] = (0, 1)

    @property
    def error(self) -> float:
        """Relative L2 error |u - exact| / |exact|."""
        with torch.no_grad():
            found = self.net(self.points).double()
        return float((found - self.exact).norm() / self.exact.norm())


Solve = Callable[..., Solved]  # solve(s=..., steps=..., seed=...)


def path(name: str, steps: int) -> float | Callable[[int], float]:
    """s of a name: "1.5" is constant, "1:2" a ramp over a quarter of the steps."""
    start, _, end = name.partition(":")
    return hx.ramp(float(start), float(end), max(1, steps // 4)) if end else float(start)


def draw(solved: Solved, title: str, file: Path) -> None:
    """The exact solution, the network and their difference as points in the plane."""
    with torch.no_grad():
        found = solved.net(solved.points).double()
    x, y = (solved.points[:, axis] for axis in solved.axes)
    figure, axes = plt.subplots(1, 3, figsize=(11.0, 3.2), constrained_layout=True)
    panels: Sequence[tuple[str, Tensor]] = (
        ("solution", solved.exact),
        ("network", found),
        ("difference", found - solved.exact),
    )
    for axis, (name, values) in zip(axes, panels, strict=True):
        most = float(values.abs().max()) if name == "difference" else None  # white is no difference
        colours = {"cmap": "RdBu", "vmin": -most, "vmax": most} if most else {"cmap": "viridis"}
        drawn = axis.scatter(x, y, c=values, s=6, linewidths=0, **colours)
        figure.colorbar(drawn, ax=axis)
        axis.set_title(name, fontsize=10)
        axis.set_aspect("equal")
    figure.suptitle(f"{title}: relative L2 error {solved.error:.1e}", fontsize=11)
    figure.savefig(file, dpi=80)
    plt.close(figure)


def main(solve: Solve, title: str, steps: int) -> None:
    """Run an example from the command line."""
    parser = argparse.ArgumentParser(description=title, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--s", nargs="+", default=["1"], help="constant, such as 1.5, or a ramp, such as 1:2")
    parser.add_argument("--steps", type=int, default=steps)
    parser.add_argument("--seeds", type=int, default=1, help="networks for each s; the median of their errors is shown")
    parser.add_argument("--out", type=Path, help="a picture of the first network")
    given = parser.parse_args()
    print(f"{title}, {given.steps} steps\n{'s':>8}  {'relative L2 error':>18}  {'seconds':>8}")
    for number, name in enumerate(given.s):
        start = time.perf_counter()
        solved = [solve(s=path(name, given.steps), steps=given.steps, seed=seed) for seed in range(given.seeds)]
        seconds = (time.perf_counter() - start) / given.seeds
        error = float(torch.tensor([each.error for each in solved]).median())
        print(f"{name:>8}  {error:18.2e}  {seconds:8.1f}")
        if number == 0 and given.out is not None:
            draw(solved[0], title, given.out)
