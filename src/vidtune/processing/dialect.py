"""Dialect of a system: its prompt formats, how it writes moments, which streams read the same file, limits."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import get_args

from vidtune.errors import UserError
from vidtune.processing.added_tokens import AddedToken, TokenStart
from vidtune.processing.layout import Layout
from vidtune.processing.prompts.format import PromptFormat
from vidtune.registry import TIME_RULES
from vidtune.spelling import suggestion


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
        target: streams of a box and of a track, for a system that can be asked about one thing in a video; their tags
            stand in the words of a question, or where a placement of the prompt format says. None: it cannot.
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
    target: tuple[str, str] | None = None
    added_tokens: tuple[AddedToken, ...] = ()


def check_dialect(dialect: Dialect, streams: Collection[str], system: str) -> None:
    """Raise UserError, in one line, for a dialect that cannot be used; layouts are checked by `check_layouts`.

    Args:
        streams: names of the streams of the system.
        system: name of the system, for the message.
    """
    where = f"system {system}"
    for name, prompt in dialect.prompts.items():
        if not isinstance(prompt, PromptFormat):
            raise UserError(f"{where}: prompt format {name!r} is of type {type(prompt).__name__}; give a PromptFormat")
    if dialect.times is not None and dialect.times not in TIME_RULES:
        raise UserError(f"{where}: times {dialect.times!r} is no rule; {suggestion(str(dialect.times), TIME_RULES)}")
    if unknown := next((stream for stream in dialect.max_media if stream not in streams), None):
        raise UserError(f"{where}: max_media: no stream {unknown!r}; {suggestion(unknown, streams)}")
    for stream in dialect.target or ():
        if stream not in streams:
            raise UserError(f"{where}: target: no stream {stream!r}; {suggestion(stream, streams)}")
    for name, prompt in dialect.prompts.items():
        for stream in (placement.stream for placement in prompt.placements):
            if stream not in streams:
                raise UserError(f"{where}: prompt format {name!r}: placements: no stream {stream!r}")
    seen: set[str] = set()
    for token in dialect.added_tokens:
        if not token.text.strip():
            raise UserError(f"{where}: added token {token.text!r} is blank")
        if token.text in seen:
            raise UserError(f"{where}: added token {token.text!r} is listed twice")
        if token.text.removeprefix("<").removesuffix(">") in streams and token.text.startswith("<"):
            raise UserError(f"{where}: added token {token.text!r} is the tag of a stream; choose another text")
        if token.start not in get_args(TokenStart):
            raise UserError(f"{where}: added token {token.text!r}: start {token.start!r}; write mean, zeros or normal")
        seen.add(token.text)
