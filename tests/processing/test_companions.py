"""One file read by several streams, and features that stand in for it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from vidtune.data.problems import SampleProblem
from vidtune.data.sample import MediaRef, Sample, Turn
from vidtune.errors import MediaError, UserError
from vidtune.media.clip_times import ClipTimes
from vidtune.media.probe import MediaInfo
from vidtune.processing.processor import VideoLMProcessor
from vidtune.processing.stream_settings import StreamSettings
from vidtune.registry import SYSTEMS

SYSTEM = SYSTEMS[SYSTEMS.names()[0]]
PROMPT = SYSTEM.dialect.training_prompt
FRAMES, WIDTH = 4, 6
VIDEO_TOKENS = 5 * FRAMES


@pytest.fixture
def accompanied(processor: VideoLMProcessor, monkeypatch: pytest.MonkeyPatch) -> VideoLMProcessor:
    """Videos are read by the stream "image" as well, which gives 3 tokens for every 2 rows."""
    system = replace(SYSTEM, dialect=replace(SYSTEM.dialect, companions={"video": ("image",)}))
    monkeypatch.setitem(SYSTEMS.loaded, SYSTEM.name, system)
    changed = processor.without([])
    video = processor.streams["video"].model_copy(update={"feature_rows": VIDEO_TOKENS, "feature_size": WIDTH})
    image = processor.streams["image"].model_copy(update={"num_tokens": "3/2", "feature_size": WIDTH})
    changed.streams = {"image": image, "video": video}
    changed.media_info = lambda path: MediaInfo("video", 8, 8, ClipTimes.evenly(FRAMES, 1), False, 0)
    return changed


def features(path: Path, rows: int, width: int = WIDTH) -> str:
    np.save(path, np.zeros((rows, width), np.float16))
    return str(path)


def sample(ref: MediaRef) -> Sample:
    return Sample("train:7", (Turn("user", "<video>\nA dog?"), Turn("assistant", "Yes.")), (ref,))


def test_companions_stand_right_behind_their_stream(accompanied: VideoLMProcessor, tmp_path: Path) -> None:
    ref = MediaRef("video", "/clip.mp4", (("image", features(tmp_path / "a.npy", 7)),))
    example = accompanied.example(sample(ref), PROMPT)
    alone = accompanied.without(["image"]).example(sample(ref), PROMPT)
    assert [(slot.stream, slot.num_tokens, slot.encoded) for slot in example.media] == [
        ("video", VIDEO_TOKENS, False),
        ("image", 7, True),
    ]
    ids, placeholders = example.input_ids, accompanied.placeholder_ids
    first = ids.tolist().index(placeholders["video"])
    assert (ids[first : first + VIDEO_TOKENS] == placeholders["video"]).all()
    assert (ids[first + VIDEO_TOKENS : first + VIDEO_TOKENS + 7] == placeholders["image"]).all()
    rest = np.delete(ids, np.s_[first + VIDEO_TOKENS : first + VIDEO_TOKENS + 7])
    assert (rest == alone.input_ids).all()
    assert example.num_supervised == alone.num_supervised


def read_of(processor: VideoLMProcessor, ref: MediaRef) -> list[MediaRef]:
    return [read for read, _ in processor.reader.readings(ref)]


def test_every_stream_can_be_switched_off(accompanied: VideoLMProcessor, tmp_path: Path) -> None:
    ref = MediaRef("video", "/clip.mp4", (("image", features(tmp_path / "a.npy", 7)),))
    unseen = accompanied.without(["video"]).example(sample(ref), PROMPT)
    assert [slot.stream for slot in unseen.media] == ["image"]
    nothing = accompanied.without(["video", "image"])
    assert nothing.example(sample(ref), PROMPT).media == ()
    assert nothing.question_example("A dog?", [ref], PROMPT).media == ()
    with pytest.raises(UserError, match="no stream 'sound'"):
        accompanied.without(["sound"])


def test_a_companion_that_finds_nothing_is_absent(accompanied: VideoLMProcessor, tmp_path: Path) -> None:
    stored = features(tmp_path / "v.npy", VIDEO_TOKENS)
    without_file = MediaRef("video", "", (("video", stored),))
    assert read_of(accompanied, without_file) == [MediaRef("video", stored)]
    assert read_of(accompanied, MediaRef("video", stored)) == [MediaRef("video", stored)]
    empty = MediaRef("video", "", (("video", stored), ("image", features(tmp_path / "e.npy", 0))))
    assert read_of(accompanied, empty) == [MediaRef("video", stored)]


def test_a_raw_file_is_read_by_all_as_long_as_its_metadata_say(accompanied: VideoLMProcessor) -> None:
    assert [ref.stream for ref in read_of(accompanied, MediaRef("video", "/clip.mp4"))] == ["video", "image"]
    rows = accompanied.streams["image"].preprocessing.output_shape()[0]
    assert accompanied.reader.measure(MediaRef("image", "/clip.mp4")).tokens == rows * 3 // 2

    def refuse(path: str) -> MediaInfo:
        raise MediaError(path, "is damaged")

    accompanied.media_info = refuse
    with pytest.raises(SampleProblem, match=r"train:7: /clip\.mp4: is damaged"):
        accompanied.example(sample(MediaRef("video", "/clip.mp4")), PROMPT)


@pytest.mark.parametrize(
    ("rows", "width", "message"),
    [
        (VIDEO_TOKENS, WIDTH + 1, "features have width 7 where the tower gives 6"),
        (VIDEO_TOKENS - 1, WIDTH, "holds 19 features where the tower gives 20"),
    ],
)
def test_features_of_another_tower_are_refused(accompanied, tmp_path, rows, width, message) -> None:
    ref = MediaRef("video", "", (("video", features(tmp_path / "v.npy", rows, width)),))
    with pytest.raises(SampleProblem, match=message):
        accompanied.example(sample(ref), PROMPT)


def test_nothing_to_read_is_a_problem_of_the_sample(accompanied: VideoLMProcessor) -> None:
    with pytest.raises(SampleProblem, match="train:7: there is no file for its video"):
        accompanied.example(sample(MediaRef("video", "")), PROMPT)


def test_companions_count_nothing_towards_the_length(accompanied: VideoLMProcessor, tmp_path: Path) -> None:
    """Cut before expansion: the companion's tokens go with the video's."""
    ref = MediaRef("video", "/clip.mp4", (("image", features(tmp_path / "a.npy", 50)),))
    whole = accompanied.example(sample(ref), PROMPT)
    start = whole.input_ids.tolist().index(accompanied.placeholder_ids["video"])
    units = accompanied.streams["video"].num_placeholders
    kept = accompanied.example(sample(ref), PROMPT, max_length=start + units)
    assert [slot.num_tokens for slot in kept.media] == [VIDEO_TOKENS, 50]
    assert len(kept) == start + VIDEO_TOKENS + 50
    assert not accompanied.example(sample(ref), PROMPT, max_length=start).media
    uncut = len(whole) - VIDEO_TOKENS - 50 + units
    assert not accompanied.example(sample(ref), PROMPT, max_length=uncut).truncated
    assert accompanied.example(sample(ref), PROMPT, max_length=uncut - 1).truncated


def test_rows_are_counted_by_a_rate() -> None:
    settings = {"preprocessing": {"kind": "video"}, "placeholder_id": 9}
    assert StreamSettings(**settings, num_tokens="1500/256").measure((3, 80, 3000)).tokens == 17
    assert StreamSettings(**settings, num_tokens="1").measure((5, 2)).tokens == 5
    with pytest.raises(ValueError):
        StreamSettings(**settings, num_tokens="many")
