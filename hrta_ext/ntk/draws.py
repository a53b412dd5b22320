"""Any stretch of the weights of a random network."""

from __future__ import annotations

import torch
from torch import Tensor

from hrta_ext.backends import serve
from hrta_ext.inputs import DtypeError, check_draw, check_integer, shown
from hrta_ext.ntk import native, reference


def random_weights(
    first_neuron: int,
    count: int,
    n_features: int,
    *,
    seed: int = 0,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> tuple[Tensor, Tensor]:
    """The weights that :func:`random_gram_path` draws, N(0, 1): any stretch of them, the same numbers every time.

    Neuron k's numbers depend on (seed, k) and the feature alone: Philox 4x32-10 on the counter k and Box-Muller, in
    float64 without fused operations, rounded to float32. Every SIMD level, thread count and device gives the same bits
    (0 ulp). Values lie in [-6.8, 6.8].

    Args:
        first_neuron: Number of the first neuron.
        count: How many.
        n_features: D.
        seed: 64-bit seed.
        device: Where the tensors go.
        dtype: Their type; the values are float32 numbers whatever it is. Default: torch's default dtype.
    Returns:
        weight (count, D) and output_weight (count,).

    Example:
        >>> import torch, hrta_ext as hx
        >>> weight, output_weight = hx.random_weights(0, 10, 3, seed=1)
        >>> torch.equal(weight[4:], hx.random_weights(4, 6, 3, seed=1)[0])
        True
    """
    check_draw(seed, first_neuron, count, "count", "random_weights")
    if isinstance(n_features, bool) or not isinstance(n_features, int) or n_features < 1:
        raise ValueError(f"random_weights: n_features must be an int of at least 1, got {shown(n_features)}")
    check_integer(n_features, "random_weights: n_features")
    where = torch.empty(0, device=device)
    dtype = torch.get_default_dtype() if dtype is None else dtype
    if not dtype.is_floating_point:
        raise DtypeError(f"random_weights: dtype must be a floating-point type, got {dtype}")
    drawing = serve(native, reference, where)
    weight, output_weight = drawing.random_weights(seed, first_neuron, count, n_features, where.device)
    return weight.to(dtype), output_weight.to(dtype)
