"""Requests, settings of decoding, answers, and counters of an engine."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from math import isfinite
from typing import Any, Literal

from vidtune.data.sample import MediaRef, Turn
from vidtune.errors import UserError

_NUMBERS: dict[str, Any] = {
    "max_new_tokens": int,
    "temperature": (int, float),
    "top_p": (int, float),
    "top_k": int,
    "seed": int,
}
MOST = 2**31 - 1
LOWEST, HIGHEST = 1e-20, 1e20
"""Temperatures by which logits in float32 can be divided."""
FinishReason = Literal["eos", "stop", "length", "option", "forced", "error"]


@dataclass(frozen=True)
class GenerationSettings:
    """How answers are decoded.

    Args:
        max_new_tokens: largest number of tokens of an answer; the context length of the model may end it earlier.
        do_sample: True samples tokens; False, or temperature 0, takes the most probable token.
        temperature: the logits are divided by it before sampling.
        top_p: sample from the smallest set of tokens with this probability mass; 1.0 keeps all tokens.
        top_k: sample from this number of most probable tokens; 0 keeps all tokens.
        seed: seed of sampling. Seed and request id determine an answer, whatever other requests are in the batch.
        stop: texts that end an answer; they are removed from it.

    Raises:
        UserError: a value is out of range.
    """

    max_new_tokens: int = 256
    do_sample: bool = False
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int = 42
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        several = isinstance(self.stop, tuple | list)
        object.__setattr__(self, "stop", tuple(self.stop) if several else (self.stop,))
        for name, kinds in _NUMBERS.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, kinds) or not isfinite(value):
                what = "whole number" if kinds is int else "number"
                raise UserError(f"generation: {name} is {value!r}, use a {what}")
        if not isinstance(self.do_sample, bool):
            raise UserError(f"generation: do_sample is {self.do_sample!r}, use true or false")
        if not all(isinstance(text, str) for text in self.stop):
            raise UserError(f"generation: stop is {self.stop!r}, use texts")
        wrong = [
            (not 1 <= self.max_new_tokens <= MOST, f"max_new_tokens is {self.max_new_tokens}, use 1 to {MOST:,}"),
            (
                self.temperature != 0 and not LOWEST <= self.temperature <= HIGHEST,
                f"temperature is {self.temperature}, use 0 (greedy), or {LOWEST:g} to {HIGHEST:g}",
            ),
            (not 0 < self.top_p <= 1, f"top_p is {self.top_p}, use a value above 0 and up to 1"),
            (not 0 <= self.top_k <= MOST, f"top_k is {self.top_k}, use 0 (all tokens) to {MOST:,}"),
            (not all(self.stop), "stop holds an empty text, which would end every answer; remove it"),
        ]
        for is_wrong, message in wrong:
            if is_wrong:
                raise UserError(f"generation: {message}")

    @property
    def greedy(self) -> bool:
        """Whether the most probable token is taken at every step."""
        return not self.do_sample or self.temperature == 0

    def seed_of(self, request_id: str) -> int:
        """Seed of the random generator of one answer: that of the settings and the id of its request."""
        digest = hashlib.sha256(f"{self.seed}:{request_id}".encode()).digest()
        return int.from_bytes(digest[:7], "big")

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> "GenerationSettings":
        """Settings from the ``generation`` mapping of a recipe.

        Raises:
            UserError: a key does not exist, or a value is out of range.
        """
        known = {field.name for field in fields(cls)}
        if unknown := sorted(set(values) - known):
            raise UserError(f"generation: unknown key {unknown[0]!r}; known keys: {', '.join(sorted(known))}")
        return cls(**values)


@dataclass(frozen=True)
class Request:
    """One question about zero or more media files.

    Args:
        id: identifies the answer; part of the seed of sampling.
        media: files in the order of their tags in the conversation.
        question: text of the question. It may contain stream tags such as ``<video>``; if no turn contains a tag, the
            tags of all media are put before the first user turn.
        history: earlier turns of the conversation, user first.
        options: answers of which the most likely one is taken; none: the answer is generated.
        forced: a given answer: the reply is what the model says in the place of each of its tokens, behind the given
            ones before it (teacher forcing); None: the answer is the model's own.
    """

    id: str
    media: tuple[MediaRef, ...]
    question: str
    history: tuple[Turn, ...] = ()
    options: tuple[str, ...] = ()
    forced: str | None = None


@dataclass(frozen=True)
class TokenLogprobs:
    """Log-probability of a token of an answer, and (token id, log-probability) of the likeliest ones in its place."""

    token: int
    logprob: float
    likeliest: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class Answer:
    """The reply to a request.

    Args:
        id: id of the request.
        text: the reply without special tokens, surrounding white space and the stop text; or the most likely option.
        token_ids: all generated tokens, including an end-of-sequence token.
        finish_reason: what ended the answer: end-of-sequence token, stop text, token limit, or error; "option" where
            one of the request's options was taken, "forced" where the answer was given.
        error: one line that says why there is no answer; None if there is an answer.
        likelihoods: mean log-likelihood per token of each option of the request.
        margin: smallest distance between the logits of the likeliest and the second token, over the tokens of a greedy
            answer, in rounding steps of the dtype (eps times the logit). At 1 or less rounding alone can turn the two
            around. None: not greedy, or not known.
        open: there is no answer for a reason of the machine (`UnreadMediaError`): the request is worth another try.
        untrained: which number of frames its videos have in the place of those that the model was trained with; empty:
            they have one of these.
    """

    id: str
    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    error: str | None = None
    likelihoods: tuple[float, ...] = ()
    margin: float | None = field(default=None, compare=False)
    open: bool = False
    untrained: str = ""

    @classmethod
    def failed(cls, request_id: str, reason: str, open: bool = False) -> "Answer":
        """Answer that says in one line why a request could not be answered."""
        return cls(request_id, "", (), "error", reason, open=open)


@dataclass
class EngineStats:
    """Counters of the work that an engine has done so far.

    Args:
        media: number of media that were asked about, each counted once: a file, or a part of it, as a stream reads it.
        media_loaded: number of media files read and decoded.
        decoded_found: number of files whose decoded frames an earlier run has kept.
        features_found: number of times that stored features were read in the place of a file.
        encodings: number of times that a file went through a tower; once for all questions about it.
        prefixes: number of beginnings of prompts with their media, each counted once.
        prefills: number of prefixes run through the language model, each once for all prompts that begin with it.
        questions: number of answers without an error.
        new_tokens: number of tokens in these answers.
    """

    media: int = 0
    media_loaded: int = 0
    decoded_found: int = 0
    features_found: int = 0
    encodings: int = 0
    prefixes: int = 0
    prefills: int = 0
    questions: int = 0
    new_tokens: int = 0
