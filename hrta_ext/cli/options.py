"""What several commands take alike: their declarations for Typer, and the check of ``--device``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import torch
import typer

from hrta_ext.cli.output import CommandError

Data = Annotated[Path, typer.Argument(metavar="DATA", help="Table: .csv, .tsv, .npz or .parquet.", show_default=False)]
Drop = Annotated[list[str] | None, typer.Option(metavar="COLUMN", help="Column to leave out; repeat it for more.")]
Base = Annotated[str, typer.Option(help="Base activation: relu, tanh, gelu, silu, softplus, ...")]
Device = Annotated[str, typer.Option(help="cpu or cuda.")]


def check_choice(option: str, value: str, choices: Sequence[str]) -> None:
    """Refuse a value that is none of ``choices``."""
    if value not in choices:
        raise CommandError(f"{option} must be {' or '.join(choices)}, got {value!r}")


def check_device(device: str) -> None:
    """Refuse a ``--device`` that is none, or that torch does not see."""
    check_choice("--device", device, ("cpu", "cuda"))
    if device == "cuda" and not torch.cuda.is_available():
        raise CommandError("--device cuda: torch sees no GPU; `hrta doctor` says why")
