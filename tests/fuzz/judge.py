"""What a call may do: give the right numbers, or refuse with a ValueError or TypeError that names it."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch
from fuzz.draws import Draw
from torch import Tensor

# "gram: x must ...", "GramPath.derivative: s must ...", "base must be one of ..." (which every op has).
_NAMED = re.compile(r"^([\w.]+: |base must |fit|use_backend)")


class Finding(Exception):
    """What a call did that it may not do."""


def attempt(draw: Draw, call: Callable[[], Any]) -> Any:
    """The result of ``call``; None if it refused arguments that are not fair."""
    try:
        return call()
    except (ValueError, TypeError) as error:
        if draw.fair:
            raise Finding(f"refused a fair call: {error!r}") from error
        text = str(error)
        if not _NAMED.match(text) or "incompatible function arguments" in text:
            raise Finding(f"refused without the function's name: {error!r}") from error
        return None
    except Exception as error:
        raise Finding(f"raised {error!r}") from error


def same(what: str, got: Tensor, expected: Tensor, allowed: Tensor | float, dtype: torch.dtype) -> None:
    """|got - expected| <= allowed, or both NaN or equal; ``allowed`` that is not finite allows everything."""
    if got.shape != expected.shape or got.dtype != dtype:
        raise Finding(f"{what}: {got.dtype} {tuple(got.shape)} in place of {dtype} {tuple(expected.shape)}")
    got, expected = got.detach().double(), expected.detach()
    off = (got - expected).abs()
    free = ~torch.isfinite(torch.as_tensor(allowed, dtype=torch.float64)).expand(off.shape)
    wrong = ~((off <= allowed) | (got == expected) | (got.isnan() & expected.isnan()) | free)
    if bool(wrong.any()):
        at = int(wrong.reshape(-1).nonzero()[0])
        raise Finding(f"{what}: {float(got.reshape(-1)[at])!r} in place of {float(expected.reshape(-1)[at])!r}")
