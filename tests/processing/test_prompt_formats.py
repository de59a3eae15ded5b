"""Prompt formats by data: the end token of the tokenizer, special tokens, where media stand, what is supervised."""

from dataclasses import replace

import pytest
from tiny_language_models import byte_tokenizer
from transformers import PreTrainedTokenizerFast

from vidtune.data.problems import SampleProblem
from vidtune.data.sample import Turn
from vidtune.errors import UserError
from vidtune.processing.batch import IGNORED
from vidtune.processing.prompts.cutting import Cut
from vidtune.processing.prompts.format import AnswerFrame, PromptFormat
from vidtune.processing.prompts.known import captions, chatml, llama3, with_roles
from vidtune.processing.tokenizer import ChunkTokenizer
from vidtune.processing.tokenizing import Encoded, encode

ROLES = with_roles("roles", "Be kind.")
TALK = (Turn("user", "A?"), Turn("assistant", "B."), Turn("user", "C?"), Turn("assistant", "D."))


def tokenizer(*special: str, eos: str | None = None) -> PreTrainedTokenizerFast:
    """One token per byte and the special ones; its end token is not ``</s>``."""
    found = byte_tokenizer()
    found.add_special_tokens({"additional_special_tokens": list(special)})
    found.eos_token = eos
    return found


def run(prompt: PromptFormat, tokens: PreTrainedTokenizerFast, turns=TALK, **options: object) -> Encoded:
    return encode(turns, prompt, ChunkTokenizer(tokens), (), streams=["video"], **options)  # type: ignore[arg-type]


def learned(tokens: PreTrainedTokenizerFast, found: Encoded) -> str:
    return tokens.decode(found.labels[found.labels != IGNORED])


def test_an_answer_ends_with_the_end_token_of_the_tokenizer() -> None:
    tokens = tokenizer("<|end|>", eos="<|end|>")
    found = run(ROLES, tokens)
    assert learned(tokens, found) == " B.<|end|> D.<|end|>"
    assert (found.labels == tokens.eos_token_id).sum() == 2
    assert "</s>" not in tokens.decode(found.input_ids)
    assert ROLES.with_eos("<|end|>").stop == ("<|end|>",)


def test_answers_are_told_apart_by_the_tokenizers_own_end_token() -> None:
    tokens = tokenizer("<|end|>", eos="<|end|>")
    assert run(ROLES, tokens, (Turn("user", "A?"), Turn("assistant", "B.<|end|>"))).masked == "separator in a turn"
    assert run(ROLES, tokens, (Turn("user", "A?"), Turn("assistant", "B ASSISTANT: C"))).masked == "role text in a turn"


def test_a_tokenizer_without_end_token_is_refused_where_the_format_needs_one() -> None:
    with pytest.raises(UserError, match=r"prompt format 'roles' ends answers with .*the tokenizer has none"):
        run(ROLES, tokenizer())
    assert run(chatml("c"), tokenizer("<|im_start|>", "<|im_end|>")).masked is None


def test_a_tokenizer_without_end_token_is_named() -> None:
    tokens = tokenizer()
    tokens.name_or_path = "runs/mine/tokenizer"
    with pytest.raises(UserError, match=r"the tokenizer runs/mine/tokenizer has none; set eos_token"):
        run(ROLES, tokens)


def test_special_tokens_that_the_tokenizer_lacks_are_not_spelled_out() -> None:
    with pytest.raises(UserError, match=r"'<\|im_start\|>' is a part of the prompt format but no token"):
        run(chatml("c"), tokenizer())


def test_no_sequence_start_is_written_where_the_tokenizer_has_none() -> None:
    tokens = tokenizer("<|end|>", eos="<|end|>")
    assert run(ROLES, tokens).input_ids[0] == tokens.bos_token_id
    tokens.bos_token, tokens.add_bos_token = None, False
    assert run(ROLES, tokens).input_ids[0] == ord("B")


def test_a_question_may_stand_before_its_media() -> None:
    after = replace(ROLES, question="{question}\n{media}")
    assert ROLES.with_tags("What {x}?", ["image", "video"]) == "<image><video>\nWhat {x}?"
    assert after.with_tags("What {x}?", ["image", "video"]) == "What {x}?\n<image><video>"
    for wrong in ("{question}", "{media}{media}{question}", "{media}{question}{answer}"):
        with pytest.raises(ValueError, match=r"must hold \{media\} and \{question\} once"):
            replace(ROLES, question=wrong)


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("What?\n<video>", "<video>\nWhat?"),
        ("What <video> is it?", "<video>\nWhat  is it?"),
        ("<video> What?", "<video> What?"),
        ("A <video> or <video>?", "A <video> or <video>?"),
    ],
)
def test_a_pattern_says_which_tags_are_moved(text: str, written: str) -> None:
    moving = replace(ROLES, moved=r"(?s)(?!<video>)(?:(?!<video>).)*(?P<media><video>)(?:(?!<video>).)*")
    assert moving.render([Turn("user", text)], open_answer=True)[0].text == f"Be kind. USER: {written} ASSISTANT:"


def test_the_template_itself_may_be_supervised() -> None:
    """`preprocess_qwen` of VideoChat-Flash (arXiv:2501.00574): whole answers, and border tokens wherever they stand."""
    tokens = tokenizer("<|im_start|>", "<|im_end|>")
    plain = chatml("c", "Be kind.")
    frame = replace(plain.assistant, supervised=("before", "end", "after"))
    prompt = replace(plain, assistant=frame, also_supervised=("<|im_start|>", "<|im_end|>", "\n"))
    found = run(prompt, tokens, (Turn("user", "A?\nB"), Turn("assistant", "C.")))
    assert learned(tokens, found) == (
        "<|im_start|>\n<|im_end|>\n<|im_start|>\n\n<|im_end|>\n<|im_start|>assistant\nC.<|im_end|>\n"
    )
    assert (found.input_ids == run(plain, tokens, (Turn("user", "A?\nB"), Turn("assistant", "C."))).input_ids).all()
    assert not (run(prompt, tokens, supervise=False).labels != IGNORED).any()
    assert not (run(prompt, tokens, (Turn("user", "A?"), Turn("assistant", ""))).labels != IGNORED).any()


LLAMA3 = """{{ bos_token }}{% for message in messages %}{{ '<|start_header_id|>' + message['role'] +
'<|end_header_id|>\n\n' + message['content'] | trim + '<|eot_id|>' }}{% endfor %}{% if add_generation_prompt %}{{
'<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"""


def test_llama3_is_what_its_template_writes() -> None:
    tokens = tokenizer("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
    turns = (Turn("user", " A?\n"), Turn("assistant", "B. "), Turn("user", "C?"))
    messages = [{"role": turn.role, "content": turn.text} for turn in turns]
    ids = tokens.apply_chat_template(messages, chat_template=LLAMA3, add_generation_prompt=True, return_dict=False)
    assert run(llama3("l"), tokens, turns, open_answer=True).input_ids.tolist() == ids
    assert learned(tokens, run(llama3("l"), tokens)) == "B.<|eot_id|>D.<|eot_id|>"


def test_a_cut_needs_answers_of_which_the_end_is_supervised() -> None:
    with pytest.raises(ValueError, match="cut needs answers"):
        PromptFormat("x", assistant=AnswerFrame("A", supervised=("before",)), cut=Cut("never"))


@pytest.mark.parametrize(
    ("prompt", "before", "after"),
    [
        (ROLES, "Be kind. USER: ", "Be brief. USER: "),
        (chatml("c"), "<|im_start|>user\n", "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n"),
        (chatml("c", "S."), "<|im_start|>system\nS.", "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n"),
        (llama3("l"), "<|start_header_id|>user", "<|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"),
        (captions("p", ("image",)), "<image>", "<image>"),
    ],
)
def test_a_system_turn_stands_in_the_place_of_the_system_line(prompt: PromptFormat, before: str, after: str) -> None:
    talk = (Turn("user", "<image>A?"), Turn("assistant", "B."))
    own = (Turn("system", "Be brief."), *talk)
    without, found = prompt.render(talk), prompt.render(own)
    assert without[0].text.startswith(before) and found[0].text.startswith(after)
    assert [piece.supervised for piece in found] == [piece.supervised for piece in without]
    assert prompt.ambiguity(own) == prompt.ambiguity(talk)


def test_a_system_turn_comes_first() -> None:
    with pytest.raises(SampleProblem, match="turn 1 is another system turn"):
        ROLES.render((TALK[0], Turn("system", "Be brief."), *TALK[1:]))
