"""The CUDA kernels of the two-layer network without a GPU: compiled as C++ and run thread by thread (tests/emulation).

It shows that indices, bounds, barriers and sums are right, against the float64 formulas; neither speed nor what only a
GPU does (memory order between warps, its own rounding). Tolerances as in test_two_layer_op.py.
"""

from __future__ import annotations

import ctypes
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from cases import BASES
from emulated import Guarded, address, emulated
from network.cases import dense, dense_gradient, dense_weight_gradients, problem
from torch import Tensor
from torch.optim import SGD, Adam, Optimizer

import hrta_ext as hx
from hrta_ext.bases import BASES as NUMBERED
from hrta_ext.compiled import KINDS
from hrta_ext.network import products, reference
from hrta_ext.training.data import Samples
from hrta_ext.training.losses import training_loss

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}
FORWARD, WITH_GRADIENT, INPUT_GRADIENT, PARAMETER_GRADIENT, BACKWARD = range(5)


@pytest.fixture(scope="module")
def kernels() -> Any:
    loaded = emulated("network.cpp")
    for function in (loaded.two_layer_pass, loaded.two_layer_train):
        function.restype = ctypes.c_int64
    return loaded


def run(
    kernels: Any,
    which: int,
    arguments: tuple[Tensor, Tensor, Tensor],
    s: float,
    base: str,
    results: list[tuple[int, ...] | None],
    grads: tuple[Tensor | None, Tensor | None] = (None, None),
) -> list[Tensor]:
    """One pass, its results; run once more with the threads in the opposite order, to the same bits."""
    x, weight, output_weight = arguments
    networks = output_weight.numel() // output_weight.shape[-1]
    sizes = torch.tensor([networks, *x.shape, weight.shape[-2]])
    s_value = torch.tensor(s, dtype=torch.float64)
    found = []
    for backwards in (0, 1):
        kernels.run_backwards(backwards)
        dtype = torch.float64 if which == PARAMETER_GRADIENT else x.dtype
        guarded = [None if shape is None else Guarded(shape, dtype, off=1) for shape in results]
        fixed = [which, KINDS[x.dtype], NUMBERED[base].number, address(sizes)]
        fixed += [address(t) for t in (x, weight, output_weight, s_value, *grads)]
        fixed += [address(None if g is None else g.result) for g in (guarded + [None])[:2]]
        doubles = kernels.two_layer_pass(*fixed, None) // 8
        scratch = Guarded((max(doubles, 1),), torch.float64, off=1)
        kernels.two_layer_pass(*fixed, address(scratch.result))
        scratch.checked()
        found.append([g.checked() for g in guarded if g is not None])
    kernels.run_backwards(0)
    torch.testing.assert_close(found[0], found[1], rtol=0.0, atol=0.0, equal_nan=True)
    return found[0]


def near(ours: Tensor, exact: Tensor, dtype: torch.dtype) -> None:
    scale = exact.abs().max().item() if exact.numel() else 0.0
    torch.testing.assert_close(ours.double(), exact, rtol=0.0, atol=TOLERANCE[dtype] * scale + 1e-300)


def check(kernels: Any, dtype: torch.dtype, base: str, s: float, sizes: tuple[int, ...], networks: tuple[int, ...]):
    """Every pass of one problem."""
    n, m, features = sizes
    arguments = problem(n, m, features, dtype, networks)
    generator = torch.Generator().manual_seed(1)
    grad_f, grad_df_dx = (
        torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
        for shape in ((*networks, n), (*networks, n, features))
    )
    f, slope = dense(*arguments, s, base), dense_gradient(*arguments, s, base)
    (ours,) = run(kernels, FORWARD, arguments, s, base, [(*networks, n)])
    near(ours, f, dtype)
    ours, df_dx = run(kernels, WITH_GRADIENT, arguments, s, base, [(*networks, n), (*networks, n, features)])
    near(ours, f, dtype)
    near(df_dx, slope, dtype)
    (grad_x,) = run(kernels, INPUT_GRADIENT, arguments, s, base, [(n, features)], (grad_f, None))
    near(grad_x, (grad_f.double().unsqueeze(-1) * slope).reshape(-1, n, features).sum(0), dtype)
    (grad_s,) = run(kernels, PARAMETER_GRADIENT, arguments, s, base, [()], (grad_f, None))
    terms = grad_f.double() * (dense(*arguments, 1.0, base) - dense(*arguments, 0.0, base))
    assert abs(grad_s.item() - terms.sum().item()) <= TOLERANCE[dtype] * terms.abs().sum().item()
    shapes = [(*networks, m, features), (*networks, m)]
    for gradient in (None, grad_df_dx):
        exact = dense_weight_gradients(grad_f, gradient, *arguments, s, base)
        for ours, theirs in zip(
            run(kernels, BACKWARD, arguments, s, base, shapes, (grad_f, gradient)), exact, strict=True
        ):
            near(ours, theirs, dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("base", BASES)
def test_every_base(kernels: Any, dtype: torch.dtype, base: str) -> None:
    """Value, gradients in x, s and the weights; also beside gradients of df/dx."""
    check(kernels, dtype, base, 1.5, (37, 70, 3), ())
    check(kernels, dtype, base, 0.5, (5, 65, 2), (3,))


@pytest.mark.parametrize("features", [1, 4, 5, 6, 8])
@pytest.mark.parametrize("base", ["relu", "tanh"])
def test_every_number_of_features(kernels: Any, base: str, features: int) -> None:
    """Padded to the next number that a kernel was compiled for."""
    check(kernels, torch.float32, base, 1.0, (33, 66, features), ())


@pytest.mark.parametrize(
    ("features", "sizes", "networks"),
    [(9, (70, 65), ()), (16, (129, 3), (2,)), (17, (1, 1), (3,)), (33, (5, 70), ()), (64, (34, 33), ())],
)
@pytest.mark.parametrize(("base", "dtype"), [("relu2", torch.float32), ("softplus", torch.float64)])
def test_tiles(
    kernels: Any, base: str, dtype: torch.dtype, features: int, sizes: tuple[int, int], networks: tuple[int, ...]
) -> None:
    """Tiles of 32 and 64 in every direction: ragged, less than one, and split where rows are few."""
    check(kernels, dtype, base, 1.5, (*sizes, features), networks)


@pytest.mark.parametrize("base", BASES)
def test_tiles_know_every_base(kernels: Any, base: str) -> None:
    """In both types; each has its own branch."""
    for dtype in TOLERANCE:
        check(kernels, dtype, base, 0.5, (9, 35, 10), ())


@pytest.mark.parametrize("features", [3, 11])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_infinity_and_nan_stay_where_they_belong(kernels: Any, dtype: torch.dtype, features: int) -> None:
    """tanh is finite at infinity, and what pads a tile is neither sample nor neuron: its zeros never meet infinity."""
    x, weight, output_weight = problem(35, 37, features, dtype)
    x = x.abs() + 0.1
    x[1, 0], x[2, 0], weight[3] = torch.nan, torch.inf, -torch.inf
    (f,) = run(kernels, FORWARD, (x, weight, output_weight), 1.0, "tanh", [(35,)])
    assert f.isnan().nonzero().tolist() == [[1]]
    assert f.isfinite().sum() == 34
    x, weight[4, 0] = x[3:].contiguous(), torch.nan
    grads = run(
        kernels,
        BACKWARD,
        (x, weight, output_weight),
        1.0,
        "tanh",
        [(37, features), (37,)],
        (torch.ones(32, dtype=dtype), None),
    )
    assert grads[0].isfinite().all(1).logical_not().nonzero().tolist() == [[4]]
    assert grads[1].isfinite().logical_not().nonzero().tolist() == [[4]]


@pytest.mark.parametrize("sizes", [(1, 1, 2), (129, 129, 2), (300, 5, 2), (3, 1100, 2)])
@pytest.mark.parametrize("base", ["relu", "gelu"])
def test_ragged_sizes(kernels: Any, base: str, sizes: tuple[int, int, int]) -> None:
    """Against groups of 32 to 128, tiles of 64, and samples split over warps where neurons are few."""
    check(kernels, torch.float64, base, 0.7, sizes, ())
    check(kernels, torch.float64, base, 2.0, sizes, (2, 2))


@pytest.mark.parametrize("base", ["tanh", "sin"])
def test_gradient_in_s_at_small_preactivations(kernels: Any, base: str) -> None:
    """A sum of a_k (sigma(z) - z), of which float32 sums of sigma(z) and of z would leave nothing; as in
    test_s_gradient.py."""
    x, weight, output_weight = (1.0 + t.abs() for t in problem(5, 70, 3, torch.float32))
    x = 1e-3 * x
    (grad_s,) = run(kernels, PARAMETER_GRADIENT, (x, weight, output_weight), 0.5, base, [()], (torch.ones(5), None))
    z = x.double() @ weight.double().mT
    excess = -z.pow(3) / 3 + 2 * z.pow(5) / 15 if base == "tanh" else -z.pow(3) / 6 + z.pow(5) / 120
    assert grad_s.item() == pytest.approx((excess @ output_weight.double()).sum().item() / 70**0.5, rel=1e-4)


def test_no_samples_and_no_networks(kernels: Any) -> None:
    """Zero gradients, and nothing that a GPU would refuse to launch."""
    arguments = problem(0, 5, 2)
    assert run(kernels, FORWARD, arguments, 0.5, "relu", [(0,)])[0].numel() == 0
    (grad_s,) = run(kernels, PARAMETER_GRADIENT, arguments, 0.5, "relu", [()], (torch.zeros(0), None))
    assert grad_s == 0
    grads = run(kernels, BACKWARD, arguments, 0.5, "relu", [(5, 2), (5,)], (torch.zeros(0), None))
    assert all(torch.equal(grad, torch.zeros_like(grad)) for grad in grads)
    arguments = problem(4, 5, 2, networks=(0,))
    (grad_x,) = run(kernels, INPUT_GRADIENT, arguments, 0.5, "relu", [(4, 2)], (torch.zeros(0, 4), None))
    assert torch.equal(grad_x, torch.zeros(4, 2, dtype=torch.float64))


@pytest.mark.parametrize(("n", "features"), [(1, 2), (100, 2), (1000, 5), (1000, 16)])
@pytest.mark.parametrize("base", ["relu", "tanh"])
def test_scratch_memory_does_not_grow_with_the_width(kernels: Any, base: str, n: int, features: int) -> None:
    """At most 64 MiB, and no more at a billion neurons than at ten million, which go the same way; 32-bit sizes would
    show here too."""
    none = [None] * 8

    def scratch(which: int, width: int) -> int:
        sizes = torch.tensor([1, n, features, width])
        return kernels.two_layer_pass(which, KINDS[torch.float32], NUMBERED[base].number, address(sizes), *none, None)

    for which in range(5):
        assert 0 < scratch(which, 10**9) <= min(scratch(which, 10**7) * 1.05, 64 * 2**20)


class EmulatedBinary:
    """What products.py calls of the binary, by the emulated kernels."""

    TWO_LAYER_PIECES = (4096, 128)
    TwoLayerCall = SimpleNamespace

    def __init__(self, kernels: Any) -> None:
        self.kernels = kernels

    def fixed(self, call: SimpleNamespace, scale: float) -> list[Any]:
        sizes = torch.tensor([call.networks, call.n, call.width])
        s = torch.tensor(call.s, dtype=torch.float64)
        self.kept = sizes, s
        return [
            call.dtype,
            call.base,
            address(sizes),
            ctypes.c_void_p(call.output_weight),
            address(s),
            ctypes.c_double(scale),
        ]

    def two_layer_sum_neurons(
        self, call: SimpleNamespace, scale: float, z: int, sums: int, replace: bool, excess: bool, device: int
    ) -> None:
        places = ctypes.c_void_p(z), ctypes.c_void_p(sums)
        self.kernels.two_layer_sum_neurons(*self.fixed(call, scale), *places, int(replace), int(excess))

    def two_layer_sum_samples(
        self, call: SimpleNamespace, scale: float, grad_f: int, z: int, y: int, sums: int, device: int
    ) -> None:
        self.kernels.two_layer_sum_samples(*self.fixed(call, scale), *map(ctypes.c_void_p, (grad_f, z, y, sums)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("base", BASES)
def test_products_beyond_the_native_features(
    kernels: Any, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, base: str
) -> None:
    """The chunks of products.py, whose kernels are emulated: ragged ones, and pieces of neurons and of samples."""
    monkeypatch.setattr(products, "_C", EmulatedBinary(kernels))
    for n, m, chunk, networks in ((5, 70, 130, (2,)), (131, 9, 1000, ()), (2, 4100, 10000, ())):
        monkeypatch.setattr(reference, "CHUNK_ELEMENTS", chunk)
        arguments = problem(n, m, 65, dtype, networks)
        generator = torch.Generator().manual_seed(1)
        grad_f = torch.randn((*networks, n), generator=generator, dtype=torch.float64).to(dtype)
        grad_df_dx = torch.randn((*networks, n, 65), generator=generator, dtype=torch.float64).to(dtype)
        f, df_dx = products.outputs(*arguments, 0.5, base, True)
        slope = dense_gradient(*arguments, 0.5, base)
        near(f, dense(*arguments, 0.5, base), dtype)
        near(df_dx, slope, dtype)
        assert torch.equal(products.outputs(*arguments, 0.5, base, False)[0], f)
        found = products.gradients(grad_f, None, *arguments, 0.5, base, (True,) * 4)
        assert all(part is not None for part in found)
        near(found[0], (grad_f.double().unsqueeze(-1) * slope).reshape(-1, n, 65).sum(0), dtype)
        terms = grad_f.double() * (dense(*arguments, 1.0, base) - dense(*arguments, 0.0, base))
        assert abs(found[3].item() - terms.sum().item()) <= TOLERANCE[dtype] * terms.abs().sum().item()
        for gradient in (None, grad_df_dx):
            exact = dense_weight_gradients(grad_f, gradient, *arguments, 0.5, base)
            found = products.gradients(grad_f, gradient, *arguments, 0.5, base, (False, True, True, False))
            near(found[1], exact[0], dtype)
            near(found[2], exact[1], dtype)


def test_products_serve_cards_with_fast_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    """Elsewhere float64 products would take thirty times those of float32."""
    assert not products.serves(torch.device("cpu"))
    for capability, serves in (((8, 0), True), ((8, 6), False), ((9, 0), True), ((12, 0), False)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, given=capability: given)
        assert products.serves(torch.device("cuda", 0)) == serves


def train(
    kernels: Any, net: hx.TwoLayerNet, optimizer: Optimizer, samples: Samples, cuts: tuple[int, ...], lr: float
) -> Tensor:
    """The losses of sum(cuts) steps, so many steps a call, of the emulated engine; trains net in place."""
    x = hx.with_bias(samples.x)
    n, features = x.shape
    adam = isinstance(optimizer, Adam)
    moments = [torch.zeros_like(w) for _ in range(2) for w in (net.weight, net.output_weight)]
    momentum = 0.0 if adam else optimizer.param_groups[0]["momentum"]
    kept = moments if adam else moments[:2] if momentum else []
    addresses = (ctypes.c_void_p * 4)(*(t.data_ptr() for t in kept), *[None] * (4 - len(kept)))
    beta1, beta2 = optimizer.param_groups[0]["betas"] if adam else (momentum, 0.0)
    epsilon = optimizer.param_groups[0]["eps"] if adam else 0.0
    numbers = torch.tensor([beta1, beta2, epsilon], dtype=torch.float64)
    sizes = torch.tensor([n, features, net.width, net.in_features, net.width])
    f = torch.full((n * (1 + features),), torch.nan, dtype=torch.float64)
    losses, taken = [], 0
    for steps in cuts:
        rates, loss = torch.full((steps,), lr, dtype=torch.float64), torch.zeros(steps, dtype=torch.float64)
        done, s = torch.tensor(0), path_of(net, taken, steps)
        fixed = [KINDS[x.dtype], NUMBERED[net.base].number, int(adam), address(sizes), address(x), address(samples.y)]
        fixed += [address(t) for t in (samples.sample_weight, samples.target_gradient, net.weight, net.output_weight)]
        fixed += [addresses, address(numbers), ctypes.c_int64(taken), address(f), ctypes.c_int64(steps)]
        fixed += [address(rates), address(s), address(loss), address(done), int(taken > 0), 1]
        scratch = Guarded((kernels.two_layer_train(*fixed, None) // 8,), torch.float64, off=1)
        kernels.two_layer_train(*fixed, address(scratch.result))
        scratch.checked()
        losses.append(loss[: int(done) or steps])
        taken += steps
        if int(done):
            break
    return torch.cat(losses)


def path_of(net: hx.TwoLayerNet, taken: int, steps: int) -> Tensor:
    return float(net.s) + 0.01 * torch.arange(taken, taken + steps + 1, dtype=torch.float64)


def by_autograd(net: hx.TwoLayerNet, optimizer: Optimizer, samples: Samples, steps: int) -> Tensor:
    losses = []
    for s in path_of(net, 0, steps)[:-1].tolist():
        net.set_s(s)
        optimizer.zero_grad()
        loss = training_loss(net, samples)
        loss.backward()
        optimizer.step()
        losses.append(loss.detach().double())
    return torch.stack(losses)


def task(dtype: torch.dtype, n: int = 21, features: int = 2, weights: bool = False, gradient: bool = False) -> Samples:
    generator = torch.Generator().manual_seed(3)
    x = torch.rand(n, features, generator=generator, dtype=torch.float64)
    y = torch.sin(2 * torch.pi * x.sum(1))
    slope = (2 * torch.pi * torch.cos(2 * torch.pi * x.sum(1)))[:, None].expand(n, features)
    weight = torch.rand(n, generator=generator, dtype=torch.float64) if weights else None
    given = (x, y, weight, slope.contiguous() if gradient else None)
    return Samples(*(None if tensor is None else tensor.to(dtype) for tensor in given))


def optimizer_of(name: str, net: hx.TwoLayerNet) -> Optimizer:
    return Adam(net.parameters(), lr=1e-2) if name == "adam" else SGD(net.parameters(), lr=1e-2, momentum=float(name))


@pytest.mark.parametrize("name", ["adam", "0", "0.9"])
@pytest.mark.parametrize("base", ["relu", "relu2", "tanh"])
@pytest.mark.parametrize(("weights", "gradient"), [(False, False), (True, False), (True, True)])
def test_training_steps_are_those_of_torch(kernels: Any, name: str, base: str, weights: bool, gradient: bool) -> None:
    """Losses and weights of 40 steps in float64, cut into calls of any length, to 1e-10 of torch's optimizers."""
    samples = task(torch.float64, weights=weights, gradient=gradient)
    nets = [hx.TwoLayerNet(2, 70, s=1.5, base=base, seed=0).double() for _ in range(3)]
    theirs = by_autograd(nets[0], optimizer_of(name, nets[0]), samples, 40)
    ours = train(kernels, nets[1], optimizer_of(name, nets[1]), samples, (40,), 1e-2)
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=0.0)
    torch.testing.assert_close(nets[1].weight, nets[0].weight, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(nets[1].output_weight, nets[0].output_weight, rtol=1e-9, atol=1e-12)
    in_pieces = train(kernels, nets[2], optimizer_of(name, nets[2]), samples, (1, 7, 32), 1e-2)
    assert torch.equal(in_pieces, ours)
    assert torch.equal(nets[2].weight, nets[1].weight)


@pytest.mark.parametrize("gradient", [False, True])
def test_training_of_relu_with_two_features(kernels: Any, gradient: bool) -> None:
    """By a way of its own; a loss of gradients by the passes for everything."""
    samples = task(torch.float64, features=1, gradient=gradient)
    nets = [hx.TwoLayerNet(1, 70, s=1.5, seed=0).double() for _ in range(3)]
    theirs = by_autograd(nets[0], optimizer_of("adam", nets[0]), samples, 20)
    ours = train(kernels, nets[1], optimizer_of("adam", nets[1]), samples, (20,), 1e-2)
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=0.0)
    torch.testing.assert_close(nets[1].weight, nets[0].weight, rtol=1e-9, atol=1e-12)
    in_pieces = train(kernels, nets[2], optimizer_of("adam", nets[2]), samples, (1, 7, 12), 1e-2)
    assert torch.equal(in_pieces, ours)
    assert torch.equal(nets[2].weight, nets[1].weight)


def test_training_with_few_neurons_and_many_samples(kernels: Any) -> None:
    """The update goes through sums over splits of the samples."""
    samples = task(torch.float32, n=700)
    nets = [hx.TwoLayerNet(2, 9, s=0.5, seed=0) for _ in range(2)]
    theirs = by_autograd(nets[0], optimizer_of("adam", nets[0]), samples, 20)
    ours = train(kernels, nets[1], optimizer_of("adam", nets[1]), samples, (20,), 1e-2)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=0.0)


def test_a_loss_that_is_not_finite_stops_the_steps(kernels: Any) -> None:
    """It is the last loss, and weights and outputs stay as they were when it was found."""
    samples = task(torch.float32)
    net = hx.TwoLayerNet(2, 70, s=1.5, seed=0)
    losses = train(kernels, net, SGD(net.parameters(), lr=1.0, momentum=0.9), samples, (400,), 1e4)
    assert 1 < losses.numel() < 400
    assert losses[:-1].isfinite().all()
    assert not losses[-1].isfinite()
    again = hx.TwoLayerNet(2, 70, s=1.5, seed=0)
    steps = losses.numel() - 1
    train(kernels, again, SGD(again.parameters(), lr=1.0, momentum=0.9), samples, (steps,), 1e4)
    assert torch.equal(net.weight.isnan(), again.weight.isnan())
    assert torch.equal(net.weight.nan_to_num(), again.weight.nan_to_num())
