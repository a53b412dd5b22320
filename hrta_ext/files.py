"""Writing files so that nothing a user had is lost: a temporary name beside the target, then a rename."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any


@contextmanager
def replaced(path: str | os.PathLike[str], *, one_writer: bool = False) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success rename it onto ``path``, on an error delete it.

    The temporary name keeps the suffix of ``path``, since libraries choose the format by it. The file is synced to disk
    before the rename, so a crash at any moment leaves either the old file or the new one.

    Args:
        path: Where the file shall be.
        one_writer: Nobody else writes ``path`` meanwhile: the temporary name is always the same, so that what a killed
            process left of a large file goes with the next one.
    """
    target = Path(path)
    if one_writer:
        temporary = target.with_name(f".{target.stem}.partial{target.suffix}")
        temporary.unlink(missing_ok=True)
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    else:
        descriptor, name = tempfile.mkstemp(prefix=f".{target.stem}.", suffix=target.suffix, dir=target.parent)
        os.close(descriptor)
        temporary = Path(name)
    try:
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        with temporary.open("rb+") as stream:
            os.fsync(stream.fileno())
        temporary.replace(target)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise


def write_json(path: str | os.PathLike[str], content: Any) -> None:
    """Write ``content`` as indented JSON. NaN and Inf become null, since JSON has no word for them."""
    text = json.dumps(_finite(content), indent=2, allow_nan=False)
    with replaced(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if value - value == 0.0 else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value
