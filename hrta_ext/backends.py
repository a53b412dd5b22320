"""Which backends are usable, which one serves a call, and why the others do not."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from hrta_ext import compiled
from hrta_ext.activation import native, reference
from hrta_ext.bases import BASES
from hrta_ext.ntk import native as native_gram
from hrta_ext.ntk import reference as reference_gram

_FORCED_NAMES = ("torch", "native", "cpp", "cuda")
_REBUILD = "run 'pip install --no-build-isolation .' in the source checkout"


def why_not(name: str) -> str | None:
    """Why backend ``name`` ("cuda", "cpp", "torch") is not usable, with the cure; None when it is."""
    if name == "torch":
        return None
    if name not in ("cpp", "cuda"):
        raise ValueError(f'why_not: name must be "cuda", "cpp" or "torch", got {name!r}')
    if compiled.IMPORT_ERROR is not None:
        if isinstance(compiled.IMPORT_ERROR, ModuleNotFoundError):
            return f"hrta_ext was installed without its compiled kernels; with a C++ compiler at hand, {_REBUILD}"
        return f"the compiled kernels do not load ({compiled.IMPORT_ERROR}); {_REBUILD} against this torch"
    if name == "cpp":
        return None
    if not compiled.cuda_architectures():
        return f"hrta_ext was built without CUDA; with nvcc on the PATH, {_REBUILD}"
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is a CPU build; install a CUDA build of torch"
    if not torch.cuda.is_available():
        return "torch sees no CUDA device; check the driver with nvidia-smi"
    return None


def backends() -> dict[str, bool]:
    """What is usable now.

    Returns:
        ``{"cuda": ..., "cpp": ..., "torch": True}``.

    Example:
        >>> import hrta_ext as hx
        >>> hx.backends()["torch"]
        True
    """
    return {name: why_not(name) is None for name in ("cuda", "cpp", "torch")}


def build_info() -> dict[str, Any]:
    """Versions and build facts: what hrta_ext was built with and what it runs on.

    Returns:
        Keys version, torch, built_for_torch, compiler, simd_levels, simd, gram (how this processor multiplies Gram
        matrices: "int8 tiles" or "vectors"), cuda_architectures (a list), cuda_reason (why the cuda backend is not
        usable, or None), python, platform.

    Example:
        >>> import hrta_ext as hx
        >>> sorted(hx.build_info())[:3]
        ['built_for_torch', 'compiler', 'cuda_architectures']
    """
    info: dict[str, Any] = {"built_for_torch": None, "compiler": None, "simd_levels": "", "simd": None, "gram": None}
    if compiled._C is not None:
        info.update(compiled._C.build_info())
    info["simd_levels"] = info["simd_levels"].split()
    info["cuda_architectures"] = compiled.cuda_architectures().split(",") if compiled.cuda_architectures() else []
    return info | {
        "version": importlib.metadata.version("hrta_ext"),
        "torch": torch.__version__,
        "cuda_reason": why_not("cuda"),
        "python": platform.python_version(),
        "platform": platform.platform(),
    }


class _Choice:
    """The backend that the user forces, if any: "torch", or one of "native", "cpp", "cuda"."""

    forced: str | None = os.environ.get("HRTA_EXT_BACKEND") or None
    unchecked = forced is not None  # looked at on the first call, so that importing, and hrta doctor, always work


def _check_forced(name: object, source: str) -> str:
    if name not in _FORCED_NAMES:
        raise ValueError(f"{source} must be one of {', '.join(_FORCED_NAMES)}, got {name!r}")
    assert isinstance(name, str)
    reason = why_not("cpp" if name == "native" else name)
    if reason is not None:
        raise ValueError(f"{source}: backend {name!r} is not usable: {reason}")
    return name


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Serve every call inside the block, in every thread of the process, by one backend.

    Args:
        name: "torch" for plain PyTorch; "native" for the compiled kernels of the tensor's device; "cpp" or "cuda" for
            those of one device.
    Raises:
        ValueError: The backend is unknown or not usable here (the message says how to get it), or, inside the block, a
            tensor that it cannot serve.

    Example:
        >>> import torch, hrta_ext as hx
        >>> with hx.use_backend("torch"):
        ...     hx.homotopy(torch.tensor([-1.0, 1.0]), s=0.5)
        tensor([-0.5000,  1.0000])
    """
    checked = _check_forced(name, "use_backend")
    previous = _Choice.forced, _Choice.unchecked
    _Choice.forced, _Choice.unchecked = checked, False
    try:
        yield
    finally:
        _Choice.forced, _Choice.unchecked = previous


def kernels_for(x: Tensor, base: str) -> ModuleType:
    """The module of kernels, ``native`` or ``reference``, that serves tensor x and this base."""
    device = x.device.type
    usable = (
        compiled._C is not None
        and (device == "cpu" or (device == "cuda" and compiled.cuda_architectures() != ""))
        and x.dtype in compiled.KINDS
        and BASES[base].number is not None
    )
    forced = _Choice.forced
    if _Choice.unchecked:
        _check_forced(forced, "HRTA_EXT_BACKEND")
        _Choice.unchecked = False
    if forced == "torch":
        return reference
    if forced is not None and (not usable or (forced != "native" and forced != {"cpu": "cpp"}.get(device, device))):
        what = "base that you registered" if BASES[base].number is None else f"{device} tensor"
        raise ValueError(f"use_backend({forced!r}) cannot serve a {what}; leave the block or use the torch backend")
    return native if usable else reference


def gram_kernels_for(x: Tensor, base: str) -> ModuleType:
    """The module of the Gram builder, ``native_gram`` or ``reference_gram``, that serves samples x and this base.

    CUDA tensors go through torch's own matmuls.
    """
    return native_gram if kernels_for(x, base) is native and x.device.type == "cpu" else reference_gram


if compiled.IMPORT_ERROR is not None and _Choice.forced != "torch":
    warnings.warn(f"hrta_ext runs on its torch backend: {why_not('cpp')}", RuntimeWarning, stacklevel=2)
