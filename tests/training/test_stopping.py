"""fit: callbacks, and when it stops: divergence, Ctrl-C, a callback's word."""

import signal
import threading

import pytest
import torch
from training.cases import QUICK, net64

from hrta_ext.network.module import TwoLayerNet
from hrta_ext.training.fit import CHECK_EVERY, fit
from hrta_ext.training.results import StepInfo


def test_callback_sees_every_step_after_its_update(data) -> None:
    x, y = data
    net, seen, weights = net64(), [], []

    def note(info: StepInfo) -> bool:
        seen.append((info.step, info.stage, info.s, info.total_steps, info.net.s.item(), info.loss))
        weights.append(info.net.weight.detach().clone())
        return True  # a returned value means nothing: tqdm's update() returns one, too

    result = fit(net, x, y, **QUICK, callbacks=[note])
    assert [entry[:5] for entry in seen] == [
        (step, int(step >= 4), s, 10, s) for step, s in enumerate([0.5] * 4 + [1.5] * 6)
    ]
    assert [entry[5] for entry in seen] == result.loss.tolist()
    assert torch.equal(weights[-1], net.weight)
    assert not torch.equal(weights[0], net64().weight)


def test_callback_stops_by_stop_iteration_with_the_s_of_its_stage(data) -> None:
    x, y = data
    net = net64()

    def stop(info: StepInfo) -> None:
        if info.step == 3:  # the last step of stage 0
            raise StopIteration

    result = fit(net, x, y, **QUICK, callbacks=[stop])
    assert result.stop_reason == "callback"
    assert result.loss.shape == result.s.shape == (4,)
    assert net.s.item() == 0.5


@pytest.mark.parametrize("engine", ["auto", "torch"])
def test_callback_with_every_is_called_after_so_many_steps_and_the_last(data, engine) -> None:
    class Every:
        every = 7

        def __init__(self) -> None:
            self.steps: list[int] = []

        def __call__(self, info: StepInfo) -> None:
            self.steps.append(info.step)
            losses.append(info.loss)

    losses: list[float] = []
    seldom, always = Every(), []
    fit(net64(), *data, s=1.0, steps=24, engine=engine, callbacks=[seldom, lambda info: always.append(info.step)])
    assert seldom.steps == [6, 13, 20, 23]
    assert always == list(range(24))
    alone = Every()
    losses.clear()
    result = fit(net64(), *data, s=(0.5, 1.0), steps=(9, 15), engine=engine, callbacks=[alone])
    assert alone.steps == [6, 13, 20, 23]
    assert losses == result.loss[alone.steps].tolist()


def test_error_in_a_callback_reaches_the_caller(data) -> None:
    with pytest.raises(ZeroDivisionError):
        fit(net64(), *data, **QUICK, callbacks=[lambda info: 1 / 0])


def test_divergence_stops_within_the_stated_steps(data) -> None:
    result = fit(net64(), *data, s=0.5, steps=1000, optimizer="gd", lr=1e6)
    assert result.stop_reason == "diverged"
    first = int((~result.loss.isfinite()).nonzero()[0])
    assert first < result.loss.numel() <= first + CHECK_EVERY
    assert result.s.shape == result.loss.shape


def test_a_last_update_that_breaks_the_weights_is_called_divergence(data) -> None:
    x, y = (value.float() for value in data)
    factors = (1e-6, 1e-6, 3e38)
    result = fit(
        TwoLayerNet(1, 5, seed=0), x, 1e3 * y, s=1.0, steps=3, optimizer="gd", lr=1.0, lr_schedule=factors.__getitem__
    )
    assert result.loss.isfinite().all()
    assert result.stop_reason == "diverged"


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_ends_after_a_whole_step(data) -> None:
    before = signal.getsignal(signal.SIGINT)
    short, long = net64(), net64()

    def press(info: StepInfo) -> None:
        if info.step == 6:
            signal.raise_signal(signal.SIGINT)

    result = fit(short, *data, s=1.0, steps=50, callbacks=[press])
    assert result.stop_reason == "interrupted"
    assert result.loss.shape == (7,)
    fit(long, *data, s=1.0, steps=7)
    assert torch.equal(short.weight, long.weight)
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.usefixtures("ctrl_c")
def test_a_second_ctrl_c_raises_at_once(data) -> None:
    before = signal.getsignal(signal.SIGINT)

    def press_twice(info: StepInfo) -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        fit(net64(), *data, **QUICK, callbacks=[press_twice])
    assert signal.getsignal(signal.SIGINT) is before


def test_a_handler_of_the_users_own_stays_in_charge(data) -> None:
    caught = []
    before = signal.signal(signal.SIGINT, lambda *_: caught.append(True))
    try:
        result = fit(net64(), *data, **QUICK, callbacks=[lambda info: signal.raise_signal(signal.SIGINT)])
    finally:
        signal.signal(signal.SIGINT, before)
    assert result.stop_reason == "finished"
    assert len(caught) == 10


def test_a_run_stopped_early_holds_the_s_of_its_own_steps_alone(data) -> None:
    """steps may be a number never to be reached, with a callback that decides."""

    def stop(info) -> None:
        if info.step == 14:
            raise StopIteration

    result = fit(net64(), *data, s=(0.5, 1.0, 1.5), steps=(4, 10, 10**7), callbacks=[stop])
    assert result.s.tolist() == [0.5] * 4 + [1.0] * 10 + [1.5]
    bytes_held = result.s.untyped_storage().nbytes()
    assert bytes_held == 8 * 15


def test_fit_works_in_a_thread(data) -> None:
    results = []
    thread = threading.Thread(target=lambda: results.append(fit(net64(), *data, **QUICK)))
    thread.start()
    thread.join()
    assert results[0].stop_reason == "finished"
