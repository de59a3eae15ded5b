from pathlib import Path

import pytest

from vidtune.data.media_root import resolve
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
