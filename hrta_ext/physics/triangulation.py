"""Polygons by their vertices: are they simple, and what triangles are they made of."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]


def cross(a: Points, b: Points, c: Points) -> Points:
    """Twice the area of the triangles a b c, positive counterclockwise; arrays (..., 2)."""
    return np.asarray(
        (b[..., 0] - a[..., 0]) * (c[..., 1] - a[..., 1]) - (b[..., 1] - a[..., 1]) * (c[..., 0] - a[..., 0])
    )


def signed_area(vertices: Points) -> float:
    """Positive counterclockwise; from the first vertex on, so that polygons far from the origin keep their digits."""
    return 0.5 * float(cross(vertices[0], vertices, np.roll(vertices, -1, axis=0)).sum())


def edges_that_meet(first: Points, second: Points) -> NDArray[np.bool_]:
    """Which edges of two polygons have a common point, shape (k, l)."""
    a, c = first[:, None], second[None]
    b, d = np.roll(a, -1, axis=0), np.roll(c, -1, axis=1)
    sides = [np.sign(cross(*triple)) for triple in ((a, b, c), (a, b, d), (c, d, a), (c, d, b))]
    meet = (sides[0] * sides[1] < 0) & (sides[2] * sides[3] < 0)
    for side, point, start, end in zip(sides, (c, d, a, b), (a, a, c, c), (b, b, d, d), strict=True):
        within = (np.minimum(start, end) <= point) & (point <= np.maximum(start, end))
        meet |= (side == 0) & within.all(axis=-1)
    return meet


def meeting_edges(vertices: Points) -> tuple[int, int] | None:
    """The first two edges that meet elsewhere than at the vertex that neighbours share; edge i starts at vertex i."""
    k, ends = len(vertices), np.roll(vertices, -1, axis=0)
    meet, number = edges_that_meet(vertices, vertices), np.arange(k)
    apart = (number[None] - number[:, None]) % k
    meet &= (apart > 1) & (apart < k - 1)
    # Neighbours meet in more than a vertex where the second runs back over the first.
    after = np.roll(ends, -1, axis=0)
    back = (cross(vertices, ends, after) == 0) & (((vertices - ends) * (after - ends)).sum(axis=-1) > 0)
    meet[number, (number + 1) % k] |= back
    found = np.argwhere(meet)
    return (int(found[0, 0]), int(found[0, 1])) if len(found) else None


def triangles(vertices: Points) -> Points:
    """Triangles (t, 3, 2) that make up a simple polygon, counterclockwise: ears are clipped one by one, O(k^2)."""
    left, found = list(range(len(vertices))), []
    start = 0
    while len(left) > 2:
        for step in range(len(left)):
            at = (start + step) % len(left)
            before, tip, after = left[at - 1], left[at], left[(at + 1) % len(left)]
            corner = vertices[[before, tip, after]]
            size = cross(*corner)
            if size == 0 or (size > 0 and _is_empty(corner, vertices[left])):
                break
        else:
            raise ValueError("Polygon: vertices must be further from each other's edges, rounding hides the inside")
        if size > 0:
            found.append(corner)
        left.pop(at)
        start = at
    return np.stack(found)


def _is_empty(corner: Points, others: Points) -> bool:
    """Whether no other vertex lies in the triangle or on it."""
    a, b, c = corner
    inside = (cross(a, b, others) >= 0) & (cross(b, c, others) >= 0) & (cross(c, a, others) >= 0)
    own = (others[:, None] == corner[None]).all(axis=-1).any(axis=-1)
    return not bool((inside & ~own).any())
