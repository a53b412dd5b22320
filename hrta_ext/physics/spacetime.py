"""Domains in time and space."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from hrta_ext.inputs import shown
from hrta_ext.physics.boxes import Interval
from hrta_ext.physics.checks import check_real
from hrta_ext.physics.geometry import Geometry
from hrta_ext.physics.regions import Region, Union


class SpaceTime(Geometry):
    """All (t, x) with t from ``start`` to ``end`` and x in ``space``: what ``space.with_time(start, end)`` makes.

    Points have 1 + d columns, the time first. volume = (end - start) |space|; area = (end - start) |boundary of space|
    + 2 |space|.

    Args:
        space: Any geometry without time.
        start: First time.
        end: Last time, after ``start``.
    Attributes:
        space, time: The geometry in space, and the interval in time.
    Raises:
        TypeError, ValueError: Times that are not finite, or inverted; a space that has a time.

    Example:
        >>> import hrta_ext as hx
        >>> rod = hx.Interval(-1.0, 1.0)
        >>> domain = rod.with_time(0.0, 0.5)
        >>> domain.volume, domain.initial.measure, domain.lateral.measure
        (1.0, 2.0, 1.0)
        >>> domain.initial.sample(2)[:, 0], domain.lateral.sample(2).abs()[:, 1]
        (tensor([0., 0.], dtype=torch.float64), tensor([1., 1.], dtype=torch.float64))
    """

    def __init__(self, space: Geometry, start: float, end: float) -> None:
        if isinstance(space, SpaceTime):
            raise ValueError(f"with_time: the geometry must have no time yet, got {space!r}")
        start, end = check_real(start, "with_time: start"), check_real(end, "with_time: end")
        if not start < end:
            raise ValueError(f"with_time: start must be before end, got {start} and {end}")
        self.space, self.time, self.dimension = space, Interval(start, end), 1 + space.dimension
        self.description = {"shape": "SpaceTime", "space": space.description, "start": start, "end": end}
        self.interior = self.over_time(space.interior)

    @property
    def bounds(self) -> tuple[Tensor, Tensor]:
        """Least and greatest coordinates, float64 of shape (1 + d,)."""
        (start, end), (lower, upper) = self.time.bounds, self.space.bounds
        return torch.cat([start, lower]), torch.cat([end, upper])

    @cached_property
    def boundary(self) -> Region:
        """The boundary of space at all times, and all of space at the first and last time."""
        return Union(self, "boundary", [self.initial, self.final, self.lateral])

    @cached_property
    def lateral(self) -> Region:
        """The boundary of space at all times."""
        return self.over_time(self.space.boundary)

    @cached_property
    def initial(self) -> Region:
        """All of space at the first time."""
        return self.at(float(self.time.bounds[0]))

    @cached_property
    def final(self) -> Region:
        """All of space at the last time."""
        return self.at(float(self.time.bounds[1]))

    def at(self, time: float) -> Region:
        """All of space at one time, from ``start`` to ``end``."""
        time, (start, end) = check_real(time, "at: time"), map(float, self.time.bounds)
        if not start <= time <= end:
            raise ValueError(f"at: time must be from {start} to {end}, got {time}")
        return Timed(self, self.space.interior, time, time)

    def over_time(self, region: Region) -> Region:
        """A region of the space, such as ``space.face(0, "lower")`` or ``space.pairs(0)``, at all times."""
        if not isinstance(region, Region) or region.geometry is not self.space:
            raise ValueError(f"over_time: region must be one of {self.space!r}, got {shown(region)}")
        return Timed(self, region, *map(float, self.time.bounds))

    def _distance(self, points: Tensor) -> Tensor:
        beyond = torch.stack([self.time._distance(points[:, :1]), self.space._distance(points[:, 1:])], dim=1)
        outside = torch.linalg.vector_norm(beyond.clamp(min=0.0), dim=-1)
        return outside + beyond.amax(dim=-1).clamp(max=0.0)

    def _contains(self, points: Tensor, tolerance: float) -> Tensor:
        return self.time._contains(points[:, :1], tolerance) & self.space._contains(points[:, 1:], tolerance)

    def _normals(self, points: Tensor) -> Tensor:
        time, space = points[:, :1], points[:, 1:]
        temporal = self.time._distance(time) >= self.space._distance(space) - 1e-12 * self.diameter
        normals = torch.cat([torch.zeros_like(time), self.space._normals(space)], dim=1)
        ends = torch.zeros_like(points)
        ends[:, :1] = self.time._normals(time)
        return torch.where(temporal[:, None], ends, normals)

    def __repr__(self) -> str:
        start, end = map(float, self.time.bounds)
        return f"({self.space!r}).with_time({start}, {end})"


class Timed(Region):
    """A region of the space at one time, or at all times; the time takes the last coordinate of the cube."""

    def __init__(self, domain: SpaceTime, region: Region, start: float, end: float) -> None:
        duration = end - start if end > start else 1.0
        description = {"times": [start, end], "of": region.description}
        super().__init__(domain, description, region.coordinates + (end > start), duration * region.extent)
        self.measure, self.copies = duration * region.measure, region.copies
        self._region, self._start, self._end = region, start, end

    def place(self, u: Tensor) -> tuple[Tensor, Tensor | None]:
        """Times, and points of the region."""
        points, mask = self._region.place(u[:, : self._region.coordinates])
        if self._end > self._start:
            times = self._start + (self._end - self._start) * u[:, -1:]
        else:
            times = torch.full_like(u[:, :1], self._start)
        return torch.cat([times, points], dim=1), mask

    def complete(self, points: Tensor) -> Tensor:
        """Partners at the same time."""
        return torch.cat([points[:, :1].repeat(self.copies, 1), self._region.complete(points[:, 1:])], dim=1)
