"""A pretrained chat model inside our model answers as it does in transformers, alone and over a shared prefix."""

from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from vidtune.checkpoints.build import build_model
from vidtune.data.sample import MediaRef, Sample, Turn
from vidtune.generation.engine import AnswerEngine
from vidtune.generation.settings import Answer, EngineStats, GenerationSettings, Request
from vidtune.models.video_lm import VideoLM
from vidtune.processing.processor import VideoLMProcessor
from vidtune.recipe.types import Recipe

CAPITAL = "What is the capital of France?"
HISTORY = (Turn("user", "I have a cat named Tom."), Turn("assistant", "That is a nice name for a cat."))
TEXT_REQUESTS = [
    Request("capital", (), CAPITAL),
    Request("list", (), "Name three colours.\n\nWrite one per line."),
    Request("history", (), "What is the name of my cat?", HISTORY),
]
NEW_TOKENS = 20

Parts = tuple[VideoLM, VideoLMProcessor]


def answers(parts: Parts, requests: list[Request], **options: bool) -> tuple[list[Answer], EngineStats]:
    settings = GenerationSettings(max_new_tokens=NEW_TOKENS)
    with AnswerEngine(*parts, settings, prompt="chatml", workers=0, **options) as engine:
        found = {answer.id: answer for answer in engine.answer(requests)}
        return [found[request.id] for request in requests], engine.stats


def messages(request: Request) -> list[dict[str, str]]:
    turns = [*request.history, Turn("user", request.question)]
    return [{"role": turn.role, "content": turn.text} for turn in turns]


def clip_requests(media: Path) -> list[Request]:
    clip = MediaRef("video", str(media / "red.mp4"))
    questions = ("What moves?", CAPITAL, "Describe the video in one short sentence.")
    return [Request(question, (clip,), question) for question in questions]


def test_prompts_are_those_of_the_chat_template(parts: Parts, tokenizer: PreTrainedTokenizerBase) -> None:
    for request in TEXT_REQUESTS:
        example = parts[1].question_example(request.question, (), "chatml", request.history)
        expected = tokenizer.apply_chat_template(messages(request), add_generation_prompt=True, return_dict=False)
        assert example.input_ids.tolist() == expected


def test_labels_are_the_answers_and_the_end_of_the_turn(parts: Parts, media: Path) -> None:
    turns = (Turn("user", "<video>\nWhat moves?"), Turn("assistant", "A box."), Turn("user", "How?"))
    sample = Sample("s", (*turns, Turn("assistant", "Fast.")), (MediaRef("video", str(media / "red.mp4")),))
    labels = parts[1].example(sample, "chatml").labels
    assert parts[1].tokenizer.decode(labels[labels >= 0]) == "A box.<|im_end|>Fast.<|im_end|>"


@pytest.mark.parametrize("share_prefix", [True, False])
def test_greedy_answers_are_those_of_transformers(
    parts: Parts, plain: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, share_prefix: bool
) -> None:
    found, _ = answers(parts, TEXT_REQUESTS, share_prefix=share_prefix)
    for request, answer in zip(TEXT_REQUESTS, found, strict=True):
        prompt = tokenizer.apply_chat_template(messages(request), add_generation_prompt=True, return_tensors="pt")
        ids = plain.generate(**prompt, max_new_tokens=NEW_TOKENS, do_sample=False)[0]
        assert list(answer.token_ids) == ids[prompt["input_ids"].shape[1] :].tolist()
        assert answer.text == tokenizer.decode(answer.token_ids, skip_special_tokens=True).strip()


def test_a_plain_question_is_answered_sensibly(parts: Parts) -> None:
    [capital, _, name], _ = answers(parts, TEXT_REQUESTS)
    assert capital.finish_reason == "eos" and "Paris" in capital.text
    assert "Tom" in name.text


def test_questions_over_one_clip_share_its_prefix_and_are_answered_as_alone(parts: Parts, media: Path) -> None:
    requests = clip_requests(media)
    shared, stats = answers(parts, requests)
    alone, _ = answers(parts, requests, share_prefix=False)
    assert shared == alone
    assert (stats.encodings, stats.prefills, stats.questions) == (1, 1, len(requests))
    assert len({answer.token_ids for answer in shared}) > 1


def test_bfloat16_answers_too(recipe: Recipe, parts: Parts, media: Path) -> None:
    model = build_model(recipe, torch.bfloat16)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    found, _ = answers((model, parts[1]), [TEXT_REQUESTS[0], *clip_requests(media)])
    assert "Paris" in found[0].text
    assert not any(answer.error for answer in found)


def test_a_saved_processor_writes_the_same_ids(parts: Parts, media: Path, tmp_path: Path) -> None:
    processor = parts[1]
    processor.save_pretrained(tmp_path)
    read = VideoLMProcessor.from_pretrained(tmp_path)
    for request in (*TEXT_REQUESTS, *clip_requests(media)):
        before, after = (
            made.question_example(request.question, request.media, "chatml", request.history).input_ids.tolist()
            for made in (processor, read)
        )
        assert before == after
