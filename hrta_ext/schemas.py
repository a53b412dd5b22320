"""Every schema of ``torch.ops.hrta_ext``. ``ops.py`` of each folder adds the kernels, fake kernels and autograd.

Exported programs name these ops, so a schema that is here never changes.
"""

from __future__ import annotations

import torch

_NETWORK = "Tensor x, Tensor weight, Tensor output_weight, Tensor s, int base"
_NEEDS = "bool need_x, bool need_weight, bool need_output_weight, bool need_s"
_GRADIENTS = "(Tensor, Tensor, Tensor, Tensor)"

LIBRARY = torch.library.Library("hrta_ext", "DEF")
LIBRARY.define("homotopy(Tensor x, Tensor s, int base, int order) -> Tensor")
LIBRARY.define(f"two_layer({_NETWORK}) -> Tensor")
LIBRARY.define(f"two_layer_backward(Tensor grad, {_NETWORK}, {_NEEDS}) -> {_GRADIENTS}")
LIBRARY.define(f"two_layer_with_gradient({_NETWORK}) -> (Tensor, Tensor)")
LIBRARY.define(
    f"two_layer_with_gradient_backward(Tensor grad_f, Tensor grad_df_dx, {_NETWORK}, {_NEEDS}) -> {_GRADIENTS}"
)
LIBRARY.define(f"two_layer_jet({_NETWORK}, int form, int[] columns) -> (Tensor, Tensor, Tensor)")
LIBRARY.define(
    f"two_layer_jet_backward(Tensor grad_f, Tensor grad_df_dx, Tensor grad_second, {_NETWORK}, {_NEEDS}, "
    f"int form, int[] columns) -> {_GRADIENTS}"
)
