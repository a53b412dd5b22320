"""Arguments drawn at random: numbers, and the odd memory that holds them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import torch
from cases import BASES
from torch import Tensor

FLOATS = (torch.float32, torch.float64)
HALVES = (torch.float16, torch.bfloat16)
# Around the widths of registers, blocks and bytes of a mask, and nothing at all.
SIZES = (0, 1, 2, 3, 5, 7, 8, 9, 15, 16, 17, 31, 33, 63, 64, 65, 127, 129, 255, 257, 513, 1025, 4097)
WILD = (float("nan"), float("inf"), -float("inf"), -0.0, 5e-324, 1e-45, 1e-40, 6e-8, 65504.0, 1e30, 3e38, -1e300)


class Draw:
    """The arguments of one call, all of them from one seed.

    Attributes:
        fair: Nothing was drawn so far that has to be refused.
        tame: Nothing was drawn so far that is not finite, or too large to be compared.
    """

    def __init__(self, seed: int) -> None:
        self.random, self.fair, self.tame = random.Random(seed), True, True
        self.generator = torch.Generator().manual_seed(seed)

    def one_of(self, choices: Sequence[Any]) -> Any:
        return self.random.choice(choices)

    def chance(self, probability: float) -> bool:
        return self.random.random() < probability

    def size(self, most: int) -> int:
        return self.one_of([size for size in SIZES if size <= most])

    def base(self) -> Any:
        if self.chance(0.02):
            self.fair = False
            return self.one_of(["Relu", "", None, 3, ["relu"]])
        return self.one_of(BASES)

    def tensor(self, shape: Sequence[int], dtype: torch.dtype, *, wild: float = 0.1, odd: bool = True) -> Tensor:
        """N(0, 1) times a power of ten, with a few wild numbers, expanded now and then, in odd memory."""
        scale = self.one_of([1.0, 1.0, 1.0, 0.01, 10.0])
        values = torch.randn(tuple(shape), generator=self.generator, dtype=torch.float64) * scale
        if values.numel() and self.chance(wild):
            self.tame = False
            for _ in range(self.random.randrange(1, 4)):
                values.view(-1)[self.random.randrange(values.numel())] = self.one_of(WILD)
        values = values.to(dtype)
        if odd and values.numel() and values.dim() and self.chance(0.06):
            dim = self.random.randrange(values.dim())
            return values.select(dim, 0).unsqueeze(dim).expand(values.shape)
        return self.odd(values) if odd else values

    def odd(self, values: Tensor) -> Tensor:
        """The same values as a view that is not the plain one."""
        kind = self.random.randrange(8)
        if kind == 1:  # an offset that no register is aligned to
            start = self.random.randrange(1, 9)
            view = torch.empty(values.numel() + 9, dtype=values.dtype)[start : start + values.numel()].view(
                values.shape
            )
            return view.copy_(values)
        if kind == 2 and values.dim():  # strides, with NaN in between
            wide = torch.full([2 * size + 1 for size in values.shape], float("nan"), dtype=values.dtype)
            return wide[tuple(slice(1, 2 * size + 1, 2) for size in values.shape)].copy_(values)
        if kind == 3 and values.dim() > 1:
            return values.transpose(0, -1).contiguous().transpose(0, -1)
        if kind == 4 and values.dim() > 1:
            order = list(range(values.dim()))
            self.random.shuffle(order)
            return values.permute(order).contiguous().permute([order.index(dim) for dim in range(values.dim())])
        if kind == 5 and values.dtype in FLOATS:  # torch's negative bit: the memory holds the opposite numbers
            view = torch.complex(torch.zeros_like(values), -values).conj().imag
            assert view.is_neg()
            return view
        if kind == 6 and values.dim():  # the last column of something larger
            return torch.stack([torch.full_like(values, float("nan")), values], -1)[..., 1]
        return values

    def s(self, features: int | None = None) -> Any:
        """A homotopy parameter; of shape (features,) now and then, if given."""
        kind = self.random.random()
        if kind < 0.55:
            return self.one_of([0.0, 0.5, 1.0, 1.5, 2.0, -1.0, 1, self.random.uniform(-3.0, 3.0)])
        if kind < 0.60:
            self.fair = False
            return self.one_of(
                [float("nan"), float("inf"), -float("inf"), 10**400, None, "1", True, [0.5], 1j, torch.tensor(1)]
            )
        if kind < 0.65:  # whether it fits x's dtype decides: refused or right, but never an accident
            self.fair = self.tame = False
            return self.one_of([1e308, 1e200, 1e39, 10**30, -1e300, 5e-324, 1e-310])
        if kind < 0.70:
            self.fair = False
            return torch.rand(self.one_of([(0,), (4099,), (1, 1), (2, 3)]), generator=self.generator)
        if kind < 0.85 or features is None:
            dtype = self.one_of([torch.float16, *FLOATS])
            return self.odd(torch.tensor(self.one_of([0.5, 1.5, 1.0, -0.25]), dtype=dtype))
        return self.odd(2.0 * torch.rand(features, generator=self.generator, dtype=self.one_of(FLOATS)))
