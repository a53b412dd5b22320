"""Files damaged at random, and who reads them: a right answer or one clean line."""

from __future__ import annotations

import io
import json
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import torch
from fuzz.draws import Draw
from fuzz.judge import Finding, attempt

import hrta_ext as hx

_TEXT = ['"', ",", ";", "\t", "\n", "\r", "\0", "é", "1e999", "nan", "", "_", "'", "-", " ", "#", "=", "\ufeff", "1,5"]


def damaged(draw: Draw, content: bytes) -> bytes:
    """Bits flipped, bytes lost, doubled or made up, or the end missing."""
    data = bytearray(content)
    for _ in range(draw.one_of([1, 1, 1, 3, 20])):
        kind, at = draw.random.randrange(5), draw.random.randrange(max(1, len(data)))
        if kind == 0 and data:
            data[at] ^= 1 << draw.random.randrange(8)
        elif kind == 1:
            del data[at : at + draw.random.randrange(1, 50)]
        elif kind == 2:
            del data[at:]
        elif kind == 3:
            data[at:at] = data[at : at + draw.random.randrange(1, 200)]
        else:
            data[at:at] = bytes(draw.random.randrange(256) for _ in range(draw.random.randrange(1, 9)))
    return bytes(data)


def command(arguments: list[str]) -> tuple[int, str, str]:
    """Exit code and what was printed; a Finding for more than one line of error, or for none."""
    from hrta_ext.cli import main

    out, error = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(error):
        code = main(arguments)
    complaints = [line for line in error.getvalue().splitlines() if line.startswith("hrta: error: ")]
    if "internal error" in error.getvalue() or "Traceback" in error.getvalue():
        raise Finding(f"{arguments[0]}: {error.getvalue()[-300:]}")
    if (code != 0) != (len(complaints) == 1):
        raise Finding(f"{arguments[0]}: exit code {code} with {len(complaints)} lines of error")
    return code, out.getvalue(), error.getvalue()


def _table(draw: Draw) -> tuple[list[str], list[list[str]]]:
    names = ["x", "y", "größe", "z 2"][: draw.random.randrange(2, 5)]
    return names, [[f"{draw.random.gauss(0, 3):.6g}" for _ in names] for _ in range(draw.random.randrange(2, 12))]


def table(draw: Draw, folder: Path) -> None:
    """``hrta predict`` on a table in which cells, or bytes, were changed: as many predictions as rows, or one line."""
    names, rows = _table(draw)
    net = hx.TwoLayerNet(len(names) - 1, 5, seed=0)
    (folder / "run").mkdir()
    _model(net, tuple(names[:-1]), names[-1]).save(folder / "run")
    delimiter = draw.one_of([",", ",", ";", "\t"])
    for _ in range(draw.one_of([0, 1, 1, 2])):
        row = draw.one_of(rows)
        at = draw.random.randrange(len(row))
        row[at] = draw.one_of([row[at] + draw.one_of(_TEXT), draw.one_of(_TEXT), draw.one_of(_TEXT) + row[at]])
    text = "\n".join(delimiter.join(row) for row in [names, *rows]) + draw.one_of(["\n", "", "\n\n"])
    content = text.encode()
    path = folder / "data.csv"
    whole = draw.chance(0.5)
    path.write_bytes(content if whole else damaged(draw, content))
    code, _, _ = command(["predict", str(folder / "run"), str(path), "--out", str(folder / "predictions.csv")])
    if code == 0 and whole and not any("\n" in cell or "\r" in cell for row in rows for cell in row):
        written = (folder / "predictions.csv").read_text().splitlines()
        if len(written) != len(rows) + 1:
            raise Finding(f"predict: {len(written) - 1} predictions of {len(rows)} rows")


def archive(draw: Draw, folder: Path) -> None:
    """``hrta train`` on a damaged .npz."""
    count, buffer = draw.random.randrange(1, 30), io.BytesIO()
    arrays = {"a": np.arange(count) * 1.5, "b": np.sin(np.arange(count)), "y": np.cos(np.arange(count))}
    np.savez(buffer, **arrays)
    path = folder / "data.npz"
    path.write_bytes(damaged(draw, buffer.getvalue()))
    out = ["--out", str(folder / "run"), "--steps", "1", "1", "--width", "3"]
    command(["train", str(path), "--target", "y", *out])


def _model(net: hx.TwoLayerNet, features: tuple[str, ...], target: str) -> object:
    from hrta_ext.tables.model import Regression
    from hrta_ext.tables.scaling import Scaling

    one, zero = torch.ones(net.in_features, dtype=torch.float64), torch.zeros(net.in_features, dtype=torch.float64)
    scaling = Scaling(zero, one, torch.tensor(0.0, dtype=torch.float64), torch.tensor(1.0, dtype=torch.float64))
    return Regression(net, scaling, features, target)


def model(draw: Draw, folder: Path) -> None:
    """``hrta predict`` with a model one of whose files is damaged: the numbers of before, or one line."""
    (folder / "run").mkdir()
    _model(hx.TwoLayerNet(2, 7, seed=1), ("a", "b"), "y").save(folder / "run")
    (folder / "data.csv").write_text("a,b\n0.5,1.5\n-1,2\n")
    arguments = ["predict", str(folder / "run"), str(folder / "data.csv"), "--out"]
    command([*arguments, str(folder / "before.csv")])
    path = folder / "run" / draw.one_of(["model.json", "model.pt"])
    if path.name == "model.json" and draw.chance(0.6):  # JSON all right, but not what it says
        description = json.loads(path.read_text())
        key = draw.one_of(list(description))
        description[key] = draw.one_of([None, -1, 0, 1e400, "x", [], {}, True, 2**70, ["a", "a"], [1, 2], "relu2"])
        path.write_text(json.dumps(description))
        command([*arguments, str(folder / "after.csv")])
        return
    old = path.read_bytes()
    path.write_bytes(damaged(draw, old))
    code, _, _ = command([*arguments, str(folder / "after.csv")])
    if code == 0 and path.suffix == ".pt":
        before, after = ((folder / name).read_text() for name in ("before.csv", "after.csv"))
        if before != after:
            raise Finding("predict: other numbers from a damaged model.pt")


def checkpoint(draw: Draw, folder: Path) -> None:
    """``hx.fit(resume=True)`` from a damaged checkpoint: the same run, or a ValueError that names the file."""
    x = torch.linspace(0.0, 1.0, 9)[:, None]

    def train() -> torch.Tensor:
        net = hx.TwoLayerNet(1, 8, seed=0)
        steps = {"s": 1.0, "steps": 12, "checkpoint": folder / "run.pt", "checkpoint_every": 5, "resume": True}
        return hx.fit(net, x, x[:, 0], engine="torch", **steps).loss

    first = train()
    path = folder / "run.pt"
    path.write_bytes(damaged(draw, path.read_bytes()))
    draw.fair = False
    again = attempt(draw, train)
    if again is not None and not torch.equal(first, again):
        raise Finding("fit: another run from a damaged checkpoint")


def gram_file(draw: Draw, folder: Path) -> None:
    """``hx.GramPath.load`` of a damaged file: the same matrices, or a ValueError."""
    suffix = draw.one_of([".npz", ".safetensors"])
    saved = hx.random_gram_path(torch.eye(3, dtype=torch.float64), 20)
    path = folder / f"path{suffix}"
    saved.save(path)
    path.write_bytes(damaged(draw, path.read_bytes()))
    draw.fair = False
    loaded = attempt(draw, lambda: hx.GramPath.load(path))
    if loaded is not None and not torch.equal(loaded(1.0).ntk, saved(1.0).ntk):
        raise Finding(f"GramPath.load: other numbers from a damaged {suffix}")


FILES = (*[table] * 4, archive, *[model] * 2, checkpoint, gram_file)
