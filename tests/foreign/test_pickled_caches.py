"""Caches of arrays in whose place somebody put a pickle: it is not run, and what it stands for is made again."""

import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from vidtune.data import parsing
from vidtune.planning.counted_files import CountedFiles, stored_table


class Making:
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self._folder),)


def test_a_table_of_lengths(tmp_path: Path) -> None:
    (tmp_path / "table.npy").write_bytes(pickle.dumps(Making(tmp_path / "made")))
    (tmp_path / "files.npz").touch()
    with pytest.warns(UserWarning, match=r"table\.npy: damaged"):
        assert stored_table(tmp_path / "table.npy", tmp_path / "files.npz", (1, 1)) is None
    assert not (tmp_path / "made").exists()


def test_files_that_were_counted(tmp_path: Path) -> None:
    paths = np.frombuffer(b"[]", np.uint8)
    np.savez(tmp_path / "files.npz", paths=paths, versions=np.array([Making(tmp_path / "made")], object))
    with pytest.raises(ValueError, match="allow_pickle"):
        CountedFiles.load(tmp_path / "files.npz", "media")
    assert not (tmp_path / "made").exists()


def test_parsed_annotations(tmp_path: Path) -> None:
    folder = tmp_path / "parsed"
    folder.mkdir()
    for name in parsing.COLUMNS:
        (folder / f"{name}.npy").write_bytes(pickle.dumps(Making(tmp_path / "made")))
    with pytest.warns(UserWarning, match="damaged"):
        assert not parsing._is_whole(folder)
    assert not (tmp_path / "made").exists()
