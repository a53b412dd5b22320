"""`hrta train` and `hrta predict`: what they write can be recomputed, and every mistake gets its line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("typer")
pytest.importorskip("rich")
pytest.importorskip("tqdm")

from hrta_ext.cli import main
from hrta_ext.cli.stages import stages
from hrta_ext.tables.model import Regression
from hrta_ext.tables.scaling import ModelError, Scaling
from hrta_ext.tables.scores import Score, linear_least_squares, split_rows
from hrta_ext.training.ramps import ramp

FAST = ["--steps", "5", "10", "--width", "12"]


@pytest.fixture
def table(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 2)) * (1.0, 100.0) + (5.0, -30.0)
    y = 3.0 * x[:, 0] - 0.01 * x[:, 1] + rng.normal(size=60)
    path = tmp_path / "table.csv"
    np.savetxt(path, np.column_stack([x, y]), delimiter=",", header="a,b,y", comments="", fmt="%.17g")
    return path


@pytest.fixture
def trained(table: Path, tmp_path: Path, capsys) -> Path:
    assert main(["train", str(table), "--target", "y", *FAST, "--out", str(tmp_path / "run")]) == 0
    capsys.readouterr()
    return tmp_path / "run"


def fails(capsys, *arguments: object) -> str:
    """The one line that the command prints when it fails."""
    code = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    assert code not in (0, None)
    lines = captured.err.strip().splitlines()
    assert len(lines) == 1, captured.err
    assert lines[0].startswith("hrta: error: ")
    return lines[0]


def by_hand(run: Path, x: np.ndarray) -> np.ndarray:
    """Predictions from the saved files alone."""
    description = json.loads((run / "model.json").read_text())
    t = {name: value.double().numpy() for name, value in torch.load(run / "model.pt", weights_only=True).items()}
    samples = np.column_stack([(x - t["x_mean"]) / t["x_scale"], np.ones(len(x))])
    z = samples @ t["weight"].T
    activation = (1 - description["s"]) * z + description["s"] * np.maximum(z, 0)
    return t["y_mean"] + t["y_scale"] * (activation @ t["output_weight"]) / np.sqrt(description["width"])


def test_train_writes_a_run_and_reports(table, tmp_path, capsys):
    out = tmp_path / "run"
    assert main(["train", str(table), "--target", "y", "--s", "0.5", "1.5", *FAST, "--out", str(out)]) == 0
    text = capsys.readouterr().out
    for expected in (
        "two-layer network",
        "linear least squares",
        "constant",
        "RMSE",
        "R^2",
        "48 training and 12 validation",
    ):
        assert expected in text
    assert {"model.json", "model.pt", "report.json"} <= {path.name for path in out.iterdir()}
    assert not (out / "checkpoint.pt").exists()
    report = json.loads((out / "report.json").read_text())
    assert report["settings"]["s"] == [0.5, 1.5]
    assert report["settings"]["steps"] == [5, 10]
    assert json.loads((out / "model.json").read_text())["s"] == 1.5
    data = np.loadtxt(table, delimiter=",", skiprows=1)
    held = np.array(report["validation_rows"]) - 1
    score = Score.of(data[held, 2], by_hand(out, data[held, :2]))
    assert report["scores"]["two-layer network"]["validation"]["rmse"] == pytest.approx(score.rmse, rel=1e-5)
    assert report["scores"]["two-layer network"]["validation"]["r2"] == pytest.approx(score.r2, abs=1e-5)


@pytest.mark.parametrize("suffix", ["csv", "npz", "parquet"])
def test_predictions_equal_a_recomputation_from_the_files(trained, table, tmp_path, capsys, suffix):
    data = np.loadtxt(table, delimiter=",", skiprows=1)[:7]
    new = tmp_path / f"new.{suffix}"
    columns = {"b": data[:, 1], "other": data[:, 2], "a": data[:, 0]}  # another order, one more column, no target
    if suffix == "npz":
        np.savez(new, **columns)
    elif suffix == "parquet":
        pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        parquet.write_table(pa.table(columns), new)
    else:
        values = np.column_stack(list(columns.values()))
        np.savetxt(new, values, delimiter=";", header="b;other;a", comments="", fmt="%.17g")
    out = tmp_path / "predictions.csv"
    assert main(["predict", str(trained), str(new), "--out", str(out)]) == 0
    written = np.loadtxt(out, skiprows=1)
    assert out.read_text().startswith("prediction\n")
    np.testing.assert_allclose(written, by_hand(trained, data[:, :2]), rtol=1e-5)
    capsys.readouterr()
    assert main(["predict", str(trained), str(new)]) == 0
    assert capsys.readouterr().out == out.read_text()


def test_predict_scores_rows_whose_target_is_known(trained, table, tmp_path, capsys):
    assert main(["predict", str(trained), str(table), "--out", str(tmp_path / "p.csv")]) == 0
    text = capsys.readouterr().out
    assert "RMSE" in text
    assert "R^2" in text


def test_predict_takes_a_table_without_header_in_the_order_of_the_model(trained, tmp_path, capsys):
    (tmp_path / "new.csv").write_text("1,2\n3,4\n")
    assert main(["predict", str(trained), str(tmp_path / "new.csv"), "--no-header"]) == 0
    captured = capsys.readouterr()
    assert "taken as a, b" in captured.err
    values = [float(line) for line in captured.out.splitlines()[1:]]
    np.testing.assert_allclose(values, by_hand(trained, np.array([[1.0, 2.0], [3.0, 4.0]])), rtol=1e-5)


def test_same_seed_same_model_and_batches_work(table, tmp_path):
    weights = []
    for name in ("one", "two"):
        out = tmp_path / name
        assert main(["train", str(table), "--target", "y", *FAST, "--batch-size", "16", "--out", str(out)]) == 0
        weights.append(torch.load(out / "model.pt", weights_only=True)["weight"])
    assert torch.equal(*weights)


@pytest.mark.parametrize(
    "options",
    [
        ["--s", "1", "--steps", "8"],
        ["--s", "0.5", "1", "1.5", "--steps", "3", "3", "3"],
        ["--s=0.5", "--s=1", "--steps=4", "--steps=6"],
        ["--steps", "4", "6", "--base", "tanh"],
        ["--steps", "4", "6", "--optimizer", "gd", "--lr", "0.1"],
        ["--steps", "4", "6", "--drop", "b"],
        ["--steps", "4", "6", "--lr-schedule", "constant"],
    ],
)
def test_options(table, tmp_path, options):
    assert main(["train", str(table), "--target", "y", "--width", "8", *options, "--out", str(tmp_path / "run")]) == 0


@pytest.mark.parametrize(
    ("s", "total", "counts"),
    [
        (None, 1000, [200, 800]),
        (["1.0"], 1000, [1000]),
        (["0.5", "1"], 5000, [1000, 4000]),
        (["1", "2", "3"], 1000, [334] * 3),
    ],
)
def test_default_steps(s, total, counts):
    assert stages(s, None, None, total)[1] == counts


def test_two_numbers_with_a_colon_are_a_ramp(table, tmp_path, capsys):
    assert stages(["1:2", "2"], [10, 20], None, 0) == ([ramp(1, 2, 10), 2.0], [10, 20])
    assert stages(["1:2"], [100], 40, 0) == ([ramp(1, 2, 40)], [100])
    out = tmp_path / "run"
    arguments = ["train", str(table), "--target", "y", "--s", "1:1.5", "--ramp", "4", "--steps", "9", "--width", "8"]
    assert main([*arguments, "--out", str(out)]) == 0
    assert json.loads((out / "model.json").read_text())["s"] == 1.5
    for wrong, message in (
        (["--s", "1:x"], "--s must be numbers, or two with a colon as in 1:2, got 1:x"),
        (["--s", "1", "--ramp", "4"], "--ramp is for an s that moves, such as --s 1:2"),
    ):
        assert main(["train", str(table), "--target", "y", *wrong, "--out", str(tmp_path / "no")]) != 0
        assert message in capsys.readouterr().err


def test_a_list_option_before_the_table(table, tmp_path):
    assert main(["train", "--target", "y", "--s", "0.5", "1", *FAST[:3], str(table), "--out", str(tmp_path / "r")]) == 0


def test_advice_when_it_overfits(tmp_path, capsys):
    rng = np.random.default_rng(0)
    path = tmp_path / "noise.csv"
    np.savetxt(path, rng.normal(size=(40, 6)), delimiter=",", header="a,b,c,d,e,y", comments="")
    command = ["train", path, "--target", "y", "--steps", "50", "400", "--lr", "0.02", "--width", "200"]
    assert main([*map(str, command), "--out", str(tmp_path / "run")]) == 0
    assert "overfits: the validation RMSE was lowest at step" in capsys.readouterr().out


def test_resume_continues_to_the_same_model(table, tmp_path, capsys, monkeypatch):
    import hrta_ext.cli.train as module

    command = ["train", str(table), "--target", "y", *FAST]
    assert main([*command, "--out", str(tmp_path / "whole")]) == 0
    out = tmp_path / "part"
    whole_fit = module.fit

    def interrupted_fit(*args, callbacks, **kwargs):
        def stop(info):
            if info.step == 7:
                raise StopIteration

        result = whole_fit(*args, callbacks=(*callbacks, stop), **kwargs)
        object.__setattr__(result, "stop_reason", "interrupted")
        return result

    monkeypatch.setattr(module, "fit", interrupted_fit)
    capsys.readouterr()
    assert main([*command, "--out", str(out)]) == 130
    assert "--resume goes on from there" in capsys.readouterr().err
    assert not (out / "model.json").exists()
    monkeypatch.setattr(module, "fit", whole_fit)
    assert "--resume to go on" in fails(capsys, *command, "--out", out)
    assert "is of another run" in fails(capsys, *command, "--lr", "0.5", "--out", out, "--resume").replace("\n", " ")
    assert main([*command, "--out", str(out), "--resume"]) == 0
    capsys.readouterr()
    first, second = (torch.load(tmp_path / name / "model.pt", weights_only=True) for name in ("whole", "part"))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert "finished run" in fails(capsys, *command, "--out", out, "--resume")


BAD_TABLES = {
    "text in a numeric column": ("a,y\n1,2\nx,3\n", "row 2 (line 3), column 'a': 'x' is not a number"),
    "missing column": ("a,z\n1,2\n", "there is no column 'y'"),
    "NaN": ("a,y\n1,2\n2,nan\n", "row 2 (line 3), column 'y': 'nan' is a missing value"),
    "Inf": ("a,y\n1,2\ninf,3\n", "row 2 (line 3), column 'a': 'inf' is not finite"),
    "empty cell": ("a,y\n1,2\n,3\n", "row 2 (line 3), column 'a': the cell is empty"),
    "empty table": ("", "the file is empty"),
    "header only": ("a,y\n", "a header but no rows"),
    "too few rows": ("a,y\n1,2\n2,3\n", "has 2 rows; training and validation need at least 10"),
    "target twice": ("y,a,y\n1,2,3\n", "column 'y' is listed twice"),
    "only the target": ("y\n1\n2\n", "no column beside the target 'y'"),
    "ragged": ("a,y\n1,2\n3\n", "row 2 (line 3) has 1 cells"),
    "binary": (b"\x00\x01\x02", "is a binary file"),
    "not UTF-8": (b"a,y\n1,\xff\n", "is not UTF-8"),
    "constant feature": ("a,b,y\n" + "".join(f"{k},7,{k}\n" for k in range(12)), "column 'b' is constant"),
    "constant target": ("a,y\n" + "".join(f"{k},7\n" for k in range(12)), "the target 'y' is constant"),
    "huge numbers": ("a,y\n" + "".join(f"{k}e300,{k}\n" for k in range(12)), "too large"),
}


@pytest.mark.parametrize("case", BAD_TABLES)
def test_bad_tables_are_refused_and_nothing_is_written(tmp_path, capsys, case):
    content, message = BAD_TABLES[case]
    (tmp_path / "bad.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    assert message in fails(capsys, "train", tmp_path / "bad.csv", "--target", "y", "--out", tmp_path / "run")
    assert [path.name for path in tmp_path.iterdir()] == ["bad.csv"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--target", "yy"], "did you mean 'y'?"),
        (["--target", "y", "--drop", "c"], "there is no column 'c'"),
        (["--target", "y", "--drop", "y"], "is the target"),
        (["--target", "y", "--drop", "a", "--drop", "b"], "no column beside the target"),
        (["--target", "y", "--s", "0.5", "1", "--steps", "3"], "--s has 2 and --steps 1; --steps 3 goes with one s"),
        (
            ["--target", "y", "--steps", "3"],
            "--s has 2 by default (0.5 and 1) and --steps 1; --steps 3 goes with one s",
        ),
        (["--target", "y", "--s", "nan"], "finite"),
        (["--target", "y", "--s", "1e200"], "s must be finite in torch.float32, got 1e+200"),
        (["--target", "y", "--s", "half"], "--s must be numbers"),
        (["--target", "y", "--seed", str(2**70)], "--seed must be in [-2^63, 2^64), got"),
        (["--target", "y", "--steps", "1", str(2**70)], "--steps must be below 2^63, got"),
        (["--target", "y", "--steps", "0"], "--steps"),
        (["--target", "y", "--base", "rely"], "base must be one of"),
        (["--target", "y", "--optimizer", "lbfgs"], "--optimizer must be"),
        (["--target", "y", "--optimizer", "gd", "--batch-size", "8"], "batch"),
        (["--target", "y", "--lr-schedule", "step"], "--lr-schedule must be"),
        (["--target", "y", "--lr", "-1"], "lr"),
        (["--target", "y", "--device", "tpu"], "--device must be"),
        (["--target", "y", "--validation", "1"], "--validation must be between"),
        (["--target", "y", "--validation", "0.99"], "rows to train on"),
        (["--target", "y", "--overwrite", "--resume"], "exclude each other"),
        (["--target", "y", "--resume"], "nothing to resume"),
        (["--target", "y", "--optimizer", "sgd", "--lr", "1e9", "--steps", "5", "200"], "diverged"),
        ([], "Missing option '--target'"),
    ],
)
def test_bad_options_are_refused_and_nothing_is_written(table, tmp_path, capfd, options, message):
    out = tmp_path / "run"
    assert main(["train", str(table), *options, "--width", "8", "--out", str(out)]) != 0
    lines = [line for line in capfd.readouterr().err.splitlines() if not line.startswith("step ")]
    assert len(lines) == 1
    assert message in lines[0]
    assert not out.exists()


def test_missing_table(tmp_path, capsys):
    assert "no such file" in fails(capsys, "train", tmp_path / "none.csv", "--target", "y", "--out", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_an_earlier_run_is_kept_unless_overwrite(trained, table, capsys):
    before = {path.name: path.read_bytes() for path in trained.iterdir()}
    command = ["train", table, "--target", "y", *FAST, "--seed", "3", "--out", trained]
    assert "already holds a run" in fails(capsys, *command)
    assert {path.name: path.read_bytes() for path in trained.iterdir()} == before
    assert main([*map(str, command), "--overwrite"]) == 0
    assert (trained / "model.pt").read_bytes() != before["model.pt"]


def test_unwritable_output(table, tmp_path, trained, capsys):
    file = tmp_path / "file"
    file.write_text("mine")
    assert "is a file" in fails(capsys, "train", table, "--target", "y", "--out", file)
    assert "cannot be made" in fails(capsys, "train", table, "--target", "y", "--out", file / "run")
    assert "cannot be written" in fails(capsys, "predict", trained, table, "--out", file / "p.csv")
    assert "is a directory" in fails(capsys, "predict", trained, table, "--out", tmp_path)
    assert "exists already" in fails(capsys, "predict", trained, table, "--out", file)
    assert file.read_text() == "mine"


def test_predict_refuses_what_is_not_its_model(trained, table, tmp_path, capsys):
    other = tmp_path / "other.csv"
    other.write_text("a,c\n1,2\n")
    assert "lacks a column that the model was trained on: b" in fails(capsys, "predict", trained, other)
    assert "no trained model here" in fails(capsys, "predict", tmp_path, table)
    assert "no such file" in fails(capsys, "predict", trained, tmp_path / "none.csv")

    assert main(["train", str(table), "--target", "y", "--drop", "a", *FAST, "--out", str(tmp_path / "run2")]) == 0
    capsys.readouterr()
    (trained / "model.pt").write_bytes((tmp_path / "run2" / "model.pt").read_bytes())
    assert "is of another model" in fails(capsys, "predict", trained, table)
    (trained / "model.pt").write_bytes(b"junk")
    assert "damaged" in fails(capsys, "predict", trained, table)
    torch.save({"weight": 1}, trained / "model.pt")
    assert "not a model" in fails(capsys, "predict", trained, table)
    (trained / "model.pt").unlink()
    assert "incomplete" in fails(capsys, "predict", trained, table)
    (trained / "model.json").write_text('{"format": "hrta_ext regression model", "version": 99}')
    assert "version 99" in fails(capsys, "predict", trained, table)
    (trained / "model.json").write_text("{}")
    assert "not a model" in fails(capsys, "predict", trained, table)
    (trained / "model.json").write_text("{")
    assert "cannot be read" in fails(capsys, "predict", trained, table)


def test_scaling_and_baseline_against_numpy():
    rng = np.random.default_rng(0)
    x, y = rng.normal(2.0, 3.0, size=(30, 4)), rng.normal(size=30)
    scaling = Scaling.of(torch.from_numpy(x), torch.from_numpy(y))
    scaled = scaling.scale_x(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose((scaled**2).sum(1).mean(), 1.0)
    design = np.column_stack([x, np.ones(30)])
    expected = design @ np.linalg.lstsq(design, y, rcond=None)[0]
    np.testing.assert_allclose(linear_least_squares(x, y, scaling, x), expected, atol=1e-12)
    with pytest.raises(ModelError, match="too large"):
        Scaling.of(torch.full((3, 1), 1e300, dtype=torch.float64).cumsum(0), torch.ones(3))


def test_split_is_a_partition_fixed_by_the_seed():
    training, validation = split_rows(11, 0.2, 5)
    assert sorted([*training, *validation]) == list(range(11))
    assert len(validation) == 2
    assert np.array_equal(validation, split_rows(11, 0.2, 5)[1])


def test_predictions_do_not_depend_on_blocks(trained, monkeypatch):
    model = Regression.load(trained)
    x = np.random.default_rng(0).normal(size=(9, 2))
    whole = model.predict(x)
    monkeypatch.setattr("hrta_ext.tables.model._BLOCK_ENTRIES", 24)
    np.testing.assert_allclose(model.predict(x), whole, rtol=1e-6)
