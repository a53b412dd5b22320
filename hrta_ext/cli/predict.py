"""``hrta predict``: apply a trained model to a table."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, TextIO

import typer

from hrta_ext.cli.options import Data, DecimalMark, Delimiter, Header, Multiline, Thousands, text_format
from hrta_ext.cli.output import CommandError, print_line, print_note, print_table
from hrta_ext.files import is_stdout, replaced, replaces
from hrta_ext.tables.model import Regression
from hrta_ext.tables.reading import open_table
from hrta_ext.tables.scaling import FloatArray
from hrta_ext.tables.scores import Score
from hrta_ext.tables.table import Table, TableError, is_numbered, list_names


def predict(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Directory that `hrta train` wrote.", show_default=False)],
    data: Data,
    out: Annotated[
        Path | None, typer.Option(help="File for the predictions, CSV; without it they go to the terminal or a pipe.")
    ] = None,
    header: Header = None,
    delimiter: Delimiter = None,
    decimal: DecimalMark = ".",
    thousands: Thousands = "",
    multiline: Multiline = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file --out.")] = False,
) -> None:
    """Predict the target for every row of a table with a model that `hrta train` made.

    Columns are found by name, in any order; further columns are ignored. With --no-header they are taken in the order
    that the model was trained on. If the table has the target as well, the errors are reported.

    Example: `hrta predict runs/diabetes new.csv --out predictions.csv`
    """
    model = Regression.load(run)
    table = open_table(data, text_format(header, delimiter, decimal, thousands, multiline), model.features)
    prediction = model.predict(table.values(_feature_columns(model, table)))
    truth = _truth(model, table)
    if out is not None and not out.is_dir() and is_stdout(out):
        out = None
    say = print_note if out is None else print_line
    say(table.summary(len(prediction)))
    for note in table.notes:
        say(note)
    if out is None:
        _write(sys.stdout, prediction)
    else:
        _write_file(out, prediction, overwrite)
    rows = [["rows", f"{len(prediction)}"]]
    rows.append([f"predicted {model.target}", f"{prediction.min():.6g} to {prediction.max():.6g}"])
    if truth is not None:
        score = Score.of(truth, prediction)
        rows += [["RMSE", f"{score.rmse:.6g}"], ["R^2", f"{score.r2:.4f}"]]
    if out is not None:
        print_table(f"{data}, predicted by {run}", ["", ""], rows)
        print_line(f"Written to {out}, a row for every row of the table")
    elif not sys.stdout.isatty():
        return
    else:
        print_note("; ".join(f"{name} {value}" for name, value in rows))


def _feature_columns(model: Regression, table: Table) -> tuple[str, ...]:
    """The columns of ``table`` to feed to ``model``, in the model's order."""
    if not table.header_is_known:
        raise CommandError(
            f"{table.path}: its first row{_shown(table)} names none of the columns that the model was trained on "
            f"({list_names(model.features)}); if it has no header row, --no-header takes its columns in that order"
        )
    if not table.has_header and len(table.columns) == len(model.features):
        print_note(f"{table.path} has no header row: its columns are taken as {list_names(model.features)}")
        return table.columns
    missing = table.missing(model.features)
    if not missing:
        return model.features
    if len(table.columns) == len(model.features) and all(map(is_numbered, model.features)):
        print_note(f"the model has numbers for names: {list_names(table.columns)} are taken in this order")
        return table.columns
    some = f"{len(missing)} of the {len(model.features)} columns" if len(missing) > 1 else "a column"
    raise CommandError(
        f"{table.path}: lacks {some} that the model was trained on: {list_names(missing)}; "
        f"the table has {list_names(table.columns)}"
    )


def _shown(table: Table) -> str:
    return f" ({list_names(table.columns, 6)})" if table.has_header else ""


def _truth(model: Regression, table: Table) -> FloatArray | None:
    """The target's values, where the table has one in every row."""
    if not table.has_header or table.missing([model.target]):
        return None
    try:
        return table.values([model.target])[:, 0]
    except TableError:
        return None


def _write(stream: TextIO, prediction: FloatArray) -> None:
    stream.write("prediction\n")
    stream.writelines(f"{value!r}\n" for value in prediction.tolist())  # digits that read back to the same float64


def _write_file(out: Path, prediction: FloatArray, overwrite: bool) -> None:
    if out.is_dir():
        raise CommandError(f"{out}: is a directory; give --out the name of a file")
    try:
        if not overwrite and replaces(out):
            raise CommandError(f"{out}: exists already; choose another --out or --overwrite it")
        out.parent.mkdir(parents=True, exist_ok=True)
        with replaced(out) as temporary, temporary.open("w", encoding="utf-8") as stream:
            _write(stream, prediction)
    except OSError as error:
        raise CommandError(f"{out}: cannot be written ({error.strerror}); choose another --out") from error
