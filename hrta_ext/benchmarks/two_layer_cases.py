"""The wide network's competitors: the op and its peers as functions of prepared tensors, and the sizes they run at."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

import hrta_ext as hx
from hrta_ext.benchmarks import keops_formula
from hrta_ext.benchmarks.ceilings import Floor, two_layer_floor

S = 0.5  # every case
OURS, EAGER, COMPILED, GRAPH, KEOPS = "hx.two_layer", "eager formula", "compiled formula", "CUDA graph", "KeOps"
GPU_PAIRS = 250_000_000  # n x m of the peers on a GPU: 1 GB a tensor, many times its cache

Weights = tuple[Tensor, Tensor]
Function = Callable[..., tuple[Tensor, ...]]


@dataclass(frozen=True)
class Case:
    """One line: f and the gradients in the weights; float32.

    ``peer_width`` is the width the peers run at where the full one does not fit or takes minutes: their time is then
    scaled by width / peer_width, since it is linear in m once the n x m tensors exceed the caches.
    """

    n: int
    features: int
    width: int
    base: str = "relu"
    goals: dict[str, float] = field(default_factory=dict)
    peer_width: int | None = None
    with_gradient: bool = False  # a Sobolev loss: df/dx as well

    @property
    def name(self) -> str:
        """Such as ``n 100, D 2, m 1e5, relu``."""
        size = f"{self.width:.0e}".replace("e+0", "e")
        return f"n {self.n}, D {self.features}, m {size}, {self.base}" + (", with df/dx" if self.with_gradient else "")

    @property
    def floor(self) -> Floor | None:
        """What must move and be computed; nobody has counted it for df/dx."""
        return None if self.with_gradient else two_layer_floor(self.n, self.features, self.width, self.base, False)


def cases(quick: bool, device: str) -> list[Case]:
    """The op's rows of the speed tables, and others beside them."""
    if device == "cuda":
        return [replace(case, width=case.width // 1000) if quick else case for case in _gpu_cases(quick)]
    few = 20 if quick else 1
    return [
        Case(100, 2, 1000),
        Case(100, 2, 100_000 // few, goals={EAGER: 20.0, COMPILED: 10.0}),
        Case(100, 2, 1_000_000 // few),
        Case(125, 4, 100_000 // few),
        Case(100, 2, 100_000 // few, base="tanh"),
        Case(100, 2, 100_000 // few, base="gelu"),
        Case(400, 3, 1000, base="relu2", with_gradient=True),
        Case(10_000, 2, 100_000, goals={EAGER: 800.0, COMPILED: 400.0}, peer_width=10_000 // few),
    ]


def _gpu_cases(quick: bool) -> list[Case]:
    sizes: list[dict[str, Any]] = [
        {"n": 1000, "features": 2, "width": 10**8},
        {"n": 1000, "features": 4, "width": 10**7},
        {"n": 1000, "features": 16, "width": 10**7},
        {"n": 1000, "features": 64, "width": 10**6},
        {"n": 1000, "features": 4, "width": 10**6, "base": "tanh"},
        {"n": 1000, "features": 4, "width": 10**6, "base": "gelu"},
        {"n": 100, "features": 2, "width": 10**8},
    ]
    pairs = GPU_PAIRS // 1000 if quick else GPU_PAIRS
    wide = [Case(**size, peer_width=pairs // size["n"]) for size in sizes]
    return [*wide, Case(400, 3, 10**6, base="relu2", with_gradient=True)]


def sigma(z: Tensor, base: str) -> Tensor:
    """As a user would write it."""
    if base == "relu2":
        return 0.5 * torch.relu(z) ** 2
    return {"relu": torch.relu, "tanh": torch.tanh, "gelu": torch.nn.functional.gelu}[base](z)


def formula(base: str) -> Function:
    """f as a user would write it."""

    def f(x: Tensor, weight: Tensor, output_weight: Tensor) -> tuple[Tensor, ...]:
        z = x @ weight.T
        return (((1 - S) * z + S * sigma(z, base)) @ output_weight / weight.shape[0] ** 0.5,)

    return f


def formula_with_gradient(x: Tensor, weight: Tensor, output_weight: Tensor) -> tuple[Tensor, ...]:
    """f and df/dx of relu2, written out."""
    z = x @ weight.T
    a = output_weight / weight.shape[0] ** 0.5
    return ((1 - S) * z + S * sigma(z, "relu2")) @ a, (((1 - S) + S * torch.relu(z)) * a) @ weight


def ours(case: Case) -> Function:
    """The op of the case."""
    if case.with_gradient:
        return lambda x, w, a: hx.two_layer_with_gradient(x, w, a, S, base=case.base)
    return lambda x, w, a: (hx.two_layer(x, w, a, S, base=case.base),)


def forward_backward(
    function: Function, x: Tensor, weights: Weights, grads: tuple[Tensor, ...]
) -> Callable[[], tuple[Tensor, ...]]:
    """The call that is timed: outputs and the gradients in the weights."""

    def call() -> tuple[Tensor, ...]:
        outputs = function(x, *weights)
        return *outputs, *torch.autograd.grad(outputs, weights, grads)

    return call


def graphed(call: Callable[[], Any]) -> Callable[[], Any]:
    """The call as a CUDA graph: what a replay gives is in the same memory every time."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = call()

    def replay() -> Any:
        graph.replay()
        return results

    return replay


def competitors(case: Case, problem: tuple[Any, ...], use_compile: bool) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Name and a function that makes the call, without arguments, of ours and every peer; making it may fail."""
    on_gpu = problem[0].is_cuda
    plain = formula_with_gradient if case.with_gradient else formula(case.base)
    yield OURS, lambda: forward_backward(ours(case), *problem)
    yield EAGER, lambda: forward_backward(plain, *problem)
    if use_compile:
        torch.compiler.reset()
        mode = "reduce-overhead" if on_gpu else "default"
        compiled = torch.compile(plain, fullgraph=True, dynamic=False, mode=mode)
        yield COMPILED, lambda: forward_backward(compiled, *problem)
    if on_gpu:
        yield GRAPH, lambda: graphed(forward_backward(plain, *problem))
    if keops_formula.INSTALLED and case.base in keops_formula.BASES:
        keops = lambda x, w, a: keops_formula.outputs(x, w, a, S, case.base, case.with_gradient)  # noqa: E731
        yield KEOPS, lambda: forward_backward(keops, *problem)


def problem(case: Case, width: int, device: str) -> tuple[Tensor, Weights, tuple[Tensor, ...]]:
    """x, the weights, and a gradient for each output, drawn on the device."""
    generator = torch.Generator(device).manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, device=device)

    x = hx.with_bias(normal(case.n, case.features - 1))
    grads = (normal(case.n), normal(case.n, case.features))
    weights = normal(width, case.features).requires_grad_(), normal(width).requires_grad_()
    return x, weights, grads if case.with_gradient else grads[:1]
