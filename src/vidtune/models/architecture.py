"""Architecture of a system: the function that builds its config, and the preprocessing of each stream."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedConfig

from vidtune.media.preprocessing.kinds import Preprocessing
from vidtune.models.config import VideoLMConfig

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
