"""``fit_ensemble(group=)``: whole networks on every rank, and at the end all of them everywhere."""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch
from distributed.ranks import on_ranks, said

import hrta_ext as hx

X = torch.linspace(-1.0, 1.0, 12)[:, None]
WIDTHS = (5, 9, 5, 7)
CASES: dict[str, dict[str, Any]] = {
    "fused": {"lr_schedule": "cosine"},
    "autograd": {"engine": "torch"},
    "kept function": {"s": hx.ramp(0.5, 1.5, 6), "keep_function": True},
}


def trained(group: Any, count: int, **options: Any) -> Any:
    nets = [hx.TwoLayerNet(1, width, seed=k) for k, width in enumerate(WIDTHS[:count])]
    options = {"s": 1.0, "steps": 9, **options}
    results = hx.fit_ensemble(nets, X, torch.sin(3.0 * X[:, 0]), lr=1e-2, group=group, **options)
    assert [result.net for result in results] == nets
    return [
        (result.loss.tolist(), result.s.tolist(), result.stop_reason, result.settings, net(X).tolist())
        for result, net in zip(results, nets, strict=True)
    ]


def on_each_rank() -> dict[str, Any]:
    found = {name: trained("world", len(WIDTHS), **options) for name, options in CASES.items()}
    found["few"] = trained("world", 1)
    divided = hx.TwoLayerNet(1, 4, seed=0, group="world")
    found["divided"] = said(lambda: hx.fit_ensemble([divided], X, X[:, 0], steps=2, s=1.0))
    found["differs"] = said(lambda: trained("world", 2, steps=2 + int(os.environ["RANK"])))
    return found


@pytest.fixture(scope="module")
def answers() -> list[dict[str, Any]]:
    return on_ranks(3, on_each_rank)


@pytest.mark.parametrize("name", CASES)
def test_every_rank_has_the_ensemble_of_one_process(answers: list[dict[str, Any]], name: str):
    """Bit for bit, settings included: four networks on three ranks."""
    alone = trained(None, len(WIDTHS), **CASES[name])
    for answer in answers:
        assert answer[name] == alone


def test_ranks_without_a_network(answers: list[dict[str, Any]]):
    """One network on three ranks."""
    alone = trained(None, 1)
    for answer in answers:
        assert answer["few"] == alone


def test_refusals(answers: list[dict[str, Any]]):
    """A network that is divided itself, and arguments that differ."""
    for answer in answers:
        assert "nets must be whole networks" in answer["divided"]
        assert "steps of network 0 must be the same on every rank" in answer["differs"]
