"""Training by arcs on a GPU (csrc/training/cuda/arcs.h): its kernels compiled as C++ and run thread by thread
(tests/emulation), and the same promises through ``fit`` where there is a GPU.

The reference is torch's optimizers on the dense n x m formula in float64. Emulation shows that indices, bounds,
barriers and sums are right; neither speed nor what only a GPU does (memory order, its own rounding).
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from emulated import Guarded, address, emulated
from torch import Tensor
from torch.optim import SGD, Adam

from hrta_ext.compiled import KINDS
from hrta_ext.network.module import TwoLayerNet
from hrta_ext.training.fit import fit

PERSISTENT, SWEEP, NEITHER = 1, 2, 0
AS_CHOSEN = -1  # by the way that serves, csrc/training/cuda/trainer.cu
FORMS = {1: torch.float32, 2: torch.float32, 3: torch.float64}  # of the persistent kernel, for cards with many blocks
# Of losses and weights after 20 steps against float64: rounding in the weights' dtype.
TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-10}
SMALL_CARD = {"persistent": 0, "sweep": 1}  # multiprocessors; one block is not enough for the networks here


@pytest.fixture(scope="module")
def kernels() -> Any:
    loaded = emulated("arc_training.cpp")
    loaded.arc_train.restype = ctypes.c_int64
    return loaded


def circle(n: int, dtype: torch.dtype, ties: bool = False) -> tuple[Tensor, Tensor]:
    """Samples all round, one of them zero, some twice, some opposite; or of small integers. And y."""
    generator = torch.Generator().manual_seed(n)
    x = torch.randn(n, 2, generator=generator, dtype=torch.float64)
    if ties:
        x = torch.randint(-3, 4, (n, 2), generator=generator).double()
    if n > 6:
        x[0] = 0.0
        x[1], x[2] = x[3], -x[4]
    return x.to(dtype), torch.sin(3.0 * x.sum(1)).to(dtype)


def dense_steps(
    start: list[Tensor], x: Tensor, y: Tensor, steps: int, optimizer: Any, s: Tensor, c: Tensor | None = None
) -> tuple[Tensor, list[Tensor]]:
    """Losses and weights of so many steps from ``start``, by torch in float64; ``optimizer`` makes one of weights."""
    weight, output = (t.detach().double().clone().requires_grad_() for t in start)
    x, y = x.double(), y.double()
    c = torch.ones_like(y) if c is None else c.double()
    rule, losses = optimizer([weight, output]), []
    for step in range(steps):
        z = x @ weight.T
        f = (torch.where(z > 0, 1.0, 1.0 - s[step]) * z) @ output / len(output) ** 0.5
        loss = (c * (f - y) ** 2).sum() / (2 * len(y))
        rule.zero_grad()
        loss.backward()
        rule.step()
        losses.append(loss.detach())
    return torch.stack(losses), [weight.detach(), output.detach()]


@dataclass
class Run:
    """A network in training: its tensors lie between guards, ``off`` elements beside the 16-byte grid."""

    x: Tensor
    y: Tensor
    m: int
    rule: str = "adam"  # or SGD's momentum
    s: float = 1.5
    drift: float = 0.01  # of s, in a step
    lr: float = 1e-2
    sample_weight: Tensor | None = None
    off: int = 0
    taken: int = 0
    guarded: list[Guarded] = field(default_factory=list)
    way: int = 0

    def __post_init__(self) -> None:
        generator = torch.Generator().manual_seed(self.m)
        for at, shape in enumerate([(self.m, 2), (self.m,)] * 3):
            tensor = Guarded(shape, self.x.dtype, self.off)
            start = torch.randn(shape, generator=generator, dtype=torch.float64) if at < 2 else torch.zeros(shape)
            tensor.result.copy_(start)
            self.guarded.append(tensor)

    @property
    def adam(self) -> bool:
        return self.rule == "adam"

    @property
    def tensors(self) -> list[Tensor]:
        """Weights, output weights, and the moments of both as far as the rule has them."""
        count = 6 if self.adam else 2 if self.rule == "0" else 4
        return [tensor.result for tensor in self.guarded[:count]]

    def train(self, kernels: Any, *cuts: int, form: int = 0, rates: Tensor | None = None) -> Tensor:
        """So many steps a call; the losses. Scratch memory and f are NaN before each call."""
        losses = []
        for steps in cuts:
            moments = [None if i >= len(self.tensors) else address(self.tensors[i]) for i in range(2, 6)]
            f = Guarded((len(self.y),), torch.float64)
            given = (self.x, self.y, self.sample_weight, *self.tensors[:2])
            memory = (ctypes.c_void_p * 10)(*map(address, given), *moments, address(f.result))
            beta1, beta2 = (0.9, 0.999) if self.adam else (float(self.rule), 0.0)
            numbers = torch.tensor([beta1, beta2, 1e-8], dtype=torch.float64)
            sizes = torch.tensor([len(self.y), self.m, self.taken])
            lr = torch.full((steps,), self.lr, dtype=torch.float64) if rates is None else rates
            s = self.path(steps)
            loss, done = Guarded((steps,), torch.float64), torch.tensor(-1)
            fixed = [KINDS[self.x.dtype], int(self.adam), form, address(sizes), memory, address(numbers)]
            fixed += [ctypes.c_int64(steps), address(lr), address(s), address(loss.result), address(done)]
            size = kernels.arc_train(*fixed, None)
            scratch = Guarded((size // 8 + 1,), torch.float64, off=1)
            self.way = kernels.arc_train(*fixed, address(scratch.result))
            scratch.checked()
            for tensor in (*self.guarded, f, loss):
                tensor.checked()
            self.f, self.done = f.result, int(done)
            losses.append(loss.result[: self.done or steps])
            self.taken += steps
            if self.done:
                break
        return torch.cat(losses)

    def path(self, steps: int) -> Tensor:
        """s of so many steps and of the outputs after them."""
        return self.s + self.drift * torch.arange(self.taken, self.taken + steps + 1, dtype=torch.float64)

    def dense(self, steps: int) -> tuple[Tensor, list[Tensor]]:
        """What the same steps should give, before this run's own."""
        make = partial(Adam, lr=self.lr) if self.adam else partial(SGD, lr=self.lr, momentum=float(self.rule))
        return dense_steps(self.tensors[:2], self.x, self.y, steps, make, self.path(steps), self.sample_weight)


def assert_near(ours: Tensor, exact: Tensor, dtype: torch.dtype) -> None:
    scale = exact.abs().max().item()
    torch.testing.assert_close(ours.double(), exact, rtol=0.0, atol=TOLERANCE[dtype] * scale)


def check(kernels: Any, run: Run, steps: int = 20, form: int = 0) -> None:
    losses, weights = run.dense(steps)
    assert_near(run.train(kernels, steps, form=form), losses, run.x.dtype)
    for ours, exact in zip(run.tensors, weights, strict=False):
        assert_near(ours, exact, run.x.dtype)


@pytest.fixture(params=SMALL_CARD)
def way(kernels: Any, request: pytest.FixtureRequest) -> Any:
    """Both forms on the same small shapes: on a card with one multiprocessor, the second."""
    kernels.limit_devices(SMALL_CARD[request.param], 0)
    yield {"persistent": PERSISTENT, "sweep": SWEEP}[request.param]
    kernels.limit_devices(0, 0)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("rule", ["adam", "0", "0.9"])
@pytest.mark.parametrize("weights", [False, True])
def test_steps_are_those_of_torch_on_the_dense_formula(
    kernels: Any, way: int, dtype: torch.dtype, rule: str, weights: bool
) -> None:
    """Two or three blocks, the last not full; with weights, in memory on no 16-byte grid."""
    sample_weight = torch.linspace(0, 2, 23).to(dtype) if weights else None
    run = Run(*circle(23, dtype), 2077, rule, sample_weight=sample_weight, off=int(weights))
    check(kernels, run)
    assert run.way == way


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize(("n", "m"), [(1, 1), (2, 63), (7, 1024), (129, 1025), (513, 1030), (1023, 40)])
def test_ragged_sizes(kernels: Any, dtype: torch.dtype, n: int, m: int) -> None:
    """Against 32 lanes, 512 and 1024 threads, and arcs that fill a block's; the threads in both orders."""
    check(kernels, Run(*circle(n, dtype), m), steps=5)
    kernels.run_backwards(1)
    check(kernels, Run(*circle(n, dtype), m), steps=2)
    kernels.run_backwards(0)


@pytest.mark.parametrize("form", FORMS)
def test_forms_for_many_neurons(kernels: Any, form: int) -> None:
    """The persistent kernel with more neurons, samples and arcs of a thread, for wide networks on large cards."""
    for n, m in ((5, 30), (600 if form > 1 else 400, 4100)):
        check(kernels, Run(*circle(n, FORMS[form]), m), steps=4, form=form)


@pytest.mark.parametrize(("n", "m"), [(1024, 70), (3, 132 * 2048 + 3 * 2048 + 5)])
def test_sweep_where_the_persistent_form_ends(kernels: Any, n: int, m: int) -> None:
    """One sample too many, and more tiles of neurons than shares."""
    run = Run(*circle(n, torch.float32), m, lr=1e-3)
    check(kernels, run, steps=2)
    assert run.way == SWEEP


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("s", [0.0, 1.0, 1.5])
def test_ties_zeros_and_opposite_samples(kernels: Any, way: int, dtype: torch.dtype, s: float) -> None:
    """w . x exactly zero counts as inactive: small integers, rows and neurons of zeros. One step of descent."""
    run = Run(*circle(40, dtype, ties=True), 1100, "0", s=s, lr=0.5)
    run.tensors[0].copy_(torch.randint(-3, 4, (1100, 2), generator=torch.Generator().manual_seed(0)))
    assert (run.x.double() @ run.tensors[0].double().T == 0).double().mean() > 0.05
    losses, weights = run.dense(1)
    assert_near(run.train(kernels, 1), losses, dtype)
    for ours, exact in zip(run.tensors, weights, strict=True):
        torch.testing.assert_close(ours.double(), exact, rtol=0, atol=1e-6 if dtype == torch.float32 else 1e-13)


def test_silent_neurons_do_not_move(kernels: Any, way: int) -> None:
    """What rounding leaves of running sums would be a full step to Adam, whose rule forgets the gradient's size."""
    x = torch.stack([torch.linspace(0, 1, 50, dtype=torch.float64), torch.ones(50, dtype=torch.float64)], 1)
    run = Run(x, 1e12 * torch.sin(6 * x[:, 0]), 1100, s=1.0, drift=0.0, lr=1e-3)
    before = [t.clone() for t in run.tensors[:2]]
    silent = (x @ before[0].T <= 0).all(0)
    assert silent.double().mean() > 0.2
    run.train(kernels, 5)
    for now, start in zip(run.tensors, before, strict=False):
        assert torch.equal(now[silent], start[silent])
        assert not torch.equal(now, start)


def is_beyond_64(run: Run) -> bool:
    """Whether the largest |a w_d| is: there the sums get another unit."""
    return bool((run.tensors[1][:, None] * run.tensors[0]).abs().max() >= 64)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("grows", [True, False])
def test_bits_do_not_depend_on_the_cut_into_calls(kernels: Any, way: int, dtype: torch.dtype, grows: bool) -> None:
    """40 steps, or 13, and 27 after a kill: new scratch memory, f forgotten, tensors on another grid, the threads in
    the opposite order. On the way the largest |a w| grows, or shrinks, beyond a power of 16 at which the sums' unit
    changes: it must come from the weights alone, not from those before."""
    x, y = circle(23, dtype)
    runs = [Run(x, y if grows else 0 * y, 2077, "adam" if grows else "0", lr=1.0, off=off) for off in (0, 1)]
    for run in runs:
        weight, output = run.tensors[:2]
        if grows:
            output.mul_(60.0 / (output[:, None] * weight).abs().max())
        else:  # one neuron that descent makes smaller
            output.mul_(0.1)
            weight[5], output[5] = torch.tensor([4.0, 1.0]), 16.08
    assert is_beyond_64(runs[0]) != grows
    whole = runs[0].train(kernels, 40)
    kernels.run_backwards(1)
    parts = [runs[1].train(kernels, 13)]
    assert is_beyond_64(runs[1]) == grows
    parts.append(runs[1].train(kernels, 27))
    kernels.run_backwards(0)
    cut = torch.cat(parts)
    assert whole.isfinite().all()
    assert torch.equal(cut, whole)
    assert torch.equal(runs[1].f, runs[0].f)
    assert all(torch.equal(a, b) for a, b in zip(runs[0].tensors, runs[1].tensors, strict=True))


def test_rates_and_bias_correction_of_every_step(kernels: Any, way: int) -> None:
    """A schedule in one call is that of single steps."""
    x, y = circle(9, torch.float64)
    rates = torch.logspace(-1, -4, 6, dtype=torch.float64)
    runs = [Run(x, y, 1100) for _ in range(2)]
    whole = runs[0].train(kernels, 6, rates=rates)
    single = torch.cat([runs[1].train(kernels, 1, rates=rate) for rate in rates.split(1)])
    assert torch.equal(single, whole)
    assert torch.equal(runs[1].tensors[0], runs[0].tensors[0])


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("where", ["weight", "output_weight", "x", "y"])
def test_what_is_not_finite_stops_before_the_first_update(kernels: Any, way: int, where: str, value: float) -> None:
    """Its loss is the only one, and everything stays as it was."""
    run = Run(*circle(23, torch.float32), 1100)
    {"weight": run.tensors[0], "output_weight": run.tensors[1], "x": run.x, "y": run.y[:, None]}[where][7, ...] = value
    before = [t.clone() for t in run.tensors]
    loss = run.train(kernels, 4)
    assert (loss.numel(), run.done) == (1, 1)
    assert not loss.isfinite()
    torch.testing.assert_close(run.tensors, before, rtol=0, atol=0, equal_nan=True)


def test_squares_beyond_float32(kernels: Any) -> None:
    """Adam divides by an infinite root: nobody moves, and the steps go on. torch does the same."""
    x, y = circle(9, torch.float32)
    run = Run(1.0 + x.abs(), 1e25 * (2.0 + y), 40, s=0.5)
    before = [t.clone() for t in run.tensors[:2]]
    losses = run.train(kernels, 3)
    assert losses.numel() == 3
    assert losses.isfinite().all()
    assert run.tensors[4].isinf().all()
    torch.testing.assert_close(run.tensors[:2], before, rtol=0, atol=0)


def test_a_loss_that_is_not_finite_stops_the_steps(kernels: Any, way: int) -> None:
    """It is the last one, and what is left are the weights at which it was found."""
    runs = [Run(*circle(23, torch.float32), 1100, "0.9", lr=1e4) for _ in range(2)]
    losses = runs[0].train(kernels, 200)
    assert 1 < losses.numel() < 200
    assert losses[:-1].isfinite().all()
    assert not losses[-1].isfinite()
    runs[1].train(kernels, losses.numel() - 1)
    torch.testing.assert_close(runs[0].tensors, runs[1].tensors, rtol=0, atol=0, equal_nan=True)


def test_what_does_not_fit_the_card_takes_the_next_way(kernels: Any) -> None:
    """Two blocks on one multiprocessor, or little shared memory: sweeps, with fewer copies of the bins where there is
    less, to the same bits. Without room for any: launches. Never an error."""

    def run(multiprocessors: int, shared: int) -> tuple[int, Tensor, Tensor]:
        run = Run(*circle(300, torch.float32), 2077, lr=1e-3)
        kernels.limit_devices(multiprocessors, shared)
        try:
            losses = run.train(kernels, 3, form=AS_CHOSEN)
        finally:
            kernels.limit_devices(0, 0)
        return run.way, losses, run.tensors[0]

    exact, _ = Run(*circle(300, torch.float32), 2077, lr=1e-3).dense(3)
    runs = [run(0, 0), run(1, 0), run(0, 50_000), run(0, 30_000), run(0, 20_000)]
    assert [way for way, _, _ in runs] == [PERSISTENT, SWEEP, SWEEP, SWEEP, NEITHER]
    for _, losses, _ in runs:
        assert_near(losses, exact, torch.float32)
    for _, losses, weight in runs[2:4]:
        assert torch.equal(losses, runs[1][1])
        assert torch.equal(weight, runs[1][2])


def test_quick_roots_and_quotients(kernels: Any) -> None:
    """An ulp each from the exact ones, though the instruction that they begin with is off by 2^-22; 0 for subnormal
    squares."""
    generator = torch.Generator().manual_seed(0)
    x, y = (2.0 ** (200 * torch.rand(100_000, generator=generator) - 100) for _ in range(2))
    root, quotient = torch.empty_like(x), torch.empty_like(x)
    kernels.quick_operations(ctypes.c_int64(x.numel()), *map(address, (x, y, root, quotient)))
    epsilon = 2.0**-23
    torch.testing.assert_close(root.double(), x.double().sqrt(), rtol=epsilon, atol=0)
    exact = x.double() / y.double()
    usual = (exact > 2.0**-120) & (exact < 2.0**120)
    torch.testing.assert_close(quotient.double()[usual], exact[usual], rtol=epsilon, atol=0)
    tiny = torch.tensor([1e-40, 0.0])
    kernels.quick_operations(ctypes.c_int64(2), address(tiny), address(y), address(root), address(quotient))
    assert root[:2].tolist() == [0.0, 0.0]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize(("n", "m"), [(500, 5000), (900, 5000), (400, 200_000), (900, 200_000), (500, 300_000)])
def test_fit_on_a_gpu(dtype: torch.dtype, n: int, m: int, tmp_path: Path) -> None:
    """Every form, beyond small networks: 20 steps as torch's in float64; the same bits whole, again, in calls of single
    steps, and stopped after 7 steps and resumed."""
    x, y = (t.cuda() for t in circle(n, dtype))

    def stop(info: Any) -> None:
        if info.step + 1 == 7:
            raise StopIteration

    path = tmp_path / "run.pt"
    fits: list[list[dict[str, Any]]] = [
        [{}], [{}], [{"callbacks": [lambda info: None]}],
        [{"checkpoint": path, "callbacks": [stop]}, {"checkpoint": path, "resume": True}],
    ]  # fmt: skip
    nets = [TwoLayerNet(2, m, bias=False, seed=0).to("cuda", dtype) for _ in fits]
    exact, weights = dense_steps(list(nets[0].parameters()), x, y, 20, partial(Adam, lr=1e-2), torch.full((20,), 1.5))
    results = [
        [fit(net, x, y, s=1.5, steps=20, lr=1e-2, engine="fused", **options) for options in calls][-1]
        for net, calls in zip(nets, fits, strict=True)
    ]
    assert_near(results[0].loss.cpu(), exact.cpu(), dtype)
    for ours, theirs in zip((nets[0].weight, nets[0].output_weight), weights, strict=True):
        assert_near(ours.detach(), theirs, dtype)
    for net, result in zip(nets[1:], results[1:], strict=True):
        assert torch.equal(result.loss, results[0].loss)
        assert all(torch.equal(a, b) for a, b in zip(net.parameters(), nets[0].parameters(), strict=True))
