"""sigma_s and its derivatives as plain differentiable operations, few of them.

What ``torch.compile``, ``torch.export``, tensor subclasses and dispatch modes see, so that Inductor fuses it with its
neighbours, and what the reference kernels are made of.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from hrta_ext.bases import get_base
from hrta_ext.inputs import Parameter

_HALF_TYPES = (torch.float16, torch.bfloat16)


def compose(x: Tensor, s: Parameter, base: str, order: int) -> Tensor:
    """The ``order``-th derivative in x of (1 - s) x + s sigma(x), by differentiable operations in x's precision.

    Half types are computed in float32. ``s`` may be any tensor that broadcasts against x.
    """
    functions = get_base(base)
    z = x.float() if x.dtype in _HALF_TYPES else x
    if isinstance(s, Tensor):
        s = s.to(z.dtype) if s.dim() > 0 else s
    if base == "relu" and order == 0:
        if isinstance(s, Tensor):
            y = torch.where(z > 0, z, (1.0 - s) * z)
        else:
            y = torch.relu(z) if s == 1.0 else F.leaky_relu(z, 1.0 - s)
    elif order == 0:
        y = (1.0 - s) * z + s * functions.value(z)
    elif order == 1:
        y = (1.0 - s) + s * functions.slope(z)
    else:
        y = s * functions.curvature(z)
    return y.to(x.dtype)


def sum_dtype(x: Tensor) -> torch.dtype:
    """The type that sums of x's elements are kept in."""
    return torch.float32 if x.device.type == "mps" else torch.float64
