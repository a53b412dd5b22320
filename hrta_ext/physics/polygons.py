"""Polygons in the plane."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from hrta_ext.inputs import shown
from hrta_ext.physics.checks import check_reals
from hrta_ext.physics.geometry import Geometry
from hrta_ext.physics.regions import Mapped, Region, choose
from hrta_ext.physics.triangulation import meeting_edges, signed_area, triangles

_BLOCK = 2**20  # points times edges at a time


class Polygon(Geometry):
    """A simple polygon in the plane, convex or not: edges meet at common vertices alone.

    Its volume is its area in the plane, 1/2 |sum_i x_i y_(i+1) - x_(i+1) y_i|, and its area the length of its boundary.

    Args:
        vertices: k >= 3 pairs (x, y) in the order of the boundary, clockwise or counterclockwise.
    Attributes:
        vertices: Counterclockwise, float64 of shape (k, 2).
    Raises:
        TypeError, ValueError: Vertices that are not finite pairs, fewer than three, edges that meet.

    Example:
        >>> import hrta_ext as hx
        >>> bend = hx.Polygon([(0, 0), (2, 0), (2, 1), (1, 1), (1, 2), (0, 2)])  # the shape of an L
        >>> bend.volume, bend.area
        (3.0, 8.0)
        >>> bend.contains(bend.vertices.new_tensor([[0.5, 1.5], [1.5, 1.5]]))
        tensor([ True, False])
    """

    dimension = 2

    def __init__(self, vertices: Sequence[Sequence[float]]) -> None:
        corners = _checked(vertices)
        if signed_area(corners) < 0:
            corners = corners[::-1].copy()
        meeting = meeting_edges(corners)
        if meeting is not None:
            edges = [f"{corners[i].tolist()} to {corners[(i + 1) % len(corners)].tolist()}" for i in meeting]
            raise ValueError(f"Polygon: edges must meet at common vertices alone, got {edges[0]} and {edges[1]}")
        self.vertices = torch.from_numpy(corners)
        self.description = {"shape": "Polygon", "vertices": corners.tolist()}
        self._triangles = torch.from_numpy(triangles(corners))
        sides = self._triangles[:, 1:] - self._triangles[:, :1]
        self._shares = 0.5 * torch.linalg.det(sides)
        self._edges = self.vertices.roll(-1, 0) - self.vertices
        self._lengths = torch.linalg.vector_norm(self._edges, dim=1)
        self.interior = Mapped(self, "interior", 2, signed_area(corners), self._inside)
        self._outline = Mapped(self, "boundary", 1, float(self._lengths.sum()), self._along)

    @property
    def boundary(self) -> Region:
        """The edges."""
        return self._outline

    @property
    def bounds(self) -> tuple[Tensor, Tensor]:
        """Least and greatest coordinates, float64 of shape (2,)."""
        return self.vertices.amin(dim=0), self.vertices.amax(dim=0)

    def _inside(self, u: Tensor) -> Tensor:
        which, first = choose(u[:, 0], self._shares)
        a, b, c = self._triangles[which].unbind(dim=1)
        # The triangle within the share r of the way from a has the share r^2 of the area.
        r, across = first.sqrt()[:, None], u[:, 1:]
        return a + r * ((1.0 - across) * (b - a) + across * (c - a))

    def _along(self, u: Tensor) -> Tensor:
        which, along = choose(u[:, 0], self._lengths)
        return self.vertices[which] + along[:, None] * self._edges[which]

    def _to_edges(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Distance to every edge, shape (n, k), and who is inside: rays to the right cross an odd number of edges."""
        start, edges = self.vertices.to(points.device), self._edges.to(points.device)
        away = points[:, None] - start
        along = ((away * edges).sum(dim=-1) / edges.square().sum(dim=-1)).clamp(0.0, 1.0)
        distances = torch.linalg.vector_norm(away - along[..., None] * edges, dim=-1)
        y, height = points[:, 1:], start[:, 1]
        spans = (height > y) != (height.roll(-1, 0) > y)
        right = away[..., 0] * edges[:, 1] < away[..., 1] * edges[:, 0]
        crosses = spans & (right == (edges[:, 1] > 0))
        return distances, crosses.sum(dim=1) % 2 == 1

    def _distance(self, points: Tensor) -> Tensor:
        found = []
        for block in points.split(max(1, _BLOCK // len(self.vertices))):
            distances, inside = self._to_edges(block)
            nearest = distances.amin(dim=1)
            found.append(torch.where(inside, -nearest, nearest))
        return torch.cat(found)

    def _normals(self, points: Tensor) -> Tensor:
        edges = self._edges / self._lengths[:, None]
        outward = torch.stack([edges[:, 1], -edges[:, 0]], dim=1).to(points.device)
        found = []
        for block in points.split(max(1, _BLOCK // len(self.vertices))):
            distances = self._to_edges(block)[0]
            # Of edges that meet, the first: rounding must not choose.
            near = distances <= distances.amin(dim=1, keepdim=True) + 1e-12 * self.diameter
            found.append(outward[near.to(torch.uint8).argmax(dim=1)])
        return torch.cat(found)


def _checked(vertices: object) -> np.ndarray:
    """Vertices as float64 of shape (k, 2)."""
    try:
        rows = list(vertices)  # type: ignore[call-overload]
    except TypeError:
        raise TypeError(f"Polygon: vertices must be a sequence of pairs, got {shown(vertices)}") from None
    if len(rows) < 3:
        raise ValueError(f"Polygon: vertices must be at least 3 pairs, got {len(rows)}")
    pairs = [check_reals(row, f"Polygon: vertices[{place}]") for place, row in enumerate(rows)]
    for place, pair in enumerate(pairs):
        if len(pair) != 2:
            raise ValueError(f"Polygon: vertices[{place}] must be a pair, got {len(pair)} numbers")
    for place, pair in enumerate(pairs):
        if torch.equal(pair, pairs[place - 1]):
            raise ValueError(f"Polygon: neighbours must differ, got {tuple(pair.tolist())} twice in a row")
    corners: np.ndarray = torch.stack(pairs).numpy()
    return corners
