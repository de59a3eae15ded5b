"""Layouts: texts and tokens in the place of a tag equal the same texts written by hand."""

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from tiny_stage import maker

from vidtune.data.problems import SampleProblem
from vidtune.data.sample import MediaRef, Sample, Turn
from vidtune.errors import UserError
from vidtune.media.clip_times import ClipTimes
from vidtune.media.probe import MediaInfo
from vidtune.processing.batch import IGNORED
from vidtune.processing.layout import Layout, Tokens, media_facts
from vidtune.processing.processor import VideoLMProcessor
from vidtune.processing.tokenizing import Placeholder
from vidtune.registry import SYSTEMS

SYSTEM = SYSTEMS[SYSTEMS.names()[0]]
PROMPT = SYSTEM.dialect.training_prompt
FRAMES = 4
CLIP = MediaRef("video", "/clip.mp4")
INFO = MediaInfo("video", 8, 8, ClipTimes.evenly(9, 2), False, 0)  # frames 0, 2, 5, 8 are taken
Made = Callable[..., VideoLMProcessor]


@pytest.fixture
def laid_out(processor: VideoLMProcessor, monkeypatch: pytest.MonkeyPatch) -> Made:
    """Makes a processor whose system has layouts."""

    def make(companions: tuple[str, ...] = (), info: MediaInfo | None = INFO, **layouts: Layout) -> VideoLMProcessor:
        dialect = replace(SYSTEM.dialect, layouts=layouts, companions={"video": companions} if companions else {})
        monkeypatch.setitem(SYSTEMS.loaded, SYSTEM.name, replace(SYSTEM, dialect=dialect))
        made = VideoLMProcessor(processor.tokenizer, SYSTEM.name, processor.streams)
        if info is not None:
            made.media_info = lambda path: info
        return made

    return make


def sample(question: str = "<video>\nA dog?", answer: str = "Yes.", ref: MediaRef = CLIP) -> Sample:
    return Sample("train:7", (Turn("user", question), Turn("assistant", answer)), (ref,))


def by_hand(processor: VideoLMProcessor, *parts: str | tuple[int, int]) -> list[int]:
    """Ids of texts and of runs of placeholders, as (id, how many), in a prompt."""
    prompt = processor.prompt_format(PROMPT)
    whole = [prompt.system + prompt.after_system + prompt.user.before, *parts, "\nA dog? ASSISTANT: Yes.</s>"]
    runs: list[str | tuple[int, int]] = []
    for part in whole:
        if isinstance(part, str) and runs and isinstance(runs[-1], str):
            runs[-1] += part
        else:
            runs.append(part)
    ids = [processor.tokenizer.bos_token_id]
    for run in runs:
        ids += processor.chunk_tokenizer(run).ids if isinstance(run, str) else [run[0]] * run[1]
    return ids


def test_brackets_are_those_written_by_hand(processor: VideoLMProcessor, laid_out: Made) -> None:
    expected = processor.example(sample("[[<video>]]\nA dog?"), PROMPT)
    found = laid_out(video=("[[", Tokens(), "]]")).example(sample(), PROMPT)
    assert (found.input_ids == expected.input_ids).all()
    assert (found.labels == expected.labels).all()
    assert found.media == expected.media


def test_the_seconds_of_frames_are_their_own_where_the_frame_rate_is_uneven(laid_out: Made) -> None:
    starts = np.array([0, 1000, 2000, 2100, 2200, 2300, 2400, 2500, 9000])
    info = replace(INFO, times=ClipTimes.of_ticks(starts, 10_000, Fraction(1, 1000)))
    made = laid_out(info=info, video=(Tokens(before="{second:.1f} ", frames=1), "{duration:.1f}: {times:.2f}"))
    facts = media_facts(MediaRef("video", "/clip.mp4"), made.streams["video"], made.media_info)
    assert facts == {"duration": 10.0, "frames": 4, "times": (0.0, 2.0, 2.3, 9.0)}
    text = made.tokenizer.decode([i for i in made.example(sample(), PROMPT).input_ids if i < len(made.tokenizer)])
    assert "10.0: 0.00, 2.00, 2.30, 9.00" in text


def test_a_sentence_is_filled_from_the_file(laid_out: Made) -> None:
    sentence = " It lasts {duration:.2f} seconds, {frames} frames at {times:.1f} seconds."
    made = laid_out(video=(Tokens(), sentence))
    video = made.placeholder_ids["video"]
    written = " It lasts 4.50 seconds, 4 frames at 0.0, 1.0, 2.5, 4.0 seconds."
    assert made.example(sample(), PROMPT).input_ids.tolist() == by_hand(made, (video, 5 * FRAMES), written)


def test_text_stands_between_frames(laid_out: Made) -> None:
    made = laid_out(video=(Tokens(before="{number} at {second:.1f}: ", after=".", frames=1),))
    video = made.placeholder_ids["video"]
    frames = [(f"{k + 1} at {t}: ", (video, 5), ".") for k, t in enumerate(("0.0", "1.0", "2.5", "4.0"))]
    found = made.example(sample(), PROMPT)
    assert found.input_ids.tolist() == by_hand(made, *(part for frame in frames for part in frame))
    assert [slot.num_tokens for slot in found.media] == [5 * FRAMES]
    pairs = laid_out(video=(Tokens(before="{second:.0f}: ", frames=2),)).example(sample(), PROMPT)
    assert pairs.input_ids.tolist() == by_hand(made, "0: ", (video, 10), "2: ", (video, 10))


def test_text_of_a_layout_is_not_supervised(laid_out: Made) -> None:
    made = laid_out(video=("Z", Tokens(), "Z"))
    found = made.example(sample("A dog?", "Yes<video>no."), PROMPT)
    labelled = made.tokenizer.convert_ids_to_tokens(found.labels[found.labels != IGNORED].tolist())
    assert labelled == ["▁", "Y", "e", "s", "n", "o", ".", "</s>"]
    assert made.tokenizer.convert_ids_to_tokens(found.input_ids.tolist()).count("Z") == 2


def test_companions_follow_as_the_layout_says_and_texts_of_absent_ones_are_not_written(
    processor: VideoLMProcessor, laid_out: Made, tmp_path: Path
) -> None:
    plain = processor.without(["image", "video"]).example(sample(), PROMPT)
    np.save(tmp_path / "sound.npy", np.zeros((4, 6), np.float16))
    with_sound = MediaRef("video", "/clip.mp4", (("image", str(tmp_path / "sound.npy")),))
    made = laid_out(("image",), video=("(", Tokens(after=")"), Tokens("image", "[", "]")))
    video, image = made.placeholder_ids["video"], made.placeholder_ids["image"]
    found = made.example(sample(ref=with_sound), PROMPT)
    assert found.input_ids.tolist() == by_hand(made, "(", (video, 20), ")[", (image, 4), "]")
    silent = made.without(["image"]).example(sample(ref=with_sound), PROMPT)
    assert silent.input_ids.tolist() == by_hand(made, "(", (video, 20), ")")
    nothing = made.without(["image", "video"]).example(sample(ref=with_sound), PROMPT)
    assert (nothing.input_ids == plain.input_ids).all()


def test_before_expansion_a_divided_item_counts_as_a_whole_one() -> None:
    def counts(*layout: str | tuple[int, int]) -> list[list[int]]:
        runs = Placeholder("video", ((9, 12), (8, 3)), 4, layout).runs()
        columns = [np.array(run[1:]) for run in runs if not isinstance(run, str)]
        return np.concatenate(columns, axis=1).tolist()

    whole = [[0, 0, 0, 0, 1], [3, 3, 3, 3, 3], [1, 1, 1, 1, 0]]
    assert counts((0, 12), (1, 3)) == whole == counts()
    assert counts((0, 6), "x", (0, 6), "y", (1, 3)) == whole
    thirds = counts((0, 4), "x", (0, 4), (0, 4), (1, 3))
    assert thirds == [[0] * 6 + [1], [3, 1, 2, 2, 1, 3, 3], [1, 1, 0, 1, 0, 1, 0]]


def test_a_cut_inside_a_divided_item_keeps_its_first_tokens(laid_out: Made) -> None:
    made = laid_out(video=(Tokens(before="t: ", frames=1),))
    whole = made.example(sample(), PROMPT)
    begin = whole.input_ids.tolist().index(made.placeholder_ids["video"])
    cut = made.example(sample(), PROMPT, max_expanded_length=begin + 8)
    assert (cut.input_ids == whole.input_ids[: begin + 8]).all()
    assert cut.media[0].num_tokens == int((cut.input_ids == made.placeholder_ids["video"]).sum())


def test_lengths_depend_on_layouts(laid_out: Made) -> None:
    plain = laid_out()
    keys = [maker(plain).key()]
    assert not plain.looks_at_media
    for layout, looks in ((("[", Tokens()), False), ((Tokens(), "{duration:.0f}"), True), ((Tokens(frames=2),), True)):
        made = laid_out(video=layout)
        assert made.looks_at_media is looks
        keys.append(maker(made).key())
    assert len(set(keys)) == 4


@pytest.mark.parametrize(
    ("layouts", "message"),
    [
        ({"vido": (Tokens(),)}, "no stream 'vido'; .*'video'"),
        ({"video": (Tokens(), Tokens("imag"))}, "no stream 'imag'; .*'image'"),
        ({"video": ("text",)}, "holds the tokens of nothing; it must hold those of video"),
        ({"video": (Tokens(), Tokens())}, "holds the tokens of video, video"),
        ({"video": (Tokens(), "{length}")}, r"'\{length\}': no field \{length\}; known: duration, frames, times"),
        ({"video": (Tokens(before="{second}"),)}, r"no field \{second\}"),
        ({"video": (Tokens(), "{duration:d}")}, "cannot be filled in"),
        ({"video": (Tokens(), "{duration")}, "cannot be filled in"),
        ({"video": (Tokens(), "<image>")}, "contains the tag <image>"),
        ({"image": (Tokens(), "{frames}")}, "its preprocessing 'image' takes none"),
    ],
)
def test_a_layout_that_cannot_be_written_is_refused_when_the_system_is_loaded(
    laid_out: Made, layouts: dict[str, Layout], message: str
) -> None:
    with pytest.raises(UserError, match=f"system {SYSTEM.name}: layout of .*{message}") as caught:
        laid_out(**layouts)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("layout", "info", "ref", "message"),
    [
        ((Tokens(frames=3),), INFO, CLIP, "4 frames of video cannot be divided into groups of 3 frames"),
        ((Tokens(frames=1),), replace(INFO, times=ClipTimes.unknown(0)), CLIP, "tells the frames"),
        ((Tokens(), "{times}"), replace(INFO, times=ClipTimes.unknown(9)), CLIP, "tells the times"),
        ((Tokens(), "{duration}"), replace(INFO, times=ClipTimes.unknown(9)), CLIP, "tells the duration"),
    ],
)
def test_a_file_that_does_not_fit_a_layout_is_named_with_its_sample(
    laid_out: Made, layout: Layout, info: MediaInfo, ref: MediaRef, message: str
) -> None:
    with pytest.raises(SampleProblem, match=f"sample train:7: .*{message}"):
        laid_out(info=info, video=layout).example(sample(ref=ref), PROMPT)


def test_frames_that_do_not_divide_the_tokens_are_named(laid_out: Made) -> None:
    made = laid_out(video=(Tokens(frames=1),))
    made.streams["video"] = made.streams["video"].model_copy(update={"num_tokens": 21})
    with pytest.raises(SampleProblem, match=r"train:7: .*21 tokens of video do not divide evenly among 4 groups"):
        made.example(sample(), PROMPT)


def test_decoded_pixels_have_no_metadata(laid_out: Made) -> None:
    made = laid_out(video=(Tokens(), "{duration:.1f}"))
    with pytest.raises(SampleProblem, match="tells the duration"):
        made("<video>A?", videos=[np.zeros((FRAMES, 8, 8, 3), np.uint8)])
