"""The binary: what it is, what it was built for, and how a tensor is handed to it by address."""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import Tensor

_C: Any = None
IMPORT_ERROR: ImportError | None = None
try:
    _C = importlib.import_module("hrta_ext._C")
except ImportError as error:  # no compiler at install time, or a binary that does not fit this torch
    IMPORT_ERROR = error

# Numbers of ScalarKind in csrc/ (_C.SCALAR_KINDS).
KINDS: dict[torch.dtype, int] = {torch.float16: 0, torch.bfloat16: 1, torch.float32: 2, torch.float64: 3}


def cuda_architectures() -> str:
    """The CUDA targets of the binary, "" without CUDA kernels or without a binary."""
    return "" if _C is None else _C.build_info()["cuda_architectures"]


def serves(x: Tensor) -> bool:
    """Whether the binary has kernels for x's device and dtype."""
    on_device = x.is_cpu or (x.is_cuda and cuda_architectures() != "")
    return _C is not None and on_device and x.dtype in KINDS


def most_features(device: torch.device) -> float:
    """D up to which the two-layer network has kernels on the device."""
    return _C.TWO_LAYER_CUDA_FEATURES if device.type == "cuda" else float("inf")


def plain(tensor: Tensor) -> Tensor:
    """The tensor as contiguous memory that holds its own values, not their negatives."""
    return tensor.resolve_neg().contiguous()


def address(tensor: Tensor | None) -> int:
    """Where the tensor's memory is; 0 for none."""
    return 0 if tensor is None else tensor.data_ptr()
