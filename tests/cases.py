"""Problems as data: bases, parameters, inputs, and the float64 oracle that every backend is compared with."""

from __future__ import annotations

import math

import torch
from torch import Tensor

BASES = ("relu", "relu2", "tanh", "gelu", "silu", "softplus", "erf", "sin")
SMOOTH_BASES = ("tanh", "gelu", "silu", "softplus", "erf", "sin")
PARAMETERS = (0.0, 0.5, 1.0, 1.5, 2.0)
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


class Tagged(Tensor):
    """A subclass that changes nothing: calls on it see the formula."""


def sigma(x: Tensor, base: str) -> Tensor:
    """sigma in float64, written for the tests alone."""
    z = x.double()
    zero = torch.zeros_like(z)
    return {
        "relu": lambda: torch.where(z > 0, z, zero),
        "relu2": lambda: torch.where(z > 0, z * z / 2, zero),
        "tanh": lambda: torch.tanh(z),
        "gelu": lambda: z * torch.special.erfc(-z / math.sqrt(2)) / 2,
        "silu": lambda: torch.where(z > 0, z / (1 + torch.exp(-z)), z * torch.exp(z) / (1 + torch.exp(z))),
        "softplus": lambda: torch.where(z > 0, z, zero) + torch.log1p(torch.exp(-z.abs())),
        "erf": lambda: torch.special.erf(z),
        "sin": lambda: torch.sin(z),
    }[base]()


def slope(x: Tensor, base: str) -> Tensor:
    """sigma' in float64."""
    z = x.double()
    density = torch.exp(-z * z / 2) / math.sqrt(2 * math.pi)
    logistic = torch.sigmoid(z)
    return {
        "relu": lambda: (z > 0).double(),
        "relu2": lambda: torch.where(z > 0, z, torch.zeros_like(z)),
        "tanh": lambda: 1 / torch.cosh(z) ** 2,
        "gelu": lambda: torch.special.erfc(-z / math.sqrt(2)) / 2 + z * density,
        "silu": lambda: logistic + z * logistic * torch.sigmoid(-z),
        "softplus": lambda: logistic,
        "erf": lambda: 2 / math.sqrt(math.pi) * torch.exp(-z * z),
        "sin": lambda: torch.cos(z),
    }[base]()


def curvature(x: Tensor, base: str) -> Tensor:
    """sigma'' in float64."""
    z = x.double()
    density = torch.exp(-z * z / 2) / math.sqrt(2 * math.pi)
    p, q = torch.sigmoid(z), torch.sigmoid(-z)
    return {
        "relu": lambda: torch.zeros_like(z),
        "relu2": lambda: (z > 0).double(),
        "tanh": lambda: -2 * torch.tanh(z) / torch.cosh(z) ** 2,
        "gelu": lambda: (2 - z * z) * density,
        "silu": lambda: p * q * (2 + z * (q - p)),
        "softplus": lambda: p * q,
        "erf": lambda: -4 * z / math.sqrt(math.pi) * torch.exp(-z * z),
        "sin": lambda: -torch.sin(z),
    }[base]()


def third(x: Tensor, base: str) -> Tensor:
    """sigma''' in float64."""
    z = x.double()
    density = torch.exp(-z * z / 2) / math.sqrt(2 * math.pi)
    p, q = torch.sigmoid(z), torch.sigmoid(-z)
    square = 1 / torch.cosh(z) ** 2
    return {
        "relu": lambda: torch.zeros_like(z),
        "relu2": lambda: torch.zeros_like(z),
        "tanh": lambda: square * (4 - 6 * square),
        "gelu": lambda: torch.where(z.abs() < 40, (z * z - 4) * z * density, torch.zeros_like(z)),
        "silu": lambda: p * q * (3 * (q - p) + z * (1 - 6 * p * q)),
        "softplus": lambda: p * q * (q - p),
        "erf": lambda: torch.where(z.abs() < 40, (8 * z * z - 4) / math.sqrt(math.pi) * torch.exp(-z * z), 0.0),
        "sin": lambda: -torch.cos(z),
    }[base]()


def homotopy(x: Tensor, s: float | Tensor, base: str, order: int = 0) -> Tensor:
    """The order-th derivative of (1 - s) x + s sigma(x) in float64."""
    z = x.double()
    s = s.double() if isinstance(s, Tensor) else s
    if order == 0:
        return (1 - s) * z + s * sigma(z, base)
    if order == 1:
        return (1 - s) + s * slope(z, base)
    return s * curvature(z, base)


def ulp(value: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Spacing of ``dtype`` numbers at |value|, float64; never below the spacing of its denormals."""
    info = torch.finfo(dtype)
    _, exponent = torch.frexp(value.double().abs().clamp(min=info.tiny))
    return torch.ldexp(torch.full_like(value, info.eps, dtype=torch.float64), exponent - 1)


def every_float32(count: int, seed: int) -> Tensor:
    """Finite float32 numbers drawn uniformly from the bit patterns: every exponent, denormals, both signs."""
    generator = torch.Generator().manual_seed(seed)
    bits = torch.randint(-(2**31), 2**31, (count,), generator=generator, dtype=torch.int64).to(torch.int32)
    x = bits.view(torch.float32)
    return x[torch.isfinite(x)]


def spread(dtype: torch.dtype = torch.float32, count: int = 257, seed: int = 0) -> Tensor:
    """Both signs, zero of both signs, small and large; the size is no multiple of any block."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, generator=generator, dtype=torch.float64) * 3
    x[:6] = torch.tensor([0.0, -0.0, 1e-3, -1e-3, 20.0, -20.0], dtype=torch.float64)
    return x.to(dtype)
