"""Answers of a system that writes texts around its media and the question before them: shared = alone."""

from dataclasses import replace

import pytest
from qa_sets import write_video
from tiny_language_models import byte_tokenizer, sharpen
from tiny_models import tiny_model

from vidtune.checkpoints.fit_processor import build_processor
from vidtune.data.sample import MediaRef
from vidtune.generation.conversation import Conversation
from vidtune.generation.engine import AnswerEngine
from vidtune.generation.settings import GenerationSettings, Request
from vidtune.processing.layout import Tokens
from vidtune.registry import SYSTEMS

NAME = "video_llava"
SETTINGS = GenerationSettings(max_new_tokens=6)
QUESTIONS = ("What is it?", "Who?", "Where is the dog?")


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> MediaRef:
    path = tmp_path_factory.mktemp("clips") / "red.mp4"
    write_video(path, (200, 20, 20))
    return MediaRef("video", str(path))


@pytest.fixture
def parts(monkeypatch):
    """A model and its processor; questions stand before media, and times before the frames."""
    system = SYSTEMS[NAME]
    prompts = {name: replace(prompt, question="{question}\n{media}") for name, prompt in system.dialect.prompts.items()}
    layouts = {"video": ("({duration:.1f}s) ", Tokens(before="{second:.2f}: ", frames=1), " end")}
    dialect = replace(system.dialect, prompts=prompts, layouts=layouts)
    monkeypatch.setitem(SYSTEMS.loaded, NAME, replace(system, dialect=dialect))
    model = tiny_model()
    sharpen(model)
    return model, build_processor(model.config, byte_tokenizer())


def answers(parts, requests, **options):
    with AnswerEngine(*parts, SETTINGS, prompt="llava_v1", workers=0, **options) as engine:
        return list(engine.answer(requests)), engine.stats


def test_shared_and_single_answers_are_equal_and_media_are_encoded_once(parts, clip) -> None:
    requests = [Request(f"q{k}", (clip,), question) for k, question in enumerate(QUESTIONS)]
    shared, stats = answers(parts, requests)
    alone, _ = answers(parts, requests, share_prefix=False)
    assert [answer.token_ids for answer in shared] == [answer.token_ids for answer in alone]
    assert not any(answer.error for answer in shared)
    assert (stats.encodings, stats.prefills) == (1, 1)
    tagged, _ = answers(parts, [replace(request, question=f"{request.question}\n<video>") for request in requests])
    assert [answer.token_ids for answer in tagged] == [answer.token_ids for answer in shared]


def test_a_conversation_puts_its_questions_before_its_media(parts, clip) -> None:
    with AnswerEngine(*parts, SETTINGS, prompt="llava_v1", workers=0) as engine:
        talk = Conversation(engine)
        first = talk.ask("Who?", [clip])
        assert talk.turns[0].text == "Who?\n<video>"
    [[alone], _] = answers(parts, [Request("conversation-0", (clip,), "Who?")])
    assert first.token_ids == alone.token_ids


def test_the_prompt_holds_what_the_layout_says(parts, clip) -> None:
    _, processor = parts
    example = processor.question_example("Who?", [clip], "llava_v1")
    text = processor.decode(example.input_ids)
    assert "USER: Who?\n(" in text and "s) 0.00: " in text and text.endswith(" end ASSISTANT:")


def test_an_answer_ends_with_the_end_token_of_the_tokenizer(clip, monkeypatch) -> None:
    tokenizer = byte_tokenizer()
    tokenizer.add_special_tokens({"eos_token": "<|end|>"})
    model = tiny_model()
    model.generation_config.eos_token_id = None
    processor = build_processor(model.config, tokenizer)
    with AnswerEngine(model, processor, SETTINGS, prompt="llava_v1", workers=0) as engine:
        monkeypatch.setattr(
            engine._chooser, "choose", lambda logits, generators: [tokenizer.eos_token_id] * len(logits)
        )
        [answer] = engine.answer([Request("q", (), "Who?")])
    assert (answer.text, answer.finish_reason) == ("", "eos")
