"""`hrta gram`: the numbers it writes against dense float64 formulas, its verdict, and a line for every mistake."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("typer")
pytest.importorskip("rich")
pytest.importorskip("tqdm")

import hrta_ext as hx
from hrta_ext.cli import main
from hrta_ext.cli.gram import parse_s, parse_width
from hrta_ext.ntk.report import KERNELS, count_repeated_rows, spectra_report

N, D, WIDTH = 40, 3, 3000
S = [0.0, 0.5, 1.0, 1.5, 2.0]


def write(path: Path, values: np.ndarray, header: str) -> Path:
    np.savetxt(path, values, delimiter=",", header=header, comments="", fmt="%.17g")
    return path


@pytest.fixture
def table(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    return write(tmp_path / "table.csv", rng.normal(size=(N, D)) * (1.0, 20.0, 5.0) + (0.0, 7.0, -2.0), "a,b,y")


def run(capsys, *arguments: object) -> str:
    """Standard output of a run that must succeed."""
    code = main(["gram", *(str(argument) for argument in arguments)])
    captured = capsys.readouterr()
    assert code == 0, captured.err
    return captured.out


def fails(capsys, *arguments: object) -> str:
    """The one line of a run that must fail."""
    assert main(["gram", *(str(argument) for argument in arguments)]) != 0
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("hrta: error: ")
    return lines[0]


def results(out: Path) -> dict:
    return json.loads((out / "results.json").read_text())


def samples(table: Path, columns: int, standardize: bool = True, bias: bool = True) -> np.ndarray:
    x = np.loadtxt(table, delimiter=",", skiprows=1, ndmin=2)[:, :columns]
    if standardize:
        x = (x - x.mean(0)) / (x.std(0) * math.sqrt(columns))
    return np.column_stack([x, np.ones(len(x))]) if bias else x


def finite(x: np.ndarray, s: float, width: int = WIDTH, seed: int = 0) -> dict[str, np.ndarray]:
    """docs/theory.md, section 3, as written, with the weights that the generator promises."""
    drawn = hx.random_weights(0, width, x.shape[1], seed=seed, dtype=torch.float64)
    weight, output_weight = (part.numpy() for part in drawn)
    z = x @ weight.T
    value, slope = (1 - s) * z + s * np.maximum(z, 0), (1 - s) + s * (z > 0)
    a = value @ value.T / width
    w = (x @ x.T) * ((slope * output_weight**2) @ slope.T) / width
    return {"a": a, "w": w, "ntk": a + w}


def infinite(x: np.ndarray, s: float) -> dict[str, np.ndarray]:
    """docs/theory.md, section 3.2, with the angle from the cosine."""
    inner, norm = x @ x.T, np.linalg.norm(x, axis=1)
    scale = np.outer(norm, norm)
    angle = np.arccos(np.clip(inner / scale, -1, 1))
    np.fill_diagonal(angle, 0.0)
    a = (1 - s) * inner + s**2 * scale * (np.sin(angle) + (np.pi - angle) * np.cos(angle)) / (2 * np.pi)
    w = inner * ((1 - s) + s**2 * (np.pi - angle) / (2 * np.pi))
    return {"a": a, "w": w, "ntk": a + w}


@pytest.mark.parametrize(("options", "standardize", "bias"), [([], True, True), (["--no-standardize"], False, True),
                                                              (["--no-bias"], True, False)])  # fmt: skip
def test_numbers_are_those_of_the_dense_formulas(table, tmp_path, capsys, options, standardize, bias) -> None:
    """Table, scaling, bias, seed, s and kernels go together; tolerance 1e-13 of lambda_max, the float64 class."""
    out = tmp_path / "out"
    run(capsys, table, "--target", "y", "--width", WIDTH, "--s", "0:2:0.5", "--out", out, *options)
    content = results(out)
    x = samples(table, 2, standardize, bias)
    assert (content["n"], content["D"], content["s"]) == (N, x.shape[1], S)
    for i, s in enumerate(S):
        for kind, dense in (("finite", finite(x, s)), ("infinite", infinite(x, s))):
            for kernel in KERNELS:
                found = content["kernels"][kernel][kind]
                values = np.linalg.eigvalsh(dense[kernel])
                # The angle from a cosine loses half the digits for near pairs: 1e-9 is what this reference is good for.
                atol = (1e-13 if kind == "finite" else 1e-9) * values[-1]
                assert found["lambda_min"][i] == pytest.approx(values[0], rel=0, abs=atol)
                assert found["lambda_max"][i] == pytest.approx(values[-1], rel=0, abs=atol)
                assert found["trace"][i] == pytest.approx(np.trace(dense[kernel]), rel=1e-12)
                assert found["rate"][i] == pytest.approx(2 * found["lambda_min"][i] / N, rel=1e-15)
                if s == 0.0:
                    assert found["condition_number"][i] is None  # rank D < n
                else:
                    ratio = found["lambda_max"][i] / found["lambda_min"][i]
                    assert found["condition_number"][i] == pytest.approx(ratio, rel=1e-14)


def test_files_agree_with_each_other_and_with_the_options(table, tmp_path, capsys) -> None:
    out = tmp_path / "out"
    text = run(capsys, table, "--drop", "a", "--width", "1e4", "--s", "0.5", "1", "--seed", "3", "--out", out)
    content = results(out)
    assert content["data"]["features"] == ["b", "y"]
    assert content["data"]["rows_used"] == N
    assert content["options"]["width"] == 10_000
    assert content["environment"]["torch"] == torch.__version__
    rows = list(csv.DictReader((out / "spectrum.csv").open()))
    assert len(rows) == len(KERNELS) * 2 * 2
    for row in rows:
        found = content["kernels"][row["kernel"]]["infinite" if row["width"] == "infinite" else "finite"]
        i = content["s"].index(float(row["s"]))
        for name in ("lambda_min", "lambda_max", "condition_number", "trace", "rate"):
            assert float(row[name]) == found[name][i]
        error = row["lambda_min_standard_error"]
        assert (error == "") == (row["width"] == "infinite")
    ntk = content["kernels"]["ntk"]["infinite"]
    for shown in (f"{ntk['lambda_min'][1]:.3e}", f"{ntk['rate'][1]:.2e}", content["verdict"], "width 10,000"):
        assert shown in text
    x = samples(table, D)[:, 1:]  # standardised for 3 columns; 2 are used
    x[:, :2] *= math.sqrt(3 / 2)
    expected = np.linalg.eigvalsh(finite(x, 1.0, 10_000, seed=3)["ntk"])[0]
    assert content["kernels"]["ntk"]["finite"]["lambda_min"][1] == pytest.approx(expected, rel=1e-9)
    pytest.importorskip("matplotlib")
    for name in ("spectrum.png", "kernels.png"):
        assert (out / name).read_bytes().startswith(b"\x89PNG")


def test_verdict_names_the_square_law_where_n_exceeds_d(table, tmp_path, capsys) -> None:
    out = tmp_path / "grid"
    grid = write(tmp_path / "grid.csv", np.linspace(0, 1, 30)[:, None], "x")
    text = run(capsys, grid, "--width", "1e5", "--no-standardize", "--s", "0:2:0.25", "--out", out)
    assert "lambda_min of the NTK grows like s^2 on these data (n = 30 > D = 2)" in text
    assert "From 1.95 to 2.05 counts as s^2" in text
    assert results(out)["kernels"]["w"]["infinite"]["exponent"] == pytest.approx(2.0, abs=1e-4)
    assert results(out)["kernels"]["ntk"]["infinite"]["square_law_holds"] is True
    few = write(tmp_path / "few.csv", np.random.default_rng(1).normal(size=(3, 4)), "a,b,c,d")
    text = run(capsys, few, "--width", "100", "--s", "0.5", "1", "--out", tmp_path / "few")
    assert "needs n > D; here n = 3 and D = 5" in text
    assert results(tmp_path / "few")["kernels"]["ntk"]["infinite"]["square_law_holds"] is None


def test_a_power_that_is_not_two_is_called_so() -> None:
    """The verdict follows the fitted exponent: here that of the smallest eigenvalue of a made-up spectrum."""
    x = hx.with_bias(torch.linspace(0, 1, 9, dtype=torch.float64)[:, None])
    report = spectra_report(hx.random_gram_path(x, 1000), [0.5, 1.0, 2.0])
    spectrum = report.infinite["ntk"]
    spectrum.smallest.copy_(1e-3 * report.s**1.5)
    assert "does not grow like s^2" in report.verdict()
    assert "fitted exponent 1.500 at infinite width" in report.verdict()
    assert "at width 1,000, which is s^2" in report.verdict()


def test_error_bars_are_those_of_the_whole_jackknife() -> None:
    """The subspace of wide networks (here 1000 n) within 5 %, narrow ones exactly."""
    x = hx.with_bias(torch.randn(80, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))
    for width, tolerance in ((80_000, 0.05), (2000, 1e-12)):
        path = hx.random_gram_path(x, width)
        report = spectra_report(path, [0.5, 1.5])
        for kernel in KERNELS:
            error = report.finite[kernel].error
            assert error is not None
            torch.testing.assert_close(error, path.lambda_min_error([0.5, 1.5], kernel), rtol=tolerance, atol=0)


def test_the_bias_of_narrow_networks_is_not_hidden(tmp_path, capsys) -> None:
    """100 points on a line, 2000 neurons: lambda_min a tenth of its limit, with error bars that do not reach it."""
    grid = write(tmp_path / "grid.csv", np.linspace(0, 1, 100)[:, None], "x")
    text = run(capsys, grid, "--width", "2000", "--s", "1", "--out", tmp_path / "narrow")
    assert "below its limit" in text
    ntk = results(tmp_path / "narrow")["kernels"]["ntk"]
    assert ntk["finite"]["lambda_min"][0] < 0.2 * ntk["infinite"]["lambda_min"][0]
    assert "below its limit" not in run(capsys, grid, "--width", "1e6", "--s", "1", "--out", tmp_path / "wide")


def test_repeated_rows_are_counted_and_named(tmp_path, capsys) -> None:
    x = np.random.default_rng(0).normal(size=(12, 2))
    path = write(tmp_path / "twice.csv", np.vstack([x, x[4:6], x[4:5]]), "a,b")
    out = tmp_path / "out"
    text = run(capsys, path, "--width", "1e4", "--s", "0.5", "1", "--out", out)
    assert "3 rows repeat others in the columns used (the first: row 13 repeats row 5)" in text
    assert "cannot be seen on these data" in text
    assert "< " in text
    assert results(out)["kernels"]["ntk"]["infinite"]["condition_number"] == [None, None]
    assert count_repeated_rows(torch.from_numpy(x)) == (0, None)


def test_large_tables_are_cut_at_random_and_say_so(table, tmp_path, capsys) -> None:
    arguments = [table, "--width", "1e3", "--s", "1", "--max-rows", "25"]
    text = run(capsys, *arguments, "--out", tmp_path / "one")
    assert f"25 of the {N} rows, chosen at random by --seed 0" in text
    one = results(tmp_path / "one")
    assert (one["n"], one["data"]["rows"]) == (25, N)
    run(capsys, *arguments, "--out", tmp_path / "same")
    assert results(tmp_path / "same")["kernels"] == one["kernels"]
    run(capsys, *arguments, "--seed", "1", "--out", tmp_path / "other")
    other = results(tmp_path / "other")["kernels"]["ntk"]["infinite"]["lambda_max"]
    assert other != one["kernels"]["ntk"]["infinite"]["lambda_max"]  # other rows: the infinite width has no other luck


def test_float32_bases_without_a_closed_form_and_one_neuron(table, tmp_path, capsys) -> None:
    text = run(
        capsys, table, "--base", "tanh", "--width", "1", "--dtype", "float32", "--s", "-1:1:1", "--out", tmp_path / "o"
    )
    assert "float32 shows lambda_min only above 2e-6 of lambda_max" in text
    assert "No error bars" in text
    assert results(tmp_path / "o")["s"] == [-1.0, 0.0, 1.0]
    assert results(tmp_path / "o")["kernels"]["a"]["finite"]["lambda_min_standard_error"] is None


def test_without_matplotlib_there_are_numbers(table, tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.setattr("hrta_ext.cli.gram.can_plot", lambda: False)
    assert "hrta_ext[plot]" in run(capsys, table, "--width", "100", "--s", "1", "--out", tmp_path / "o")
    assert sorted(path.name for path in (tmp_path / "o").iterdir()) == ["results.json", "spectrum.csv"]


def test_widths_and_values_of_s_are_read() -> None:
    assert [parse_width(text) for text in ("1e6", "1_000_000", "1000000", "1.5e1")] == [10**6, 10**6, 10**6, 15]
    assert parse_s(["0:2:0.1"]) == [round(0.1 * k, 1) for k in range(21)]
    assert parse_s(["0:1:0.4"]) == [0.0, 0.4, 0.8]
    assert parse_s(["2", "0.5", "1:2:0.5"]) == [0.5, 1.0, 1.5, 2.0]
    assert parse_s(["-1e0"]) == [-1.0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--s", "0:1"], "START:STOP:STEP"),
        (["--s", "wide"], "got 'wide'"),
        (["--s", "nan"], "got 'nan'"),
        (["--s", "2:0:0.1"], "STOP >= START"),
        (["--s", "0:2:0"], "STEP > 0"),
        (["--s", "0:1:1e-9"], "more than 1000 values"),
        (["--width", "1.5"], "whole number, got 1.5"),
        (["--width", "0"], "from 1 to 2^48, got 0"),
        (["--width", "-3"], "from 1 to 2^48, got -3"),
        (["--width", "1e999999999"], "from 1 to 2^48"),
        (["--width", "inf"], "from 1 to 2^48"),
        (["--width", "many"], "such as 1e6"),
        (["--base", "step"], "base must be one of"),
        (["--dtype", "float16"], "--dtype must be float64 or float32"),
        (["--device", "tpu"], "--device must be cpu or cuda"),
        (["--max-rows", "0"], "--max-rows"),
        (["--seed", "-1"], "--seed"),
        (["--seed", str(2**64)], "seed must be in [0, 2^64), got 18446744073709551616"),
        (["--s", "1e400"], "got '1e400'"),
        (["--target", "z"], "no column 'z'"),
        (["--drop", "a", "--drop", "b", "--target", "y"], "leave no column"),
    ],
)
def test_bad_options_get_one_line_and_write_nothing(table, tmp_path, capsys, options, message) -> None:
    assert message in fails(capsys, table, "--out", tmp_path / "out", *options)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2\n3,x\n", "row 2 (line 3), column 'b': 'x' is not a number"),
        ("a,b\n1,2\nnan,4\n", "row 2 (line 3), column 'a'"),
        ("a,b\n1,inf\n", "not finite"),
        ("a,b\n", "no rows"),
        ("a,b\n1e300,1\n-1e300,2\n", "overflows float64"),
    ],
)
def test_bad_tables_get_one_line_and_write_nothing(tmp_path, capsys, text, message) -> None:
    path = tmp_path / "bad.csv"
    path.write_text(text)
    assert message in fails(capsys, path, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_numbers_that_would_overflow_get_one_line(tmp_path, capsys) -> None:
    path = write(tmp_path / "large.csv", np.array([[1e200], [2e200]]), "x")
    assert "use --standardize" in fails(capsys, path, "--no-standardize", "--out", tmp_path / "out")


def test_a_missing_table_and_a_cuda_that_is_not_there(table, tmp_path, capsys, monkeypatch) -> None:
    assert "no such file" in fails(capsys, tmp_path / "none.csv", "--out", tmp_path / "out")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "sees no GPU" in fails(capsys, table, "--device", "cuda", "--out", tmp_path / "out")


def test_an_earlier_run_is_kept_unless_overwrite(table, tmp_path, capsys) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "results.json").write_text("mine")
    arguments = [table, "--width", "100", "--s", "1", "--out", out]
    assert "already holds a run" in fails(capsys, *arguments)
    assert (out / "results.json").read_text() == "mine"
    assert "not finite" in fails(capsys, write(tmp_path / "b.csv", np.full((3, 1), np.inf), "x"), *arguments[1:],
                                 "--overwrite")  # fmt: skip
    assert (out / "results.json").read_text() == "mine"
    run(capsys, *arguments, "--overwrite")
    assert results(out)["n"] == N
