"""Prompts, tokens and labels of our VideoChat-Flash against those of the official code."""

import re

import pytest
from videochat_flash_fixture import byte_tokenizer, read

from vidtune.data.sample import Turn
from vidtune.processing.layout import lay_out
from vidtune.processing.prompts.placing import placed, with_tags
from vidtune.processing.tokenizer import ChunkTokenizer
from vidtune.processing.tokenizing import Placeholder, encode
from vidtune.systems.videochat_flash import SYSTEM

IMAGE = -200
DIALECT = SYSTEM.dialect
STREAMS = ("image", "video")
HOST = read("host_side.json")


@pytest.fixture(scope="module")
def tokenizer() -> ChunkTokenizer:
    return ChunkTokenizer(byte_tokenizer(HOST["tokenizer"]["special"]))


def encoded(turns: list[Turn], prompt: str, tokenizer: ChunkTokenizer, message: str, **options):
    """Ids and labels, with one token for each medium; the message about a video tells what is known of it."""
    tags = re.findall(f"<({'|'.join(STREAMS)})>", "".join(turn.text for turn in turns))
    format_, media = DIALECT.prompts[prompt], []
    facts = dict(zip(("duration", "frames"), map(float, re.findall(r"\d+\.\d+|\d+", message)), strict=False))
    if facts:
        facts["frames"] = int(facts["frames"])
    for tag in tags:
        layout = DIALECT.layouts.get(tag) if format_.layouts else None
        runs = lay_out(layout, tag, {tag: 1}, facts) if layout else None
        written = None if runs is None else tuple(run if isinstance(run, str) else (0, run[1]) for run in runs)
        media.append(Placeholder(tag, ((IMAGE, 1),), 1, written))
    found = encode(turns, format_, tokenizer, media, streams=STREAMS, **options)
    return found.input_ids.tolist(), found.labels.tolist()


def conversation(case: dict) -> list[Turn]:
    """The official turns with the tags of our streams: what has a message about its length is a video."""
    tag, roles = "<video>" if case.get("time_msg") else "<image>", {"human": "user", "gpt": "assistant"}
    turns = case["conversations"]
    return [Turn(roles[turn["from"]], turn["value"].replace("<image>", tag)) for turn in turns]


@pytest.mark.parametrize("name", HOST["preprocess_qwen"])
def test_training_tokens_and_labels_equal_the_official_ones(name, tokenizer):
    case = HOST["preprocess_qwen"][name]
    ids, labels = encoded(conversation(case), "qwen_2", tokenizer, case.get("time_msg", ""))
    assert ids == case["input_ids"] and labels == case["labels"]


def test_captions_are_written_without_question_and_message(tokenizer):
    case = HOST["preprocess_plain"]
    ids, labels = encoded(conversation(case), "plain", tokenizer, case["time_msg"])
    assert ids == case["input_ids"] and labels == case["labels"]


def test_tokens_of_a_question_equal_the_official_ones(tokenizer):
    case = HOST["inference_prompt"]
    message, question = re.findall(r"<image>(.*sampled from it\. )(.*?)<\|im_end\|>", case["prompt"], re.DOTALL)[0]
    prompt = DIALECT.prompts["qwen_2_chat"]
    turns = with_tags([Turn("user", question)], ["video"], prompt, STREAMS, (), "0")
    ids, _ = encoded(turns, "qwen_2_chat", tokenizer, message, supervise=False, open_answer=True)
    assert ids == case["input_ids"]


def test_a_question_about_a_picture_stands_on_a_line_of_its_own():
    turns = with_tags([Turn("user", "What?")], ["image", "image"], DIALECT.prompts["qwen_2_chat"], STREAMS, (), "0")
    assert turns[0].text == "<image><image>\nWhat?"


def test_media_alone_have_no_text_around_them(tokenizer):
    prompt = DIALECT.prompts["qwen_2_bare"]
    turns = with_tags([Turn("user", "What?")], ["video", "image"], prompt, STREAMS, (), "0")
    ids, _ = encoded(turns, "qwen_2_bare", tokenizer, "", supervise=False, open_answer=True)
    place = ids.index(IMAGE)
    assert ids[place + 1] == IMAGE and tokenizer.tokenizer.decode(ids[place + 2 : place + 7]) == "What?"


def test_a_tag_is_moved_to_the_front_only_if_it_is_the_only_one():
    def written(text: str) -> str:
        return (
            "".join(
                piece.text
                for piece in DIALECT.prompts["qwen_2"].render(
                    placed([Turn("user", text)], ["image"], DIALECT.prompts["qwen_2"], STREAMS, "0"), open_answer=True
                )
            )
            .split("user\n")[1]
            .split("<|im_end|>")[0]
        )

    assert written("What is\nit? <image> ") == "<image>\nWhat is\nit?"
    assert written("<image> It is? ") == "<image> It is? "
    assert written("A <image> or <image>") == "A <image> or <image>"
