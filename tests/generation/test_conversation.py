"""A conversation asks with all earlier turns: its answers equal those to one request with the same turns."""

import numpy as np
import pytest
from PIL import Image
from tiny_language_models import byte_tokenizer, sharpen
from tiny_models import tiny_model

from vidtune.checkpoints.fit_processor import build_processor
from vidtune.data.sample import MediaRef, Turn
from vidtune.errors import UserError
from vidtune.generation.conversation import Conversation
from vidtune.generation.engine import AnswerEngine
from vidtune.generation.settings import GenerationSettings, Request


@pytest.fixture(scope="module")
def parts():
    model = tiny_model()
    sharpen(model)
    return model, build_processor(model.config, byte_tokenizer())


@pytest.fixture
def engine(parts):
    settings = GenerationSettings(max_new_tokens=6, do_sample=True, temperature=1.3)
    with AnswerEngine(*parts, settings, prompt="llava_v1", workers=0) as engine:
        yield engine


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(folder / f"{name}.png")
    return [MediaRef("image", str(folder / f"{name}.png")) for name in ("a", "b")]


def test_answers_equal_one_request_with_the_same_turns(engine, pictures):
    a, b = pictures
    conversation = Conversation(engine, "talk")
    first = conversation.ask("What is it?", [a])
    second = conversation.ask("And this?", [b])
    third = conversation.ask("Sure?")
    history = (
        Turn("user", "<image>\nWhat is it?"),
        Turn("assistant", first.text),
        Turn("user", "<image>\nAnd this?"),
        Turn("assistant", second.text),
    )
    assert conversation.turns == (*history, Turn("user", "Sure?"), Turn("assistant", third.text))
    assert list(engine.answer([Request("talk-2", (a, b), "Sure?", history)])) == [third]
    assert list(engine.answer([Request("talk-0", (a,), "What is it?")])) == [first]
    assert len({first.text, second.text, third.text}) == 3


def test_streamed_answers_continue_the_conversation(engine, pictures):
    asked, streamed = Conversation(engine), Conversation(engine)
    for question, media in (("What is it?", pictures[:1]), ("Is <image> the same?", pictures[1:]), ("Sure?", ())):
        pieces = list(streamed.stream(question, media))
        assert "".join(pieces) == asked.ask(question, media).text
    assert streamed.turns == asked.turns and streamed.media == asked.media == tuple(pictures)


def test_a_question_without_an_answer_leaves_the_conversation_as_it_was(engine, pictures):
    conversation = Conversation(engine)
    conversation.ask("What is it?", pictures[:1])
    before = conversation.turns, conversation.media
    for ask in (conversation.ask, lambda *asked: list(conversation.stream(*asked))):
        with pytest.raises(UserError, match="empty"):
            ask(" ", pictures[1:])
        with pytest.raises(UserError, match="nowhere"):
            ask("And this?", [MediaRef("image", "/nowhere.png")])
    assert (conversation.turns, conversation.media) == before
