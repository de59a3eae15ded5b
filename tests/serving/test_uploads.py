"""Media in ``data:`` addresses: one file for each content, which goes when nobody needs it."""

import base64
import errno
import gc
import os
from pathlib import Path

import pytest

from vidtune.serving.files.uploads import Uploads
from vidtune.serving.problems import ApiProblem


def address(content: bytes, kind: str = "video/mp4") -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def test_the_same_content_is_one_file_and_a_file_in_use_stays():
    uploads = Uploads(seconds=100, kept_bytes=5)
    first = uploads.take(address(b"aaaa"), "here")
    assert (
        uploads.take(address(b"aaaa", "video/webm;codecs=vp8,opus").replace("webm;codecs=vp8,opus", "mp4"), "") is first
    )
    second = uploads.take(address(b"bbbb"), "here")  # the first is no longer kept, but held
    assert (first.path.read_bytes(), second.path.suffix) == (b"aaaa", ".mp4")
    assert uploads.take(address(b"aaaa"), "here") is first
    paths = first.path, second.path
    del first, second
    gc.collect()
    assert [path.exists() for path in paths] == [True, False]
    del uploads
    gc.collect()
    assert not paths[0].parent.exists()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("data:text/html;base64,YQ==", "begins with data:video/mp4"),
        ("data:video/mp4,abc", "begins with data:video/mp4"),
        ("data:video/mp4;base64,", "empty"),
        ("data:video/mp4;base64,YQ", "no base64"),
        ("data:video/mp4;base64,YQ==\n", "no base64"),
        ("data:video/mp4;base64,Yä==", "no base64"),
        ("data:video/../../x;base64,YQ==", "begins with data:video/mp4"),
    ],
)
def test_anything_else_is_refused_with_its_place(given: str, said: str):
    with pytest.raises(ApiProblem, match=rf"messages\[0\].*{said}") as problem:
        Uploads(100).take(given, "messages[0]")
    assert (problem.value.status, problem.value.code) == (400, "invalid_data_url")


def test_other_types_of_video_are_taken():
    assert Uploads(100).take(address(b"a", "video/webm;codecs=vp8,opus"), "").path.suffix == ".webm"


def test_a_full_disk_is_said_and_leaves_no_half_file(monkeypatch):
    def cut_off(path: Path, content: bytes) -> int:
        with path.open("wb") as file:
            file.write(content[:2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    uploads = Uploads(100)
    with monkeypatch.context() as patched, pytest.raises(ApiProblem, match="here: the server has no room") as problem:
        patched.setattr(Path, "write_bytes", cut_off)
        uploads.take(address(b"aaaa"), "here")
    assert (problem.value.status, problem.value.code) == (507, "disk_full")
    assert not list(Path(uploads._folder.name).iterdir())
    assert uploads.take(address(b"aaaa"), "here").path.read_bytes() == b"aaaa"  # once there is room


def test_another_error_of_the_disk_is_said_too(monkeypatch):
    def refuse(path: Path, content: bytes) -> int:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "write_bytes", refuse)
    with pytest.raises(ApiProblem, match=r"cannot store it.*Read-only") as problem:
        Uploads(100).take(address(b"aaaa"), "here")
    assert problem.value.status == 503
