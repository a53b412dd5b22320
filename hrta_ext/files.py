"""Files: written as a whole beside what they replace, and read only where their checksums hold.

Torch's files and ``.npz`` are zip archives, with a CRC-32 of every part that torch itself does not look at:
:func:`load_tensors` does (0.4 s a GB). JSON that the package reads back carries a CRC-32 of its own.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import platform
import re
import secrets
import shutil
import stat
import sys
import tempfile
import time
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

try:
    import fcntl
except ImportError:  # Windows: what a killed process leaves there stays
    fcntl = None  # type: ignore[assignment]

AnyPath = str | os.PathLike[str]

_MOST_LINKS = 40
# Of temporary files; no user calls a file so. The machine is part of the name: its kernel alone knows who is dead.
_PREFIX = ".hrta_ext-"
_MACHINE = hashlib.sha256(platform.node().encode(errors="replace")).hexdigest()[:8]
# A file that nobody has written to for so long has no writer, on whatever machine.
_DEAD_AFTER = 24 * 3600.0
_DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS}
_CHECKSUM = "crc32"


class DamagedFile(ValueError):
    """Why a file is not what was once written; it says neither which file nor what to do."""


# --- writing ----------------------------------------------------------------------------------------------------------


@contextmanager
def replaced(path: AnyPath) -> Iterator[Path]:
    """Yield a temporary path beside the file that ``path`` names; rename it onto that, or delete it on an error.

    A crash at any moment, power loss included, leaves either the old file or the new one. A symbolic link stays and the
    file at its end is replaced; the new file has the mode of the old one, or that of any new file; another hard link to
    the old file goes on showing the old content. Devices, FIFOs and open descriptors (/dev/stdout) are never replaced:
    they are written to once all is there. What killed writers left in the folder is removed. The temporary name keeps
    the suffix of ``path``, since libraries choose the format by it.

    Raises:
        OSError: Nothing can be written, or the disk is full; it names ``path``, whatever the library said.
    """
    target, temporary, lock = Path(path), None, None
    try:
        target = destination(path)
        old = _status(target)
        direct = old is not None and not replaces(target)
        temporary, lock = _temporary(Path(tempfile.gettempdir()) / target.name if direct else target, old)
        yield temporary
        if direct:
            _copy(temporary, target)
        else:
            _finish(temporary, old)
            temporary.replace(target)
    except Exception as error:
        named = _named(error, path, temporary)
        if named is None:
            raise
        raise named from error
    finally:
        if temporary is not None:
            with suppress(OSError):
                temporary.unlink()
        if lock is not None:
            os.close(lock)


def destination(path: AnyPath) -> Path:
    """The file that writing to ``path`` changes, absolute: links are followed, but for those that are open descriptors.

    Raises:
        OSError: It is a folder, a file that may not be written, or a circle of links.
    """
    place = Path(path).absolute()
    for _ in range(_MOST_LINKS):
        place = Path(os.path.realpath(place.parent)) / place.name
        if _is_descriptor(place) or not place.is_symlink():
            break
        place = place.parent / os.readlink(place)
    else:
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), os.fspath(path))
    if place.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
    if place.exists() and not os.access(place, os.W_OK):
        raise PermissionError(errno.EACCES, "Permission denied (the file is read-only)", os.fspath(path))
    return place


def replaces(path: AnyPath) -> bool:
    """Whether writing to ``path`` would replace a file: not where there is none, nor a device, FIFO or descriptor."""
    place = destination(path)
    old = _status(place)
    return old is not None and stat.S_ISREG(old.st_mode) and not _is_descriptor(place)


def is_stdout(path: AnyPath) -> bool:
    """Whether ``path`` is another name of this process's standard output, as /dev/stdout is."""
    place = destination(path)
    return place.name == "1" and _is_own_descriptor(place)


def _status(place: Path) -> os.stat_result | None:
    try:
        return place.stat()
    except FileNotFoundError:
        return None


def _is_descriptor(place: Path) -> bool:
    # Links in /proc are more than their text: a file that stdout goes to would be replaced under the redirection.
    return re.fullmatch(r"/proc/\d+(/task/\d+)?/fd|/dev/fd", str(place.parent)) is not None


def _is_own_descriptor(place: Path) -> bool:
    return str(place.parent) in ("/dev/fd", os.path.realpath("/proc/self/fd"))


def _temporary(target: Path, old: os.stat_result | None) -> tuple[Path, int | None]:
    """A new file beside ``target``, and its lock, which the kernel keeps as long as the writer lives."""
    _remove_left_over(target.parent)
    suffix = target.suffix if len(target.suffix) <= 16 else ""
    while True:
        path = target.parent / f"{_PREFIX}{_MACHINE}-{secrets.token_hex(8)}.partial{suffix}"
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666 if old is None else 0o600)
        if fcntl is None:
            os.close(descriptor)
            return path, None
        if _locked(descriptor) is not False and _is_at(path, descriptor):
            return path, descriptor
        os.close(descriptor)  # taken for a dead writer's in the moment before it was locked


def _remove_left_over(folder: Path) -> None:
    """Remove the temporary files of writers that are dead: no lock holds them, on this machine or for a day."""
    with suppress(OSError):
        names = [entry.name for entry in os.scandir(folder) if entry.name.startswith(_PREFIX)]
        for name in names if fcntl is not None else ():
            with suppress(OSError):
                descriptor = os.open(folder / name, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
                try:
                    free = _locked(descriptor)
                    old = time.time() - os.fstat(descriptor).st_mtime > _DEAD_AFTER
                    here = name.startswith(f"{_PREFIX}{_MACHINE}-")
                    if ((free and here) or (free is not False and old)) and _is_at(folder / name, descriptor):
                        (folder / name).unlink()
                finally:
                    os.close(descriptor)


def _locked(descriptor: int) -> bool | None:
    """Lock a file; False where another writer has, None on a file system without locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.stat(path, follow_symlinks=False), os.fstat(descriptor))
    except OSError:
        return False


def _finish(temporary: Path, old: os.stat_result | None) -> None:
    """Owner and mode of the old file; all on the disk before the name is."""
    with temporary.open("rb+") as stream:
        os.fsync(stream.fileno())
    if old is not None:
        new = temporary.stat()
        if hasattr(os, "chown") and (new.st_uid, new.st_gid) != (old.st_uid, old.st_gid):
            with suppress(OSError):
                os.chown(temporary, old.st_uid, old.st_gid)
        temporary.chmod(stat.S_IMODE(old.st_mode))


def _copy(source: Path, target: Path) -> None:
    """Write a file to a device, a FIFO or an open descriptor, whose place in its file is kept."""
    if _is_own_descriptor(target):
        for stream in filter(None, (sys.stdout, sys.stderr)):
            stream.flush()
        descriptor = os.dup(int(target.name))
    else:
        descriptor = os.open(target, os.O_WRONLY | (os.O_APPEND if target.is_file() else 0))
    with source.open("rb") as content, os.fdopen(descriptor, "wb") as sink:
        shutil.copyfileobj(content, sink, 1 << 20)


def _named(error: BaseException, path: AnyPath, temporary: Path | None) -> OSError | None:
    """An error of the disk in the name of ``path``; libraries wrap it, or name the temporary file."""
    if isinstance(error, OSError) and error.errno is not None:
        ours = error.filename is None or (
            isinstance(error.filename, (str, os.PathLike)) and Path(error.filename).name.startswith(_PREFIX)
        )
        if not ours:
            return None
        reason = error.strerror or os.strerror(error.errno)
        if isinstance(error, PermissionError) and temporary is None:
            reason += " (its folder cannot be written)"
        return OSError(error.errno, reason, os.fspath(path))
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in _DISK_ERRORS:
            return OSError(cause.errno, os.strerror(cause.errno), os.fspath(path))
        cause = cause.__cause__ or cause.__context__
    return None


# --- JSON -------------------------------------------------------------------------------------------------------------


def write_json(path: AnyPath, content: Any, *, checksum: bool = False) -> None:
    """Write ``content`` as indented JSON. NaN and Inf become null, since JSON has no word for them.

    Args:
        path: Where to write.
        content: Plain values.
        checksum: Add the entry "crc32" to ``content``, a dict, for :func:`read_json`.
    """
    content = _finite(content)
    if checksum:
        content = {**content, _CHECKSUM: _json_checksum(json.loads(json.dumps(content)))}
    text = json.dumps(content, indent=2, allow_nan=False)
    with replaced(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def read_json(path: AnyPath) -> dict[str, Any]:
    """Read a dict that :func:`write_json` wrote, and check its checksum where it has one.

    Raises:
        DamagedFile: The file is no JSON, or no longer what was written.
        OSError: It cannot be read.
    """
    content = Path(path).read_bytes()
    if not content:
        raise DamagedFile("it is empty")
    try:
        found = json.loads(content.decode("utf-8"))
        if not isinstance(found, dict):
            raise DamagedFile("it is JSON of another kind")
        changed = _CHECKSUM in found and found.pop(_CHECKSUM) != _json_checksum(found)
    except DamagedFile:
        raise
    except (ValueError, RecursionError) as error:
        raise DamagedFile(f"it is not JSON: {error}") from error
    if changed:
        raise DamagedFile(f'its checksum says that it was changed; without the entry "{_CHECKSUM}" it is not checked')
    return found


def _json_checksum(content: Mapping[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return f"{zlib.crc32(text.encode()):08x}"


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if value - value == 0.0 else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value


# --- tensors ----------------------------------------------------------------------------------------------------------


def save_tensors(path: AnyPath, content: Mapping[str, Any]) -> None:
    """``torch.save`` of tensors and plain containers, with checksums; equal content gives equal bytes."""
    with replaced(path) as temporary, temporary.open("wb") as stream:
        wanted = torch.serialization.get_crc32_options()
        torch.serialization.set_crc32_options(True)
        try:
            # Into a stream: its errors can be told apart, and the temporary name does not get into the archive.
            torch.save(content, stream)
        finally:
            torch.serialization.set_crc32_options(wanted)


def load_tensors(path: AnyPath, *, mmap: bool = False) -> Any:
    """``torch.load(weights_only=True)`` onto the CPU of a file whose checksums hold; 0.4 s a GB for the check.

    Files that are no zip archives, in torch's format before 1.6, have no checksums and are loaded without. With
    ``mmap`` tensors are read from the disk as they are used.

    Raises:
        DamagedFile: The file is empty, cut off, of another kind, or no longer what was written.
        OSError: It cannot be read.
    """
    with open(path, "rb") as stream:
        start = stream.read(2)
        if not start:
            raise DamagedFile("it is empty")
        if start == b"PK":
            _check_zip(stream)
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=(mmap and start == b"PK") or None)
    except MemoryError:
        raise
    except Exception as error:  # torch raises whatever its zip reader and unpickler happen to meet
        raise DamagedFile("it is cut off, damaged or of another kind") from error


def _check_zip(stream: Any) -> None:
    try:
        with zipfile.ZipFile(stream) as archive:
            damaged = archive.testzip()
    except Exception as error:  # a flipped bit may send zipfile anywhere
        raise DamagedFile("it is cut off or damaged") from error
    if damaged is not None:
        raise DamagedFile(f"it is damaged: the checksum of its part {damaged!r} does not fit")


def checksum_of(about: str, tensors: Mapping[str, Tensor]) -> str:
    """CRC-32 of a text, and of names, dtypes, shapes and bytes of tensors in the order of their names."""
    crc = zlib.crc32(about.encode())
    for name in sorted(tensors):
        values = tensors[name].detach().cpu().contiguous()
        crc = zlib.crc32(f"{name} {values.dtype} {tuple(values.shape)}".encode(), crc)
        crc = zlib.crc32(values.reshape(-1).view(torch.uint8).numpy().data, crc)
    return f"{crc:08x}"


def hash_tensor(tensor: Tensor) -> str:
    """SHA-256 of shape, dtype and bytes of a tensor, wherever it lives."""
    values = tensor.detach().cpu().contiguous()
    digest = hashlib.sha256(f"{tuple(values.shape)} {values.dtype}".encode())
    digest.update(values.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
