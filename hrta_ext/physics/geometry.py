"""What every geometry offers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hrta_ext.physics.checks import check_tolerance
from hrta_ext.physics.regions import Region

if TYPE_CHECKING:
    from hrta_ext.physics.differences import Difference
    from hrta_ext.physics.spacetime import SpaceTime

_ON = 1e-6  # of the diameter: float32 rounds coordinates by less


class Geometry:
    """A bounded closed set in d dimensions with its boundary; the base of Interval, Box, Ball and Polygon.

    Attributes:
        dimension: d, the number of columns of its points.
        interior: Its inside, as a region that a :class:`Sampler` draws from.
        boundary: Its boundary, likewise.
        volume: Measure of the interior: length, area, volume.
        area: Measure of the boundary (of an interval: 2, the number of its ends).
        description: What it is, as a dict that JSON can hold.
    """

    dimension: int
    interior: Region
    description: dict[str, Any]

    @property
    def boundary(self) -> Region:
        """The boundary, to draw from."""
        raise NotImplementedError

    @property
    def bounds(self) -> tuple[Tensor, Tensor]:
        """Least and greatest coordinates, float64 of shape (d,)."""
        raise NotImplementedError

    @property
    def volume(self) -> float:
        """Measure of the interior."""
        return self.interior.measure

    @property
    def area(self) -> float:
        """Measure of the boundary."""
        return self.boundary.measure

    @property
    def diameter(self) -> float:
        """Diagonal of the box around it."""
        lower, upper = self.bounds
        return float(torch.linalg.vector_norm(upper - lower))

    def distance(self, points: Tensor) -> Tensor:
        """Signed distance to the boundary, negative inside.

        Args:
            points: Shape (n, d), any floating dtype and device.
        Returns:
            Shape (n,), float64. Of a difference it may be nearer to 0 than the true one, with the right sign;
            on a face that both shapes share it is 0.
        """
        return self._distance(self._checked(points, "distance"))

    def contains(self, points: Tensor, tolerance: float = 0.0) -> Tensor:
        """Which points lie in the geometry or on its boundary.

        Args:
            points: Shape (n, d), any floating dtype and device.
            tolerance: How far outside a point may lie.
        Returns:
            Shape (n,), torch.bool; False for NaN.
        """
        return self._contains(self._checked(points, "contains"), check_tolerance(tolerance, "contains"))

    def on_boundary(self, points: Tensor, tolerance: float | None = None) -> Tensor:
        """Which points lie on the boundary.

        Args:
            points: Shape (n, d), any floating dtype and device.
            tolerance: How far from it a point may lie; None: 1e-6 of the diameter, which points in float32 need.
        Returns:
            Shape (n,), torch.bool.
        """
        points = self._checked(points, "on_boundary")
        tolerance = _ON * self.diameter if tolerance is None else check_tolerance(tolerance, "on_boundary")
        return self._contains(points, tolerance) & (self._distance(points) >= -tolerance)

    def normals(self, points: Tensor) -> Tensor:
        """Outward unit normals.

        Args:
            points: Points of the boundary, shape (n, d). Elsewhere it is the normal of the nearest piece.
        Returns:
            Shape (n, d), dtype and device of the points. Where pieces meet it is the normal of one of them: of a box,
            the face of the first axis; of a polygon, the edge that comes first; of a difference, the second shape; of
            a domain with time, its start or end. Nothing is averaged, and such points have no measure.
        """
        return self._normals(self._checked(points, "normals")).to(points.dtype)

    def sample(self, count: int, *, method: str = "uniform", seed: int = 0) -> Tensor:
        """Points of the interior, uniform by volume: float64 on the CPU, shape (count, d); see :class:`Sampler`."""
        return self.interior.sample(count, method=method, seed=seed)

    def sample_boundary(self, count: int, *, method: str = "uniform", seed: int = 0) -> Tensor:
        """Points of the boundary, uniform by its measure: float64 on the CPU, shape (count, d)."""
        return self.boundary.sample(count, method=method, seed=seed)

    def __sub__(self, other: Geometry) -> Difference:
        """This shape with another one cut out."""
        from hrta_ext.physics.differences import Difference  # which is a geometry itself

        return Difference(self, other) if isinstance(other, Geometry) else NotImplemented

    def with_time(self, start: float, end: float) -> SpaceTime:
        """The domain of all (t, x) with t from ``start`` to ``end`` and x in this geometry; the time is column 0.

        Its ``initial`` is this geometry at the first time, its ``lateral`` the boundary at all times; both are regions
        to draw from, and so is ``over_time(region)`` of any region of this geometry.
        """
        from hrta_ext.physics.spacetime import SpaceTime  # which is a geometry itself

        return SpaceTime(self, start, end)

    def __repr__(self) -> str:
        given = ", ".join(str(value) for name, value in self.description.items() if name != "shape")
        return f"{self.description['shape']}({given})"

    def _checked(self, points: object, function: str) -> Tensor:
        """Points as float64 on their device."""
        if not isinstance(points, Tensor):
            raise TypeError(f"{function}: points must be a tensor, got {type(points).__name__}")
        if not points.is_floating_point():
            raise TypeError(f"{function}: points must have a floating dtype, got {points.dtype}")
        if points.dim() != 2 or points.shape[1] != self.dimension:
            raise ValueError(f"{function}: points must have shape (n, {self.dimension}), got {tuple(points.shape)}")
        return points.detach().to(torch.float64)

    def _distance(self, points: Tensor) -> Tensor:
        raise NotImplementedError

    def _normals(self, points: Tensor) -> Tensor:
        raise NotImplementedError

    def _contains(self, points: Tensor, tolerance: float) -> Tensor:
        return self._distance(points) <= tolerance
