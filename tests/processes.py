"""Processes that tests start. None outlives its deadline, and Ctrl-C reaches all of them."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import hrta_ext

# Children of a shell that ignores SIGINT, as under nohup or in `make test &`, ignore it too.
CTRL_C_WORKS = "import signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"


def same_package() -> dict[str, str]:
    """The environment in which a script, wherever it lies, imports the package that is being tested."""
    return {**os.environ, "PYTHONPATH": str(Path(hrta_ext.__file__).parents[1])}


@contextmanager
def running(command: Sequence[str], seconds: float = 120.0) -> Iterator[subprocess.Popen[str]]:
    """A process with its ``stdout`` as text; killed after so many seconds, or at the end of the block."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=same_package()) as process:
        deadline = threading.Timer(seconds, process.kill)
        deadline.start()
        try:
            yield process
        finally:
            deadline.cancel()
            process.kill()


@contextmanager
def python(code: str, *arguments: str, seconds: float = 120.0) -> Iterator[subprocess.Popen[str]]:
    """A Python process that runs ``code``."""
    with running([sys.executable, "-c", CTRL_C_WORKS + code, *arguments], seconds) as process:
        yield process


def line_of(process: subprocess.Popen[str]) -> str:
    """The next line that ``process`` prints, without its end; "" when it prints no more."""
    assert process.stdout is not None
    return process.stdout.readline().rstrip("\n")


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    """Return as soon as ``process`` has made the file ``path``, or has ended."""
    while not path.exists() and process.poll() is None:
        time.sleep(0.01)
