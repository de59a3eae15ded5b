"""How a system speaks: its prompt formats, how it writes moments, which streams accompany which, limits."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from vidtune.processing.prompts import PromptFormat


@dataclass(frozen=True)
class Dialect:
    """What processing needs to know of a system.

    Args:
        prompts: prompt formats by name.
        training_prompt: name of the format used in training unless a recipe names another one.
        answering_prompt: name of the format used in answering unless a protocol names another one.
        max_media: stream -> largest number of files in one sample; streams that are not named have no limit.
        companions: stream -> streams that read the same file: wherever the stream's tag stands in a prompt, its tokens
            are followed by those of its companions that the file has.
        times: name of the rule by which moments are written in texts, see :mod:`vidtune.processing.times`; None: the
            system writes no moments.
    """

    prompts: Mapping[str, PromptFormat]
    training_prompt: str
    answering_prompt: str
    max_media: Mapping[str, int] = field(default_factory=dict)
    companions: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    times: str | None = None
