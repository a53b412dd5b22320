"""The binary: what it is, what it was built for, and how a tensor is handed to it by address."""

from __future__ import annotations

import importlib
from typing import Any

import torch

_C: Any = None
IMPORT_ERROR: ImportError | None = None
try:
    _C = importlib.import_module("hrta_ext._C")
except ImportError as error:  # no compiler at install time, or a binary that does not fit this torch
    IMPORT_ERROR = error

# Numbers of ScalarKind in csrc/.
KINDS: dict[torch.dtype, int] = {torch.float16: 0, torch.bfloat16: 1, torch.float32: 2, torch.float64: 3}


def cuda_architectures() -> str:
    """The CUDA targets of the binary, "" without CUDA kernels or without a binary."""
    return "" if _C is None else _C.build_info()["cuda_architectures"]
