"""Writing a file costs nobody theirs: links, modes, devices, descriptors, full disks, what dead writers left."""

import json
import os
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from processes import same_package

from hrta_ext import files
from hrta_ext.files import is_stdout, replaced, replaces, save_tensors, write_json
from hrta_ext.ntk.gram import random_gram_path
from hrta_ext.plots import plot_loss

fcntl = pytest.importorskip("fcntl")
resource = pytest.importorskip("resource")


def write(path: Path, text: str) -> None:
    with replaced(path) as temporary:
        temporary.write_text(text)


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def device(path: Path, minor: int) -> Path:
    """A device of its own, never the system's: what this protects from would replace it."""
    try:
        os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(1, minor))
        path.open("rb").close()
    except OSError:
        pytest.skip("devices cannot be made here")
    return path


# --- links and modes --------------------------------------------------------------------------------------------------


def test_a_link_stays_and_the_file_at_its_end_is_replaced_with_its_mode(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "folder").symlink_to("data")
    file, inner, outer = tmp_path / "data" / "run.json", tmp_path / "inner.json", tmp_path / "outer.json"
    file.write_text("old")
    file.chmod(0o640)
    inner.symlink_to(Path("folder", "..", "data", "run.json"))  # relative, through a link to a folder
    outer.symlink_to(inner)
    before = file.stat().st_ino
    write(outer, "new")
    assert (outer.is_symlink(), inner.is_symlink(), file.is_symlink()) == (True, True, False)
    assert (file.read_text(), mode_of(file)) == ("new", 0o640)
    assert file.stat().st_ino != before  # replaced in one step, not written over
    assert [path.name for path in file.parent.iterdir()] == ["run.json"]


def test_a_link_to_nothing_yet_makes_the_file_it_names(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("file")
    assert not replaces(tmp_path / "link")
    write(tmp_path / "link", "new")
    assert ((tmp_path / "link").is_symlink(), (tmp_path / "file").read_text()) == (True, "new")


def test_a_circle_of_links_and_a_folder_are_errors_that_name_them(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(OSError, match=r"symbolic links: '.*a'"):
        write(tmp_path / "a", "new")
    with pytest.raises(IsADirectoryError, match=r"directory: '.*'"):
        write(tmp_path, "new")
    with pytest.raises(FileNotFoundError, match=r"'.*none/file.json'"):
        write(tmp_path / "none" / "file.json", "new")


def test_another_hard_link_goes_on_showing_what_it_showed(tmp_path: Path) -> None:
    """As a snapshot made by ``cp -l`` is meant to."""
    (tmp_path / "run").write_text("old")
    (tmp_path / "snapshot").hardlink_to(tmp_path / "run")
    write(tmp_path / "run", "new")
    assert ((tmp_path / "snapshot").read_text(), (tmp_path / "run").read_text()) == ("old", "new")


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_a_new_file_has_the_mode_of_any_new_file(tmp_path: Path, monkeypatch, umask: int) -> None:
    before = os.umask(umask)
    try:
        monkeypatch.setattr(os, "umask", None)  # of the whole process: other threads make files meanwhile
        write(tmp_path / "ours", "")
        (tmp_path / "other").write_text("")
    finally:
        monkeypatch.undo()
        os.umask(before)
    assert mode_of(tmp_path / "ours") == mode_of(tmp_path / "other") == 0o666 & ~umask


def test_nobody_reads_along_while_a_private_file_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("old")
    (tmp_path / "mine").chmod(0o600)
    with replaced(tmp_path / "mine") as temporary:
        assert mode_of(temporary) == 0o600
    assert mode_of(tmp_path / "mine") == 0o600


def test_a_name_as_long_as_names_may_be(tmp_path: Path) -> None:
    for name in ("n" * 250 + ".json", "n." + "s" * 250):
        write(tmp_path / name, "new")
        assert (tmp_path / name).read_text() == "new"


def test_a_file_or_folder_without_permission_is_named(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "run.json").write_text("old")
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may do all
    with pytest.raises(PermissionError, match=r"file is read-only\): '.*run.json'"):
        write(tmp_path / "run.json", "new")
    monkeypatch.undo()

    def refuse(path: Path, *_: object) -> int:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(PermissionError, match=r"\(its folder cannot be written\): '.*run.json'"):
        write(tmp_path / "run.json", "new")
    assert (tmp_path / "run.json").read_text() == "old"


# --- what is no file --------------------------------------------------------------------------------------------------


def test_a_device_stays_a_device(tmp_path: Path) -> None:
    null = device(tmp_path / "null.png", 3)
    (tmp_path / "link.png").symlink_to(null)
    for path in (null, tmp_path / "link.png"):
        assert not replaces(path)
        plot_loss(torch.ones(3), torch.ones(3), path)
        write_json(path, {})
    assert stat.S_ISCHR(null.stat().st_mode)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link.png", "null.png"]


def test_a_fifo_gets_the_whole_content(tmp_path: Path) -> None:
    fifo, found = tmp_path / "pipe.pt", []
    os.mkfifo(fifo)
    reader = threading.Thread(target=lambda: found.append(fifo.read_bytes()), daemon=True)
    reader.start()
    save_tensors(fifo, {"a": torch.arange(100_000)})
    reader.join(20)
    (tmp_path / "file.pt").write_bytes(found[0])
    assert torch.equal(torch.load(tmp_path / "file.pt", weights_only=True)["a"], torch.arange(100_000))
    assert stat.S_ISFIFO(fifo.stat().st_mode)


WRITE_TO = """
import sys
from hrta_ext.files import write_json
print("before", flush=True)
print("held back")
write_json(sys.argv[1], {"a": 1})
print("after")
"""


@pytest.mark.skipif(not Path("/dev/stdout").exists(), reason="no /dev/stdout here")
def test_output_that_goes_to_a_file_keeps_all_that_went_there(tmp_path: Path) -> None:
    """/dev/stdout leads to the file then: replaced, it would lose what was and will be printed."""
    with (tmp_path / "out").open("wb") as sink:
        subprocess.run([sys.executable, "-c", WRITE_TO, "/dev/stdout"], stdout=sink, env=same_package(), check=True)
    assert (tmp_path / "out").read_text() == 'before\nheld back\n{\n  "a": 1\n}\nafter\n'


@pytest.mark.skipif(not Path("/dev/fd").exists(), reason="no /dev/fd here")
def test_a_pipe_by_its_number_as_the_shell_gives_it() -> None:
    """``>(command)`` is /dev/fd/63 to the program."""
    ends = os.pipe()
    try:
        assert not is_stdout(f"/dev/fd/{ends[1]}")
        write_json(f"/dev/fd/{ends[1]}", {"a": 1})
        assert json.loads(os.read(ends[0], 100)) == {"a": 1}
    finally:
        for end in ends:
            os.close(end)
    assert is_stdout("/dev/stdout")


# --- no space ---------------------------------------------------------------------------------------------------------


@contextmanager
def little_space(size: int) -> Iterator[None]:
    """No file may grow beyond ``size``: to a writer the same as a full disk, with another word for it."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


PATH = random_gram_path(torch.linspace(0, 1, 40, dtype=torch.float64)[:, None], 50)
WRITERS: dict[str, Callable[[Path], object]] = {
    "a.pt": lambda path: save_tensors(path, {"a": torch.rand(50_000), "b": torch.rand(3)}),
    "b.pt": lambda path: save_tensors(path, {f"{k}": torch.rand(100) for k in range(100)}),
    "a.json": lambda path: write_json(path, list(range(5000))),
    "a.npz": PATH.save,
    "a.safetensors": PATH.save,
    "a.png": lambda path: plot_loss(torch.rand(500), torch.ones(500), path),
    "a.svg": lambda path: plot_loss(torch.rand(500), torch.ones(500), path),
    "a.pdf": lambda path: plot_loss(torch.rand(500), torch.ones(500), path),
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_write_that_the_disk_ends_names_its_file_and_keeps_the_old_one(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text("old")
    with little_space(4096), pytest.raises(OSError, match=rf"^\[Errno \d+\] File too large: '.*{name}'$"):
        WRITERS[name](path)
    assert path.read_text() == "old"
    assert [left.name for left in tmp_path.iterdir()] == [name]
    WRITERS[name](path)
    assert path.stat().st_size > 4096


@pytest.mark.parametrize("name", WRITERS)
def test_a_full_device_is_said(name: str, tmp_path: Path) -> None:
    path = device(tmp_path / name, 7)
    with pytest.raises(OSError, match=rf"No space left on device: '.*{name}'$"):
        WRITERS[name](path)


def test_an_error_that_is_not_the_disks_stays_what_it_is(tmp_path: Path) -> None:
    for error in (ValueError("mine"), OSError(2, "No such file", "font.ttf"), KeyboardInterrupt()):
        with pytest.raises(type(error)) as found, replaced(tmp_path / "file"):
            raise error
        assert found.value is error
    assert list(tmp_path.iterdir()) == []


# --- what is left over ------------------------------------------------------------------------------------------------


def test_only_what_dead_writers_left_is_removed(tmp_path: Path) -> None:
    with replaced(tmp_path / "one.json") as temporary:
        ours = temporary.name
    here, there = ours.rpartition("-")[0], ".hrta_ext-01234567"
    old = time.time() - 2 * 24 * 3600
    dead, alive = tmp_path / f"{here}-1.partial.pt", tmp_path / f"{here}-2.partial.pt"
    others = [tmp_path / f"{there}-{k}.partial.pt" for k in range(3)]
    users = [tmp_path / name for name in (".run.partial.pt", "hrta_ext-x", ".one.json", f"{here}x")]
    folder = tmp_path / f"{here}-3"
    folder.mkdir()
    for path in (dead, alive, *others, *users):
        path.touch()
    for path in others[1:]:
        os.utime(path, (old, old))
    with alive.open("rb+") as first, others[2].open("rb+") as second:
        for stream in (first, second):
            fcntl.flock(stream, fcntl.LOCK_EX)
        write(tmp_path / "run.pt", "new")
    kept = {alive, others[0], others[2], *users, folder, tmp_path / "run.pt", tmp_path / "one.json"}
    assert set(tmp_path.iterdir()) == kept


def test_writers_of_one_file_at_a_time_each_write_all(tmp_path: Path) -> None:
    """None takes another's temporary file for a dead one's, and the file is always somebody's whole content."""
    failures: list[BaseException] = []

    def repeat(text: str) -> None:
        try:
            for _ in range(40):
                write(tmp_path / "file", text)
                assert (tmp_path / "file").read_text() in ("a" * 5000, "b" * 5000, "c" * 5000)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=repeat, args=(letter * 5000,)) for letter in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_file_system_without_locks_is_written_to(tmp_path: Path, monkeypatch) -> None:
    def none(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    left = tmp_path / f"{files._PREFIX}{files._MACHINE}-1.partial"
    left.touch()
    monkeypatch.setattr(fcntl, "flock", none)
    write(tmp_path / "file", "new")
    assert {path.name for path in tmp_path.iterdir()} == {"file", left.name}  # nobody knows whether its writer lives
