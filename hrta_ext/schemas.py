"""The schema of ``torch.ops.hrta_ext.homotopy``."""

from __future__ import annotations

import torch

_LIBRARY = torch.library.Library("hrta_ext", "DEF")
_LIBRARY.define("homotopy(Tensor x, Tensor s, int base, int order) -> Tensor")
