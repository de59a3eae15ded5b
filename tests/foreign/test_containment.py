"""Paths that stay inside a folder, as they are written and where links lead."""

import pytest

from vidtune.foreign.containment import is_inside, stays_below


@pytest.mark.parametrize("name", ["", ".", "/a", "../a", "a/../b", "a\0b", "\ud800"])
def test_what_leaves_its_folder_or_is_no_path_of_a_file_is_told(name):
    assert not stays_below(name)


def test_plain_paths_stay_below():
    assert all(map(stays_below, ["a.mp4", "a/b/c", "..a", "x" * 300]))


def test_links_are_followed(tmp_path):
    root, outside = tmp_path / "root", tmp_path / "root_beside"
    root.mkdir()
    outside.mkdir()
    (root / "out").symlink_to(outside)
    (root / "in").symlink_to(root / "file")
    (root / "circle").symlink_to(root / "circle")
    assert is_inside(root / "in", root) and is_inside(root / "not there", root) and is_inside(root, root)
    assert not is_inside(root / "out", root) and not is_inside(root / "out/deep", root)
    assert not is_inside(root / ".." / "x", root) and not is_inside(root / "a\0", root)
    assert is_inside(root / "out/deep", root, outside) and is_inside(root / "circle", root)
