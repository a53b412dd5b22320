"""What the messages of a step and of a call tell: errors wherever they happen, samples that differ, other calls.

Each check would otherwise leave ranks in a collective until the group's timeout, or end the process within gloo.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist
from distributed.ranks import on_ranks
from torch import nn

import hrta_ext as hx
from hrta_ext import groups

RANKS = 3
X = torch.linspace(-1.0, 1.0, 12)[:, None]
Y = torch.sin(3.0 * X[:, 0])


def rank() -> int:
    return int(os.environ["RANK"])


def said(call: Callable[[], Any]) -> str:
    """Type and words of what a call raises, Ctrl-C and exits too; else what it returns."""
    try:
        return str(call())
    except BaseException as error:
        return f"{type(error).__name__}: {error}"


def net(width: int = 7, *, learns_s: bool = False, base: str = "tanh") -> hx.TwoLayerNet:
    made = hx.TwoLayerNet(1, width, seed=3, base=base, group="world")
    if learns_s:
        del made._buffers["s"]
        made.s = nn.Parameter(torch.tensor(0.9))
    return made


class Fails(torch.autograd.Function):
    """The identity, whose backward pass fails on rank 1 from its third call on."""

    calls = 0

    @staticmethod
    def forward(ctx: Any, value: torch.Tensor) -> torch.Tensor:
        return value.clone()

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
        Fails.calls += 1
        if rank() == 1 and Fails.calls >= 3:
            raise MemoryError("no room")
        return grad


def backward_fails(learns_s: bool) -> str:
    Fails.calls = 0
    return said(lambda: hx.fit(net(learns_s=learns_s), X, loss=lambda u, x: Fails.apply(u.value) ** 2, s=0.9, steps=9))


def loss_fails(learns_s: bool) -> str:
    calls = []

    def loss(u: hx.Jet, x: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        if rank() == 2 and len(calls) == 4:
            raise KeyError("gone")
        return u.value**2

    return said(lambda: hx.fit(net(learns_s=learns_s), X, loss=loss, s=0.9, steps=9))


def draws_differ() -> str:
    """Points that only the third draw of rank 1 has otherwise."""

    def draw(number: int) -> torch.Tensor:
        return X + 0.01 * number + (0.001 if number == 2 and rank() == 1 else 0.0)

    term = hx.Term(draw, lambda u, x: u.value**2, resample=2, second=None)
    return said(lambda: hx.fit(net(), loss=[term], s=1.0, steps=9))


def sampler_fails() -> str:
    def draw(number: int) -> torch.Tensor:
        if number == 3 and rank() == 0:
            raise OSError("gone")
        return X

    return said(lambda: hx.fit(net(), loss=[hx.Term(draw, lambda u, x: u.value**2)], s=1.0, steps=9))


def raised_in_callback(error: BaseException, **options: Any) -> tuple[str, int]:
    """What is said, and after how many steps."""
    seen: list[int] = []

    def callback(info: hx.StepInfo) -> None:
        seen.append(info.step)
        if info.step == 4 and rank() == 1:
            raise error

    return said(lambda: hx.fit(net(base="relu"), X, Y, s=1.0, steps=9, callbacks=[callback], **options)), len(seen)


def samples_change() -> str:
    """A callback that gives one rank other targets between two calls of the fused engine."""
    y = Y.clone()

    def callback(info: hx.StepInfo) -> None:
        if info.step == 4 and rank() == 1:
            y[0] += 1.0

    return said(lambda: hx.fit(net(base="relu"), X, y, s=1.0, steps=9, engine="fused", callbacks=[callback]))


def losses(width: int, watched: bool, **options: Any) -> list[float]:
    callbacks = [lambda info: seen.append(float(info.loss))] if watched else []
    seen: list[float] = []
    result = hx.fit(net(width, base="relu"), X, Y, s=1.0, steps=9, callbacks=callbacks, **options)
    assert not watched or seen == result.loss.tolist()
    return result.loss.tolist()


def messages(steps: int, **options: Any) -> int:
    """How many collectives a training makes on this rank."""
    counted, gather = [], dist.all_gather

    def all_gather(*arguments: Any, **named: Any) -> Any:
        counted.append(1)
        return gather(*arguments, **named)

    dist.all_gather = all_gather
    try:
        hx.fit(net(base="relu"), X, Y, s=1.0, steps=steps, **options)
    finally:
        dist.all_gather = gather
    return len(counted)


def other_calls() -> str:
    made, ranks = net(), groups.ranks_of("world", "hx.other")
    return said(lambda: made(X) if rank() else ranks.texts("unlike the others"))


def checks() -> dict[str, Any]:
    torch.set_default_dtype(torch.float32)
    me, made = rank(), net()
    return {
        "backward": [backward_fails(learns_s) for learns_s in (False, True)],
        "loss": [loss_fails(learns_s) for learns_s in (False, True)],
        "draws": draws_differ(),
        "sampler": sampler_fails(),
        "raised": [
            raised_in_callback(error, engine=engine)
            for error in (KeyboardInterrupt(), SystemExit(3))
            for engine in ("fused", "torch")
        ],
        "changed": samples_change(),
        "losses": [[losses(width, watched) for watched in (False, True)] for width in (7, 4)],
        "messages": [
            [messages(steps, **options) for steps in (10, 20)]
            for options in ({"engine": "fused"}, {"engine": "torch"}, {"batch_size": 5})
        ],
        "rows": said(lambda: made(X[me:])),
        "numbers": said(lambda: made(X + (me == 2))),
        "s": said(lambda: (made.set_s(0.5 + me), made(X))),
        "columns": said(lambda: (made.set_s(1.0), made(torch.ones(3, 1 + (me == 1))))),
        "many": said(lambda: made(torch.linspace(0.0, 1.0, 2000)[:, None]).shape),
        "many rows": said(lambda: made(torch.linspace(0.0, 1.0, 2000 + me)[:, None])),
        "calls": other_calls(),
        "last": said(lambda: made(X).shape),
    }


@pytest.fixture(scope="module")
def answers() -> list[dict[str, Any]]:
    """What each rank says to every check, one after the other: after each of them the ranks are together again."""
    return on_ranks(RANKS, checks)


def told(of_rank: int, number: int, words: str, call: str = "fit") -> str:
    """What rank ``number`` says of an error that ``of_rank`` met."""
    return words if number == of_rank else f"RankError: {call}: rank {of_rank} stopped with {words}"


def test_errors_after_the_outputs_are_told(answers: list[dict[str, Any]]):
    """In a loss of the user's and in a backward pass, with another message in that pass (a learned s) or without."""
    for number, answer in enumerate(answers):
        assert answer["backward"] == [told(1, number, "MemoryError: no room")] * 2
        assert answer["loss"] == [told(2, number, "KeyError: 'gone'")] * 2
        assert answer["sampler"] == told(0, number, "OSError: gone")


def test_ctrl_c_and_exits_within_a_callback_end_all(answers: list[dict[str, Any]]):
    """Raised there, so they are no request to stop: all ranks end after the same step."""
    for number, answer in enumerate(answers):
        for k, words in enumerate(("KeyboardInterrupt: ", "SystemExit: 3")):
            expected = words if number == 1 else told(1, number, words.removesuffix(": "))
            assert answer["raised"][2 * k : 2 * k + 2] == [(expected, 5)] * 2


def test_samples_that_differ_are_found(answers: list[dict[str, Any]]):
    """At the draw where they begin to; targets that a callback changes; in calls of the module; a shape, numbers, s."""
    for answer in answers:
        for name in ("draws", "numbers"):
            assert answer[name].startswith("ValueError: TwoLayerNet: x must be the same on every rank, got ")
        assert answer["changed"].startswith("ValueError: TwoLayerNet: samples must be the same on every rank, got ")
        for name, shapes in (("rows", ((12, 2), (11, 2))), ("many rows", ((2000, 2), (2001, 2)))):
            assert answer[name].startswith("ValueError: TwoLayerNet: x must be the same on every rank, got ")
            assert all(f"of shape {shape}" in answer[name] for shape in shapes)
        assert answer["s"].endswith("s must be the same on every rank, got 0.5 on rank 0 and 1.5 on rank 1")
        assert answer["last"] == "torch.Size([12])"
        assert answer["many"] == "torch.Size([2000])"


def test_an_error_of_one_ranks_call_of_the_module_is_told(answers: list[dict[str, Any]]):
    for number, answer in enumerate(answers):
        words = "ValueError: TwoLayerNet: x must have shape (n, 1), got (3, 2)"
        assert answer["columns"] == told(1, number, words, "TwoLayerNet")


def test_ranks_that_make_different_calls_are_told(answers: list[dict[str, Any]]):
    """Where they would take one another's messages for their own."""
    for answer in answers:
        expected = "every rank must make the same calls in the same order, got hx.other on rank 0 and TwoLayerNet on"
        assert expected in answer["calls"]


def test_a_step_is_one_message(answers: list[dict[str, Any]]):
    """Of outputs, losses and status together, on both engines; watching a training leaves its bits alone."""
    for answer in answers:
        for ten, twenty in answer["messages"]:
            assert twenty - ten == 10
        for plain, watched in answer["losses"]:
            assert plain == watched
        assert answer["losses"] == answers[0]["losses"]
