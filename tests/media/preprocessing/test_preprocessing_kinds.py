"""Kinds of preprocessing: those of this package, and those that are registered."""

from typing import Literal, get_args

import pytest
from pydantic import TypeAdapter, ValidationError
from synthetic_clips import write_clip

from vidtune.media.preprocessing.frame_sampling import SamplingRule
from vidtune.media.preprocessing.kinds import Preprocessing
from vidtune.media.preprocessing.resize_to_square import VideoPreprocessing
from vidtune.media.probe import probe
from vidtune.registry import PREPROCESSING, SAMPLING_RULES


class Halves(VideoPreprocessing):
    kind: Literal["halves"] = "halves"  # type: ignore[assignment]


@pytest.fixture
def halves():
    PREPROCESSING.register("halves", Halves)
    yield
    PREPROCESSING.unregister("halves")


@pytest.fixture
def backwards():
    SAMPLING_RULES.register("first", SamplingRule(lambda frames, count, fps: [0] * count))
    yield
    SAMPLING_RULES.unregister("first")


def test_the_table_and_the_type_of_the_field_hold_the_same_kinds() -> None:
    assert {name: kind().kind for name, kind in PREPROCESSING.items()} == {name: name for name in PREPROCESSING}
    assert set(get_args(get_args(Preprocessing)[0])) == set(PREPROCESSING.values())


def test_a_registered_kind_is_read_and_written(halves) -> None:
    field = TypeAdapter(Preprocessing)
    value = field.validate_python({"kind": "halves", "num_frames": 3})
    assert type(value) is Halves and value.num_frames == 3
    assert type(field.validate_json(field.dump_json(value))) is Halves


def test_a_kind_that_nobody_registered_is_refused() -> None:
    with pytest.raises(ValidationError, match="halves"):
        TypeAdapter(Preprocessing).validate_python({"kind": "halves"})


def test_a_registered_sampling_rule_chooses_frames(backwards) -> None:
    import numpy as np

    pixels = np.stack([np.full((8, 8, 3), 10 * number, np.uint8) for number in range(5)])
    clip = VideoPreprocessing(size=8, num_frames=2, sampling="first").apply(pixels)
    assert clip.shape == (3, 2, 8, 8) and bool((clip[:, 0] == clip[:, 1]).all())


def test_a_rule_that_repeats_no_frame_gives_short_clips_fewer_frames(tmp_path) -> None:
    import numpy as np

    write_clip(tmp_path / "short.mp4", num_frames=3)
    clips = VideoPreprocessing(size=8, num_frames=5, sampling="per_second")
    assert clips.load(str(tmp_path / "short.mp4")).shape == clips.output_shape(probe(str(tmp_path / "short.mp4")))
    assert clips.output_shape(probe(str(tmp_path / "short.mp4"))) == (3, 3, 8, 8)
    assert clips.output_shapes() == [(3, frames, 8, 8) for frames in (1, 2, 3, 4, 5)]
    pixels = np.zeros((3, 8, 8, 3), np.uint8)
    assert clips.apply(pixels).shape == (3, 3, 8, 8) and clips.apply(np.repeat(pixels, 3, 0)).shape == (3, 5, 8, 8)


def test_an_unknown_sampling_rule_is_refused() -> None:
    with pytest.raises(ValidationError, match="did you mean 'linspace'"):
        VideoPreprocessing(sampling="linspce")
