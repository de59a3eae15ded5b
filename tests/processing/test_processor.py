from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_tokenizers import tiny_tokenizer

from vidtune.data.problems import SampleProblem
from vidtune.data.sample import MediaRef, Sample, Turn
from vidtune.errors import UserError
from vidtune.processing.batch import IGNORED
from vidtune.processing.processor import VideoLMProcessor
from vidtune.registry import SYSTEMS

SYSTEM = SYSTEMS[SYSTEMS.names()[0]]
FRAMES = 4
TRAINING, ANSWERING = SYSTEM.dialect.training_prompt, SYSTEM.dialect.answering_prompt
CLIP, PICTURE = MediaRef("video", "/data/clip.mp4"), MediaRef("image", "/data/picture.png")


def sample(question: str, answer: str, *media: MediaRef) -> Sample:
    return Sample("train:7", (Turn("user", question), Turn("assistant", answer)), media)


def test_an_example_needs_no_media_file(processor: VideoLMProcessor) -> None:
    example = processor.example(sample("<video><image>\nA dog?", "Yes.", CLIP, PICTURE), TRAINING)
    assert [slot.ref for slot in example.media] == [CLIP, PICTURE]
    assert [slot.num_tokens for slot in example.media] == [5 * FRAMES, 4]
    for slot in example.media:
        assert np.sum(example.input_ids == processor.placeholder_ids[slot.stream]) == slot.num_tokens
    assert example.num_supervised == len(processor.chunk_tokenizer(" Yes.</s>").ids) - 1  # without the dummy prefix


def test_media_cut_off_whole_are_dropped(processor: VideoLMProcessor) -> None:
    pair = sample("<video><image>\nA dog?", "Yes.", CLIP, PICTURE)
    whole = processor.example(pair, TRAINING)
    start = whole.input_ids.tolist().index(processor.placeholder_ids["video"])
    cut = processor.example(pair, TRAINING, max_expanded_length=start + 7)
    assert [(slot.ref, slot.num_tokens) for slot in cut.media] == [(CLIP, 7)]
    assert cut.masked == "answers cut off by the length limit"
    assert len(cut) == start + 7


def test_every_media_item_has_its_own_seed(processor: VideoLMProcessor) -> None:
    pair = sample("<video><image>\nA dog?", "Yes.", CLIP, PICTURE)
    assert [slot.seed for slot in processor.example(pair, TRAINING).media] == [None, None]
    assert len({slot.seed for slot in processor.example(pair, TRAINING, seed=5).media}) == 2


@pytest.mark.parametrize(
    ("bad", "prompt", "message"),
    [
        (sample("<image> A?", "B"), TRAINING, "1 <image> in the text but 0 image items"),
        (sample("<image>" * 3, "B", *[PICTURE] * 3), TRAINING, "3 image files where 2 are allowed"),
        (sample("<video>", "B", CLIP), "plain", "takes image, not video"),
        (sample("A", "B", MediaRef("audio", "/a.wav")), TRAINING, "takes no audio"),
    ],
)
def test_a_bad_sample_is_named(processor: VideoLMProcessor, bad: Sample, prompt: str, message: str) -> None:
    with pytest.raises(SampleProblem, match=f"sample train:7: .*{message}"):
        processor.example(bad, prompt)


def test_an_unknown_prompt_format_lists_the_known_ones(processor: VideoLMProcessor) -> None:
    with pytest.raises(UserError, match=TRAINING):
        processor.example(sample("A?", "B"), "nonsense")


def test_tags_are_put_before_a_question_that_has_none(processor: VideoLMProcessor) -> None:
    placed = processor.question_example("<video><image>\nA dog?", [CLIP, PICTURE], ANSWERING)
    default = processor.question_example("A dog?", [CLIP, PICTURE], ANSWERING)
    assert (placed.input_ids == default.input_ids).all()
    assert (default.labels == IGNORED).all()


def test_tags_are_put_into_the_first_turn_of_a_longer_conversation(processor: VideoLMProcessor) -> None:
    history = [Turn("user", "A dog?"), Turn("assistant", "Yes.")]
    placed = [Turn("user", "<video>\nA dog?"), Turn("assistant", "Yes.")]
    first = processor.question_example("Where?", [CLIP], ANSWERING, history)
    second = processor.question_example("Where?", [CLIP], ANSWERING, placed)
    assert (first.input_ids == second.input_ids).all()


def test_questions_about_the_same_media_share_the_part_up_to_it(processor: VideoLMProcessor) -> None:
    questions = ["A dog?", " Where is it?", "", "\nWho</s>?"]
    examples = [processor.question_example(question, [CLIP, PICTURE], ANSWERING) for question in questions]
    parts = [processor.split_at_media(example) for example in examples]
    for example, (prefix, rest) in zip(examples, parts, strict=True):
        assert (prefix == parts[0][0]).all()
        assert prefix[-1] == processor.placeholder_ids["image"]
        assert (np.concatenate([prefix, rest]) == example.input_ids).all()


def test_without_media_there_is_no_shared_part(processor: VideoLMProcessor) -> None:
    example = processor.question_example("A dog?", [], ANSWERING)
    prefix, rest = processor.split_at_media(example)
    assert len(prefix) == 0
    assert (rest == example.input_ids).all()


@pytest.mark.parametrize("legacy", [True, False])
def test_saving_and_loading_gives_the_same_examples(processor: VideoLMProcessor, tmp_path: Path, legacy: bool) -> None:
    saved = VideoLMProcessor(tiny_tokenizer(legacy), processor.system, processor.streams)
    saved = saved.with_preprocessing({"image": {"pad_to_square": True}})
    saved.save_pretrained(tmp_path)
    loaded = VideoLMProcessor.from_pretrained(tmp_path)
    assert loaded.to_dict() == saved.to_dict()
    pair = Sample("a", (Turn("user", "<video>A?"), Turn("assistant", "B."), Turn("user", "C?"), Turn("assistant", "D")))
    pair = Sample(pair.id, pair.turns, (CLIP,))
    assert (loaded.example(pair, TRAINING).labels == saved.example(pair, TRAINING).labels).all()
    assert (loaded.example(pair, TRAINING).input_ids == saved.example(pair, TRAINING).input_ids).all()


@pytest.mark.parametrize("legacy", [True, False])
def test_the_tokenizer_flavour_is_saved_even_if_the_tokenizer_forgets_it(
    processor: VideoLMProcessor, tmp_path: Path, legacy: bool
) -> None:
    tokenizer = tiny_tokenizer(not legacy)
    del tokenizer.init_kwargs["legacy"]
    VideoLMProcessor(tokenizer, processor.system, processor.streams, legacy).save_pretrained(tmp_path)
    assert VideoLMProcessor.from_pretrained(tmp_path).chunk_tokenizer.legacy is legacy


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"sound": {}}, "media.sound"),
        ({"image": {"sise": 3}}, "media.image.*sise"),
        ({"image": {"size": 56}}, "the model takes"),
        ({"video": {"sampling": "per_second"}}, "the model takes"),
    ],
)
def test_preprocessing_that_does_not_fit_is_refused(
    processor: VideoLMProcessor, overrides: dict[str, dict[str, object]], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        processor.with_preprocessing(overrides)


def test_calling_it_gives_left_padded_model_inputs(processor: VideoLMProcessor) -> None:
    pictures = [np.full((30, 40, 3), value, np.uint8) for value in (0, 255)]
    clip = np.zeros((FRAMES, 30, 40, 3), np.uint8)
    inputs = processor(["<image>A?", "<video><image>A long question?"], images=pictures, videos=[clip])
    assert inputs["input_ids"].shape == inputs["attention_mask"].shape
    assert inputs["attention_mask"][:, -1].tolist() == [1, 1]
    assert inputs["attention_mask"][0, 0] == 0
    assert [item.values.shape for item in inputs["media"]["image"]] == [(3, 28, 28)] * 2
    assert [item.values.shape for item in inputs["media"]["video"]] == [(3, FRAMES, 28, 28)]
    assert int(torch.sum(inputs["input_ids"] == processor.placeholder_ids["image"])) == 8


def test_model_inputs_are_normalised_whatever_form_the_pixels_travel_in(processor: VideoLMProcessor) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (28, 40, 3), dtype=np.uint8)
    clip = np.stack([picture] * FRAMES)
    grey = processor.with_preprocessing({"image": {"pixels": "uint8"}, "video": {"pixels": "uint8"}})
    expected = processor("<image><video>Same?", images=[picture], videos=[clip])["media"]
    found = grey("<image><video>Same?", images=[picture], videos=[clip])["media"]
    assert all(torch.equal(found[stream][0].values, expected[stream][0].values) for stream in ("image", "video"))


def test_decoding_leaves_placeholders_out(processor: VideoLMProcessor) -> None:
    example = processor.question_example("A dog?", [CLIP], ANSWERING)
    assert processor.decode(example.input_ids).endswith("A dog? ASSISTANT:")
