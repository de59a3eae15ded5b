"""The end of an answer, and its text while it grows."""

from collections.abc import Collection
from typing import cast

from transformers import GenerationConfig, PreTrainedTokenizerBase

from vidtune.generation.settings import Answer, FinishReason, TokenLogprobs

UNFINISHED_CHARACTER = "\ufffd"


class AnswerInProgress:
    """Tokens and text of one answer while it is generated.

    Args:
        id: id of the request.
        tokenizer: decodes the tokens.
        eos_ids: tokens that end the answer.
        stop: texts that end the answer, also when their characters come from several tokens.
        max_new_tokens: largest number of tokens.
        untrained: see `Answer`.
        told: how many log-probabilities of the likeliest tokens are told beside each of its tokens; None: none at all.

    Attributes:
        finish_reason: what ended the answer; "error" if it failed, None while it grows.
        margin: see `Answer`; None while it grows.
        token_logprobs: of each token, if they are told.
    """

    def __init__(
        self,
        id: str,
        tokenizer: PreTrainedTokenizerBase,
        eos_ids: Collection[int],
        stop: tuple[str, ...],
        max_new_tokens: int,
        untrained: str = "",
        told: int | None = None,
    ) -> None:
        self.id = id
        self.token_ids: list[int] = []
        self.text = ""
        self.finish_reason: FinishReason | None = None
        self.margin: float | None = None
        self.untrained = untrained
        self.told = told
        self.token_logprobs: list[TokenLogprobs] = []
        self._tokenizer = tokenizer
        self._eos_ids = eos_ids
        self._stop = stop
        self._overlap = max((len(text) for text in stop), default=1) - 1
        self._max_new_tokens = max_new_tokens
        self._window, self._read = 0, 0

    def push(self, token: int) -> None:
        """Add the next token."""
        self.token_ids.append(token)
        if token in self._eos_ids:
            self.finish_reason = "eos"
        elif len(self.token_ids) >= self._max_new_tokens:
            self.finish_reason = "length"
        searched = max(0, len(self.text) - self._overlap)
        self.text += self._new_text()
        found = [place for text in self._stop if (place := self.text.find(text, searched)) >= 0]
        if found:
            self.text = self.text[: min(found)]
            self.finish_reason = "stop"

    def fail(self) -> None:
        """End the answer, which has no next token; what it has so far is no answer."""
        self.finish_reason = "error"

    def shown_text(self) -> str:
        """The text that no later token can change: stripped, and without a possible beginning of a stop text."""
        text = self.text
        if self.finish_reason is None:
            starts = [len(text) - k for stop in self._stop for k in range(1, len(stop)) if text.endswith(stop[:k])]
            text = text[: min(starts, default=len(text))]
        return text.strip()

    def answer(self) -> Answer:
        """The finished answer, which did not fail."""
        assert self.finish_reason not in (None, "error")
        return Answer(
            self.id,
            self.shown_text(),
            tuple(self.token_ids),
            self.finish_reason,
            margin=self.margin,
            untrained=self.untrained,
        )

    def _new_text(self) -> str:
        """Text of the tokens that were not decoded yet; empty while they end inside a character of several bytes.

        Only a window of tokens is decoded. It starts one piece early, so that the decoder sees the space between words.
        """
        before = self._decode(self.token_ids[self._window : self._read])
        text = self._decode(self.token_ids[self._window :])
        if text.endswith(UNFINISHED_CHARACTER) and self.finish_reason is None:
            return ""
        self._window, self._read = self._read, len(self.token_ids)
        return text[len(before) :]

    def _decode(self, ids: list[int]) -> str:
        text = self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return cast(str, text)


def eos_ids(config: GenerationConfig, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Tokens that end an answer: those of the checkpoint's generation config and of the tokenizer."""
    found: set[int] = set()
    for ids in (config.eos_token_id, tokenizer.eos_token_id):
        found.update([ids] if isinstance(ids, int) else ids or ())
    return frozenset(found)


def special_ids(tokenizer: PreTrainedTokenizerBase, texts: Collection[str]) -> frozenset[int]:
    """Ids of the texts that are special tokens of a tokenizer, which the text of an answer is written without."""
    added = tokenizer.added_tokens_decoder.items()
    return frozenset(id for id, token in added if token.special and token.content in texts)
