"""Answers end where they should, and their text grows without being decoded anew."""

from pathlib import Path

import pytest
from tiny_language_models import byte_tokenizer
from transformers import LlamaTokenizer

from vidtune.generation.stopping import AnswerInProgress


def push_text(text, stop=(), max_new_tokens=100, eos_ids=(257,)):
    tokenizer = byte_tokenizer()
    answer = AnswerInProgress("q", tokenizer, eos_ids, stop, max_new_tokens)
    shown = []
    for token in tokenizer(text, add_special_tokens=False).input_ids:
        answer.push(token)
        shown.append(answer.shown_text())
        if answer.finish_reason:
            break
    return answer, shown


def test_end_token_ends_and_is_kept_in_the_tokens_only():
    answer, _ = push_text(" A red ball.</s>never seen")
    assert answer.finish_reason == "eos"
    assert answer.answer().text == "A red ball."
    assert answer.answer().token_ids[-1] == 257


def test_stop_text_across_tokens_is_cut_off():
    answer, _ = push_text("yes###Human: no", stop=("###", "Human"))
    assert (answer.finish_reason, answer.answer().text) == ("stop", "yes")


def test_the_earliest_of_several_stop_texts_counts():
    answer, _ = push_text("a b END", stop=("END", "b END"))
    assert answer.answer().text == "a"


def test_limit_ends_an_answer():
    answer, _ = push_text("abcdef", max_new_tokens=3)
    assert (answer.finish_reason, answer.answer().text) == ("length", "abc")


def test_shown_text_is_never_taken_back():
    answer, shown = push_text("one ## two##### three", stop=("####",))
    assert answer.answer().text == "one ## two"
    assert all(answer.answer().text.startswith(text) for text in shown)
    assert "one ## tw" in shown


def test_characters_of_several_bytes_appear_whole():
    answer, shown = push_text("naïve 🎈 日本")
    assert not any("\ufffd" in text for text in shown)
    assert answer.text == "naïve 🎈 日本"


def test_an_unfinished_character_is_shown_when_nothing_follows():
    answer, _ = push_text("日", max_new_tokens=2)
    assert (answer.finish_reason, answer.text) == ("length", "\ufffd")


@pytest.mark.parametrize("text", ["A man  is riding a horse,\nslowly. USER: 3.14", "ärger 🎈 x", "</s> next"])
def test_text_equals_decoding_all_tokens_with_sentencepiece(text):
    folder = Path(__file__).parents[1] / "parity/fixtures/video_llava"
    tokenizer = LlamaTokenizer.from_pretrained(folder)
    ids = tokenizer(text, add_special_tokens=False).input_ids
    answer = AnswerInProgress("q", tokenizer, (), (), 1000)
    for token in ids:
        answer.push(token)
    assert len(ids) > 4
    assert answer.text == tokenizer.decode(ids, skip_special_tokens=True)
