"""The native training stopped in the middle: what kill -9, Ctrl-C and divergence leave in the checkpoint."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import torch
from processes import line_of, python, wait_for
from training.cases import assert_divergence_keeps_the_good_checkpoint, checkpoint_after_kill, problem

from hrta_ext import backends
from hrta_ext.network.module import TwoLayerNet
from hrta_ext.training.fit import fit

FUSED = backends()["cpp"] and os.environ.get("HRTA_EXT_BACKEND") != "torch"
pytestmark = pytest.mark.skipif(not FUSED, reason="needs the compiled kernels")

KILLED = """
import sys
import torch
from hrta_ext import TwoLayerNet, fit
x = torch.linspace(0, 1, 33)[:, None]
net = TwoLayerNet(1, 300, seed=0)
print("ready", flush=True)
fit(net, x, torch.sin(6 * x[:, 0]), s=(0.5, 1.0), steps=(1000, 10**7), engine="fused",
    checkpoint=sys.argv[1], checkpoint_every=50)
"""


def test_kill_9_leaves_a_checkpoint_that_resumes_exactly(tmp_path: Path) -> None:
    saved = checkpoint_after_kill(KILLED, tmp_path / "run.pt")
    done = saved["step"]
    assert done > 0
    assert done % 50 == 0
    assert saved["loss"].shape == (done,)
    x = torch.linspace(0, 1, 33)[:, None]
    net = TwoLayerNet(1, 300, seed=0)
    first = min(done, 1000)
    stages = {"s": (0.5, 1.0)[: 1 + (done > 1000)], "steps": (first, done - first)[: 1 + (done > 1000)]}
    whole = fit(net, x, torch.sin(6 * x[:, 0]), **stages, engine="fused")
    assert torch.equal(whole.loss, saved["loss"])
    assert torch.equal(net.weight, saved["model"]["weight"])


def test_divergence_stops_at_the_first_loss_that_is_not_finite_and_keeps_the_good_checkpoint(tmp_path: Path) -> None:
    x, y = problem(20, 2, torch.float32)
    assert_divergence_keeps_the_good_checkpoint(TwoLayerNet(2, 50, seed=0), x, y, tmp_path / "run.pt")


def test_ctrl_c_ends_between_two_calls_and_leaves_a_checkpoint(tmp_path: Path) -> None:
    code = KILLED.replace("fit(net", "result = fit(net") + "\nprint(result.stop_reason, len(result.loss))"
    path = tmp_path / "run.pt"
    with python(code, str(path)) as process:
        assert line_of(process) == "ready"
        wait_for(path, process)
        process.send_signal(signal.SIGINT)
        reason, steps = line_of(process).split()
        assert process.wait() == 0
    assert reason == "interrupted"
    assert torch.load(path, weights_only=True)["step"] == int(steps)
