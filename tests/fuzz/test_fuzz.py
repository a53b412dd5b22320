"""A little of what ``make fuzz`` does at length, with fixed seeds; every failure says how to see it again."""

from __future__ import annotations

import pytest
from fuzz.run import findings


@pytest.mark.parametrize("block", range(4))
def test_random_calls_are_right_or_refused(block: int) -> None:
    found = list(findings("ops", range(1000 * block, 1000 * block + 150)))
    assert not found, "\n".join(found)


def test_damaged_files_end_in_one_line_or_in_the_right_numbers() -> None:
    pytest.importorskip("typer")
    pytest.importorskip("rich")
    pytest.importorskip("safetensors")
    found = list(findings("files", range(60)))
    assert not found, "\n".join(found)
