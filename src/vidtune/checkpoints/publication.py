"""How the weights of a system are published: checkpoint formats, files of towers, parts named by a config."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from vidtune.checkpoints.formats import CheckpointFormat, JsonDict, TowerFile
from vidtune.errors import UserError


@dataclass(frozen=True)
class NamedParts:
    """What the config.json of a partial checkpoint says about the parts that it does not hold.

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
        """How the tower of that name is published alone. Raises UserError where it is not."""
        if name not in self.towers:
            known = f"known: {', '.join(self.towers)}" if self.towers else "no tower of it is"
            raise UserError(f"tower {name!r} is not published alone ({known})")
        return self.towers[name]
