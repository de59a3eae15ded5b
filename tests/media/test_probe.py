import json
from dataclasses import asdict
from pathlib import Path

import pytest
import synthetic_clips as clips
from PIL import Image
from synthetic_clips import write_clip

from vidtune.errors import MediaError
from vidtune.media import probe as probe_module
from vidtune.media.clip_times import ClipTimes
from vidtune.media.probe import MediaInfo, ProbeCache, probe


def test_a_video_is_described_after_rotation(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mp4", num_frames=25, rotation=-90, sound=True, options=clips.WITH_B_FRAMES)
    info = probe(path)
    assert (info.kind, info.width, info.height, info.num_frames) == ("video", 48, 64, 25)
    assert (info.rotation, info.has_audio) == (270, True)
    assert info.fps == pytest.approx(10)
    assert info.duration == pytest.approx(2.5)


def test_a_video_without_sound_says_so(tmp_path: Path) -> None:
    assert not probe(write_clip(tmp_path / "clip.mp4", num_frames=2)).has_audio


def test_an_image_is_recognised_by_content_not_by_name(tmp_path: Path) -> None:
    Image.new("RGB", (7, 5)).save(tmp_path / "picture.mp4", format="PNG")
    assert probe(tmp_path / "picture.mp4") == MediaInfo("image", 7, 5, ClipTimes.unknown(1), False, 0)


def test_a_gif_is_a_video(tmp_path: Path) -> None:
    info = probe(write_clip(tmp_path / "clip.gif", num_frames=6, codec="gif", pixel_format="rgb8"))
    assert (info.kind, info.num_frames) == ("video", 6)


def test_frames_cut_by_an_edit_list_do_not_count(tmp_path: Path) -> None:
    import av

    source = write_clip(tmp_path / "whole.mp4", num_frames=30, options=clips.WITHOUT_B_FRAMES)
    trimmed = tmp_path / "trimmed.mp4"
    with av.open(str(source)) as old, av.open(str(trimmed), "w", options={"use_editlist": "1"}) as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for packet in old.demux(video=0):
            if packet.size:
                packet.pts -= 5 * packet.duration
                packet.dts -= 5 * packet.duration
                packet.stream = stream
                new.mux(packet)
    assert probe(trimmed).num_frames == len(clips.decode_plainly(trimmed)) < 30


def test_the_cache_probes_a_file_once_and_again_when_it_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_clip(tmp_path / "clip.mp4", num_frames=3)
    calls: list[str] = []
    monkeypatch.setattr(probe_module, "probe", lambda path: calls.append(path) or probe(path))
    first = ProbeCache(tmp_path / "cache" / "probe.jsonl")
    assert first.get(path) == first.get(path) == ProbeCache(first.sidecar).get(path)
    assert len(calls) == 1
    write_clip(path, num_frames=5)
    assert ProbeCache(first.sidecar).get(path).num_frames == 5
    assert len(calls) == 2


def test_the_cache_survives_a_line_torn_by_a_kill(tmp_path: Path) -> None:
    first, second = (write_clip(tmp_path / f"{number}.mp4", num_frames=number) for number in (2, 3))
    sidecar = tmp_path / "probe.jsonl"
    ProbeCache(sidecar).get(first)
    whole = sidecar.read_bytes()
    sidecar.write_bytes(whole + whole[: len(whole) // 2])
    reopened = ProbeCache(sidecar)
    assert reopened.get(second).num_frames == 3
    assert json.loads(sidecar.read_bytes().splitlines()[-1])["path"] == str(second)
    again = ProbeCache(sidecar)
    assert asdict(again.get(first)) == asdict(probe(first))
    assert again.get(second).num_frames == 3
    assert len(sidecar.read_bytes().splitlines()) == 2  # the torn line was cut off


def test_the_cache_does_not_believe_an_older_version(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mp4", num_frames=10, sound=True)
    cache = ProbeCache(tmp_path / "probe.jsonl")
    cache.get(path)
    record = json.loads(cache.sidecar.read_text())
    record["info"]["audio_seconds"] = 7.0
    cache.sidecar.write_text(json.dumps(record) + "\n")
    assert ProbeCache(cache.sidecar).get(path).audio_seconds == 7.0
    del record["version"]
    cache.sidecar.write_text(json.dumps(record) + "\n")
    assert 0.9 < ProbeCache(cache.sidecar).get(path).audio_seconds < 1.1


def test_the_cache_keeps_no_failures(tmp_path: Path) -> None:
    cache = ProbeCache(tmp_path / "probe.jsonl")
    with pytest.raises(MediaError, match="does not exist"):
        cache.get(tmp_path / "late.mp4")
    write_clip(tmp_path / "late.mp4", num_frames=2)
    assert cache.get(tmp_path / "late.mp4").num_frames == 2
