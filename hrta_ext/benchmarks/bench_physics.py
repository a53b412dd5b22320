"""One training step of a PINN: hx.fit beside DeepXDE, the same problem, points, width, optimizer and number of steps.

-Laplace u = 2 pi^2 sin(pi x) sin(pi y) on the unit square, u = 0 on its boundary, tanh, one hidden layer, the mean
square of the residual and of the values on the boundary, Adam. DeepXDE (pip install deepxde, its PyTorch backend)
differentiates by autograd, n x m at a time. Times are medians of interleaved rounds (timing.py), a call of several
steps; memory is the growth of the largest resident set in a process of its own. With --error nothing is timed: both
sides train to the end, and their errors against the solution are compared, at the best of the same learning rates.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import math
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import hrta_ext as hx
from hrta_ext.benchmarks.timing import (
    QUICK,
    Budget,
    Effort,
    argument_parser,
    environment,
    format_seconds,
    format_table,
    json_path,
    measure,
    parsed,
    print_heading,
    save,
)

OURS, PEER = "hx.fit", "DeepXDE"
BOUNDARY = 128
RATES = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
TUNING_SEEDS, SEEDS = (100, 101), range(5)


@dataclass(frozen=True)
class Case:
    """``steps`` of one timed call, ours and theirs."""

    n: int
    width: int
    dtype: str
    steps: int
    peer_steps: int
    goal: float

    @property
    def name(self) -> str:
        """For the table."""
        return f"n = {self.n}, m = {self.width}, {self.dtype}"


CASES = [
    Case(1000, 1000, "float32", 100, 10, 20),
    Case(1000, 1000, "float64", 100, 10, 20),
    Case(10_000, 1000, "float32", 20, 2, 20),
    Case(10_000, 1000, "float64", 20, 2, 20),
    Case(1000, 100_000, "float32", 4, 1, 50),
    Case(1000, 100_000, "float64", 4, 1, 50),
]
OF_ERRORS = Case(128, 1000, "float32", 1, 1, 0)


def source(x: Tensor) -> Tensor:
    """f, (n,)."""
    return 2 * math.pi**2 * torch.sin(math.pi * x).prod(1)


def point_sets(case: Case) -> tuple[Tensor, Tensor]:
    """Of the interior and of the boundary."""
    square, dtype = hx.Box([0.0, 0.0], [1.0, 1.0]), getattr(torch, case.dtype)
    return square.sample(case.n).to(dtype), square.sample_boundary(BOUNDARY).to(dtype)


def train_ours(case: Case, seed: int = 0) -> tuple[Callable[[int, float], object], hx.TwoLayerNet]:
    """A function that trains so many steps, and its network."""
    interior, boundary = point_sets(case)
    terms = [
        hx.Term(interior, lambda u, x: (u.second + source(x)) ** 2, second="laplacian", name="equation"),
        hx.Term(boundary, lambda u, x: u.value**2, second=None, name="boundary"),
    ]
    net = hx.TwoLayerNet(2, case.width, base="tanh", seed=seed).to(interior.dtype)

    def train(steps: int, lr: float) -> object:
        return hx.fit(net, loss=terms, s=1.0, steps=steps, lr=lr, lr_schedule="cosine" if steps > 500 else None)

    return train, net


def train_theirs(case: Case, seed: int = 0) -> tuple[Callable[[int, float], object], Callable[[Tensor], Tensor]]:
    """As ``train_ours``, by DeepXDE, in the NTK parametrisation's place its own (Glorot); and its prediction."""
    os.environ["DDE_BACKEND"] = "pytorch"
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        import deepxde as dde
    dde.config.set_default_float(case.dtype)
    dde.config.set_random_seed(seed)
    interior, boundary = (points.double().numpy() for points in point_sets(case))

    def equation(x: Tensor, u: Tensor) -> Tensor:
        return dde.grad.hessian(u, x, i=0, j=0) + dde.grad.hessian(u, x, i=1, j=1) + source(x)[:, None]

    shape = dde.geometry.Rectangle([0, 0], [1, 1])
    condition = dde.icbc.PointSetBC(boundary, 0.0)
    data = dde.data.PDE(shape, equation, condition, num_domain=0, num_boundary=0, anchors=interior)
    model = dde.Model(data, dde.nn.FNN([2, case.width, 1], "tanh", "Glorot normal"))
    compiled: list[float] = []

    def train(steps: int, lr: float) -> object:
        with contextlib.redirect_stdout(io.StringIO()):
            if compiled != [lr]:
                decay = ("lambda", lambda step: 0.5 + 0.5 * math.cos(math.pi * step / steps)) if steps > 500 else None
                model.compile("adam", lr=lr, decay=decay, verbose=0)
                compiled[:] = [lr]
            return model.train(iterations=steps, display_every=10**9, verbose=0)

    return train, lambda x: torch.as_tensor(model.predict(x.double().numpy()))[:, 0]


def calls_of(case: Case) -> dict[str, Callable[[], object]]:
    """What is timed."""
    ours, theirs = train_ours(case)[0], train_theirs(case)[0]
    return {OURS: lambda: ours(case.steps, 1e-3), PEER: lambda: theirs(case.peer_steps, 1e-3)}


def grown_memory(case: Case, side: str, threads: int) -> float:
    """Bytes by which the largest resident set grows in the first steps, in a process of its own."""
    command = [sys.executable, __file__, "--memory-of", side, json.dumps([case.n, case.width, case.dtype])]
    done = subprocess.run([*command, "--threads", str(threads)], check=True, capture_output=True, text=True)
    return float(done.stdout.split()[-1])


def report_memory(side: str, described: str) -> None:
    """What the process of ``grown_memory`` prints."""
    n, width, dtype = json.loads(described)
    case = Case(n, width, dtype, 1, 1, 0)
    train = (train_ours if side == OURS else train_theirs)(case)[0]
    small = Case(16, 16, dtype, 1, 1, 0)
    (train_ours if side == OURS else train_theirs)(small)[0](1, 1e-3)  # what the first call loads
    before = _largest_resident_set()
    train(2, 1e-3)
    print(_largest_resident_set() - before)


def _largest_resident_set() -> int:
    """In bytes; of this process alone, where getrusage knows that of its parent too. 0 where Linux's /proc is not."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def errors(case: Case, steps: int) -> dict[str, Any]:
    """Relative L2 errors of both sides, each at the rate with the lower median over the tuning seeds."""
    square = hx.Box([0.0, 0.0], [1.0, 1.0])
    x = square.sample(2000, method="sobol", seed=7).to(getattr(torch, case.dtype))
    exact = torch.sin(math.pi * x).prod(1)

    def error(side: str, lr: float, seed: int) -> float:
        train, predict = (train_ours if side == OURS else train_theirs)(case, seed)
        train(steps, lr)
        with torch.no_grad():
            found = float((predict(x).double() - exact.double()).norm() / exact.double().norm())
        print(f"{side}, lr {lr:g}, seed {seed}: {found:.1e}", file=sys.stderr)
        return found if math.isfinite(found) else math.inf  # diverged

    sides: dict[str, Any] = {}
    for side in (OURS, PEER):
        tuning = {lr: [error(side, lr, seed) for seed in TUNING_SEEDS] for lr in RATES}
        best = min(RATES, key=lambda lr: statistics.median(tuning[lr]))
        values = [error(side, best, seed) for seed in SEEDS]
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        sides[side] = {
            "lr": best, "median": median, "quartiles": [low, high], "errors": values,
            "tuning": {f"{lr:g}": found for lr, found in tuning.items()},
        }  # fmt: skip
    worse = sides[OURS]["median"] > sides[PEER]["quartiles"][1]
    points = {"interior": case.n, "boundary": BOUNDARY, "width": case.width, "dtype": case.dtype}
    return {**points, "steps": steps, "sides": sides, "not worse": not worse}


def report_errors(steps: int, info: dict[str, Any], out: Path | None) -> None:
    """Print and save them."""
    found = errors(OF_ERRORS, steps)
    for side, values in found["sides"].items():
        low, high = values["quartiles"]
        print(f"{side}: relative L2 error {values['median']:.1e} ({low:.1e} to {high:.1e}), lr {values['lr']:g}")
    print(f"ours is {'not ' if found['not worse'] else ''}worse beyond the quartiles")
    if out:
        save(json_path(out, "physics_error", "cpu"), "physics_error", info, **found)


def main() -> None:
    """Times, memory, and if asked for errors."""
    parser = argument_parser(__doc__, "physics", "few short rounds, width 1000 alone")
    parser.add_argument("--error", action="store_true", help="compare errors in place of times: physics_error.json")
    parser.add_argument("--error-steps", type=int, default=600)
    parser.add_argument("--memory-of", nargs=2, help=argparse.SUPPRESS)
    arguments = parsed(parser)
    if arguments.memory_of:
        report_memory(*arguments.memory_of)
        return
    try:
        import deepxde  # noqa: F401
    except ModuleNotFoundError:
        parser.error("DeepXDE is not installed: pip install deepxde")
    info = environment(arguments.device)
    print_heading(info)
    if arguments.error:
        report_errors(arguments.error_steps, info, arguments.out)
        return
    cases = CASES[:2] if arguments.quick else CASES
    budget, rows, saved = Budget(arguments.budget), [], []
    for number, case in enumerate(cases):
        if budget.used_up:
            print(f"left out from {case.name} on: {budget.used_up}")
            break
        print(f"[{number + 1}/{len(cases)}] {case.name}", file=sys.stderr)
        effort = QUICK if arguments.quick else budget.share(Effort(rounds=7, sample_seconds=0.0), len(cases) - number)
        times = measure(calls_of(case), effort)
        mine = [s / case.steps for s in times[OURS].seconds]
        peer = [s / case.peer_steps for s in times[PEER].seconds]
        ratio = statistics.median(p / m for p, m in zip(peer, mine, strict=True))
        memory = {side: grown_memory(case, side, arguments.threads) for side in (OURS, PEER)}
        of_times = [format_seconds(statistics.median(seconds)) for seconds in (mine, peer)]
        of_goal = [f"{ratio:.1f}", f">= {case.goal:g}", "yes" if ratio >= case.goal else "NO"]
        rows.append([case.name, *of_times, *of_goal, *(f"{grown / 2**20:.0f} MiB" for grown in memory.values())])
        saved.append({"case": vars(case), "ours": mine, "deepxde": peer, "ratio": ratio, "memory": memory})
    columns = ("a step", OURS, PEER, "ratio", "goal", "met?", "memory", "DeepXDE's")
    print(format_table(columns, rows, left=1))
    if arguments.out:
        save(json_path(arguments.out, "physics", arguments.device), "physics", info, cases=saved)


if __name__ == "__main__":
    main()
