"""The tokens of an example as they are shown: which are text, which are supervised, which belong to a medium."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from vidtune.processing.batch import IGNORED, Example
from vidtune.processing.processor import VideoLMProcessor


@dataclass(frozen=True)
class Token:
    """A token of text: its id, its place in the example, its text."""

    id: int
    place: int
    text: str


@dataclass(frozen=True)
class Span:
    """Tokens one after the other that are of one kind.

    Args:
        kind: "supervised", "text", or the stream of a medium.
        tokens: of text; none of a medium.
        count: number of tokens.
        item: number of the medium in `Example.media`, from 1; 0: text.
    """

    kind: str
    tokens: tuple[Token, ...]
    count: int
    item: int = 0


def token_spans(example: Example, processor: VideoLMProcessor) -> Iterator[Span]:
    """The tokens of an example, cut where their kind or their medium changes."""
    owners = np.full(len(example), -1) if example.owners is None else np.asarray(example.owners)
    supervised = np.asarray(example.labels) != IGNORED
    supervised[:1] = False
    kinds = [(int(owner), bool(yes) and owner < 0) for owner, yes in zip(owners, supervised, strict=True)]
    begins = [place for place, kind in enumerate(kinds) if place == 0 or kind != kinds[place - 1]]
    for begin, end in zip(begins, [*begins[1:], len(kinds)], strict=True):
        owner, yes = kinds[begin]
        if owner >= 0:
            yield Span(example.media[owner].stream, (), end - begin, owner + 1)
        else:
            ids = [int(one) for one in example.input_ids[begin:end]]
            texts = [_text(processor.tokenizer, one) for one in ids]
            tokens = (Token(one, begin + place, text) for place, (one, text) in enumerate(zip(ids, texts, strict=True)))
            yield Span("supervised" if yes else "text", tuple(tokens), end - begin)


def _text(tokenizer: Any, id: int) -> str:
    """Text of a token as it stands in a sentence: with its leading blank."""
    piece = tokenizer.convert_ids_to_tokens(id)
    if piece is None:
        return f"<{id}>"
    if "▁" in piece:
        return str(piece).replace("▁", " ")
    return str(tokenizer.decode([id], clean_up_tokenization_spaces=False)) or str(piece)
