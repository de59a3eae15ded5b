"""Annotations of a part of a video: start, end and frame rate, through tables, planning, checking and the store."""

import json
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from synthetic_clips import write_clip

from vidtune.data.conversations import read_conversations
from vidtune.data.problems import SampleProblem
from vidtune.data.sample import MediaRef
from vidtune.data.tables import AnnotationTable
from vidtune.errors import ItemError, UserError
from vidtune.features.cache import FeatureCache
from vidtune.media.clip_times import Part, asked_part
from vidtune.media.preprocessing.resize_to_square import VideoPreprocessing
from vidtune.media.probe import probe
from vidtune.planning.counted_files import files_of
from vidtune.processing.asked_media import asked_media, seconds_of
from vidtune.processing.readings import MediaReader
from vidtune.processing.stream_settings import StreamSettings
from vidtune.recipe.types import DataSource
from vidtune.registry import SYSTEMS

TURNS = [{"from": "human", "value": "<video>\nWhat?"}, {"from": "gpt", "value": "A dog."}]


def item(**keys: object) -> dict[str, object]:
    return {"video": "clip.mp4", "conversations": TURNS, **keys}


@pytest.fixture
def table(tmp_path: Path) -> AnnotationTable:
    write_clip(tmp_path / "clip.mp4")
    items = [item(), item(start=1.0, end=2.5), item(start=4.5), item(frame_rate=2)]
    (tmp_path / "a.json").write_text(json.dumps(items))
    return AnnotationTable.open([DataSource(annotations=str(tmp_path / "a.json"), media=str(tmp_path))], tmp_path / "c")


def test_samples_hold_the_part_that_is_annotated(table: AnnotationTable) -> None:
    refs = [table[index].media[0] for index in range(4)]
    assert [ref.part for ref in refs] == [None, Part(1.0, 2.5), Part(4.5), Part(fps=2.0)]
    assert [bool(files_of(table[index], looks_at_media=False)) for index in range(4)] == [False, True, True, True]


def test_a_part_behind_the_end_of_its_file_costs_its_own_sample(table: AnnotationTable) -> None:
    steps = VideoPreprocessing(size=8, num_frames=8, sampling="linspace")
    reader = MediaReader({"video": StreamSettings(preprocessing=steps, placeholder_id=9, num_tokens=4)}, {}, (), probe)
    assert [reader.readings(table[index].media[0])[0][1].tokens for index in (0, 1, 3)] == [4, 4, 4]
    with pytest.raises(
        SampleProblem, match=r"clip\.mp4: its part from 4\.5 s on was asked for, but it ends after 4\.00 s"
    ):
        reader.readings(table[2].media[0])


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"start": -1}, "key 'start': start is -1 seconds; give 0 or more"),
        ({"start": 3, "end": 2}, "key 'start': start is 3 and end 2 seconds; the end must come after it"),
        ({"end": "2"}, "key 'end': expected a number of seconds, found"),
        ({"frame_rate": 0}, "key 'frame_rate': fps is 0 frames per second"),
        ({"start": [1, 2]}, "key 'start': 2 given for 1 video files"),
    ],
)
def test_impossible_parts_name_the_item_and_the_key(keys: dict[str, object], message: str) -> None:
    good, bad = read_conversations(Path("a.json"), json.dumps([item(), item(**keys)], indent=1).encode())
    assert good.problem is None and bad.problem is not None
    assert re.match(f"line {2 + json.dumps(item(), indent=1).count(chr(10)) + 1}: {message}", bad.problem[1])
    assert "\n" not in bad.problem[1]


def test_each_of_several_videos_has_its_own_part() -> None:
    two = item(video=["a.mp4", "b.mp4"], start=[1, None], end=[2, 3], image="p.png")
    two["conversations"] = [{"from": "human", "value": "<video> <video> <image>"}, {"from": "gpt", "value": "Yes."}]
    [found] = read_conversations(Path("a.json"), json.dumps([two]).encode())
    assert found.parts == ((1.0, 2.0, None), (None, 3.0, None), (None, None, None))


def test_stored_features_of_parts_have_keys_of_their_own() -> None:
    identities = SimpleNamespace(of=lambda path: "c0ffee")
    cache: Any = SimpleNamespace(_identities=identities, spec=SimpleNamespace(by_extras=False))
    whole = MediaRef("video", "/a.mp4")
    parts = [replace(whole, start=1.0), replace(whole, end=1.0), replace(whole, fps=1.0), replace(whole, start=2.0)]
    assert FeatureCache.key(cache, whole) == "c0ffee"
    assert len({FeatureCache.key(cache, ref) for ref in (whole, *parts)}) == 5


def test_a_part_of_an_asked_video(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mp4", num_frames=20)
    dialect = SYSTEMS["video_llava"].dialect
    [ref] = asked_media({"video": [path], "image": []}, {}, dialect, asked_part(0.5, 1.5))
    assert ref.part == Part(0.5, 1.5)
    assert seconds_of([ref], 60) == 1.0
    with pytest.raises(UserError, match="--start and --end: start is 2 and end 1 seconds; the end must come after it"):
        asked_media({"video": [path]}, {}, dialect, asked_part(2.0, 1.0))
    with pytest.raises(UserError, match="--start and --end: are for one video; 2 are given"):
        asked_media({"video": [path, path]}, {}, dialect, asked_part(2.0))
    with pytest.raises(ItemError, match=r"from 9 s on was asked for, but it ends after 2\.00 s"):
        seconds_of(asked_media({"video": [path]}, {}, dialect, asked_part(9.0)), 60)


def test_references_differ_by_their_part() -> None:
    refs = {MediaRef("video", "/a.mp4"), MediaRef("video", "/a.mp4", start=1.0), MediaRef("video", "/a.mp4", end=1.0)}
    assert len(refs) == 3
    with pytest.raises(ValueError, match="end must come after"):
        _ = MediaRef("video", "/a.mp4", start=2.0, end=1.0).part
    assert np.array_equal(MediaRef("video", "/a.mp4", start=1.0).extra_arrays(), {})
