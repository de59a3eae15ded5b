"""Sentences of a text as rows of token ids."""

import numpy as np

from vidtune.data.writing.tokenizer import train_tokenizer
from vidtune.processing.tokenizer import END, SPECIAL, load_tokenizer, sentences, token_kinds


def test_a_sentence_ends_with_its_mark_and_special_tokens_stand_in_none() -> None:
    kinds = np.zeros(9, np.uint8)
    kinds[[7, 8]] = END, SPECIAL
    assert sentences([1, 2, 7, 3, 7, 8], kinds) == [[1, 2, 7], [3, 7]]
    assert sentences([8, 4, 5], kinds) == [[4, 5]]
    assert sentences([8], kinds) == []


def test_kinds_are_read_from_the_tokenizer(tmp_path) -> None:
    train_tokenizer(["the circle is red. what moves? it stays."] * 50, tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    kinds = token_kinds(tokenizer, len(tokenizer) + 3)
    ids = [*tokenizer("the circle is red. it stays.", add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    assert [tokenizer.decode(part) for part in sentences(ids, kinds)] == ["the circle is red.", "it stays."]
