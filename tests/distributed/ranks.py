"""Runs a function of a test file on several ranks of a gloo group, each a process of its own on this machine."""

from __future__ import annotations

import importlib.util
import inspect
import multiprocessing
import os
import tempfile
import traceback
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

# The server has imported torch and starts no threads: what it forks costs milliseconds and may use OpenMP.
_SERVER = multiprocessing.get_context("forkserver")
_OF_TORCH = ["torch", "torch._dynamo", "torch.distributed.tensor", "torch.distributed.checkpoint"]  # seconds to import
_SERVER.set_forkserver_preload([*_OF_TORCH, "numpy", "hrta_ext"])


def said(call: Callable[..., Any], *arguments: Any, **options: Any) -> str | None:
    """Type and words of what a call raises; None where it does not."""
    try:
        call(*arguments, **options)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


def _child(path: str, name: str, arguments: tuple[Any, ...], rank: int, size: int, store: str, answers: Any) -> None:
    torch.set_num_threads(1)
    os.environ.update(WORLD_SIZE=str(size), RANK=str(rank), LOCAL_RANK=str(rank))
    try:
        spec = importlib.util.spec_from_file_location("work", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        dist.init_process_group(
            "gloo", store=dist.FileStore(store, size), rank=rank, world_size=size, timeout=timedelta(seconds=60)
        )
        answer = getattr(module, name)(*arguments)
        dist.barrier()
        dist.destroy_process_group()
        answers.put((rank, answer, None))
    except BaseException:
        answers.put((rank, None, traceback.format_exc()))


def on_ranks(size: int, work: Callable[..., Any], *arguments: Any, seconds: float = 100.0) -> list[Any]:
    """What ``work(*arguments)`` returned on each rank; AssertionError with the traceback of a rank that raised.

    ``work`` is found by its file and name, so it must stand at the top of a file. What goes in and out is pickled;
    tensors travel as NumPy arrays or lists.
    """
    answers = _SERVER.Queue()
    with tempfile.TemporaryDirectory() as folder:
        fixed = (inspect.getsourcefile(work), work.__name__, arguments)
        processes = [
            _SERVER.Process(
                target=_child, args=(*fixed, rank, size, os.path.join(folder, "store"), answers), daemon=True
            )
            for rank in range(size)
        ]
        for process in processes:
            process.start()
        found: dict[int, Any] = {}
        try:
            for _ in processes:
                rank, answer, error = answers.get(timeout=seconds)
                if error is not None:
                    raise AssertionError(f"rank {rank} of {size}:\n{error}")
                found[rank] = answer
        finally:
            for process in processes:
                process.join(5.0)
                process.kill()
    return [found[rank] for rank in range(size)]
