"""What several commands take alike: their declarations for Typer, and the check of ``--device``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import torch
import typer

from hrta_ext.cli.output import CommandError
from hrta_ext.tables.cells import Numbers
from hrta_ext.tables.lines import TextFormat
from hrta_ext.tables.scaling import FloatArray
from hrta_ext.tables.table import Table, TableError, counting_columns, drop_options

Data = Annotated[
    Path, typer.Argument(metavar="DATA", help="Table: .csv or other text, .npz or .parquet.", show_default=False)
]
_TEXT = "How a text table is written"
Header = Annotated[
    bool | None,
    typer.Option(
        "--header/--no-header", rich_help_panel=_TEXT, help="The first row of a text table holds names, or numbers."
    ),
]
Delimiter = Annotated[
    str | None,
    typer.Option(
        metavar="CHAR",
        rich_help_panel=_TEXT,
        help="Between cells of text; a space: any run of spaces.  [default: found]",
    ),
]
DecimalMark = Annotated[
    str, typer.Option(metavar="CHAR", rich_help_panel=_TEXT, help="Decimal point (.) or comma (,) of a text table.")
]
Thousands = Annotated[
    str,
    typer.Option(
        metavar="CHAR",
        rich_help_panel=_TEXT,
        help="Separates groups of three digits: , . ' or a space.",
        show_default=False,
    ),
]
Multiline = Annotated[
    bool, typer.Option("--multiline", rich_help_panel=_TEXT, help="Quoted cells may hold line breaks.")
]
Drop = Annotated[list[str] | None, typer.Option(metavar="COLUMN", help="Column to leave out; repeat it for more.")]
Base = Annotated[str, typer.Option(help="Base activation: relu, tanh, gelu, silu, softplus, ...")]
Device = Annotated[str, typer.Option(help="cpu or cuda.")]


def text_format(
    header: bool | None, delimiter: str | None, decimal: str, thousands: str, multiline: bool
) -> TextFormat:
    """What the options say of a text table."""
    named = {"tab": "\t", "\\t": "\t", "space": " "}
    try:
        return TextFormat(header, named.get(delimiter or "", delimiter), Numbers(decimal, thousands), multiline)
    except ValueError as error:
        raise CommandError(f"--{error}") from None


def read_features(table: Table, features: tuple[str, ...], target: str | None = None) -> FloatArray:
    """The columns ``features``, then ``target`` if there is one; errors say how to leave columns out."""
    names = features if target is None else (*features, target)
    try:
        values = table.values(names, rows_of=target)
    except TableError as error:
        droppable = [name for name in error.columns if name != target]
        if not droppable or len(droppable) == len(features):
            raise
        raise TableError(f"{error}; leave out with {drop_options(droppable)}") from None
    counting = counting_columns(values[:, : len(features)], features)
    if counting and len(counting) < len(features):
        table.notes.append(
            f"{', '.join(map(repr, counting))} only counts the rows; if it is a row number or an index, leave it "
            f"out with {drop_options(counting)}."
        )
    return values


def check_choice(option: str, value: str, choices: Sequence[str]) -> None:
    """Refuse a value that is none of ``choices``."""
    if value not in choices:
        raise CommandError(f"{option} must be {' or '.join(choices)}, got {value!r}")


def check_device(device: str) -> None:
    """Refuse a ``--device`` that is none, or that torch does not see."""
    check_choice("--device", device, ("cpu", "cuda"))
    if device == "cuda" and not torch.cuda.is_available():
        raise CommandError("--device cuda: torch sees no GPU; `hrta doctor` says why")
