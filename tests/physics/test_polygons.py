"""Polygons: inside by the winding number, triangles that make up the whole, what is no polygon."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from physics.cases import BEND, STAR

import hrta_ext as hx


def winding_numbers(points: torch.Tensor, vertices: torch.Tensor) -> torch.Tensor:
    """How often the boundary goes around each point: the sum of the angles at which it sees the edges, over 2 pi."""
    start = vertices[None] - points[:, None]
    end = start.roll(-1, 1)
    turn = start[..., 0] * end[..., 1] - start[..., 1] * end[..., 0]
    return (torch.atan2(turn, (start * end).sum(-1)).sum(1) / (2 * math.pi)).round()


def comb(teeth: int) -> list[tuple[float, float]]:
    """A polygon of 4 teeth vertices with many notches."""
    top = [(2.0 * i + x, y) for i in range(teeth) for x, y in ((0, 1), (0, 3), (1, 3), (1, 1))]
    return [(0.0, 0.0), (2.0 * teeth - 1, 0.0), *reversed(top[1:-1])]


POLYGONS: dict[str, list[Any]] = {"L": BEND, "star": STAR, "comb": comb(10), "triangle": [(0, 0), (1, 0), (0.3, 1)]}
polygons = pytest.mark.parametrize("vertices", POLYGONS.values(), ids=POLYGONS)


@polygons
@pytest.mark.parametrize("clockwise", [False, True])
def test_inside_agrees_with_the_winding_number(vertices: list[Any], clockwise: bool) -> None:
    polygon = hx.Polygon(vertices[::-1] if clockwise else vertices)
    lower, upper = polygon.bounds
    points = hx.Box((lower - 0.1).tolist(), (upper + 0.1).tolist()).sample(2000, seed=1)
    assert torch.equal(polygon.contains(points), winding_numbers(points, polygon.vertices) == 1)


@polygons
def test_points_fill_the_polygon_evenly(vertices: list[Any]) -> None:
    # A linear form's mean is its value at the centroid, here by Green's theorem over the edges.
    polygon, n = hx.Polygon(vertices), 4096
    start = np.array(vertices, dtype=float)
    end = np.roll(start, -1, axis=0)
    cross = start[:, 0] * end[:, 1] - end[:, 0] * start[:, 1]
    area = cross.sum() / 2
    centroid = ((start + end) * cross[:, None]).sum(axis=0) / (6 * area)
    assert polygon.volume == pytest.approx(abs(area), rel=1e-13)
    points = polygon.sample(n, seed=6)
    assert bool(((points.mean(0) - torch.tensor(centroid)).abs() < 5 * points.std(0) / math.sqrt(n)).all())
    quasi = polygon.sample(n, method="sobol", seed=6)
    assert bool(((quasi.mean(0) - torch.tensor(centroid)).abs() < 0.3 * points.std(0) / math.sqrt(n)).all())


def test_collinear_vertices_and_touching_ears_are_served() -> None:
    # Vertices in the middle of edges make triangles of area 0, which must not appear.
    polygon = hx.Polygon([(0, 0), (1, 0), (2, 0), (2, 2), (1, 1), (0, 2), (0, 1)])
    assert polygon.volume == 3.0
    points = polygon.sample(1000)
    assert bool(polygon.contains(points, 1e-12).all())
    assert float((points[:, 0] < 1).double().mean()) == pytest.approx(0.5, abs=0.08)


def test_a_polygon_far_from_the_origin_keeps_its_digits() -> None:
    assert hx.Polygon([(x + 1e7, y - 1e7) for x, y in BEND]).volume == 3.0


@pytest.mark.parametrize(
    ("vertices", "kind", "message"),
    [
        ([(0, 0), (1, 1), (1, 0), (0, 1)], ValueError, "edges must meet at common vertices alone, got"),
        (
            [(0, 0), (2, 0), (2, 2), (1, 0), (0, 2)],
            ValueError,
            "edges must meet at common vertices alone",
        ),  # a vertex on an edge
        ([(0, 0), (1, 0), (2, 0)], ValueError, "edges must meet at common vertices alone"),  # no area
        ([(0, 0), (2, 0), (1, 0), (1, 1)], ValueError, "edges must meet at common vertices alone"),  # runs back
        ([(0, 0), (1, 0), (1, 1), (0, 0), (-1, 0), (-1, -1)], ValueError, "edges must meet"),  # an eight
        ([(0, 0), (0, 0), (1, 1), (0, 1)], ValueError, r"neighbours must differ, got \(0.0, 0.0\) twice in a row"),
        ([(0, 0), (1, 1)], ValueError, "vertices must be at least 3 pairs, got 2"),
        ([(0, 0), (1, 1), (1, 0, 1)], ValueError, r"vertices\[2\] must be a pair, got 3 numbers"),
        ([(0, 0), (1, 1), (1, math.nan)], ValueError, r"vertices\[2\]\[1\] must be finite, got nan"),
        ([(0, 0), (1, 1), 3], TypeError, r"vertices\[2\] must be a sequence of d numbers, got 3"),
        (3, TypeError, "vertices must be a sequence of pairs, got 3"),
    ],
)
def test_what_is_no_polygon_is_refused(vertices: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=f"Polygon: {message}"):
        hx.Polygon(vertices)
