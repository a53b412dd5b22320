"""`hrta bench --compare`: what has changed beyond noise, and which files tell nothing of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("typer")
pytest.importorskip("rich")
pytest.importorskip("tqdm")

from cli.bench_results import case, times, write

from hrta_ext.benchmarks.comparison import FASTER, SAME, SLOWER, UNKNOWN, compared, judged
from hrta_ext.benchmarks.results import Times, read
from hrta_ext.cli import main

PEERS = {"eager formula": (3.0, None)}


def test_a_time_has_changed_where_the_interquartile_ranges_do_not_meet() -> None:
    base = Times(1.0, (0.9, 1.1))
    assert judged(base, Times(1.3, (1.2, 1.4))) == SLOWER
    assert judged(base, Times(0.7, (0.6, 0.8))) == FASTER
    assert judged(base, Times(1.2, (1.1, 1.3))) == SAME  # they touch
    assert judged(base, Times(1.5, (0.8, 1.6))) == SAME
    assert judged(base, Times(9.0, None)) == judged(Times(9.0, None), base) == UNKNOWN


def test_the_table_names_what_changed_and_counts_the_rest(tmp_path, capsys) -> None:
    names = [f"forward, {base}, 1e5 float32" for base in ("relu", "gelu", "tanh", "sin", "erf")]
    slow = case(names[1], 2e-5, {"eager formula": (1.5, None)})  # its peer as fast as before
    old = write(tmp_path / "a.json", [case(name, 1e-5, PEERS) for name in names[:4]])
    new = [case(names[0], 1.01e-5, PEERS), slow, case(names[2], 0.5e-5, {"eager formula": (6.0, None)})]
    new = write(tmp_path / "b.json", [*new, case(names[4], 1e-5, PEERS)], torch="2.14.1")
    assert main(["bench", "--compare", str(old), str(new)]) == 0
    out = capsys.readouterr().out
    rows = {line.split("  ")[0]: line.split() for line in out.splitlines() if line.startswith("forward")}
    assert set(rows) == {names[1], names[2]}
    assert rows[names[1]][-7:] == ["us", "20", "us", "+100%", "4%", "+0%", "slower"]
    assert rows[names[2]][-4:] == ["-50%", "4%", "+0%", "faster"]
    assert "3 cases: 1 slower, 1 faster, 1 within noise" in out
    assert f"Only in A: {names[3]}" in out
    assert f"Only in B: {names[4]}" in out
    assert "A has torch 2.13.0+cpu, B 2.14.1" in out
    assert "peers' times changed" not in out


def test_a_case_that_is_measured_twice_is_compared_twice(tmp_path) -> None:
    """As the activation's benchmark has some, in two lists of peers."""
    files = [
        read(write(tmp_path / f"{second}.json", [case("a", 1.0, {}), case("a", second, {})])) for second in (1.0, 2.0)
    ]
    assert [(one.case, one.verdict) for one in compared(*files).changes] == [("a", SAME), ("a (2)", SLOWER)]


def test_a_busier_machine_is_told_by_the_peers(tmp_path, capsys) -> None:
    """Ours and theirs take twice as long: that is no change of the code."""
    files = [
        write(tmp_path / f"{factor}.json", [case(f"forward, {base}, 10", factor * 1e-5, PEERS) for base in ("a", "b")])
        for factor in (1, 2)
    ]
    assert main(["bench", "--compare", *map(str, files)]) == 0
    out = capsys.readouterr().out
    assert "2 of 2 peers' times changed too" in out
    assert "2 slower" in out


def test_files_without_repeats_say_so(tmp_path, capsys) -> None:
    """As trainings were kept before."""
    record = {
        "name": "n = 100, D = 2, m = 1000",
        "ours": {"call": "hx.fit", "seconds per step": 2e-5, "fastest": 2e-5},
        "peers": {"eager torch": {"seconds per step": 4e-4, "fastest": 4e-4, "ratio": 20.0, "goal": 20}},
    }
    old = write(tmp_path / "a.json", [record], "training")
    new = write(tmp_path / "b.json", [case(record["name"], 4e-5, {"eager torch": (10.0, 20)})], "training")
    assert main(["bench", "--compare", str(old), str(new)]) == 0
    out = capsys.readouterr().out
    assert "+100%" in out
    assert "1 case: 1 no repeats" in out
    assert "No repeats are stored in A, of an older hrta_ext" in out


MISMATCHES: list[tuple[dict[str, Any], str]] = [
    ({"cpu": "Intel Xeon"}, "device (AMD EPYC and Intel Xeon)"),
    ({"gpu": "NVIDIA H200"}, "device (AMD EPYC and NVIDIA H200)"),
    ({"threads": 1}, "threads (2 and 1)"),
    ({"build_info": {"simd": "avx512"}}, "SIMD (avx2 and avx512)"),
    ({"cpu_capability": "AVX512"}, "torch's SIMD (AVX2 and AVX512)"),
    ({"instruction_sets": {"ATEN_CPU_CAPABILITY": "avx2"}}, "limits of SIMD (none and ATEN_CPU_CAPABILITY=avx2)"),
]


@pytest.mark.parametrize(("other", "message"), MISMATCHES)
def test_what_was_measured_elsewhere_is_refused_by_name(tmp_path, capsys, other, message) -> None:
    cases = [case("forward, relu, 10", 1e-6, PEERS)]
    files = [write(tmp_path / "a.json", cases), write(tmp_path / "b.json", cases, **other)]
    assert main(["bench", "--compare", *map(str, files)]) == 1
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.out == ""


def test_results_of_two_benchmarks_or_without_a_common_case_are_refused(tmp_path) -> None:
    one = read(write(tmp_path / "a.json", [case("a", 1.0, {})]))
    with pytest.raises(ValueError, match=r"differ in benchmark \(activation and two_layer\)"):
        compared(one, read(write(tmp_path / "b.json", [case("a", 1.0, {})], "two_layer")))
    with pytest.raises(ValueError, match="have no case in common"):
        compared(one, read(write(tmp_path / "c.json", [case("b", 1.0, {})])))


def damaged(tmp_path: Path, **changes: Any) -> Path:
    content = json.loads(write(tmp_path / "bad.json", [case("a", 1.0, PEERS), case("b", 1.0, PEERS)]).read_text())
    content["cases"][1].update(changes.pop("second", {}))
    path = tmp_path / "bad.json"
    path.write_text(json.dumps({**content, **changes}))
    return path


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cases": 3}, "is no result of hrta bench"),
        ({"environment": {}}, "names no device, threads or SIMD level"),
        ({"environment": {"cpu": "x", "threads": 1, "build_info": 3}}, "names no device, threads or SIMD level"),
        ({"second": {"ours": None}}, "case 2 of 2 is damaged"),
        ({"second": {"ours": {}}}, "case 2 of 2 is damaged: 'seconds per step' is missing"),
        ({"second": {"ours": times(-1.0)}}, "-1.0 in place of a positive number"),
        ({"second": {"ours": times(float("nan"))}}, "nan in place of a positive number"),
        ({"second": {"ours": times(1.0) | {"upper_quartile": 0.5}}}, "median is not between its quartiles"),
        ({"second": {"peers": []}}, "case 2 of 2 is damaged"),
        ({"second": {"peers": {"x": times(1.0)}}}, "'ratio' is missing"),
        ({"second": {"floor": {"bytes": "many", "flops": 0}}}, "'many' in place of a positive number"),
    ],
)
def test_damaged_files_are_one_line(tmp_path, capsys, changes, message) -> None:
    good = write(tmp_path / "good.json", [case("a", 1.0, PEERS)])
    assert main(["bench", "--compare", str(good), str(damaged(tmp_path, **changes))]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert "bad.json" in error
    assert "internal error" not in error
    assert len(error.splitlines()) == 1


def test_files_that_cannot_be_read(tmp_path, capsys) -> None:
    cut = tmp_path / "cut.json"
    cut.write_text('{"benchmark": "act')
    good = write(tmp_path / "good.json", [case("a", 1.0, PEERS)])
    unread = "cannot be read"
    for path, message in ((cut, "is not JSON"), (tmp_path / "none.json", unread), (tmp_path, unread)):
        assert main(["bench", "--compare", str(path), str(good)]) == 1
        assert message in capsys.readouterr().err
