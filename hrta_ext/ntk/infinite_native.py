"""The compiled kernels of infinite width: addresses and sizes. Same functions as ``infinite_reference``."""

from __future__ import annotations

import torch
from torch import Tensor

from hrta_ext.bases import BASES
from hrta_ext.compiled import _C, address, own, plain
from hrta_ext.ntk.expectations import lengths, widths_of
from hrta_ext.ntk.types import Gram


def serves(x: Tensor) -> bool:
    """Whether these kernels take x, of a device and dtype that the binary serves."""
    return x.is_cpu or x.is_cuda


def infinite_gram(x: Tensor, x2: Tensor | None, s: Tensor, base: str, depth: int) -> Gram:
    """Both kernels of the samples x (n, D) and x2 (n2, D), float64, at s () or (S,): (n, n2) or (S, n, n2)."""
    name, device, one = "infinite_gram: x", x.get_device(), x2 is None
    x = plain(x, name)
    y = x if x2 is None else plain(x2, name)
    (n, features), n2 = x.shape, y.shape[0]
    a, w = (x.new_empty(*s.shape, n, n2) for _ in range(2))
    if not a.numel():
        return Gram(a, w)
    s, mixture = plain(s.to(x.device), "infinite_gram: s"), widths_of(base)
    norm = lengths(x)
    norm2 = norm if one else lengths(y)
    links = 1 if depth == 1 else s.numel() * depth
    chain = x.new_empty(links, 2, n)
    chain2 = chain if one else x.new_empty(links, 2, n2)
    call = _C.InfiniteCall(
        base=BASES[base].number,
        same=one,
        n=n,
        n2=n2,
        D=features,
        S=s.numel(),
        depth=depth,
        x=address(x, name, torch.float64, device, n * features),
        x2=address(y, name, torch.float64, device, n2 * features),
        norm=own(norm),
        norm2=own(norm2),
        s=address(s, "infinite_gram: s", torch.float64, device, s.numel()),
        widths=len(mixture.weights),
        weight=own(mixture.weights),
        square=own(mixture.squares),
        chain=own(chain),
        chain2=own(chain2),
        a=own(a),
        w=own(w),
    )
    _C.infinite_gram(call, device)
    return Gram(a, w)
