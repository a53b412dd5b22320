"""``hrta gram``: the kernels of a wide network on a user's own table, and their spectra against s."""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor

from hrta_ext.backends import build_info
from hrta_ext.bases import get_base
from hrta_ext.cli.launched import alike, from_first, launched, leads, own_device
from hrta_ext.cli.options import (
    Base,
    Data,
    DecimalMark,
    Delimiter,
    Device,
    Drop,
    Header,
    Multiline,
    Thousands,
    check_choice,
    check_device,
    read_features,
    text_format,
)
from hrta_ext.cli.output import (
    NO_PLOTS,
    CommandError,
    can_plot,
    draw_picture,
    output_directory,
    print_line,
    print_table,
    progress_bar,
)
from hrta_ext.files import write_json
from hrta_ext.groups import Ranks
from hrta_ext.inputs import with_bias
from hrta_ext.ntk.figures import plot_kernels, plot_spectra, spread
from hrta_ext.ntk.gram import GramPath, random_gram_path
from hrta_ext.ntk.report import SpectraReport, Spectrum, count_repeated_rows, spectra_report
from hrta_ext.tables.reading import open_table
from hrta_ext.tables.scaling import Scaling
from hrta_ext.tables.table import Table

_FILES = ("results.json", "spectrum.csv", "spectrum.png", "kernels.png")
_DTYPES = {"float64": torch.float64, "float32": torch.float32}
_WIDEST = 2**48
_MOST_S = 1000
_SHOWN_S = 5
# Of a feature: kernels hold its square, for some bases its fourth power, and eigenvalues the square of that.
_LARGEST = 1e30
# Relative error of infinite-width kernels from which on it is worth a line.
_NOTED_ERROR = 1e-8


@dataclass(frozen=True)
class _Samples:
    """The chosen rows, in the network's units."""

    features: Tensor  # (n, d) float64
    columns: tuple[str, ...]
    rows_in_table: int
    repeats: bool
    notes: list[str]


def gram(
    data: Data,
    width: Annotated[
        str, typer.Option(metavar="M", help="Number of neurons of the finite network, as in 1e6.")
    ] = "1e6",
    s: Annotated[
        list[str] | None,
        typer.Option(metavar="S ...", help="START:STOP:STEP, STOP included, or several values.  [default: 0:2:0.1]"),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Directory for the results.  [default: gram/NAME of the table]")
    ] = None,
    target: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Column that is no feature, such as the one to predict.")
    ] = None,
    drop: Drop = None,
    standardize: Annotated[
        bool,
        typer.Option("--standardize/--no-standardize", help="Scale the columns as `hrta train` does, or not at all."),
    ] = True,
    bias: Annotated[bool, typer.Option("--bias/--no-bias", help="Give every neuron a bias.")] = True,
    base: Base = "relu",
    max_rows: Annotated[int, typer.Option(min=1, help="Larger tables: a random subset of so many rows.")] = 1000,
    seed: Annotated[int, typer.Option(min=0, help="Fixes the weights and the subset of rows.")] = 0,
    dtype: Annotated[
        str, typer.Option(help="float64 or float32; float32 is faster and often too coarse for lambda_min.")
    ] = "float64",
    device: Device = "cpu",
    header: Header = None,
    delimiter: Delimiter = None,
    decimal: DecimalMark = ".",
    thousands: Thousands = "",
    multiline: Multiline = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the results in --out.")] = False,
) -> None:
    """Show how the kernels of a wide two-layer network on a table change with s.

    Draws --width random neurons, and computes the neural tangent kernel and its two parts at every s, with the limit of
    infinite width: smallest and largest eigenvalue, condition number, trace, and whether the smallest grows like s^2.
    Writes results.json, spectrum.csv, spectrum.png and kernels.png.

    Under torchrun its processes share the neurons: `torchrun --nproc-per-node 8 -m hrta_ext.cli -- gram ...`

    Example: `hrta gram diabetes.csv --target progression --width 1e6 --s 0:2:0.1 --out gram/diabetes`
    """
    get_base(base)
    neurons, values = parse_width(width), parse_s(s or ["0:2:0.1"])
    check_choice("--dtype", dtype, tuple(_DTYPES))
    text = text_format(header, delimiter, decimal, thousands, multiline)
    left_out = (*(drop or ()), *(() if target is None else (target,)))
    out = Path("gram") / data.stem if out is None else out
    options = {
        "width": neurons,
        "base": base,
        "bias": bias,
        "standardize": standardize,
        "target": target,
        "drop": list(drop or ()),
        "max_rows": max_rows,
        "seed": seed,
        "dtype": dtype,
        "device": device,
    }
    with launched() as ranks, ExitStack() as stack:
        with alike(ranks, "hrta gram"):
            check_device(device)
            own_device(ranks, device)
            x = None
            if leads(ranks):
                samples = _read(open_table(data, text, left_out), left_out, standardize, max_rows, seed)
                x = with_bias(samples.features) if bias else samples.features
                start = time.perf_counter()
                folder = stack.enter_context(output_directory(out, _FILES, overwrite=overwrite))
        path = _build(from_first(ranks, x, device), neurons, seed, base, _DTYPES[dtype], ranks)
        if not leads(ranks):
            return
        report = _analyse(path, values)
        seconds = time.perf_counter() - start
        notes = [*samples.notes, *_remarks(report, samples, dtype, base)]
        about = {"file": data.name, "rows": samples.rows_in_table}
        written = _write(folder, path, report, samples, about, options, notes, seconds)
    _print(report, notes)
    print_line(f"Written to {out} in {seconds:.0f} s: {', '.join(written)}")


# --- options ----------------------------------------------------------------------------------------------------------


def parse_width(text: str) -> int:
    """A number of neurons from "1e6", "1_000_000" or "1000000"."""
    try:
        value = Decimal(text)
    except InvalidOperation:
        raise CommandError(f"--width must be a whole number such as 1e6 or 1_000_000, got {text!r}") from None
    if not value.is_finite() or not 1 <= value <= _WIDEST:
        raise CommandError(f"--width must be from 1 to 2^48, got {text}")
    if value != value.to_integral_value():
        raise CommandError(f"--width must be a whole number, got {text}")
    return int(value)


def parse_s(texts: Sequence[str]) -> list[float]:
    """Values of s, ascending and different, from numbers and ranges START:STOP:STEP that include STOP."""
    values = sorted({value for text in texts for value in _values_of(text)})
    if len(values) > _MOST_S:
        raise CommandError(f"--s gives {len(values)} values; at most {_MOST_S} are taken")
    return values


def _values_of(text: str) -> list[float]:
    parts = text.split(":")
    try:
        # Decimals, so that 0:2:0.1 holds 0.3 and not 0.30000000000000004.
        numbers = [Decimal(part.strip()) for part in parts]
    except InvalidOperation:
        numbers = []
    if len(numbers) not in (1, 3) or not all(number.is_finite() and abs(number) < 10**6 for number in numbers):
        raise CommandError(f"--s must be START:STOP:STEP, as in 0:2:0.1, or numbers, as in --s 0.5 1 2; got {text!r}")
    if len(numbers) == 1:
        return [float(numbers[0])]
    first, last, step = numbers
    if step <= 0 or last < first:
        raise CommandError(f"--s {text}: START:STOP:STEP needs STOP >= START and STEP > 0")
    if (last - first) / step >= _MOST_S:
        raise CommandError(f"--s {text} gives more than {_MOST_S} values; take a larger STEP")
    return [float(first + k * step) for k in range(int((last - first) / step) + 1)]


# --- the table --------------------------------------------------------------------------------------------------------


def _read(table: Table, left_out: tuple[str, ...], standardize: bool, max_rows: int, seed: int) -> _Samples:
    table.require(left_out)
    columns = table.features(left_out)
    if not columns:
        raise CommandError(f"{table.path}: --target and --drop leave no column")
    features = torch.from_numpy(read_features(table, columns))
    print_line(table.summary(len(features)))
    total, notes = len(features), list(table.notes)
    if total > max_rows:
        chosen = torch.randperm(total, generator=torch.Generator().manual_seed(seed % 2**63))[:max_rows]
        features = features[chosen.sort().values]
        notes.append(f"{max_rows} of the {total} rows, chosen at random by --seed {seed}; --max-rows takes more.")
    if standardize:
        features = Scaling.of_samples(features).scale_x(features)
    if float(features.abs().max()) > _LARGEST:
        raise CommandError(f"{table.path}: numbers beyond {_LARGEST:g} overflow in the kernels; use --standardize")
    repeated, pair = count_repeated_rows(features)
    if pair is not None:
        where = "" if total > max_rows else f" (the first: row {pair[1] + 1} repeats row {pair[0] + 1})"
        rows = "1 row repeats another" if repeated == 1 else f"{repeated} rows repeat others"
        notes.append(f"{rows} in the columns used{where}, so lambda_min is 0 up to rounding at every s.")
    return _Samples(features, columns, total, pair is not None, notes)


# --- the work ---------------------------------------------------------------------------------------------------------


def _build(x: Tensor, width: int, seed: int, base: str, dtype: torch.dtype, ranks: Ranks | None) -> GramPath:
    with progress_bar(width, " neurons") as advance:
        last = 0

        def report(done: int, _: int) -> None:
            nonlocal last
            advance(done - last, "kernels")
            last = done

        group = None if ranks is None else ranks.group
        return random_gram_path(x, width, seed=seed, base=base, dtype=dtype, progress=report, group=group)


def _analyse(path: GramPath, s: list[float]) -> SpectraReport:
    with progress_bar(2 * len(s)) as advance, warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of the expansion's error: a remark says it
        return spectra_report(path, s, advance)


def _remarks(report: SpectraReport, samples: _Samples, dtype: str, base: str) -> list[str]:
    unresolved = None if samples.repeats else report.unresolved()
    notes = [note for note in (unresolved, report.bias()) if note]
    if dtype == "float32":
        notes.append("float32 shows lambda_min only above 2e-6 of lambda_max; --dtype float64 shows the rest.")
    if report.finite["ntk"].error is None:
        notes.append("No error bars: they need at least 2 neurons and at most 1024 rows.")
    if report.infinite_error > _NOTED_ERROR:
        notes.append(
            f"The infinite-width kernels of {base} are accurate to {report.infinite_error:.0e} only, since samples are "
            "long vectors; --standardize helps."
        )
    return notes


def _write(
    out: Path,
    path: GramPath,
    report: SpectraReport,
    samples: _Samples,
    data: dict[str, Any],
    options: dict[str, Any],
    notes: list[str],
    seconds: float,
) -> list[str]:
    """Write everything; returns the names of the files."""
    content = {
        "data": {**data, "features": list(samples.columns), "rows_used": report.n_samples},
        "options": options,
        "environment": build_info(),
        "seconds": seconds,
        "notes": notes,
        **report.as_json(),
    }
    write_json(out / "results.json", content)
    report.write_csv(out / "spectrum.csv")
    pictures = {
        "spectrum.png": lambda target: plot_spectra(report, target),
        "kernels.png": lambda target: plot_kernels(path, samples.features, report.s.tolist(), target),
    }
    return [
        *_FILES[:2],
        *(name for name, draw in pictures.items() if draw_picture(out / name, draw if can_plot() else None)),
    ]


def _print(report: SpectraReport, notes: list[str]) -> None:
    finite, infinite = report.finite["ntk"], report.infinite["ntk"]
    rows = []
    for value in spread(report.s.tolist(), _SHOWN_S):
        i = report.s.tolist().index(value)
        largest = float(infinite.largest[i])
        below = not infinite.resolved[i]
        bound = float(infinite.resolution[i] if below else infinite.smallest[i])
        rows.append(
            [
                f"{value:g}",
                _smallest(finite, i),
                _smallest(infinite, i),
                f"{largest:.4g}",
                f"> {largest / bound:.0e}" if below else f"{largest / bound:.1e}",
                f"{'< ' if below else ''}{2.0 * bound / report.n_samples:.{0 if below else 2}e}",
            ]
        )
    width = f"{report.width:,}" if report.width < 10**10 else f"{report.width:.3g}"
    title = f"Neural tangent kernel, n = {report.n_samples}, D = {report.n_features}"
    columns = [
        "s",
        f"lambda_min\nwidth {width}",
        "lambda_min\ninfinite",
        "lambda_max\ninfinite",
        "condition\ninfinite",
        "rate\n2 λmin / n",
    ]
    print_table(title, columns, rows)
    print_line("rate: gradient flow brings the training loss down at least like exp(-rate t).")
    print_line(report.verdict())
    for note in notes:
        print_line(note)
    if not can_plot():
        print_line(NO_PLOTS)


def _smallest(spectrum: Spectrum, i: int) -> str:
    """lambda_min at the i-th s, with its standard error, or a bound where numerical error hides it."""
    if not spectrum.resolved[i]:
        return f"< {spectrum.resolution[i]:.0e}"
    error = "" if spectrum.error is None else f" ± {spectrum.error[i]:.0e}"
    return f"{spectrum.smallest[i]:.3e}{error}"
