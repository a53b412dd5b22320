"""A flipped bit, a cut or another kind of file is an error in one line, or changes nothing; files of 0.1.0 load."""

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from hrta_ext.files import DamagedFile, load_tensors, read_json, save_tensors, write_json
from hrta_ext.network.module import TwoLayerNet
from hrta_ext.ntk.gram import GramPath, random_gram_path
from hrta_ext.reproduction.runs.tasks import Results, Task
from hrta_ext.tables.model import Regression
from hrta_ext.tables.scaling import ModelError, Scaling
from hrta_ext.training.checkpoints import load_checkpoint
from hrta_ext.training.fit import fit


def regression() -> Regression:
    shift, scale = torch.tensor([1.0, 2.0], dtype=torch.float64), torch.tensor([0.5, 0.25], dtype=torch.float64)
    return Regression(TwoLayerNet(2, 5, seed=0), Scaling(shift, scale, shift[0], scale[0]), ("a", "b"), "y")


def model_of(folder: Path) -> list[Any]:
    model = Regression.load(folder)
    scaling = [value.tolist() for value in vars(model.scaling).values()]
    weights = [model.net.weight.tolist(), model.net.output_weight.tolist(), float(model.net.s), model.net.base]
    return [scaling, weights, model.features, model.target]


def checkpoint_of(folder: Path) -> list[Any]:
    net = TwoLayerNet(1, 3)
    content = load_checkpoint(folder / "run.pt", MARK, net, torch.optim.Adam(net.parameters()))
    parts = [content["loss"], *content["model"].values(), *content["rng"].values(), content["shuffle"]]
    return [*(part.tolist() for part in parts), str(content["optimizer"]), content["step"], content["homotopy"]]


def path_of(name: str) -> Callable[[Path], list[Any]]:
    def read(folder: Path) -> list[Any]:
        path = GramPath.load(folder / name)
        return [path.x.tolist(), path.base, path.dtype, path.widths, *(value.tolist() for value in path.sums)]

    return read


TASK = Task.of("lazy.movement", {"width": 3}, 1.0)
RUN = {"s": 0.5, "steps": 6}
X = torch.linspace(0.0, 1.0, 5)[:, None]
MARK: dict[str, Any] = {}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One of every file that the package reads back."""
    folder = tmp_path_factory.mktemp("files")
    regression().save(folder)
    fit(TwoLayerNet(1, 3, seed=0), X, X[:, 0], **RUN, checkpoint=folder / "run.pt")
    MARK.update(torch.load(folder / "run.pt", weights_only=True)["fingerprint"])
    for name in ("path.npz", "path.safetensors"):
        random_gram_path(X, 4).save(folder / name)
    Results(folder).put(TASK, {"values": [0.1, None, 3], "name": "x"})
    return folder


RESULT = f"{TASK.key}.json"
READERS: dict[str, tuple[Callable[[Path], Any], type[ValueError]]] = {
    "model.json": (model_of, ModelError),
    "model.pt": (model_of, ModelError),
    "run.pt": (checkpoint_of, ValueError),
    "path.npz": (path_of("path.npz"), ValueError),
    "path.safetensors": (path_of("path.safetensors"), ValueError),
    RESULT: (lambda folder: Results(folder)[TASK], ValueError),
}


def damaged(made: Path, folder: Path, name: str, content: bytes) -> str | None:
    """The error of reading a copy of ``made`` with another content of this file; None if what is read is the same."""
    if name.endswith(".safetensors"):
        pytest.importorskip("safetensors")
    read, error = READERS[name]
    if not folder.exists():
        shutil.copytree(made, folder)
    (folder / name).write_bytes(content)
    try:
        found = read(folder)
    except error as refusal:
        message = str(refusal)
        assert name in message or f"{folder}:" in message, message
        assert "\n" not in message, message
        return message
    assert found == read(made)
    return None


@pytest.mark.parametrize("name", READERS)
def test_a_flipped_bit_is_noticed_or_changes_nothing(name: str, made: Path, tmp_path: Path) -> None:
    whole = (made / name).read_bytes()
    draw = random.Random(0)
    places = draw.sample(range(len(whole)), min(len(whole), 300))
    noticed = 0
    for place in places:
        content = bytearray(whole)
        content[place] ^= 1 << draw.randrange(8)
        noticed += damaged(made, tmp_path / "copy", name, bytes(content)) is not None
    assert noticed > 0.2 * len(places)  # much of a small archive is names and padding


@pytest.mark.parametrize("name", READERS)
def test_a_cut_file_is_an_error_that_names_it(name: str, made: Path, tmp_path: Path) -> None:
    whole = (made / name).read_bytes()
    for length in (0, 1, 4, 20, len(whole) // 3, len(whole) // 2, len(whole) - 100, len(whole) - 2):
        message = damaged(made, tmp_path / "copy", name, whole[:length])
        assert message is not None
        assert ("empty" in message) == (length == 0)


@pytest.mark.parametrize("name", READERS)
def test_another_kind_of_file_is_an_error_that_names_it(name: str, made: Path, tmp_path: Path) -> None:
    others = [path for path in made.iterdir() if path.name != name]
    contents = [path.read_bytes() for path in others] + [b"precious", b"\x00" * 100, b"PK\x03\x04", b"[" * 100_000]
    for content in contents:
        assert damaged(made, tmp_path / "copy", name, content) is not None


def test_files_without_checksums_load_as_before(made: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(made, folder)
    for name in ("model.json", RESULT):
        content = json.loads((made / name).read_text())
        assert len(content.pop("crc32")) == 8
        content.pop("tensors_crc32", None)
        (folder / name).write_text(json.dumps(content))
    for name in ("model.pt", "run.pt"):  # torch's format before 1.6 is no zip archive
        content = torch.load(made / name, weights_only=True)
        torch.save(content, folder / name, _use_new_zipfile_serialization=False)
    for name in ("model.pt", "run.pt", RESULT):
        assert READERS[name][0](folder) == READERS[name][0](made)


def test_safetensors_of_the_first_version_load_and_its_reader_reads_ours(made: Path, tmp_path: Path) -> None:
    library = pytest.importorskip("safetensors.torch")
    ours = library.load_file(made / "path.safetensors")
    path = GramPath.load(made / "path.npz")
    assert torch.equal(ours["x"], path.x)
    assert all(torch.equal(ours[name], value) for name, value in path.sums._asdict().items())
    about = '{"base": "relu", "dtype": "float32", "widths": [1, 1, 1, 1]}'
    library.save_file(ours, tmp_path / "path.safetensors", metadata={"about": about})
    assert path_of("path.safetensors")(tmp_path) == path_of("path.safetensors")(made)


def test_the_two_files_of_a_model_belong_together(made: Path, tmp_path: Path) -> None:
    """A run that was killed between them must not leave weights with the s of another."""
    folder = tmp_path / "copy"
    shutil.copytree(made, folder)
    model = regression()
    with torch.no_grad():
        model.net.weight[0, 0] += 1.0
    model.save(tmp_path)
    shutil.copy(tmp_path / "model.pt", folder)
    with pytest.raises(ModelError, match=r"copy: model.pt is of another model than model.json: its checksum .* again$"):
        Regression.load(folder)


def test_checksums_are_written_whatever_the_user_set(tmp_path: Path) -> None:
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        save_tensors(tmp_path / "a.pt", {"a": torch.arange(5)})
        assert torch.serialization.get_crc32_options() is False
    finally:
        torch.serialization.set_crc32_options(before)
    assert torch.equal(load_tensors(tmp_path / "a.pt")["a"], torch.arange(5))


def test_equal_content_gives_equal_bytes(tmp_path: Path) -> None:
    for name in ("a.pt", "other.pt"):
        save_tensors(tmp_path / name, {"a": torch.arange(5.0)})
    assert (tmp_path / "a.pt").read_bytes() == (tmp_path / "other.pt").read_bytes()


@pytest.mark.parametrize("content", [{"a": [1, 2.5, None, "é", {"b": ()}], "c": float("nan")}, {}, {"a": 1e-310}])
def test_json_with_a_checksum_reads_back(content: dict[str, Any], tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", content, checksum=True)
    plain = json.loads((tmp_path / "a.json").read_text())
    plain.pop("crc32")
    assert read_json(tmp_path / "a.json") == plain
    text = (tmp_path / "a.json").read_text()
    (tmp_path / "a.json").write_text(text.replace("{", '{"new": 1,', 1).replace(',\n  "crc32"', ',"crc32"'))
    with pytest.raises(DamagedFile, match='was changed; without the entry "crc32" it is not checked'):
        read_json(tmp_path / "a.json")


MODEL: dict[str, list[Any]] = {
    "format": [None, "other", 1, [1]],
    "version": [None, "1", 1.5, [1], True, 0, -1, 10**30],
    "features": [None, "a", [], ["a"], ["a", 1], ["a", "a"], {"a": 1}, [["a"], "b"], 5],
    "target": [None, 1, ["y"], {}],
    "base": [None, "rely", 1, ["relu"], "x" * 1000],
    "s": [None, "0.5", [0.5], True, float("nan"), float("inf"), 1e300, 10**400],
    "width": [None, "5", 5.0, True, 0, -5, 6, 10**30, [5]],
    "bias": [None, 0, 1, "true", False],
    "tensors_crc32": [1, [1], "00000000"],
}


@pytest.mark.parametrize("key", MODEL)
def test_every_entry_of_a_model_is_checked(key: str, made: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(made, folder)
    content = json.loads((made / "model.json").read_text())
    del content["crc32"]
    without = {name: value for name, value in content.items() if name != key}
    wrong = [{**content, key: value} for value in MODEL[key]]
    for changed in wrong + [without] * (key != "tensors_crc32"):
        (folder / "model.json").write_text(json.dumps(changed))
        with pytest.raises(ModelError, match="copy") as error:
            Regression.load(folder)
        assert "\n" not in str(error.value)
        assert len(str(error.value)) < 600
    (folder / "model.json").write_text(json.dumps({**content, "note": "of a later version"}))
    assert model_of(folder) == model_of(made)


def test_tensors_of_a_model_are_checked(made: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(made, folder)
    content = json.loads((made / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps({k: v for k, v in content.items() if "crc32" not in k}))
    tensors = torch.load(made / "model.pt", weights_only=True)
    wrong: list[dict[str, Any]] = [
        {"weight": tensors["weight"].to(torch.int32)},
        {"weight": tensors["weight"].to(torch.complex64)},
        {"weight": tensors["weight"].to_sparse()},
        {"weight": tensors["weight"].to("meta")},
        {"weight": tensors["weight"] * float("nan")},
        {"weight": [1.0]},
        {"x_scale": tensors["x_scale"].float()},
        {"x_scale": -tensors["x_scale"]},
        {"y_scale": tensors["y_scale"] * 0},
        {"y_mean": tensors["y_mean"] + float("inf")},
        {"y_mean": tensors["x_mean"]},
    ]
    for change in wrong:
        torch.save({**tensors, **change}, folder / "model.pt")
        with pytest.raises(ModelError, match="copy"):
            Regression.load(folder)
    torch.save({**tensors, "more": 1}, folder / "model.pt")
    assert model_of(folder) == model_of(made)
    double = {
        **tensors,
        "weight": tensors["weight"].double() + 1e-12,
        "output_weight": tensors["output_weight"].double(),
    }
    torch.save(double, folder / "model.pt")
    assert torch.equal(Regression.load(folder).net.weight, double["weight"])
