"""What ends a training on one rank ends it on all, at the same step; what differs between ranks is found before."""

from __future__ import annotations

import contextlib
import io
import os
import re
import signal
from collections.abc import Callable
from typing import Any

import pytest
import torch
from distributed.ranks import on_ranks
from torch import nn

import hrta_ext as hx
from hrta_ext.training import native

RANKS = 3
X = torch.linspace(-1.0, 1.0, 12)[:, None]
Y = torch.sin(3.0 * X[:, 0])


def rank() -> int:
    return int(os.environ["RANK"])


def net(width: int = 7, **options: Any) -> hx.TwoLayerNet:
    return hx.TwoLayerNet(1, width, seed=3, group="world", **options)


def said(call: Callable[[], Any]) -> str:
    """Type and words of what a call raises, or why its training stopped and after how many steps."""
    try:
        result = call()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return f"{result.stop_reason} after {result.loss.numel()}"


def at(step: int, of_rank: int, act: Callable[[], Any], every: int = 1) -> Callable[[hx.StepInfo], None]:
    """A callback that acts on one rank after one step."""

    def callback(info: hx.StepInfo) -> None:
        if info.step == step and rank() == of_rank:
            act()

    callback.every = every
    return callback


def stop() -> None:
    raise StopIteration


def fail() -> None:
    raise KeyError("gone")


def fail_in_bytes() -> None:
    raise OSError("caf\udce9")


def trained(*callbacks: Any, x: Any = X, y: Any = Y, module: Any = None, **options: Any) -> str:
    options = {"s": 1.0, "steps": 40, "lr": 1e-2, **options}
    return said(lambda: hx.fit(net() if module is None else module, x, y, callbacks=callbacks, **options))


def fails_in_native_code() -> str:
    """Rank 1's third native call raises; it is put back for the checks that follow."""
    queue, calls = native.queue, []

    def broken(*arguments: Any) -> None:
        calls.append(1)
        if rank() == 1 and len(calls) == 3:
            raise MemoryError("no room")
        queue(*arguments)

    native.queue = broken
    try:
        return trained()
    finally:
        native.queue = queue


def lines() -> str:
    with contextlib.redirect_stderr(io.StringIO()) as stream:
        trained(progress=True)
    return stream.getvalue()


def wrapped() -> str:
    return said(lambda: nn.parallel.DistributedDataParallel(net()))


def checks() -> dict[str, Any]:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    torch.set_default_dtype(torch.float32)
    me = rank()
    return {
        "callback": [trained(at(6, 1, stop), engine=engine) for engine in ("fused", "torch")],
        "error": [trained(at(6, 2, fail), engine=engine) for engine in ("fused", "torch")],
        "bytes": trained(at(6, 2, fail_in_bytes)).encode(errors="backslashreplace").decode(),
        "seldom": trained(at(19, 1, stop, every=10)),
        "signals": [
            trained(at(4, 0, lambda number=number: os.kill(os.getpid(), number)))
            for number in (signal.SIGTERM, signal.SIGINT)
        ],
        "native": fails_in_native_code(),
        "diverged": [trained(lr=1e30, optimizer="sgd", engine=engine) for engine in ("fused", "torch")],
        "y": trained(y=Y + me),
        "lr": trained(lr=1e-2 + (me == 2)),
        "every": trained(at(0, 0, stop, every=1 + me)),
        "dtype": trained(y=Y.double() if me == 1 else Y),
        "seed": said(lambda: hx.TwoLayerNet(1, 7, seed=me, group="world")),
        "draw": said(lambda: net(draw="generator")),
        "optimizer": trained(optimizer=torch.optim.LBFGS),
        "inside": trained(module=nn.Sequential(net())),
        "ddp": wrapped(),
        "lines": lines(),
        "last": trained(),
    }


@pytest.fixture(scope="module")
def answers() -> list[dict[str, Any]]:
    """What each rank says to every check, one after the other: after each of them the ranks are together again."""
    return on_ranks(RANKS, checks)


def test_one_rank_stops_all(answers: list[dict[str, Any]]):
    """A callback's StopIteration, Ctrl-C and torchrun's SIGTERM on one rank."""
    for answer in answers:
        assert answer["callback"] == ["callback after 7"] * 2
        assert answer["seldom"] == "callback after 20"
        assert answer["signals"] == ["interrupted after 5"] * 2
        assert answer["last"] == "finished after 40"


def test_an_error_of_one_rank_is_told_to_all(answers: list[dict[str, Any]]):
    """The rank itself raises what it met, the others name it: of a callback, of native code, in any characters."""
    told = "RankError: fit: rank {} stopped with {}"
    for number, answer in enumerate(answers):
        gone, strange = "KeyError: 'gone'", r"OSError: caf\udce9"
        assert answer["error"] == [gone if number == 2 else told.format(2, gone)] * 2
        assert answer["bytes"] == (strange if number == 2 else told.format(2, strange))
        own = "MemoryError: no room"
        assert answer["native"] == (own if number == 1 else told.format(1, own))


def test_a_loss_that_diverges_stops_all(answers: list[dict[str, Any]]):
    """At the same step on every rank, for both engines."""
    assert answers[0]["diverged"][0].startswith("diverged after ")
    for answer in answers:
        assert answer["diverged"] == answers[0]["diverged"]


def test_differences_between_ranks_are_found(answers: list[dict[str, Any]]):
    """Before any step, and named."""
    for answer in answers:
        assert re.fullmatch(r"ValueError: fit: y must be the same on every rank, got .* on rank 0 and .*", answer["y"])
        assert re.fullmatch(r"ValueError: fit: lr must be the same on every rank, got 0.01 on rank 0 .*", answer["lr"])
        assert answer["every"] == (
            "ValueError: fit: callbacks' every must be the same on every rank, got [1] on rank 0 and [2] on rank 1"
        )
        assert answer["seed"] == (
            "ValueError: TwoLayerNet: seed must be the same on every rank, got 0 on rank 0 and 1 on rank 1"
        )
        assert "must have the dtype of the network" in answer["dtype"]


def test_what_cannot_be_divided_is_refused(answers: list[dict[str, Any]]):
    """An optimizer that looks at all parameters, a network within another, torch's data parallelism."""
    for answer in answers:
        assert "must update every number by itself" in answer["optimizer"]
        assert "net must be the TwoLayerNet with group= itself, got a Sequential around it" in answer["inside"]
        assert answer["ddp"].startswith("ValueError: DistributedDataParallel: a TwoLayerNet with group=")
        assert 'draw must be "counter" with group' in answer["draw"]


def test_progress_is_that_of_rank_0(answers: list[dict[str, Any]]):
    """Ten lines there, none elsewhere."""
    assert answers[0]["lines"].count("\n") == 10
    assert [answer["lines"] for answer in answers[1:]] == ["", ""]
