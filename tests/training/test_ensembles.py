"""Ensembles: every network as it would train alone."""

from __future__ import annotations

import os

import pytest
import torch
from torch import nn

from hrta_ext import HomotopyActivation, backends, fit_ensemble
from hrta_ext.network.module import TwoLayerNet
from hrta_ext.training.fit import fit

X = torch.linspace(0, 1, 30)[:, None]
Y = torch.sin(6.0 * X[:, 0])
STAGES = {"s": (0.5, 1.0), "steps": (70, 80), "lr": 1e-2}
ENGINE = "fused" if backends()["cpp"] and os.environ.get("HRTA_EXT_BACKEND") != "torch" else "torch"


def make() -> list[TwoLayerNet]:
    sizes = [(50, "relu"), (700, "relu"), (30, "tanh")]
    return [TwoLayerNet(1, width, base=base, seed=seed) for seed, (width, base) in enumerate(sizes)]


@pytest.mark.parametrize("optimizer", ["adam", "gd"])
def test_every_network_gets_the_bits_that_it_gets_alone(optimizer: str) -> None:
    together, alone = make(), make()
    results = fit_ensemble(together, X, Y, **STAGES, optimizer=optimizer, lr_schedule="cosine")
    for net, result, other in zip(together, results, alone, strict=True):
        expected = fit(other, X, Y, **STAGES, optimizer=optimizer, lr_schedule="cosine")
        assert result.net is net
        assert (result.engine, result.stop_reason) == (ENGINE, "finished")
        assert torch.equal(result.loss, expected.loss)
        assert torch.equal(result.s, expected.s)
        assert torch.equal(net.weight, other.weight)
        assert net.s == 1.0


def test_a_network_that_diverges_stops_alone() -> None:
    nets = make()
    with torch.no_grad():
        nets[1].weight.fill_(1e30)
    results = fit_ensemble(nets, X, Y, **STAGES)
    assert [result.stop_reason for result in results] == ["finished", "diverged", "finished"]
    assert len(results[1].loss) < 150
    assert len(results[2].loss) == 150


def test_networks_that_need_autograd_train_one_after_the_other() -> None:
    torch.manual_seed(0)
    deep = nn.Sequential(nn.Linear(1, 8), HomotopyActivation(), nn.Linear(8, 1))
    results = fit_ensemble([TwoLayerNet(1, 9), deep], X, Y[:, None], **STAGES)
    assert [result.engine for result in results] == [ENGINE, "torch"]
    assert all(len(result.loss) == 150 for result in results)


def test_bad_ensembles_are_refused() -> None:
    net = TwoLayerNet(1, 9)
    with pytest.raises(ValueError, match="nets must be different networks, two of them share a parameter"):
        fit_ensemble([net, net], X, Y)
    with pytest.raises(TypeError, match="fit_ensemble: loss is not served, only targets y"):
        fit_ensemble([net], X, loss=lambda u, x: u.value, s=1.0, steps=1)
    with pytest.raises(TypeError, match="fit: y must be a tensor, got NoneType"):
        fit_ensemble([net], X)
    for nets in (net, []):
        with pytest.raises(TypeError, match="nets must be a sequence of at least one network"):
            fit_ensemble(nets, X, Y)
    with pytest.raises(ValueError, match=r"fit: s\[0\] must be finite, got nan"):
        fit_ensemble([net], X, Y, s=float("nan"), steps=1)
