import os
from pathlib import Path

import pytest

from vidtune.data.media_root import MediaRoot, resolve
from vidtune.data.problems import SampleProblem


def test_a_path_below_the_root_becomes_absolute(tmp_path: Path) -> None:
    assert resolve(tmp_path, "a/./b.mp4") == str(tmp_path.resolve() / "a/b.mp4")


@pytest.mark.parametrize("path", ["/etc/passwd", "../a.mp4", "a/../../b.mp4", "a/../b.mp4", "", ".", "a\0.mp4"])
def test_anything_else_is_refused(tmp_path: Path, path: str) -> None:
    with pytest.raises(SampleProblem, match="media folder") as caught:
        resolve(tmp_path, path)
    assert caught.value.reason == "unsafe path"


def test_a_link_may_not_lead_out_of_the_root(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "root_of_another"
    root.mkdir()
    outside.mkdir()
    (root / "out").symlink_to(outside)
    (root / "in").symlink_to(root / "elsewhere")
    with pytest.raises(SampleProblem, match="symbolic link"):
        resolve(root, "out/a.mp4")
    assert resolve(root, "in/a.mp4") == str(root.resolve() / "elsewhere/a.mp4")


def test_the_root_itself_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert resolve(tmp_path / "link", "a.mp4") == str(tmp_path.resolve() / "real/a.mp4")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "root"
    (folder / "deep").mkdir(parents=True)
    for name in ("a.mp4", "a.mkv", "b", "deep/c.mp4"):
        (folder / name).write_text(name)
    return folder


def test_the_first_suffix_that_is_there_is_found(root: Path) -> None:
    place = MediaRoot(root)
    assert place.find("a", (".webm", ".mkv", ".mp4")) == str(root.resolve() / "a.mkv")
    assert place.find("b") == str(root.resolve() / "b")
    assert place.find("deep/c", (".mp4",)) == str(root.resolve() / "deep/c.mp4")
    assert place.find("a") is place.find("nowhere/a", (".mp4",)) is None
    assert MediaRoot(root / "missing").find("a", (".mp4",)) is None


def test_many_files_are_found_by_listing_their_folder_once(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed: list[str] = []
    real = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: listed.append(str(path)) or real(path))
    monkeypatch.setattr(os.path, "exists", lambda path: pytest.fail("asked for one file"))
    place, other = MediaRoot(root), MediaRoot(root)
    for number in range(100):
        place.find(f"{number}", (".npy", ".pt"))
        other.find("a", (".mp4",))
    assert listed == [str(root.resolve())]


def test_a_new_object_sees_new_files(root: Path) -> None:
    before = MediaRoot(root)
    assert before.find("new", (".mp4",)) is None
    (root / "new.mp4").touch()
    os.utime(root, ns=(0, root.stat().st_mtime_ns + 1))
    assert MediaRoot(root).find("new", (".mp4",)) == str(root.resolve() / "new.mp4")


@pytest.mark.parametrize("name", ["/a", "../root/a", "deep/../a", "a\0"])
def test_names_that_leave_the_root_are_refused(root: Path, name: str) -> None:
    with pytest.raises(SampleProblem) as caught:
        MediaRoot(root).find(name, (".mp4",))
    assert caught.value.reason == "unsafe path"


def test_a_link_is_followed_only_inside_the_root(root: Path, tmp_path: Path) -> None:
    (tmp_path / "secret.mp4").touch()
    (root / "out.mp4").symlink_to(tmp_path / "secret.mp4")
    (root / "in.mp4").symlink_to(root / "a.mp4")
    (root / "folder").symlink_to(tmp_path)
    place = MediaRoot(root)
    assert place.find("in", (".mp4",)) == str(root.resolve() / "a.mp4")
    for name in ("out", "folder/secret"):
        with pytest.raises(SampleProblem, match="symbolic link"):
            place.find(name, (".mp4",))


def test_a_fingerprint_follows_names(root: Path) -> None:
    names = MediaRoot(root).fingerprint()
    (root / "deep/c.mp4").write_text("longer than before")
    assert MediaRoot(root).fingerprint() == names
    (root / "deep/d.mp4").touch()
    assert MediaRoot(root).fingerprint() != names
