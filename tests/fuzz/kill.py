"""The killer: SIGKILL at random moments of a training that keeps checkpoints, then on with it, to the same bits.

PYTHONPATH=tests python -m fuzz.kill --seconds 600
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch._dynamo  # torch.optim imports it on first use: here once, not in every child
from processes import same_package

import hrta_ext as hx

# How a training may be run: engines, batches, modules with random states of their own.
SETTINGS: dict[str, dict[str, Any]] = {
    "fused": {"engine": "fused", "steps": (400, 600), "checkpoint_every": 20},
    "arcs": {"engine": "fused", "steps": (20, 40), "checkpoint_every": 3},
    "batches": {"engine": "torch", "steps": (40, 60), "checkpoint_every": 3, "batch_size": 7, "lr_schedule": "cosine"},
    "dropout": {"engine": "torch", "steps": (40, 60), "checkpoint_every": 2, "optimizer": torch.optim.AdamW},
}


def settings() -> list[str]:
    """Those that can be run here."""
    return [name for name in SETTINGS if hx.backends()["cpp"] or SETTINGS[name]["engine"] == "torch"]


def _net(name: str) -> torch.nn.Module:
    if name == "dropout":
        activation = hx.HomotopyActivation(0.5, "tanh", learnable=True)
        return torch.nn.Sequential(
            torch.nn.Linear(1, 16), activation, torch.nn.Dropout(0.1), torch.nn.Linear(16, 1), torch.nn.Flatten(0)
        )
    return hx.TwoLayerNet(1, 1500 if name == "arcs" else 100, base="tanh" if name == "batches" else "relu", seed=0)


def train(name: str, path: Path) -> dict[str, torch.Tensor]:
    """The training ``name``, from its checkpoint where there is one; all that it ends with."""
    n = 300 if name == "arcs" else 40
    x = torch.linspace(0.0, 1.0, n)[:, None]
    torch.manual_seed(5)
    net = _net(name)
    kept = {"checkpoint": path, "resume": True, "lr": 1e-2}
    result = hx.fit(net, x, torch.sin(6.0 * x[:, 0]), s=(0.5, 1.0), **kept, **SETTINGS[name])
    return {**net.state_dict(), "loss": result.loss, "s": result.s}


def _child(name: str, path: Path) -> None:
    """In a forked process: train, and leave the result beside the checkpoint."""
    code = 1
    try:
        torch.set_num_threads(1)
        torch.save(train(name, path), path.with_name("result.tmp"))
        path.with_name("result.tmp").rename(path.with_name("result"))
        code = 0
    finally:
        os._exit(code)


def killed_fit(name: str, seed: int, folder: Path, most: int = 1000) -> int:
    """Train ``name`` in children that are killed until one reaches the end; the number of kills.

    Raises:
        AssertionError: A checkpoint was torn, a child failed, the result is another one, or something was left behind.
    """
    chance, path = random.Random(seed), folder / name / "run.pt"
    path.parent.mkdir()
    start = time.monotonic()
    expected = train(name, folder / f"{name}.pt")
    took, kills = time.monotonic() - start, 0
    while True:
        child = os.fork()
        if child == 0:
            _child(name, path)
        if kills < most:
            time.sleep(chance.uniform(0.0, 0.7 * took))
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status):
            assert os.WEXITSTATUS(status) == 0, f"{name}, seed {seed}: the training failed after {kills} kills"
            break
        kills += 1
        if path.exists():
            assert torch.load(path, weights_only=True)["step"] > 0, f"{name}, seed {seed}: no checkpoint"
    found = torch.load(path.with_name("result"), weights_only=True)
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert torch.equal(found[key], value), f"{name}, seed {seed}: {key} differs after {kills} kills"
    left = {entry.name for entry in path.parent.iterdir()} - {"run.pt", "result", "result.tmp"}
    assert not left, f"{name}, seed {seed}: {left} left behind after {kills} kills"
    return kills


def killed_command(seed: int, folder: Path, most: int = 1000) -> int:
    """``hrta train --resume``, killed until it reaches the end, and the model compared; the number of kills."""
    chance, data = random.Random(seed), folder / "data.csv"
    lines = [f"{0.1 * k},{(0.1 * k) ** 2 % 1:.6f},{(7 * k) % 5}" for k in range(40)]
    data.write_text("\n".join(["a,b,y", *lines]))
    command = [sys.executable, "-m", "hrta_ext.cli", "train", str(data), "--target", "y", "--width", "20"]
    command += ["--steps", "1500", "1500", "--batch-size", "8", "--out"]

    def run(name: str, *options: str) -> subprocess.Popen[bytes]:
        silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
        return subprocess.Popen([*command, str(folder / name), *options], env=same_package(), cwd=folder, **silent)

    start = time.monotonic()
    with run("whole") as whole:
        _, error = whole.communicate()
    assert whole.returncode == 0, error
    took, kills = time.monotonic() - start, 0
    while True:
        # A kill before there is a folder leaves nothing to resume, and the command says so.
        with run("killed", *(["--resume"] if (folder / "killed").exists() else [])) as process:
            if kills < most:
                try:
                    process.wait(chance.uniform(0.2 * took, 1.1 * took))
                except subprocess.TimeoutExpired:
                    process.kill()
            _, error = process.communicate()
        if process.returncode != -signal.SIGKILL:
            # A kill after the last file leaves a finished run, and the command says so.
            finished = process.returncode == 0 or (kills and b"holds a finished run" in error)
            assert finished, f"seed {seed}, after {kills} kills: {error.decode()}"
            break
        kills += 1
    one, two = (torch.load(folder / name / "model.pt", weights_only=True) for name in ("whole", "killed"))
    assert one.keys() == two.keys()
    assert all(torch.equal(one[key], two[key]) for key in one if isinstance(one[key], torch.Tensor)), f"seed {seed}"
    files = [{entry.name for entry in (folder / name).iterdir()} for name in ("whole", "killed")]
    assert files[0] == files[1], f"seed {seed}: {files[0] ^ files[1]} after {kills} kills"
    return kills


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=float(os.environ.get("FUZZ_SECONDS", "600")))
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**31))
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    torch.set_num_threads(1)
    end, seeds, kills = time.monotonic() + options.seconds, random.Random(options.seed), Counter[str]()
    victims: dict[str, Callable[[int, Path], int]] = {"hrta train": killed_command}
    for name in settings():
        victims[name] = lambda seed, folder, name=name: killed_fit(name, seed, folder)
    while time.monotonic() < end:
        for name, victim in victims.items():
            folder = Path(tempfile.mkdtemp())
            try:
                kills[name] += victim(seeds.randrange(2**31), folder)
            except AssertionError as error:
                print(f"FOUND {name}: {error}; files in {folder}", flush=True)
                return 1
            shutil.rmtree(folder)
    print(f"{sum(kills.values())} kills ({dict(kills)}): every run ended with the bits of one that was not interrupted")
    return 0


if __name__ == "__main__":
    sys.exit(main())
