"""The pictures of `hrta bench`: every form of results is in them, texts do not touch, what is left out is said."""

from __future__ import annotations

import statistics
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("typer")
pytest.importorskip("rich")
pytest.importorskip("tqdm")

from cli.bench_results import REACHED, case, times, write

from hrta_ext.benchmarks import ratios, roofline
from hrta_ext.benchmarks.ceilings import Floor
from hrta_ext.benchmarks.results import by_device, heading, is_result, read
from hrta_ext.cli import main
from hrta_ext.files import read_json

COMMITTED = Path(__file__).resolve().parents[2] / "benchmarks" / "results"
needs_matplotlib = pytest.mark.skipif(find_spec("matplotlib") is None, reason="needs matplotlib")


def peer(ratio: float, goal: float | None = None) -> dict[str, Any]:
    return {**times(1.0), "ratio": ratio, "goal": goal}


def test_every_benchmark_s_form_is_read(tmp_path) -> None:
    gram = {
        "name": "relu n=100 m=1e+05 D=2 float32", "n": 100, "m": 100_000, "D": 2, "base": "relu", "dtype": "float32",
        "one": times(1.0), "sixteen": times(2.0),
        "peers": {"naive torch, one s": peer(3.0, 2.0), "naive torch, 16 s": peer(40.0, 50.0)},
    }  # fmt: skip
    cell = {k: v for k, v in gram.items() if k not in ("dtype", "sixteen")}
    compiled = {
        "network": "MLP, batch 16", "activation": "relu, s = 0.5", "compiled": True,
        "ours": times(1.0), "torch": peer(1.1, 1.0),
    }  # fmt: skip
    sizes = {"n": 1000, "width": 1000, "dtype": "float32", "steps": 100, "peer_steps": 10, "goal": 20}
    physics = {"case": sizes, "ours": [1.0, 3.0, 2.0, 2.5, 1.5], "deepxde": [8.0], "ratio": 16.0}
    files = [
        write(tmp_path / "g.json", [gram], "gram"),
        write(tmp_path / "c.json", [compiled], "compile"),
        write(tmp_path / "p.json", [physics], "physics"),
        write(tmp_path / "t.json", [case("n = 10, D = 2, m = 100000 (arcs)", 1.0, {"KeOps": (4.0, None)})], "training"),
        write(tmp_path / "gg.json", [{**cell, "peers": {"naive torch, one s": peer(3.0, 1.0)}}], "gram_grid"),
    ]
    one, sixteen = read(files[0]).cases
    assert (one.family, sixteen.family) == ("relu, n 100, m 1e5, D 2, one s", "relu, n 100, m 1e5, D 2, 16 s")
    assert [(p.name, p.ratio, p.goal) for p in sixteen.peers] == [("naive torch", 40.0, 50.0)]
    (found,) = read(files[2]).cases
    assert found.times.median == 2.0
    assert found.times.quartiles == tuple(statistics.quantiles(physics["ours"], n=4)[::2])
    table = ratios.rows(list(map(read, files)))
    assert list(table) == ["compile", "training", "gram", "gram_grid", "physics"]
    assert [(bar.kind, bar.met) for bar in table["gram_grid"]["relu, n 100"]] == [(ratios.EAGER, [True])]
    assert list(table["training"]) == ["n 10, D 2, m 1e5"]
    assert [(bar.kind, bar.met) for bar in table["gram"][sixteen.family]] == [(ratios.EAGER, [False])]
    assert [bar.kind for bar in table["compile"]["MLP, relu, compiled"]] == [ratios.OWN]


def test_sizes_and_dtypes_share_a_bar_and_kinds_of_peers_do_not(tmp_path) -> None:
    cases = [
        case(f"forward, gelu, {size} {dtype}", 1.0, {"torch's own base": (ratio, 0.98), "eager formula": (5.0, None)})
        for size, dtype, ratio in (("1e5", "float32", 0.9), ("4e6", "float32", 1.2), ("1e5", "float64", 2.0))
    ]
    (own, eager) = ratios.rows([read(write(tmp_path / "a.json", cases))])["activation"]["forward, gelu"]
    assert (own.kind, own.ratios, own.met) == (ratios.OWN, (0.9, 1.2, 2.0), [False, True, True])
    assert (eager.kind, eager.met) == (ratios.EAGER, [])


def test_devices_are_apart_and_the_newest_of_a_case_counts(tmp_path) -> None:
    old = write(tmp_path / "old.json", [case("a", 1.0, {}), case("b", 1.0, {})], date="2026-01-01")
    new = write(tmp_path / "new.json", [case("a", 2.0, {})], date="2026-02-01", threads=1)
    card = write(tmp_path / "gpu.json", [case("a", 3.0, {})], gpu="NVIDIA H200")
    xeon = write(tmp_path / "xeon.json", [case("a", 4.0, {})], cpu="Intel(R) Xeon(R) Processor @ 2 GHz")
    found = by_device(map(read, (old, new, card, xeon)))
    assert list(found) == ["amd_epyc_avx2", "intel_xeon_avx2", "nvidia_h200"]
    assert {c.name: c.times.median for result in found["amd_epyc_avx2"] for c in result.cases} == {"a": 2.0, "b": 1.0}
    assert heading(found["amd_epyc_avx2"]) == "AMD EPYC, AVX2, 2 threads, torch 2.13.0"
    assert heading(found["nvidia_h200"]) == "NVIDIA H200, torch 2.13.0"


def test_a_roofline_s_shares_are_of_the_ceilings_of_the_run(tmp_path) -> None:
    """A copy of 4e9 bytes takes 0.2 s, so 0.4 s are half of its rate; a file without ceilings takes the machine's."""
    memory = case("forward, relu, 4e8", 0.4, {}, floor={"bytes": 4e9, "flops": 0.0})
    wide = case("n 125, D 4, m 1e5, relu", 4e-3, {}, n=125, features=4, width=100_000, with_gradient=False)
    small = case("n 100, D 2, m 1e3, relu", 4e-3, {}, n=100, features=2, width=1000, with_gradient=False)
    path = write(tmp_path / "old.json", [wide, small], "two_layer")
    path.write_text(path.read_text().replace("copy_bytes_per_second", "forgotten"))
    results = [read(write(tmp_path / "a.json", [memory])), read(path)]
    (bar,) = roofline.bars(results, "memory")
    assert (bar.name, bar.share, bar.intensity) == ("forward, relu, 4e8", pytest.approx(0.5), None)
    (bar,) = roofline.bars(results, "arithmetic")
    flops = 2 * 13 * 125 * 1e5
    assert bar.share == pytest.approx(flops / REACHED["matmul_flops_per_second"] / 4e-3)
    assert bar.intensity == pytest.approx(flops / (3 * 4 * 5 * 1e5))
    assert roofline.bars([read(path)], "arithmetic") == []  # no ceilings at all


def figure_of(module: Any, results: list[Any], monkeypatch: pytest.MonkeyPatch) -> tuple[Any, Any]:
    """The figure that a module draws, laid out, and its renderer; all texts are on the paper."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.text import Text

    drawn: list[Any] = []
    monkeypatch.setattr(module, "save_figure", lambda figure, path: drawn.append(figure))
    assert module.draw(results, Path("x.png"))
    renderer = FigureCanvasAgg(drawn[0]).get_renderer()
    drawn[0].draw(renderer)
    # One word is the label of a tick: those exist outside the axes too, and are not drawn there.
    texts = [text for text in drawn[0].findobj(Text) if " " in text.get_text()]
    boxes = [(text.get_window_extent(renderer), text.get_text()) for text in texts]
    assert [text for box, text in boxes if box.x0 < 0 or box.x1 > drawn[0].bbox.x1] == []
    return drawn[0], renderer


def assert_apart(texts: Any, renderer: Any) -> None:
    """One above the other without touching."""
    boxes = sorted((text.get_window_extent(renderer) for text in texts), key=lambda box: box.y0)
    assert all(low.y1 <= high.y0 + 1 for low, high in pairwise(boxes))


@needs_matplotlib
def test_labels_of_the_roofline_do_not_touch(tmp_path, monkeypatch) -> None:
    """The texts beside and inside the bars of forty cases, near the ceiling and far below it."""
    cases = [
        case(f"a case with a long name, n 1000, D {i}", 0.5 * 1.1**i, {}, floor={"bytes": 8e9, "flops": 0.0})
        for i in range(40)
    ]
    wide = [case("n 100", 1.0, {}, floor={"bytes": 1e8, "flops": 1e11})]
    files = [write(tmp_path / "a.json", cases, "gram_like"), write(tmp_path / "b.json", wide, "gram_like")]
    figure, renderer = figure_of(roofline, list(map(read, files)), monkeypatch)
    _, axis, _ = figure.axes
    for texts in (axis.texts, axis.get_yticklabels()):
        assert len(texts) == 40
        assert_apart(texts, renderer)


@needs_matplotlib
def test_labels_of_the_ratios_do_not_touch(tmp_path, monkeypatch) -> None:
    """Bars to both sides of 1, three decades apart, with goals far to the right of some."""
    kinds = ("F.leaky_relu", "eager formula", "compiled formula", "KeOps")
    cases = [
        case(f"forward, base {i}, 1e5 float32", 1.0, {k: (0.3 * 2.0**i * (j + 1), 10.0) for j, k in enumerate(kinds)})
        for i in range(12)
    ]
    figure, renderer = figure_of(ratios, [read(write(tmp_path / "a.json", cases))], monkeypatch)
    _, axis = figure.axes
    assert len(axis.texts) == 48
    assert_apart(axis.texts, renderer)
    assert_apart(axis.get_yticklabels(), renderer)
    assert sum(text.get_color() == ratios.MISSED for text in axis.texts) == sum(
        0.3 * 2.0**i * (j + 1) < 10.0 for i in range(12) for j in range(4)
    )


@needs_matplotlib
def test_draw_makes_two_pictures_of_a_device_and_names_what_it_leaves_out(tmp_path, capsys) -> None:
    floor = Floor(4e9)
    write(tmp_path / "a.json", [case("forward, $relu$, 4e8", 0.4, {"eager formula": (3.0, 2.0)}, floor=vars(floor))])
    (tmp_path / "doctor.json").write_text("{}")
    (tmp_path / "cut.json").write_text("{")
    assert main(["bench", "--draw", str(tmp_path)]) == 0
    captured = capsys.readouterr()
    for name in ("ratios", "roofline"):
        assert (tmp_path / f"{name}_amd_epyc_avx2.png").read_bytes().startswith(b"\x89PNG")
        assert f"{name}_amd_epyc_avx2.png" in captured.out
    assert "left out of the pictures: cut.json: it is not JSON" in captured.err
    assert "doctor" not in captured.err
    # Of these alone no roofline can be drawn, and that of before is not left for one.
    write(tmp_path / "a.json", [case("forward, relu, 10", 0.4, {"eager formula": (3.0, 2.0)})])
    assert main(["bench", "--draw", str(tmp_path)]) == 0
    assert not (tmp_path / "roofline_amd_epyc_avx2.png").exists()


def test_draw_says_what_it_lacks(tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.setattr("hrta_ext.cli.bench.can_plot", lambda: True)
    assert main(["bench", "--draw", str(tmp_path)]) == 1
    assert "nothing in it could be drawn" in capsys.readouterr().err
    assert main(["bench", "--draw", str(tmp_path / "none")]) == 1
    assert "is no directory" in capsys.readouterr().err
    monkeypatch.setattr("hrta_ext.cli.bench.can_plot", lambda: False)
    assert main(["bench", "--draw", str(tmp_path)]) == 1
    assert "hrta_ext[plot]" in capsys.readouterr().err


@pytest.mark.skipif(not COMMITTED.exists(), reason="needs the checkout")
def test_what_is_committed_is_read_and_has_its_pictures() -> None:
    """Results of every age, and a picture for every device."""
    paths = [path for path in sorted(COMMITTED.glob("*.json")) if is_result(read_json(path))]
    assert len(paths) >= 6
    results = list(map(read, paths))
    assert all(result.cases for result in results)
    for device in by_device(results):
        assert (COMMITTED / f"ratios_{device}.png").exists()
