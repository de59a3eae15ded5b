"""Extraction of frames at an exact rate, by the command line."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from synthetic_clips import decode_plainly, write_clip
from typer.testing import CliRunner

from vidtune.cli.main import app
from vidtune.data.writing.frames import RATE, extract_frames
from vidtune.errors import MediaError
from vidtune.media import video
from vidtune.media.packets.groups import PlanFailedError
from vidtune.media.probe import probe


def test_frames_are_extracted_at_exactly_so_many_per_second(tmp_path: Path) -> None:
    (tmp_path / "videos" / "a").mkdir(parents=True)
    clip = write_clip(tmp_path / "videos" / "a" / "clip.mp4", num_frames=40)
    (tmp_path / "videos" / "broken.mp4").write_bytes(b"no video")
    command = ["data", "frames", str(tmp_path / "videos"), "--out", str(tmp_path / "out"), "--fps", "2"]
    found = CliRunner().invoke(app, command)
    assert found.exit_code != 0
    assert "broken.mp4" in str(found.exception)
    folder = tmp_path / "out" / "a" / "clip"
    names = [f"clip_{number}.jpg" for number in range(1, 9)]
    assert sorted(path.name for path in folder.glob("[!.]*")) == names
    plain = decode_plainly(clip)
    for number, name in enumerate(names):
        expected = plain[int((number + 0.5) / 2 * 10 + 1e-6)].astype(int)
        assert np.abs(np.asarray(Image.open(folder / name)).astype(int) - expected).mean() < 12
    assert probe(folder).num_frames / 2 == probe(clip).duration
    (folder / "clip_1.jpg").unlink()
    CliRunner().invoke(app, command)
    assert len(list(folder.glob("*.jpg"))) == 7  # a folder that is there is left as it is
    one = {clip: folder}
    other = "clip: holds 7 frames at another rate than 1 per second; delete it, or take another --out"
    for rates in (True, False):  # without a rate their number tells it
        [(_, number, error)] = extract_frames(one, 1.0)
        assert number == 0 and str(error).endswith(other)
        if rates:
            (folder / RATE).unlink()
    assert "another rate" in str(next(extract_frames(one, 2.0))[2])
    (folder / names[0]).write_bytes((folder / names[1]).read_bytes())
    assert next(extract_frames(one, 2.0)) == (clip, 8, None)


@pytest.mark.parametrize("name", ["clip.mkv", "clip.webm"])
def test_a_container_without_a_duration_works(tmp_path: Path, name: str) -> None:
    codec = {"codec": "libvpx"} if name.endswith("webm") else {}
    clip = write_clip(tmp_path / name, num_frames=20, muxing={"live": "1"}, **codec)
    import av

    with av.open(str(clip)) as container:
        assert not container.duration
    assert probe(clip).duration == 2.0


def test_decoding_that_begins_again_gives_the_same_frames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_clip(tmp_path / "clip.mp4", num_frames=24)

    def extract(name: str) -> list[tuple[Path, int, MediaError | None]]:
        return list(extract_frames({tmp_path / "clip.mp4": tmp_path / name}, 5.0))

    assert [number for _, number, _ in extract("whole")] == [12]
    monkeypatch.setattr(video, "BLOCK_BYTES", 1)  # every frame is a block of its own

    def broken(*arguments, **named):
        yield from itertools.islice(groups(*arguments, **named), 5)
        raise PlanFailedError

    groups = video.decode_groups
    monkeypatch.setattr(video, "decode_groups", broken)
    assert [number for _, number, _ in extract("again")] == [12]
    names = sorted(path.name for path in (tmp_path / "whole").glob("*.jpg"))
    assert names == sorted(path.name for path in (tmp_path / "again").glob("*.jpg")) and len(names) == 12
    for name in names:
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
