"""Atomic files and folders."""

import errno
import fcntl
import json
import os
import resource
import shutil
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from safetensors import SafetensorError

from vidtune.errors import UserError
from vidtune.foreign.documents import read_object
from vidtune.machine.files import (
    atomic_file,
    atomic_folder,
    disk_errors,
    remove_leftovers,
    temporary_beside,
    write_json_atomically,
    write_text_atomically,
)
from vidtune.machine.records import RecordWriter, read_values


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_an_atomic_write_leaves_nothing_else_behind(tmp_path):
    write_text_atomically(tmp_path / "a" / "run.json", "one")
    write_text_atomically(tmp_path / "a" / "run.json", "two")
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["run.json"]
    assert (tmp_path / "a" / "run.json").read_text() == "two"


def test_a_failed_write_keeps_the_old_file_and_leaves_nothing(tmp_path):
    path = tmp_path / "run.json"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), atomic_file(path) as temporary:
        temporary.write_text("half")
        raise ZeroDivisionError
    assert path.read_text() == "old" and names(tmp_path) == ["run.json"]


def test_temporary_names_are_unique_and_lie_beside_the_target(tmp_path):
    path = tmp_path / ("x" * 250)
    names = {temporary_beside(path) for _ in range(1000)}
    assert len(names) == 1000
    assert all(name.parent == tmp_path and len(name.name) < 255 for name in names)


def test_two_writers_of_one_file_do_not_meet(tmp_path):
    path = tmp_path / "run.json"
    with atomic_file(path) as first, atomic_file(path) as second:
        first.write_text("first")
        second.write_text("second")
    assert path.read_text() == "first" and names(tmp_path) == ["run.json"]


def test_a_folder_of_a_user_that_is_named_partial_stays(tmp_path):
    theirs = tmp_path / "out.partial"
    theirs.mkdir()
    (theirs / "thesis.txt").write_text("mine")
    with atomic_folder(tmp_path / "out") as temporary:
        (temporary / "weights").write_text("w")
    assert (theirs / "thesis.txt").read_text() == "mine"
    assert (tmp_path / "out/weights").read_text() == "w"
    assert names(tmp_path) == ["out", "out.partial"]


def test_a_folder_for_libraries_has_a_name_that_is_text(tmp_path):
    path = tmp_path / "f\udcff" / "model"
    with pytest.raises(UserError, match=r"model: its name is no UTF-8 text.*rename") as caught, atomic_folder(path):
        pass
    assert "f\udcff" in str(caught.value) and not path.parent.exists()


def test_a_failed_folder_is_removed(tmp_path):
    with pytest.raises(ZeroDivisionError), atomic_folder(tmp_path / "out") as temporary:
        (temporary / "weights").write_text("w")
        raise ZeroDivisionError
    assert names(tmp_path) == []


def test_a_folder_replaces_an_empty_one_only(tmp_path):
    (tmp_path / "out").mkdir()
    with atomic_folder(tmp_path / "out") as temporary:
        (temporary / "weights").write_text("first")
    with pytest.raises(FileExistsError), atomic_folder(tmp_path / "out") as temporary:
        (temporary / "weights").write_text("second")
    assert (tmp_path / "out/weights").read_text() == "first" and names(tmp_path) == ["out"]


def test_only_leftovers_of_killed_writers_are_removed(tmp_path):
    kept = [tmp_path / name for name in ("a.partial", ".b.partial", "data.json", ".c.0123.partial")]
    for path in kept:
        path.write_text("")
    old, new = temporary_beside(tmp_path / "old"), temporary_beside(tmp_path / "new")
    new.write_text("")
    old.mkdir()
    (old / "part").write_text("")
    os.utime(old, (time.time() - 7200,) * 2)
    remove_leftovers(tmp_path, older_than=3600)
    assert not old.exists() and new.exists()
    remove_leftovers(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted(kept)


def test_json_is_written_and_read(tmp_path):
    write_json_atomically(tmp_path / "run.json", {"a": [1, "é"]})
    assert read_object(tmp_path / "run.json") == {"a": [1, "é"]}
    write_json_atomically(tmp_path / "run.json", [json.dumps("x")], indent=None)
    assert (tmp_path / "run.json").read_text().count("\n") == 1
    with pytest.raises(UserError, match=r"run\.json: expected an object, found list"):
        read_object(tmp_path / "run.json")


def test_files_of_a_folder_are_as_readable_as_the_folder(tmp_path):
    """safetensors writes files that only their owner may read."""
    with atomic_folder(tmp_path / "out") as temporary:
        (temporary / "weights").write_bytes(b"1")
        (temporary / "weights").chmod(0o600)
    mode = (tmp_path / "out").stat().st_mode
    assert (tmp_path / "out/weights").stat().st_mode & 0o666 == mode & 0o666


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
        Exception("Error: StorageFull"),
        RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 704 vs 598"),
    ],
)
@pytest.mark.parametrize("written", [atomic_folder, atomic_file, disk_errors])
def test_a_full_disk_is_one_line_whatever_the_library_says(written, error, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=4096))
    with (
        pytest.raises(UserError, match=r"out: cannot be written, the disk is full") as caught,
        written(tmp_path / "out"),
    ):
        raise error
    assert "\n" not in str(caught.value) and list(tmp_path.iterdir()) == []


def test_what_the_disk_refuses_names_the_file_and_leaves_nothing(tmp_path: Path) -> None:
    path, lines = tmp_path / "out.json", tmp_path / "lines.jsonl"
    with RecordWriter(lines) as records:
        records.append("whole")
        before = lines.read_bytes()
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20, hard))
        try:
            for write in (lambda: write_json_atomically(path, "long" * 9), lambda: records.append("long" * 9)):
                with pytest.raises(OSError, match="File too large") as caught:
                    write()
                assert caught.value.filename in (str(path), str(lines))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert list(read_values(lines)) == ["whole"] and lines.read_bytes().startswith(before)
    with RecordWriter(lines) as records:
        records.append("more")
    assert list(read_values(lines)) == ["whole", "more"]
    assert sorted(one.name for one in tmp_path.iterdir()) == [".lines.jsonl.lock", "lines.jsonl"]


@pytest.mark.parametrize("error", [RuntimeError("inline_container.cc: bad"), OSError(errno.EIO, "x"), ValueError("y")])
def test_other_errors_of_writing_stay_as_they_are(error, tmp_path) -> None:
    with pytest.raises(type(error)) as caught, atomic_folder(tmp_path / "out"):
        raise error
    assert caught.value is error and list(tmp_path.iterdir()) == []


def test_a_writer_of_a_folder_deletes_what_dead_ones_left_of_it_and_nothing_else(tmp_path: Path) -> None:
    dead, other = tmp_path / f".out.{'0' * 32}.partial", tmp_path / f".out2.{'0' * 32}.partial"
    own = tmp_path / ".out.mine.partial"
    for folder in (dead, other, own):
        folder.mkdir()
        (folder / "weights").write_text("x")
    with atomic_folder(tmp_path / "out") as living:
        assert not dead.exists()
        with atomic_folder(tmp_path / "out"):
            assert living.is_dir()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([other.name, own.name, "out"])


@pytest.mark.parametrize("moment", ["before it is opened", "before it is locked"])
def test_a_new_folder_that_another_writer_takes_for_dead_is_made_again(
    moment: str, tmp_path: Path, monkeypatch
) -> None:
    """Between the two calls that make a folder and lock it, it looks like one that a dead writer left."""
    really_open, deleted = os.open, []

    def opened(path, *options, **others):
        is_new = not deleted and str(path).endswith(".partial")
        descriptor = really_open(path, *options, **others) if is_new and moment == "before it is locked" else None
        if is_new:
            deleted.append(path)
            shutil.rmtree(path)
        return really_open(path, *options, **others) if descriptor is None else descriptor

    monkeypatch.setattr(os, "open", opened)
    with atomic_folder(tmp_path / "out") as folder:
        (folder / "weights").write_text("w")
    assert len(deleted) == 1 and folder != deleted[0] and names(tmp_path) == ["out"]


def test_a_new_folder_that_another_writer_holds_is_left_to_it(tmp_path: Path, monkeypatch) -> None:
    real, calls = fcntl.flock, []

    def flock(descriptor, how):
        calls.append(descriptor)
        if len(calls) == 1:
            raise BlockingIOError
        real(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", flock)
    with atomic_folder(tmp_path / "out"):
        assert len(calls) == 2


def test_what_another_user_left_stops_nobody(tmp_path: Path, monkeypatch) -> None:
    theirs = tmp_path / f".out.{'0' * 32}.partial"
    theirs.mkdir()
    really_open = os.open

    def closed(path, *options, **others):
        if path == theirs:
            raise PermissionError(errno.EACCES, "Permission denied")
        return really_open(path, *options, **others)

    monkeypatch.setattr(os, "open", closed)
    with atomic_folder(tmp_path / "out"):
        pass
    assert names(tmp_path) == [theirs.name, "out"]


def test_a_folder_s_writer_that_is_told_to_end_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as caught, atomic_folder(tmp_path / "out") as folder:
        (folder / "half").write_text("x")
        signal.raise_signal(signal.SIGTERM)
    assert caught.value.code == 128 + signal.SIGTERM and list(tmp_path.iterdir()) == []
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
