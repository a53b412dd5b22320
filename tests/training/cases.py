"""What the tests of training share: small problems and networks, killed runs, runs that diverge."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from processes import line_of, python, wait_for
from torch import Tensor, nn

from hrta_ext.activation.modules import HomotopyActivation
from hrta_ext.network.module import TwoLayerNet
from hrta_ext.training.fit import fit

QUICK = {"s": (0.5, 1.5), "steps": (4, 6), "lr": 1e-2}


def net64(width: int = 9, seed: int = 0) -> TwoLayerNet:
    """For the fixture ``data``: 12 samples of a sine in float64."""
    return TwoLayerNet(1, width, seed=seed).double()


def mlp(outputs: int = 1) -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(1, 7), HomotopyActivation(), nn.Linear(7, outputs)).double()


def problem(n: int, features: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """x (n, features) in the unit cube and a sine of it."""
    x = torch.rand(n, features, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return x.to(dtype), torch.sin(3.0 * x.sum(1)).to(dtype)


def checkpoint_after_kill(code: str, path: Path) -> dict[str, Any]:
    """Run ``code``, which prints "ready" and trains with checkpoints at sys.argv[1]; kill -9 in the middle.

    Returns:
        The checkpoint that is left.
    """
    with python(code, str(path)) as process:
        assert line_of(process) == "ready"
        wait_for(path, process)
        time.sleep(0.2)  # into the middle of steps and further checkpoints
        assert process.poll() is None
        process.kill()
    content: dict[str, Any] = torch.load(path, weights_only=True)
    return content


def assert_divergence_keeps_the_good_checkpoint(net: TwoLayerNet, x: Tensor, y: Tensor, path: Path) -> None:
    """By the fused engine: it stops at the first loss that is not finite, the file is that of the last good multiple.

    Args:
        net: Must not diverge within 25 steps of gradient descent at a rate of 0.01.
    """
    factors = [1.0] * 25 + [1e30] * 1000
    result = fit(
        net, x, y, s=1.0, steps=1000, optimizer="gd", lr=1e-2, lr_schedule=factors.__getitem__, engine="fused",
        checkpoint=path, checkpoint_every=10,
    )  # fmt: skip
    assert result.stop_reason == "diverged"
    assert result.loss[:-1].isfinite().all()
    assert not result.loss[-1].isfinite()
    saved = torch.load(path, weights_only=True)
    assert saved["step"] == 20
    assert saved["model"]["weight"].isfinite().all()
