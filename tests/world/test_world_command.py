"""``vidtune world``: a world alone, in a size of one's own."""

import errno
import json
import os
import time
from pathlib import Path

import pytest

from vidtune.cli.main import run as vidtune
from vidtune.errors import UserError
from vidtune.machine.files import atomic_file
from vidtune.world import sized
from vidtune.world.layout import render_missing


def test_a_world_is_rendered_alone(tmp_path, capsys):
    size = ["videos=1", "images=1", "texts=1", "test_videos=1", "seconds=1"]
    assert vidtune(["world", "shapes", *size, "--out", str(tmp_path / "w")]) == 0
    assert f"DATA_ROOT={tmp_path / 'w'} vidtune train" in capsys.readouterr().out
    assert len(list((tmp_path / "w" / "videos").iterdir())) == 1 and (tmp_path / "w" / "tokenizer").is_dir()
    assert json.loads((tmp_path / "w" / "world.json").read_text())["seconds"] == 1.0


@pytest.mark.parametrize(
    ("kind", "settings", "said"),
    [
        ("shape", {}, "no world 'shape'; did you mean 'shapes'"),
        ("events", {"video": "1"}, "no setting 'video'; did you mean 'videos'"),
        ("events", {"videos": "1.5"}, "expected a whole number of at least 0"),
        ("shapes", {"seconds": "nan"}, "expected a number of at least 0"),
    ],
)
def test_a_world_that_cannot_be_is_refused(kind, settings, said):
    with pytest.raises(UserError, match=said):
        sized(kind, settings)


def write_slowly(drawn: int, path: Path) -> None:
    with atomic_file(path) as part:
        part.write_text(str(drawn))
        if drawn:
            time.sleep(30)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_is_one_line_and_leaves_no_half_files(tmp_path: Path):
    files = [(tmp_path / f"{number}.mp4", number) for number in range(16)]
    with pytest.raises(UserError, match=r"0\.mp4: cannot be written, the disk is full"):
        render_missing(files, write_slowly, workers=2, progress=None)
    assert list(tmp_path.iterdir()) == []
