"""The binary: what it is, what it was built for, and how a tensor is handed to it by address."""

from __future__ import annotations

import importlib
import os
import struct
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES
from typing import Any

import torch
from torch import Tensor

# What this package calls; a binary of other sources that lacks some of it would fail in the middle of a call.
NAMES = frozenset(
    name
    for line in (
        "BASES GramCall GramEvaluation GramSums InfiniteCall Neurons QUANTITIES SCALAR_KINDS TWO_LAYER_CUDA_FEATURES",
        "TWO_LAYER_JET TWO_LAYER_JET_CUDA TWO_LAYER_PIECES TwoLayerCall TwoLayerPass TwoLayerTraining UpdateRule",
        "adam_update build_info gram_add gram_arcs_add gram_arcs_begin gram_arcs_end gram_arcs_session gram_begin",
        "gram_digits gram_direct gram_end gram_evaluate gram_figures gram_least_scratch gram_session gram_sums",
        "infinite_gram parameter_gradient parameter_gradient_scratch power_sum random_weights relu_mask_backward",
        "relu_mask_forward slope_times transform two_layer_backward two_layer_forward two_layer_input_gradient",
        "two_layer_jet_backward two_layer_jet_forward two_layer_jet_input_gradient two_layer_jet_parameter_gradient",
        "two_layer_jet_scratch two_layer_parameter_gradient two_layer_scratch two_layer_sum_neurons",
        "two_layer_sum_samples two_layer_train two_layer_training_scratch value",
    )
    for name in line.split()
)


def _files() -> list[str]:
    """The binaries that lie in the package, those of other Pythons too."""
    names = os.listdir(os.path.dirname(__file__))
    return sorted(name for name in names if name.startswith("_C.") and name.endswith((".so", ".pyd")))


def _check_whole(path: str) -> None:
    """The loader maps a file that was cut short all the same, and the process dies when it reads what is not there."""
    with open(path, "rb") as stream:
        head, size = stream.read(64), os.fstat(stream.fileno()).st_size
    if len(head) == 64 and head[:6] == b"\x7fELF\x02\x01":  # 64 bits, little-endian: its last part is a table
        (table,), (entry, count) = struct.unpack_from("<Q", head, 40), struct.unpack_from("<HH", head, 58)
        if size < table + entry * count:
            raise ImportError(f"{os.path.basename(path)} is cut short: {size} of {table + entry * count} bytes")


def _load() -> Any:
    for suffix in EXTENSION_SUFFIXES:
        path = os.path.join(os.path.dirname(__file__), f"_C{suffix}")
        if os.path.exists(path):
            _check_whole(path)
            break
    binary = importlib.import_module("hrta_ext._C")
    missing = sorted(name for name in NAMES if not hasattr(binary, name))
    if missing:
        raise ImportError(f"{binary.__name__} was built from other sources: it lacks {missing[0]}")
    return binary


_C: Any = None
IMPORT_ERROR: Exception | None = None
try:
    _C = _load()
except Exception as error:  # no compiler at install time, or a binary that does not fit this torch, or is damaged
    IMPORT_ERROR = error
# Binaries that this Python does not look at, where it found none of its own.
FOREIGN = (
    [name for name in _files() if name.removeprefix("_C") not in EXTENSION_SUFFIXES]
    if isinstance(IMPORT_ERROR, ModuleNotFoundError)
    else []
)

_ALIGNMENT = 64  # bytes: what torch itself allocates by, and as much as any vector instruction asks for
# Numbers of ScalarKind in csrc/ (_C.SCALAR_KINDS).
KINDS: dict[torch.dtype, int] = {torch.float16: 0, torch.bfloat16: 1, torch.float32: 2, torch.float64: 3}


def cuda_architectures() -> str:
    """The CUDA targets of the binary, "" without CUDA kernels or without a binary."""
    return "" if _C is None else _C.build_info()["cuda_architectures"]


def _runs_on(target: str, capability: int) -> bool:
    """Whether code for ``target``, such as 80, 90a or 100+PTX, runs on a device of compute capability 80, 90, ..."""
    number = target.removesuffix("+PTX")
    if not number.rstrip("af").isdigit():
        return True  # "native", "all": nobody here knows
    least = int(number.rstrip("af"))
    if number.endswith("a"):
        return capability == least
    same = capability // 10 == least // 10
    return capability >= least and (same or (target.endswith("+PTX") and not number.endswith("f")))


@cache
def old_driver() -> tuple[int, int] | None:
    """(CUDA release of the driver, least one of the runtime in the binary), such as (12, 13), where it is too old.

    Within a release, any driver serves every runtime.
    """
    versions = getattr(_C, "cuda_versions", None)
    if versions is None:  # no binary, or one without CUDA
        return None
    driver, runtime = (version // 1000 for version in versions())
    return (driver, runtime) if driver < runtime else None


@cache
def has_image(device: int) -> bool:
    """Whether the binary has CUDA kernels that run on this device."""
    targets = cuda_architectures()
    if not targets or not torch.cuda.is_available() or old_driver():  # a fake tensor's device may not be there
        return False
    major, minor = torch.cuda.get_device_capability(device)
    return any(_runs_on(target, 10 * major + minor) for target in targets.split(","))


def serves(x: Tensor) -> bool:
    """Whether the binary has kernels for x's device and dtype."""
    on_device = x.is_cpu or (x.is_cuda and has_image(x.get_device()))
    return _C is not None and on_device and x.dtype in KINDS


def most_features(device: torch.device) -> float:
    """D up to which the two-layer network has kernels on the device."""
    return _C.TWO_LAYER_CUDA_FEATURES if device.type == "cuda" else float("inf")


def plain(tensor: Tensor, name: str) -> Tensor:
    """The tensor as contiguous memory that holds its own values, not their negatives. Keep it while a kernel runs."""
    if tensor.is_contiguous() and not tensor.is_neg():
        return tensor
    require_memory(tensor, name)
    return tensor.resolve_neg().contiguous()


def address(
    tensor: Tensor | None,
    name: str,
    dtype: torch.dtype,
    device: int,
    count: int,
    strides: tuple[int, ...] | None = None,
) -> int:
    """Where the tensor's memory is, 0 for none: the one gate to ``_C``, which reads and writes what it is told.

    Args:
        tensor: Whoever passes the address on keeps it alive.
        name: What an error calls it.
        dtype, device, count: Those that the kernel will assume; device as ``get_device()`` gives it.
        strides: Of a kernel that goes through dense memory in another order; None for contiguous.
    Raises:
        ValueError: The kernel would misread the tensor, or read beyond its memory.
    """
    if tensor is None:
        return 0
    if (
        tensor.dtype is not dtype
        or tensor.get_device() != device
        or tensor.numel() != count
        or not (tensor.is_contiguous() if strides is None else tensor.stride() == strides)
        or tensor.is_neg()
    ):
        order = "contiguous" if strides is None else f"of strides {strides}"
        sign = " with torch's negative bit" if tensor.is_neg() else ""
        raise ValueError(
            f"{name} must be {count} values of {dtype}, {order}, on device {device}; got {tensor.dtype} of shape "
            f"{tuple(tensor.shape)} and strides {tensor.stride()} on {tensor.device}{sign}"
        )
    return memory(tensor, name)


def memory(tensor: Tensor, name: str) -> int:
    """The address of a dense tensor by whose own dtype, device and order the kernel goes: is all of it there?"""
    at, size, held = tensor.data_ptr(), tensor.nbytes, tensor.untyped_storage().nbytes()
    before = tensor.storage_offset()
    if before == 0 and at and held >= size:
        return at
    before *= tensor.itemsize
    # Without memory (a fake tensor, a wrapper) the address is the offset alone.
    if size and (at == before or held < before + size):
        require_memory(tensor, name)
        raise ValueError(f"{name} must be a tensor with memory of its own, got {type(tensor).__name__} without")
    return at


def own(tensor: Tensor | None) -> int:
    """Where a tensor's memory is, 0 for none, of a result or scratch that was made for this call, so fits it."""
    return 0 if tensor is None else tensor.data_ptr()


def placed(tensor: Tensor) -> Tensor:
    """``callers.aligned`` for a tensor that certainly has an address."""
    tensor = tensor.contiguous()
    return tensor if tensor.data_ptr() % _ALIGNMENT == 0 else tensor.clone()


def require_memory(tensor: Tensor, name: str) -> None:
    """ValueError where storage was freed under the tensor, as sharded training does: torch's copies would crash."""
    if tensor.is_contiguous() and tensor.storage_offset() == 0 and tensor.untyped_storage().nbytes() >= tensor.nbytes:
        return
    if tensor.numel() == 0:
        return
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    needed = (tensor.storage_offset() + last + 1) * tensor.itemsize
    held = tensor.untyped_storage().nbytes()
    if held < needed:
        raise ValueError(f"{name} must have memory for its values, {needed} bytes, got a storage of {held} bytes")
