"""The activation's competitors: ours and its peers, as calls that take prepared tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import hrta_ext as hx

S = 0.5  # of most cases; the kernels' speed does not depend on it
OURS, LEAKY, FORMULA, COMPILED, TWO_CALLS, BASE = (
    "hx.homotopy",
    "F.leaky_relu",
    "eager formula",
    "compiled formula",
    "two calls",
    "torch's own base",
)
NEVER_SLOWER = 0.98  # 1, and what medians differ by from run to run
FEATURES = 64  # where every feature has an s of its own
PAIR = "hx.homotopy_value_and_slope"

# |ours - peer| <= atol + rtol |peer|, gradients too: a few roundings of the formula's terms, which are of order 1.
TOLERANCES = {
    torch.float64: (1e-13, 1e-13),
    torch.float32: (1e-5, 2e-6),
    torch.bfloat16: (2e-2, 2e-2),
    torch.float16: (4e-3, 4e-3),
}

_BASES: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "tanh": torch.tanh,
    "gelu": F.gelu,
    "silu": F.silu,
    "softplus": F.softplus,
    "erf": torch.erf,
    "sin": torch.sin,
}


def formula(base: str, s: float = S) -> Callable[[Tensor], Tensor]:
    """(1 - s) x + s sigma(x) as a user would write it."""
    function = _BASES[base]
    return lambda x: (1 - s) * x + s * function(x)


def formula_per_feature(base: str) -> Callable[[Tensor, Tensor], Tensor]:
    """The same of s (features,) and x (..., features)."""
    function = _BASES[base]
    return lambda x, s: (1 - s) * x + s * function(x)


def formula_pair(base: str) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """The formula and its slope (1 - s) + s sigma'(x)."""
    value = formula(base)

    def relu(x: Tensor) -> Tensor:
        return (1 - S) + S * (x > 0)

    def tanh(x: Tensor) -> Tensor:
        return (1 - S) + S * (1 - torch.tanh(x) ** 2)

    def gelu(x: Tensor) -> Tensor:
        cdf = 0.5 * (1 + torch.erf(x * 0.7071067811865476))
        return (1 - S) + S * (cdf + x * 0.3989422804014327 * torch.exp(-0.5 * x * x))

    slope = {"relu": relu, "tanh": tanh, "gelu": gelu}[base]
    return lambda x: (value(x), slope(x))


@dataclass(frozen=True)
class Case:
    """One line of the benchmark.

    ``mode`` is "forward", "forward for backward" (which keeps what backward needs), "forward + backward", "backward",
    "value and slope", "s per feature" (forward) or "gradient in s" (backward, one learned s); ``goals`` maps a peer to
    the least speed-up over it (peer's time / ours).
    """

    mode: str
    base: str
    n: int
    dtype: torch.dtype
    peers: tuple[str, ...]
    goals: dict[str, float] = field(default_factory=dict)
    ceiling_goal: float | None = None  # share of the copy bandwidth
    s: float = S

    @property
    def name(self) -> str:
        """Such as ``forward relu 1e6 float32``."""
        size = f"{self.n:.0e}".replace("e+0", "e").replace("e+", "e") if self.n >= 10_000 else str(self.n)
        where = "" if self.s == S else f", s = {self.s:g}"
        return f"{self.mode}, {self.base}, {size} {str(self.dtype).removeprefix('torch.')}{where}"

    @property
    def bytes_moved(self) -> float:
        """The fewest bytes: every input read once, every output written once.

        forward: x in, y out. Backward of ReLU: g in, grad_x out, and the mask of one bit per element, which forward
        writes and backward reads; of another base: g and x in, grad_x out. Value and slope: x in, two results out.
        Gradient in s: g and x in.
        """
        item = self.n * self.dtype.itemsize
        mask = self.n / 8
        backward = 2 * item + mask if self.base == "relu" else 3 * item
        forward_for_backward = 2 * item + (mask if self.base == "relu" else 0)
        return {
            "forward": 2 * item,
            "s per feature": 2 * item,
            "gradient in s": 2 * item,
            "forward for backward": forward_for_backward,
            "backward": backward,
            "forward + backward": forward_for_backward + backward,
            "value and slope": 3 * item,
        }[self.mode]


def cpu_cases() -> list[Case]:
    """The Speed table, and float64 beside it."""
    f32, f64 = torch.float32, torch.float64
    relu_peers = (LEAKY, FORMULA, COMPILED)
    never_slower = {LEAKY: 1.0}
    cases = [Case("forward", "relu", n, f32, relu_peers, never_slower) for n in (100_000, 1_000_000)]
    cases += [
        Case("forward + backward", "relu", n, f32, relu_peers, {LEAKY: 1.0, FORMULA: 6.0}) for n in (100_000, 1_000_000)
    ]
    cases += [
        Case("forward + backward", base, 1_000_000, f32, (FORMULA, COMPILED), {FORMULA: 5.0})
        for base in ("tanh", "gelu")
    ]
    # At most 1.6 and 2 times the peer's time.
    cases.append(Case("forward", "relu", 1000, f32, relu_peers, {LEAKY: 1 / 1.6}))
    cases.append(Case("forward + backward", "relu", 1000, f32, relu_peers, {LEAKY: 1 / 2}))
    cases += [
        Case("value and slope", base, n, f32, (TWO_CALLS, FORMULA, COMPILED), {TWO_CALLS: 1.7})
        for base in ("relu", "tanh", "gelu")
        for n in (100_000, 1_000_000)
    ]
    for mode in ("forward", "forward + backward"):
        cases.append(Case(mode, "relu", 1_000_000, f64, relu_peers))
        cases.append(Case(mode, "gelu", 1_000_000, f64, (FORMULA, COMPILED)))
    return cases + own_op_cases()


def own_op_cases() -> list[Case]:
    """Ours in place of torch's own op: leaky_relu at s = 0.5, the other bases at s = 1.

    torch's gelu, good to 1e-7 of 1, loses its digits where the result is small (x < -3); ours has them everywhere.
    """
    cases = []
    for dtype in (torch.float32, torch.bfloat16, torch.float16, torch.float64):
        for base in ("relu", "gelu", "silu", "tanh", "softplus"):
            peer, s = (LEAKY, S) if base == "relu" else (BASE, 1.0)
            cases += [
                Case(mode, base, n, dtype, (peer,), {peer: NEVER_SLOWER}, s=s)
                for n in (100_000, 4_000_000)
                for mode in ("forward", "forward + backward")
            ]
    return cases


def cuda_cases(n: int) -> list[Case]:
    """Memory-bound sizes against the copy bandwidth, and the cost of a small call; n counts float32 elements.

    The goal is the same everywhere: at most 1.02 times the time of whatever a user could pick instead. What matters
    most comes first, lest it fall out of a short run.
    """
    f16, bf16, f32, f64 = torch.float16, torch.bfloat16, torch.float32, torch.float64
    close = 1 / 1.02

    def large(mode: str, base: str, dtype: torch.dtype, *others: str, s: float = S) -> Case:
        peers = others or ((LEAKY, COMPILED) if base == "relu" else (COMPILED,))
        count = n // 2 if dtype == f64 else n
        return Case(mode, base, count, dtype, peers, dict.fromkeys(peers, close), ceiling_goal=0.92, s=s)

    goals = {LEAKY: close, COMPILED: close}
    cases = [Case(mode, "relu", 1000, f32, (LEAKY, COMPILED), goals) for mode in ("forward", "forward + backward")]
    for dtype in (f32, bf16):
        for base in ("relu", "tanh", "gelu"):
            cases += [large(mode, base, dtype) for mode in ("forward", "backward")]
        cases.append(large("forward for backward", "relu", dtype))
    for dtype in (f32, bf16):
        cases += [
            large(mode, base, dtype) for base in ("silu", "softplus", "erf", "sin") for mode in ("forward", "backward")
        ]
        cases += [large(mode, "gelu", dtype, BASE, COMPILED, s=1.0) for mode in ("forward", "backward")]
        cases += [large("value and slope", base, dtype, TWO_CALLS, COMPILED) for base in ("relu", "gelu")]
    for dtype in (f16, f64):
        cases += [large(mode, base, dtype) for base in ("relu", "gelu") for mode in ("forward", "backward")]
    cases += [large("s per feature", base, dtype, COMPILED) for dtype in (f32, bf16) for base in ("relu", "gelu")]
    for dtype in (f32, bf16):
        cases += [Case("gradient in s", base, n, dtype, (), ceiling_goal=0.92) for base in ("relu", "tanh", "gelu")]
    return cases


def _functions(case: Case) -> Iterator[tuple[str, Callable[[Tensor], Any]]]:
    """Name and function of x for ours and every peer of the case."""
    base, s = case.base, case.s
    if case.mode == "s per feature":
        yield from _per_feature(case)
        return
    pair = case.mode == "value and slope"
    plain = formula_pair(base) if pair else formula(base, s)
    if pair:
        yield PAIR, lambda x: hx.homotopy_value_and_slope(x, s, base)
    else:
        yield OURS, lambda x: hx.homotopy(x, s, base)
    for peer in case.peers:
        if peer == LEAKY:
            yield peer, lambda x: F.leaky_relu(x, 1 - s)
        elif peer == TWO_CALLS:
            yield peer, lambda x: (hx.homotopy(x, s, base), hx.homotopy(x, s, base, order=1))
        elif peer == BASE:
            yield peer, _BASES[base]
        elif peer == FORMULA:
            yield peer, plain
        else:
            torch.compiler.reset()  # guards of earlier cases would be tried on every call
            yield peer, torch.compile(plain, fullgraph=True, dynamic=False)


def _per_feature(case: Case) -> Iterator[tuple[str, Callable[[Tensor], Any]]]:
    """FEATURES values of s, those of the peers in x's dtype already."""
    s = {}

    def values(x: Tensor, dtype: torch.dtype) -> Tensor:
        if dtype not in s:
            s[dtype] = torch.linspace(0, 2, FEATURES, dtype=torch.float64, device=x.device).to(dtype)
        return s[dtype]

    yield OURS, lambda x: hx.homotopy(x.view(-1, FEATURES), values(x, torch.float64), case.base).view(-1)
    if COMPILED in case.peers:
        torch.compiler.reset()
        compiled = torch.compile(formula_per_feature(case.base), fullgraph=True, dynamic=False)
        yield COMPILED, lambda x: compiled(x.view(-1, FEATURES), values(x, x.dtype)).view(-1)


def competitors(case: Case, x: Tensor, grad: Tensor) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Name and call, without arguments, of ours and every peer; x and grad have the case's size and dtype.

    Forward: the result. Backward: the gradient in x, or in s, from a graph that is kept. Forward + backward: the
    gradient.
    """
    leaf = x.detach().requires_grad_()
    if case.mode == "gradient in s":
        s = torch.tensor(case.s, dtype=torch.float64, device=x.device, requires_grad=True)
        yield OURS, partial(torch.autograd.grad, hx.homotopy(x, s, case.base), s, grad, retain_graph=True)
        return
    for name, function in _functions(case):
        if case.mode == "forward + backward":
            yield name, _forward_backward(function, leaf, grad)
        elif case.mode == "backward":
            yield name, partial(torch.autograd.grad, function(leaf), leaf, grad, retain_graph=True)
        else:
            yield name, partial(function, leaf if case.mode == "forward for backward" else x)


def _forward_backward(function: Callable[[Tensor], Tensor], leaf: Tensor, grad: Tensor) -> Callable[[], Any]:
    def call() -> Any:
        return torch.autograd.grad(function(leaf), leaf, grad)

    return call
