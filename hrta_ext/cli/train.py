"""``hrta train``: homotopy relaxation training on a user's own table."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer

from hrta_ext import __version__
from hrta_ext.bases import get_base
from hrta_ext.cli.launched import launched, leads, own_device
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
    Interrupted,
    can_plot,
    draw_picture,
    output_directory,
    print_line,
    print_table,
)
from hrta_ext.cli.stages import stages
from hrta_ext.files import write_json
from hrta_ext.groups import Ranks, together
from hrta_ext.inputs import check_seed
from hrta_ext.network.module import TwoLayerNet
from hrta_ext.tables.model import MODEL_FILES, Regression, check_columns
from hrta_ext.tables.reading import open_table
from hrta_ext.tables.scaling import FloatArray, Scaling
from hrta_ext.tables.scores import Score, linear_least_squares, split_rows
from hrta_ext.tables.table import Table, plural
from hrta_ext.training.checkpoints import remove_checkpoint
from hrta_ext.training.fit import fit
from hrta_ext.training.results import FitResult, StepInfo

_CHECKPOINT = "checkpoint.pt"
_FILES = ("report.json", *MODEL_FILES, "training.png", _CHECKPOINT)
# There from the start of a run to its last step: a run that was killed before its first checkpoint begins again.
_BEGUN = ".hrta_train_begun"
# Steps when none are given. On a few hundred rows longer runs score worse on unseen rows, on 100 000 they score better.
_TOTAL_STEPS = 1000
_TOTAL_STEPS_IN_BATCHES = 5000
_FEWEST_ROWS = 10
# Beyond this number of rows, batches: a full-batch step would take longer than the progress it makes.
_FULL_BATCH_ROWS = 4096
_BATCH_SIZE = 1024
# The validation loss is watched on so many rows at so many steps: a curve to look at, cheap on any table.
_WATCHED_ROWS = 4096
_WATCHED_STEPS = 40


@dataclass(frozen=True)
class _Data:
    """The table's numbers: x (n, d), y (n,), and which rows train and which validate."""

    x: FloatArray
    y: FloatArray
    features: tuple[str, ...]
    target: str
    training: np.ndarray[Any, np.dtype[np.int64]]
    validation: np.ndarray[Any, np.dtype[np.int64]]


def train(
    data: Data,
    target: Annotated[str, typer.Option(metavar="COLUMN", help="Column to predict.", show_default=False)],
    s: Annotated[
        list[str] | None,
        typer.Option(
            metavar="S ...", help="Homotopy parameter of each stage; 1:2 moves it from 1 to 2.  [default: 0.5 1]"
        ),
    ] = None,
    steps: Annotated[
        list[int] | None,
        typer.Option(min=1, metavar="N ...", help="Steps of each stage.  [default: 200 800, in batches 1000 4000]"),
    ] = None,
    ramp: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Steps in which 1:2 gets from 1 to 2.  [default: those of its stage]"),
    ] = None,
    width: Annotated[int, typer.Option(min=1, help="Number of neurons.")] = 1000,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Directory for the model.  [default: runs/NAME of the table]")
    ] = None,
    drop: Drop = None,
    lr: Annotated[float, typer.Option(help="Learning rate at the start.")] = 1e-3,
    lr_schedule: Annotated[str, typer.Option(help="cosine (decays to 0) or constant.")] = "cosine",
    optimizer: Annotated[str, typer.Option(help="adam, sgd or gd (plain gradient descent on all rows).")] = "adam",
    batch_size: Annotated[
        int | None,
        typer.Option(
            min=0, help=f"Rows per step; 0 for all.  [default: all up to {_FULL_BATCH_ROWS} rows, else {_BATCH_SIZE}]"
        ),
    ] = None,
    base: Base = "relu",
    validation: Annotated[float, typer.Option(help="Fraction of the rows held out.")] = 0.2,
    seed: Annotated[int, typer.Option(min=0, help="Fixes starting weights, split and batches.")] = 0,
    device: Device = "cpu",
    header: Header = None,
    delimiter: Delimiter = None,
    decimal: DecimalMark = ".",
    thousands: Thousands = "",
    multiline: Multiline = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the run in --out.")] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with an interrupted run; same options as before.")
    ] = False,
) -> None:
    """Train a two-layer network on a table and report how well it predicts rows it has not seen.

    All columns but the target are features; all must be numbers (leave others out with --drop). The columns are
    standardised and the scaling is saved with the model, for `hrta predict`. Writes model.json, model.pt, report.json
    and training.png. A run that was killed, whenever that was, ends with the same files by --resume. A picture that
    cannot be drawn is said on stderr and is no failure: the exit code is 0.

    Under torchrun its processes share the neurons: `torchrun --nproc-per-node 8 -m hrta_ext.cli train ...`

    Example: `hrta train diabetes.csv --target progression --s 0.5 1 --steps 200 800 --out runs/diabetes`
    """
    with launched() as ranks:
        with together(ranks, "hrta train"):
            check_seed(seed, "--seed")
            _check_options(base, lr_schedule, optimizer, validation, device, overwrite and resume)
            own_device(ranks, device)
            text = text_format(header, delimiter, decimal, thousands, multiline)
            left_out = tuple(drop or ())
            held = _read(open_table(data, text, (target, *left_out)), target, left_out, validation, seed)
            if batch_size is None and optimizer != "gd":
                batch_size = 0 if len(held.training) <= _FULL_BATCH_ROWS else _BATCH_SIZE
            total_steps = _TOTAL_STEPS_IN_BATCHES if batch_size else _TOTAL_STEPS
            s_values, stage_steps = stages(s, steps, ramp, total_steps)
            out = Path("runs") / data.stem if out is None else out
            x, y = torch.from_numpy(held.x[held.training]), torch.from_numpy(held.y[held.training])
            scaling = Scaling.of(x, y)
            torch.manual_seed(seed)
        group = None if ranks is None else ranks.group
        net = TwoLayerNet(x.shape[1], width, base=base, seed=seed, group=group).to(device)
        model = Regression(net, scaling, held.features, target)
        watch = _ValidationLoss(model, held, sum(stage_steps))
        with _directory_of_ranks(out, overwrite, resume, ranks) as folder:
            result = fit(
                net,
                scaling.scale_x(x).to(device, torch.float32),
                scaling.scale_y(y).to(device, torch.float32),
                s=s_values,
                steps=stage_steps,
                optimizer=optimizer,
                lr=lr,
                lr_schedule=None if lr_schedule == "constant" else lr_schedule,
                batch_size=batch_size or None,
                progress=True,
                checkpoint=folder / _CHECKPOINT,
                checkpoint_every=max(1000, sum(stage_steps) // 20),
                resume=resume,
                callbacks=(watch,),
            )
            with together(ranks, "hrta train"):
                _check_finished(result, folder, lr, leads(ranks))
                if leads(ranks):
                    # From here on the checkpoint, which goes last, says that files are missing.
                    (folder / _BEGUN).unlink(missing_ok=True)
            options = {"seed": seed, "validation": validation, "device": device}
            _report(model, held, result, watch, data, folder, options)
    print_line(f"Written to {out} in {result.seconds:.0f} s of training; next: hrta predict {out} NEW.csv")


def _check_options(
    base: str, lr_schedule: str, optimizer: str, validation: float, device: str, overwrite_and_resume: bool
) -> None:
    get_base(base)
    check_choice("--lr-schedule", lr_schedule, ("cosine", "constant"))
    check_choice("--optimizer", optimizer, ("adam", "sgd", "gd"))
    check_device(device)
    if not 0.0 < validation < 1.0:
        raise CommandError(f"--validation must be between 0 and 1, got {validation:g}")
    if overwrite_and_resume:
        raise CommandError("--overwrite and --resume exclude each other")


def _read(table: Table, target: str, drop: tuple[str, ...], validation: float, seed: int) -> _Data:
    """Read the table and refuse what nothing can be learnt from."""
    table.require((target, *drop))
    if target in drop:
        raise CommandError(f"--drop {target}: is the target")
    features = table.features((target, *drop))
    if not features:
        raise CommandError(f"{table.path}: there is no column beside the target {target!r} to predict it from")
    values = read_features(table, features, target)
    n_rows = len(values)
    print_line(table.summary(n_rows))
    for note in table.notes:
        print_line(note)
    if n_rows < _FEWEST_ROWS:
        raise CommandError(
            f"{table.path}: has {plural(n_rows, 'row')}; training and validation need at least {_FEWEST_ROWS} "
            f"(read as {plural(len(table.columns), 'column')}{table.layout})"
        )
    x, y = values[:, :-1], values[:, -1]
    check_columns(x, y, features, target)
    training, held_out = split_rows(n_rows, validation, seed)
    if len(training) < 2:
        raise CommandError(f"--validation {validation:g} leaves {len(training)} of {n_rows} rows to train on")
    if np.ptp(y[training]) == 0.0:
        raise CommandError(f"the target {target!r} is constant in the training rows; use another --seed or more rows")
    return _Data(x, y, features, target, training, held_out)


@contextmanager
def _directory_of_ranks(out: Path, overwrite: bool, resume: bool, ranks: Ranks | None) -> Iterator[Path]:
    """:func:`_run_directory`, of which rank 0 takes care."""
    with ExitStack() as stack:
        with together(ranks, "hrta train"):
            leading = leads(ranks)
            folder = stack.enter_context(_run_directory(out, overwrite, resume)) if leading else out.absolute()
        yield folder


@contextmanager
def _run_directory(out: Path, overwrite: bool, resume: bool) -> Iterator[Path]:
    """The directory of the run, absolute, without an earlier checkpoint unless that is to be resumed."""
    saved, begun = (out / _CHECKPOINT).exists(), (out / _BEGUN).exists()
    just_made = out.is_dir() and not any(out.iterdir())
    if resume and not (saved or begun or just_made):
        state = "a finished run" if (out / "report.json").exists() else "no interrupted run"
        raise CommandError(f"{out} holds {state}, so there is nothing to resume; run without --resume")
    or_else = "--resume to go on with it" if saved or begun else ""
    with output_directory(out, _FILES, overwrite=overwrite or resume, or_else=or_else) as folder:
        if resume and not saved:
            print_line(f"{out} holds no checkpoint yet: the run starts from the beginning")
        if saved and overwrite:
            (folder / _CHECKPOINT).replace(folder / _BEGUN)  # in one step: neither run is ever taken for the other
        (folder / _BEGUN).write_bytes(b"")
        try:
            yield folder
        finally:
            (folder / _BEGUN).unlink(missing_ok=True)


class _ValidationLoss:
    """Callback that follows the loss on the validation rows, every ``every`` steps; kept in the checkpoint."""

    def __init__(self, model: Regression, data: _Data, total_steps: int) -> None:
        # The rows of the split are sorted: every k-th of them is as good a sample as the split itself.
        rows = data.validation[:: -(-len(data.validation) // _WATCHED_ROWS)]
        scaling, net = model.scaling, model.net
        self.x = scaling.scale_x(torch.from_numpy(data.x[rows])).to(net.weight.device, torch.float32)
        self.y = scaling.scale_y(torch.from_numpy(data.y[rows])).to(net.weight.device, torch.float32)
        self.every = max(1, total_steps // _WATCHED_STEPS)
        self.losses: list[tuple[int, float]] = []

    def __call__(self, info: StepInfo) -> None:
        with torch.no_grad():
            self.losses.append((info.step + 1, 0.5 * float((info.net(self.x) - self.y).square().mean())))

    def state_dict(self) -> dict[str, Any]:
        return {"losses": self.losses}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.losses = list(state["losses"])

    def is_whole(self) -> bool:
        """Whether the curve starts at the start: checkpoints of 0.1.0 kept none of it."""
        return len(self.losses) >= 2 and self.losses[0][0] == self.every


def _check_finished(result: FitResult, out: Path, lr: float, leading: bool) -> None:
    done = result.loss.numel()
    if result.stop_reason == "interrupted":
        raise Interrupted(f"interrupted after step {done}; the same command with --resume goes on from there")
    if result.stop_reason == "diverged":
        if leading:
            remove_checkpoint(out / _CHECKPOINT)
        raise CommandError(
            f"the training diverged within {done} steps, nothing was written; use a lower --lr than {lr:g}"
        )


def _report(
    model: Regression,
    data: _Data,
    result: FitResult,
    watch: _ValidationLoss,
    path: Path,
    out: Path,
    options: dict[str, Any],
) -> None:
    """Score, write and print; where ranks share the neurons rank 0, but for the predictions and the model."""
    train_rows, held_rows = data.training, data.validation
    y, y_held = data.y[train_rows], data.y[held_rows]
    predicted = model.predict(data.x)
    model.save(out)
    if not leads(model.net.ranks):
        return
    linear = linear_least_squares(data.x[train_rows], y, model.scaling, data.x)
    constant = np.full(len(data.y), y.mean())
    models = {"two-layer network": predicted, "linear least squares": linear, "constant (mean)": constant}
    scores = {
        name: {"training": Score.of(y, p[train_rows]), "validation": Score.of(y_held, p[held_rows])}
        for name, p in models.items()
    }
    notes = [_against_linear(y_held, predicted[held_rows], linear[held_rows]), *_advice(watch, scores, data, result)]

    write_json(
        out / "report.json",
        {
            "data": {"file": path.name, "rows": len(data.y), "features": list(data.features), "target": data.target},
            "settings": {**result.settings, **options, "base": model.net.base, "width": model.net.width},
            "versions": {"hrta_ext": __version__, "torch": torch.__version__},
            "seconds": result.seconds,
            "scores": {name: {rows: vars(score) for rows, score in pair.items()} for name, pair in scores.items()},
            "notes": notes,
            "validation_rows": [int(row) + 1 for row in held_rows] if len(held_rows) <= _WATCHED_ROWS else None,
            "validation_loss": [list(pair) for pair in watch.losses],
        },
    )

    def draw(picture: Path) -> None:
        from hrta_ext.cli.figures import plot_regression

        plot_regression(result.loss, result.s, watch.losses, y_held, predicted[held_rows], data.target, picture)

    draw_picture(out / "training.png", draw if can_plot() else None)
    if not can_plot():
        notes.append(NO_PLOTS)
    remove_checkpoint(out / _CHECKPOINT)

    cells = [
        [name, *(cell for score in pair.values() for cell in (f"{score.rmse:.4g}", f"{round(score.r2, 4) + 0.0:.4f}"))]
        for name, pair in scores.items()
    ]
    title = f"{data.target} from {len(data.features)} columns: {len(y)} training and {len(y_held)} validation rows"
    print_table(title, ["", "RMSE\ntraining", "R^2\ntraining", "RMSE\nvalidation", "R^2\nvalidation"], cells)
    for note in notes:
        print_line(note)


def _against_linear(y: FloatArray, network: FloatArray, linear: FloatArray) -> str:
    """Network against linear model on the same rows y (n,): a difference below two standard errors is called none."""
    difference = (y - network) ** 2 - (y - linear) ** 2
    n = len(y)
    error = float(difference.std(ddof=1)) / n**0.5 if n > 1 else np.inf
    if abs(difference.mean()) <= 2.0 * error:
        return f"On these {n} validation rows the network and linear least squares do not differ beyond chance."
    word = "better" if difference.mean() < 0.0 else "worse"
    return (
        f"On these {n} validation rows the network is {word} than linear least squares (by over two standard errors)."
    )


def _advice(watch: _ValidationLoss, scores: dict[str, dict[str, Score]], data: _Data, result: FitResult) -> list[str]:
    """Whether the network overfits or has not finished learning, and what to try."""
    if not watch.is_whole():
        return []
    total = result.loss.numel()
    step, lowest = min(watch.losses, key=lambda pair: pair[1])
    to_rmse = float(np.std(data.y[data.training]))
    first, last = ((2.0 * loss) ** 0.5 * to_rmse for loss in (lowest, watch.losses[-1][1]))
    pair = scores["two-layer network"]
    if last > 1.02 * first:
        return [
            f"It overfits: the validation RMSE was lowest at step {step} of {total} ({first:.4g}) "
            f"and rose to {last:.4g}. Fewer --steps or a lower --lr may do better."
        ]
    if pair["validation"].rmse > 1.5 * pair["training"].rmse:
        return ["It fits the training rows much better than the validation rows: more rows would help, more steps not."]
    falling = watch.losses[len(watch.losses) * 3 // 4][1] - watch.losses[-1][1]
    if step >= 0.9 * total and falling > 0.01 * lowest:
        return ["The validation RMSE was still falling at the end: more --steps or a higher --lr may do better."]
    return []
