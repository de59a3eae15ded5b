"""How the weights of a system are published: key maps, checkpoint formats, files of towers, parts named by a config.

All of this is data that a system owns. Files are read in :mod:`vidtune.checkpoints.recognise` and written in
:mod:`vidtune.checkpoints.write`.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from pydantic import ValidationError
from torch import Tensor

from vidtune.checkpoints.files.settings import KnownSettings
from vidtune.errors import UserError
from vidtune.media.preprocessing.kinds import Preprocessing
from vidtune.models.config import VideoLMConfig
from vidtune.recipe.mistakes import first_mistake

JsonDict = dict[str, Any]
State = dict[str, Tensor]
Shapes = Mapping[str, tuple[int, ...]]
PROCESSOR_FILES = ("processor_config.json", "preprocessor_config.json", "video_preprocessor_config.json")
"""Names under which transformers saves the settings of a processor."""
CONFIG_ERRORS = (
    TypeError,
    ValueError,
    LookupError,
    AttributeError,
    ArithmeticError,
    AssertionError,
    RuntimeError,  # RecursionError too
    StrictDataclassError,
)
"""Errors that values of a wrong type or size in a config.json lead to."""
_OTHER_TYPE = re.compile(
    r"Validation error for field '(?P<key>\w+)': \w+: Field '(?P=key)' "
    r"(expected (?P<type>\w+), got \w+ \(value: (?P<value>.*)\)$"
    r"|with value (?P<other>.*) doesn't match any type in (?P<types>.*?)\. Errors: )"
)
"""How transformers says that a value is of another type than the setting."""
_TYPES = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "a text", "NoneType": "null"}
_TYPES |= {"list": "a list", "tuple": "a list", "dict": "an object"}
_SHOWN = 80
"""Characters of a value that a message shows."""


def in_plain_words(error: Exception) -> str:
    """Return what is wrong with a setting of a config.json, as one line.

    Args:
        error: one of CONFIG_ERRORS.
    """
    if isinstance(error, KeyError):
        return f"does not tell {error}"
    if isinstance(error, ValidationError):
        return first_mistake(error)
    reason = " ".join(str(error).split())
    if found := re.match(r"property '(\w+)' of '(\w+)' object has no setter", reason):
        return f"{found[1]} follows from other settings of a {found[2]} and is none of its own; remove it"
    if found := _OTHER_TYPE.search(reason):
        names = re.findall(r"\w+(?=\[|'|,|\)|$)", found["type"] or found["types"])
        expected = " or ".join(dict.fromkeys(_TYPES[name] for name in names if name in _TYPES))
        value = (found["value"] or found["other"])[:_SHOWN]
        return f"{reason[: found.start()]}{found['key']} is {value}; expected {expected or 'another type'}"
    return reason or type(error).__name__


@dataclass(frozen=True)
class KeyMap:
    """Reversible renaming of parameter keys by prefix.

    Args:
        prefixes: pairs (their prefix, our prefix); in either direction the first match is used.
        ignored: patterns, matched from the start, of their keys that we do not need.
        left_out: pairs of such a pattern and what these keys hold, which reports name.
        rewrite: function from their tensors to tensors that ``prefixes`` can rename, for tensors that are stored in
            another way (fused, transposed, repeated); other tensors pass through. ValueError for wrong tensors.
        restore: the inverse of ``rewrite``.
    """

    prefixes: tuple[tuple[str, str], ...]
    ignored: tuple[str, ...] = ()
    left_out: tuple[tuple[str, str], ...] = ()
    rewrite: Callable[[State], State] | None = None
    restore: Callable[[State], State] | None = None

    def to_ours(self, key: str) -> str | None:
        """Return our name of their key; None when the key is ignored or unknown (see :meth:`is_ignored`)."""
        return None if self.is_ignored(key) else _rename(key, self.prefixes)

    def to_theirs(self, key: str) -> str | None:
        """Return their name of our key; None when the format has no place for it."""
        return _rename(key, ((ours, theirs) for theirs, ours in self.prefixes))

    def is_ignored(self, key: str) -> bool:
        """Whether a key is known and not needed."""
        return any(re.match(pattern, key) for pattern in self.ignored) or self.why_left_out(key) is not None

    def why_left_out(self, key: str) -> str | None:
        """Return what a key holds if it is known and left out; None for any other key."""
        return next((what for pattern, what in self.left_out if re.match(pattern, key)), None)


@dataclass(frozen=True)
class TowerFile:
    """How a tower is published alone: as a checkpoint folder, or as one file.

    Args:
        keys: key map from the names in the file to the names below the tower.
        read_sizes: function (settings, shapes) -> sizes for :attr:`Architecture.build_config`; ValueError for a tower
            of another kind. For a folder it gets the config.json and no shapes; for a file the settings that the file
            holds beside its tensors, and the shapes of the tensors by name.
        settings: settings that the config.json of a folder may hold; None: any.
    """

    keys: KeyMap
    read_sizes: Callable[[JsonDict, Mapping[str, tuple[int, ...]]], JsonDict]
    settings: KnownSettings | None = None


def _rename(key: str, prefixes: Iterable[tuple[str, str]]) -> str | None:
    for old, new in prefixes:
        if key.startswith(old):
            return new + key[len(old) :]
    return None


@dataclass(frozen=True)
class CheckpointFormat:
    """One way in which a system's checkpoints are stored.

    Args:
        name: name for ``vidtune convert --to``.
        keys: key map of the parameters.
        matches: function (config.json, shapes of the tensors by name) -> whether a checkpoint is of this format. All
            systems are asked; a checkpoint that two of them claim is refused until the user names one.
        read_config: function (their config.json, shapes of their tensors) -> our config.
        write_config: function (our config, places of published towers by name) -> their config.json; ValueError for a
            model that the format cannot hold. None if we do not write the format.
        read_preprocessing: function (JSON files of their processor by name, our config) -> preprocessing of the streams
            for which these files differ from what the system prescribes. The files are those of
            :data:`PROCESSOR_FILES` that lie beside the weights; it is not called where there are none.
        partial: components that such a file holds; empty: the whole model.
        warnings: function from the config to warnings to show to the user.
        file_name: name of the weight file of a partial format.
        adapter: whether it is a LoRA run: low-rank adapters of the language model beside the components of ``partial``.
        on_whole_models: whether such a run stands on a whole model of the system, which has a checkpoint of its own;
            otherwise on the published parts of one. It holds the components of ``partial`` whole.
        drawn: patterns of our keys that such a file does not hold; these weights are drawn at random.
        take_settings: of what stands on a model: function (config of that model, its own config.json, shapes of its
            tensors by their name in a whole model) that puts what these say into the config; ValueError where they
            contradict the model. None: the config below stays as it is.
        difference: whether its tensors of the language model are differences to a base, which the user names: see
            :mod:`vidtune.checkpoints.parts.difference`. ``partial`` names the language model, and what else is in the
            file. A longer vocabulary than that of the base stands in config.json as ``vocab_size``.
        whole_matrices: whether rows of added tokens (``language_model.added_tokens`` in ``partial``) are written with
            all other rows of their matrix, for code that copies whole matrices. Either form is read.
        without: components that such a checkpoint never holds, and is written without, such as ``towers`` or
            ``connectors.audio``.
        settings: settings that its config.json may hold; None: any.
        certain: function like ``matches`` -> whether a checkpoint that matches says that it is of this system. One that
            does not, such as a projector with common names, is taken only where the user, or what it stands on, names
            the system.
    """

    name: str
    keys: KeyMap
    matches: Callable[[JsonDict, Shapes], bool]
    read_config: Callable[[JsonDict, dict[str, tuple[int, ...]]], VideoLMConfig] | None = None
    write_config: Callable[[VideoLMConfig, Mapping[str, str]], JsonDict] | None = None
    read_preprocessing: Callable[[Mapping[str, JsonDict], VideoLMConfig], Mapping[str, Preprocessing]] | None = None
    partial: tuple[str, ...] = ()
    warnings: Callable[[VideoLMConfig], list[str]] = lambda config: []
    file_name: str = "model.safetensors"
    adapter: bool = False
    on_whole_models: bool = False
    drawn: tuple[str, ...] = ()
    take_settings: Callable[[VideoLMConfig, JsonDict, Shapes], None] | None = None
    whole_matrices: bool = False
    difference: bool = False
    without: tuple[str, ...] = ()
    settings: KnownSettings | None = None
    certain: Callable[[JsonDict, Shapes], bool] = lambda config, shapes: True

    @property
    def holds_connectors_alone(self) -> bool:
        """Whether such a file holds connectors and no part of a language model."""
        return bool(self.partial) and not self.adapter and not self.difference


@dataclass(frozen=True)
class NamedParts:
    """Parts that the config.json of a partial checkpoint names, but that the checkpoint does not hold.

    Args:
        towers: tower -> place of its weights (folder or hub id), or its sizes where it names no place.
        connectors: connector -> sizes for :attr:`Architecture.build_config`.
    """

    towers: Mapping[str, str | JsonDict] = field(default_factory=dict)
    connectors: Mapping[str, JsonDict] = field(default_factory=dict)

    @property
    def tower_places(self) -> dict[str, str]:
        """Tower -> folder or hub id of its weights, for the towers that the config names."""
        return {name: place for name, place in self.towers.items() if isinstance(place, str)}


@dataclass(frozen=True)
class Publication:
    """What checkpoints need to know of a system.

    Args:
        formats: checkpoint formats, most specific first.
        towers: tower -> how that tower is published alone.
        teachers: stream -> how the teacher of its distillation is published alone.
        named_parts: config.json of a partial checkpoint -> the parts that it names.
    """

    formats: tuple[CheckpointFormat, ...]
    towers: Mapping[str, TowerFile] = field(default_factory=dict)
    teachers: Mapping[str, TowerFile] = field(default_factory=dict)
    named_parts: Callable[[dict[str, Any]], NamedParts] = lambda config: NamedParts()

    def tower(self, name: str) -> TowerFile:
        """Return how the tower of that name is published alone. Raises UserError where it is not."""
        if name not in self.towers:
            known = f"known: {', '.join(self.towers)}" if self.towers else "no tower of it is"
            raise UserError(f"tower {name!r} is not published alone ({known})")
        return self.towers[name]
