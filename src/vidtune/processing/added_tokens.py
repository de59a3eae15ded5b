"""Tokens that a system adds to the tokenizer of its language model, such as ``<vid_start>``."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

import tokenizers
from transformers import PreTrainedTokenizerBase

from vidtune.errors import UserError

TokenStart = Literal["mean", "zeros", "normal"]


@dataclass(frozen=True)
class AddedToken:
    """A token that a system adds.

    Args:
        text: the token as it stands in prompts; it is never split.
        special: whether the text of an answer leaves it out.
        start: start value of its row in the embedding, and of that in the output head: the mean of the rows of all
            tokens before the added ones, zeros, or normal values (std 0.02).
        predicted: whether the model has to predict it. Then its row in the output head is trained with the one in the
            embedding; in a language model in which both are one weight, this is always so.
    """

    text: str
    special: bool = True
    start: TokenStart = "mean"
    predicted: bool = False


def add_tokens(tokenizer: PreTrainedTokenizerBase, tokens: Sequence[AddedToken]) -> dict[str, int]:
    """Add to a tokenizer, in place, the tokens that it lacks. Returns the ids of all of them by text."""
    for token in tokens:
        one = tokenizers.AddedToken(token.text, special=token.special, normalized=False)
        tokenizer.add_tokens([one], special_tokens=token.special)
    vocabulary = tokenizer.get_vocab()
    return {token.text: vocabulary[token.text] for token in tokens}


def lacking_tokens(tokenizer: PreTrainedTokenizerBase, texts: Collection[str]) -> list[str]:
    """Return the tokens that a tokenizer does not have."""
    vocabulary = tokenizer.get_vocab()
    return [text for text in texts if text not in vocabulary]


def rows_needed(tokenizer: PreTrainedTokenizerBase, without: Collection[str] = ()) -> int:
    """Return the number of rows that the embedding needs for the tokens of a tokenizer: their highest id plus one.

    Args:
        without: tokens that do not count.
    """
    return 1 + max(id for text, id in tokenizer.get_vocab().items() if text not in without)


def require_rows(tokenizer: PreTrainedTokenizerBase, rows: int, added: Collection[str] = ()) -> None:
    """Raise UserError where a tokenizer has tokens for which the embedding has no row.

    Args:
        rows: number of rows of the embedding.
        added: tokens that the system adds, which get rows.
    """
    needed = rows_needed(tokenizer, added)
    if needed > rows:
        last = max(tokenizer.get_vocab().items(), key=lambda item: item[1] if item[0] not in added else -1)[0]
        raise UserError(
            f"{tokenizer.name_or_path}: the tokenizer has {needed} tokens, the last {last!r}, but the language model "
            f"has rows for {rows}; take the tokenizer that belongs to the language model"
        )
