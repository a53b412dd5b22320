"""How many levels the GPU's Gram builder needs: the bounds of products in levels (csrc/ntk/cuda/plan.cuh).

A number v_ik = step_i q_ik + e_ik, |e_ik| <= step_i / 2, has S signed digits of 8 bits, and step_i = V_i t with a bound
V_i of all |v_ik| and t = 1 / (fill 2^(8 S - 1)). Of the products of digits those of the levels below L are kept.
Nothing is random, so for all weights, with A = sum V_i^2:

- what is dropped has for a Frobenius norm at most m A t^2 sum_(l >= L) (2 S - 1 - l) 2^14 256^(2 (S - 1) - l);
- sum_k |v_jk| <= sqrt(m P_jj), so rounding adds at most t sqrt(m A sum P_ii) + t^2 m A / 4.

G^[w] has the same with (x_i . x_j)^2 as weights. ReLU's a_k^2 are rounded to 8 S bits, and enter three sums. Not
counted are the roundings of float64 itself, in z, sigma and the sums of some hundred numbers before they become
integers: the formula in float64 has them too, and LIMIT leaves room for them.
"""

from __future__ import annotations

import math

from hrta_ext.ntk import choice
from hrta_ext.ntk.choice import Figures

LIMIT = 8e-14  # of the float64 class; choice.LIMIT is that of the float32 class
# Of seven levels' bound for normal weights, over the square of choice.spread: bases whose values have no bound.
_GROWTH = {"relu": 2.5e-16, "gelu": 5e-16, "silu": 9e-16, "relu2": math.inf}
_FEW_SAMPLES = 64  # half a tile of the products: the library is faster up to there


def limit(high: bool) -> float:
    """The relative error that a session may have."""
    return LIMIT if high else choice.LIMIT


def tries(base: str, high: bool, n: int, n_features: int, width: int) -> list[int]:
    """Numbers of levels that are worth a pass, the fewest first (8: of seven digits)."""
    if n <= _FEW_SAMPLES:
        return []
    if high:
        seven = _GROWTH.get(base, 0.0) * choice.spread(n_features, width) ** 2 <= LIMIT
        return [7, 8] if seven else [8]
    return [5, 7]


def _lost(digits: int, levels: int, step: float) -> float:
    """What is dropped of a neuron's product, in units of both bounds."""
    last = 2 * (digits - 1)
    return sum((last + 1 - level) * 2.0**14 * 256.0 ** (last - level) for level in range(levels, last + 1)) * step**2


def value_error(f: Figures, levels: int, width: int) -> float:
    """What the error of P, (n, n), has for a Frobenius norm at most."""
    return _error(f.sizes, f.trace, levels, width)


def _error(sizes: float, trace: float, levels: int, width: int) -> float:
    digits = min(levels, 7)
    step = 2.0 ** (1 - 8 * digits) / choice.FILL
    dropped = (_lost(digits, levels, step) + 0.25 * step**2) * width * sizes
    return 1.01 * (dropped + step * math.sqrt(width * sizes * trace))


def slope_error(f: Figures, base: str, levels: int, width: int) -> float:
    """The same for (x_i . x_j) Q_ij; for ReLU for any of the three sums of G^[w]."""
    if base == "relu":
        inner = math.sqrt(f.slopes[0]) / f.square_sum
        return 1.01 * width * inner * f.square * 2.0 ** (-8 * min(levels, 7)) / (2.0 * choice.SQUARE_FILL)
    size = math.sqrt(f.slope_sizes)
    return _error(size, f.slope_trace / size if size > 0.0 else math.inf, levels, width)


def errors(f: Figures, levels: int, width: int, base: str) -> tuple[float, float]:
    """Bounds on the relative errors of G^[a] and G^[w] at the worst s in [0, 2]; infinite where there is none."""
    if not choice.ordinary(f, f.size):
        return math.inf, math.inf
    s = choice.VALUES
    of_a, of_w = (choice.quartic(products, s).clamp(min=0.0).sqrt() for products in (f.values, f.slopes))
    factor = s**2 + 2.0 * s * (1.0 - s).abs() if base == "relu" else s**2
    a = s**2 * value_error(f, levels, width) / of_a
    w = factor * slope_error(f, base, levels, width) / of_w
    return float(a.nan_to_num(nan=math.inf).max()), float(w.nan_to_num(nan=math.inf).max())
