"""Where tags stand that a conversation does not hold, what is asked where nothing is, and targets without their tag."""

from dataclasses import replace
from zlib import crc32

import pytest
from tiny_tokenizers import tiny_tokenizer

from vidtune.data.problems import SampleProblem
from vidtune.data.sample import MediaRef, Sample, Turn
from vidtune.media.preprocessing.resize_to_square import VideoPreprocessing
from vidtune.processing.dialect import Dialect
from vidtune.processing.processor import VideoLMProcessor
from vidtune.processing.prompts.format import Placement
from vidtune.processing.prompts.known import with_roles
from vidtune.processing.prompts.placing import placed
from vidtune.processing.stream_settings import StreamSettings
from vidtune.registry import SYSTEMS

STREAMS = ("box", "track", "video")
FORMAT = with_roles(
    "p",
    "Be kind.",
    placements=(Placement("track", ("{question} Seen here: {tag}.", "{question} Then: {tag}.")),),
    questions=("What is <box>?", "Who is <box>?", "What happens?"),
)
BOX, TRACK, VIDEO = (MediaRef(stream, f"/{stream}.mp4") for stream in STREAMS)


def user(text: str, media: tuple[str, ...], id: str = "a", off: tuple[str, ...] = ()) -> str:
    return placed([Turn("user", text)], media, FORMAT, STREAMS, id, off)[0].text


def test_a_tag_stands_where_the_format_says_and_the_id_chooses_the_text() -> None:
    texts = {id: user("<video>\nIs <box> red {x}?", STREAMS[::-1], id) for id in "abcdefgh"}
    for id, text in texts.items():
        end = ("Seen here: <track>.", "Then: <track>.")[crc32(f"{id}:track".encode()) % 2]
        assert text == f"<video>\nIs <box> red {{x}}? {end}"
    assert len(set(texts.values())) == 2


def test_a_tag_that_is_there_stays_where_it_is() -> None:
    assert user("<track> Is <box> red?", ("track", "box")) == "<track> Is <box> red?"


def test_a_turn_without_words_gets_a_question_with_the_tags_that_lack() -> None:
    found = {user("<video>\n", ("video", "box"), id) for id in map(str, range(20))}
    assert found == {"<video>\nWhat is <box>?", "<video>\nWho is <box>?"}
    assert user("<video>", ("video",)) == "<video>What happens?"
    assert user("Red?", ("box",)) == "Red?"


def test_a_stream_that_is_switched_off_gets_no_text() -> None:
    assert user("Is <box> red?", ("box", "track"), off=("track",)) == "Is <box> red?<track>"


def test_a_tag_follows_the_medium_before_it_into_its_turn() -> None:
    turns = [Turn("user", "<video>\nHi"), Turn("assistant", "Hi."), Turn("user", "What is <box>?")]
    found = placed(turns, ("video", "box", "track"), FORMAT, STREAMS, "b")
    assert [turn.text for turn in found[:2]] == ["<video>\nHi", "Hi."]
    assert found[2].text.endswith("<track>.")


@pytest.fixture(scope="module")
def processor():
    tokenizer = tiny_tokenizer(legacy=True)
    model = SYSTEMS[SYSTEMS.names()[0]]
    dialect = Dialect({"p": FORMAT}, "p", "p", target=("box", "track"))
    SYSTEMS.register("with_targets", replace(model, name="with_targets", dialect=dialect))
    clips = VideoPreprocessing(size=28, num_frames=2)
    yield VideoLMProcessor(
        tokenizer,
        "with_targets",
        {
            stream: StreamSettings(preprocessing=clips, placeholder_id=len(tokenizer) + k, num_tokens=2 + k)
            for k, stream in enumerate(STREAMS)
        },
    )
    SYSTEMS.unregister("with_targets")


def test_a_question_about_a_target_gets_the_tags_of_its_video_and_track(processor: VideoLMProcessor) -> None:
    asked = processor.question_example("Is <box> red?", [VIDEO, BOX, TRACK], "p", id="a")
    sample = Sample("a", (Turn("user", "<video>\nIs <box> red?"), Turn("assistant", "")), (VIDEO, BOX, TRACK))
    trained = processor.example(sample, "p", supervise=False)
    assert [slot.stream for slot in asked.media] == ["video", "box", "track"]
    shared = min(len(asked), len(trained)) - 3
    assert asked.input_ids[:shared].tolist() == trained.input_ids[:shared].tolist()
    assert processor.with_tags([Turn("user", "Red?")], ["video"], "p")[0].text == "<video>\nRed?"


@pytest.mark.parametrize(
    ("question", "media", "message"),
    [
        ("Is it red?", [VIDEO, BOX, TRACK], "a: a box is given, but the text holds no <box>; write it where"),
        ("Is <box> red?", [VIDEO], "a: the text holds <box>, but no box is given; give one .target=, or --box., or"),
        (
            "Is <bbox> red?",
            [VIDEO, BOX, TRACK],
            "a: a box is given, but the text holds no <box>, only <bbox>; ",
        ),
    ],
)
def test_a_box_and_its_tag_need_each_other(processor: VideoLMProcessor, question, media, message) -> None:
    with pytest.raises(SampleProblem, match=message):
        processor.question_example(question, media, "p", id="a")
