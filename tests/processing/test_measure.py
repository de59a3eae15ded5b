"""Measured streams: what an item becomes is a stored function of its shape."""

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from made_up_parts import made_up_parts
from tiny_stage import Source, write_annotations
from tiny_tokenizers import tiny_tokenizer
from transformers import AutoConfig

from vidtune.checkpoints.fit_processor import build_processor
from vidtune.data.problems import SampleProblem
from vidtune.data.sample import MediaRef
from vidtune.data.tables import AnnotationTable
from vidtune.media.clip_times import ClipTimes
from vidtune.media.preprocessing.resize_to_square import ImagePreprocessing, VideoPreprocessing
from vidtune.media.probe import MediaInfo
from vidtune.planning.lengths import COST_UNIT, ExampleMaker, open_lengths
from vidtune.planning.packing import CostModel
from vidtune.processing.layout import media_facts
from vidtune.processing.processor import VideoLMProcessor
from vidtune.processing.readings import MediaReader
from vidtune.processing.stream_settings import Measure, Measured, StreamSettings
from vidtune.registry import SYSTEMS

SIZES = {"image_size": 24, "patch_size": 2, "hidden_size": 16, "clip_heads": 2, "frame_heads": 4}
WIDE, SQUARE = 8 * (1 + 3 * 7), 8 * (1 + 6 * 7)


@pytest.fixture(autouse=True)
def parts():
    with made_up_parts():
        yield


@pytest.fixture
def processor() -> VideoLMProcessor:
    """Videos of any aspect ratio, through a connector that halves the number of tokens."""
    text = AutoConfig.for_model("llama", vocab_size=512, hidden_size=32, num_hidden_layers=1, num_attention_heads=2)
    config = SYSTEMS["video_panda"].architecture.build_config(text, {"video": SIZES}, {})
    connector = config.streams["video"]["connector"]
    config.connectors = {**config.connectors, connector: {"type": "adjacent", "input_size": 16, "output_size": 32}}
    made = build_processor(config, tiny_tokenizer(legacy=False))
    made.media_info = lambda path: MediaInfo(
        "video", 80 if "wide" in path else 40, 40, ClipTimes.evenly(100, 10), False, 0
    )
    return made


def test_the_connector_decides_how_many_tokens_an_item_becomes(processor, tmp_path: Path) -> None:
    processor.save_pretrained(tmp_path)
    for made in (processor, VideoLMProcessor.from_pretrained(tmp_path)):
        made.media_info = processor.media_info
        assert isinstance(made.streams["video"].num_tokens, Measure)
        for path, rows in (("/wide.mp4", WIDE), ("/square.mp4", SQUARE)):
            assert made.reader.measure(MediaRef("video", path)).tokens == rows // 2
            example = made.question_example("What?", [MediaRef("video", path)], "v1")
            [slot] = example.media
            assert slot.num_tokens == slot.measured.tokens == rows // 2
            assert slot.measured.cost == rows / SQUARE


def test_stored_features_go_through_the_connector_too(processor, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((11, 16), np.float32))
    np.save(tmp_path / "b.npy", np.zeros((2, 11, 16), np.float32))
    assert processor.reader.measure(MediaRef("video", str(tmp_path / "a.npy"))).tokens == 5
    with pytest.raises(SampleProblem, match="its features have 3 dimensions where the tower gives 2"):
        processor.reader.measure(MediaRef("video", str(tmp_path / "b.npy")))


def test_a_measure_tells_grid_and_cost() -> None:
    rows = Measure(tower={"type": "rows"}, connector={"type": "mlp", "input_size": 4, "output_size": 8})
    assert rows((9, 3)) == Measured(9, (1, 1, 9), 1.5)
    assert rows.of_features((9, 4)) == Measured(9, None, 0.0)
    with pytest.raises(ValueError, match="its features have 3 dimensions where the tower gives 2"):
        rows.of_features((2, 9, 4))
    settings = StreamSettings(preprocessing=ImagePreprocessing(), placeholder_id=9, num_tokens=rows)
    again = StreamSettings.model_validate_json(settings.model_dump_json())
    assert again == settings and again.measure((2, 3)) == Measured(2, (1, 1, 2), 2 / 6)
    other = Measure(tower={"type": "rows"}, connector={"type": "adjacent"})
    assert other((9, 3)).grid is None


def test_the_cost_of_items_enters_the_table_and_the_cost_of_packs(processor, tmp_path: Path) -> None:
    turns = [{"from": "human", "value": "<video>\nWhat?"}, {"from": "gpt", "value": "A cat."}]
    samples = [{"video": f"{name}.mp4", "conversations": turns} for name in ("wide", "square")]
    (tmp_path / "media").mkdir()
    path = write_annotations(tmp_path / "some.json", samples)
    table = AnnotationTable.open([Source(path, tmp_path / "media")], tmp_path / "cache")
    lengths = open_lengths(table, ExampleMaker(processor, "v1", None, None), tmp_path / "cache")
    assert lengths.costs["video"].tolist() == [round(COST_UNIT * WIDE / SQUARE), COST_UNIT]
    assert lengths.items["video"].tolist() == [1, 1]
    model = CostModel(items={"video": 1000.0})
    extra = model.of(lengths, np.arange(2)) - CostModel().of(lengths, np.arange(2))
    assert extra.tolist() == lengths.costs["video"].tolist()
    assert lengths.select(np.array([1])).costs["video"].tolist() == [COST_UNIT]


def test_a_tower_that_tells_its_hidden_states_costs_by_them() -> None:
    text = AutoConfig.for_model("llama", vocab_size=512, hidden_size=32, num_hidden_layers=1, num_attention_heads=2)
    clip = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    with pytest.raises(ValueError, match=r"1 layers up to .* set connectors.region.num_levels to 2 or fewer"):
        SYSTEMS["artemis"].architecture.build_config(text, {"clip": clip}, {"region": {"num_levels": 3}})
    config = SYSTEMS["artemis"].architecture.build_config(
        text, {"clip": {**clip, "image_size": 28, "patch_size": 7, "pooled_frames": 6}}, {"region": {"num_levels": 2}}
    )
    made = build_processor(config, tiny_tokenizer(legacy=False))
    made.media_info = lambda path: MediaInfo("video", 40, 40, ClipTimes.evenly(4, 10), False, 0)
    media = [MediaRef(stream, "/v.mp4") for stream in ("video", "box", "track")]
    example = made.question_example("What is <box> doing?", media, "llava_v1")
    costs = ExampleMaker(made, "v1", None, None).costs(example).items()
    assert {stream: cost / COST_UNIT for stream, cost in costs} == {"video": 4, "image": 0, "box": 1, "track": 8}


def test_clips_of_any_number_of_frames_may_have_another_largest_number() -> None:
    tower = {"type": "umt", "hidden_size": 16, "num_attention_heads": 2, "image_size": 16, "patch_size": 8}
    connector = {
        "type": "token_merging",
        "input_size": 16,
        "output_size": 8,
        "group_tokens": 16,
        "tokens": 4,
        "heads": 2,
    }
    steps = VideoPreprocessing(size=16, num_frames=16, multiple_of=4, sampling="per_second_middles")
    settings = StreamSettings(
        preprocessing=steps, placeholder_id=9, num_tokens=Measure(tower=tower, connector=connector)
    )
    changed = {640: {"num_frames": 640, "multiple_of": 8}, 510: {"num_frames": 510}, 2: {"multiple_of": 2}}
    found = {number: settings.misfit(steps.model_copy(update=change)) for number, change in changed.items()}
    assert found[640] is None
    assert "510 frames do not divide into clips of 4; give 508 or 512 frames" in found[510]
    assert "2 frames do not divide into clips of 4; give 4 frames" in found[2]
    assert "(3, 4, 24, 24)" in settings.misfit(steps.model_copy(update={"size": 24}))
    begun = time.process_time()
    for change in ({"multiple_of": 4}, {"multiple_of": 1}, {"min_frames": 6}):
        many = steps.model_copy(update={"num_frames": 1_000_000, **change})
        assert (settings.misfit(many) is None) == (change == {"multiple_of": 4})
        assert settings.model_copy(update={"preprocessing": many}).misfit(steps) is None
    assert time.process_time() - begun < 1.0  # it took minutes when every shape was counted
    info = MediaInfo("video", 16, 16, ClipTimes.evenly(160, 10), False, 0)
    reader = MediaReader({"video": settings}, {}, (), lambda path: info)
    clip = (MediaRef("video", "/v.mp4"), reader.measure(MediaRef("video", "/v.mp4")))
    assert clip[1].tokens == 16
    found = [reader.frames_that_fit(media, room) for media, room in (([clip], 13), ([clip] * 2, 13), ([clip], 3))]
    assert found == [12, 4, None]
    with pytest.raises(SampleProblem, match="is a picture but stands in the stream 'video'"):
        media_facts(clip[0], settings, lambda path: replace(info, kind="image"))


def test_seconds_that_are_no_part_of_a_file_are_its_problem(processor) -> None:
    with pytest.raises(SampleProblem, match=r"/v\.mp4: start is -1 seconds; give 0 or more"):
        processor.question_example("What?", (MediaRef("video", "/v.mp4", start=-1.0),), "v1")
