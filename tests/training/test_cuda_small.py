"""Trainings of small networks on a GPU in one launch (csrc/training/cuda/small.cuh): emulated, and on a GPU.

The emulated card (tests/emulation/cuda_runtime.h) has 16 multiprocessors with a block each and clusters of up to 16;
limits make it smaller.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from cases import BASES
from emulated import Guarded, address, emulated
from torch import Tensor
from torch.optim import SGD, Adam

import hrta_ext as hx
from hrta_ext.bases import BASES as NUMBERED
from hrta_ext.compiled import KINDS

RULES = ["adam", "momentum", "descent"]
LR = 1e-2


@pytest.fixture(scope="module")
def library() -> Any:
    return emulated("small.cpp")


@pytest.fixture
def card(library: Any) -> Iterator[Any]:
    """The emulated card at its full size."""
    yield library
    library.limit_devices(0, 0, 0, 0)
    library.run_backwards(0)


@dataclass
class Problem:
    """A network, its samples and its optimizer, float32."""

    n: int
    features: int
    width: int
    base: str = "relu"
    rule: str = "adam"
    s: float = 1.5  # of the first step; 0.01 more in each
    weighted: bool = False
    seed: int = 0
    lr: float = LR
    memory: dict[str, Tensor | None] = field(init=False)
    taken: int = 0

    def __post_init__(self) -> None:
        generator = torch.Generator().manual_seed(self.seed)

        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator)

        x = torch.rand(self.n, self.features, generator=generator)
        x[:, -1] = 1.0
        shapes = ((self.width, self.features), (self.width,))
        moments = {"adam": 2, "momentum": 1, "descent": 0}[self.rule]
        self.memory = {
            "x": x,
            "y": torch.sin(4.0 * x.sum(1)),
            "sample_weight": torch.rand(self.n, generator=generator) if self.weighted else None,
            "gradient_target": None,
            "weight": normal(*shapes[0]),
            "output_weight": normal(*shapes[1]),
        }
        for order in range(2):
            for name, shape in zip(("weight", "output_weight"), shapes, strict=True):
                self.memory[f"{name}_{order}"] = torch.zeros(shape) if order < moments else None
        for name, tensor in list(self.memory.items())[4:]:
            if tensor is not None:  # between guards, and beside the 16-byte grid
                guarded = Guarded(tuple(tensor.shape), torch.float32, off=1)
                guarded.result.copy_(tensor)
                self.memory[name] = guarded.result
                setattr(self, f"_{name}", guarded)
        self.f = Guarded((self.n,), torch.float64)

    def described(self) -> list[Any]:
        sizes = torch.tensor([self.n, self.features, self.width])
        table = (ctypes.c_void_p * len(self.memory))(
            *(None if t is None else t.data_ptr() for t in self.memory.values())
        )
        self.kept = (sizes, table)
        return [KINDS[torch.float32], NUMBERED[self.base].number, int(self.rule == "adam"), address(sizes), table]

    def state(self) -> list[Tensor]:
        """Weights and moments, checked for what was written beside them."""
        return [getattr(self, f"_{name}").checked() for name in list(self.memory)[4:] if self.memory[name] is not None]


def path_of(problem: Problem, steps: int) -> Tensor:
    return problem.s + 0.01 * torch.arange(problem.taken, problem.taken + steps + 1, dtype=torch.float64)


def train(card: Any, problems: Sequence[Problem], *cuts: int) -> list[Tensor]:
    """The losses of each, after so many steps a call."""
    found: list[list[Tensor]] = [[] for _ in problems]
    for steps in cuts:
        card.begin()
        losses = [Guarded((steps,), torch.float64) for _ in problems]
        done = [torch.tensor(-1) for _ in problems]
        kept = []
        for problem, loss, count in zip(problems, losses, done, strict=True):
            betas = {"adam": (0.9, 0.999), "momentum": (0.9, 0.0), "descent": (0.0, 0.0)}[problem.rule]
            numbers = torch.tensor([*betas, 1e-8], dtype=torch.float64)
            rates = problem.lr / (1.0 + torch.arange(problem.taken, problem.taken + steps, dtype=torch.float64) / 50)
            s = path_of(problem, steps)
            kept += [numbers, rates, s]
            arguments = [address(numbers), ctypes.c_int64(problem.taken), address(problem.f.result), address(rates)]
            card.add(*problem.described(), *arguments, address(s), address(loss.result), address(count), 1)
            problem.taken += steps
        card.scratch.restype = ctypes.c_int64
        scratch = Guarded((card.scratch(ctypes.c_int64(steps)) // 8 + 1,), torch.float64, off=1)
        card.train(ctypes.c_int64(steps), address(scratch.result))
        scratch.checked()
        for of_network, loss, count in zip(found, losses, done, strict=True):
            of_network.append(loss.checked()[: int(count) or steps])
    return [torch.cat(of_network) for of_network in found]


def spread(card: Any, problem: Problem, networks: int = 1) -> int:
    return card.spread(*problem.described(), ctypes.c_int64(networks))


def in_float64(problem: Problem, steps: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Losses, both weights and the last outputs, by torch's optimizers in float64."""
    given = {name: tensor.double() for name, tensor in problem.memory.items() if tensor is not None}
    weight, output_weight = given["weight"].clone().requires_grad_(), given["output_weight"].clone().requires_grad_()
    importance = given.get("sample_weight", torch.ones(problem.n, dtype=torch.float64))
    momentum = 0.9 if problem.rule == "momentum" else 0.0
    parameters = [weight, output_weight]
    optimizer = Adam(parameters, lr=1.0) if problem.rule == "adam" else SGD(parameters, lr=1.0, momentum=momentum)
    losses, s = [], path_of(problem, steps).tolist()
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = problem.lr / (1.0 + step / 50)
        optimizer.zero_grad()
        f = hx.two_layer(given["x"], weight, output_weight, s[step], base=problem.base)
        loss = (importance * (f - given["y"]) ** 2).sum() / (2 * problem.n)
        loss.backward()
        losses.append(loss.detach())
        optimizer.step()
    with torch.no_grad():
        f = hx.two_layer(given["x"], weight, output_weight, s[-1], base=problem.base)
    return torch.stack(losses), weight.detach(), output_weight.detach(), f


def assert_trains(card: Any, problem: Problem, steps: int = 20) -> None:
    """Losses within 2e-5 of float64's, which float32 weights leave of it; the outputs are those of the last weights."""
    losses, weight, output_weight, f = in_float64(problem, steps)
    (ours,) = train(card, [problem], steps)
    torch.testing.assert_close(ours, losses, rtol=2e-5, atol=0.0)
    # Adam divides by the root of a moment: a gradient near 0 decides a whole step of lr.
    for found, exact in ((problem.memory["weight"], weight), (problem.memory["output_weight"], output_weight)):
        assert found is not None
        assert (found.double() - exact).norm() <= 1e-4 * exact.norm()
    torch.testing.assert_close(problem.f.checked(), f, rtol=0.0, atol=2e-5 * f.abs().max().item())
    problem.state()


@pytest.mark.parametrize("base", BASES)
def test_every_base_trains_as_in_float64(card: Any, base: str) -> None:
    assert_trains(card, Problem(37, 3, 150, base))
    assert_trains(card, Problem(21, 2, 70, base, rule="momentum", s=0.5, weighted=True))
    assert_trains(card, Problem(9, 2, 33, base, s=-0.5))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("sizes", [(1, 1, 1), (5, 2, 9), (33, 4, 65), (130, 5, 40), (40, 9, 300), (19, 16, 1030)])
def test_ragged_sizes(card: Any, sizes: tuple[int, int, int], rule: str) -> None:
    """Features padded to 2, 4, 8 and 16; groups of 32, slices, pieces and blocks that do not come out even."""
    assert_trains(card, Problem(*sizes, rule=rule, weighted=True), steps=6)


def results(card: Any, problem: Problem, *cuts: int) -> list[Tensor]:
    return [*train(card, [problem], *cuts), *problem.state(), problem.f.checked()]


# name: limits of the card (capability, multiprocessors, shared, cluster), and the blocks of a network there.
CARDS = {
    "cluster of 16": ((0, 0, 0, 16), 16),
    "cluster of 8": ((0, 0, 0, 8), 8),
    "cluster of 4": ((0, 0, 0, 4), 4),
    "cluster of 2": ((0, 1, 0, 2), 2),
    "short of memory": ((0, 1, 48 * 1024, 2), 2),  # slices of the samples one after the other
    "alone": ((0, 1, 0, 1), 1),
    "resident": ((0, 16, 0, 1), -16),
    "few resident": ((0, 5, 0, 1), -4),
}


@pytest.mark.parametrize("base", ["relu", "gelu"])
def test_bits_do_not_depend_on_the_blocks(card: Any, base: str) -> None:
    """Any cluster, a single block or a resident grid: what a smaller card, or an ensemble, leaves of the blocks."""
    found = {}
    for name, (limits, blocks) in CARDS.items():
        card.limit_devices(*limits)
        problem = Problem(45, 3, 560, base)
        assert spread(card, problem) == blocks, name
        found[name] = results(card, problem, 4)
    first = found.pop("cluster of 16")
    for name, other in found.items():
        assert all(torch.equal(a, b) for a, b in zip(first, other, strict=True)), name


def test_bits_of_a_larger_problem_do_not_depend_on_the_blocks(card: Any) -> None:
    """Shares of several pieces, which a grid spreads over more blocks than a cluster has, and two samples a lane."""
    found = []
    for limits, blocks in (((0, 0, 0, 1), -16), ((0, 7, 0, 1), -7), ((0, 1, 0, 16), 16)):
        card.limit_devices(*limits)
        problem = Problem(600, 3, 800, s=0.5)
        assert spread(card, problem) == blocks
        found.append(results(card, problem, 2))
    assert all(torch.equal(a, b) for other in found[1:] for a, b in zip(found[0], other, strict=True))


def test_bits_do_not_depend_on_the_cut_into_calls(card: Any) -> None:
    """f is computed again from the weights at the start of a call, to the same bits."""
    for rule in RULES:
        whole, cut = (Problem(50, 3, 100, rule=rule) for _ in range(2))
        expected, found = results(card, whole, 100), results(card, cut, 37, 63)
        assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True)), rule


@pytest.mark.parametrize("base", ["relu", "tanh"])
def test_no_barrier_is_missing(card: Any, base: str) -> None:
    """The threads of a block in the opposite order."""
    found = []
    for backwards in (0, 1):
        card.run_backwards(backwards)
        for limits in ((0, 0, 0, 0), (0, 0, 0, 1)):
            card.limit_devices(*limits)
            found.append(results(card, Problem(40, 5, 130, base, weighted=True), 3))
    assert all(torch.equal(a, b) for other in found[1:] for a, b in zip(found[0], other, strict=True))


def ensemble() -> list[Problem]:
    """Two that are alike but for samples, s, rates and optimizer's history, and two of other kinds."""
    alike = [Problem(30, 3, 200, s=s, seed=seed, lr=lr) for seed, (s, lr) in enumerate(((1.5, 1e-2), (0.5, 3e-3)))]
    alike[1].taken = 5
    return [alike[0], Problem(30, 3, 90, "tanh", rule="momentum"), alike[1], Problem(11, 1, 3, rule="descent")]


@pytest.mark.parametrize("limits", [(0, 0, 0, 0), (0, 0, 0, 1), (0, 3, 0, 1)])
def test_networks_get_the_bits_that_they_get_alone(card: Any, limits: tuple[int, ...]) -> None:
    alone = [results(card, problem, 7) for problem in ensemble()]
    card.limit_devices(*limits)
    together = ensemble()
    losses = train(card, together, 7)
    for problem, loss, expected in zip(together, losses, alone, strict=True):
        found = [loss, *problem.state(), problem.f.checked()]
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_many_networks_take_fewer_blocks_each(card: Any) -> None:
    """A network alone takes a cluster; sixteen of them on sixteen multiprocessors a block each, to the same bits."""
    problem = Problem(100, 4, 1000)
    assert spread(card, problem, 1) > spread(card, problem, 4) > spread(card, problem, 16) == 1


@pytest.mark.parametrize("limits", [(0, 0, 0, 0), (0, 0, 0, 1), (0, 1, 0, 1)])
def test_a_loss_that_is_not_finite_stops_its_network_alone(card: Any, limits: tuple[int, ...]) -> None:
    """It is the last loss; weights stay as they were when it was found; the others go on."""
    card.limit_devices(*limits)
    problems = [Problem(20, 3, 100, rule="momentum", seed=seed, lr=lr) for seed, lr in enumerate((1e6, 1e-2))]
    bad, good = train(card, problems, 30)
    assert 1 < bad.numel() < 30
    assert bad[:-1].isfinite().all()
    assert not bad[-1].isfinite()
    assert good.numel() == 30
    assert good.isfinite().all()
    again = Problem(20, 3, 100, rule="momentum", seed=0, lr=1e6)
    train(card, [again], bad.numel() - 1)
    pairs = zip(problems[0].state(), again.state(), strict=True)
    assert all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in pairs)
    bad_from_the_start = Problem(20, 3, 100)
    assert bad_from_the_start.memory["y"] is not None
    bad_from_the_start.memory["y"][3] = torch.nan
    (loss,) = train(card, [bad_from_the_start], 5)
    assert loss.numel() == 1
    assert loss.isnan().all()
    assert torch.equal(bad_from_the_start.state()[0], Problem(20, 3, 100).state()[0])


def test_other_networks_of_an_ensemble_go_by_launches(card: Any) -> None:
    """Where memory is short: all end as in float64, whichever way they go; the small ones to their own bits."""
    problems = [Problem(30, 3, 40), Problem(500, 3, 70, "tanh", weighted=True), Problem(30, 3, 40, seed=1)]
    alone = results(card, Problem(30, 3, 40), 6)
    card.limit_devices(0, 0, 16 * 1024, 0)
    assert [spread(card, problem) for problem in problems] == [1, 0, 1]
    expected = [in_float64(problem, 6)[0] for problem in problems]
    losses = train(card, problems, 6)
    for loss, exact in zip(losses, expected, strict=True):
        torch.testing.assert_close(loss, exact, rtol=2e-5, atol=0.0)
    found = [losses[0], *problems[0].state(), problems[0].f.checked()]
    assert all(torch.equal(a, b) for a, b in zip(found, alone, strict=True))


def test_what_does_not_fit_goes_another_way(card: Any) -> None:
    """Less shared memory than the weights or samples need, a Sobolev loss, other types, too much work."""
    assert spread(card, Problem(100, 4, 1000)) == 16
    card.limit_devices(0, 0, 48 * 1024, 0)
    assert abs(spread(card, Problem(100, 4, 1000))) == 16
    card.limit_devices(0, 0, 16 * 1024, 0)
    assert spread(card, Problem(1000, 4, 100)) == 0
    card.limit_devices(0, 0, 0, 0)
    assert spread(card, Problem(1000, 4, 20_000)) == 0
    assert spread(card, Problem(1000, 2, 1000)) == 0  # by arcs
    assert spread(card, Problem(5, 17, 50)) == 0
    sobolev = Problem(10, 2, 50, "tanh")
    sobolev.memory["gradient_target"] = torch.zeros(10, 2)
    assert spread(card, sobolev) == 0
    double = Problem(10, 2, 50).described()
    assert card.spread(KINDS[torch.float64], *double[1:], ctypes.c_int64(1)) == 0


needs_gpu = pytest.mark.skipif(not hx.backends()["cuda"], reason="needs a GPU")


def fitted(nets: Sequence[hx.TwoLayerNet], together: bool, **settings: Any) -> list[Tensor]:
    x = torch.rand(100, nets[0].in_features, generator=torch.Generator().manual_seed(0)).cuda()
    y = torch.sin(4.0 * x.sum(1))
    settings = {"s": (0.5, 1.5), "steps": (40, 60), "lr": 1e-2, "engine": "fused", **settings}
    if together:
        return [result.loss for result in hx.fit_ensemble(nets, x, y, **settings)]
    return [hx.fit(net, x, y, **settings).loss for net in nets]


@needs_gpu
@pytest.mark.parametrize("features", [1, 3, 7, 15])
@pytest.mark.parametrize("base", BASES)
def test_fit_on_a_gpu_is_float64s(base: str, features: int) -> None:
    nets = [hx.TwoLayerNet(features, 1000, base=base, seed=1) for _ in range(2)]
    (ours,) = fitted([nets[0].cuda()], together=False)
    x = torch.rand(100, features, generator=torch.Generator().manual_seed(0))
    net = nets[1].double()
    settings: dict[str, Any] = {"s": (0.5, 1.5), "steps": (40, 60), "lr": 1e-2}
    exact = hx.fit(net, x.double(), torch.sin(4.0 * x.sum(1)).double(), engine="torch", **settings).loss
    torch.testing.assert_close(ours, exact, rtol=1e-4, atol=0.0)


@needs_gpu
@pytest.mark.parametrize("count", [1, 3, 64, 300])
@pytest.mark.parametrize("base", ["relu", "tanh"])
def test_an_ensemble_on_a_gpu_has_the_bits_of_fit(base: str, count: int) -> None:
    """From 16 blocks a network to one; twice the same; and in calls of seven steps."""

    def callback(info: object) -> None:
        pass

    callback.every = 7  # type: ignore[attr-defined]
    nets = [[hx.TwoLayerNet(3, 1000, base=base, seed=seed).cuda() for seed in range(count)] for _ in range(3)]
    together, again = fitted(nets[0], together=True), fitted(nets[1], together=True)
    first = slice(0, 3)
    alone = fitted(nets[2][first], together=False, callbacks=[callback])
    assert all(torch.equal(a, b) for a, b in zip(together, again, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(together[first], alone, strict=True))
    for net, other in zip(nets[0][first], nets[2][first], strict=True):
        assert torch.equal(net.weight, other.weight)
        assert torch.equal(net.output_weight, other.output_weight)


@needs_gpu
@pytest.mark.parametrize(
    ("limits", "width"), [((0, 0, 0, 8), 1000), ((0, 0, 0, 1), 1000), ((0, 9, 0, 1), 10_000), ((0, 1, 0, 1), 500)]
)
def test_a_smaller_gpu_gives_the_same_bits(limits: tuple[int, int, int, int], width: int) -> None:
    from hrta_ext.compiled import _C

    nets = [hx.TwoLayerNet(3, width, seed=0).cuda() for _ in range(2)]
    (expected,) = fitted(nets[:1], together=False)
    _C.limit_cuda(**dict(zip(("capability", "multiprocessors", "shared", "cluster"), limits, strict=True)))
    try:
        (found,) = fitted(nets[1:], together=False)
    finally:
        _C.limit_cuda()
    assert torch.equal(expected, found)
    assert torch.equal(nets[0].weight, nets[1].weight)


@needs_gpu
def test_a_network_that_diverges_on_a_gpu_stops_alone() -> None:
    nets = [hx.TwoLayerNet(3, width, seed=width).cuda() for width in (200, 200, 300)]
    with torch.no_grad():
        nets[1].weight.fill_(1e38)
    x = torch.rand(50, 3, generator=torch.Generator().manual_seed(0)).cuda()
    results = hx.fit_ensemble(nets, x, x.sum(1), s=1.0, steps=150, lr=1e-2, engine="fused")
    assert [result.stop_reason for result in results] == ["finished", "diverged", "finished"]
    assert len(results[1].loss) == 1
    assert (nets[1].weight == 1e38).all()
