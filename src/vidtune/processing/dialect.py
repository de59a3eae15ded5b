"""Dialect of a system: its prompt formats, how it writes moments, which streams read the same file, limits."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from vidtune.processing.added_tokens import AddedToken
from vidtune.processing.layout import Layout
from vidtune.processing.prompts.format import PromptFormat


@dataclass(frozen=True)
class Dialect:
    """The part of a system that processing needs.

    Args:
        prompts: prompt formats by name.
        training_prompt: name of the prompt format for training; a recipe may name another one.
        answering_prompt: name of the prompt format for answering; a protocol may name another one.
        max_media: stream -> largest number of files in one sample; streams that are not named have no limit.
        companions: stream -> streams that read the same file. In a prompt, the tokens of the stream are followed by the
            tokens of its companions, if the file has something for them.
        layouts: stream -> what replaces its tag in a prompt; the others: their tokens, then those of their companions.
        times: name of the rule by which moments are written in texts, see :mod:`vidtune.processing.times`; None if the
            system writes no moments.
        positions: name of the rule by which tokens get their positions, see :mod:`vidtune.processing.positions`.
        added_tokens: tokens that the tokenizer of the language model gets in addition, in this order.
    """

    prompts: Mapping[str, PromptFormat]
    training_prompt: str
    answering_prompt: str
    max_media: Mapping[str, int] = field(default_factory=dict)
    companions: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    layouts: Mapping[str, Layout] = field(default_factory=dict)
    times: str | None = None
    positions: str = "sequential"
    added_tokens: tuple[AddedToken, ...] = ()
