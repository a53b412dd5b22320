"""Standard normals from a counter, in plain torch: the same bits as ``csrc/math/normals.h`` on every device.

Philox 4x32-10 (Salmon, Moraes, Dror, Shaw 2011) gives four words for the counter (neuron, block), the Box-Muller
transform turns them into four normals. Every operation is one rounding of IEEE float64, so no machine differs.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

_WORD = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
_LN2 = float.fromhex("0x1.62e42fefa39efp-1")
_TURN = float.fromhex("0x1.921fb54442d18p2") * 2.0**-32  # 2 pi / 2^32, exact scaling
_MANTISSA_START = 0x3FE6A09E667F3BCD  # of sqrt(1/2)


def _philox(neuron: Tensor, block: int, seed: int) -> list[Tensor]:
    """Four words in [0, 2^32) for each neuron (count,) int64."""
    c = [neuron & _WORD, (neuron >> 32) & _WORD, torch.full_like(neuron, block), torch.zeros_like(neuron)]
    k = [seed & _WORD, (seed >> 32) & _WORD]
    for _ in range(10):
        p0, p1 = c[0] * _MULTIPLIERS[0], c[2] * _MULTIPLIERS[1]  # wraps modulo 2^64, which keeps all 64 bits
        high0, high1 = (p0 >> 32) & _WORD, (p1 >> 32) & _WORD
        c = [high1 ^ c[1] ^ k[0], p1 & _WORD, high0 ^ c[3] ^ k[1], p0 & _WORD]
        k = [(k[0] + _KEY_STEPS[0]) & _WORD, (k[1] + _KEY_STEPS[1]) & _WORD]
    return c


def _horner(q: Tensor, coefficients: tuple[float, ...]) -> Tensor:
    p = torch.full_like(q, coefficients[0])
    for c in coefficients[1:]:
        p = p * q + c
    return p


def _minus_log(word: Tensor) -> Tensor:
    """-log((word + 1/2) / 2^32)."""
    bits = ((word.double() + 0.5) * 2.0**-32).view(torch.int64)
    shifted = bits + (0x3FF0000000000000 - _MANTISSA_START)
    exponent = (shifted >> 52).double() - 1023.0
    f = ((shifted & 0x000FFFFFFFFFFFFF) + _MANTISSA_START).view(torch.float64)
    t = (f - 1.0) / (f + 1.0)
    p = _horner(t * t, tuple(1.0 / k for k in (13, 11, 9, 7, 5, 3, 1)))
    return -(exponent * _LN2 + (t + t) * p)


def _normal_pair(radius_word: Tensor, angle_word: Tensor) -> tuple[Tensor, Tensor]:
    minus = _minus_log(radius_word)
    radius = torch.sqrt(minus + minus)
    quarter = ((angle_word + 0x20000000) & _WORD) >> 30
    rest = angle_word - (quarter << 30)
    y = torch.where(rest >= 2**31, rest - 2**32, rest).double() * _TURN
    q = y * y
    sine = _horner(q, tuple((-1.0) ** k / math.factorial(2 * k + 1) for k in (5, 4, 3, 2, 1))) * q * y + y
    cosine = _horner(q, tuple((-1.0) ** k / math.factorial(2 * k) for k in (6, 5, 4, 3, 2, 1, 0)))
    odd = (quarter & 1) == 1
    x, z = radius * torch.where(odd, sine, cosine), radius * torch.where(odd, cosine, sine)
    first = torch.where((quarter == 1) | (quarter == 2), -x, x)
    return first.float(), torch.where(quarter >= 2, -z, z).float()


def normals(seed: int, first: int, count: int, per_neuron: int, device: torch.device) -> Tensor:
    """Normals 0 .. per_neuron - 1 of neurons first .. first + count - 1: (count, per_neuron), float32."""
    neuron = torch.arange(first, first + count, dtype=torch.int64, device=device)
    columns: list[Tensor] = []
    for block in range((per_neuron + 3) // 4):
        words = _philox(neuron, block, seed)
        columns += [*_normal_pair(words[0], words[1]), *_normal_pair(words[2], words[3])]
    return torch.stack(columns[:per_neuron], dim=1)
