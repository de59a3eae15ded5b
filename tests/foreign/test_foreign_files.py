"""The door for files of others: what is no regular file, leaves its folder or is too long is refused at once."""

import os
import pickle
import socket
import stat
import tracemalloc
from pathlib import Path

import pytest

from vidtune.errors import ForeignFileError, MediaError
from vidtune.foreign.files import open_foreign, read_foreign, reading, regular


def refusal(call, *args, **options) -> str:
    with pytest.raises(ForeignFileError) as caught:
        call(*args, **options)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"{args[0]}: ")
    return caught.value.reason


@pytest.fixture
def pipe(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    return tmp_path / "pipe"


def test_a_named_pipe_is_refused_and_not_waited_for(pipe):
    assert refusal(open_foreign, pipe) == "is a named pipe, not a file"
    assert refusal(regular, pipe, failure=MediaError) == "is a named pipe, not a file"


def test_a_pipe_that_takes_the_place_of_the_file_before_it_is_opened(pipe, tmp_path, monkeypatch):
    file = tmp_path / "file"
    file.write_bytes(b"x")
    looked_at = file.stat()
    monkeypatch.setattr(os, "stat", lambda path: looked_at)
    assert refusal(open_foreign, pipe) == "is a named pipe, not a file"


def test_devices_sockets_and_folders_are_refused(tmp_path):
    assert refusal(open_foreign, "/dev/zero") == "is a device, not a file"
    assert refusal(open_foreign, tmp_path) == "is a folder, not a file"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "s"))
        assert refusal(open_foreign, tmp_path / "s") == "is a socket, not a file"


def test_a_device_is_not_opened_to_learn_what_it_is(monkeypatch):
    monkeypatch.setattr(os, "open", lambda *_: pytest.fail("opened"))
    assert refusal(open_foreign, "/dev/zero") == "is a device, not a file"


@pytest.mark.parametrize("name", ["no/such", "x" * 300, "a\0b", "\ud800"], ids=ascii)
def test_a_name_that_cannot_be_opened(tmp_path, name):
    assert refusal(open_foreign, f"{tmp_path}/{name}").startswith("cannot be read (")


def test_a_file_stays_below_its_root(tmp_path):
    root = tmp_path / "root"
    (root / "in").mkdir(parents=True)
    (tmp_path / "rooted").write_text("secret")
    (root / "file").write_text("open")
    (root / "link").symlink_to("../rooted")
    (root / "folder").symlink_to("..")
    (root / "inner").symlink_to("file")
    (tmp_path / "other_name").symlink_to("root")
    assert read_foreign(root / "inner", root=tmp_path / "other_name") == b"open"
    for name in ("link", "folder/rooted", "in/../../rooted"):
        assert "leads out of" in refusal(read_foreign, root / name, root=root)
        assert "leads out of" in refusal(regular, root / name, root=root)
    assert read_foreign(root / "link") == b"secret"


def test_a_link_that_changes_between_a_look_and_the_opening(tmp_path, monkeypatch):
    """What counts is the file that was opened, not what its name led to before or after."""
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "secret").write_text("secret")
    (root / "file").symlink_to("../secret")
    monkeypatch.setattr(os.path, "realpath", lambda path: str(path))
    assert "leads out of" in refusal(read_foreign, root / "file", root=root)


def test_a_file_that_is_too_long_is_not_read(tmp_path):
    sparse = tmp_path / "sparse"
    with sparse.open("wb") as file:
        file.truncate(2**40)
    assert "1,099,511,627,776 bytes, more than" in refusal(read_foreign, sparse)
    (tmp_path / "ten").write_bytes(b"0123456789")
    assert "10 bytes, more than the 9" in refusal(read_foreign, tmp_path / "ten", limit=9)
    assert "bytes, more than the 5" in refusal(read_foreign, "/proc/version", limit=5)  # says that it has 0


def test_errors_of_a_library_name_the_file(tmp_path):
    def read(path, error):
        with reading(path, MediaError):
            raise error

    assert refusal(read, "f", KeyError("x")) == "cannot be read (KeyError: 'x')"
    assert refusal(read, "f", ValueError("two\nlines")) == "cannot be read (ValueError: two lines)"
    assert refusal(read, "f", RecursionError("deep")) == "cannot be read (nested too deeply)"
    assert refusal(read, "f", MemoryError()) == "cannot be read (it asks for more memory than there is)"
    with pytest.raises(KeyboardInterrupt):
        read("f", KeyboardInterrupt())


def test_a_failure_travels_between_processes():
    error = pickle.loads(pickle.dumps(MediaError("f", "is a device")))
    assert (type(error), str(error), error.reason) == (MediaError, "f: is a device", "is a device")


def test_no_descriptor_stays_open(tmp_path, pipe):
    before = len(list(Path("/proc/self/fd").iterdir()))
    for path in (pipe, tmp_path, tmp_path / "absent"):
        refusal(open_foreign, path)
    (tmp_path / "file").write_bytes(b"x")
    refusal(open_foreign, tmp_path / "file", root=tmp_path / "elsewhere")
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_no_more_memory_is_asked_for_than_a_file_holds(tmp_path: Path) -> None:
    path = tmp_path / "small.json"
    path.write_bytes(b"{}")
    tracemalloc.start()
    try:
        assert read_foreign(path, limit=2**26) == b"{}"
        assert tracemalloc.get_traced_memory()[1] < 2**22
    finally:
        tracemalloc.stop()
