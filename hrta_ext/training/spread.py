"""Networks that each rank of a group trained by itself, brought to all ranks."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hrta_ext.groups import Ranks
from hrta_ext.training.results import FitResult


def everywhere(ranks: Ranks, nets: Sequence[nn.Module], first: int, results: Sequence[FitResult]) -> list[FitResult]:
    """The results of all ranks, in the order of the networks, which hold what they were trained to on every rank.

    Args:
        nets: All networks, the same on every rank but for those that it trained.
        first: Place of this rank's first one.
        results: Of this rank's, from the first on.
    """
    told = ranks.texts(json.dumps([_told(first + k, result) for k, result in enumerate(results)]))
    every: list[FitResult] = []
    for rank, text in enumerate(told):
        for about in json.loads(text):
            net = nets[about["place"]]
            state = _received(ranks, rank, net, about["state"])
            if rank == ranks.rank:
                every.append(results[about["place"] - first])
                continue
            net.load_state_dict(state)
            loss, s = (torch.tensor(about[name], dtype=torch.float64) for name in ("loss", "s"))
            every.append(FitResult(net, loss, s, about["stop_reason"], about["seconds"], about["settings"]))
    return every


def _tensors(net: nn.Module) -> dict[str, Tensor]:
    return {name: value for name, value in net.state_dict().items() if isinstance(value, Tensor)}


def _told(place: int, result: FitResult) -> dict[str, Any]:
    return {
        "place": place,
        "loss": result.loss.tolist(),
        "s": result.s.tolist(),
        "stop_reason": result.stop_reason,
        "seconds": result.seconds,
        "settings": result.settings,
        "state": {
            name: [list(value.shape), str(value.dtype).removeprefix("torch."), value.device.type]
            for name, value in _tensors(result.net).items()
        },
    }


def _received(ranks: Ranks, rank: int, net: nn.Module, about: dict[str, Any]) -> dict[str, Tensor]:
    """The entries of a rank's state_dict, one after the other."""
    own = _tensors(net) if rank == ranks.rank else {}
    received: dict[str, Tensor] = {}
    for name, (shape, dtype, device) in about.items():
        value = own[name].contiguous() if own else torch.empty(shape, dtype=getattr(torch, dtype), device=device)
        ranks.broadcast(value, rank)
        received[name] = value
    return received
