"""Checkpoint formats: how a published file's config and key names map to ours, and back.

A format is data that a system owns; reading and writing files is :mod:`vidtune.checkpoints.checkpoints`.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from vidtune.models.config import VideoLMConfig

JsonDict = dict[str, Any]
State = dict[str, Tensor]


@dataclass(frozen=True)
class KeyMap:
    """Reversible renaming of parameter keys by prefix.

    Args:
        prefixes: (their prefix, our prefix) pairs; in either direction the first match wins.
        ignored: patterns (matched from the start) of their keys that carry nothing we need.
        left_out: the same, with what such keys hold; reports name it.
        rewrite: their tensors -> tensors that ``prefixes`` can name, where tensors are stored in another way (fused,
            transposed, repeated); what it does not know passes through. ValueError for what cannot be right.
        restore: the way back.
    """

    prefixes: tuple[tuple[str, str], ...]
    ignored: tuple[str, ...] = ()
    left_out: tuple[tuple[str, str], ...] = ()
    rewrite: Callable[[State], State] | None = None
    restore: Callable[[State], State] | None = None

    def to_ours(self, key: str) -> str | None:
        """Our name of their key; None when the key is ignored or unknown (see :meth:`is_ignored`)."""
        return None if self.is_ignored(key) else _rename(key, self.prefixes)

    def to_theirs(self, key: str) -> str | None:
        """Their name of our key; None when the format has no place for it."""
        return _rename(key, ((ours, theirs) for theirs, ours in self.prefixes))

    def is_ignored(self, key: str) -> bool:
        return any(re.match(pattern, key) for pattern in self.ignored) or self.why_left_out(key) is not None

    def why_left_out(self, key: str) -> str | None:
        """What a key holds that is known and left out; None for any other."""
        return next((what for pattern, what in self.left_out if re.match(pattern, key)), None)


@dataclass(frozen=True)
class TowerFile:
    """How a tower is published alone: as a checkpoint folder, or as one file.

    Args:
        keys: names in the file -> names below the tower.
        read_sizes: settings, shapes -> sizes for ``System.build_config``; ValueError for a tower that is none of ours.
            Of a folder: its config.json, and no shapes. Of a file: the settings that it holds beside its tensors, and
            their shapes by name.
    """

    keys: KeyMap
    read_sizes: Callable[[JsonDict, Mapping[str, tuple[int, ...]]], JsonDict]


def _rename(key: str, prefixes: Iterable[tuple[str, str]]) -> str | None:
    for old, new in prefixes:
        if key.startswith(old):
            return new + key[len(old) :]
    return None


@dataclass(frozen=True)
class CheckpointFormat:
    """One way in which a system's checkpoints are stored.

    Args:
        name: as given to ``vidtune convert --to``.
        keys: parameter names.
        partial: components that such a file holds; empty means the whole model.
        matches: whether a config.json (and the keys beside it) is of this format.
        read_config: their config.json, shapes of their tensors -> ours.
        write_config: ours, and where towers were published by name -> their config.json; ValueError for a model the
            format cannot hold; None if we do not write the format.
        warnings: config -> what a user of such a checkpoint has to know.
        file_name: name of the weight file of a partial format.
        adapter: a LoRA run: low-rank adapters of the language model lie beside the components of ``partial``.
        drawn: patterns of our keys that such a file does not hold and that start from random weights.
        without_towers: such a checkpoint never holds its towers, and is written without them.
    """

    name: str
    keys: KeyMap
    matches: Callable[[JsonDict, Iterable[str]], bool]
    read_config: Callable[[JsonDict, dict[str, tuple[int, ...]]], VideoLMConfig] | None = None
    write_config: Callable[[VideoLMConfig, Mapping[str, str]], JsonDict] | None = None
    partial: tuple[str, ...] = ()
    warnings: Callable[[VideoLMConfig], list[str]] = lambda config: []
    file_name: str = "model.safetensors"
    adapter: bool = False
    drawn: tuple[str, ...] = ()
    without_towers: bool = False
