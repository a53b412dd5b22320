"""hx.two_layer and two_layer_with_gradient against the dense float64 formula; determinism, memory, bad input.

Tolerances: float64 1e-12 of the result's largest element, float32 1e-5: a sum of up to 3001 terms whose own rounding
errors (eps each) average out.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from cases import BASES
from network.cases import dense, dense_gradient, dense_weight_gradients, problem
from torch import Tensor

import hrta_ext as hx

# Ragged against tiles of 16, 32 and 64 neurons, chunks of 256 and 512, and groups of 4, 64 and 256 samples.
SIZES = [(1, 1), (5, 33), (100, 64), (260, 65), (129, 3001)]
FEATURES = [*range(1, 11), 40]
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}


def assert_near(ours: Tensor, exact: Tensor, dtype: torch.dtype, factor: float = 1.0) -> None:
    assert ours.dtype == dtype
    assert ours.shape == exact.shape
    scale = exact.abs().max().item() if exact.numel() else 0.0
    torch.testing.assert_close(ours.cpu().double(), exact, rtol=0.0, atol=factor * TOLERANCE[dtype] * scale + 1e-300)


def check(
    device: torch.device, dtype: torch.dtype, base: str, n: int, m: int, features: int, networks: tuple[int, ...]
) -> None:
    """f, df/dx and every fused gradient of one problem."""
    x, weight, output_weight = problem(n, m, features, dtype, networks)
    s = (0.5, 1.0, 1.5)[(n + m + features) % 3]
    grad_f, grad_df_dx, *_ = problem(n, m, features, dtype)
    grad_f = torch.randn(*networks, n, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)
    grad_df_dx = grad_df_dx.new_empty(*networks, n, features)
    grad_df_dx = torch.randn(grad_df_dx.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64).to(
        dtype
    )
    leaves = [t.to(device).requires_grad_() for t in (x, weight, output_weight)]
    s_leaf = torch.tensor(s, dtype=torch.float64, requires_grad=True)
    f = hx.two_layer(*leaves, s_leaf, base=base)
    exact = dense(x, weight, output_weight, s, base)
    assert_near(f.detach(), exact, dtype)
    grad_x, grad_w, grad_a, grad_s = torch.autograd.grad(f, (*leaves, s_leaf), grad_f.to(device))
    exact_w, exact_a = dense_weight_gradients(grad_f, None, x, weight, output_weight, s, base)
    slope = dense_gradient(x, weight, output_weight, s, base)
    exact_x = (grad_f.double().unsqueeze(-1) * slope).reshape(-1, n, features).sum(0)
    at_1, at_0 = (dense(x, weight, output_weight, t, base) for t in (1.0, 0.0))
    assert_near(grad_x, exact_x, dtype)
    assert_near(grad_w, exact_w, dtype)
    assert_near(grad_a, exact_a, dtype)
    scale = (grad_f.double() * (at_1 - at_0)).abs().sum().item()
    assert abs(grad_s.item() - (grad_f.double() * (at_1 - at_0)).sum().item()) <= TOLERANCE[dtype] * scale + 1e-300
    f, df_dx = hx.two_layer_with_gradient(*leaves, s, base=base)
    assert_near(f.detach(), exact, dtype)
    assert_near(df_dx.detach(), slope, dtype)
    grads = torch.autograd.grad((f, df_dx), leaves[1:], (grad_f.to(device), grad_df_dx.to(device)))
    exact_pair = dense_weight_gradients(grad_f, grad_df_dx, x, weight, output_weight, s, base)
    for ours, theirs in zip(grads, exact_pair, strict=True):
        assert_near(ours, theirs, dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize(("n", "m"), SIZES)
def test_every_size(device: torch.device, dtype: torch.dtype, base: str, n: int, m: int) -> None:
    """Two features, the smallest problem with a bias, and three networks side by side."""
    check(device, dtype, base, n, m, 2, ())
    check(device, dtype, base, n, m, 3, (3,))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("features", FEATURES)
def test_every_number_of_features(device: torch.device, dtype: torch.dtype, base: str, features: int) -> None:
    """Loops of their own for 1, 2, 3, 4, 5 and 9 features, tiles for the others."""
    check(device, dtype, base, 70, 130, features, ())
    check(device, dtype, base, 7, 65, features, (2, 2))


def test_the_widest_samples(device: torch.device) -> None:
    """1024 features: blocks of 64 neurons."""
    check(device, torch.float32, "relu", 9, 130, 1024, ())
    check(device, torch.float64, "tanh", 9, 70, 1024, (2,))


def test_no_samples(device: torch.device) -> None:
    """Empty result, zero gradients in the weights and in s, an empty one in x."""
    x, weight, output_weight = (t.to(device).requires_grad_() for t in problem(0, 5, 2))
    s = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    f, df_dx = hx.two_layer_with_gradient(x, weight, output_weight, s, base="relu")
    assert hx.two_layer(x, weight, output_weight, s).shape == f.shape == (0,)
    assert df_dx.shape == (0, 2)
    for outputs in ((hx.two_layer(x, weight, output_weight, s),), (f, df_dx)):
        grads = torch.autograd.grad([y.sum() for y in outputs], (x, weight, output_weight, s))
        for grad, tensor in zip(grads, (x, weight, output_weight, s), strict=True):
            assert torch.equal(grad, torch.zeros_like(tensor))


def test_no_networks(device: torch.device) -> None:
    """An empty batch: an empty result, and a gradient in x that is zero."""
    x, weight, output_weight = (t.to(device).requires_grad_() for t in problem(4, 5, 2, networks=(0,)))
    s = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    f = hx.two_layer(x, weight, output_weight, s)
    assert f.shape == (0, 4)
    grads = torch.autograd.grad(f.sum(), (x, weight, output_weight, s))
    for grad, tensor in zip(grads, (x, weight, output_weight, s), strict=True):
        assert torch.equal(grad, torch.zeros_like(tensor))


def test_strided_arguments(device: torch.device) -> None:
    """Transposed, sliced, expanded and negated views."""
    x, weight, output_weight = (t.to(device) for t in problem(6, 8, 3))
    expected = hx.two_layer(x, weight, output_weight, 0.5)
    views = (x.T.contiguous().T, torch.cat([weight, weight])[::2].clone(), torch._neg_view(-output_weight))
    wide = torch.stack([weight, weight], -1)[..., 0]
    assert torch.equal(hx.two_layer(views[0], wide, views[2], 0.5), expected)
    leaf = torch.zeros((), dtype=torch.float64, device=device, requires_grad=True)
    grads = torch.autograd.grad(hx.two_layer(leaf + x, weight, output_weight, 0.5).sum(), leaf)  # an expanded gradient
    exact = dense_gradient(x, weight, output_weight, 0.5, "relu").sum()
    torch.testing.assert_close(grads[0].cpu(), exact.cpu())


@pytest.mark.parametrize("level", ["baseline", "avx2"])
def test_lower_simd_levels(level: str) -> None:
    """The other widths of the loops, in a process of their own; the tests above run the highest level."""
    if not hx.backends()["cpp"]:
        pytest.skip("needs the compiled kernels")
    code = (
        "import sys, torch; sys.path.insert(0, 'tests')\n"
        "import hrta_ext as hx, network.test_op as tests\n"
        "for base in tests.BASES:\n"
        "    for dtype in (torch.float32, torch.float64):\n"
        "        for features in (1, 2, 3, 4, 5, 9, 7, 40):\n"
        "            tests.check(torch.device('cpu'), dtype, base, 67, 333, features, (2,))\n"
        "print(hx.build_info()['simd'])\n"
    )
    environment = os.environ | {"HRTA_EXT_SIMD": level}
    root = Path(__file__).parents[2]
    run = subprocess.run([sys.executable, "-c", code], env=environment, cwd=root, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    if run.stdout.strip() != level:
        pytest.skip(f"this machine runs {run.stdout.strip()} at most")


@pytest.mark.parametrize("base", ["relu", "gelu"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_number_of_threads_changes_no_bit(dtype: torch.dtype, base: str) -> None:
    """Sums over neurons, over samples (in s) and over networks (in x) are in a fixed order."""
    if not hx.backends()["cpp"]:
        pytest.skip("needs the compiled kernels")
    threads = torch.get_num_threads()
    problems = [problem(4099, 300, 2, dtype), problem(65, 9001, 3, dtype), problem(60, 400, 4, dtype, (5,))]
    results: list[list[Tensor]] = []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            found: list[Tensor] = []
            for tensors in problems:
                leaves = [t.clone().requires_grad_() for t in tensors]
                s = torch.tensor(1.3, requires_grad=True)
                f = hx.two_layer(*leaves, s, base=base)
                f2, df_dx = hx.two_layer_with_gradient(*leaves, s, base=base)
                loss = f.cos().sum() + f2.sin().sum() + df_dx.sin().sum()
                found += [f, f2, df_dx, *torch.autograd.grad(f.cos().sum(), (*leaves, s), retain_graph=True)]
                found += torch.autograd.grad(loss, leaves[1:])
            results.append(found)
    finally:
        torch.set_num_threads(threads)
    for found in results[1:]:
        assert all(torch.equal(ours, first) for ours, first in zip(found, results[0], strict=True))


@pytest.mark.parametrize("base", ["relu", "relu2", "softplus"])
def test_only_what_is_needed_is_computed_and_gets_a_gradient(device: torch.device, base: str) -> None:
    x, weight, output_weight = (t.to(device) for t in problem(5, 9, 2))
    s = torch.tensor(0.7, dtype=torch.float64)
    full = [t.clone().requires_grad_() for t in (x, weight, output_weight, s)]
    expected = torch.autograd.grad(hx.two_layer(*full, base=base).sum(), full)
    for i in range(4):
        some = [t.clone().requires_grad_(i == j) for j, t in enumerate((x, weight, output_weight, s))]
        hx.two_layer(*some, base=base).sum().backward()
        assert [t.grad is not None for t in some] == [i == j for j in range(4)]
        torch.testing.assert_close(some[i].grad, expected[i], rtol=1e-13, atol=1e-13)


def test_half_types_are_computed_in_float32(device: torch.device) -> None:
    for dtype in (torch.float16, torch.bfloat16):
        x, weight, output_weight = (t.to(device).requires_grad_() for t in problem(5, 100, 3, dtype))
        f = hx.two_layer(x, weight, output_weight, 0.5)
        assert f.dtype == dtype
        exact = dense(x, weight, output_weight, 0.5, "relu")
        eps = torch.finfo(dtype).eps
        torch.testing.assert_close(f.double(), exact, rtol=eps, atol=1e-5)
        assert torch.autograd.grad(f.sum(), weight)[0].dtype == dtype


def test_autocast_lets_dtypes_differ(device: torch.device) -> None:
    """A layer before gives bfloat16: computed in the widest dtype, as torch's ops that autocast keeps in float32."""
    x, weight, output_weight = (t.to(device).requires_grad_() for t in problem(5, 100, 3, torch.float32))
    half = x.detach().bfloat16()
    with torch.autocast(device.type, dtype=torch.bfloat16):
        f = hx.two_layer(half, weight, output_weight, 0.5)
        pair = hx.two_layer_with_gradient(half, weight, output_weight, 0.5, base="relu")
        layers = torch.nn.Sequential(torch.nn.Linear(3, 4), hx.TwoLayerNet(4, 9)).to(device)
        assert layers(x).dtype == torch.float32
        with pytest.raises(TypeError, match=r"weight must have x's dtype torch.float32, got torch.int64"):
            hx.two_layer(x, weight.long(), output_weight, 0.5)
    expected = hx.two_layer_with_gradient(half.float(), weight, output_weight, 0.5, base="relu")
    assert torch.equal(f, hx.two_layer(half.float(), weight, output_weight, 0.5))
    assert torch.equal(pair[0], expected[0])
    assert torch.equal(pair[1], expected[1])
    assert torch.autograd.grad(f.sum(), weight)[0].dtype == torch.float32
    with pytest.raises(TypeError, match=r"weight must have x's dtype torch.bfloat16, got torch.float32"):
        hx.two_layer(half, weight, output_weight, 0.5)


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("features", [2, 7])
def test_non_finite_data_shows(device: torch.device, base: str, features: int) -> None:
    """NaN anywhere reaches what it touches, and nothing else; infinity in a weight leaves no finite sum."""
    x, weight, output_weight = problem(6, 70, features, torch.float32)
    x[0] = 1.0
    bad = x.clone()
    bad[3, 1] = torch.nan
    leaves = [t.to(device).requires_grad_() for t in (bad, weight, output_weight)]
    f = hx.two_layer(*leaves, 0.5, base=base)
    assert f.isnan().tolist() == [False, False, False, True, False, False]
    grads = torch.autograd.grad(f.sum(), leaves)
    if base != "relu":  # whose slope at NaN is 1 - s, as in torch
        assert grads[0].isnan().any(1).tolist() == [i == 3 for i in range(6)]
    assert grads[2].isnan().all()
    bad = weight.clone()
    bad[69, 0] = torch.nan
    leaves = [t.to(device).requires_grad_() for t in (x, bad, output_weight)]
    f = hx.two_layer(*leaves, 0.5, base=base)
    assert f.isnan().all()
    grad_a = torch.autograd.grad(f.sum(), leaves)[2]
    assert grad_a.isnan().tolist() == [False] * 69 + [True]
    bad[69, 0] = torch.inf
    f = hx.two_layer(x.to(device), bad.to(device), output_weight.to(device), 0.5, base=base)
    assert not f.isfinite().any()
    grad = torch.ones(6)
    grad[2] = torch.nan
    leaves = [t.to(device).requires_grad_() for t in (x, weight, output_weight)]
    grads = torch.autograd.grad(hx.two_layer(*leaves, 0.5, base=base), leaves, grad.to(device))
    assert grads[0].isnan().any(1).tolist() == [i == 2 for i in range(6)]
    assert grads[1].isnan().any(1).all()


def test_users_own_base(device: torch.device) -> None:
    """Served by the torch backend, whatever the device; a forced compiled backend says that it cannot."""
    hx.register_base("cube", lambda z: z**3, lambda z: 3 * z**2, lambda z: 6 * z)
    x, weight, output_weight = problem(4, 5, 2)
    expected = ((0.5 * (x @ weight.T) + 0.5 * (x @ weight.T) ** 3) @ output_weight) / 5**0.5
    with hx.use_backend("torch"):
        torch.testing.assert_close(hx.two_layer(x, weight, output_weight, 0.5, base="cube"), expected)
    if hx.backends()["cpp"]:
        with hx.use_backend("cpp"), pytest.raises(ValueError, match="cannot serve a base that you registered"):
            hx.two_layer(x, weight, output_weight, 0.5, base="cube")


# VmHWM, not ru_maxrss: that one starts from the peak of the process that started this one.
PEAK = """
import sys
import torch, hrta_ext as hx

def peak():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))

def run(n, m, second):
    x = torch.randn(n, 2, requires_grad=second)
    weight, output_weight = torch.randn(m, 2, requires_grad=True), torch.randn(m, requires_grad=True)
    before = peak()
    if second:
        f, df_dx = hx.two_layer_with_gradient(x, weight, output_weight, 0.5, base="relu2")
        (g,) = torch.autograd.grad(f.sum() + df_dx.square().sum(), x, create_graph=True)
        grads = torch.autograd.grad(g.square().sum(), (weight, output_weight))
    else:
        f = hx.two_layer(x, weight, output_weight, 0.5)
        grads = torch.autograd.grad(f.square().sum(), (weight, output_weight))
    return peak() - before - sum(t.numel() * t.element_size() for t in (f, *grads))

second = sys.argv[1] == "second"
run(3, 5, second)  # loads what autograd loads
print(run(1000, 25_000 if second else 1_000_000 if sys.argv[2] == "cpp" else 100_000, second))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's account of memory")
@pytest.mark.parametrize("order", ["first", "second"])
@pytest.mark.parametrize("backend", ["cpp", "torch"])
def test_memory_does_not_grow_with_n_times_m(backend: str, order: str) -> None:
    """n m floats would be 4 GB (torch: 400 MB), and 100 MB times many in the second order; the op needs some MiB."""
    if not hx.backends()[backend]:
        pytest.skip(f"backend {backend} is not usable here")
    environment = os.environ | {"HRTA_EXT_BACKEND": backend, "OMP_NUM_THREADS": "1"}
    run = subprocess.run(
        [sys.executable, "-c", PEAK, order, backend],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    extra = int(run.stdout) / 2**20
    assert extra < (8 if backend == "cpp" and order == "first" else 64), f"{extra:.0f} MiB beyond the results"


X, WEIGHT, OUTPUT_WEIGHT = problem(4, 5, 3, torch.float32)
BAD = [
    (([1.0], WEIGHT, OUTPUT_WEIGHT), TypeError, "x must be a tensor, got list"),
    ((X, None, OUTPUT_WEIGHT), TypeError, "weight must be a tensor, got NoneType"),
    ((X, WEIGHT, 2.0), TypeError, "output_weight must be a tensor, got float"),
    ((X.long(), WEIGHT.long(), OUTPUT_WEIGHT.long()), TypeError, "x must be float16, .* or float64, got torch.int64"),
    ((X.to_sparse(), WEIGHT, OUTPUT_WEIGHT), TypeError, "x must be a dense .strided. tensor"),
    ((X, WEIGHT.double(), OUTPUT_WEIGHT), TypeError, "weight must have x's dtype torch.float32, got torch.float64"),
    (
        (X, WEIGHT, OUTPUT_WEIGHT.half()),
        TypeError,
        "output_weight must have x's dtype torch.float32, got torch.float16",
    ),
    (
        (X.to("meta"), WEIGHT.to("meta").double(), OUTPUT_WEIGHT.to("meta")),
        TypeError,
        "weight must have x's dtype torch.float32, got torch.float64",
    ),
    ((X, WEIGHT.to("meta"), OUTPUT_WEIGHT), ValueError, "weight must be on x's device cpu, got meta"),
    ((X[0], WEIGHT, OUTPUT_WEIGHT), ValueError, r"x must have shape \(n, D\) with D at least 1, got \(3,\)"),
    ((X[:, :0], WEIGHT[:, :0], OUTPUT_WEIGHT), ValueError, r"x must have shape \(n, D\) .* got \(4, 0\)"),
    (
        (X, WEIGHT[:, :2], OUTPUT_WEIGHT),
        ValueError,
        r"weight must have shape \(..., width, 3\) to match x, got \(5, 2\)",
    ),
    ((X, WEIGHT[0], OUTPUT_WEIGHT), ValueError, r"weight must have shape \(..., width, 3\) to match x, got \(3,\)"),
    ((X, WEIGHT[:0], OUTPUT_WEIGHT[:0]), ValueError, r"weight must hold at least one neuron, got shape \(0, 3\)"),
    ((X, WEIGHT, OUTPUT_WEIGHT[:4]), ValueError, r"output_weight must have shape \(5,\) to match weight, got \(4,\)"),
    ((X, WEIGHT, OUTPUT_WEIGHT[:, None]), ValueError, r"output_weight must have shape \(5,\) .* got \(5, 1\)"),
    ((X, WEIGHT, OUTPUT_WEIGHT, torch.ones(3)), ValueError, r"s must .* of shape \(\) or \(1,\), got shape \(3,\)"),
    ((X, WEIGHT, OUTPUT_WEIGHT, "1"), TypeError, "s must be a float or a tensor, got str"),
    ((X, WEIGHT, OUTPUT_WEIGHT, torch.tensor(1)), TypeError, "s must be a float or a floating-point tensor"),
    ((X, WEIGHT, OUTPUT_WEIGHT, float("nan")), ValueError, "s must be finite, got nan"),
]


@pytest.mark.parametrize(("arguments", "error", "message"), BAD)
@pytest.mark.parametrize("function", [hx.two_layer, hx.two_layer_with_gradient])
def test_each_bad_argument_has_its_message(function, arguments, error, message) -> None:  # type: ignore[no-untyped-def]
    arguments = arguments if len(arguments) == 4 else (*arguments, 0.5)
    with pytest.raises(error, match=message) as caught:
        function(*arguments, base="relu")
    assert str(caught.value).startswith(function.__name__ + ": ")


def test_unknown_base() -> None:
    with pytest.raises(ValueError, match=r"base must be one of relu, .*, got 'swish'"):
        hx.two_layer(X, WEIGHT, OUTPUT_WEIGHT, base="swish")
