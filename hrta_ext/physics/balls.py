"""Balls: an interval, a disk, a ball, and on."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from hrta_ext.physics.checks import check_real, check_reals
from hrta_ext.physics.geometry import Geometry
from hrta_ext.physics.regions import Mapped, Region


class Ball(Geometry):
    """The ball of all x with |x - center| <= radius, in any dimension; a disk for d = 2.

    volume = pi^(d/2) / Gamma(d/2 + 1) radius^d; area = d volume / radius.

    Args:
        center: d numbers.
        radius: Positive.
    Raises:
        TypeError, ValueError: A center that is not finite, or a radius that is not positive.

    Example:
        >>> import hrta_ext as hx
        >>> disk = hx.Ball([0.0, 0.0], 2.0)
        >>> round(disk.volume, 4), round(disk.area, 4)  # pi r^2, 2 pi r
        (12.5664, 12.5664)
        >>> x = disk.sample_boundary(5)
        >>> bool(disk.on_boundary(x).all()), bool((disk.normals(x) - x / 2).abs().max() < 1e-15)
        (True, True)
    """

    def __init__(self, center: Sequence[float], radius: float) -> None:
        self._center, self._radius = check_reals(center, "Ball: center"), check_real(radius, "Ball: radius")
        if not self._radius > 0:
            raise ValueError(f"Ball: radius must be positive, got {self._radius}")
        d = self.dimension = len(self._center)
        volume = math.exp(d / 2 * math.log(math.pi) - math.lgamma(d / 2 + 1) + d * math.log(self._radius))
        if d < 4:
            volume = (2.0, math.pi, 4 * math.pi / 3)[d - 1] * self._radius**d
        if not 0 < volume < math.inf:
            raise ValueError(f"Ball: the volume must be a positive float64, got {volume}")
        self.description = {"shape": "Ball", "center": self._center.tolist(), "radius": self._radius}
        # Closed forms up to d = 3; beyond, a direction takes d normal numbers.
        coordinates = max(1, d - 1) if d < 4 else d
        self.interior = Mapped(self, "interior", 1 if d == 1 else 1 + coordinates, volume, self._inside)
        self._sphere = Mapped(self, "boundary", coordinates, d * volume / self._radius, self._outside)
        self._sphere.finite = d == 1

    @property
    def center(self) -> Tensor:
        """float64 of shape (d,)."""
        return self._center

    @property
    def radius(self) -> float:
        """Distance from the center to the boundary."""
        return self._radius

    @property
    def boundary(self) -> Region:
        """The sphere."""
        return self._sphere

    @property
    def bounds(self) -> tuple[Tensor, Tensor]:
        """Least and greatest coordinates, float64 of shape (d,)."""
        return self._center - self._radius, self._center + self._radius

    def _inside(self, u: Tensor) -> Tensor:
        if self.dimension == 1:
            return self._center + self._radius * (2.0 * u - 1.0)
        # The share of the volume within a radius r is (r / radius)^d.
        return self._center + self._radius * u[:, :1].pow(1 / self.dimension) * self._directions(u[:, 1:])

    def _outside(self, u: Tensor) -> Tensor:
        return self._center + self._radius * self._directions(u)

    def _directions(self, u: Tensor) -> Tensor:
        """Unit vectors, uniform on the sphere."""
        if self.dimension == 1:
            return torch.where(u < 0.5, -1.0, 1.0).to(u.dtype)
        if self.dimension > 3:
            normal = torch.special.ndtri(u.clamp(min=2.0**-53))
            return torch.nn.functional.normalize(normal, eps=1e-300)
        angle = 2 * math.pi * u[:, -1]
        circle = torch.stack([angle.cos(), angle.sin()], dim=1)
        if self.dimension == 2:
            return circle
        height = 2.0 * u[:, :1] - 1.0  # Archimedes: uniform on the sphere
        return torch.cat([(1.0 - height.square()).sqrt() * circle, height], dim=1)

    def _distance(self, points: Tensor) -> Tensor:
        return torch.linalg.vector_norm(points - self._center.to(points.device), dim=-1) - self._radius

    def _normals(self, points: Tensor) -> Tensor:
        return torch.nn.functional.normalize(points - self._center.to(points.device), eps=1e-300)
