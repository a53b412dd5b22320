"""Every CUDA kernel once per dtype and ragged size, for compute-sanitizer (run_gpu_checks.sh) or on its own.

Sizes of the activation straddle the 8 elements of a thread and the 2048 of a block; each runs on aligned memory and one
element further on, where 16-byte accesses are not possible. Those of the two-layer network and of its training straddle
its warps' groups and tiles, and the split of the samples where neurons are few. Results are compared with the float64
formula, so a kernel that writes nothing fails too. PYTORCH_NO_CUDA_MEMORY_CACHING=1 gives every tensor an allocation of
its own, without which memcheck cannot see an access beyond its end.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import torch
from torch import Tensor

import hrta_ext as hx
from hrta_ext.activation import native, reference
from hrta_ext.bases import BASES
from hrta_ext.network import native as native_two_layer
from hrta_ext.network import reference as reference_two_layer
from hrta_ext.ntk import native as native_ntk
from hrta_ext.ntk import reference as reference_ntk

SIZES = (1, 7, 8, 9, 2047, 2049)
FEATURES = 3
TOLERANCES = {torch.float16: 1e-2, torch.bfloat16: 6e-2, torch.float32: 1e-5, torch.float64: 1e-12}


def tensors(n: int, dtype: torch.dtype, offset: int) -> tuple[Tensor, Tensor]:
    """x and a gradient, (n), that start ``offset`` elements into their allocations."""
    return tuple(torch.randn(n + offset, device="cuda").to(dtype)[offset:] for _ in range(2))  # type: ignore[return-value]


def results(x: Tensor, grad: Tensor, base: str) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Name, result and exact result of every kernel on x (n) and of the ones with one s per feature."""
    wide, wide_grad = x.double(), grad.double()
    rows = x.numel() // FEATURES
    matrix, matrix_grad = (t[: rows * FEATURES].view(rows, FEATURES) for t in (x, grad))
    per_feature = torch.linspace(0.0, 1.5, FEATURES, device="cuda", dtype=torch.float64)
    one = torch.tensor(0.7, device="cuda", dtype=torch.float64)
    compose = reference.compose
    for order in (0, 1, 2):
        yield f"order {order}", native.evaluate(x, 0.7, base, order), compose(wide, 0.7, base, order)
        yield f"order {order}, s on the device", native.evaluate(x, one, base, order), compose(wide, 0.7, base, order)
        exact = compose(matrix.double(), per_feature, base, order)
        yield f"order {order}, s per feature", native.evaluate(matrix, per_feature, base, order), exact
    for order in (0, 1):
        slope = compose(wide, 0.7, base, order + 1)
        yield f"backward {order}", native.backward(grad, x, 0.7, base, order), wide_grad * slope
        inner = compose(wide, 1.0, base, order) - compose(wide, 0.0, base, order)
        yield f"gradient in s {order}", native.parameter_gradient(grad, x, one, base, order), (wide_grad * inner).sum()
        inner = inner[: rows * FEATURES].view(rows, FEATURES)
        got = native.parameter_gradient(matrix_grad, matrix, per_feature, base, order)
        yield f"gradient in s per feature {order}", got, (matrix_grad.double() * inner).sum(0)
    value, slope = native.value_and_slope(x, 0.7, base)
    yield "value of the pair", value, compose(wide, 0.7, base, 0)
    yield "slope of the pair", slope, compose(wide, 0.7, base, 1)
    in_place = x.clone()
    native.evaluate_in_place(in_place, 0.7, base)
    yield "in place", in_place, compose(wide, 0.7, base, 0)


def relu_results(x: Tensor, grad: Tensor) -> Iterator[tuple[str, Tensor, Tensor]]:
    """The mask kernels."""
    wide, wide_grad = x.double(), grad.double()
    y, mask, stride = native.relu_mask_forward(x, 0.7)
    yield "mask forward", y, reference.compose(wide, 0.7, "relu", 0)
    slope = reference.compose(wide, 0.7, "relu", 1)
    yield "mask backward", native.relu_mask_backward(grad, mask, 0.7, stride), wide_grad * slope


def two_layer_results(
    n: int, m: int, features: int, base: str, dtype: torch.dtype
) -> Iterator[tuple[str, Tensor, Tensor]]:
    """The wide network's kernels against the torch backend in float64, two networks side by side."""
    x, weight, output_weight = (
        torch.randn(shape, device="cuda", dtype=torch.float64).to(dtype)
        for shape in ((n, features), (2, m, features), (2, m))
    )
    s = torch.tensor(0.7, device="cuda", dtype=torch.float64)
    grads = (torch.randn(2, n, device="cuda").to(dtype), torch.randn(2, n, features, device="cuda").to(dtype))
    wide = [tensor.double() for tensor in (x, weight, output_weight)]
    wide_grads = [grad.double() for grad in grads]
    pairs = [
        (native_two_layer.outputs(x, weight, output_weight, s, base, True),
         reference_two_layer.outputs(*wide, s, base, True)),
        (native_two_layer.gradients(grads[0], None, x, weight, output_weight, s, base, (True,) * 4),
         reference_two_layer.gradients(wide_grads[0], None, *wide, s, base, (True,) * 4)),
        (native_two_layer.gradients(*grads, x, weight, output_weight, s, base, (False, True, True, False))[1:3],
         reference_two_layer.gradients(*wide_grads, *wide, s, base, (False, True, True, False))[1:3]),
    ]  # fmt: skip
    for ours, exact in pairs:
        for i, (got, expected) in enumerate(zip(ours, exact, strict=True)):
            yield f"two-layer n {n} m {m} D {features}, result {i}", got, expected


def training_results(dtype: torch.dtype) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Ten steps of the native training, neurons many and few, beside autograd."""
    for n, width in ((33, 130), (700, 5)):
        x = torch.rand(n, 2, device="cuda", dtype=torch.float64).to(dtype)
        y = x.sum(1).sin()
        nets = [hx.TwoLayerNet(2, width, base="relu2", seed=0).to(x) for _ in range(2)]
        given = {"s": 0.7, "steps": 10, "lr": 1e-2, "sample_weight": x[:, 0] + 0.5, "target_gradient": x}
        losses = [hx.fit(net, x, y, engine=e, **given).loss for net, e in zip(nets, ("fused", "torch"), strict=True)]
        yield f"training n {n} m {width}", *losses


def gram_results() -> Iterator[tuple[str, Tensor, Tensor]]:
    """Gram matrices by digits (where the card has them) beside those of the float64 class; drawn neurons; powers."""
    for n, m, features in ((1, 50_000, 2), (130, 40_001, 3), (70, 50_000, 9), (520, 40_000, 4)):
        x = torch.randn(n, features, device="cuda")
        weight, output_weight = hx.random_weights(0, m, features, device="cuda", dtype=torch.float32)
        exact = hx.gram(x.double(), weight.double(), output_weight.double(), (0.5, 1.5))
        for i, (got, expected) in enumerate(zip(hx.gram(x, weight, output_weight, (0.5, 1.5)), exact, strict=True)):
            yield f"gram n {n} m {m} D {features}, result {i}", got, expected
        drawn = hx.random_gram_path(x, m, batches=1)((0.5, 1.5))
        yield f"drawn gram n {n} m {m} D {features}", drawn.a, exact.a
    base = torch.rand(7, 300, device="cuda", dtype=torch.float64)
    left, right = torch.rand(7, 5, device="cuda").double(), torch.rand(5, 300, device="cuda").double()
    yield "power sum", native_ntk.power_sum(left, right, base), reference_ntk.power_sum(left, right, base)


def main() -> int:
    """Run and compare everything; the exit code says whether all agree."""
    if not hx.backends()["cuda"]:
        print(f"no CUDA backend: {hx.build_info()['cuda_reason']}", file=sys.stderr)
        return 2
    torch.manual_seed(0)
    bases = [name for name, base in BASES.items() if base.number is not None]
    found, failures = [], []
    for dtype in TOLERANCES:
        for n in SIZES:
            for offset in (0, 1):
                x, grad = tensors(n, dtype, offset)
                cases = [(base, *case) for base in bases for case in results(x, grad, base)]
                cases += [("relu", *case) for case in relu_results(x, grad)]
                found += [(f"{base}, {name}, n {n}, offset {offset}", dtype, *pair) for base, name, *pair in cases]
    for dtype in (torch.float32, torch.float64):
        for base in bases:
            for sizes in ((33, 70, 2), (129, 65, 3), (600, 5, 9), (5, 130, 16)):
                found += [(f"{base}, {name}", dtype, *pair) for name, *pair in two_layer_results(*sizes, base, dtype)]
        found += [(name, dtype, *pair) for name, *pair in training_results(dtype)]
    found += [(name, torch.float32, *pair) for name, *pair in gram_results()]
    for name, dtype, got, exact in found:
        scale = 1.0 + (exact.abs().max().item() if exact.numel() else 0.0)
        error = (got.double() - exact).abs().max().item() if exact.numel() else 0.0
        if not error <= TOLERANCES[dtype] * scale:  # NaN fails too
            failures.append(f"{name}, {dtype}: error {error:.3g}")
    torch.cuda.synchronize()
    print("\n".join(failures[:50]))
    print(f"{len(found)} results, {len(failures)} wrong")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
