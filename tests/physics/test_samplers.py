"""Samplers: draw k is a function of the seed and k, whatever the process, dtype and settings; points are spread."""

from __future__ import annotations

import copy
import json
import pickle
from typing import Any

import pytest
import torch
from physics.cases import BEND, SQUARE
from processes import python

import hrta_ext as hx

REGIONS = {
    "box": SQUARE.interior,
    "polygon": hx.Polygon(BEND).interior,
    "hole": (SQUARE - hx.Ball([0.0, 0.0], 0.5)).interior,
    "boundary": (SQUARE - hx.Ball([1.0, 0.0], 0.5)).boundary,
    "time": hx.Interval(0.0, 1.0).with_time(0.0, 1.0).lateral,
}
METHODS = ["uniform", "latin", "sobol"]
regions = pytest.mark.parametrize("region", REGIONS.values(), ids=REGIONS)
methods = pytest.mark.parametrize("method", METHODS)


@regions
@methods
def test_a_draw_depends_on_seed_and_number_alone(region: Any, method: str) -> None:
    sampler = hx.Sampler(region, 33, method=method, seed=5)
    draws = [sampler(k) for k in range(3)]
    torch.manual_seed(99)
    before = torch.get_rng_state()
    again = copy.deepcopy(sampler)
    for k in (2, 0, 1):  # in any order
        assert torch.equal(again(k), draws[k])
    assert torch.equal(torch.get_rng_state(), before)  # and torch's own generator is left alone
    assert not torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], hx.Sampler(region, 33, method=method, seed=6)(0))
    assert not torch.equal(draws[0], hx.Sampler(region, 33, method=method, seed=-5)(0))
    assert torch.equal(draws[0], region.sample(33, method=method, seed=5).float())


@regions
@methods
def test_dtype_and_device_come_after_the_draw(region: Any, method: str) -> None:
    single, double = (hx.Sampler(region, 33, method=method, dtype=dtype) for dtype in (torch.float32, torch.float64))
    assert single(4).dtype == torch.float32
    assert torch.equal(single(4), double(4).float())
    assert torch.equal(single.draw(4), double(4))
    with torch.device("meta"):  # a default device must not draw elsewhere
        assert torch.equal(single(4), hx.Sampler(region, 33, method=method, dtype=torch.float32)(4))
    assert hx.Sampler(region, 33, device="meta")(0).device.type == "meta"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gets_the_points_of_the_cpu() -> None:
    for region in REGIONS.values():
        here, there = hx.Sampler(region, 33), hx.Sampler(region, 33, device="cuda")
        assert torch.equal(here(1), there(1).cpu())
        geometry = region.geometry
        assert torch.equal(geometry.contains(there(1)).cpu(), geometry.contains(here(1)))
        torch.testing.assert_close(geometry.normals(there(1)).cpu(), geometry.normals(here(1)))


def test_another_process_draws_the_same_points() -> None:
    code = """
import hrta_ext as hx
for region in (hx.Box([0, 0], [1, 2]), (hx.Box([0, 0], [1, 2]) - hx.Ball([0, 0], 0.5)).boundary):
    for method in ("uniform", "latin", "sobol"):
        print(hx.Sampler(region, 5, method=method, seed=2**63)(3).tolist())
"""
    with python(code) as process:
        there = process.communicate()[0].split("\n")
    box = hx.Box([0, 0], [1, 2])
    for region in (box, (box - hx.Ball([0, 0], 0.5)).boundary):
        for method in METHODS:
            assert str(hx.Sampler(region, 5, method=method, seed=2**63)(3).tolist()) == there.pop(0)


def test_the_first_draws_are_written_down() -> None:
    # Philox4x64-10 with the key (seed, k): a checkpoint of one version must find its points in the next.
    words = [int(u * 2**53) for u in hx.Sampler(hx.Interval(0.0, 1.0), 2, seed=3, dtype=torch.float64)(7).flatten()]
    assert words == [1449383228986253, 7412521241477136]


@methods
def test_latin_and_sobol_points_are_spread(method: str) -> None:
    points = hx.Sampler(hx.Box([0.0] * 3, [1.0] * 3), 64, method=method, dtype=torch.float64)(1)
    for column in (points * 64).floor().T:  # how many of 64 slices have a point
        assert (len(column.unique()) == 64) == (method != "uniform")


@pytest.mark.parametrize("geometry", [SQUARE, hx.Ball([0.0, 0.0], 1.0), hx.Polygon(BEND)], ids=["box", "disk", "L"])
def test_sobol_integrates_better_than_uniform(geometry: Any) -> None:
    # The maps of the shapes keep quasi-random points quasi-random: root mean square error over 20 draws of exp(x) y^2.
    def values(points: torch.Tensor) -> torch.Tensor:
        return points[:, 0].exp() * points[:, 1].square()

    expected = float(values(geometry.sample(2**17, method="sobol", seed=9)).mean())
    error = {}
    for method in METHODS:
        sampler = hx.Sampler(geometry, 512, method=method, dtype=torch.float64)
        error[method] = sum((float(values(sampler(k)).mean()) - expected) ** 2 for k in range(20)) ** 0.5
    assert error["sobol"] < 0.2 * error["uniform"]
    assert error["latin"] < error["uniform"]


@regions
def test_measure_and_description(region: Any) -> None:
    sampler = hx.Sampler(region, 10, method="sobol", seed=4)
    assert sampler.measure == region.measure
    assert sampler.geometry is region.geometry
    assert json.loads(json.dumps(sampler.description)) == sampler.description
    assert pickle.loads(pickle.dumps(sampler)).description == sampler.description
    described = [sampler.description]
    for other in (
        hx.Sampler(region, 11, method="sobol", seed=4),
        hx.Sampler(region, 10, method="sobol", seed=4, dtype=torch.float64),
        hx.Sampler(region, 10, method="latin", seed=4),
        hx.Sampler(region, 10, method="sobol", seed=5),
        hx.Sampler(hx.Interval(0.0, 1.0), 10, method="sobol", seed=4),
        hx.Sampler(region.where(lambda x: x[:, 0] > 0.1), 10, method="sobol", seed=4),
        hx.Sampler(region.where(lambda x: x[:, 0] > 0.2), 10, method="sobol", seed=4),
    ):
        assert other.description not in described
        described.append(other.description)


def test_a_geometry_stands_for_its_interior() -> None:
    assert torch.equal(hx.Sampler(SQUARE, 4)(0), hx.Sampler(SQUARE.interior, 4)(0))


def test_a_region_that_is_hard_to_hit_says_so() -> None:
    # Few candidates pass the estimate and hardly any later: the loop must end.
    calls = [0]

    def shy(points: torch.Tensor) -> torch.Tensor:
        calls[0] += 1
        return (points[:, 0] > 0) & torch.tensor(calls[0] == 1)

    part = SQUARE.interior.where(shy)
    with pytest.raises(ValueError, match="sample: the region must be easier to hit, got 0 of 100 points"):
        part.sample(100)


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda: hx.Sampler("box", 3), TypeError, "Sampler: region must be a geometry or one of its regions, got str"),
        (lambda: hx.Sampler(SQUARE, 0), ValueError, "Sampler: count must be at least 1, got 0"),
        (lambda: hx.Sampler(SQUARE, 2.5), TypeError, "Sampler: count must be an int, got 2.5"),
        (lambda: hx.Sampler(SQUARE, 3, method="halton"), ValueError, "Sampler: method must be .*, got 'halton'"),
        (lambda: hx.Sampler(SQUARE, 3, seed=2**64), ValueError, "Sampler: seed must be in"),
        (lambda: hx.Sampler(SQUARE, 3, seed=True), TypeError, "Sampler: seed must be an int, got True"),
        (lambda: hx.Sampler(SQUARE, 3, seed=1.5), TypeError, r"Sampler: seed must be an int, got 1\.5"),
        (
            lambda: hx.Sampler(SQUARE, 3, dtype=torch.int64),
            TypeError,
            "Sampler: dtype must be torch.float32 or torch.float64",
        ),
        (lambda: hx.Sampler(SQUARE, 3)(-1), ValueError, r"Sampler: k must be in \[0, 2\^64\), got -1"),
        (lambda: hx.Sampler(SQUARE, 3)(0.5), TypeError, "Sampler: k must be an int, got 0.5"),
    ],
)
def test_bad_input_is_named(call: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        call()
