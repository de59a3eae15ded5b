"""What is asked, how it is decoded, and what comes back."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

from vidtune.data.sample import MediaRef, Turn
from vidtune.errors import UserError

FinishReason = Literal["eos", "stop", "length", "error"]


@dataclass(frozen=True)
class GenerationSettings:
    """How answers are decoded.

    Args:
        max_new_tokens: limit per answer; the model's context length may end an answer earlier.
        do_sample: draw tokens; otherwise, and at temperature 0, the most probable token is taken.
        temperature: divides the logits before drawing.
        top_p: draw from the smallest set of tokens that holds this probability mass; 1.0 keeps all.
        top_k: draw from this many most probable tokens; 0 keeps all.
        seed: together with a request's id it fixes every draw of its answer, whatever else is in the batch.
        stop: texts that end an answer; they are cut off.

    Raises:
        UserError: a value out of range.
    """

    max_new_tokens: int = 256
    do_sample: bool = False
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int = 42
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "stop", (self.stop,) if isinstance(self.stop, str) else tuple(self.stop))
        wrong = [
            (self.max_new_tokens < 1, f"max_new_tokens is {self.max_new_tokens}, use 1 or more"),
            (self.temperature < 0, f"temperature is {self.temperature}, use 0 (greedy) or more"),
            (not 0 < self.top_p <= 1, f"top_p is {self.top_p}, use a value above 0 and up to 1"),
            (self.top_k < 0, f"top_k is {self.top_k}, use 0 (all tokens) or more"),
            (not all(self.stop), "stop holds an empty text, which would end every answer; remove it"),
        ]
        for is_wrong, message in wrong:
            if is_wrong:
                raise UserError(f"generation: {message}")

    @property
    def greedy(self) -> bool:
        return not self.do_sample or self.temperature == 0

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> "GenerationSettings":
        """Settings from a recipe's ``generation`` mapping.

        Raises:
            UserError: a key that does not exist, or a value out of range.
        """
        known = {field.name for field in fields(cls)}
        if unknown := sorted(set(values) - known):
            raise UserError(f"generation: unknown key {unknown[0]!r}; known keys: {', '.join(sorted(known))}")
        return cls(**values)


@dataclass(frozen=True)
class Request:
    """One question about zero or more media files.

    Args:
        id: comes back in the answer; seeds its sampling.
        media: files in the order of their tags in the conversation.
        question: may hold stream tags such as ``<video>``; without any, the tags of all media are put before it.
        history: earlier turns of the conversation, beginning with the user's.
    """

    id: str
    media: tuple[MediaRef, ...]
    question: str
    history: tuple[Turn, ...] = ()


@dataclass(frozen=True)
class Answer:
    """The reply to a request.

    Args:
        text: the reply without special tokens, surrounding blanks and the stop text.
        token_ids: every token the model gave, an end-of-sequence token included.
        finish_reason: end-of-sequence token, stop text, token limit, or error.
        error: one line saying why there is no answer; None when there is one.
    """

    id: str
    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    error: str | None = None


@dataclass
class EngineStats:
    """What an engine has done so far.

    Args:
        media_loaded: media files read and decoded.
        encodings: times that media went through towers and connectors.
        prefills: prefixes run through the language model.
        questions: answers given without error.
        new_tokens: tokens in these answers.
    """

    media_loaded: int = 0
    encodings: int = 0
    prefills: int = 0
    questions: int = 0
    new_tokens: int = 0
