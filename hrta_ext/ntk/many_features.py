"""Many features on a GPU: z and the sums that need it by the library, a piece of the neurons at a time.

The kernels (csrc/ntk/cuda) cut z into digits with steps that are the same for all neurons, by a bound of |z_ik| over
all k. That by |w_k| |x_i| grows with the root of D where the largest |z_ik| does not, so it is surveyed, in bfloat16,
which costs next to nothing. The kernels hold every z against its bound.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from hrta_ext.callers import aligned
from hrta_ext.ntk.types import GramSums, Neurons

SCRATCH = 2**28  # bytes that pieces and the kernels' operands take together
_NORMAL = 8.0  # a normal number is beyond it with probability 1e-15
_UNIT = 2.0**-8  # of bfloat16


def piece_of(n: int, features: int) -> int:
    """Neurons at a time: a function of shapes alone, since on it hang the bits of the library's products."""
    room = SCRATCH // 16 * (9 if n <= 128 else 6 if n <= 512 else 10)  # up to 512 samples have private sums in the rest
    fitting = room // (8 * (n + 2 * features))
    unit = 512 if fitting >= 512 else 64
    return min(max(fitting // unit * unit, unit), 2**17)


def _weights(piece: Neurons, features: int, device: torch.device) -> tuple[Tensor, Tensor]:
    if piece.weight is not None and piece.output_weight is not None:
        return piece.weight, piece.output_weight
    assert piece.draw is not None
    weight, output_weight = piece.draw(piece.seed, piece.first, piece.count, features, device)
    return weight, output_weight


def bounds(x: Tensor, neurons: Neurons) -> Tensor:
    """What |z_ik| = |w_k . x_i| stays below for all k: (n,), float64. x (n, D) float64."""
    norms = x.norm(dim=1)
    if neurons.weight is None:
        return _NORMAL * norms
    unit = (x / torch.where(norms > 0.0, norms, 1.0)[:, None]).bfloat16()
    highest, longest = torch.zeros_like(norms), norms.new_zeros(())
    for piece in neurons.stretches(piece_of(*x.shape)):
        weight = _weights(piece, x.shape[1], x.device)[0]
        low, high = torch.aminmax(unit @ weight.bfloat16().mT, dim=1)
        highest = torch.maximum(highest, torch.maximum(high, -low).double())
        longest = torch.maximum(longest, torch.linalg.vector_norm(weight, dim=1, dtype=torch.float64).amax())
    # Two factors and a result are rounded by _UNIT at most, relative to |w_k|.
    return norms * (highest + 3.0 * _UNIT * longest)


def pieces(sums: GramSums, x: Tensor, neurons: Neurons) -> Iterator[tuple[Neurons, Tensor]]:
    """Sums ``linear`` and ``cross`` (of zeros), and on the way z (n, count) of one piece after the other.

    Whoever gets z leaves relu(z) in its place. The pieces have output weights alone, drawn or from memory.
    """
    n, features = x.shape
    # linear = X (W^T W) where that has fewer products than Z W, and room.
    moment = x.new_zeros(features, features) if features <= n and 64 * features**2 <= SCRATCH else None
    for piece in neurons.stretches(piece_of(n, features)):
        weight, output_weight = _weights(piece, features, x.device)
        w = aligned(weight.double())
        z = x @ w.mT
        if moment is None:
            sums.linear.add_(z @ w)  # not addmm_, whose bits may depend on where the sums lie
        else:
            moment.addmm_(w.mT, w)
        yield replace(piece, weight=None, output_weight=output_weight), z
        sums.cross.add_(z @ w)
    if moment is not None:
        sums.linear.add_(x @ moment)
