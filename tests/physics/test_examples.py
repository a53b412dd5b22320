"""The scripts of docs/physics run as printed there, learn something in few steps, and draw."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import hrta_ext as hx

pytest.importorskip("matplotlib")
FOLDER = Path(__file__).parents[2] / "docs" / "physics"
EXAMPLES = [path.stem for path in sorted(FOLDER.glob("*.py")) if path.stem != "shared"]


@pytest.fixture
def example(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(FOLDER))
    yield importlib.import_module(request.param)
    for name in (request.param, "shared"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("example", EXAMPLES, indirect=True)
def test_an_example_lowers_its_loss_on_the_way_to_a_known_solution(example: Any) -> None:
    """A few steps of a narrow network; the solution that errors are measured against solves the equation elsewhere."""
    few: dict[str, Any] = {"steps": 30, "width": 50}
    if example.__name__ == "poisson_l_shape":
        few["per_unit"] = 8
    solved = example.solve(s=hx.ramp(1.0, 2.0, 10), **few)
    assert solved.result.stop_reason == "finished"
    assert solved.result.loss.isfinite().all()
    assert solved.result.loss[-5:].mean() < solved.result.loss[:5].mean()
    assert 0.0 < solved.error < 50.0


@pytest.mark.parametrize(
    ("example", "equation"),
    [
        ("poisson_square", lambda m, u, x: -u.second - 2 * torch.pi**2 * m.exact(x)),
        ("helmholtz", lambda m, u, x: u.second + m.K**2 * u.value - (m.K**2 - 5 * torch.pi**2) * m.exact(x)),
        ("heat", lambda m, u, x: u.gradient[:, 0] - u.second / torch.pi**2),
        ("six_dimensions", lambda m, u, x: u.value - u.second - (1 + torch.pi**2) * m.exact(x)),
    ],
    indirect=["example"],
)
def test_the_exact_solutions_solve_the_equations(example: Any, equation: Any) -> None:
    """By torch.func's Hessian, in float64."""
    d = getattr(example, "D", 2)
    x = torch.rand(7, d, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def of_one(point: torch.Tensor) -> torch.Tensor:
        return example.exact(point[None])[0]

    hessians = torch.func.vmap(torch.func.hessian(of_one))(x).diagonal(dim1=1, dim2=2)
    second = hessians[:, 1] if example.__name__ == "heat" else hessians.sum(1)
    jet = hx.Jet(example.exact(x), torch.func.vmap(torch.func.grad(of_one))(x), second)
    torch.testing.assert_close(equation(example, jet, x), torch.zeros(7, dtype=torch.float64), atol=1e-12, rtol=0)


@pytest.mark.parametrize("example", ["heat"], indirect=True)
def test_the_command_line_prints_errors_and_draws(
    example: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = tmp_path / "heat.png"
    monkeypatch.setattr(sys, "argv", ["heat.py", "--steps", "4", "--s", "1", "1:2", "--out", str(picture)])
    example.main(example.solve, example.TITLE, 3000)
    assert picture.read_bytes()[:4] == b"\x89PNG"
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "Heat equation, residual, 4 steps"
    assert [line.split()[0] for line in lines[2:]] == ["1", "1:2"]
