"""How many digits the GPU's Gram builder needs: bounds on the errors of its sums, from figures of the finished sums.

The kernels (csrc/ntk/cuda) write v_ik = relu(w_k . x_i) as step_i q_ik + e_ik with an integer q that is rounded up or
down at random, so e has mean zero whatever the weights are. With A = sum step_i^2, B = sum P_ii, F = |P| (Frobenius):

- Two digits: every e_ik has a dither of its own. Z = |sum_k e_k v_k^T + v_k e_k^T| has E Z^2 <= (A + max step^2) B / 2.
  It is convex in the e and Lipschitz with constant 2 sqrt(|P|_op) <= 2 sqrt(F), so it exceeds its mean by more than
  max step 2 sqrt(2 F x) with probability exp(-x) at most (Boucheron, Lugosi and Massart 2013, theorem 6.10).
- Three digits: one dither a neuron. E Z^2 <= A B, and McDiarmid's inequality adds sqrt(2 x A B). The dropped products
  of the middle and the lowest digit have mean zero, since what is cut off below the two upper digits is dithered by
  independent numbers: their sum is bounded by Bernstein's inequality in Hilbert space (Pinelis 1994), that of the two
  lowest digits by its mean and McDiarmid's inequality.
- a_k^2 has 16 or 24 bits and one dither a neuron; its error enters G^[w] by eta_k (x_i . x_j) (r + s 1_ik)
  (r + s 1_jk), where the last two factors are 1 at most for s in [0, 2]: McDiarmid again.

What is held against the class is the ratio to the matrices' own norm at the worst s in [0, 2]: quartics in s.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

MOST_NEURONS = 2**30  # of one session: its integers stay below 2^62
LIMIT = 9e-7  # relative Frobenius error; rounding to float32 adds 6e-8
FILL, SQUARE_FILL = 0.995, 0.9999  # csrc/ntk/cuda/plan.cuh
COLUMNS = 20  # of the figures
_UNLIKELY = 31.0  # each of six bounds fails with probability 2 exp(-31): 4e-13 together
VALUES = torch.linspace(0.0, 2.0, 65, dtype=torch.float64)
_ORDINARY = (1e-140, 1e140)  # of omega |x|: neither squares nor steps leave the range of float64


def spread(n_features: int, width: int) -> float:
    """The largest |w_k| |x_i| over the root mean square of relu(z_ik), of normal weights."""
    return 1.42 * (math.sqrt(n_features) + 0.8 * math.sqrt(2.0 * math.log(width + 1.0)))


def digits_to_try(n: int, n_features: int, width: int, surveyed: bool = False) -> list[int]:
    """Numbers of digits that are worth a pass, the fewest first: by the bound for normal weights, from shapes alone.

    ``surveyed``: steps come from bounds of z (many_features.py), not from the norms of weights.
    """
    far = 1.42 * 8.0 if surveyed else spread(n_features, width)
    two = far / 65536.0 * (2.0 + 26.0 / math.sqrt(n))
    three = far / 2.0**22 * 20.0 + 8e-7 * far**2
    return [digits for digits, error in ((2, two), (3, three)) if 1.1 * error / math.sqrt(width) <= 1.3 * LIMIT]


def square_digits_to_try(n: int, n_features: int, width: int, output_weight: Tensor | None) -> list[int]:
    """The same for a_k^2, which has three digits otherwise: by the largest over the mean square, known for a normal."""
    # The norm of the x_i . x_j over that of G^[w], samples in all directions: at s = 1 and at s = 2.
    crowd = n / n_features
    ratio = math.sqrt((1.0 + crowd) / min(0.25 + crowd / 16.0, 1.0 + 1.2 * crowd / n_features))
    per_spread = 4.5 / 65536.0 * ratio / math.sqrt(width)
    spread = 2.0 * math.log(width + 1.0)
    if output_weight is not None and per_spread <= LIMIT:  # else not even where all are equal
        low, high = torch.aminmax(output_weight)  # without a tensor between
        norm = torch.linalg.vector_norm(output_weight, dtype=torch.float64)
        spread = float((torch.maximum(high, -low) / norm).square()) * output_weight.numel()
    return [2, 3] if per_spread * spread <= LIMIT else [3]


@dataclass(frozen=True)
class Figures:
    """Numbers of a finished session, all of float64 sums that were collected in a fixed order."""

    values: list[float]  # inner products of the terms of G^[a]: LL, LC, LP, CC, CP, PP
    slopes: list[float]  # those of G^[w]
    trace: float  # sum P_ii
    samples: float  # sum |x_i|^2, or of the squares of bounds of z
    largest: float  # max |x_i|, or of these bounds
    norm2: float  # max |w_k|^2, or 1 with bounds; infinite where z exceeds one
    square: float  # max a_k^2
    square_sum: float
    # With bounds V_i and U_i on values and on slopes times a:
    slope_sizes: float  # sum (x_i . x_j)^2 U_i^2 U_j^2
    slope_trace: float  # sum (x_i . x_j)^2 U_i^2 Q_jj
    sizes: float  # sum V_i^2
    size: float  # max V_i

    @classmethod
    def read(cls, figures: Tensor) -> Figures:
        """From what the kernels wrote, (rows, COLUMNS): the one wait for the device."""
        sums, most = figures.sum(0), figures.amax(0)
        total = torch.cat([sums[:14], most[14:15], figures[:3, 15], sums[16:19], most[19:]]).tolist()
        return cls(total[:6], total[6:12], *total[12:])


def quartic(products: list[float], s: Tensor) -> Tensor:
    """The squared Frobenius norm of r^2 L + r s C + s^2 P."""
    r = 1.0 - s
    ll, lc, lp, cc, cp, pp = products
    one = r**4 * ll + 2.0 * r**3 * s * lc + r**2 * s**2 * (2.0 * lp + cc)
    return one + 2.0 * r * s**3 * cp + s**4 * pp


def value_error(f: Figures, digits: int, width: int) -> float:
    """What the error of P, (n, n), has for a Frobenius norm at most."""
    x, root = _UNLIKELY, math.sqrt(width)
    omega2, range_ = f.norm2, FILL * (2.0**16 if digits == 2 else 2.0**22)
    a, step = omega2 * f.samples / range_**2, math.sqrt(omega2) * f.largest / range_
    b, norm = f.trace * 1.01, math.sqrt(f.values[5]) * 1.01
    # The rounding to 32 bits, before the dither: half of 2^-16 or 2^-10 steps.
    coherent = 2.0 * math.sqrt(a) * 2.0 ** (-17 if digits == 2 else -11) * math.sqrt(width * b)
    if digits == 2:
        mean = math.sqrt(0.5 * (a + step**2) * b)
        squares = width * step * math.sqrt(a) + (0.25 + math.sqrt(2.0 * x)) * root * a
        return coherent + mean + 2.0 * step * math.sqrt(2.0 * norm * x) + squares
    rounding = (1.0 + math.sqrt(2.0 * x)) * math.sqrt(a * b) + width * a
    most = 2.0**22 * a * x
    middle = most + math.sqrt(most**2 + 2.0 * x * 2.0**40 * a**2 * width)
    lowest = 2.0**12 * width * a + (0.5 + math.sqrt(0.5 * x)) * root * 2.0**15 * a
    return coherent + rounding + middle + lowest


def slope_error(f: Figures, digits: int, width: int) -> float:
    """What the error of m G^[w] has for a Frobenius norm at most, for s in [0, 2]."""
    inner = math.sqrt(f.slopes[0]) / f.square_sum
    largest = f.square / SQUARE_FILL
    random = (0.5 + math.sqrt(0.5 * _UNLIKELY)) * math.sqrt(width) * largest * 2.0 ** (-8 * digits)
    return inner * (random + width * largest * 2.0**-32)  # rounded to 32 bits before the dither


def ordinary(f: Figures, size: float) -> bool:
    """Whether all figures are finite, and the largest value such that float64 holds squares and steps."""
    numbers = [*f.values, *f.slopes, f.trace, f.samples, f.norm2, f.square, f.slope_sizes, f.slope_trace, f.sizes]
    return all(map(math.isfinite, numbers)) and _ORDINARY[0] < size < _ORDINARY[1] and f.square_sum >= 1e-280


def errors(f: Figures, digits: int, square_digits: int, width: int) -> tuple[float, float]:
    """Bounds on the relative errors of G^[a] and G^[w] at the worst s in [0, 2]; infinite where there is none."""
    size = math.sqrt(f.norm2) * f.largest if f.norm2 >= 0.0 else math.nan
    if not ordinary(f, size):
        return math.inf, math.inf
    of_a, of_w = (quartic(products, VALUES).clamp(min=0.0).sqrt() for products in (f.values, f.slopes))
    a = VALUES**2 * value_error(f, digits, width) / of_a
    w = slope_error(f, square_digits, width) / of_w
    return float(a.nan_to_num(nan=math.inf).max()), float(w.nan_to_num(nan=math.inf).max())
