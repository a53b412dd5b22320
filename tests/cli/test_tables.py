"""`hrta train`, `predict` and `gram` on tables as people have them: nothing is guessed in silence, no digit is lost."""

from __future__ import annotations

import shlex
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("typer")
pytest.importorskip("rich")
pytest.importorskip("tqdm")

from hrta_ext.cli import main
from hrta_ext.tables import Regression

FAST = ["--steps", "5", "5", "--width", "8"]


@pytest.fixture
def hrta(tmp_path, capsys, monkeypatch):
    """Runs a command in an empty folder: (exit code, stdout, stderr without progress)."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> tuple[int, str, str]:
        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return code, captured.out, "".join(f"{x}\n" for x in captured.err.splitlines() if not x.startswith("step "))

    return run


def table(name: str, header: str, n: int = 30, columns: int = 3) -> np.ndarray:
    values = np.random.default_rng(0).normal(size=(n, columns))
    rows = "".join(",".join(map(repr, row)) + "\n" for row in values.tolist())
    Path(name).write_text((header + "\n" if header else "") + rows)
    return values


def test_predict_finds_columns_by_name_though_names_are_numbers(hrta):
    """Wavelengths: the new table lacks the target, so that its header has nothing but numbers."""
    values = table("train.csv", "1100,1102,1104,protein", columns=4)
    assert hrta("train", "train.csv", "--target", "protein", *FAST, "--out", "run")[0] == 0
    table("new.csv", "1104,1100,1102", 5)
    code, out, err = hrta("predict", "run", "new.csv")
    assert code == 0
    model, new = Regression.load("run"), np.random.default_rng(0).normal(size=(5, 3))
    assert np.array_equal(np.array(out.splitlines()[1:], float), model.predict(new[:, [1, 2, 0]]))
    assert "5 rows of 3 columns, named by its first row" in err
    assert len(values) == 30


def test_predict_says_when_the_first_row_names_nothing(hrta):
    table("train.csv", "a,b,y")
    assert hrta("train", "train.csv", "--target", "y", *FAST, "--out", "run")[0] == 0
    new = table("new.csv", "", 5, 2)
    code, out, err = hrta("predict", "run", "new.csv")
    assert (code, out) == (1, "")
    assert "its first row names none of the columns" in err
    Path("upper.csv").write_text("A,B\n1,2\n")
    assert "its first row (A, B) names none" in hrta("predict", "run", "upper.csv")[2]
    assert "--no-header" in err
    code, out, err = hrta("predict", "run", "new.csv", "--no-header")
    assert code == 0
    assert np.array_equal(np.array(out.splitlines()[1:], float), Regression.load("run").predict(new))
    assert "its columns are taken as a, b" in err
    table("other.csv", "a,c", 5, 2)
    assert "lacks a column that the model was trained on: b" in hrta("predict", "run", "other.csv")[2]
    table("wide.csv", "", 5, 4)
    assert "lacks 2 of the 2 columns" in hrta("predict", "run", "wide.csv", "--no-header")[2]


def test_a_model_of_a_table_without_header(hrta):
    """Columns have numbers for names there; a new table may have the target's column too, or not."""
    values = table("train.csv", "")
    code, out, _ = hrta("train", "train.csv", "--target", "column_1", *FAST, "--out", "run")
    assert code == 0
    assert "30 rows of 3 columns without a header row (called column_1, column_2, column_3; --header if" in out
    expected = Regression.load("run").predict(values[:, 1:])
    np.savetxt("features.csv", values[:, 1:], delimiter=",", fmt="%.17g")
    for name in ("train.csv", "features.csv"):
        code, out, _ = hrta("predict", "run", name, "--no-header")
        assert code == 0
        assert np.array_equal(np.array(out.splitlines()[1:], float), expected)


def test_written_predictions_lose_no_digit(hrta):
    """A Unix time has ten digits before the point; what is written reads back to the model's own float64."""
    Path("t.csv").write_text("a,y\n" + "".join(f"{k},{1700000000 + 3 * k}\n" for k in range(40)))
    assert hrta("train", "t.csv", "--target", "y", *FAST, "--out", "run")[0] == 0
    expected = Regression.load("run").predict(np.arange(40.0)[:, None])
    out = hrta("predict", "run", "t.csv")[1]
    assert out.startswith("prediction\n")
    assert np.array_equal(np.array(out.splitlines()[1:], float), expected)
    assert hrta("predict", "run", "t.csv", "--out", "p.csv")[0] == 0
    assert Path("p.csv").read_text() == out


def test_one_command_drops_all_that_cannot_be_used(hrta):
    """Text columns, then constant ones: each message ends in options that can be pasted."""
    constants = [f"p{k}" for k in range(60)]
    Path("t.csv").write_text(
        ",".join(["id", "the date", "-kind", "a", *constants, "y"])
        + "\n"
        + "".join(f"n{k},2020-01-{k + 1},{'ab'[k % 2]},{k * k % 7},{'3,' * 60}{k * k}\n" for k in range(20))
    )
    code, _, err = hrta("train", "t.csv", "--target", "y", *FAST, "--out", "run")
    assert code == 1
    text = shlex.split(err.partition("leave out with ")[2])
    assert text == ["--drop", "id", "--drop", "the date", "--drop=-kind"]
    code, _, err = hrta("train", "t.csv", "--target", "y", *text, *FAST, "--out", "run")
    assert code == 1
    constant = shlex.split(err.partition("leave out with ")[2])
    assert constant == [word for name in constants for word in ("--drop", name)]
    assert hrta("train", "t.csv", "--target", "y", *text, *constant, *FAST, "--out", "run")[0] == 0
    assert Regression.load("run").features == ("a",)


def test_no_advice_to_drop_what_an_option_reads(hrta):
    Path("t.csv").write_text("a;b;y\n" + "".join(f"{k},5;1.{200 + k},5;{k * k}\n" for k in range(20)))
    code, _, err = hrta("train", "t.csv", "--target", "y", *FAST, "--out", "run")
    assert code == 1
    assert "decimal comma" in err
    assert "--drop" not in err
    options = ["--decimal", ",", "--thousands", "."]
    assert hrta("train", "t.csv", "--target", "y", *options, *FAST, "--out", "run")[0] == 0
    expected = Regression.load("run").predict(np.array([[k + 0.5, 1200.5 + k] for k in range(20)]))
    out = hrta("predict", "run", "t.csv", *options)[1]
    assert np.array_equal(np.array(out.splitlines()[1:], float), expected)


@pytest.mark.parametrize("command", ["train", "gram"])
def test_indexes_and_row_numbers_are_told(hrta, command):
    """Without a name: left out. With one, counting: kept, and the line says how to leave it out."""
    Path("t.csv").write_text(",id,x,y\n" + "".join(f"{k},{k + 7},{k * k % 5},{k * k % 11}\n" for k in range(20)))
    options = FAST if command == "train" else ["--width", "100", "--s", "1"]
    code, out, _ = hrta(command, "t.csv", "--target", "y", *options, "--out", "run")
    assert code == 0
    text = " ".join(out.split())
    assert "Left out as an index of the rows: column_1 (no name in the file)" in text
    assert "'id' only counts the rows; if it is a row number or an index, leave it out with --drop id." in text
    if command == "train":
        assert Regression.load("run").features == ("id", "x")


def test_long_identifiers_are_told(hrta):
    Path("t.csv").write_text("id,x,y\n" + "".join(f"{10**17 + k * 37 % 100},{k % 5},{k * k}\n" for k in range(20)))
    code, out, _ = hrta("train", "t.csv", "--target", "y", *FAST, "--out", "run")
    assert code == 0
    assert "rounded to float64 in 'id'" in " ".join(out.split())


def test_options_of_text_that_make_no_sense(hrta):
    table("t.csv", "a,b,y")
    for options, message in [
        (["--decimal", ";"], "--decimal must be . or ,"),
        (["--thousands", "x"], "--thousands must be one of"),
        (["--decimal", ",", "--thousands", ","], "--decimal and thousands must differ"),
        (["--delimiter", ";;"], "--delimiter must be one character"),
    ]:
        code, _, err = hrta("train", "t.csv", "--target", "y", *options)
        assert code == 1
        assert message in err
    assert not Path("runs").exists()
    for delimiter in ("tab", "\\t"):
        Path("u.csv").write_text(Path("t.csv").read_text().replace(",", "\t"))
        out = ["--out", f"run_{len(delimiter)}"]
        assert hrta("train", "u.csv", "--target", "y", "--delimiter", delimiter, *FAST, *out)[0] == 0


def test_drop_options_hold_any_name(hrta):
    """Two spaces, a tab and a no-break space are part of a name; the shell gets what it can read back."""
    Path("t.csv").write_text("a  b,c\td,e\u00a0f,x,y\n" + "".join(f"p,q,r,{k},{k * k}\n" for k in range(20)))
    _, _, err = hrta("train", "t.csv", "--target", "y", *FAST, "--out", "run")
    assert err.rstrip().endswith("leave out with --drop 'a  b' --drop $'c\\td' --drop $'e\\xa0f'")


def test_the_rows_of_an_npz_are_those_of_the_target(hrta):
    x = np.random.default_rng(0).normal(size=(20, 2))
    np.savez("t.npz", X=x, y=x[:, 0], train=np.arange(5), valid=np.arange(5), test=np.arange(5))
    _, _, err = hrta("train", "t.npz", "--target", "y", *FAST, "--out", "run")
    assert err.rstrip().endswith("leave out with --drop train --drop valid --drop test")
