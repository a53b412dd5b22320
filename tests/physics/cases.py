"""Geometries with what is known of them in closed form."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import hrta_ext as hx

SQUARE = hx.Box([-1.0, -1.0], [1.0, 1.0])
BEND = [(0, 0), (2, 0), (2, 1), (1, 1), (1, 2), (0, 2)]  # the shape of an L
STAR = [
    (1.0, 0.2),
    (0.3, 0.3),
    (0.0, 1.1),
    (-0.3, 0.25),
    (-1.0, 0.1),
    (-0.35, -0.3),
    (-0.5, -1.0),
    (0.1, -0.4),
    (0.8, -0.9),
]


@dataclass(frozen=True)
class Case:
    name: str
    geometry: Any
    volume: float
    area: float
    exact: bool = True


CASES = [
    Case("interval", hx.Interval(-1.0, 2.0), 3.0, 2.0),
    Case("rectangle", hx.Box([0.0, 1.0], [2.0, 4.0]), 6.0, 10.0),
    Case("box in 5 dimensions", hx.Box([0.0] * 5, [1.0, 2.0, 1.0, 1.0, 1.0]), 2.0, 18.0),
    Case("ball in 1 dimension", hx.Ball([2.0], 0.5), 1.0, 2.0),
    Case("disk", hx.Ball([1.0, 2.0], 2.0), 4 * math.pi, 4 * math.pi),
    Case("ball", hx.Ball([0.0, 0.0, 1.0], 2.0), 32 * math.pi / 3, 16 * math.pi),
    Case("ball in 6 dimensions", hx.Ball([0.0] * 6, 1.0), math.pi**3 / 6, math.pi**3),
    Case("L", hx.Polygon(BEND), 3.0, 8.0),
    Case("L of two boxes", SQUARE - hx.Box([0.0, 0.0], [1.0, 1.0]), 3.0, 8.0),
    Case("slit open to the right", SQUARE - hx.Box([0.0, 0.0], [3.0, 0.5]), 3.5, 10.0),
    Case("two halves", SQUARE - hx.Box([-0.5, -2.0], [0.5, 2.0]), 2.0, 10.0),
    Case("hole", SQUARE - hx.Ball([0.1, 0.0], 0.5), 4 - math.pi / 4, 8 + math.pi),
    Case(
        "two holes", SQUARE - hx.Ball([0.5, 0], 0.4) - hx.Ball([-0.5, 0.0], 0.4), 4 - 0.32 * math.pi, 8 + 1.6 * math.pi
    ),
    Case("ring", hx.Ball([0.0, 0.0], 2.0) - hx.Ball([0.0, 0.0], 1.0), 3 * math.pi, 6 * math.pi),
    Case("square hole in a disk", hx.Ball([0.0, 0.0], 2.0) - SQUARE, 4 * math.pi - 4, 4 * math.pi + 8),
    Case("hole in an L", hx.Polygon(BEND) - hx.Box([0.25, 0.25], [0.75, 0.75]), 2.75, 10.0),
    Case("two intervals", hx.Interval(0.0, 3.0) - hx.Interval(1.0, 2.0), 2.0, 4.0),
    Case("bite", SQUARE - hx.Ball([1.0, 0.0], 0.5), 4 - math.pi / 8, 7 + math.pi / 2, exact=False),
    Case(
        "two holes that meet",  # two disks at the distance of their radius: a lens of 2 pi / 3 - sqrt(3) / 2 in common
        SQUARE - hx.Ball([-0.25, 0.0], 0.5) - hx.Ball([0.25, 0.0], 0.5),
        4 - 0.25 * (4 * math.pi / 3 + math.sqrt(3) / 2),
        8 + 4 * math.pi / 3,
        exact=False,
    ),
    Case(
        "corner out of a polygon",
        hx.Polygon([(0, 0), (2, 0), (2, 2), (0, 2)]) - hx.Box([1, 1], [2, 2]),
        3.0,
        8.0,
        False,
    ),
    Case("rod over time", hx.Interval(0.0, 1.0).with_time(0.0, 2.0), 2.0, 6.0),
    Case("disk over time", hx.Ball([0.0, 0.0], 1.0).with_time(-1.0, 2.0), 3 * math.pi, 8 * math.pi),
    Case(
        "bite over time",
        (SQUARE - hx.Ball([1.0, 0.0], 0.5)).with_time(0.0, 1.0),
        4 - math.pi / 8,
        15 + math.pi / 4,
        exact=False,
    ),
]
IDS = [case.name for case in CASES]
