"""Drawn weights: the generator against an independent one, its statistics, and paths made of its numbers."""

from __future__ import annotations

import math

import pytest
import torch
from ntk.cases import CLASSES, relative_error
from torch import Tensor

import hrta_ext as hx


def philox(counter: tuple[int, ...], key: tuple[int, ...]) -> tuple[int, ...]:
    """Philox 4x32-10 in Python's integers, from the description in Salmon, Moraes, Dror and Shaw (2011)."""
    c, k = list(counter), list(key)
    for _ in range(10):
        product_0, product_1 = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [
            (product_1 // 2**32) ^ c[1] ^ k[0],
            product_1 % 2**32,
            (product_0 // 2**32) ^ c[3] ^ k[1],
            product_0 % 2**32,
        ]
        k = [(k[0] + 0x9E3779B9) % 2**32, (k[1] + 0xBB67AE85) % 2**32]
    return tuple(c)


def numbers_of(neuron: int, count: int, seed: int) -> list[float]:
    """The first ``count`` normals of one neuron: Box-Muller on the words, by the C library."""
    numbers: list[float] = []
    for block in range((count + 3) // 4):
        words = philox((neuron % 2**32, neuron // 2**32, block, 0), (seed % 2**32, seed // 2**32))
        for radius_word, angle_word in (words[:2], words[2:]):
            radius = math.sqrt(-2 * math.log((radius_word + 0.5) / 2**32))
            angle = 2 * math.pi * angle_word / 2**32
            numbers += [radius * math.cos(angle), radius * math.sin(angle)]
    return numbers[:count]


def test_philox_of_the_test_is_philox() -> None:
    """Known answers published with Random123."""
    assert philox((0,) * 4, (0,) * 2) == (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)
    assert philox((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2) == (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)


@pytest.mark.parametrize("seed", [0, 1, 2**32 - 1, 2**32, 2**63 + 12345, 2**64 - 1])
@pytest.mark.parametrize("first", [0, 2**32 - 3, 2**40 + 7, 2**48 - 6])
def test_normals_are_box_muller_of_philox(first: int, seed: int, device: torch.device) -> None:
    """|normal| <= 6.8, so half a float32 ulp is 2.4e-7; the output weight comes first, then the weights."""
    weight, output_weight = hx.random_weights(first, 6, 6, seed=seed, device=device)
    for k in range(6):
        expected = torch.tensor(numbers_of(first + k, 7, seed), dtype=torch.float64)
        got = torch.cat([output_weight[k : k + 1], weight[k]]).double().cpu()
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("n_features", [1, 2, 3, 4, 7, 8, 9, 40])
def test_any_stretch_has_the_same_bits(n_features: int, device: torch.device) -> None:
    """Blocks, offsets and the boundary at 2^32 do not show; nor does the number of features in the numbers kept."""
    start = 2**32 - 5000
    weight, output_weight = hx.random_weights(start, 10_007, n_features, seed=3, device=device)
    for begin, count in ((0, 1), (1, 4096), (4097, 5), (4998, 4), (9990, 17), (3, 0)):
        part, output_part = hx.random_weights(start + begin, count, n_features, seed=3, device=device)
        assert part.shape == (count, n_features)
        assert torch.equal(part, weight[begin : begin + count])
        assert torch.equal(output_part, output_weight[begin : begin + count])
    wider, _ = hx.random_weights(start, 10_007, n_features + 3, seed=3, device=device)
    assert torch.equal(wider[:, :n_features], weight)


def test_backends_and_threads_draw_the_same_bits() -> None:
    if not hx.backends()["cpp"]:
        pytest.skip("needs the compiled kernels")
    threads = torch.get_num_threads()
    drawn = []
    try:
        for name, count in (("cpp", 1), ("cpp", 2), ("torch", 2)):
            torch.set_num_threads(count)
            with hx.use_backend(name):
                drawn.append(hx.random_weights(2**33 - 9, 100_003, 5, seed=2**40 + 1))
    finally:
        torch.set_num_threads(threads)
    for other in drawn[1:]:
        assert torch.equal(other[0], drawn[0][0])
        assert torch.equal(other[1], drawn[0][1])


def test_dtype_changes_no_number() -> None:
    weight, output_weight = hx.random_weights(5, 100, 3, dtype=torch.float64)
    narrow, narrow_output = hx.random_weights(5, 100, 3, dtype=torch.float32)
    assert weight.dtype == torch.float64
    assert torch.equal(weight, narrow.double())
    assert torch.equal(output_weight, narrow_output.double())


# --- statistics: seeds are fixed, bounds are 5 standard deviations ----------------------------------------------------

COUNT = 400_000


def _columns(first: int = 0, seed: int = 17) -> Tensor:
    weight, output_weight = hx.random_weights(first, COUNT, 5, seed=seed, dtype=torch.float64)
    return torch.cat([output_weight[:, None], weight], dim=1)


def test_moments_of_every_feature() -> None:
    """Standard deviations of the first four sample moments of N(0, 1): sqrt of 1, 2, 15, 96 over N."""
    z = _columns()
    for power, mean, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert ((z**power).mean(0) - mean).abs().max() < 5 * math.sqrt(variance / COUNT)


def test_distribution_of_every_feature() -> None:
    """Kolmogorov-Smirnov: P(sqrt(N) D > 2.2) = 2 exp(-2 * 2.2^2) = 1.3e-4 for each of the six columns."""
    z = _columns().sort(dim=0).values
    cdf = 0.5 * torch.special.erfc(-z / math.sqrt(2))
    rank = torch.arange(COUNT, dtype=torch.float64)[:, None] / COUNT
    distance = torch.maximum(cdf - rank, rank + 1 / COUNT - cdf).max(0).values
    assert (distance * math.sqrt(COUNT)).max() < 2.2


def test_tails() -> None:
    """Counts beyond 3 and 4 are binomial."""
    z = _columns().abs()
    for edge in (3.0, 4.0):
        expected = z.numel() * math.erfc(edge / math.sqrt(2))
        assert abs(float((z > edge).sum()) - expected) < 5 * math.sqrt(expected)
    assert z.max() <= 6.8


def test_independence() -> None:
    """Features, neighbouring neurons, far neurons and other seeds: correlations of values and squares are N(0, 1/N)."""
    z = _columns()
    others = {"features": z, "next": z.roll(1, 0), "far": _columns(first=2**32), "seed": _columns(seed=18)}
    others["high seed"] = _columns(seed=17 + 2**32)
    for name, other in others.items():
        for power in (1, 2):
            u, v = (((t**power) - (t**power).mean(0)) / (t**power).std(0) for t in (z, other))
            correlation = u.mT @ v / COUNT
            if name == "features":
                correlation.fill_diagonal_(0)
            assert correlation.abs().max() < 5 / math.sqrt(COUNT), (name, power)


# --- paths of drawn weights -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("base", "n_features"), [("relu", 2), ("relu", 3), ("relu", 17), ("tanh", 2), ("gelu", 4)])
def test_random_gram_path_is_the_path_of_the_drawn_weights(base: str, n_features: int, device: torch.device) -> None:
    x = torch.randn(23, n_features, generator=torch.Generator().manual_seed(0), dtype=torch.float64) / n_features**0.5
    first, width, seed = 2**32 - 1234, 5003, 2**35 + 4
    weight, output_weight = hx.random_weights(first, width, n_features, seed=seed, device=device, dtype=torch.float64)
    for dtype, tolerance in CLASSES.items():
        drawn = hx.random_gram_path(x.to(device), width, seed=seed, base=base, dtype=dtype, first_neuron=first)
        assert drawn.width == width
        assert drawn.batches == 16
        stored = hx.gram_path(x.to(device), weight, output_weight, base=base, dtype=torch.float64)
        for got, true in zip(drawn(1.0), stored(1.0), strict=True):
            assert got.dtype == dtype
            assert relative_error(got, true.cpu()) <= tolerance


def test_each_batch_has_its_own_stretch_of_neurons(device: torch.device) -> None:
    """Batch b holds neurons [b m / B, (b + 1) m / B): a batch that repeats another's would only show in error bars."""
    x = torch.randn(7, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(device)
    path = hx.random_gram_path(x, 1001, batches=3, first_neuron=50)
    assert path.widths == (333, 334, 334)
    begin = 50
    for batch, width in enumerate(path.widths):
        alone = hx.random_gram_path(x, width, batches=1, first_neuron=begin)
        for one, all_batches in zip(alone.sums, path.sums, strict=True):
            torch.testing.assert_close(one[0], all_batches[batch], rtol=1e-13, atol=1e-13)
        begin += width


def test_stretches_of_one_network_add_up(device: torch.device) -> None:
    x = torch.randn(11, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(device)
    whole = hx.random_gram_path(x, 3000, seed=8)(0.5)
    parts = hx.random_gram_path(x, 1100, seed=8) + hx.random_gram_path(x, 1900, seed=8, first_neuron=1100)
    assert parts.width == 3000
    for got, true in zip(parts(0.5), whole, strict=True):
        assert relative_error(got, true.cpu()) <= 1e-13


def test_default_batches_and_narrow_networks() -> None:
    assert hx.random_gram_path(torch.ones(600, 2), 100).batches == 8
    assert hx.random_gram_path(torch.ones(1100, 2), 100).batches == 1
    narrow = hx.random_gram_path(torch.ones(3, 2), 5)
    assert narrow.widths == (1,) * 5


def test_progress_callback_ends_at_the_width(device: torch.device) -> None:
    calls: list[tuple[int, int]] = []
    width = 60_000
    hx.random_gram_path(
        torch.ones(4, 3, device=device), width, progress=lambda done, total: calls.append((done, total))
    )
    done = [call[0] for call in calls]
    assert len(calls) >= 16
    assert done == sorted(set(done))
    assert done[-1] == width
    assert {call[1] for call in calls} == {width}


def test_an_error_in_the_callback_stops_the_run() -> None:
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        hx.random_gram_path(torch.ones(4, 3), 60_000, progress=stop)


def test_progress_bar(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tqdm")
    hx.random_gram_path(torch.ones(4, 2), 2000, progress=True)
    assert "2.00k/2.00k" in capsys.readouterr().err


# --- Monte-Carlo error bars -------------------------------------------------------------------------------------------


def relu_kernel(x: Tensor, s: float) -> hx.Gram:
    """Infinite width, ReLU (docs/theory.md, section 3.2), for samples that are not zero."""
    size = x.norm(dim=1)
    u = x / size[:, None]
    gap, total = (u[:, None] - u[None]).norm(dim=2), (u[:, None] + u[None]).norm(dim=2)
    theta = 2 * torch.atan2(gap, total)
    inner = x @ x.mT
    value = torch.outer(size, size) * (theta.sin() + (math.pi - theta) * theta.cos()) / (2 * math.pi)
    both_active = (math.pi - theta) / (2 * math.pi)
    return hx.Gram((1 - s) * inner + s**2 * value, inner * ((1 - s) + s**2 * both_active))


SAMPLES = torch.tensor(
    [[1.0, 0.2, 0.1], [-0.3, 1.1, 0.4], [0.5, -0.7, 0.9], [-1.0, -0.2, 0.3], [0.4, 0.4, -1.2]], dtype=torch.float64
)
RUNS = 25


def _scores(s: float, kernel: str) -> tuple[Tensor, Tensor]:
    """z-scores of matrix entries (RUNS, n, n) and of lambda_min (RUNS,) over independent runs."""
    truth = getattr(relu_kernel(SAMPLES, s), kernel)
    smallest = torch.linalg.eigvalsh(truth)[0]
    entries, eigenvalues = [], []
    for seed in range(RUNS):
        path = hx.random_gram_path(SAMPLES, 20_000, seed=seed)
        entries.append((getattr(path(s), kernel) - truth) / getattr(path.standard_error(s), kernel))
        eigenvalues.append((path.lambda_min(s, kernel) - smallest) / path.lambda_min_error(s, kernel))
    return torch.stack(entries), torch.stack(eigenvalues)


@pytest.mark.parametrize("kernel", ["a", "w"])
@pytest.mark.parametrize("s", [0.5, 1.5])
def test_error_bars_cover_the_infinite_width(s: float, kernel: str) -> None:
    """16 batches: scores follow Student's t with 15 degrees of freedom, whose rms is 1.07."""
    entries, eigenvalues = _scores(s, kernel)
    for scores, low, high in ((entries, 0.85, 1.3), (eigenvalues, 0.7, 1.5)):
        assert scores.abs().max() < 5
        assert low < float(scores.square().mean().sqrt()) < high


def test_error_bars_shrink_with_the_square_root_of_the_width() -> None:
    """Relative scatter of a standard error from 16 batches is 1/sqrt(30); entries and runs average it."""
    sizes = []
    for width in (4_000, 64_000):
        errors = [hx.random_gram_path(SAMPLES, width, seed=seed).standard_error(1.0).ntk for seed in range(10)]
        sizes.append(float(torch.stack(errors).mean()))
    assert sizes[0] / sizes[1] == pytest.approx(4.0, rel=0.2)
