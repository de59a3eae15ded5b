"""Settings in JSON files that other programs wrote: each one is known at a known value, or refused by its name.

A setting that a reader does not know may change what the weights compute; so may an unknown value of a known one.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from vidtune.errors import UserError
from vidtune.spelling import suggestion

OFF: tuple[Any, ...] = (None, False, [], {}, "")
"""Values by which writers say that a feature is not used."""
SHOWN = 80
"""Characters of a value that a message shows."""


class StrangeSettingError(UserError):
    """A setting that is not known, or not at this value."""


@dataclass(frozen=True)
class KnownSettings:
    """The settings that one kind of JSON file may hold.

    Args:
        read: keys that the reader reads; it checks their values itself.
        only: key -> the values that it may have.
        ignored: reason -> keys that do not change what the model computes; ``*`` matches any characters.
        nested: key -> settings of the object that stands there.
        why: key -> what its other values mean, for the message.
    """

    read: frozenset[str] = frozenset()
    only: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    ignored: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    nested: Mapping[str, "KnownSettings"] = field(default_factory=dict)
    why: Mapping[str, str] = field(default_factory=dict)

    def __or__(self, other: "KnownSettings") -> "KnownSettings":
        """Both together; what the other says of a key comes first, but what it ignores stays limited."""
        only = {key: values for key, values in self.only.items() if key not in {*other.read, *other.nested}}
        nested = {key: inner for key, inner in self.nested.items() if key not in {*other.read, *other.only}}
        reasons = {reason: self.ignored.get(reason, ()) + keys for reason, keys in other.ignored.items()}
        return KnownSettings(
            self.read | other.read,
            {**only, **other.only},
            {**self.ignored, **reasons},
            {**nested, **other.nested},
            {**self.why, **other.why},
        )

    def require(self, settings: Mapping[str, Any], where: str) -> list[str]:
        """Return the unknown settings that are switched off, for a warning.

        Args:
            settings: content of the file.
            where: path of the file, for the message.

        Raises:
            StrangeSettingError: a setting that is not known, or not at this value.
        """
        self.require_values(settings, where)
        unknown = []
        for key, value in settings.items():
            if key in self.nested:
                if isinstance(value, dict):
                    unknown += [f"{key}.{inner}" for inner in self.nested[key].require(value, f"{where}: {key}")]
                elif not _is_off(value):
                    raise StrangeSettingError(f"{where}: {key} is {_shown(value)}; vidtune can use an object only")
            elif not self.knows(key):
                if not _is_off(value):
                    raise StrangeSettingError(
                        f"{where}: {key} is {_shown(value)}; vidtune does not know this setting, which may change what "
                        f"the model computes{self._nearest(key)}; if it does not, remove it"
                    )
                unknown.append(key)
        return unknown

    def require_values(self, settings: Mapping[str, Any], where: str) -> None:
        """Raise StrangeSettingError for a setting of ``only`` that is not at one of its values."""
        for key, known in self.only.items():
            if key in settings and not any(_equal(settings[key], value) for value in known):
                raise StrangeSettingError(f"{where}: {key} is {_shown(settings[key])}; {self._advice(key)}")

    def knows(self, key: str) -> bool:
        """Whether a key is one of these settings, at whatever value."""
        ignored = (name for keys in self.ignored.values() for name in keys)
        return key in {*self.read, *self.only, *self.nested} or any(fnmatchcase(key, name) for name in ignored)

    def _names(self) -> list[str]:
        ignored = [name for keys in self.ignored.values() for name in keys if "*" not in name]
        return sorted({*self.read, *self.only, *self.nested, *ignored})

    def _nearest(self, key: str) -> str:
        near = suggestion(key, self._names())
        return f" ({near})" if near.startswith("did") else ""

    def _advice(self, key: str) -> str:
        known = " or ".join(_shown(value) for value in self.only[key])
        return f"vidtune can use {known} only" + (f": {self.why[key]}" if key in self.why else "")


def _equal(one: Any, other: Any) -> bool:
    """Whether two values of JSON are equal; true is not 1."""
    return isinstance(one, bool) == isinstance(other, bool) and bool(one == other)


def _is_off(value: Any) -> bool:
    return any(_equal(value, off) for off in OFF)


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
