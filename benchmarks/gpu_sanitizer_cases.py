"""Every CUDA kernel once or twice, at the smallest ragged sizes that reach its branches: for compute-sanitizer.

    python benchmarks/gpu_sanitizer_cases.py        # --room network, --seconds 50, --device cpu: a rehearsal

Results are compared with float64 formulas, so a kernel that writes nothing fails too. What is expected is computed on
the CPU, and the tensors are made there: the sanitizer, which slows every launch, sees this package's kernels and few
others. PYTORCH_NO_CUDA_MEMORY_CACHING=1 gives every tensor an allocation of its own, without which memcheck cannot see
an access beyond its end.

A new kernel: a size in the list of its room that reaches it. The rooms take turns, so that each has its share of the
time; what it was too short for is counted and said.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

import hrta_ext as hx
from hrta_ext import compiled
from hrta_ext.bases import BASES

S = 0.7
Result = tuple[str, Tensor, Tensor, float]  # what, result, exact result, tolerance in 1 + its largest number
TOLERANCES = {torch.float16: 1e-2, torch.bfloat16: 6e-2, torch.float32: 1e-5, torch.float64: 1e-12}
NATIVE = [name for name, base in BASES.items() if base.number is not None]

# Elements, and how many the tensor begins behind its allocation: a block and a remainder, and no 16-byte accesses.
ELEMENTS = ((2057, 0), (9, 1))
BEYOND_TORCHS_OWN = 70_001  # elements from which ReLU has its mask at the latest
# Networks, samples, neurons, features, base, dtype; where the ways of csrc/network/cuda/ways.h part.
FLOAT, DOUBLE = torch.float32, torch.float64
NETWORKS: list[tuple[int, int, int, int, str, torch.dtype]] = [
    (1, 101, 5003, 2, "relu", FLOAT),  # arcs
    (2, 33, 3001, 2, "relu", DOUBLE),  # arcs, the second network's weights off the 16-byte grid
    (1, 1001, 1003, 4, "relu", FLOAT),  # wide: tensor cores
    (1, 515, 2051, 16, "relu", FLOAT),
    (2, 257, 2049, 33, "relu", FLOAT),
    (1, 257, 4099, 64, "relu", FLOAT),
    (1, 130, 2051, 70, "relu", FLOAT),  # more features than any kernel holds at once
    (1, 1001, 1003, 4, "tanh", FLOAT),
    (1, 515, 2051, 9, "gelu", FLOAT),
    (1, 515, 2051, 9, "relu2", FLOAT),
    *((2, 33, 70, 2, base, dtype) for dtype in (FLOAT, DOUBLE) for base in NATIVE),  # lanes
    *((1, *sizes, base, dtype) for sizes in ((129, 65, 3), (600, 5, 9), (5, 130, 16))
      for base in ("relu", "relu2", "tanh") for dtype in (FLOAT, DOUBLE)),
]  # fmt: skip
# Networks, samples, neurons, features, second derivatives, their columns, base, dtype.
JETS: list[tuple[int, int, int, int, str, int, str, torch.dtype]] = [
    *((1, 33, 130, features, "laplacian", features, "tanh", dtype)
      for features in (1, 3, 4, 5, 8, 9, 17, 64) for dtype in (FLOAT, DOUBLE)),
    *((2, 33, 70, 3, "laplacian", 2, base, dtype) for dtype in (FLOAT, DOUBLE) for base in NATIVE),  # lanes
    *((2, 33, 35, 3, "hessian", 2, base, dtype) for dtype in (FLOAT, DOUBLE) for base in NATIVE),  # tiles
    *((1, *sizes, "tanh", dtype) for dtype in (FLOAT, DOUBLE)
      for sizes in ((600, 5, 9, "diagonal", 9), (65, 130, 11, "hessian", 10), (5, 34, 64, "diagonal", 64))),
]  # fmt: skip
# Networks trained together, samples, neurons, features, base, dtype, further arguments of fit.
WEIGHTED = {"sample_weight": True}
TRAININGS: list[tuple[int, int, int, int, str, torch.dtype, dict[str, Any]]] = [
    (1, 100, 1000, 2, "relu", FLOAT, {}),  # small, in one launch
    (1, 33, 130, 4, "relu", FLOAT, WEIGHTED),
    (3, 33, 131, 4, "relu", FLOAT, {}),
    (3, 33, 131, 2, "relu", FLOAT, {}),
    (1, 65, 20_011, 2, "relu", FLOAT, {}),  # arcs
    (1, 65, 20_011, 2, "relu", DOUBLE, WEIGHTED),
    (1, 515, 2051, 4, "relu", FLOAT, {}),  # wide
    (1, 257, 4099, 16, "tanh", FLOAT, {"optimizer": "gd"}),
    (1, 33, 130, 3, "gelu", FLOAT, {"optimizer": "gd"}),
    (1, 33, 130, 3, "relu2", FLOAT, {"target_gradient": True}),
    (1, 700, 5, 3, "relu2", DOUBLE, {"target_gradient": True, **WEIGHTED}),
    (1, 33, 130, 3, "relu", FLOAT, {"optimizer": "sgd"}),
]
# Widths of 40 000: int8 digits, of private sums and of shared ones. Two features: arcs; 700 samples on a smaller card
# have their sums in global memory.
GRAMS = [(130, 40_001, 3, "relu", FLOAT), (520, 40_000, 9, "relu", FLOAT), (33, 5001, 2, "relu", FLOAT),
         (33, 3001, 2, "relu", DOUBLE), (700, 501, 2, "relu", FLOAT),
         (130, 2001, 4, "relu", FLOAT), (65, 1001, 3, "relu", DOUBLE),
         (33, 1001, 4, "gelu", FLOAT)]  # fmt: skip
# The ways of smaller cards, on this one.
LIMITS: list[dict[str, int]] = [{"capability": 80, "cluster": 1}, {"shared": 48 * 1024, "multiprocessors": 8}]


@contextmanager
def limited(limits: dict[str, int]) -> Iterator[None]:
    """Every card as if it were no larger."""
    limit = getattr(compiled._C, "limit_cuda", None)
    if limit is not None:
        limit(**limits)
    try:
        yield
    finally:
        if limit is not None:
            limit()


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def on(device: str, tensor: Tensor, dtype: torch.dtype, offset: int = 0) -> tuple[Tensor, Tensor]:
    """The tensor on the device, ``offset`` elements into its allocation, and the same numbers in float64 on the CPU."""
    rounded = tensor.to(dtype)
    if offset == 0:
        return rounded.to(device, copy=True), rounded.double()
    moved = torch.empty(rounded.numel() + offset, dtype=dtype, device=device)[offset:]
    return moved.copy_(rounded.flatten()).view(rounded.shape), rounded.double()


def sigma(x: Tensor, s: float | Tensor, base: str, order: int = 0) -> Tensor:
    """The order-th derivative, exactly enough."""
    with hx.use_backend("torch"):
        return hx.homotopy(x, s, base, order=order)


def elementwise(device: str, base: str, dtype: torch.dtype, n: int, offset: int) -> Iterator[Result]:
    """The activation and its gradients with s as a number, on the device, and one per feature."""
    (x, wide), (grad, wide_grad) = (on(device, normal(n), dtype, offset) for _ in range(2))
    s = torch.tensor(S, dtype=torch.float64, device=device)
    tolerance = TOLERANCES[dtype]
    for order in (0, 1, 2):
        yield f"order {order}", hx.homotopy(x, S, base, order=order), sigma(wide, S, base, order), tolerance
        yield f"order {order}, s a tensor", hx.homotopy(x, s, base, order=order), sigma(wide, S, base, order), tolerance
    value, slope = hx.homotopy_value_and_slope(x, S, base)
    yield "value of the pair", value, sigma(wide, S, base), tolerance
    yield "slope of the pair", slope, sigma(wide, S, base, 1), tolerance
    target, _ = on(device, wide, dtype, offset)
    yield "in place", hx.homotopy_(target, S, base), sigma(wide, S, base), tolerance
    leaf, learned = x.detach().requires_grad_(), s.clone().requires_grad_()
    for order in (0, 1):
        y = hx.homotopy(leaf, S, base, order=order)
        exact = wide_grad * sigma(wide, S, base, order + 1)
        yield f"backward {order}", torch.autograd.grad(y, leaf, grad)[0], exact, tolerance
        inner = wide_grad * (sigma(wide, 1.0, base, order) - sigma(wide, 0.0, base, order))
        got = torch.autograd.grad(hx.homotopy(leaf, learned, base, order=order), learned, grad)[0]
        yield f"gradient in s {order}", got, inner.sum(), tolerance
    rows = n // 3
    per_feature = torch.linspace(0.0, 1.5, 3, dtype=torch.float64)
    matrix, matrix_grad = (t[: 3 * rows].view(rows, 3) for t in (x, grad))
    inside = wide[: 3 * rows].view(rows, 3)
    learned = per_feature.to(device).requires_grad_()
    y = hx.homotopy(matrix, learned, base)
    yield "s per feature", y, sigma(inside, per_feature, base), tolerance
    inner = (sigma(inside, 1.0, base) - sigma(inside, 0.0, base)) * wide_grad[: 3 * rows].view(rows, 3)
    yield "gradient in s per feature", torch.autograd.grad(y, learned, matrix_grad)[0], inner.sum(0), tolerance


def activation(device: str) -> Iterator[Result]:
    """Every base and dtype; ReLU's mask."""
    for n, offset in ELEMENTS:
        for dtype in TOLERANCES:
            for base in NATIVE:
                for what, *rest in elementwise(device, base, dtype, n, offset):
                    yield f"{base}, {what}, n {n}, {dtype}", *rest  # type: ignore[misc]
    for dtype in TOLERANCES:
        (x, wide), (grad, wide_grad) = (on(device, normal(BEYOND_TORCHS_OWN), dtype) for _ in range(2))
        leaf = x.requires_grad_()
        got = torch.autograd.grad(hx.homotopy(leaf, S), leaf, grad)[0]
        yield f"mask of ReLU, {dtype}", got, wide_grad * sigma(wide, S, "relu", 1), TOLERANCES[dtype]


def clear_weights(x: Tensor, *shape: int) -> Tensor:
    """Normal weights (..., m, D) with no pre-activation so small that its sign is a matter of rounding."""
    weight = normal(*shape)
    while True:
        size = x.norm(dim=1) * weight.norm(dim=-1, keepdim=True)
        unclear = ((weight @ x.T).abs() <= 1e-5 * size).any(-1)
        if not unclear.any():
            return weight
        weight[unclear] = normal(int(unclear.sum()), shape[-1])


def network(device: str, sizes: list[Any] = NETWORKS) -> Iterator[Result]:
    """f, df/dx and the gradients in everything; the exact ones by torch's own operations."""
    for count, n, m, features, base, dtype in sizes:
        x, wide_x = on(device, normal(n, features), dtype)
        lead = (count,) if count > 1 else ()
        weight, wide_weight = on(device, clear_weights(wide_x, *lead, m, features), dtype)
        a, wide_a = on(device, normal(*lead, m), dtype)
        (g, wide_g), (G, wide_G) = on(device, normal(*lead, n), dtype), on(device, normal(*lead, n, features), dtype)
        s = torch.tensor(S, dtype=torch.float64, device=device)
        ours = [tensor.requires_grad_() for tensor in (x, weight, a, s)]
        exact = [tensor.requires_grad_() for tensor in (wide_x, wide_weight, wide_a, s.detach().cpu().clone())]
        case, tolerance = f"{count} x n {n}, m {m}, D {features}, {base}, {dtype}", 10 * TOLERANCES[dtype]
        f = hx.two_layer(*ours, base=base)
        with hx.use_backend("torch"):
            wide_f = hx.two_layer(*exact, base=base)
        yield f"f, {case}", f.detach(), wide_f.detach(), tolerance
        grads, wide_grads = torch.autograd.grad(f, ours, g), torch.autograd.grad(wide_f, exact, wide_g)
        for name, got, expected in zip(("x", "weight", "output_weight", "s"), grads, wide_grads, strict=True):
            yield f"gradient in {name}, {case}", got, expected, tolerance
        pair = hx.two_layer_with_gradient(*ours, base=base)
        with hx.use_backend("torch"):
            wide_pair = hx.two_layer_with_gradient(*exact, base=base)
        yield f"df/dx, {case}", pair[1].detach(), wide_pair[1].detach(), tolerance
        grads = torch.autograd.grad(pair, ours[1:3], (g, G))
        wide_grads = torch.autograd.grad(wide_pair, exact[1:3], (wide_g, wide_G))
        for name, got, expected in zip(("weight", "output_weight"), grads, wide_grads, strict=True):
            yield f"gradient of f and df/dx in {name}, {case}", got, expected, tolerance


def jet(device: str) -> Iterator[Result]:
    """Value, gradient and second derivatives, and the gradients in the weights of all three and of the last alone."""
    for count, n, m, features, form, columns, base, dtype in JETS:
        x, wide_x = on(device, normal(n, features), dtype)
        lead = (count,) if count > 1 else ()
        weight, wide_weight = on(device, clear_weights(wide_x, *lead, m, features), dtype)
        a, wide_a = on(device, normal(*lead, m), dtype)
        named: dict[str, Any] = {"base": base, "second": form, "second_columns": range(columns)}
        ours, exact = ([tensor.requires_grad_() for tensor in pair] for pair in ((weight, a), (wide_weight, wide_a)))
        case = f"jet of {count} x n {n}, m {m}, D {features}, {form} {columns}, {base}, {dtype}"
        found = hx.two_layer_jet(x, *ours, S, **named)
        with hx.use_backend("torch"):
            wide = hx.two_layer_jet(wide_x, *exact, S, **named)
        grads = [on(device, normal(*part.shape), dtype) for part in wide]
        for name, got, expected in zip(("value", "gradient", "second"), found, wide, strict=True):
            yield f"{name}, {case}", got.detach(), expected.detach(), 10 * TOLERANCES[dtype]
        for first in (0, 2):
            g, wide_g = zip(*grads[first:], strict=True)
            mine = torch.autograd.grad(found[first:], ours, g, retain_graph=True)
            theirs = torch.autograd.grad(wide[first:], exact, wide_g, retain_graph=True)
            for name, got, expected in zip(("weight", "output_weight"), mine, theirs, strict=True):
                yield f"gradient in {name} of parts from {first} on, {case}", got, expected, 10 * TOLERANCES[dtype]


def training(device: str, sizes: list[Any] = TRAININGS) -> Iterator[Result]:
    """Five steps beside autograd in float64."""
    for count, n, m, features, base, dtype, options in sizes:
        x = torch.rand(n, features - 1, dtype=torch.float64).to(dtype)
        samples = {"x": x, "y": x.double().sum(1).sin().to(dtype)}
        samples |= {"sample_weight": x[:, 0] + 0.5} if options.get("sample_weight") else {}
        samples |= {"target_gradient": x} if options.get("target_gradient") else {}
        given: dict[str, Any] = {"s": S, "steps": 5, "lr": 1e-2, "optimizer": options.get("optimizer", "adam")}
        losses = []
        for where, kind, engine in ((device, dtype, "fused"), ("cpu", torch.float64, "torch")):
            nets = [hx.TwoLayerNet(features - 1, m, base=base, seed=seed).to(where, kind) for seed in range(count)]
            tensors = {name: tensor.to(where, kind) for name, tensor in samples.items()}
            results = hx.fit_ensemble(nets, **tensors, **given, engine=engine) if count > 1 else [
                hx.fit(nets[0], **tensors, **given, engine=engine)]  # fmt: skip
            losses.append(torch.cat([result.loss for result in results]))
        tolerance = 1e-4 if dtype is FLOAT else 1e-10
        what = f"training of {count} x n {n}, m {m}, D {features}, {base}, {dtype}, {', '.join(options)}"
        yield what, *losses, tolerance


def gram(device: str) -> Iterator[Result]:
    """Both matrices beside the CPU's float64 class."""
    for n, m, features, base, dtype in GRAMS:
        x, wide_x = on(device, normal(n, features), dtype)
        weight, wide_weight = on(device, clear_weights(wide_x, m, features), dtype)
        a, wide_a = on(device, normal(m), dtype)
        got = hx.gram(x, weight, a, S, base=base)
        with hx.use_backend("torch"):
            exact = hx.gram(wide_x, wide_weight, wide_a, S, base=base)
        for name, mine, theirs in zip("aw", got, exact, strict=True):
            yield f"G^[{name}], n {n}, m {m}, D {features}, {base}, {dtype}", mine, theirs, TOLERANCES[dtype]


def smaller_cards(device: str) -> Iterator[Result]:
    """The sizes whose ways depend on the card, as on smaller ones."""
    for limits in LIMITS:
        for run, sizes in ((network, NETWORKS[:10]), (training, TRAININGS[:8])):
            for size in sizes:
                with limited(limits):
                    found = list(run(device, [size]))
                yield from ((f"{what}, limits {limits}", *rest) for what, *rest in found)  # type: ignore[misc]


ROOMS: dict[str, Callable[[str], Iterator[Result]]] = {
    "activation": activation,
    "network": network,
    "jet": jet,
    "training": training,
    "gram": gram,
    "smaller_cards": smaller_cards,
}


def taking_turns(rooms: list[str], device: str) -> Iterator[Result]:
    """A few results of each room after the other."""
    open_rooms = [iter(ROOMS[name](device)) for name in rooms]
    while open_rooms:
        for room in list(open_rooms):
            for _ in range(8):
                result = next(room, None)
                if result is None:
                    open_rooms.remove(room)
                    break
                yield result


def wrong(result: Result) -> list[str]:
    """A line where the result is not the exact one."""
    what, got, exact, tolerance = result
    exact = exact.detach().double().cpu()
    error = (got.detach().double().cpu() - exact).abs().max().item()
    right = error <= tolerance * (1.0 + exact.abs().max().item())  # not of NaN
    return [] if right else [f"{what}: error {error:.3g}"]


def main() -> int:
    """Run and compare everything; the exit code says whether all agree."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--room", action="append", choices=list(ROOMS), help="may be repeated; default: all")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin nothing after these")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    arguments = parser.parse_args()
    if not hx.backends()["cuda" if arguments.device == "cuda" else "cpp"]:
        print(f"no kernels for {arguments.device}: {hx.build_info()['cuda_reason']}", file=sys.stderr)
        return 2
    torch.manual_seed(0)
    start, done, failures, complete = time.perf_counter(), 0, [], True
    for result in taking_turns(arguments.room or list(ROOMS), arguments.device):
        done += 1
        failures += wrong(result)
        if time.perf_counter() - start > arguments.seconds:
            complete = False
            break
    print("\n".join(failures[:50]))
    rest = "" if complete else f"; the rest was left out after {arguments.seconds:g} seconds"
    print(f"{done} results, {len(failures)} wrong{rest}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
