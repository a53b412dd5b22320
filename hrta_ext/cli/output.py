"""What the commands share: printing, progress, and the directory that a run writes into."""

from __future__ import annotations

import os
import sys
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text


class CommandError(Exception):
    """One line that says what is wrong and what to do."""


class Interrupted(Exception):
    """Ctrl-C, and one line that says how to go on."""


def _plain(text: str) -> Text:
    """Text that is no markup, nor orders to the terminal: names of columns and files may hold anything."""
    harmless = (c if c in "\n\t" or unicodedata.category(c) != "Cc" else "\N{REPLACEMENT CHARACTER}" for c in text)
    return Text("".join(harmless))


def speaks() -> bool:
    """Whether this process prints: of those that torchrun started, rank 0 alone."""
    return os.environ.get("WORLD_SIZE", "1") == "1" or os.environ.get("RANK", "0") == "0"


def print_line(text: str) -> None:
    """Plain text on stdout, wrapped at words to the width of the terminal and left whole in a pipe or a file."""
    if not speaks():
        return
    console = Console(highlight=False)
    console.print(_plain(text), soft_wrap=not console.is_terminal)


def print_note(text: str) -> None:
    """Plain text on stderr, for commands whose stdout is data."""
    if not speaks():
        return
    console = Console(stderr=True, highlight=False)
    console.print(_plain(text), soft_wrap=not console.is_terminal)


def print_error(text: str) -> None:
    """``hrta: error: ...`` on stderr, in one line whatever ``text`` holds; white space may belong to a name."""
    if not speaks():
        return
    line = Text.assemble(("hrta: error: ", "bold red"), _plain(" ".join(text.splitlines())))
    Console(stderr=True, highlight=False).print(line, soft_wrap=True)


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], *, text_columns: int = 1) -> None:
    """A table on stdout, the first ``text_columns`` columns aligned left; no header where all ``columns`` are empty."""
    if not speaks():
        return
    table = Table(
        box=box.SIMPLE_HEAD,
        show_header=any(columns),
        title=_plain(title),
        title_justify="left",
        pad_edge=False,
        title_style="bold",
    )
    for k, column in enumerate(columns):
        table.add_column(_plain(column), justify="left" if k < text_columns else "right")
    for row in rows:
        table.add_row(*(_plain(cell) for cell in row))
    Console(highlight=False).print(table)


@contextmanager
def progress_bar(total: int, unit: str = "step") -> Iterator[Callable[[int, str], None]]:
    """Yield ``advance(steps, what)`` that moves a bar on stderr; there is no bar where stderr is not a terminal.

    Units other than steps are counted in thousands, millions, ...
    """
    from tqdm import tqdm

    scaled, hidden = unit != "step", not (speaks() and sys.stderr.isatty())
    with tqdm(total=total, unit=unit, unit_scale=scaled, disable=hidden, dynamic_ncols=True, leave=False) as bar:

        def advance(steps: int, what: str) -> None:
            bar.set_description(what, refresh=False)
            bar.update(steps)

        yield advance


def can_plot() -> bool:
    """matplotlib is installed."""
    return find_spec("matplotlib") is not None


def draw_picture(path: Path, draw: Callable[[Path], None] | None) -> bool:
    """Whether ``draw`` made the picture ``path``; None where matplotlib is missing.

    What fails is no failure of the run, whose results are written: one line on stderr says so, and no picture of an
    earlier run is left beside them.
    """
    reason = None
    try:
        if draw is not None:
            draw(path)
            return True
    except Exception as error:  # matplotlib raises whatever its parsers, fonts and settings meet
        reason = " ".join(str(error).split())[:200] or type(error).__name__
    with suppress(OSError):
        path.unlink()
    if reason is not None:
        print_note(f"hrta: warning: {path} could not be drawn ({reason}); all other results are written")
    return False


NO_PLOTS = "No pictures: matplotlib is missing (pip install 'hrta_ext[plot]')."


@contextmanager
def output_directory(out: Path, names: Sequence[str], *, overwrite: bool, or_else: str = "") -> Iterator[Path]:
    """Make sure that ``out`` can be written and holds no earlier run; enter it once all input is read.

    Yields the absolute path: the working directory may change. Directories made here that are empty when an error ends
    the block are taken away again.

    Args:
        out: Where the run is to be written; made if it is not there.
        names: Files that the run writes. Any of them present means an earlier run.
        overwrite: An earlier run may be replaced.
        or_else: A further way out to name in the error, such as "--resume to go on with it".
    Raises:
        CommandError: There is an earlier run, or nothing can be written.
    """
    if out.exists() and not out.is_dir():
        raise CommandError(f"{out}: is a file, and --out must be a directory; choose another --out")
    if out.is_dir() and not overwrite:
        present = next((name for name in names if (out / name).exists()), None)
        if present:
            choices = ", ".join(filter(None, ("choose another --out", or_else, "--overwrite to replace it")))
            raise CommandError(f"{out} already holds a run ({present}): {choices}")
    out = out.absolute()
    made = [directory for directory in (out, *out.parents) if not directory.exists()]
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CommandError(f"{out}: cannot be made ({error.strerror}); choose another --out") from error
    if not os.access(out, os.W_OK | os.X_OK):
        raise CommandError(f"{out}: cannot be written (permission denied); choose another --out")
    try:
        yield out
    except BaseException:
        for directory in made:
            with suppress(OSError):
                directory.rmdir()  # fails where a file was written
        raise
