"""Config of a VideoLM: towers, connectors, streams and the language model in one transformers config."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn
from transformers import AutoConfig, PreTrainedConfig

from vidtune.errors import UserError
from vidtune.models.connectors.base import ConnectorConfig, connector_config
from vidtune.models.distillation import AlignmentConfig
from vidtune.models.language_model.families import config_class
from vidtune.models.language_model.layer_program import LayerProgram
from vidtune.models.towers.absent import AbsentTower
from vidtune.models.towers.base import TowerConfig, tower_config, with_sizes, written
from vidtune.processing.stream_settings import Measure, feature_shape, is_tokenwise, tokens_of
from vidtune.registry import (
    CONNECTORS,
    DROP_RULES,
    LANGUAGE_MODELS,
    POSITION_RULES,
    SYSTEMS,
    TIME_RULES,
    TOWERS,
    Registry,
    packages_of,
    require_packages,
)

ADDED_TOKENS = "language_model.added_tokens"
"""Name of the component that is made of the rows of added tokens, in ``train`` and in the names of weights."""
EXAMPLE = '{"after": 18, "drop": ["video"], "keep": 0.25, "rule": "attention", "compact": true}'
"""A step of a layer program, for messages."""
_RARE = ("added_tokens", "layer_program", "packages")


class VideoLMConfig(PreTrainedConfig):
    """A video language model as a composition of parts.

    Args:
        system: name of the system that defines prompts and preprocessing.
        text_config: config of any causal language model of transformers.
        towers: name -> ``{"type": ..., **sizes}``, see :mod:`vidtune.models.towers`. With ``"absent": "name"`` the
            model does not have the tower and reads stored features; its weights are published under that name.
        connectors: name -> ``{"type": ..., **sizes}``, see :mod:`vidtune.models.connectors`.
        streams: name -> ``{"tower": name, "connector": name}``; several streams may share a tower. With
            ``"taps": [14, 20]`` the connector gets these hidden states of the tower, (K, N, C), in place of its output.
            With ``"connector_settings": {"group": 4}`` the connector condenses the stream's features with these
            settings in place of its own; streams that share a connector then share its weights all the same.
            The k-th stream by alphabet owns placeholder id ``text_config.vocab_size + k``, which is outside the
            vocabulary.
        alignments: stream -> sizes of the head that aligns its hidden states with a teacher's features, see
            :mod:`vidtune.models.distillation`; empty without distillation.
        layer_program: steps between the decoder layers, see :mod:`vidtune.models.language_model.layer_program`.
        added_tokens: text -> id of each token that the system adds to the tokenizer of the language model.

    Raises:
        ValueError: a value is of another type than said here, a stream names a tower, connector or hidden state that
            does not exist, or changes a setting of its connector that does not belong to what condenses.
    """

    model_type = "vidtune"
    sub_configs = {"text_config": AutoConfig}  # noqa: RUF012

    def __init__(
        self,
        system: str = "",
        text_config: PreTrainedConfig | dict[str, Any] | None = None,
        towers: dict[str, dict[str, Any]] | None = None,
        connectors: dict[str, dict[str, Any]] | None = None,
        streams: dict[str, dict[str, Any]] | None = None,
        alignments: dict[str, dict[str, Any]] | None = None,
        added_tokens: dict[str, int] | None = None,
        layer_program: list[dict[str, Any]] | None = None,
        **kwargs: Any,
    ) -> None:
        packages = kwargs.pop("packages", {})
        _require_each("packages", packages, str)
        require_packages(packages or {})
        _require("system", system, str)
        for group, parts in (("towers", towers), ("connectors", connectors), ("alignments", alignments)):
            _require_each(group, parts, dict)
        _require_streams(streams)
        _require_each("added_tokens", added_tokens, int)
        _require_each("layer_program", layer_program, dict, within=list)
        self.system = system
        self.text_config: PreTrainedConfig = _text_config(text_config)
        self.towers = dict(towers or {})
        self.connectors = dict(connectors or {})
        self.streams = dict(streams or {})
        self.alignments = dict(alignments or {})
        self.added_tokens = dict(sorted((added_tokens or {}).items(), key=lambda item: item[1]))
        self.layer_program = list(layer_program or [])
        for name, stream in self.streams.items():
            if stream["tower"] not in self.towers or stream["connector"] not in self.connectors:
                raise ValueError(f"stream {name!r} names a tower or connector that is not there: {stream}")
            self._check_connector_settings(name)
            self._check_taps(name)
        for aligned in self.alignments:
            self.alignment(aligned)
        if self.layer_program:
            self.program  # noqa: B018 - raises ValueError where it cannot be read
        kwargs["tie_word_embeddings"] = bool(self.text_config.tie_word_embeddings)
        super().__init__(**kwargs)

    def to_dict(self) -> dict[str, Any]:
        """Content of config.json. What few models have stands there only if it is not empty.

        ``packages`` names the packages of parts that are not of this package.
        """
        parts: list[tuple[Registry[Any], str]] = [
            (SYSTEMS, self.system),
            (LANGUAGE_MODELS, self.text_config.model_type),
            *((TOWERS, spec.get("type", "")) for spec in self.towers.values()),
            *((CONNECTORS, spec.get("type", "")) for spec in self.connectors.values()),
            *((DROP_RULES, step.get("rule", "uniform")) for step in self.layer_program if "drop" in step),
            *_rules_of(self.system),
        ]
        values: dict[str, Any] = {**super().to_dict(), "packages": packages_of(parts)}
        return {key: value for key, value in values.items() if value or key not in _RARE}

    @property
    def program(self) -> LayerProgram:
        """The layer program, ready to run. Raises ValueError where it cannot be read."""
        return LayerProgram.parse(self.layer_program, list(self.streams), self.text_config.num_hidden_layers)

    def read_program(self, steps: Sequence[Mapping[str, Any]]) -> LayerProgram:
        """Another layer program for this model, given by a user. Raises UserError where it cannot be read."""
        if not isinstance(steps, list | tuple) or not all(isinstance(step, Mapping) for step in steps):
            raise UserError(f"layer_program: {steps!r}; give a list of steps, such as {EXAMPLE}")
        try:
            return LayerProgram.parse(steps, list(self.streams), self.text_config.num_hidden_layers)
        except ValueError as error:
            raise UserError(f"{error}; a step looks like {EXAMPLE}") from None

    @property
    def placeholder_ids(self) -> dict[str, int]:
        """Placeholder token id of every stream, by alphabet: a saved config does not keep the order of streams."""
        return {name: self.text_config.vocab_size + k for k, name in enumerate(sorted(self.streams))}

    @property
    def absent_towers(self) -> list[str]:
        """Names of the towers that the model does not have."""
        return [name for name, spec in self.towers.items() if spec.get("absent")]

    @property
    def component_names(self) -> list[str]:
        """Names of the parts that can be trained, as the ``train`` mapping of a recipe uses them."""
        towers = [name for name in self.towers if name not in self.absent_towers]
        groups = {"towers": towers, "connectors": self.connectors, "alignments": self.alignments}
        named = [f"{group}.{name}" for group, names in groups.items() for name in names]
        return [*named, *([ADDED_TOKENS] if self.added_tokens else []), "language_model"]

    def tower(self, name: str) -> TowerConfig:
        """Config of a tower, also of an absent one. Raises ValueError where sizes contradict; names the tower."""
        try:
            return tower_config(self.tower_spec(name))
        except ValueError as error:
            raise ValueError(f"towers.{name}: {error}") from None

    def tower_spec(self, name: str) -> dict[str, Any]:
        """Type and sizes of a tower, without the note that the model does not have it."""
        return {key: value for key, value in self.towers[name].items() if key != "absent"}

    def build_tower(self, name: str) -> nn.Module:
        """A new tower with random weights, or an :class:`AbsentTower`."""
        absent = self.towers[name].get("absent")
        return AbsentTower(name, absent) if absent else self.tower(name).build()

    def connector(self, name: str) -> ConnectorConfig:
        """Config of a connector."""
        return connector_config(self.connectors[name])

    def connector_spec_of(self, stream: str) -> dict[str, Any]:
        """Type and sizes of the connector of a stream, with the settings that the stream changes."""
        parts = self.streams[stream]
        return {**self.connectors[parts["connector"]], **parts.get("connector_settings", {})}

    def connector_of(self, stream: str) -> ConnectorConfig:
        """Config of the connector of a stream as the stream uses it: how features are condensed, what they become."""
        return connector_config(self.connector_spec_of(stream))

    def alignment(self, stream: str) -> AlignmentConfig:
        """Config of the alignment head of a stream. Raises ValueError for sizes that it does not have."""
        sizes = self.alignments[stream]
        if "layers" in sizes:
            _require_each(f"alignments.{stream}.layers", sizes["layers"], int, within=list)
        return with_sizes(f"alignments: stream {stream!r}", AlignmentConfig, sizes)

    def taps(self, stream: str) -> tuple[int, ...]:
        """Numbers of the hidden states of its tower that a stream reads; empty: it reads the tower's output."""
        return tuple(self.streams[stream].get("taps", ()))

    def _check_connector_settings(self, stream: str) -> None:
        changed = self.streams[stream].get("connector_settings", {})
        if not changed:
            return
        name = self.streams[stream]["connector"]
        allowed = getattr(self.connector(name), "condensing", ())
        if wrong := next((setting for setting in changed if setting not in allowed), None):
            can = f"{', '.join(allowed)} can differ" if allowed else "it has no settings that can differ"
            raise ValueError(f"stream {stream!r}: connector_settings: {wrong!r} of connector {name!r}: {can}")
        try:
            self.connector_of(stream)
        except ValueError as error:
            raise ValueError(f"stream {stream!r}: connector_settings: {error}") from None

    def _check_taps(self, stream: str) -> None:
        taps = self.taps(stream)
        if not taps:
            return
        kind = self.towers[self.streams[stream]["tower"]].get("type")
        states = getattr(self.tower(self.streams[stream]["tower"]), "num_states", 0)
        if not states:
            raise ValueError(f"stream {stream!r}: taps {list(taps)}: a tower of type {kind!r} has none")
        if outside := [tap for tap in taps if type(tap) is not int or not 0 <= tap < states]:
            raise ValueError(f"stream {stream!r}: taps {outside}: its tower has hidden states 0 to {states - 1}")
        if is_tokenwise(self.connector_of(stream)):
            raise ValueError(f"stream {stream!r}: taps {list(taps)}: its connector reads one hidden state only")

    def feature_shape(self, stream: str, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of the features of one item of a stream, as its connector takes them and as they are stored.

        Args:
            shape: shape of the item, without batch dimension.
        """
        tower = self.tower(self.streams[stream]["tower"])
        return feature_shape(tower, self.connector_of(stream), shape, self.taps(stream))

    def measure(self, stream: str) -> Measure:
        """Function from the shape of an item of a stream to what it becomes."""
        parts = self.streams[stream]
        specs = {"tower": self.tower_spec(parts["tower"]), "connector": self.connector_spec_of(stream)}
        return Measure(**specs, taps=self.taps(stream))

    def measures(self) -> dict[str, Measure]:
        """`measure` of every stream, as :meth:`VideoLMProcessor.measuring` takes them."""
        return {stream: self.measure(stream) for stream in self.streams}

    def num_tokens(self, stream: str, shape: tuple[int, ...]) -> int:
        """Number of embeddings of one item of a stream; ``shape`` is that of the item, without batch dimension."""
        return tokens_of(self.connector_of(stream), self.feature_shape(stream, shape))


def _require(where: str, value: Any, kind: type) -> None:
    """Raise ValueError where a value of config.json is of another type; names its place."""
    allowed = _ALSO.get(kind, kind)
    if not isinstance(value, allowed) or isinstance(value, bool):
        raise ValueError(f"{where} is {written(value)[:80]}; expected {_NAMES[kind]}")


def _require_each(group: str, values: Any, kind: type, within: type = dict) -> None:
    """Raise ValueError where a group, which may be None, or one of its values is of another type."""
    if values is None:
        return
    _require(group, values, within)
    named = values.items() if within is dict else enumerate(values)
    for name, value in named:
        _require(f"{group}.{name}" if within is dict else f"{group}[{name}]", value, kind)


def _require_streams(streams: Any) -> None:
    _require_each("streams", streams, dict)
    for name, stream in (streams or {}).items():
        for key, kind in _OF_STREAM.items():
            if key in stream or kind is str:
                _require(f"streams.{name}.{key}", stream.get(key), kind)


_ALSO: dict[type, Any] = {dict: Mapping, list: list | tuple}
_NAMES: dict[type, str] = {dict: "an object", list: "a list", str: "a text", int: "a whole number"}
_OF_STREAM: dict[str, type] = {"tower": str, "connector": str, "taps": list, "connector_settings": dict}
"""Types of the values of a stream; the texts must be there."""


def _rules_of(system: str) -> list[tuple[Registry[Any], str]]:
    """Rules that the dialect of a system names."""
    if system not in SYSTEMS:
        return []
    dialect = SYSTEMS[system].dialect
    return [(POSITION_RULES, dialect.positions), *([(TIME_RULES, dialect.times)] if dialect.times else [])]


def _text_config(given: PreTrainedConfig | dict[str, Any] | None) -> PreTrainedConfig:
    if isinstance(given, PreTrainedConfig):
        return given
    if given is not None:
        _require("text_config", given, dict)
    sizes = dict(given or {"model_type": "llama"})
    return config_class(sizes.pop("model_type", ""))(**sizes)
