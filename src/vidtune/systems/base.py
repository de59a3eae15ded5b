"""What a published system is to the rest of the code: numbers, strings and key names; never a script."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from transformers import PreTrainedConfig

from vidtune.checkpoints.formats import CheckpointFormat, JsonDict, KeyMap, TowerFile
from vidtune.media.preprocessing.streams import Preprocessing
from vidtune.models.config import VideoLMConfig
from vidtune.processing.prompts import PromptFormat

Sizes = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class System:
    """A published video language model as a composition of our parts.

    Args:
        name, title, paper, repository: what it is and where it was published.
        prompts: prompt formats by name.
        training_prompt, answering_prompt: names of the formats used unless a recipe or protocol says otherwise.
        build_config: language-model config, sizes of towers and of connectors by name (empty: as published) ->
            whole config; where checkpoints come without their towers, one that is not named is ``absent``.
        preprocessing: whole config -> preprocessing of every stream.
        formats: checkpoint formats, most specific first.
        tower_keys: key map from a stand-alone tower checkpoint to names below the tower.
        read_tower_sizes: config.json of a stand-alone tower checkpoint -> sizes for ``build_config``.
        tower_files: tower name -> how that tower is published alone, where the two above do not say it.
        tower_sizes: config.json of a connectors-only checkpoint -> sizes of towers that it does not name, by tower.
        tower_names: config.json of a connectors-only checkpoint -> folder or hub id of every tower.
        connector_sizes: config.json of a connectors-only checkpoint -> connector sizes for ``build_config``.
        max_media: stream -> most files in one sample.
        companions: stream -> streams that read the same file: wherever the stream's tag stands in a prompt, its tokens
            are followed by those of its companions that the file has.
        times: rule by which moments are written in texts, see :mod:`vidtune.processing.times`; None: none are.
        placeholders: config, stream -> placeholders a tag stood for before expansion (length limits count these).
    """

    name: str
    title: str
    paper: str
    repository: str
    prompts: Mapping[str, PromptFormat]
    training_prompt: str
    answering_prompt: str
    build_config: Callable[[PreTrainedConfig, Sizes, Sizes], VideoLMConfig]
    preprocessing: Callable[[VideoLMConfig], dict[str, Preprocessing]]
    formats: tuple[CheckpointFormat, ...]
    tower_keys: KeyMap = field(default_factory=lambda: KeyMap(()))
    read_tower_sizes: Callable[[dict[str, Any]], dict[str, Any]] = lambda config: {}
    tower_files: Mapping[str, TowerFile] = field(default_factory=dict)
    tower_sizes: Callable[[dict[str, Any]], dict[str, dict[str, Any]]] = lambda config: {}
    tower_names: Callable[[dict[str, Any]], dict[str, str]] = lambda config: {}
    connector_sizes: Callable[[dict[str, Any]], dict[str, Any]] = lambda config: {}
    max_media: Mapping[str, int] = field(default_factory=dict)
    companions: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    times: str | None = None
    placeholders: Callable[[VideoLMConfig, str], int] = lambda config, stream: 1

    def tower_file(self, name: str) -> TowerFile:
        """How the tower of that name is published alone."""

        def read_sizes(settings: JsonDict, shapes: Mapping[str, tuple[int, ...]]) -> JsonDict:
            if shapes:
                raise ValueError("a file tells nothing about this tower; give the folder with its config.json")
            return self.read_tower_sizes(settings)

        return self.tower_files.get(name, TowerFile(self.tower_keys, read_sizes))
