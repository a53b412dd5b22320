"""Every way of training on a GPU (csrc/training/cuda/ways.h): a training's bits do not depend on how it is cut up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import hrta_ext as hx

pytestmark = pytest.mark.skipif(not hx.backends()["cuda"], reason="needs a GPU")

# (base, dtype, n, features with the bias, width)
WAYS = {
    "all steps in one launch, a cluster": ("relu", torch.float32, 100, 4, 1000),
    "all steps in one launch, the grid": ("tanh", torch.float32, 500, 4, 10_000),
    "arcs, all steps in one launch": ("relu", torch.float32, 500, 2, 20_000),
    "arcs, one sweep a step": ("relu", torch.float32, 100, 2, 400_000),
    "tensor cores": ("relu", torch.float32, 500, 5, 40_000),
    "lanes": ("gelu", torch.float64, 100, 3, 1000),
    "tiles": ("silu", torch.float32, 300, 20, 40_000),
}


@pytest.mark.parametrize("way", WAYS)
def test_100_steps_are_37_and_63_and_a_resumed_run(way: str, tmp_path: Path) -> None:
    base, dtype, n, features, width = WAYS[way]
    x = torch.rand(n, features - 1, generator=torch.Generator().manual_seed(1)).to("cuda", dtype)
    y = torch.sin(4.0 * x.sum(1))
    settings: dict[str, Any] = {"s": 1.5, "steps": 100, "lr": 1e-3, "engine": "fused"}
    checkpoint = tmp_path / "run.pt"

    def look(info: Any) -> None:
        pass

    def stop(info: Any) -> None:
        raise StopIteration

    look.every = stop.every = 37  # type: ignore[attr-defined]
    whole, cut, resumed = (hx.TwoLayerNet(features - 1, width, base=base, seed=0).to("cuda", dtype) for _ in range(3))
    expected = hx.fit(whole, x, y, **settings)
    in_pieces = hx.fit(cut, x, y, **settings, callbacks=[look])
    begun = hx.fit(resumed, x, y, **settings, checkpoint=checkpoint, callbacks=[stop])
    assert len(begun.loss) == 37
    ended = hx.fit(resumed, x, y, **settings, checkpoint=checkpoint, resume=True)
    for net, result in ((cut, in_pieces), (resumed, ended)):
        assert torch.equal(result.loss, expected.loss)
        assert torch.equal(net.weight, whole.weight)
        assert torch.equal(net.output_weight, whole.output_weight)


@pytest.mark.parametrize("way", WAYS)
def test_nan_stops_and_the_last_good_checkpoint_stays(way: str, tmp_path: Path) -> None:
    """A learning rate that overflows: "diverged" within 100 steps of the loss that is not finite."""
    base, dtype, n, features, width = WAYS[way]
    x = torch.rand(n, features - 1, generator=torch.Generator().manual_seed(1)).to("cuda", dtype)
    net = hx.TwoLayerNet(features - 1, width, base=base, seed=0).to("cuda", dtype)
    checkpoint = tmp_path / "run.pt"
    result = hx.fit(
        net, x, torch.sin(4.0 * x.sum(1)), s=1.5, steps=4000, optimizer="sgd", lr=1e30, engine="fused",
        checkpoint=checkpoint, checkpoint_every=1,
    )  # fmt: skip
    assert result.stop_reason == "diverged"
    assert not result.loss[-1].isfinite() or not net.weight.isfinite().all()
    saved = torch.load(checkpoint, weights_only=True)
    assert all(tensor.isfinite().all() for tensor in saved["model"].values())
