"""Architecture of a system: the function that builds its config, and the preprocessing of each stream."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedConfig

from vidtune.errors import UserError, errors_of
from vidtune.media.preprocessing.kinds import Preprocessing
from vidtune.models.config import VideoLMConfig
from vidtune.registry import SYSTEMS

Sizes = Mapping[str, Mapping[str, Any]]
"""Name of a component -> sizes that differ from the published ones."""


@dataclass(frozen=True)
class Architecture:
    """The part of a system that models need.

    Args:
        build_config: config of the language model, sizes of towers, sizes of connectors -> config of the whole model.
            A component without sizes has the published ones. If checkpoints come without their towers, a tower without
            sizes is ``absent``. Raises ValueError for sizes that contradict each other.
        preprocessing: config of the whole model -> preprocessing of every stream.
        placeholders: config, stream -> number of placeholders of one media tag before expansion, which the length
            limits of published code count.
    """

    build_config: Callable[[PreTrainedConfig, Sizes, Sizes], VideoLMConfig]
    preprocessing: Callable[[VideoLMConfig], dict[str, Preprocessing]]
    placeholders: Callable[[VideoLMConfig, str], int] = lambda config, stream: 1


def composed_config(
    system: str, text_config: PreTrainedConfig, towers: Sizes, connectors: Sizes, where: str
) -> VideoLMConfig:
    """The config of a model that a system makes of its parts, of which every part can be built.

    Args:
        where: place of the sizes, for messages.

    Raises:
        UserError: sizes that contradict each other, or a system whose code makes no such config.
    """
    try:
        with errors_of(f"system {system}: build_config fails", ValueError, TypeError):
            config = SYSTEMS[system].architecture.build_config(text_config, towers, connectors)
        require_config(config, system, "build_config")
        for name in config.towers:
            config.tower(name)
        for name in config.connectors:
            config.connector(name)
    except (ValueError, TypeError) as error:
        raise UserError(f"{where}: {' '.join(str(error).split())}") from None
    return config


def require_config(config: object, system: str, what: str) -> None:
    """Raise UserError for what a system's own code built, where it is no config of that system."""
    if not isinstance(config, VideoLMConfig):
        raise UserError(f"system {system}: {what} returns {type(config).__name__}; expected a VideoLMConfig")
    if config.system != system:
        raise UserError(f"system {system}: {what} makes a config of system {config.system!r}; write system={system!r}")
