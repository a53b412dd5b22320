"""The fast lane's conditions stand twice in the source, which is worth a tenth of a call; here they are kept equal."""

from __future__ import annotations

import ast
import inspect

from hrta_ext.activation import functions


def _conditions(name: str) -> list[str]:
    (definition,) = ast.parse(inspect.getsource(getattr(functions, name))).body
    (first,) = (node for node in ast.walk(definition) if isinstance(node, ast.If) and isinstance(node.test, ast.BoolOp)
                and "_NATIVE_BASES" in ast.unparse(node.test))  # fmt: skip
    assert isinstance(first.test, ast.BoolOp)
    return [ast.unparse(value) for value in first.test.values]


def test_both_lanes_ask_the_same() -> None:
    lane, copy = _conditions("_fast_lane"), _conditions("homotopy")
    assert len(lane) > 10
    assert [condition for condition in copy if condition != "order == 0"] == lane
