"""The Typer app: its commands, and how anything that goes wrong ends in one line and a non-zero exit code."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Annotated, Any

import torch
import typer
from typer.core import TyperGroup

from hrta_ext import __version__
from hrta_ext.cli.arguments import WithLists
from hrta_ext.cli.bench import bench
from hrta_ext.cli.demo import demo
from hrta_ext.cli.doctor import doctor
from hrta_ext.cli.gram import gram
from hrta_ext.cli.launched import processes
from hrta_ext.cli.output import CommandError, Interrupted, print_error, print_line
from hrta_ext.cli.predict import predict
from hrta_ext.cli.train import train
from hrta_ext.groups import RankError

_INTERRUPTED = 130
_SHARED = ("train", "gram", "doctor", "reproduce")  # commands whose processes under torchrun share the work
# Modules that `hrta reproduce` needs beyond those of the command line, and the packages that bring them.
_REPRODUCE_NEEDS = {"scipy": "scipy", "matplotlib": "matplotlib", "sklearn": "scikit-learn", "jinja2": "jinja2"}


class _OneLineErrors(TyperGroup):
    """A group whose ``main`` turns errors into one line on stderr; a traceback helps nobody who mistyped a column."""

    def main(  # type: ignore[override]
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = "hrta",
        *,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        """Run the command line; ends the process unless ``standalone_mode`` is False."""
        if not standalone_mode:
            return super().main(args, prog_name, standalone_mode=False, **extra)
        sys.exit(self._exit_code(args, prog_name, **extra))

    def _exit_code(self, args: Sequence[str] | None, prog_name: str | None, **extra: Any) -> int:
        try:
            result = super().main(args, prog_name, standalone_mode=False, **extra)
            # Typer hands the code of an Exit back as the result, and makes Ctrl-C one; older versions raise Abort.
            if result == _INTERRUPTED:
                raise KeyboardInterrupt
            return result if isinstance(result, int) else 0
        except (KeyboardInterrupt, typer.Abort):
            print_error("interrupted")
            return _INTERRUPTED
        except Interrupted as error:
            print_error(str(error))
            return _INTERRUPTED
        except (BrokenPipeError, SystemExit) as error:
            # The reader has gone (`hrta predict ... | head`): not an error, and nobody is left to tell. click and rich
            # would exit with 1.
            if isinstance(error, SystemExit) and not isinstance(error.__context__, BrokenPipeError):
                raise
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        except Exception as error:
            if os.environ.get("HRTA_TRACEBACK"):
                raise
            return _report(error)


def _report(error: Exception) -> int:
    """Print ``error`` as one line; returns the exit code."""
    if hasattr(error, "format_message"):  # a usage error of click's, whichever click this Typer carries
        context = getattr(error, "ctx", None)
        command = "hrta" if context is None else context.command_path
        text = error.format_message().rstrip(".")
        if text:  # none of `hrta` alone, whose help has been shown
            print_error(f"{text}; see `{command} --help`")
        return 2
    if isinstance(error, OSError) and error.strerror:
        print_error(f"{error.filename}: {error.strerror}" if error.filename else error.strerror)
    elif isinstance(error, (CommandError, RankError, ValueError, TypeError, OSError, ModuleNotFoundError)):
        print_error(str(error))
    elif isinstance(error, torch.OutOfMemoryError):
        wanted = re.search(r"ried to allocate ([\d.]+ \w+)", str(error))
        size = f" (it wanted another {wanted[1]})" if wanted else ""
        print_error(f"not enough GPU memory{size}; use a smaller --width, fewer rows, or --device cpu")
    elif isinstance(error, MemoryError) or ("alloc" in str(error) and "memory" in str(error)):
        print_error("not enough memory; use a smaller --width or --batch-size, or fewer rows")
    else:
        print_error(f"internal error: {type(error).__name__}: {error}; HRTA_TRACEBACK=1 shows where")
    return 1


def _version(wanted: bool) -> None:
    if wanted:
        print_line(f"hrta_ext {__version__}")
        raise typer.Exit


app = typer.Typer(
    name="hrta",
    cls=_OneLineErrors,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def _hrta(
    context: typer.Context,
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Show the version and exit."
    ),
) -> None:
    """Homotopy relaxation training of wide two-layer networks.

    Start with `hrta demo`; `hrta doctor` says what works on this machine.
    """
    if processes() > 1 and context.invoked_subcommand not in _SHARED:
        raise CommandError(
            f"hrta {context.invoked_subcommand} runs in one process, and torchrun started {processes()}: "
            f"only {', '.join(_SHARED)} share their work"
        )


for _command in (demo, train, predict, gram, doctor, bench):
    app.command(cls=WithLists)(_command)


def _add_reproduce() -> None:
    """``hrta reproduce`` where its extra is installed; elsewhere a command that says what is missing."""
    missing = [package for module, package in _REPRODUCE_NEEDS.items() if find_spec(module) is None]
    if not missing:
        from hrta_ext.reproduction.command import reproduce_command

        app.command("reproduce")(reproduce_command)
        return
    cure = "pip install 'hrta_ext[reproduce]'"

    @app.command(
        "reproduce",
        help=f"Put the paper's claims to the test; needs `{cure}`.",
        context_settings={"ignore_unknown_options": True},
    )
    def incomplete(arguments: Annotated[list[str] | None, typer.Argument(metavar="NAME")] = None) -> None:
        raise CommandError(f"hrta reproduce needs {', '.join(missing)}: {cure}")


_add_reproduce()


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the app on ``arguments``, those of the process by default; returns the exit code."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # an ASCII terminal gets a ? for an arrow, not an exception
    try:
        app(args=arguments, prog_name="hrta")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0
