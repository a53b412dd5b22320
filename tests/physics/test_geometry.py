"""Shapes: measures in closed form, points where they belong, normals that point out, bad input."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from physics.cases import BEND, CASES, IDS, SQUARE, Case

import hrta_ext as hx

cases = pytest.mark.parametrize("case", CASES, ids=IDS)


@cases
def test_measures_are_those_of_the_closed_form(case: Case) -> None:
    # 65 536 quasi-random points: some 1e-4 of what they are spread over.
    close = 1e-13 if case.exact else 5e-4
    assert case.geometry.volume == pytest.approx(case.volume, rel=close)
    assert case.geometry.area == pytest.approx(case.area, rel=close)


@cases
def test_points_lie_where_they_are_said_to(case: Case) -> None:
    geometry, (lower, upper) = case.geometry, case.geometry.bounds
    inside, on = geometry.sample(500, method="sobol"), geometry.sample_boundary(500)
    for points in (inside, on):
        assert points.shape == (500, geometry.dimension)
        assert points.dtype == torch.float64
        assert bool(((points >= lower - 1e-12) & (points <= upper + 1e-12)).all())
    assert bool(geometry.contains(inside).all())
    assert bool(geometry.contains(on, tolerance=1e-12).all())
    assert bool(geometry.on_boundary(on, tolerance=1e-12).all())
    assert bool(geometry.on_boundary(on.float()).all())  # what rounding to float32 moves is within the default
    assert float(geometry.on_boundary(inside).double().mean()) < 0.01


@cases
def test_normals_leave_the_geometry(case: Case) -> None:
    geometry, points = case.geometry, case.geometry.sample_boundary(500, seed=2)
    normals = geometry.normals(points)
    torch.testing.assert_close(normals.norm(dim=1), torch.ones(500, dtype=torch.float64), rtol=0, atol=1e-14)
    away = 1e-6  # of 500 points none comes that near to a corner
    assert not bool(geometry.contains(points + away * normals).any())
    assert bool(geometry.contains(points - away * normals).all())
    assert geometry.normals(points.float()).dtype == torch.float32


@cases
def test_normals_are_the_gradient_of_the_signed_distance(case: Case) -> None:
    geometry, points = case.geometry, case.geometry.sample_boundary(300, seed=3)
    steps = 1e-7 * torch.eye(geometry.dimension, dtype=torch.float64)
    slopes = [(geometry.distance(points + step) - geometry.distance(points - step)) / 2e-7 for step in steps]
    error = (torch.stack(slopes, dim=1) - geometry.normals(points)).norm(dim=1)
    assert float(error.max()) < 1e-5


@cases
def test_means_over_points_are_those_of_the_divergence_theorem(case: Case) -> None:
    # integral of x . n over the boundary = d |Omega|: ties points, normals, area and volume to each other.
    geometry, n = case.geometry, 4000
    points = geometry.sample_boundary(n, seed=4)
    flux = (points * geometry.normals(points)).sum(dim=1)
    error = 5 * float(flux.std()) / math.sqrt(n) * geometry.area + 1e-3 * case.volume
    assert abs(geometry.area * float(flux.mean()) - geometry.dimension * case.volume) < error


MOMENTS = [  # E[x_0], E[x_0^2] of the interior; of the boundary
    ("rectangle", (1.0, 4 / 3), (1.0, 26 / 15)),
    ("disk", (1.0, 2.0), (1.0, 3.0)),
    ("ball", (0.0, 4 / 5), (0.0, 4 / 3)),
    ("ball in 6 dimensions", (0.0, 1 / 8), (0.0, 1 / 6)),
    ("L", (5 / 6, 1.0), (7 / 8, 31 / 24)),
    ("ring", (0.0, 5 / 4), (0.0, 3 / 2)),
    ("rod over time", (1.0, 4 / 3), (1.0, 14 / 9)),
]


@pytest.mark.parametrize(("name", "interior", "boundary"), MOMENTS, ids=[name for name, _, _ in MOMENTS])
@pytest.mark.parametrize("method", ["uniform", "latin", "sobol"])
def test_points_are_uniform(name: str, interior: Any, boundary: Any, method: str) -> None:
    geometry, n = CASES[IDS.index(name)].geometry, 4096
    for points, (mean, square) in (
        (geometry.sample(n, method=method, seed=5), interior),
        (geometry.sample_boundary(n, method=method, seed=5), boundary),
    ):
        for values, expected in ((points[:, 0], mean), (points[:, 0] ** 2, square)):
            allowed = 0.5 if method == "sobol" else 4.0  # standard errors of independent points
            assert abs(float(values.mean()) - expected) < allowed * float(values.std()) / math.sqrt(n)


def test_faces_and_pairs_of_a_box() -> None:
    box = hx.Box([0.0, 1.0, 2.0], [2.0, 4.0, 7.0])
    assert {key: face.measure for key, face in box.faces.items()} == {
        (0, "lower"): 15.0,
        (0, "upper"): 15.0,
        (1, "lower"): 10.0,
        (1, "upper"): 10.0,
        (2, "lower"): 6.0,
        (2, "upper"): 6.0,
    }
    points = box.face(1, "upper").sample(50)
    assert bool((points[:, 1] == 4).all())
    assert torch.equal(box.normals(points), torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64).expand(50, 3))
    below, above = box.pairs(2).sample(20, method="sobol").chunk(2)
    assert bool((below[:, 2] == 2).all())
    assert bool((above[:, 2] == 7).all())
    assert torch.equal(below[:, :2], above[:, :2])
    with pytest.raises(ValueError, match="sample: count must be even for points in pairs, got 3"):
        box.pairs(0).sample(3)


def test_ends_of_an_interval_come_in_equal_numbers() -> None:
    assert hx.Interval(0.0, 1.0).sample_boundary(4).flatten().tolist() == [0.0, 0.0, 1.0, 1.0]


def test_a_corner_has_the_normal_of_one_face() -> None:
    corner = torch.tensor([[1.0, 1.0]])
    assert SQUARE.normals(corner).tolist() == [[1.0, 0.0]]
    assert hx.Polygon(BEND).normals(torch.tensor([[2.0, 1.0]])).tolist() == [[1.0, 0.0]]


def test_a_face_that_both_shapes_share_is_gone() -> None:
    bend = SQUARE - hx.Box([0.0, 0.0], [1.0, 1.0])
    gone, kept = (
        torch.tensor([[1.0, 0.5], [0.5, 1.0]]),
        torch.tensor([[1.0, -0.5], [0.0, 0.5], [-1.0, 1.0], [1.0, 0.0]]),
    )
    assert not bool(bend.contains(gone).any())
    assert not bool(bend.on_boundary(gone).any())
    assert bool(bend.contains(kept).all())
    assert bool(bend.on_boundary(kept).all())


def test_regions_of_a_domain_with_time() -> None:
    box = hx.Box([0.0, 0.0], [1.0, 2.0])
    domain = box.with_time(0.0, 3.0)
    assert (domain.initial.measure, domain.final.measure, domain.lateral.measure) == (2.0, 2.0, 18.0)
    assert bool((domain.initial.sample(9)[:, 0] == 0).all())
    assert bool((domain.final.sample(9)[:, 0] == 3).all())
    assert bool((domain.at(1.5).sample(9)[:, 0] == 1.5).all())
    lateral = domain.lateral.sample(200, method="latin")
    assert bool(box.on_boundary(lateral[:, 1:]).all())
    assert abs(float(lateral[:, 0].mean()) - 1.5) < 0.01
    below, above = domain.over_time(box.pairs(1)).sample(20).chunk(2)
    assert (above - below).unique(dim=0).tolist() == [[0.0, 0.0, 2.0]]
    assert domain.over_time(box.pairs(1)).measure == 3.0


def test_a_predicate_keeps_part_of_a_region_and_its_measure() -> None:
    arc = hx.Ball([0.0, 0.0], 2.0).boundary.where(lambda x: x[:, 1] > math.sqrt(2))  # a quarter of the circle
    assert arc.measure == pytest.approx(math.pi, rel=5e-4)
    points = arc.sample(300)
    assert points.shape == (300, 2)
    assert float(points[:, 1].min()) > math.sqrt(2)
    hole = (SQUARE - hx.Ball([0.0, 0.0], 0.5)).interior  # its own measure is exact, and so is that of all of it
    assert hole.where(lambda x: x[:, 0] > -2).measure == hole.measure
    lateral = SQUARE.with_time(0.0, 1.0).over_time(SQUARE.boundary.where(lambda x: x[:, 0] > 0))
    assert lateral.measure == pytest.approx(4.0, rel=5e-4)
    assert float(lateral.sample(300)[:, 1].min()) > 0


def disk(radius: Any = 1.0, center: Any = (0.0, 0.0)) -> hx.Ball:
    return hx.Ball(center, radius)


X = torch.zeros(3, 2)
BAD: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (lambda: hx.Interval(1.0, 1.0), ValueError, "Interval: lower must be below upper, got 1.0 and 1.0 on axis 0"),
    (lambda: hx.Interval(0.0, math.nan), ValueError, r"Interval: end must be finite, got nan"),
    (lambda: hx.Interval("0", 1.0), TypeError, "Interval: start must be a real number, got '0'"),  # type: ignore[arg-type]
    (lambda: hx.Box([0, 0], [1, -1]), ValueError, "Box: lower must be below upper, got 0.0 and -1.0 on axis 1"),
    (lambda: hx.Box([0, 0], [1]), ValueError, "Box: lower and upper must have the same length, got 2 and 1"),
    (lambda: hx.Box([0, math.inf], [1, 1]), ValueError, r"Box: lower\[1\] must be finite, got inf"),
    (lambda: hx.Box([], []), ValueError, "Box: lower must hold at least one number"),
    (lambda: hx.Box(0.0, 1.0), TypeError, "Box: lower must be a sequence of d numbers, got 0.0"),  # type: ignore[arg-type]
    (lambda: hx.Box([0.0] * 9, [1e-40] * 9), ValueError, "Box: the volume must be a positive float64, got 0"),
    (lambda: disk(0.0), ValueError, "Ball: radius must be positive, got 0.0"),
    (lambda: disk(math.nan), ValueError, "Ball: radius must be finite, got nan"),
    (lambda: disk(1.0, [0.0, math.nan]), ValueError, r"Ball: center\[1\] must be finite, got nan"),
    (lambda: SQUARE - disk(2.0), ValueError, r"difference: the second must leave some of the first, got Box"),
    (lambda: SQUARE - hx.Box([-2, -1], [1, 1]), ValueError, "difference: the second must leave some of the first"),
    (lambda: SQUARE - hx.Interval(0, 1), ValueError, "difference: both must have one dimension, got 2 and 1"),
    (lambda: SQUARE - 1.0, TypeError, "unsupported operand"),  # type: ignore[operator]
    (lambda: SQUARE.with_time(1.0, 0.0), ValueError, "with_time: start must be before end, got 1.0 and 0.0"),
    (lambda: SQUARE.with_time(0, 1).with_time(0, 1), ValueError, "with_time: the geometry must have no time yet"),
    (lambda: SQUARE.with_time(0, 1).at(2.0), ValueError, "at: time must be from 0.0 to 1.0, got 2.0"),
    (lambda: SQUARE.with_time(0, 1).over_time(disk().boundary), ValueError, "over_time: region must be one of Box"),
    (lambda: SQUARE.face(2, "lower"), ValueError, r"face: axis must be in \[0, 2\), got 2"),
    (lambda: SQUARE.face(True, "lower"), TypeError, "face: axis must be an int, got True"),
    (lambda: SQUARE.face(0, "left"), ValueError, 'face: side must be "lower" or "upper", got \'left\''),
    (lambda: SQUARE.contains(X[:, :1]), ValueError, r"contains: points must have shape \(n, 2\), got \(3, 1\)"),
    (lambda: SQUARE.contains(X.long()), TypeError, "contains: points must have a floating dtype, got torch.int64"),
    (lambda: SQUARE.normals([[0.0, 0.0]]), TypeError, "normals: points must be a tensor, got list"),  # type: ignore[arg-type]
    (lambda: SQUARE.contains(X, -1.0), ValueError, "contains: tolerance must be at least 0, got -1.0"),
    (lambda: SQUARE.sample(0), ValueError, "sample: count must be at least 1, got 0"),
    (lambda: SQUARE.sample(3, method="grid"), ValueError, 'sample: method must be "uniform", "latin" or "sobol"'),
    (lambda: SQUARE.sample(3, seed=None), TypeError, "sample: seed must be an int, got None"),  # type: ignore[arg-type]
    (lambda: SQUARE.interior.where(3), TypeError, "where: predicate must be callable, got 3"),  # type: ignore[arg-type]
    (lambda: SQUARE.interior.where(lambda x: x[:, 0]), TypeError, "predicate must return a mask of torch.bool, got a"),
    (
        lambda: SQUARE.interior.where(lambda x: x > 0),
        ValueError,
        r"predicate must return shape \(65536,\), got \(65536, 2",
    ),
    (
        lambda: SQUARE.interior.where(lambda x: x[:, 0] > 1),
        ValueError,
        "where: predicate must accept one of 65536 points",
    ),
]


@pytest.mark.parametrize(("call", "kind", "message"), BAD, ids=[message[:40] for _, _, message in BAD])
def test_bad_input_is_named(call: Callable[[], Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        call()


def test_nan_lies_nowhere() -> None:
    points = torch.full((1, 2), math.nan)
    for geometry in (SQUARE, disk(), hx.Polygon(BEND), SQUARE - disk(0.5)):
        assert not bool(geometry.contains(points))
        assert not bool(geometry.on_boundary(points))
