"""What ``hrta doctor`` tries: every op on the backend in charge, against formulas in float64 that share no kernel.

sigma is taken from ``hrta_ext.bases``; its derivatives, those of the networks and the steps of the training come from
``torch.autograd``, the infinite widths from quadrature.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

import hrta_ext as hx
from hrta_ext.bases import BASES

NATIVE_BASES = tuple(name for name, base in BASES.items() if base.number is not None)
_PARAMETERS = (1.0, 1.5)
# Where the terms cancel nothing is lost but rounding: a broken kernel is off by far more than these.
_ACTIVATION_ULPS = 16
_NETWORK = {torch.float32: 2e-5, torch.float64: 1e-11}
_GRAM = {torch.float32: 1e-5, torch.float64: 1e-12}


class Wrong(Exception):
    """A result is not what it should be."""


def _compare(what: str, got: Tensor, expected: Tensor, allowed: Tensor | float) -> None:
    """|got - expected| <= allowed (1 + |expected|) everywhere; ``allowed`` broadcasts."""
    if got.shape != expected.shape:
        raise Wrong(f"{what} has shape {tuple(got.shape)}, not {tuple(expected.shape)}")
    off = (got.detach().cpu().double() - expected.detach()).abs() / (1.0 + expected.detach().abs())
    if not bool((off <= allowed).all()):
        raise Wrong(f"{what} is off by {float(off.max()):.1e}")


def _draw(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(len(shape)), dtype=torch.float64)


def _sigma(z: Tensor, s: float | Tensor, base: str) -> Tensor:
    return (1.0 - s) * z + s * BASES[base].value(z)


def _derivatives(x: Tensor, base: str) -> tuple[Tensor, Tensor, Tensor]:
    """sigma, sigma' and sigma'' at x, the last two by autograd."""
    z = x.detach().requires_grad_()
    value = BASES[base].value(z)
    (slope,) = torch.autograd.grad(value.sum(), z)
    rise = BASES[base].slope(z)
    curvature = torch.autograd.grad(rise.sum(), z)[0] if rise.requires_grad else torch.zeros_like(x)
    return value.detach(), slope, curvature


# ---- the activation ----


@cache
def _activation_problems(device: str) -> list[tuple[str, Tensor, str, Tensor, Tensor, Tensor]]:
    """(base, x on the device, what to call it, sigma, sigma', sigma'') with the exact values on the CPU."""
    problems = []
    for dtype in (torch.float32, torch.float64, torch.float16, torch.bfloat16):
        x = torch.linspace(-4.0, 4.0, 1001, dtype=torch.float64).to(dtype)
        for base in NATIVE_BASES:
            what = f"{base} in {str(dtype).removeprefix('torch.')}"
            problems.append((base, x.to(device), what, *_derivatives(x.double(), base)))
    return problems


def _activation(run: Callable[[Tensor, float, str], Sequence[Tensor]], orders: Sequence[int]) -> Callable[[str], None]:
    """A check of a function of (x, s, base) that gives the derivatives ``orders`` of sigma_s."""

    def check(device: str) -> None:
        for base, x, what, *sigma in _activation_problems(device):
            exact, allowed = x.cpu().double(), _ACTIVATION_ULPS * torch.finfo(x.dtype).eps
            for s in _PARAMETERS:
                terms = [(1.0 - s) * exact, torch.full_like(exact, 1.0 - s), torch.zeros_like(exact)]
                for order, got in zip(orders, run(x, s, base), strict=True):
                    size = 1.0 + (1.0 + exact.abs()) / (1.0 + (terms[order] + s * sigma[order]).abs())
                    name = ("value", "slope", "curvature")[order]
                    _compare(f"{name} of {what} at s = {s:g}", got, terms[order] + s * sigma[order], allowed * size)

    return check


def _strided(x: Tensor, s: float, base: str) -> list[Tensor]:
    wide = x.new_full((len(x), 3), math.nan)
    wide[:, 1] = x
    return [hx.homotopy(wide[:, 1], s, base)]


def _per_feature(x: Tensor, s: float, base: str) -> list[Tensor]:
    both = hx.homotopy(x[:, None].expand(-1, 2), x.new_tensor([s, 0.25]), base)
    return [both[:, 0]]


def _in_place(x: Tensor, s: float, base: str) -> list[Tensor]:
    leaf = x.clone().requires_grad_()
    value = hx.homotopy_(leaf * 1.0, s, base)
    (slope,) = torch.autograd.grad(value.sum(), leaf)
    return [hx.homotopy_(x.clone(), s, base), value, slope]


def _backward(x: Tensor, s: float, base: str) -> list[Tensor]:
    leaf = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(hx.homotopy(leaf, s, base).sum(), leaf)
    (learned,) = torch.autograd.grad(hx.homotopy(leaf, x.new_tensor(s).requires_grad_(), base).sum(), leaf)
    (curvature,) = torch.autograd.grad(hx.homotopy(leaf, s, base, order=1).sum(), leaf, allow_unused=True)
    return [slope, learned, torch.zeros_like(x) if curvature is None else curvature]


def _dispatched(x: Tensor, s: float, base: str) -> list[Tensor]:
    number, parameter = BASES[base].number, torch.tensor(s, dtype=torch.float64, device=x.device)
    return [torch.ops.hrta_ext.homotopy(x, parameter, number, order) for order in (0, 1, 2)]


def _parameter_gradient(device: str) -> None:
    for base, x, what, value, _, _ in _activation_problems(device):
        exact = x.cpu().double()
        for shape in ((), (1,)):
            s = torch.full(shape, 0.5, dtype=x.dtype, device=x.device, requires_grad=True)
            (got,) = torch.autograd.grad(hx.homotopy(x[:, None], s, base).float().sum(), s)
            allowed = 64 * torch.finfo(x.dtype).eps * float((value.abs() + exact.abs()).sum())
            _compare(f"gradient in s of {what}", got, (value - exact).sum().reshape(shape), allowed)


# ---- two-layer networks ----


class _Network(NamedTuple):
    """One problem, and what is right for it: f (and df/dx), and the gradients of their sum with ``grads``, float64."""

    what: str
    base: str
    s: float
    tensors: list[Tensor]  # x, weight, output_weight
    outputs: list[Tensor]
    grads: list[Tensor]
    gradients: list[Tensor]  # in x, weight, output_weight and s


def _dense(tensors: Sequence[Tensor], s: Tensor | float, base: str) -> tuple[Tensor, Tensor]:
    """f and df/dx from the n x m matrix."""
    x, weight, output_weight = tensors
    z, scale = x @ weight.mT, weight.shape[-2] ** -0.5
    f = (_sigma(z, s, base) * output_weight.unsqueeze(-2)).sum(-1)
    slope = (1.0 - s) + s * BASES[base].slope(z)
    return scale * f, scale * (slope * output_weight.unsqueeze(-2)) @ weight


@cache
def _networks(with_gradient: bool) -> list[_Network]:
    """Every base; few features and many, one network and two, and ReLU's arcs."""
    found = []
    for dtype in (torch.float32, torch.float64):
        for base in NATIVE_BASES:
            shapes = [(19, 103, 1), (37, 60, 2), (9, 70, 5)] + [(300, 1100, 2)] * (base == "relu")
            for n, width, features in shapes:
                tensors = [_draw(n, features), _draw(width, features), _draw(width)]
                if features == 5:
                    tensors[1:] = [torch.stack([tensor, 1.0 - tensor]) for tensor in tensors[1:]]
                s, tensors = (0.5 if features == 1 else 1.5), [tensor.to(dtype) for tensor in tensors]
                leaves = [tensor.to(torch.float64, copy=True).requires_grad_() for tensor in tensors]
                leaves.append(torch.tensor(s, dtype=torch.float64, requires_grad=True))
                outputs = _dense(leaves[:3], leaves[3], base)[: 1 + with_gradient]
                grads = [_draw(*part.shape).to(dtype) for part in outputs]
                gradients = torch.autograd.grad(outputs, leaves, [grad.double() for grad in grads])
                what = f"{base}, D = {features}, {str(dtype).removeprefix('torch.')}"
                found.append(_Network(what, base, s, tensors, [*outputs], grads, [*gradients]))
    return found


def _network(with_gradient: bool) -> Callable[[str], None]:
    def run(leaves: Sequence[Tensor], s: Tensor, base: str) -> tuple[Tensor, ...]:
        x, weight, output_weight = leaves
        if with_gradient:
            return hx.two_layer_with_gradient(x, weight, output_weight, s, base=base)
        return (hx.two_layer(x, weight, output_weight, s, base=base),)

    def check(device: str) -> None:
        for what, base, s, tensors, outputs, grads, gradients in _networks(with_gradient):
            here, parameter = [tensor.to(device) for tensor in tensors], tensors[0].new_tensor(s, device=device)
            _compare_network(what, ("f", "df/dx"), run(here, parameter, base), outputs)
            leaves = [tensor.clone().requires_grad_() for tensor in (*here, parameter)]
            live = run(leaves[:3], leaves[3], base)
            _compare_network(what, ("f", "df/dx"), live, outputs)
            got = torch.autograd.grad(live, leaves, [grad.to(device) for grad in grads])
            names = [f"the gradient in {name}" for name in ("x", "weight", "output_weight", "s")]
            _compare_network(what, names, got, gradients)

    return check


def _compare_network(what: str, names: Sequence[str], got: Sequence[Tensor], expected: Sequence[Tensor]) -> None:
    for name, mine, right in zip(names, got, expected, strict=False):
        size = max(10.0, float(right.detach().abs().max()))
        _compare(f"{name} of {what}", mine, right, _NETWORK[mine.dtype] * size)


def _dispatched_network(device: str) -> None:
    for what, base, s, tensors, outputs, _, _ in _networks(True):
        here, parameter = [tensor.to(device) for tensor in tensors], torch.tensor(s, dtype=torch.float64)
        got = torch.ops.hrta_ext.two_layer_with_gradient(*here, parameter, BASES[base].number)
        _compare_network(what, ("f", "df/dx"), got, outputs)
        (f,) = (torch.ops.hrta_ext.two_layer(*here, parameter, BASES[base].number),)
        _compare_network(what, ("f",), (f,), outputs)


# ---- Gram matrices ----


def _gram_problem(features: int, device: str, dtype: torch.dtype) -> list[Tensor]:
    x = _draw(70, features) / features**0.5
    return [tensor.to(dtype).to(device) for tensor in (x, _draw(300, features), _draw(300))]


def _dense_gram(tensors: Sequence[Tensor], s: float, base: str) -> tuple[Tensor, Tensor]:
    x, weight, output_weight = (tensor.cpu().double() for tensor in tensors)
    z = x @ weight.mT
    value, slope = _sigma(z, s, base), ((1.0 - s) + s * BASES[base].slope(z)) * output_weight
    return value @ value.mT / len(weight), x @ x.mT * (slope @ slope.mT) / len(weight)


def _gram(through_path: bool) -> Callable[[str], None]:
    def check(device: str) -> None:
        for base in NATIVE_BASES:
            for dtype in (torch.float32, torch.float64):
                for features in (2, 5):
                    tensors = _gram_problem(features, device, dtype)
                    if through_path:  # a quadratic in s: the central difference over [0, 2] is its derivative at 1
                        got = hx.gram_path(*tensors, base=base).derivative(1.0)
                        ends = [_dense_gram(tensors, s, base) for s in (0.0, 2.0)]
                        expected = [(high - low) / 2.0 for low, high in zip(*ends, strict=True)]
                    else:
                        got, expected = (
                            hx.gram(tensors[0], tensors[1], tensors[2], 1.5, base=base),
                            list(_dense_gram(tensors, 1.5, base)),
                        )
                    for name, mine, right in zip(("a", "w"), got, expected, strict=True):
                        what = f"G[{name}] of {base}, D = {features}, {str(dtype).removeprefix('torch.')}"
                        _compare(what, mine, right, _GRAM[dtype] * max(1.0, float(right.abs().max())))

    return check


# Neuron 5 of seed 7, three features and the output weight: what every release draws.
_KNOWN_NEURON = (1.2608507871627808, -0.09081599861383438, -0.46537691354751587, -0.7589799165725708)


def _random(device: str) -> None:
    weight, output_weight = hx.random_weights(5, 400, 3, seed=7, device=device, dtype=torch.float64)
    known = torch.tensor(_KNOWN_NEURON, dtype=torch.float64)
    _compare("random_weights", torch.cat([weight[0], output_weight[:1]]), known, 1e-6)
    x = (_draw(20, 3) / 2.0).to(device)
    for base in NATIVE_BASES:
        got = hx.random_gram_path(x, 400, seed=7, first_neuron=5, base=base)(1.5)
        for mine, right in zip(got, _dense_gram([x, weight, output_weight], 1.5, base), strict=True):
            _compare(f"random_gram_path of {base}", mine, right, 1e-11 * max(1.0, float(right.abs().max())))


def _expectation(base: str, x: Tensor, y: Tensor) -> float:
    """E[sigma(u) sigma(v)] of normal u, v with the covariances of x and y, by Gauss-Hermite quadrature."""
    nodes, weights = (torch.tensor(part) for part in np.polynomial.hermite_e.hermegauss(100))
    along, across = float(x @ y / x.norm()), float((y - (x @ y) / (x @ x) * x).norm())
    u, v = x.norm() * nodes[:, None], along * nodes[:, None] + across * nodes
    product = BASES[base].value(u) * BASES[base].value(v)
    return float((product * weights[:, None] * weights).sum() / (2.0 * math.pi))


def _infinite(device: str) -> None:
    x = torch.tensor([[0.6, -0.2], [0.3, 0.5], [-0.4, 0.1]], dtype=torch.float64)
    for base in NATIVE_BASES:
        a = hx.infinite_gram(x.to(device), 1.0, base=base).a
        if base in ("relu", "relu2"):  # kinks: the moments of half a normal variable instead
            r2 = x.square().sum(-1)
            expected, a, allowed = (r2 / 2.0 if base == "relu" else 3.0 * r2.square() / 8.0), a.diagonal(), 1e-12
        else:
            expected = torch.tensor([[_expectation(base, u, v) for v in x] for u in x], dtype=torch.float64)
            allowed = 1e-7
        _compare(f"infinite_gram of {base}", a, expected, allowed)
    name = "sin of hrta doctor"  # as a base of the user's own, which goes another way
    hx.register_base(name, torch.sin, torch.cos, lambda z: -torch.sin(z))
    try:
        got, right = (hx.infinite_gram(x.to(device), 1.5, base=base).ntk for base in (name, "sin"))
    finally:
        del BASES[name]
    _compare("infinite_gram of a registered base", got, right.cpu(), 1e-9)


# ---- training ----


def _training(engine: str) -> Callable[[str], None]:
    def check(device: str) -> None:
        for base in NATIVE_BASES:
            _train(device, engine, base, torch.float32, "adam", False)
            _train(device, engine, base, torch.float64, "sgd", base != "relu")

    return check


def _train(device: str, engine: str, base: str, dtype: torch.dtype, optimizer: str, sobolev: bool) -> None:
    """Seven steps over two stages against a plain loop in float64; all losses, and the weights at the end."""
    net = hx.TwoLayerNet(1, 60, base=base, seed=3).to(dtype)
    weights = [p.detach().to(torch.float64, copy=True).requires_grad_() for p in (net.weight, net.output_weight)]
    x = torch.linspace(0.0, 1.0, 20, dtype=torch.float64)[:, None].to(dtype)
    y, slope = torch.sin(6.0 * x[:, 0]), 6.0 * torch.cos(6.0 * x)
    result = hx.fit(
        net.to(device), x.to(device), y.to(device), s=(0.5, 1.5), steps=(3, 4), optimizer=optimizer, lr=1e-2,
        engine=engine, target_gradient=slope.to(device) if sobolev else None,
    )  # fmt: skip
    losses, moments = [], [(torch.zeros_like(weight), torch.zeros_like(weight)) for weight in weights]
    for step in range(7):
        f, df_dx = _dense([hx.with_bias(x.double()), *weights], 0.5 if step < 3 else 1.5, base)
        loss = (f - y.double()).square().mean() / 2.0
        if sobolev:
            loss = loss + (df_dx[:, :1] - slope.double()).square().sum(-1).mean() / 2.0
        losses.append(loss.detach())
        grads = torch.autograd.grad(loss, weights)
        with torch.no_grad():
            for weight, grad, (first, second) in zip(weights, grads, moments, strict=True):
                if optimizer == "adam":  # Kingma and Ba (2015), algorithm 1
                    first.lerp_(grad, 0.1)
                    second.lerp_(grad.square(), 0.001)
                    grad = first / (1.0 - 0.9 ** (step + 1))
                    grad = grad / ((second / (1.0 - 0.999 ** (step + 1))).sqrt() + 1e-8)
                weight -= 1e-2 * grad
    allowed = 1e-4 if dtype == torch.float32 else 1e-9
    what = f"{base}, {optimizer}, {str(dtype).removeprefix('torch.')}"
    _compare(f"loss of {what}", result.loss, torch.stack(losses), allowed)
    for mine, right in zip((net.weight, net.output_weight), weights, strict=True):
        _compare(f"weights of {what}", mine, right, allowed)


def checks(engine: str) -> dict[str, Callable[[str], None]]:
    """Every op by its name, and what raises unless it is right on a device."""
    return {
        "homotopy": _activation(lambda x, s, b: [hx.homotopy(x, s, b, order=k) for k in (0, 1, 2)], (0, 1, 2)),
        "homotopy of a strided x": _activation(_strided, (0,)),
        "homotopy with an s per feature": _activation(_per_feature, (0,)),
        "homotopy_value_and_slope": _activation(lambda x, s, b: hx.homotopy_value_and_slope(x, s, b), (0, 1)),
        "homotopy_": _activation(_in_place, (0, 0, 1)),
        "backward of homotopy": _activation(_backward, (1, 1, 2)),
        "backward of homotopy in s": _parameter_gradient,
        "torch.ops.hrta_ext.homotopy": _activation(_dispatched, (0, 1, 2)),
        "two_layer": _network(False),
        "two_layer_with_gradient": _network(True),
        "torch.ops.hrta_ext.two_layer": _dispatched_network,
        "gram": _gram(False),
        "gram_path": _gram(True),
        "random_gram_path": _random,
        "infinite_gram": _infinite,
        "fit": _training(engine),
    }


def failures(device: str, engine: str) -> list[str]:
    """What is wrong with the backend in charge, an op a line."""
    found = []
    for name, check in checks(engine).items():
        try:
            check(device)
        except Wrong as wrong:
            found.append(f"{name}: {wrong}")
        except Exception as error:  # whatever it does wrong is what the user is to read
            text = " ".join(str(error).split())
            found.append(f"{name} raises {type(error).__name__}: {text[:200]}")
    return found


def main(name: str) -> None:
    """The tests of backend ``name`` in a process of its own, which a kernel may take down; nothing is reported."""
    device = "cuda" if name == "cuda" else "cpu"
    failures(device, "fused")
    with hx.use_backend(name):
        failures(device, "fused")
