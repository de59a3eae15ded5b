"""A file that was replaced is another file to everything that remembers files, whatever its size and time say."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from synthetic_clips import write_clip

from vidtune.data.checking.checked_files import CheckedFiles
from vidtune.media.file_version import file_version
from vidtune.media.kept.identity import MediaIdentities
from vidtune.media.probe import ProbeCache


def replace_quietly(path: Path, write: Callable[[], object]) -> None:
    """Write a file anew, with its old size (filled up with zeros) and its old time of modification."""
    before = path.stat()
    write()
    path.write_bytes(path.read_bytes().ljust(before.st_size, b"\0"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)


def probed(path: Path, folder: Path) -> Callable[[], Any]:
    return lambda: ProbeCache(folder / "probe.jsonl").get(path)


def checked(path: Path, folder: Path) -> Callable[[], Any]:
    def ask() -> str | None:
        with CheckedFiles(folder / "checked.jsonl") as known:
            found = known.kind(str(path), "check")
            known.add(str(path), "check", "video")
        return found

    return lambda: ask() or ask()


def identified(path: Path, folder: Path) -> Callable[[], Any]:
    identities = MediaIdentities()
    return lambda: identities.of(str(path))


@pytest.mark.parametrize("remembered", [probed, identified])
def test_a_replaced_file_of_the_same_size_and_time_is_seen(remembered: Callable[..., Any], tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mp4", num_frames=12)
    ask = remembered(path, tmp_path)
    before = ask()
    assert ask() == before
    replace_quietly(path, lambda: write_clip(path, num_frames=3))
    assert ask() != before
    if remembered is probed:
        assert ask().num_frames == 3


def test_a_replaced_file_is_checked_again(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mp4", num_frames=12)
    assert checked(path, tmp_path)() == "video"
    replace_quietly(path, lambda: write_clip(path, num_frames=3))
    with CheckedFiles(tmp_path / "checked.jsonl") as known:
        assert known.kind(str(path), "check") is None


def test_a_file_that_changes_during_its_check_has_not_passed(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mp4", num_frames=12)
    with CheckedFiles(tmp_path / "checked.jsonl") as known:
        assert known.kind(str(path), "check") is None
        replace_quietly(path, lambda: write_clip(path, num_frames=3))
        known.add(str(path), "check", "video")
        assert known.kind(str(path), "check") is None


def test_a_picture_replaced_inside_a_folder_of_frames_is_seen(tmp_path: Path) -> None:
    folder = tmp_path / "frames"
    folder.mkdir()
    for number in range(3):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(folder / f"{number}.bmp")
    ask, version, times = identified(folder, tmp_path), file_version(folder), folder.stat()
    before = ask()
    Image.new("RGB", (8, 8), (9, 0, 0)).save(folder / "0.bmp")
    assert folder.stat().st_mtime_ns == times.st_mtime_ns
    assert file_version(folder) != version
    assert ask() != before
