"""Options that take several numbers, written as ``--s 0.5 1``, which Typer's parser does not know."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from typer.core import TyperCommand

# Only options of numbers: where an option of names ended and the name of a file began, nobody could tell.
_LIST_OPTIONS = ("--s", "--steps")


class WithLists(TyperCommand):
    """A command that reads ``--s 0.5 1`` as ``--s 0.5 --s 1``; both can be typed."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse ``args`` once the lists are spelled out."""
        return super().parse_args(ctx, repeat_list_options(args))


def _is_number(argument: str) -> bool:
    """Also 1:2, which stands for a ramp."""
    try:
        return len([float(part) for part in argument.split(":")]) <= 2
    except ValueError:
        return False


def repeat_list_options(arguments: Sequence[str]) -> list[str]:
    """Repeat a list option before each of its numbers: --s 0.5 1 table.csv -> --s 0.5 --s 1 table.csv."""
    repeated: list[str] = []
    option = None
    n_values = 0
    for position, argument in enumerate(arguments):
        if argument == "--":
            return repeated + list(arguments[position:])
        name, equals, _ = argument.partition("=")
        if name in _LIST_OPTIONS:
            option, n_values = name, int(bool(equals))
        elif option is not None and n_values >= 1 and _is_number(argument):
            repeated.append(option)
        elif option is not None and n_values >= 1:
            option = None
        else:
            n_values += 1
        repeated.append(argument)
    return repeated
