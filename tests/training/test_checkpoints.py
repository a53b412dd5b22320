"""Checkpoints: resuming gives the bits of an uninterrupted run, no crash costs the file, no other run touches it."""

import functools
import math
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import python, wait_for
from torch import nn

from hrta_ext.activation.modules import HomotopyActivation
from hrta_ext.network.module import TwoLayerNet
from hrta_ext.training.fit import fit
from hrta_ext.training.results import FitResult, StepInfo

X = torch.linspace(0.0, 1.0, 13)[:, None]
Y = torch.sin(2 * torch.pi * X[:, 0])
STAGES = {"s": (0.5, 1.0, 1.5), "steps": (7, 9, 11), "lr": 1e-2}


def two_layer(seed: int) -> nn.Module:
    return TwoLayerNet(1, 8, seed=seed)


def dropout(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(1, 8), HomotopyActivation(), nn.Dropout(0.3), nn.Linear(8, 1))


def batch_norm(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(1, 8), nn.BatchNorm1d(8), HomotopyActivation(base="tanh"), nn.Linear(8, 1))


def learned_s(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(1, 8), HomotopyActivation(learnable=True, num_features=8), nn.Linear(8, 1))


def stop_after(step: int) -> Callable[[StepInfo], None]:
    def stop(info: StepInfo) -> None:
        if info.step + 1 == step:
            raise StopIteration

    return stop


def assert_same(net: nn.Module, result: FitResult, other_net: nn.Module, other: FitResult) -> None:
    assert torch.equal(result.loss, other.loss)
    assert torch.equal(result.s, other.s)
    state, other_state = net.state_dict(), other_net.state_dict()
    assert state.keys() == other_state.keys()
    for name, value in state.items():
        assert torch.equal(value, other_state[name]), name


CASES: dict[str, tuple[Callable[[int], nn.Module], dict[str, Any]]] = {
    "adam": (two_layer, {}),
    "sgd": (two_layer, {"optimizer": "sgd"}),
    "gd": (two_layer, {"optimizer": "gd"}),
    "minibatch": (two_layer, {"batch_size": 4}),
    "minibatch momentum": (two_layer, {"batch_size": 5, "optimizer": functools.partial(torch.optim.SGD, momentum=0.9)}),
    "cosine": (two_layer, {"lr_schedule": "cosine"}),
    "schedule": (two_layer, {"lr_schedule": lambda step: 0.9**step, "optimizer": torch.optim.RMSprop}),
    "lbfgs": (two_layer, {"optimizer": torch.optim.LBFGS, "lr": 0.02}),  # 0.1 diverges by one backend's rounding
    "dropout": (dropout, {"batch_size": 6}),
    "batch norm": (batch_norm, {"optimizer": functools.partial(torch.optim.Adam, amsgrad=True)}),
    "learned s": (learned_s, {}),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("at", [3, 7, 12])  # within a stage, at its end, and at the end of an epoch of 4 batches
def test_resuming_gives_the_bits_of_an_uninterrupted_run(name: str, at: int, tmp_path: Path) -> None:
    make, options = CASES[name]
    options = {**STAGES, **options}
    whole_net = make(0)
    torch.manual_seed(42)
    whole = fit(whole_net, X, Y, **options)

    net = make(0)
    torch.manual_seed(42)
    path = tmp_path / "run.pt"
    first = fit(net, X, Y, **options, checkpoint=path, callbacks=[stop_after(at)])
    assert first.loss.shape == (at,)
    restarted = make(1)  # a new process may start from other weights and another seed
    torch.manual_seed(43)
    torch.rand(5)
    rest = fit(restarted, X, Y, **options, checkpoint=path, resume=True)
    assert rest.stop_reason == "finished"
    assert rest.seconds > first.seconds
    assert_same(restarted, rest, whole_net, whole)


def test_a_checkpoint_of_every_few_steps_changes_nothing(tmp_path: Path) -> None:
    nets = [two_layer(0), two_layer(0)]
    plain = fit(nets[0], X, Y, **STAGES, batch_size=4)
    kept = fit(nets[1], X, Y, **STAGES, batch_size=4, checkpoint=tmp_path / "run.pt", checkpoint_every=2)
    assert_same(nets[0], plain, nets[1], kept)


def test_a_finished_run_resumes_to_its_own_result_at_once(tmp_path: Path) -> None:
    nets = [two_layer(0), two_layer(1)]
    path = tmp_path / "run.pt"
    first = fit(nets[0], X, Y, **STAGES, checkpoint=path)
    before = path.read_bytes()
    second = fit(nets[1], X, Y, **STAGES, checkpoint=path, resume=True, callbacks=[stop_after(0)])
    assert second.stop_reason == "finished"
    assert second.seconds == first.seconds
    assert path.read_bytes() == before
    assert_same(nets[0], first, nets[1], second)


def test_resume_without_a_file_starts_afresh_and_makes_the_folder(tmp_path: Path) -> None:
    nets = [two_layer(0), two_layer(0)]
    path = tmp_path / "new" / "folder" / "run.pt"
    assert_same(
        nets[0], fit(nets[0], X, Y, **STAGES), nets[1], fit(nets[1], X, Y, **STAGES, checkpoint=path, resume=True)
    )
    assert [entry.name for entry in path.parent.iterdir()] == ["run.pt"]


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_leaves_a_checkpoint_that_resumes_exactly(tmp_path: Path) -> None:
    path = tmp_path / "run.pt"

    def press(info: StepInfo) -> None:
        if info.step == 9:
            signal.raise_signal(signal.SIGINT)

    nets = [two_layer(0), two_layer(0)]
    assert fit(nets[1], X, Y, **STAGES, checkpoint=path, callbacks=[press]).stop_reason == "interrupted"
    assert torch.load(path, weights_only=True)["step"] == 10
    resumed = fit(nets[1], X, Y, **STAGES, checkpoint=path, resume=True)
    assert_same(nets[0], fit(nets[0], X, Y, **STAGES), nets[1], resumed)


def test_an_error_in_a_callback_leaves_the_last_checkpoint(tmp_path: Path) -> None:
    def fail(info: StepInfo) -> None:
        if info.step == 14:
            raise OSError("disk of the callback")

    nets = [two_layer(0), two_layer(0)]
    path = tmp_path / "run.pt"
    with pytest.raises(OSError, match="disk of the callback"):
        fit(nets[1], X, Y, **STAGES, checkpoint=path, checkpoint_every=5, callbacks=[fail])
    assert torch.load(path, weights_only=True)["step"] == 10
    resumed = fit(nets[1], X, Y, **STAGES, checkpoint=path, resume=True)
    assert_same(nets[0], fit(nets[0], X, Y, **STAGES), nets[1], resumed)


def test_divergence_leaves_the_last_good_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "run.pt"
    options: dict[str, Any] = {"s": 0.5, "steps": 400, "optimizer": "gd", "lr": 1e-3, "checkpoint": path}
    explode = lambda step: 1.0 if step < 250 else 1e20  # noqa: E731
    result = fit(two_layer(0), X, Y, **options, lr_schedule=explode, checkpoint_every=120)
    assert result.stop_reason == "diverged"
    saved = torch.load(path, weights_only=True)
    assert saved["step"] == 240
    assert all(value.isfinite().all() for value in saved["model"].values())


def test_checkpoint_is_plain_data_that_any_torch_load_reads(tmp_path: Path) -> None:
    net = two_layer(0)
    result = fit(net, X, Y, **STAGES, checkpoint=tmp_path / "run.pt")
    saved = torch.load(tmp_path / "run.pt", weights_only=True)
    assert torch.equal(saved["loss"], result.loss)
    assert torch.equal(saved["model"]["weight"], net.weight)
    assert saved["fingerprint"]["steps"] == [7, 9, 11]


def test_a_checkpoint_says_what_the_first_version_said(tmp_path: Path) -> None:
    """Keys, hashes and spellings: runs that were begun with 0.1.0 go on."""
    x = torch.arange(4.0)[:, None]
    options: dict[str, Any] = {"s": (0.5, 1.0), "steps": (1, 2), "lr": 0.01, "optimizer": "gd"}
    fit(TwoLayerNet(1, 3, seed=0), x, x[:, 0], **options, sample_weight=x[:, 0], checkpoint=tmp_path / "run.pt")
    saved = torch.load(tmp_path / "run.pt", weights_only=True)
    kept = "fingerprint format homotopy loss model optimizer rng seconds shuffle step"
    assert (sorted(saved), saved["format"]) == (kept.split(), 1)
    assert saved["homotopy"] == {"values": (0.5, 1.0), "stage": 1, "milestones": (1,), "last_step": 2}
    found = saved["fingerprint"]
    assert "lr=0.01" in found.pop("optimizer hyperparameters")[0]  # the others are torch's
    of_line = "cbef12741f1428b489b3c4df88bb6e5ee7dfa3450362b2163375d7f6eba52b74"
    assert found == {
        "s": [0.5, 1.0],
        "steps": [1, 2],
        "optimizer": "gd",
        "lr": 0.01,
        "lr_schedule": "constant",
        "batch_size": None,
        "lr_schedule factors": [],
        "modules": ["TwoLayerNet"],
        "bases": ["relu"],
        "parameters": ["weight (3, 2) torch.float32", "output_weight (3,) torch.float32", "s () torch.float64"],
        "optimizer class": "SGD",
        "x": "ad04ddaa4283a919bd17ca50c184267b24c0106c466138a87009a909649d511b",
        "y": of_line,
        "sample_weight": of_line,
    }


SCRIPT = """
import os, sys, signal, torch
import hrta_ext.files
from hrta_ext.training.fit import fit
from hrta_ext.network.module import TwoLayerNet
path, mode = sys.argv[1], sys.argv[2]
x = torch.linspace(0.0, 1.0, 13)[:, None]
y = torch.sin(2 * torch.pi * x[:, 0])
torch.manual_seed(42)
writes = 0
save = torch.save
def half_a_file(content, target):
    global writes
    writes += 1
    save(content, target)
    if writes == 3:
        os.truncate(target.fileno(), target.tell() // 2)
        os.kill(os.getpid(), signal.SIGKILL)
if mode == "while writing":
    torch.save = half_a_file
net = TwoLayerNet(1, 8, seed=0)
fit(net, x, y, s=(0.5, 1.0), steps=(40, 100_000), batch_size=4, checkpoint=path, checkpoint_every=7)
"""


def run_until_killed(path: Path, mode: str) -> int:
    """Train in a process of its own until SIGKILL; the steps that its checkpoint holds."""
    with python(SCRIPT, str(path), mode) as process:
        if mode == "at any time":
            wait_for(path, process)
            time.sleep(0.05)
            process.kill()
        assert process.wait() == -signal.SIGKILL
    return torch.load(path, weights_only=True)["step"]


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
@pytest.mark.parametrize("mode", ["at any time", "while writing"])
def test_kill_9_leaves_a_checkpoint_that_resumes_exactly(mode: str, tmp_path: Path) -> None:
    path = tmp_path / "run.pt"
    done = run_until_killed(path, mode)
    assert done % 7 == 0
    if mode == "while writing":
        assert done == 14
        left, kept = sorted(file.name for file in tmp_path.iterdir())
        assert (left.startswith(".hrta_ext-"), kept) == (True, "run.pt")
    (tmp_path / ".run.partial.pt").write_text("a file of the user's own")
    options: dict[str, Any] = {"s": (0.5, 1.0), "steps": (40, 100_000), "batch_size": 4}
    nets = [two_layer(0), two_layer(5)]
    torch.manual_seed(42)
    whole = fit(nets[0], X, Y, **options, callbacks=[stop_after(done + 60)])
    torch.manual_seed(7)
    resumed = fit(nets[1], X, Y, **options, checkpoint=path, resume=True, callbacks=[stop_after(done + 60)])
    assert_same(nets[0], whole, nets[1], resumed)
    # The next write removes what the dead writer left.
    assert sorted(file.name for file in tmp_path.iterdir()) == [".run.partial.pt", "run.pt"]


class Wrapped(nn.Module):
    """The same parameters under other names."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = TwoLayerNet(1, 8, seed=0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"s": (0.5, 1.0, 2.0)}, "s: 1.5 became 2.0"),
        ({"s": (0.5, 1.0), "steps": (7, 9)}, "s: 3 entries became 2"),
        ({"steps": (7, 9, 12)}, "steps: 11 became 12"),
        ({"optimizer": "sgd"}, "optimizer: adam became sgd"),
        ({"lr": 0.1}, "lr: 0.01 became 0.1"),
        ({"batch_size": 5}, "batch_size: None became 5"),
        ({"lr_schedule": "cosine"}, "lr_schedule: constant became cosine"),
        ({"net": TwoLayerNet(1, 9)}, r"parameters: weight \(8, 2\) torch.float32 became weight \(9, 2\) torch.float32"),
        ({"net": TwoLayerNet(1, 8, base="tanh")}, "bases: relu became tanh"),
        ({"net": Wrapped()}, "modules: 1 entries became 2"),
        ({"x": X + 1e-6}, "x holds other numbers"),
        ({"y": Y * (1 + 1e-6)}, "y holds other numbers"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused_and_left_alone(change, message: str, tmp_path: Path) -> None:
    path = tmp_path / "run.pt"
    fit(two_layer(0), X, Y, **STAGES, checkpoint=path, callbacks=[stop_after(3)])
    before = path.read_bytes()
    arguments = {"net": two_layer(0), "x": X, "y": Y, **STAGES, **change}
    start = {name: value.clone() for name, value in arguments["net"].state_dict().items()}
    with pytest.raises(ValueError, match=rf"^fit: checkpoint .*run.pt is of another run \({message}\); it was left as"):
        fit(**arguments, checkpoint=path, resume=True)
    assert path.read_bytes() == before
    assert all(torch.equal(value, start[name]) for name, value in arguments["net"].state_dict().items())


@pytest.mark.parametrize(
    ("then", "now", "message"),
    [
        (
            {"optimizer": functools.partial(torch.optim.SGD, momentum=0.9)},
            {"optimizer": functools.partial(torch.optim.SGD, momentum=0.8)},
            r"optimizer hyperparameters: momentum=0.9 became momentum=0.8",
        ),
        (
            {"lr_schedule": lambda step: math.exp(-step)},
            {"lr_schedule": lambda step: math.exp(-2 * step)},
            "lr_schedule factors: ",
        ),
    ],
)
def test_settings_inside_callables_are_compared_too(then, now, message: str, tmp_path: Path) -> None:
    path = tmp_path / "run.pt"
    fit(two_layer(0), X, Y, **STAGES, **then, checkpoint=path, callbacks=[stop_after(3)])
    with pytest.raises(ValueError, match=message):
        fit(two_layer(0), X, Y, **STAGES, **now, checkpoint=path, resume=True)


def test_an_existing_file_is_never_overwritten_unasked(tmp_path: Path) -> None:
    path = tmp_path / "run.pt"
    path.write_text("precious")
    with pytest.raises(FileExistsError, match=r"checkpoint .*run.pt exists already; pass resume=True to continue"):
        fit(two_layer(0), X, Y, **STAGES, checkpoint=path)
    assert path.read_text() == "precious"


def test_a_file_that_is_no_checkpoint_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "run.pt"
    path.write_text("precious")
    with pytest.raises(ValueError, match=r"run.pt is not a checkpoint that can be read; remove it or use another path"):
        fit(two_layer(0), X, Y, **STAGES, checkpoint=path, resume=True)
    assert path.read_text() == "precious"
    torch.save({"weight": torch.ones(2)}, path)
    with pytest.raises(ValueError, match=r"run.pt is not a checkpoint of this version of fit"):
        fit(two_layer(0), X, Y, **STAGES, checkpoint=path, resume=True)


def test_a_checkpoint_with_code_in_it_is_never_run(tmp_path: Path) -> None:
    path = tmp_path / "run.pt"
    torch.save(nn.Linear(1, 1), path)
    with pytest.raises(ValueError, match="is not a checkpoint that can be read"):
        fit(two_layer(0), X, Y, **STAGES, checkpoint=path, resume=True)


def test_a_place_where_no_file_can_be_is_refused_before_training(tmp_path: Path, monkeypatch) -> None:
    with pytest.raises(IsADirectoryError, match=r"checkpoint must name a file, .* is a folder"):
        fit(two_layer(0), X, Y, **STAGES, checkpoint=tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match=r"checkpoint .*run.pt has a file where its folder should be"):
        fit(two_layer(0), X, Y, **STAGES, checkpoint=tmp_path / "file" / "run.pt")
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(PermissionError, match=r"checkpoint .* cannot be written, no permission in"):
        fit(two_layer(0), X, Y, **STAGES, checkpoint=tmp_path / "run.pt")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_resuming_on_cuda_gives_the_same_bits_with_dropout(tmp_path: Path) -> None:
    x, y = X.cuda(), Y.cuda()
    nets = [dropout(0).cuda() for _ in range(2)]
    torch.manual_seed(42)
    whole = fit(nets[0], x, y, **STAGES, batch_size=4)
    torch.manual_seed(42)
    path = tmp_path / "run.pt"
    fit(nets[1], x, y, **STAGES, batch_size=4, checkpoint=path, callbacks=[stop_after(10)])
    torch.manual_seed(43)
    resumed = fit(nets[1], x, y, **STAGES, batch_size=4, checkpoint=path, resume=True)
    assert_same(nets[0], whole, nets[1], resumed)
