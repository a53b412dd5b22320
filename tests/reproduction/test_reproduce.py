"""``hrta reproduce``: experiments at toy size from end to end, the page, going on after a stop, and bad input."""

from __future__ import annotations

import csv
import json
import re
import signal
import sys
from dataclasses import replace

import pytest
from processes import line_of, running
from typer.testing import CliRunner

from hrta_ext.cli import app
from hrta_ext.reproduction.claims import baselines, table1
from hrta_ext.reproduction.claims.sin import METHODS, Case, SinExperiment
from hrta_ext.reproduction.page.report import Report, duration, write_report
from hrta_ext.reproduction.page.sections import PAPER, Claim, Figure, Scale, Section, Table
from hrta_ext.reproduction.page.verdicts import Verdict
from hrta_ext.reproduction.reproduce import EXPERIMENTS, reproduce
from hrta_ext.reproduction.runs.tasks import Results
from hrta_ext.reproduction.runs.trainings import Training

TOY = Scale("toy", 2)
PNG = b"\x89PNG\r\n\x1a\n"
OURS = ("sin1d", "sin3d", "table1", "baselines")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    out = tmp_path_factory.mktemp("reproduce") / "report"
    return out, reproduce(OURS, out, TOY)


def test_every_experiment_shows_claims_figures_and_tables(made):
    out, report = made
    assert [section.name for section in report.sections] == list(OURS)
    for section in report.sections:
        assert section.claims
        assert section.n_runs > 0
        for figure in section.figures:
            assert (out / section.name / f"{figure.name}.png").read_bytes().startswith(PNG)
        for table in section.tables:
            with (out / section.name / f"{table.name}.csv").open(encoding="utf-8") as file:
                rows = list(csv.reader(file))
            assert tuple(rows[0]) == table.columns
            assert len(rows) == len(table.rows) + 1
            assert all(len(row) == len(table.columns) for row in rows)


def test_two_seeds_decide_nothing(made):
    assert {claim.verdict for section in made[1].sections for claim in section.claims} == {Verdict.OPEN}


def test_a_run_is_what_its_training_says(made):
    """The result on disk is that of the training with these parameters, done again."""
    out, _ = made
    training = SinExperiment(3).runs(TOY, Case(8, 20, 1e-2), METHODS[2])[1]
    assert training == Training("sin3d", n=20, width=8, s=(1.0, 1.5), steps=(6, 26), lr=1e-2, seed=1)
    kept, again = Results(out / "runs")[training.task], training.task.run()
    assert kept.pop("seconds") > 0
    assert again.pop("seconds") > 0
    assert kept == again
    assert kept["switch_steps"] == [6]


def test_a_second_call_runs_nothing_and_a_missing_run_is_made_again(made, monkeypatch):
    out, report = made
    files = sorted((out / "runs").iterdir())
    before = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in files}
    lost = files[3]
    lost.unlink()
    reproduce(OURS, out, TOY)
    for path in sorted((out / "runs").iterdir()):
        old, time = before[path.name]
        if path == lost:
            new = json.loads(path.read_text())
            assert new["result"].pop("seconds") > 0
            expected = json.loads(old)
            expected["result"].pop("seconds")
            assert new.pop("crc32") != expected.pop("crc32")  # of another number of seconds
            assert new == expected
        else:
            assert path.stat().st_mtime_ns == time
    assert report.sections


SCRIPT = """
import sys
from pathlib import Path
from hrta_ext.reproduction.reproduce import reproduce
from hrta_ext.reproduction.page.sections import Scale
if __name__ == "__main__":
    names, out, workers = sys.argv[1].split(","), Path(sys.argv[2]), int(sys.argv[3])
    reproduce(names, out, Scale("toy", 2), workers=workers, progress=lambda state: print(state.n_done, flush=True))
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs POSIX")
@pytest.mark.parametrize("workers", [1, 2])
def test_a_killed_report_goes_on_to_the_same_page_of_numbers(made, tmp_path, workers):
    """kill -9 in the middle; the resumed report has the numbers of the one that nobody stopped."""
    script, out = tmp_path / "script.py", tmp_path / "report"
    script.write_text(SCRIPT)
    names = ("sin1d", "baselines")  # in baselines some runs are known only after others
    command = [sys.executable, str(script), ",".join(names), str(out), str(workers)]
    with running(command) as process:
        while (line := line_of(process)) != "10":
            assert line
        process.kill()
        assert process.wait(30) == -signal.SIGKILL
    assert not (out / "index.html").exists()
    kept = {path: path.stat().st_mtime_ns for path in (out / "runs").glob("[!.]*.json")}
    assert len(kept) >= 10
    reproduce(names, out, TOY)
    assert len(list((out / "runs").glob("[!.]*.json"))) > len(kept)
    assert all(path.stat().st_mtime_ns == time for path, time in kept.items())
    for name in names:
        for path in sorted((made[0] / name).glob("*.csv")):
            assert (out / name / path.name).read_bytes() == path.read_bytes()


def test_the_tuning_takes_the_rate_with_the_lowest_median():
    runs = {lr: [Training("sin1d", width=8, steps=(4,), lr=lr, seed=seed) for seed in (0, 1, 2)] for lr in (0.1, 1.0)}
    losses = {(0.1, 0): 1.0, (0.1, 1): 2.0, (0.1, 2): 9.0, (1.0, 0): 0.1, (1.0, 1): None, (1.0, 2): 3.0}
    results = {run.task: {"final_loss": losses[lr, run.seed]} for lr, each in runs.items() for run in each}
    assert baselines.best_rate(runs, results) == 0.1
    results[runs[1.0][1].task]["final_loss"] = 1.5
    assert baselines.best_rate(runs, results) == 1.0


def test_methods_share_steps_rates_and_tuning_seeds(tmp_path):
    full, experiment, results = Scale("full", 20), EXPERIMENTS["baselines"], Results(tmp_path)
    for case in baselines.CASES:
        plans = [experiment.tuning(full, case, method, results) for method in case.methods()]
        assert {tuple(plan) for plan in plans} == {baselines.RATES}
        assert {sum(run.steps) for plan in plans for runs in plan.values() for run in runs} == {8000}
        seeds = {tuple(run.seed for run in runs) for plan in plans for runs in plan.values()}
        assert seeds == {baselines.TUNING_SEEDS}
    assert not set(baselines.TUNING_SEEDS) & set(range(100))


def runs(*losses):
    return [{"final_loss": loss, "error": loss, "diverged": loss is None} for loss in losses]


SPREAD = [1.0, 1.1, 0.9, 1.2, 0.8, 1.05, 0.95, 1.15, 0.85, 1.02, 0.98, 1.0]


@pytest.mark.parametrize(("factor", "verdict"), [(0.01, Verdict.HOLDS), (1.0, Verdict.FAILS), (100.0, Verdict.FAILS)])
def test_verdict_of_table_1(factor, verdict):
    base, ours = runs(*SPREAD), runs(*(factor * loss for loss in SPREAD))
    done = {("two_layer", 200): {METHODS[0].name: base, METHODS[1].name: base, METHODS[2].name: ours}}
    compared = {case: table1.compare_with_adam(methods) for case, methods in done.items()}
    better, homotopy, relaxation = table1.judge(compared, done)
    assert better.verdict is verdict if factor != 100.0 else Verdict.FAILS
    assert homotopy.verdict is Verdict.FAILS
    assert relaxation.verdict is verdict


def test_verdicts_of_the_baselines():
    names = [method.name for method in baselines.METHODS]
    case, noisy = baselines.CASES[0], baselines.CASES[3]
    methods = {name: runs(*SPREAD) for name in names}
    methods["1 → 1.5"] = runs(*(0.01 * loss for loss in SPREAD))
    methods["PReLU"] = runs(*([None] * len(SPREAD)))
    claims = {claim.text: claim for claim in baselines.judge({case: methods, noisy: methods})}
    relaxation = next(c for text, c in claims.items() if text.startswith("Relaxation 1 → 1.5 ends lower than Adam"))
    assert relaxation.verdict is Verdict.HOLDS
    assert "noise" not in relaxation.evidence
    switch = next(c for text, c in claims.items() if text.startswith("It is the switch"))
    assert switch.verdict is Verdict.IN_PART
    assert claims["Learned activations end lower than s = 1"].verdict is Verdict.FAILS
    assert claims["Relaxation 1 → 1.5 ends lower than learned activations"].verdict is Verdict.HOLDS
    noise = next(c for text, c in claims.items() if text.startswith("With noise"))
    assert noise.verdict is Verdict.IN_PART


# --- the page ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def section(tmp_path):
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "figure.png").write_bytes(PNG + b"pixels")
    claim = Claim("a < b & “c”", "Section 1", PAPER, Verdict.IN_PART, "1 of 2 <script>")
    table = Table("numbers", "Numbers", ("name", "value"), (("x, y", 0.5), ("z", float("inf"))))
    return Section(
        "one", "One", ["Setting."], ["Reading."], [claim], [Figure("figure", "A figure")], [table], 4, 1, 65.0
    )


def test_the_page_is_self_contained_and_escaped(tmp_path, section):
    names = write_report(Report((section,), TOY, {"torch": "2"}, "hrta reproduce one", " --full"), tmp_path)
    assert sorted(names) == ["index.html", "verdicts.csv", "verdicts.json", "verdicts.md"]
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert "data:image/png;base64,iVBORw0KGgpwaXhlbHM=" in page
    assert not re.search(r'(src|href)="(https?:|/)', page)
    assert "a &lt; b &amp; “c”" in page
    assert "<script>" not in page
    assert "hrta reproduce one --full" in page
    assert "4 trainings, 1 diverged, 65 s on one core" in page
    assert "1 claim: “holds in part” 1." in page
    assert page.count("holds in part</span>") == 2  # in the table and beside its numbers


def test_a_page_without_one_of_its_pictures_says_so(tmp_path, section):
    (tmp_path / "one" / "figure.png").unlink()
    write_report(Report((section,), TOY, {}, "hrta reproduce one", ""), tmp_path)
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert "This picture could not be drawn." in page
    assert "<img" not in page


def test_verdicts_as_files(tmp_path, section):
    write_report(Report((section,), TOY, {"torch": "2"}, "hrta reproduce one", ""), tmp_path)
    with (tmp_path / "verdicts.csv").open(encoding="utf-8") as file:
        row = next(csv.DictReader(file))
    assert row["verdict"] == "holds in part"
    assert row["claim"] == "a < b & “c”"
    content = json.loads((tmp_path / "verdicts.json").read_text(encoding="utf-8"))
    assert content["sections"][0]["claims"][0]["verdict"] == "holds in part"
    assert content["sections"][0]["figures"] == ["one/figure.png"]
    assert "**holds in part**" in (tmp_path / "verdicts.md").read_text(encoding="utf-8")
    assert (tmp_path / "one" / "numbers.csv").read_text(encoding="utf-8") == 'name,value\n"x, y",0.5\nz,\n'


def test_no_diverged_run_is_hidden(tmp_path, section):
    write_report(Report((section, replace(section, n_diverged=2)), TOY, {}, "x", ""), tmp_path)
    assert "8 trainings, 3 of them diverged" in (tmp_path / "index.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(("seconds", "text"), [(3.4, "3 s"), (600, "10 min"), (7500, "2 h 05 min")])
def test_durations(seconds, text):
    assert duration(seconds) == text


# --- the command ------------------------------------------------------------------------------------------------------


def test_help_names_every_experiment():
    text = CliRunner().invoke(app, ["reproduce", "--help"], env={"COLUMNS": "200"}).output
    assert all(name in text for name in EXPERIMENTS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nonsense"], "nonsense: no such experiment"),
        (["sin1d", "--device", "tpu"], "--device must be cpu or cuda"),
        (["sin1d", "--seeds", "0"], "--seeds"),
    ],
)
def test_bad_arguments(arguments, message, tmp_path, capsys):
    from hrta_ext.cli import main

    assert main(["reproduce", *arguments, "--out", str(tmp_path / "report")]) != 0
    assert message in capsys.readouterr().err
    assert not (tmp_path / "report").exists()


def test_too_few_seeds_are_mentioned_before_the_work(tmp_path, capsys, monkeypatch):
    from hrta_ext.cli import main
    from hrta_ext.reproduction import command

    monkeypatch.setattr(command, "reproduce", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
    assert main(["reproduce", "sin1d", "--seeds", "3", "--out", str(tmp_path / "report")]) == 130
    said = capsys.readouterr().err
    assert "3 seeds decide no comparison" in said
    assert "goes on where it was" in said


def test_somebody_elses_page_is_left_alone(tmp_path, capsys):
    from hrta_ext.cli import main

    (tmp_path / "index.html").write_text("mine")
    assert main(["reproduce", "sin1d", "--out", str(tmp_path)]) == 1
    assert "no report of this command" in capsys.readouterr().err
    assert (tmp_path / "index.html").read_text() == "mine"
