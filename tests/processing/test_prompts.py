from dataclasses import replace

import numpy as np
import pytest
from tiny_language_models import byte_tokenizer
from transformers import PreTrainedTokenizerFast

from vidtune.data.problems import SampleProblem
from vidtune.data.sample import Turn
from vidtune.processing.prompts.cutting import Cut
from vidtune.processing.prompts.format import AnswerFrame, Frame, PromptFormat
from vidtune.processing.prompts.known import captions, chatml, with_roles
from vidtune.processing.tokenizer import ChunkTokenizer
from vidtune.processing.tokenizing import Placeholder, encode

TWO = with_roles("two", "Be kind.", separators=(" ", "</s>"))
SINGLE = with_roles("single", "Be kind.", "Human", "Assistant", ("###", "###"))
PLAIN = captions("plain", ("image",))


def turns(*texts: str) -> list[Turn]:
    return [Turn(("user", "assistant")[k % 2], text) for k, text in enumerate(texts)]  # type: ignore[arg-type]


def text_of(prompt: PromptFormat, *texts: str, open_answer: bool = False) -> str:
    return "".join(piece.text for piece in prompt.render(turns(*texts), open_answer))


def test_two_separators() -> None:
    expected = "Be kind. USER: A? ASSISTANT: B.</s>USER: C? ASSISTANT: D.</s>"
    assert text_of(TWO, "A?", "B.", "C?", "D.") == expected


def test_one_separator() -> None:
    assert text_of(SINGLE, "A?", "B.") == "Be kind.###Human: A?###Assistant: B.###"


def test_an_open_answer_ends_with_the_role_and_no_space() -> None:
    assert text_of(TWO, "A?", open_answer=True) == "Be kind. USER: A? ASSISTANT:"
    assert text_of(SINGLE, "A?", open_answer=True) == "Be kind.###Human: A?###Assistant:"


def test_supervised_are_the_answers_with_their_end() -> None:
    pieces = TWO.render(turns("A?", "B.", "C?", "D."))
    assert [piece.text for piece in pieces if piece.supervised] == [" B.</s>", " D.</s>"]


def test_an_assistant_turn_at_the_start_is_dropped() -> None:
    with_greeting = [Turn("assistant", "Hello."), *turns("A?", "B.")]
    assert TWO.render(with_greeting) == TWO.render(turns("A?", "B."))


def test_two_turns_of_one_role_are_refused() -> None:
    with pytest.raises(SampleProblem, match="turn 1 is another user turn"):
        TWO.render([Turn("user", "A?"), Turn("user", "B?")])


@pytest.mark.parametrize("conversation", [[], [Turn("assistant", "Hello.")]])
def test_a_conversation_without_user_is_refused(conversation: list[Turn]) -> None:
    with pytest.raises(SampleProblem, match="no user turn"):
        TWO.render(conversation)


def test_plain_keeps_only_the_tag_of_the_question() -> None:
    assert text_of(PLAIN, "<image>\nDescribe.", "A dog.") == "<image>A dog.\n"
    assert [piece.supervised for piece in PLAIN.render(turns("<image>\nDescribe.", "A dog."))] == [False, True]


@pytest.mark.parametrize("question", ["<video>\nDescribe.", "Describe.", "<image><image>\nDescribe."])
def test_plain_takes_exactly_one_image(question: str) -> None:
    with pytest.raises(SampleProblem, match="one <image> and one caption"):
        PLAIN.render(turns(question, "A dog."))


@pytest.mark.parametrize(
    ("texts", "reason"),
    [
        (("A?", "B."), None),
        (("A?", ""), "empty answer"),
        (("", "B."), "empty question"),
        (("A?", "B.", "C?"), "last question has no answer"),
        (("A?", "He said ASSISTANT: yes."), "role text in a turn"),
        (("Say ASSISTANT: yes", "B."), "role text in a turn"),
        (("ASSISTANT: yes?", "B."), "role text in a turn"),
        (("A?", "B.</s>C."), "separator in a turn"),
        (("A</s>?", "B."), "separator in a turn"),
        (("Who is the USER: me?", "ASSISTANT"), None),
    ],
)
def test_answers_that_published_code_cannot_find_are_named(texts: tuple[str, ...], reason: str | None) -> None:
    assert TWO.ambiguity(turns(*texts)) == reason


def test_roles_in_a_single_separator_format_are_ambiguous_only_after_the_separator() -> None:
    assert SINGLE.ambiguity(turns("A?", "An Assistant: yes.")) is None
    assert SINGLE.ambiguity(turns("A?", "B###Human: C")) == "separator in a turn"


def test_a_separator_after_the_tag_is_not_supervised_and_the_tag_may_stand_anywhere() -> None:
    prompt = captions("plain", ("video", "image"), after_tag="\n")
    for stream in ("image", "video"):
        for question in (f"<{stream}>\nDescribe.", f"Describe. <{stream}>", f"Look <{stream}> here."):
            pieces = prompt.render(turns(question, "A dog."))
            assert [(piece.text, piece.supervised) for piece in pieces] == [
                (f"<{stream}>\n", False),
                ("A dog.\n", True),
            ]
    with pytest.raises(SampleProblem, match="one <video> or <image> and one caption"):
        prompt.render(turns("<image><video>", "A dog."))


CUTTING = with_roles("two", "Be kind.", separators=(" ", "</s>"), cut=Cut(r"From \d+ to \d+,", rejoined=True))


def shortened(length: int, *texts: str) -> tuple[str, str]:
    """The prompt cut to a number of characters, and what of it is supervised."""
    pieces = CUTTING.render(turns(*texts))
    text = "".join(piece.text for piece in pieces)
    flags = np.concatenate([np.full(len(piece.text), piece.supervised) for piece in pieces])
    found, supervised = CUTTING.shortened(text, flags, len(texts), lambda shorter: len(shorter) <= length)
    assert len(found) == len(supervised)
    return found, "".join(character for character, flag in zip(found, supervised, strict=True) if flag)


EVENTS = "Events: From 00 to 08, a dog.\nFrom 09 to 17, a cat.   From 18 to 26, a cow."


def test_one_answer_is_cut_in_front_of_what_the_pattern_finds() -> None:
    start = "Be kind. USER: A? ASSISTANT:"
    whole = f"{start} {EVENTS}</s>"
    two, one = " Events: From 00 to 08, a dog. From 09 to 17, a cat.</s>", " Events: From 00 to 08, a dog.</s>"
    assert shortened(len(whole) - 1, "A?", EVENTS) == (start + two, two)
    assert shortened(len(start + two), "A?", EVENTS) == (start + two, two)
    assert shortened(len(start + two) - 1, "A?", EVENTS) == (start + one, one)
    assert shortened(0, "A?", EVENTS) == (f"{start} Events:</s>", " Events:</s>")
    assert shortened(0, "A?", EVENTS.removeprefix("Events: ")) == (f"{start}</s>", "")
    assert shortened(0, "A?", "Nothing to cut.")[0] == f"{start} Nothing to cut.</s>"


def test_a_question_too_is_cut_where_the_pattern_stands_in_it() -> None:
    assert shortened(0, "From 10 to 20, what?", "A dog.") == ("Be kind. USER:</s>", "")


def test_several_answers_are_cut_in_front_of_their_separators() -> None:
    conversation = ("A?", "B.", "From 10 to 20, C?", "D. \n", "E?", "F.")
    two = "Be kind. USER: A? ASSISTANT: B. </s>USER: From 10 to 20, C? ASSISTANT: D.</s>"
    assert shortened(0, *conversation) == ("Be kind. USER: A? ASSISTANT: B.</s>", " B.</s>")
    assert shortened(len(two), *conversation) == (two, " B. </s> D.</s>")
    # An assistant's turn at the start makes a third one.
    greeted = [Turn("assistant", "Hello."), *turns("A?", EVENTS)]
    pieces = CUTTING.render(greeted)
    flags = np.concatenate([np.full(len(piece.text), piece.supervised) for piece in pieces])
    text = "".join(piece.text for piece in pieces)
    assert CUTTING.shortened(text, flags, len(greeted), lambda shorter: False)[0] == text


# The template of SmolLM2-135M-Instruct, and that of Mistral-7B-Instruct-v0.1 without its check of the roles.
SMOL_SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
SMOL_TEMPLATE = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\n" + SMOL_SYSTEM + "<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
INST_TEMPLATE = """{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}{{ '[INST] ' +
message['content'] + ' [/INST]' }}{% else %}{{ message['content'] + eos_token + ' ' }}{% endif %}{% endfor %}"""
CHATML = chatml("chatml", SMOL_SYSTEM)
INST = PromptFormat(
    "inst", user=Frame("[INST] ", " [/INST]"), assistant=AnswerFrame(end="</s>", after=" "), borders=("[INST]",)
)
CONVERSATIONS = [("A?", "B."), ("A?",), ("A?\n\nC ", "B.", " What is <b>?", "D.", "E?")]


@pytest.fixture
def chat_tokenizer() -> PreTrainedTokenizerFast:
    tokenizer = byte_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    return tokenizer


@pytest.mark.parametrize("texts", CONVERSATIONS)
@pytest.mark.parametrize(("prompt", "template"), [(CHATML, SMOL_TEMPLATE), (INST, INST_TEMPLATE)])
def test_framed_turns_are_what_the_chat_template_writes(prompt, template, texts, chat_tokenizer) -> None:
    messages = [{"role": turn.role, "content": turn.text} for turn in turns(*texts)]
    is_question = len(texts) % 2 == 1
    options = {"chat_template": template, "add_generation_prompt": is_question}
    expected = chat_tokenizer.apply_chat_template(messages, tokenize=False, **options)
    bos = chat_tokenizer.bos_token if prompt.bos else ""
    assert bos + text_of(prompt, *texts, open_answer=is_question) == expected
    found = encode(
        turns(*texts), prompt, ChunkTokenizer(chat_tokenizer), [], streams=["video"], open_answer=is_question
    )
    ids = chat_tokenizer.apply_chat_template(messages, return_dict=False, **options)
    assert found.input_ids.tolist() == ids


def test_framed_answers_are_supervised_with_their_end_of_turn(chat_tokenizer) -> None:
    found = encode(
        turns("<video>\nA?", "B.", "C?", "D."),
        CHATML,
        ChunkTokenizer(chat_tokenizer),
        [Placeholder("video", ((300, 5),))],
        streams=["video"],
    )
    labelled = found.labels[found.labels != -100]
    assert chat_tokenizer.decode(labelled) == "B.<|im_end|>D.<|im_end|>"
    assert (found.input_ids == 300).sum() == 5


def test_a_framed_format_may_move_tags() -> None:
    prompt = replace(CHATML, moved=r"(?s:.*\S.*)(?P<media><video>)")
    assert text_of(prompt, "A?\n<video>", "B.") == text_of(CHATML, "<video>\nA?", "B.")


@pytest.mark.parametrize(
    ("texts", "reason"),
    [
        (("A?", "B."), None),
        (("A user\nassistant?", "system\nB."), None),
        (("A?", ""), "empty answer"),
        (("", "B."), "empty question"),
        (("A?", "B.", "C?"), "last question has no answer"),
        (("A?", "B.<|im_end|>C"), "separator in a turn"),
        (("A<|im_end|>?", "B."), "separator in a turn"),
        (("A?", "<|im_start|>user: C?"), "role text in a turn"),
        (("<|im_start|>assistant\nYes.", "B."), "role text in a turn"),
    ],
)
def test_borders_of_framed_turns_may_not_stand_in_a_turn(texts: tuple[str, ...], reason: str | None) -> None:
    assert CHATML.ambiguity(turns(*texts)) == reason
    cut = replace(CHATML, cut=Cut("never"))
    assert cut.ambiguity_of(text_of(cut, *texts), turns(*texts)) == reason


def shortened_framed(length: int, *texts: str) -> tuple[str, str]:
    """As `shortened`, without the system line."""
    prompt = replace(CHATML, system="", cut=Cut(r"From \d+ to \d+,"))
    pieces = prompt.render(turns(*texts))
    text = "".join(piece.text for piece in pieces)
    flags = np.concatenate([np.full(len(piece.text), piece.supervised) for piece in pieces])
    found, supervised = prompt.shortened(text, flags, len(texts), lambda shorter: len(shorter) <= length)
    assert len(found) == len(supervised)
    return found, "".join(character for character, flag in zip(found, supervised, strict=True) if flag)


def test_framed_prompts_are_cut_after_an_answer_or_at_a_match_inside_one() -> None:
    start = "<|im_start|>user\nA? From 00 to 01,<|im_end|>\n<|im_start|>assistant\n"
    second = "<|im_end|>\n<|im_start|>user\nC?<|im_end|>\n<|im_start|>assistant\n"
    texts = ("A? From 00 to 01,", EVENTS, "C?", "From 00 to 08, a dog. From 09 to 17, a cat.")
    kept = [
        "Events:",
        "Events: From 00 to 08, a dog.",
        "Events: From 00 to 08, a dog.\nFrom 09 to 17, a cat.",
        EVENTS,
        f"{EVENTS}{second}From 00 to 08, a dog.",
        f"{EVENTS}{second}From 00 to 08, a dog. From 09 to 17, a cat.",
    ]
    expected = [start + text + "<|im_end|>" for text in kept]
    for shorter, text in zip([expected[0], *expected], expected, strict=False):
        assert shortened_framed(len(text) - 1, *texts)[0] == shorter
        assert shortened_framed(len(text), *texts) == (text, text.removeprefix(start).replace(second, "<|im_end|>"))
    assert shortened_framed(0, *texts)[0] == expected[0]
    assert shortened_framed(0, "A?", "Nothing to cut.")[1] == "Nothing to cut.<|im_end|>"


def test_a_framed_sample_that_is_cut_keeps_its_reason_to_be_masked(chat_tokenizer) -> None:
    prompt = replace(CHATML, cut=Cut("never"))
    options = {"streams": ["video"], "max_length": 120}
    for last, masked in (("fine.", None), ("D<|im_end|>", "separator in a turn")):
        conversation = turns("A?", "B.", "C? " * 20, last)
        found = encode(conversation, prompt, ChunkTokenizer(chat_tokenizer), [], **options)
        assert (found.masked, found.truncated) == (masked, True)
        assert len(found.input_ids) < 120 and (found.labels[-1] != -100) == (masked is None)
