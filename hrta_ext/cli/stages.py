"""The stages of a training, from ``--s``, ``--steps`` and ``--ramp``."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from hrta_ext.cli.output import CommandError
from hrta_ext.inputs import check_homotopy_parameter, check_integer
from hrta_ext.training.ramps import Ramp, ramp

_S = ("0.5", "1")


def stages(
    s: Sequence[str] | None, steps: Sequence[int] | None, ramp_steps: int | None, total: int
) -> tuple[list[float | Ramp], list[int]]:
    """s and steps of every stage.

    Args:
        s: A number for each, or two with a colon, between which s moves; None: 0.5 and 1.
        steps: None: ``total`` in all, a fifth of them in the first of two stages.
        ramp_steps: Steps of the moves; None: those of the stage.
        total: Steps where none are given.
    """
    ends = [_ends(value) for value in s or _S]
    if steps:
        counts = [check_integer(count, "--steps") for count in steps]
    elif len(ends) == 2:
        counts = [total // 5, total - total // 5]
    else:
        counts = [-(-total // len(ends))] * len(ends)
    if len(ends) != len(counts):
        known = f"--s has {len(ends)}" if s else f"--s has {len(ends)} by default ({' and '.join(_S)})"
        hint = f"; --steps {counts[0]} goes with one s, such as --s 1" if len(counts) == 1 else ""
        raise CommandError(f"--steps must have one number for each s, {known} and --steps {len(counts)}{hint}")
    if ramp_steps is not None and all(start == end for start, end in ends):
        raise CommandError("--ramp is for an s that moves, such as --s 1:2")
    values = [
        start if start == end else ramp(start, end, ramp_steps or count)
        for (start, end), count in zip(ends, counts, strict=True)
    ]
    return values, counts


def _ends(value: str) -> tuple[float, float]:
    """Where the s of a stage starts and ends."""
    start, colon, end = value.partition(":")
    try:
        ends = float(start), float(end if colon else start)
    except ValueError:
        raise CommandError(f"--s must be numbers, or two with a colon as in 1:2, got {value}") from None
    check_homotopy_parameter(ends[0], "--s", torch.float32)
    check_homotopy_parameter(ends[1], "--s", torch.float32)
    return ends
