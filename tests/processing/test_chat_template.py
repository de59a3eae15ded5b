"""Chat templates as prompt formats: the same ids as the template writes, or a refusal."""

from pathlib import Path

import pytest
from tiny_language_models import byte_tokenizer
from transformers import PreTrainedTokenizerFast

from vidtune.data.problems import SampleProblem
from vidtune.data.sample import Turn
from vidtune.errors import UserError
from vidtune.processing.batch import IGNORED
from vidtune.processing.processor import VideoLMProcessor
from vidtune.processing.prompts.chat_template import template_format
from vidtune.processing.prompts.known import chatml
from vidtune.processing.tokenizer import ChunkTokenizer
from vidtune.processing.tokenizing import encode

SPECIAL = ("<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
QWEN = """{% if messages[0]['role'] == 'system' %}{{ '<|im_start|>system\n' + messages[0]['content'] + '<|im_end|>\n' }}
{%- else %}{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}{% endif %}{% for message in messages %}
{%- if message['role'] != 'system' %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}
{%- endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""
LLAMA3 = """{{ bos_token }}{% for message in messages %}{{ '<|start_header_id|>' + message['role'] +
'<|end_header_id|>\n\n' + message['content'] | trim + '<|eot_id|>' }}{% endfor %}{% if add_generation_prompt %}{{
'<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"""
MISTRAL = """{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}{{ '[INST] ' +
message['content'] + ' [/INST]' }}{% else %}{{ message['content'] + eos_token + ' ' }}{% endif %}{% endfor %}"""
ZEPHYR = """{% for message in messages %}{{ '<|' + message['role'] + '|>\n' + message['content'] + eos_token }}
{%- if not loop.last or add_generation_prompt %}{{ '\n' }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{
'<|assistant|>\n' }}{% endif %}"""
THINKING = QWEN.replace("'<|im_start|>assistant\n' }}", "'<|im_start|>assistant\n<think>\n' }}")


def tokenizer(template: str | None) -> PreTrainedTokenizerFast:
    found = byte_tokenizer()
    found.add_special_tokens({"additional_special_tokens": list(SPECIAL)})
    found.chat_template = template
    return found


def turns(*texts: str) -> list[Turn]:
    return [Turn(("user", "assistant")[k % 2], text) for k, text in enumerate(texts)]  # type: ignore[arg-type]


@pytest.mark.parametrize("texts", [("A?",), ("A?", "B."), ("A?\n\nC ", "B.", " What is <b>?", "D.", "E?")])
@pytest.mark.parametrize("template", [QWEN, LLAMA3, MISTRAL])
def test_prompts_are_what_the_template_writes(template: str, texts: tuple[str, ...]) -> None:
    tokens = tokenizer(template)
    is_open = len(texts) % 2 == 1
    messages = [{"role": turn.role, "content": turn.text} for turn in turns(*texts)]
    ids = tokens.apply_chat_template(messages, add_generation_prompt=is_open, return_dict=False)
    chunks = ChunkTokenizer(tokens)
    found = encode(turns(*texts), chunks.template, chunks, (), streams=["video"], open_answer=is_open)
    assert found.input_ids.tolist() == ids


@pytest.mark.parametrize("template", [QWEN, LLAMA3])
def test_a_system_turn_is_written_as_the_template_writes_it(template: str) -> None:
    tokens = tokenizer(template)
    talk = [Turn("system", "Be brief."), *turns("A?", "B.")]
    messages = [{"role": turn.role, "content": turn.text} for turn in talk]
    format_ = template_format(tokens)
    written = tokens.apply_chat_template(messages, tokenize=False)
    found = "".join(piece.text for piece in format_.render(talk))
    assert found.strip() == str(written).removeprefix(str(tokens.bos_token)).strip()
    assert format_.ambiguity(talk) is None


def test_a_template_without_a_place_for_a_system_turn_costs_the_sample() -> None:
    template = QWEN.replace("{% if messages[0]['role'] == 'system' %}", "{% if false %}")
    with pytest.raises(SampleProblem, match="has no place for the system turn"):
        template_format(tokenizer(template)).render([Turn("system", "Be brief."), *turns("A?", "B.")])


TWO_ENDS = QWEN.replace("<|im_end|>", "<|im_end|><|eot_id|>")


@pytest.mark.parametrize(
    ("template", "end"),
    [(QWEN, "<|im_end|>"), (LLAMA3, "<|eot_id|>"), (MISTRAL, "</s>"), (TWO_ENDS, "<|im_end|>")],
)
def test_answers_are_supervised_with_the_token_that_ends_them(template: str, end: str) -> None:
    chunks = ChunkTokenizer(tokenizer(template))
    found = encode(turns("A?", "B.", "C?", "D."), chunks.template, chunks, (), streams=["video"])
    assert chunks.tokenizer.decode(found.labels[found.labels != IGNORED]) == f"B.{end}D.{end}"
    assert chunks.template.stop == (end,)


def test_the_frames_of_chatml_are_those_of_its_record() -> None:
    found, record = template_format(tokenizer(QWEN)), chatml("chat_template", "You are a helpful assistant.")
    assert (found.system, found.user, found.assistant) == (record.system, record.user, record.assistant)
    assert (found.stop, found.bos, found.borders) == (record.stop, record.bos, record.borders)


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        (None, "the tokenizer has no chat template"),
        (QWEN.replace("You are", "{{ strftime_now('%Y') }}"), "it writes the date of today"),
        (THINKING, "an open answer begins otherwise"),
        (ZEPHYR, "the first or the last turn is framed otherwise"),
        (QWEN.replace("<|im_end|>", "").replace("<|im_start|>", ""), "no special token ends an answer"),
        (
            QWEN.replace("message['content'] + ", "message['content'] | upper + "),
            "leaves out, repeats or changes turns",
        ),
        (QWEN.replace("{% for", "{% set n = messages | length %}{{ n }}{% for"), "a conversation of . turns|framed"),
        ("{{ raise_exception('no\nchats') }}", "no chats"),
        ("{% for", "cannot be written"),
    ],
)
def test_a_template_that_does_more_than_framing_is_refused(template: str | None, reason: str) -> None:
    with pytest.raises(UserError, match=reason) as caught:
        template_format(tokenizer(template))
    assert "\n" not in str(caught.value)


def test_a_processor_has_the_template_of_its_tokenizer(processor: VideoLMProcessor, tmp_path: Path) -> None:
    made = VideoLMProcessor(tokenizer(QWEN), processor.system, processor.streams)
    assert made.prompt_format("chat_template").user.before == "<|im_start|>user\n"
    made.save_pretrained(tmp_path)
    assert VideoLMProcessor.from_pretrained(tmp_path).prompt_format("chat_template") == template_format(tokenizer(QWEN))
    with pytest.raises(UserError, match="no chat template"):
        processor.prompt_format("chat_template")
