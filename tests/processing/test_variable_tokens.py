"""Streams whose items differ in tokens: numbers come from metadata, which is read only where it is needed."""

from pathlib import Path

import numpy as np
import pytest
from grey_clips import write_grey_clip
from tiny_tokenizers import tiny_tokenizer
from transformers import AutoConfig

from vidtune.checkpoints.fit_processor import build_processor
from vidtune.data.problems import SampleProblem
from vidtune.data.sample import MediaRef, Sample, Turn
from vidtune.errors import UserError
from vidtune.media.clip_times import ClipTimes
from vidtune.media.probe import MediaInfo, ProbeCache
from vidtune.processing.processor import VideoLMProcessor
from vidtune.registry import SYSTEMS

SIZES = {"image_size": 24, "patch_size": 2, "hidden_size": 16, "clip_heads": 2, "frame_heads": 4}
WIDE, SQUARE = 8 * (1 + 3 * 7), 8 * (1 + 6 * 7)


@pytest.fixture(scope="module")
def config():
    text = AutoConfig.for_model("llama", vocab_size=512, hidden_size=32, num_hidden_layers=1, num_attention_heads=2)
    return SYSTEMS["video_panda"].architecture.build_config(text, {"video": SIZES}, {})


@pytest.fixture
def processor(config) -> VideoLMProcessor:
    made = build_processor(config, tiny_tokenizer(legacy=False))
    made.media_info = lambda path: MediaInfo(
        "video", 80 if "wide" in path else 40, 40, ClipTimes.evenly(100, 10), False, 0
    )
    return made


def sample(*paths: str) -> Sample:
    return Sample(
        "s:1",
        (Turn("user", "<video>\nWhat?"), Turn("assistant", "A cat.")),
        tuple(MediaRef("video", path) for path in paths),
    )


def test_an_example_has_as_many_placeholders_as_its_video_becomes_tokens(processor):
    for path, tokens in (("/wide.mp4", WIDE), ("/square.mp4", SQUARE)):
        example = processor.example(sample(path), "v1")
        assert example.media[0].num_tokens == tokens
        assert int((example.input_ids == processor.placeholder_ids["video"]).sum()) == tokens
        question = processor.question_example("What?", [MediaRef("video", path)], "v1")
        assert question.media[0].num_tokens == tokens


def test_frames_count_one_each_for_the_length_limit_before_expansion(processor):
    whole = processor.example(sample("/wide.mp4"), "v1")
    first = whole.input_ids.tolist().index(processor.placeholder_ids["video"])
    cut = processor.example(sample("/wide.mp4"), "v1", max_length=first + 3)
    assert cut.media[0].num_tokens == WIDE * 3 // 8


def test_streams_of_constant_length_never_look_at_files(tokenizer):
    config = SYSTEMS["video_llava"].architecture.build_config(
        AutoConfig.for_model("llama", vocab_size=512, hidden_size=32, num_attention_heads=2), {}, {}
    )
    made = build_processor(config, tokenizer)
    made.media_info = lambda path: pytest.fail("looked at a file")
    assert made.example(sample("/nowhere.mp4"), "v1").media[0].num_tokens == 2056


def test_an_unreadable_file_is_a_problem_of_its_sample(config):
    made = build_processor(config, tiny_tokenizer(legacy=False))
    with pytest.raises(SampleProblem, match=r"s:1.*nowhere\.mp4: file does not exist") as caught:
        made.example(sample("/nowhere.mp4"), "v1")
    assert caught.value.reason == "media cannot be read"


def test_metadata_are_remembered_from_run_to_run(config, tmp_path: Path):
    path = write_grey_clip(tmp_path / "clip.mp4", size=(64, 32), num_frames=12)
    made = build_processor(config, tiny_tokenizer(legacy=False))
    made.media_info = ProbeCache(tmp_path / "probe.jsonl").get
    assert made.example(sample(str(path)), "v1").media[0].num_tokens == WIDE
    assert len((tmp_path / "probe.jsonl").read_text().splitlines()) == 1
    changed = made.with_preprocessing({"video": {"flip_probability": 0.5}})
    assert changed.media_info == made.media_info
    assert changed.example(sample(str(path)), "v1").media[0].num_tokens == WIDE
    assert len((tmp_path / "probe.jsonl").read_text().splitlines()) == 1


def test_token_numbers_survive_saving(processor, tmp_path: Path):
    processor.save_pretrained(tmp_path)
    loaded = VideoLMProcessor.from_pretrained(tmp_path)
    assert loaded.streams == processor.streams
    assert loaded.streams["video"].measure((3, 8, 12, 24)).tokens == WIDE


def test_preprocessing_the_model_cannot_take_is_refused(processor):
    with pytest.raises(UserError, match="the model takes"):
        processor.with_preprocessing({"video": {"size": 32}})
    fewer = processor.with_preprocessing({"video": {"num_frames": 4}})
    assert fewer.streams["video"].preprocessing.num_frames == 4


@pytest.mark.parametrize(
    "pixels", [np.zeros((4, 8, 8, 3), np.uint16), np.zeros((4, 8, 8, 3)), np.zeros((8, 8), np.uint8)]
)
def test_pixels_of_another_scale_or_shape_are_refused(processor, pixels: np.ndarray):
    with pytest.raises(UserError, match=rf"video: the pixels are {pixels.dtype} of shape .*; give uint8 RGB"):
        processor("What?", videos=[pixels])


def test_decoded_videos_of_several_shapes_become_one_padded_batch(processor):
    clips = [np.zeros((20, 40, 80, 3), np.uint8), np.zeros((20, 40, 40, 3), np.uint8)]
    inputs = processor(["What?", "Who?"], videos=clips)
    assert [item.num_tokens for item in inputs["media"]["video"]] == [WIDE, SQUARE]
    found = (inputs["input_ids"] == processor.placeholder_ids["video"]).sum(dim=1)
    assert found.tolist() == [WIDE, SQUARE]
