"""Points drawn anew, draw by draw, from a seed."""

from __future__ import annotations

from operator import index
from typing import Any

import torch
from torch import Tensor

from hrta_ext.inputs import shown
from hrta_ext.physics.geometry import Geometry
from hrta_ext.physics.regions import Region, check_draw, draw


class Sampler:
    """Draws points of a region, uniform by its measure. Draw k depends on (seed, k) and the arguments alone.

    So k is all the state that a checkpoint holds, and a network on the CPU, on a GPU or in another process sees the
    same points: they are always drawn on the CPU in float64, then cast and moved. Points of each method:

    - "uniform": independent, from Philox with the key (seed, k);
    - "latin": a Latin hypercube: every coordinate has one point in each of ``count`` slices;
    - "sobol": the Sobol' sequence, scrambled anew for every draw (Owen 1995; Matousek 1998): the mean over points has
      no bias, and a smaller error for smooth functions, close to O(count^-1) and better with powers of two.

    Shapes are maps of the unit cube that keep the measure, so quasi-random points stay so; where a part is cut out
    (differences of shapes, ``where``), points are rejected, and a Latin hypercube becomes a subset of a larger one.

    Args:
        region: What to draw from: a geometry stands for its interior; ``geometry.boundary``, ``box.face(0, "lower")``,
            ``region.where(predicate)`` and so on.
        count: Number of points per draw, at least 1.
        method: "uniform", "latin" or "sobol".
        seed: An int in [-2^63, 2^64).
        dtype: Of what a call returns, float32 or float64; None: torch's default when the sampler is made. A network in
            float64 wants float64, or its points are rounded first.
        device: Of what a call returns.
    Attributes:
        geometry, measure: The geometry, and the measure of the region in it: volumes and areas of energies.
        description: All of this but the device, as a dict that JSON can hold: by it checkpoints know a sampler again.
    Raises:
        TypeError, ValueError: A region, count, method, seed or dtype that is none.

    Example:
        >>> import hrta_ext as hx
        >>> sampler = hx.Sampler(hx.Interval(0.0, 1.0), 1024, method="sobol", seed=1)
        >>> x = sampler(7)  # draw 7
        >>> x.shape, sampler.measure
        (torch.Size([1024, 1]), 1.0)
        >>> f"{sampler.measure * x.exp().mean():.4f}"  # e - 1
        '1.7183'
    """

    def __init__(
        self,
        region: Region | Geometry,
        count: int,
        *,
        method: str = "uniform",
        seed: int = 0,
        dtype: torch.dtype | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        if isinstance(region, Geometry):
            region = region.interior
        if not isinstance(region, Region):
            raise TypeError(f"Sampler: region must be a geometry or one of its regions, got {type(region).__name__}")
        dtype = torch.get_default_dtype() if dtype is None else dtype
        if dtype not in (torch.float32, torch.float64):
            raise TypeError(f"Sampler: dtype must be torch.float32 or torch.float64, got {dtype}")
        self.region, self.method, self.dtype, self.device = region, method, dtype, torch.device(device)
        self.count, self.seed = check_draw("Sampler", region, count, method, seed)

    @property
    def geometry(self) -> Geometry:
        """The geometry whose points are drawn."""
        return self.region.geometry

    @property
    def measure(self) -> float:
        """Volume, area or length of the region: measure * mean over the points is the integral's estimate."""
        return self.region.measure

    @property
    def description(self) -> dict[str, Any]:
        """Everything that decides the points, as a dict that JSON can hold."""
        drawn = {"count": self.count, "method": self.method, "seed": self.seed, "dtype": str(self.dtype)}
        return {"points": self.region.description, **drawn}

    def draw(self, k: int) -> Tensor:
        """Draw k as it is made: float64 on the CPU, shape (count, d)."""
        try:
            number = index(k)
        except TypeError:
            raise TypeError(f"Sampler: k must be an int, got {shown(k)}") from None
        if not 0 <= number < 2**64:
            raise ValueError(f"Sampler: k must be in [0, 2^64), got {shown(number)}")
        return draw(self.region, self.count, self.method, self.seed, number)

    def __call__(self, k: int = 0) -> Tensor:
        """Draw k, shape (count, d), with the sampler's dtype and device.

        Args:
            k: Number of the draw, from 0.
        """
        return self.draw(k).to(self.device, self.dtype)

    def __repr__(self) -> str:
        return f"Sampler({self.region.description}, {self.count}, method={self.method!r}, seed={self.seed})"
