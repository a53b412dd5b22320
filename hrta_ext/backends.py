"""Which backends are usable, which one serves a call, and why the others do not."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor

from hrta_ext import compiled
from hrta_ext.bases import BASES

_FORCED_NAMES = ("torch", "native", "cpp", "cuda")
_REBUILD = "run 'pip install --no-build-isolation .' in the source checkout"


def why_not(name: str) -> str | None:
    """Why backend ``name`` ("cuda", "cpp", "torch") is not usable, with the cure; None when it is."""
    if name == "torch":
        return None
    if name not in ("cpp", "cuda"):
        raise ValueError(f'why_not: name must be "cuda", "cpp" or "torch", got {name!r}')
    if compiled.IMPORT_ERROR is not None:
        if compiled.FOREIGN:
            which = f"{', '.join(compiled.FOREIGN)}; this is {sys.implementation.cache_tag}"
            return f"the compiled kernels are for another Python ({which}); {_REBUILD}"
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
    reasons = [why_not_on(device) for device in range(torch.cuda.device_count())]
    return reasons[0] if reasons and all(reasons) else None


_OLDEST = (8, 0)  # what the CUDA sources compile for


def why_not_on(device: int) -> str | None:
    """Why the CUDA kernels of this binary do not run on one GPU, with the cure; None when they do."""
    if compiled.has_image(device):
        return None
    if old := compiled.old_driver():
        return (
            f"the driver is of CUDA {old[0]}, the kernels need one of CUDA {old[1]}; update it, or with an nvcc of "
            f"CUDA {old[0]} on the PATH, {_REBUILD}"
        )
    major, minor = capability = torch.cuda.get_device_capability(device)
    card = f"{torch.cuda.get_device_name(device)} has compute capability {major}.{minor}"
    if capability < _OLDEST:
        return f"{card}, the CUDA kernels need {_OLDEST[0]}.{_OLDEST[1]}; the torch backend serves its tensors"
    target = f"{major}{minor}{'a' if capability == (9, 0) else ''}-real"
    built = compiled.cuda_architectures()
    return f"{card}, the CUDA kernels are built for {built}; with HRTA_EXT_CUDA_ARCHITECTURES={target}, {_REBUILD}"


def broken_binary() -> str | None:
    """Why the binary that lies in the package cannot be used; None if it can, or if there is none."""
    without = isinstance(compiled.IMPORT_ERROR, ModuleNotFoundError) and not compiled.FOREIGN
    return None if without else why_not("cpp")


def wrong_setting() -> str | None:
    """Why every call raises in this process, whose HRTA_EXT_BACKEND no call can be served by; None where none does."""
    try:
        if _SETTING:
            _check_forced(_SETTING, "HRTA_EXT_BACKEND")
    except ValueError as error:
        return str(error)
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


class _Block:
    """One open ``use_backend`` block, or the setting of the environment."""

    def __init__(self, name: str, unchecked: bool = False) -> None:
        self.name, self.unchecked, self.ended = name, unchecked, False


_SETTING = os.environ.get("HRTA_EXT_BACKEND")
# The blocks open in this thread or task, the last one in charge. The setting of the process stands first, and is looked
# at on the first call, so that importing, and hrta doctor, always work.
_open: ContextVar[tuple[_Block, ...]] = ContextVar(
    "hrta_ext_backend", default=(_Block(_SETTING, unchecked=True),) if _SETTING else ()
)
open_blocks = _open.get  # what the fast lane asks: empty where nobody chose


def asked_for() -> str | None:
    """The backend that the innermost open block, or the environment, asks for; None where nobody does."""
    blocks = _open.get()
    for block in reversed(blocks) if blocks else ():
        if block.unchecked:
            _check_forced(block.name, "HRTA_EXT_BACKEND")
            block.unchecked = False
        if not block.ended:
            return block.name
    return None


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
    """Serve every call of the block by one backend; other threads and tasks see nothing of it.

    What is recorded inside goes on with that backend: backward, and backward of backward, wherever they run. Blocks may
    end in any order. The environment variable HRTA_EXT_BACKEND sets the backend of a whole process.

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
    block = _Block(_check_forced(name, "use_backend"))
    _open.set((*(other for other in _open.get() if not other.ended), block))
    try:
        yield
    finally:
        # Not a reset: another block may have been opened in between, and a generator may be closed in another thread,
        # from where the variable of this one cannot be reached.
        block.ended = True
        _open.set(tuple(other for other in _open.get() if not other.ended))


class as_chosen:  # used like a function; a class costs backward half of what a generator does
    """Within: what ``asked_for()`` gave elsewhere is in charge."""

    __slots__ = ("blocks", "token")

    def __init__(self, choice: str | None) -> None:
        self.blocks = () if choice is None else (_Block(choice),)

    def __enter__(self) -> None:
        self.token = _open.set(self.blocks)

    def __exit__(self, *exception: object) -> None:
        _open.reset(self.token)


def serve(native: Any, reference: Any, x: Tensor, base: str | None = None) -> Any:
    """Which of two modules with the same functions serves tensor x and this base: the one place that chooses.

    Args:
        native: The compiled kernels of an op; ``native.serves(x)`` says whether they take such a tensor.
        reference: The same functions in plain torch.
        x: What the call is about; its device and dtype count.
        base: Base activation, where the call has one.
    Raises:
        ValueError: The backend that was asked for cannot serve x.
    """
    name = asked_for()
    if name == "torch":
        return reference
    registered = base is not None and BASES[base].number is None
    usable = not registered and compiled.serves(x)
    device = x.device.type
    if name is not None and (not usable or (name != "native" and name != {"cpu": "cpp"}.get(device, device))):
        what = "base that you registered" if registered else f"{device} tensor"
        reason = why_not_on(x.get_device()) if x.is_cuda and compiled.cuda_architectures() and not registered else None
        cure = reason or "leave the block or use the torch backend"
        raise ValueError(f"use_backend({name!r}) cannot serve a {what}{':' if reason else ';'} {cure}")
    return native if usable and native.serves(x) else reference


if compiled.IMPORT_ERROR is not None and _SETTING != "torch":
    warnings.warn(f"hrta_ext runs on its torch backend: {why_not('cpp')}", RuntimeWarning, stacklevel=2)
