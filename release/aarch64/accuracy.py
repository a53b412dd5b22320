"""The kernels of the binary against formulas in float64, with NumPy alone: python accuracy.py FOLDER_OF_THE_BINARY.

What the tests of the package ask of an x86-64 machine, for one on which torch does not run: the kernels know nothing of
torch, and the binding takes addresses. Tolerances are those that the docs state.
"""

from __future__ import annotations

import math
import platform
import sys

import numpy as np

sys.path.insert(0, sys.argv[1])
import _C

KINDS = {"float16": 0, "float32": 2, "float64": 3}
RNG = np.random.default_rng(0)
CPU = -1


def at(array: np.ndarray) -> int:
    """Where an array is."""
    return array.ctypes.data


def each(function):
    """A function of the math module on arrays."""
    return lambda z: np.vectorize(function, otypes=[float])(z)


def sigmoid(z: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-z)) without overflow."""
    e = np.exp(-np.abs(z))
    return np.where(z >= 0, 1.0, e) / (1.0 + e)


erf = each(math.erf)
below = each(lambda z: 0.5 * math.erfc(-z / math.sqrt(2.0)))  # the normal distribution's


def density(z: np.ndarray) -> np.ndarray:
    """The normal distribution's."""
    return np.exp(-z * z / 2.0) / math.sqrt(2.0 * math.pi)


# Value, slope and curvature of every base.
BASES = {
    "relu": (lambda z: np.maximum(z, 0.0), lambda z: (z > 0) * 1.0, lambda z: 0.0 * z),
    "relu2": (lambda z: np.maximum(z, 0.0) ** 2 / 2.0, lambda z: np.maximum(z, 0.0), lambda z: (z > 0) * 1.0),
    "tanh": (np.tanh, lambda z: 1.0 / np.cosh(z) ** 2, lambda z: -2.0 * np.tanh(z) / np.cosh(z) ** 2),
    "gelu": (lambda z: z * below(z), lambda z: below(z) + z * density(z), lambda z: (2.0 - z * z) * density(z)),
    "silu": (
        lambda z: z * sigmoid(z),
        lambda z: sigmoid(z) * (1.0 + z * sigmoid(-z)),
        lambda z: sigmoid(z) * sigmoid(-z) * (2.0 + z * (sigmoid(-z) - sigmoid(z))),
    ),
    "softplus": (lambda z: np.logaddexp(0.0, z), sigmoid, lambda z: sigmoid(z) * sigmoid(-z)),
    "erf": (
        erf,
        lambda z: 2.0 / math.sqrt(math.pi) * np.exp(-z * z),
        lambda z: -4.0 * z / math.sqrt(math.pi) * np.exp(-z * z),
    ),
    "sin": (np.sin, np.cos, lambda z: -np.sin(z)),
}


def check(what: str, got: np.ndarray, right: np.ndarray, allowed: np.ndarray | float) -> None:
    """Every number within ``allowed`` of the right one."""
    error = np.abs(got.astype(np.float64) - right) / allowed
    assert error.max() <= 1.0, f"{what}: {error.max():.3g} times what is allowed"


def spacing(size: np.ndarray, dtype: str) -> np.ndarray:
    """Of numbers of the type as large as ``size``."""
    return np.spacing(np.abs(size).astype(dtype)).astype(np.float64)


def check_activation(base: str) -> None:
    """float32 within 4 ulp of the larger term (6 for the curvature), float64 within 8, float16 rounded once."""
    value, slope, curvature = BASES[base]
    for dtype, ulps in (("float16", 0.6), ("float32", 4.0), ("float64", 8.0)):
        x = np.concatenate([RNG.standard_normal(1003) * 4.0, np.linspace(-20.0, 20.0, 401)]).astype(dtype)
        z, y = x.astype(np.float64), np.empty_like(x)
        for s in (0.0, 0.5, 1.0, 1.5, 2.0):
            for quantity, right, size in (
                (0, (1.0 - s) * z + s * value(z), np.maximum(np.abs((1.0 - s) * z), np.abs(s * value(z)))),
                (1, (1.0 - s) + s * slope(z), np.maximum(np.abs(s * slope(z)), max(abs(1.0 - s), s))),
                (2, s * curvature(z), np.maximum(np.abs(s * curvature(z)), max(s, 1e-3))),
            ):
                _C.transform(at(x), at(y), x.size, KINDS[dtype], _C.BASES.index(base), quantity, s, 0, 0, 0, 0, CPU)
                if dtype == "float16":
                    size = np.maximum(size, np.abs(right))
                # The formulas here round z^2 before they take its exponential.
                lost = 2.0 * z * z if base in ("gelu", "erf") and dtype == "float64" else 0.0
                allowed = (ulps + lost + (2.0 if quantity == 2 and dtype == "float32" else 0.0)) * spacing(size, dtype)
                check(f"{base}, {dtype}, s = {s}, order {quantity}", y, right, allowed)


def check_network(base: str) -> None:
    """f, df/dx, the Laplacian and the gradients in the weights, against the sums written out."""
    value, slope, curvature = BASES[base]
    for dtype, allowed in (("float32", 4e-6), ("float64", 1e-13)):
        n, features, m, s = 37, 3, 701, 1.5
        x, weight, output_weight, grad = (
            RNG.standard_normal(shape).astype(dtype) for shape in ((n, features), (m, features), (m,), (n,))
        )
        call = _C.TwoLayerCall(
            dtype=KINDS[dtype], base=_C.BASES.index(base), networks=1, n=n, features=features, width=m, x=at(x),
            weight=at(weight), output_weight=at(output_weight), s=s, s_value=0,
        )  # fmt: skip
        x64, w64, a64 = (part.astype(np.float64) for part in (x, weight, output_weight))
        z = x64 @ w64.T
        sigma, first = (1.0 - s) * z + s * value(z), (1.0 - s) + s * slope(z)
        root = math.sqrt(m)
        f, df_dx = np.empty(n, dtype), np.empty((n, features), dtype)
        _C.two_layer_forward(call, at(f), at(df_dx), 0, CPU)
        check(f"f of {base}, {dtype}", f, sigma @ a64 / root, allowed * np.abs(sigma).max() * root)
        check(f"df/dx of {base}, {dtype}", df_dx, (first * a64) @ w64 / root, allowed * 10.0 * root)
        grads = np.empty_like(weight), np.empty_like(output_weight)
        _C.two_layer_backward(call, at(grad), 0, at(grads[0]), at(grads[1]), 0, CPU)
        g = grad.astype(np.float64)
        check(f"weight gradient, {base}, {dtype}", grads[0], ((first * a64).T * g) @ x64 / root, allowed * 100.0)
        check(f"output weight gradient, {base}, {dtype}", grads[1], g @ sigma / root, allowed * 100.0)
        if base in ("relu", "relu2"):
            continue
        second, laplacian = np.empty((n, 1), dtype), (s * curvature(z) * a64) @ (w64**2).sum(1) / root
        _C.two_layer_jet_forward(call, 0, 7, at(f), at(df_dx), at(second))
        check(f"Laplacian of {base}, {dtype}", second[:, 0], laplacian, allowed * 10.0 * root)


# Neuron 5 of seed 7, three features and the output weight: what every release draws on every machine.
KNOWN_NEURON = (1.2608507871627808, -0.09081599861383438, -0.46537691354751587, -0.7589799165725708)


def check_gram(base: str) -> None:
    """Sums over drawn neurons and both matrices at s, in both classes of accuracy, against dense products."""
    n, features, m, s, seed = 23, 3, 1500, 1.5, 7
    value, slope, _ = BASES[base]
    weight, output_weight = np.empty((m, features), np.float32), np.empty(m, np.float32)
    _C.random_weights(seed, 5, m, features, at(weight), at(output_weight), CPU)
    check("random_weights", np.append(weight[0], output_weight[0]), np.array(KNOWN_NEURON), 1e-6)
    x = RNG.standard_normal((n, features))
    z, a64 = x @ weight.astype(np.float64).T, output_weight.astype(np.float64)
    sigma, first = (1.0 - s) * z + s * value(z), ((1.0 - s) + s * slope(z)) * a64
    right = sigma @ sigma.T / m, x @ x.T * (first @ first.T) / m
    for high, dtype, allowed in ((False, "float32", 1e-6), (True, "float64", 1e-13)):
        sums = {"linear": np.zeros((n, features)), "cross": np.zeros((n, features)), "square_sum": np.zeros(1)}
        sums |= {"slope_sum": np.zeros(n), "value_product": np.zeros((n, n)), "slope_product": np.zeros((n, n))}
        call = _C.GramCall(
            base=_C.BASES.index(base), digits=_C.gram_digits(_C.BASES.index(base), high, m), n=n, n2=0, D=features, m=m,
            x=at(x), neurons=_C.Neurons(dtype=KINDS["float32"], weight=0, output_weight=0, seed=seed, first=5),
            scratch_bytes=2**24, sums=_C.GramSums(**{name: at(part) for name, part in sums.items()}),
        )  # fmt: skip
        assert _C.gram_sums(call)
        a, w, at_s = np.empty((n, n), dtype), np.empty((n, n), dtype), np.array([s])
        evaluation = _C.GramEvaluation(
            n=n, n2=0, D=features, x=at(x), S=1, high=high, derivative=False, width=m, s=at(at_s),
            sums=_C.GramSums(**{name: at(part) for name, part in sums.items()}), a=at(a), w=at(w),
        )  # fmt: skip
        _C.gram_evaluate(evaluation, CPU)
        for name, mine, matrix in zip(("a", "w"), (a, w), right, strict=True):
            check(f"G[{name}] of {base}, {dtype}", mine, matrix, allowed * np.linalg.norm(matrix))


def main() -> None:
    """Every base; an AssertionError names what is wrong."""
    assert set(_C.BASES) == set(BASES), f"formulas are here for {sorted(BASES)}, kernels for {_C.BASES}"
    for base in BASES:
        check_activation(base)
        check_network(base)
        check_gram(base)
    print(f"{platform.machine()}, {_C.build_info()['compiler']}: activation, network, jet and Gram matrices are right")


if __name__ == "__main__":
    main()
