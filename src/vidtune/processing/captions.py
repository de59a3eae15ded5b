"""Captions: the text of a sample as a text tower takes it.

Legend: T tokens of a caption.
"""

from dataclasses import dataclass

import numpy as np
from transformers import PreTrainedTokenizerBase

from vidtune.data.sample import Sample


def caption_of(sample: Sample) -> str:
    """Text of a sample: its answers, one after the other, without the questions."""
    return " ".join(turn.text.strip() for turn in sample.turns if turn.role == "assistant").strip()


@dataclass(frozen=True)
class CaptionTokenizer:
    """Tokens of a text: those of its beginning, between the first and the last token of the tokenizer.

    Args:
        tokenizer: tokenizer of the text tower; it has a token for the end of a text.
        max_length: most tokens of a text; what is longer loses its end.
    """

    tokenizer: PreTrainedTokenizerBase
    max_length: int

    def __call__(self, text: str) -> np.ndarray:
        """Shape: -> (T,) int64"""
        first = [] if self.tokenizer.bos_token_id is None else [self.tokenizer.bos_token_id]
        ids = self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        room = self.max_length - len(first) - 1
        return np.array([*first, *ids[:room], self.tokenizer.eos_token_id], np.int64)
