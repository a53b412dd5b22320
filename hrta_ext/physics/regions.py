"""Sets of points with a measure: an interior, a boundary, a face, and parts of them."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from hrta_ext.inputs import check_integer, check_seed, shown
from hrta_ext.physics.draws import METHODS, EvenPoints, UnitPoints

if TYPE_CHECKING:
    from hrta_ext.physics.geometry import Geometry

Predicate = Callable[[Tensor], Tensor]
# Measures without a closed form come from so many points of a Sobol' sequence, scrambled with one seed for all.
ESTIMATE_COUNT = 2**16
_BLOCK = 2**20  # candidates at a time


class Region:
    """A set with a measure, and a map onto it from the unit cube that keeps the measure: what samplers draw from.

    Geometries have them: ``interior``, ``boundary``, ``face(axis, side)`` of a box, ``initial`` and ``lateral`` of a
    domain with time. The map keeps quasi-random points quasi-random; where part of it is cut out (a difference of two
    shapes, :meth:`where`) points are rejected.

    Attributes:
        geometry: The geometry that it belongs to.
        dimension: Number of columns d of its points.
        measure: Length, area or volume (the number of points, for the ends of an interval).
        description: What it is, as a dict that JSON can hold.
    """

    copies = 1  # points that one point of the cube gives
    finite = False  # the ends of an interval, which every draw holds in equal numbers

    def __init__(self, geometry: Geometry, description: dict[str, Any], coordinates: int, extent: float) -> None:
        self.geometry, self.description = geometry, description
        self.coordinates, self.extent = coordinates, extent  # of the cube; measure before anything is cut out
        self.measure = extent

    @property
    def dimension(self) -> int:
        """Number of columns of its points."""
        return self.geometry.dimension

    def place(self, u: Tensor) -> tuple[Tensor, Tensor | None]:
        """Points (n, d) for u (n, coordinates) in the unit cube, and a mask (n,) of those that belong; None: all."""
        raise NotImplementedError

    def complete(self, points: Tensor) -> Tensor:
        """The points with their partners, where a region has points in pairs: shape (copies n, d)."""
        return points

    def where(self, predicate: Predicate) -> Region:
        """The part where a predicate holds.

        Args:
            predicate: Takes points (n, d), float64 on the CPU, and returns a mask (n,) of torch.bool.
        Returns:
            A region. Its measure is this one's times the fraction of 65 536 points of a fixed Sobol' sequence that the
            predicate accepts: off by some 1e-4 of this region's measure where the part has a smooth rim.
        Raises:
            TypeError, ValueError: Something else than a mask of the points comes back, or no point is accepted.

        Example:
            >>> import hrta_ext as hx
            >>> upper = hx.Box([0.0, 0.0], [1.0, 1.0]).boundary.where(lambda points: points[:, 1] > 0.5)
            >>> round(upper.measure, 3)
            2.0
        """
        if not callable(predicate):
            raise TypeError(f"where: predicate must be callable, got {shown(predicate)}")
        part = Restricted(self, predicate)
        if part.measure == 0:
            raise ValueError(f"where: predicate must accept one of {ESTIMATE_COUNT} points at least, got none")
        return part

    def sample(self, count: int, *, method: str = "uniform", seed: int = 0) -> Tensor:
        """Points of the region, float64 on the CPU: draw 0 of a :class:`Sampler`.

        Args:
            count: Number of points, at least 1.
            method: "uniform", "latin" or "sobol".
            seed: Same seed, same points.
        Returns:
            Shape (count, d).
        """
        check_draw("sample", self, count, method, seed)
        return draw(self, count, method, seed, 0)


class Mapped(Region):
    """A region with a map of the whole cube in closed form."""

    def __init__(
        self, geometry: Geometry, name: str, coordinates: int, extent: float, function: Callable[[Tensor], Tensor]
    ) -> None:
        super().__init__(geometry, {"region": name, **geometry.description}, coordinates, extent)
        self._function = function

    def place(self, u: Tensor) -> tuple[Tensor, None]:
        """All points of the map."""
        return self._function(u), None


class Restricted(Region):
    """The part of a region where a predicate holds."""

    def __init__(self, region: Region, predicate: Predicate, measure: float | None = None) -> None:
        super().__init__(region.geometry, region.description, region.coordinates, region.extent)
        self.copies, self.finite = region.copies, region.finite
        self._region, self._predicate = region, predicate
        if measure is None:
            points, outer = region.place(UnitPoints("sobol", self.coordinates, 0, 0).take(ESTIMATE_COUNT))
            outer = points.new_ones(len(points), dtype=torch.bool) if outer is None else outer
            mask = (self._accept(points) & outer).numpy()
            measure = region.measure * int(mask.sum()) / max(1, int(outer.sum()))
            # A function has no name that tells it from others: the points that it accepts do.
            digest = hashlib.sha256(np.packbits(mask).tobytes()).hexdigest()[:16]
            self.description = {"where": digest, "of": region.description}
        self.measure = measure

    def place(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Points of the whole region, with the mask."""
        points, outer = self._region.place(u)
        mask = self._accept(points)
        return points, mask if outer is None else mask & outer

    def _accept(self, points: Tensor) -> Tensor:
        mask = self._predicate(points)
        if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
            got = f"a tensor of {mask.dtype}" if isinstance(mask, Tensor) else type(mask).__name__
            raise TypeError(f"where: predicate must return a mask of torch.bool, got {got}")
        if mask.shape != points.shape[:1]:
            raise ValueError(f"where: predicate must return shape ({len(points)},), got {tuple(mask.shape)}")
        return mask

    def complete(self, points: Tensor) -> Tensor:
        """As the whole region does."""
        return self._region.complete(points)


class Union(Region):
    """Regions that do not overlap. The first coordinate chooses one, and its rest within the choice is used again."""

    def __init__(self, geometry: Geometry, name: str, regions: Sequence[Region]) -> None:
        description = {"region": name, **geometry.description}
        extents = [region.extent for region in regions]
        super().__init__(geometry, description, max(region.coordinates for region in regions), math.fsum(extents))
        self.finite = all(region.finite for region in regions)
        self._regions = regions
        self._extents = torch.tensor(extents, dtype=torch.float64, device="cpu")
        self.measure = math.fsum(region.measure for region in regions)

    def place(self, u: Tensor) -> tuple[Tensor, Tensor | None]:
        """Points by the extents of the parts; what the parts cut out is cut out here."""
        which, first = choose(u[:, 0], self._extents)
        u = torch.cat([first[:, None], u[:, 1:]], dim=1)
        points, mask = u.new_empty(len(u), self.dimension), None
        for number, region in enumerate(self._regions):
            rows = (which == number).nonzero()[:, 0]
            points[rows], accepted = region.place(u[rows, : region.coordinates])
            if accepted is not None:
                mask = u.new_ones(len(u), dtype=torch.bool) if mask is None else mask
                mask[rows] = accepted
        return points, mask


def choose(u: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """For u in [0, 1): a number chosen by the weights, and where in its share u lies, in [0, 1) again."""
    ends = weights.cumsum(0)
    at = u * ends[-1]
    which = torch.searchsorted(ends, at, right=True).clamp_(max=len(weights) - 1)
    rest = (at - (ends[which] - weights[which])) / weights[which]
    return which, rest.clamp_(0.0, 1 - 2.0**-53)


def check_draw(function: str, region: Region, count: object, method: object, seed: object) -> tuple[int, int]:
    """The arguments of a draw; count and seed as ints."""
    count = check_integer(count, f"{function}: count")
    if count % region.copies:
        raise ValueError(f"{function}: count must be even for points in pairs, got {count}")
    if method not in METHODS:
        raise ValueError(f'{function}: method must be "uniform", "latin" or "sobol", got {shown(method)}')
    if isinstance(seed, bool):
        raise TypeError(f"{function}: seed must be an int, got {seed}")
    return count, check_seed(seed, f"{function}: seed", "an int")


def draw(region: Region, count: int, method: str, seed: int, number: int) -> Tensor:
    """Points (count, d) of a draw, a function of the arguments alone."""
    wanted = count // region.copies
    source = EvenPoints() if region.finite else UnitPoints(method, region.coordinates, seed, number)
    per_point = region.extent / region.measure
    found, missing, candidates = [], wanted, 0
    while missing > 0:
        # All are wanted where nothing is cut out; else so many that four times in five no second round is needed.
        ahead = missing
        if per_point > 1:
            ahead = math.ceil(missing * per_point * (1 + missing**-0.5))
            ahead = min(max(ahead, candidates), max(missing, _BLOCK))
        points, mask = region.place(source.take(ahead))
        found.append((points if mask is None else points[mask])[:missing])
        missing, candidates = missing - len(found[-1]), candidates + ahead
        if missing and candidates > 4 * wanted * per_point + _BLOCK:
            raise ValueError(f"sample: the region must be easier to hit, got {wanted - missing} of {wanted} points")
    return region.complete(torch.cat(found))
