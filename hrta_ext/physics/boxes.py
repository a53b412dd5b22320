"""Intervals and boxes, with their faces."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor

from hrta_ext.inputs import shown
from hrta_ext.physics.checks import check_real, check_reals
from hrta_ext.physics.geometry import Geometry
from hrta_ext.physics.regions import Mapped, Region, choose

_SIDES = ("lower", "upper")


class Box(Geometry):
    """The box of all x with lower_i <= x_i <= upper_i, in any dimension.

    volume = prod_i (upper_i - lower_i); area = 2 sum_i volume / (upper_i - lower_i).

    Args:
        lower: Least coordinates, d numbers.
        upper: Greatest coordinates, d numbers, each greater than that of ``lower``.
    Attributes:
        faces: Its 2d faces, a dict from (axis, side) with side "lower" or "upper" to the region.
    Raises:
        TypeError, ValueError: Bounds that are not finite, of two lengths, or inverted.

    Example:
        >>> import hrta_ext as hx
        >>> box = hx.Box([0.0, 0.0], [2.0, 1.0])
        >>> box.volume, box.area, box.face(0, "upper").measure
        (2.0, 6.0, 1.0)
        >>> box.face(0, "upper").sample(3)[:, 0]
        tensor([2., 2., 2.], dtype=torch.float64)
    """

    def __init__(self, lower: Sequence[float], upper: Sequence[float]) -> None:
        self._set(check_reals(lower, "Box: lower"), check_reals(upper, "Box: upper"), "Box")

    def _set(self, lower: Tensor, upper: Tensor, name: str) -> None:
        if len(lower) != len(upper):
            raise ValueError(f"{name}: lower and upper must have the same length, got {len(lower)} and {len(upper)}")
        for axis, (least, most) in enumerate(zip(lower.tolist(), upper.tolist(), strict=True)):
            if not least < most:
                raise ValueError(f"{name}: lower must be below upper, got {least} and {most} on axis {axis}")
        self.dimension = len(lower)
        self._lower, self._upper = lower, upper
        self._sizes = (upper - lower).tolist()
        self.description = {"shape": name, "lower": lower.tolist(), "upper": upper.tolist()}
        volume = math.prod(self._sizes)
        if not 0 < volume < math.inf:
            raise ValueError(f"{name}: the volume must be a positive float64, got {volume}")
        self.interior = Mapped(self, "interior", self.dimension, volume, self._inside)

    @property
    def bounds(self) -> tuple[Tensor, Tensor]:
        """Least and greatest coordinates, float64 of shape (d,)."""
        return self._lower, self._upper

    @cached_property
    def faces(self) -> dict[tuple[int, str], Region]:
        """The faces by axis and side."""
        return {
            (axis, side): Faces(self, f"face {axis} {side}", [(axis, side)])
            for axis in range(self.dimension)
            for side in _SIDES
        }

    @cached_property
    def boundary(self) -> Region:
        """All faces."""
        return Faces(self, "boundary", [(axis, side) for axis in range(self.dimension) for side in _SIDES])

    def face(self, axis: int, side: str) -> Region:
        """The face where x_axis is at its lower or upper bound.

        Args:
            axis: From 0 to d - 1.
            side: "lower" or "upper".
        """
        self._check_axis(axis, "face")
        if side not in _SIDES:
            raise ValueError(f'face: side must be "lower" or "upper", got {shown(side)}')
        return self.faces[axis, side]

    def pairs(self, axis: int) -> Region:
        """Points of both faces of an axis for periodic conditions, u(x) = u(x') and the like.

        A sample of ``count`` points, an even number, has count / 2 points of the lower face and then, in the same
        order, their partners on the upper one. The measure is that of one face.

        Args:
            axis: From 0 to d - 1.

        Example:
            >>> import hrta_ext as hx
            >>> below, above = hx.Box([0.0, 0.0], [2.0, 1.0]).pairs(0).sample(10).chunk(2)
            >>> (above - below).unique(dim=0)
            tensor([[2., 0.]], dtype=torch.float64)
        """
        self._check_axis(axis, "pairs")
        return Pairs(self, f"pairs {axis}", [(axis, "lower")])

    def _check_axis(self, axis: object, function: str) -> None:
        if isinstance(axis, bool) or not isinstance(axis, int):
            raise TypeError(f"{function}: axis must be an int, got {shown(axis)}")
        if not 0 <= axis < self.dimension:
            raise ValueError(f"{function}: axis must be in [0, {self.dimension}), got {axis}")

    def _inside(self, u: Tensor) -> Tensor:
        return torch.lerp(self._lower, self._upper, u)

    def _beyond(self, points: Tensor) -> Tensor:
        """How far beyond each face, shape (n, d, 2): lower, upper."""
        lower, upper = self._lower.to(points.device), self._upper.to(points.device)
        return torch.stack([lower - points, points - upper], dim=-1)

    def _distance(self, points: Tensor) -> Tensor:
        beyond = self._beyond(points).amax(dim=-1)
        outside = torch.linalg.vector_norm(beyond.clamp(min=0.0), dim=-1)
        return outside + beyond.amax(dim=-1).clamp(max=0.0)

    def _normals(self, points: Tensor) -> Tensor:
        beyond = self._beyond(points)
        side = 2.0 * beyond.argmax(dim=-1) - 1.0
        # Of faces that meet, the first: rounding must not choose.
        beyond = beyond.amax(dim=-1)
        near = beyond >= beyond.amax(dim=-1, keepdim=True) - 1e-12 * self.diameter
        axis = near.to(torch.uint8).argmax(dim=-1, keepdim=True)
        return torch.zeros_like(points).scatter_(1, axis, side.to(points.dtype).gather(1, axis))


class Interval(Box):
    """The interval [start, end]: a box in one dimension, whose boundary is its two ends.

    Each end has measure 1, and a sample of them holds both, as often as each other where ``count`` is even.

    Args:
        start: Its lower end.
        end: Its upper end, greater than ``start``.
    Raises:
        TypeError, ValueError: Ends that are not finite, or inverted.

    Example:
        >>> import hrta_ext as hx
        >>> interval = hx.Interval(-1.0, 1.0)
        >>> interval.volume, interval.area
        (2.0, 2.0)
        >>> interval.face(0, "lower").sample(1)
        tensor([[-1.]], dtype=torch.float64)
    """

    def __init__(self, start: float, end: float) -> None:
        lower = check_reals([check_real(start, "Interval: start")], "Interval: start")
        self._set(lower, check_reals([check_real(end, "Interval: end")], "Interval: end"), "Interval")

    def __repr__(self) -> str:
        return f"Interval({self._lower.item()}, {self._upper.item()})"


class Faces(Region):
    """Faces of a box. The first coordinate chooses one, and its rest is the first coordinate on it."""

    def __init__(self, box: Box, name: str, faces: Sequence[tuple[int, str]]) -> None:
        sizes, d = box._sizes, box.dimension
        areas = [math.prod(sizes[:axis] + sizes[axis + 1 :]) for axis, _ in faces]
        super().__init__(box, {"region": name, **box.description}, max(1, d - 1), math.fsum(areas))
        self.finite = d == 1
        lower, upper = box.bounds
        self._lower, self._upper = lower, upper
        self._areas = torch.tensor(areas, dtype=torch.float64, device="cpu")
        self._axes = torch.tensor([axis for axis, _ in faces], device="cpu")
        self._values = torch.tensor(
            [float((upper if side == "upper" else lower)[axis]) for axis, side in faces],
            dtype=torch.float64,
            device="cpu",
        )
        self._others = torch.tensor(
            [[i for i in range(d) if i != axis] for axis, _ in faces], dtype=torch.int64, device="cpu"
        )

    def place(self, u: Tensor) -> tuple[Tensor, None]:
        """Points by the areas of the faces."""
        which, first = choose(u[:, 0], self._areas)
        others = self._others[which]
        rest = torch.cat([first[:, None], u[:, 1:]], dim=1)[:, : others.shape[1]]  # none in one dimension
        points = u.new_empty(len(u), len(self._lower))
        points.scatter_(1, self._axes[which, None], self._values[which, None])
        points.scatter_(1, others, torch.lerp(self._lower[others], self._upper[others], rest))
        return points, None


class Pairs(Faces):
    """Points of a lower face, each with its partner on the upper one."""

    copies = 2

    def complete(self, points: Tensor) -> Tensor:
        """The points, then their partners."""
        axis = int(self._axes[0])
        partners = points.clone()
        partners[:, axis] = self.geometry.bounds[1][axis]
        return torch.cat([points, partners])
