"""``fit`` of a network whose neurons are divided among ranks: the numbers of one process, whatever is trained how."""

from __future__ import annotations

import functools
import os
from typing import Any

import pytest
import torch
from distributed.ranks import on_ranks
from torch import nn

import hrta_ext as hx

RANKS = 3
N = 12

MOMENTUM = functools.partial(torch.optim.SGD, momentum=0.9)
# width: 7 neurons are 3, 3 and 1; 4 are 2, 2 and none; 1 is one and twice none.
CASES: dict[str, dict[str, Any]] = {
    "adam": {},
    "sgd, few neurons": {"width": 4, "optimizer": "sgd"},
    "one neuron": {"width": 1, "optimizer": "adam"},
    "momentum, weights": {"optimizer": MOMENTUM, "sample_weight": True},
    "sobolev": {"base": "tanh", "target_gradient": True, "sample_weight": True, "width": 4},
    "float32": {"dtype": torch.float32},
    "arcs": {"dtype": torch.float32, "n": 256, "width": 1030, "steps": 6, "optimizer": "sgd"},
    "ramp": {"s": hx.ramp(0.5, 1.5, 10)},
    "kept function": {"s": (0.5, 1.5), "steps": (6, 6), "keep_function": True},
    "adaptive": {"s": hx.AdaptiveHomotopy(1.0, 1.2, patience=3)},
    "schedule": {"lr_schedule": "cosine"},
    "torch engine": {"engine": "torch", "width": 4},
    "batches": {"batch_size": 5},
    "learned s": {"learns": "s", "width": 4},
    "trained skip": {"learns": "skip"},
    "sobolev by autograd": {"engine": "torch", "base": "tanh", "target_gradient": True, "width": 4},
    "adamw": {"optimizer": torch.optim.AdamW},
    "equation": {"base": "tanh", "width": 4, "equation": True},
}


def samples(n: int) -> torch.Tensor:
    return torch.linspace(-1.0, 1.0, n)[:, None]


def equation() -> list[hx.Term]:
    """u'' = -sin(3 x) on points that every step draws anew, u = 0 at both ends."""
    inside = hx.Sampler(hx.Interval(-1.0, 1.0), 20, seed=2)
    ends = hx.Term(torch.tensor([[-1.0], [1.0]]), lambda u, x: u.value**2, 10.0, second=None)
    return [hx.Term(inside, lambda u, x: (u.second + torch.sin(3.0 * x[:, 0])) ** 2), ends]


def trained(name: str, group: Any) -> dict[str, Any]:
    """Losses, s and final outputs of one case."""
    case = {"width": 7, "base": "relu", "s": (0.5, 1.5), "steps": None, **CASES[name]}
    dtype, n = case.pop("dtype", torch.float64), case.pop("n", N)
    torch.set_default_dtype(dtype)
    torch.manual_seed(5 if group is None else 5 + int(os.environ["RANK"]))
    x = samples(n)
    net = hx.TwoLayerNet(1, case.pop("width"), base=case.pop("base"), seed=3, draw="counter", group=group)
    learns = case.pop("learns", None)
    if learns == "skip":
        net.set_s(1.3, keep_function=True)
    if learns is not None:
        value = getattr(net, learns).detach().clone()
        del net._buffers[learns]
        setattr(net, learns, nn.Parameter(value.to(dtype)))
    if case["steps"] is None:
        case["steps"] = 12 if not isinstance(case["s"], tuple) else (6, 6)
    elif isinstance(case["s"], tuple) and isinstance(case["steps"], int):
        case["s"] = 1.0
    if case.get("sample_weight"):
        case["sample_weight"] = torch.linspace(0.5, 1.5, n)
    if case.get("target_gradient"):
        case["target_gradient"] = 3.0 * torch.cos(3.0 * x)
    if case.pop("equation", False):
        result = hx.fit(net, loss=equation(), lr=1e-2, **case)
    else:
        result = hx.fit(net, x, torch.sin(3.0 * x[:, 0]), lr=1e-2, **case)
    with torch.no_grad():
        f = net(x)
    return {
        "loss": result.loss.tolist(),
        "s": result.s.tolist(),
        "engine": result.engine,
        "f": f.double().tolist(),
        "stopped": result.stop_reason,
        "settings": (result.settings["n_parameters"], result.settings.get("ranks")),
        "learned": None if learns is None else getattr(net, learns).detach().double().tolist(),
    }


def every_case(names: list[str]) -> dict[str, Any]:
    return {name: trained(name, "world") for name in names}


@pytest.fixture(scope="module")
def divided() -> list[dict[str, Any]]:
    """What each rank has of every case, from one start of the ranks."""
    return on_ranks(RANKS, every_case, list(CASES))


@pytest.mark.parametrize("name", CASES)
def test_ranks_train_as_one_process(divided: list[dict[str, Any]], name: str):
    """The same engine, path of s, losses and outputs as one process that holds all neurons, to rounding."""
    dtype = CASES[name].get("dtype", torch.float64)
    before = torch.get_default_dtype()
    try:
        alone = trained(name, None)
    finally:
        torch.set_default_dtype(before)
    rtol = 1e-9 if dtype == torch.float64 else 2e-4
    for answer in (answers[name] for answers in divided):
        assert answer["engine"] == alone["engine"]
        assert answer["stopped"] == alone["stopped"] == "finished"
        assert answer["settings"] == (alone["settings"][0], RANKS)
        for key in ("loss", "f", "s", "learned"):
            assert answer[key] == divided[0][name][key]  # the same bits on every rank
            if alone[key] is not None:
                found, expected = torch.tensor(answer[key]), torch.tensor(alone[key])
                torch.testing.assert_close(found, expected, rtol=rtol, atol=rtol)
