"""Registries: parts of vidtune by name, loaded when they are first asked for; other packages add parts of their own.

A module of this package lists its own parts in ``PARTS`` (name -> ``"module:attribute"``). Another package lists parts
as entry points of the registry's group, such as ``vidtune.systems``, or calls :meth:`Registry.register`.
"""

from collections.abc import Iterator, Mapping
from importlib import import_module
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from vidtune.errors import UserError
from vidtune.spelling import suggestion

if TYPE_CHECKING:
    from vidtune.evaluation.benchmarks.base import Benchmark
    from vidtune.evaluation.judges.base import Judge
    from vidtune.media.preprocessing.frame_sampling import SamplingRule
    from vidtune.processing.times import TimeRule
    from vidtune.systems.base import System

Part = TypeVar("Part")


class UnknownNameError(UserError, KeyError):
    """A name that no part of a registry has."""

    __str__ = Exception.__str__


class Registry(Mapping[str, Part], Generic[Part]):
    """The parts of one kind by name, in the order in which they were listed.

    Args:
        kind: what one part is called in messages, such as ``"system"``.
        room: module whose ``PARTS`` lists the parts of this package.
        group: name of the entry points by which other packages list theirs.
        prefix: what the names of these entry points begin with, where several registries share a group.

    Raises:
        UserError: a name that is not known (the nearest known one is named), a name that two packages use, or a part
            that cannot be imported.
    """

    def __init__(self, kind: str, room: str, group: str, prefix: str = "") -> None:
        self.kind, self.room, self.group, self.prefix = kind, room, group, prefix
        self.loaded: dict[str, Part] = {}
        self._places: dict[str, tuple[str, str]] | None = None

    def register(self, name: str, part: Part | str) -> None:
        """Add a part, or where it is defined (``"module:attribute"``)."""
        places = self._listed()
        if name in places:
            raise UserError(f"{self.kind} {name!r} exists already, in package {places[name][1]}")
        if isinstance(part, str):
            places[name] = (part, part.partition(".")[0].partition(":")[0])
        else:
            package = type(part).__module__ if not isinstance(part, type) else part.__module__
            places[name] = ("", package.partition(".")[0])
            self.loaded[name] = part

    def unregister(self, name: str) -> None:
        """Take a registered part back; a name that is not known is ignored."""
        self._listed().pop(name, None)
        self.loaded.pop(name, None)

    def package(self, name: str) -> str:
        """Name of the package that a part comes from."""
        return self._place(name)[1]

    def names(self) -> tuple[str, ...]:
        return tuple(self._listed())

    def __getitem__(self, name: str) -> Part:
        if name not in self.loaded:
            place, package = self._place(name)
            module, _, attribute = place.partition(":")
            try:
                part: Any = import_module(module)
                for step in attribute.split(".") if attribute else ():
                    part = getattr(part, step)
            except (ImportError, AttributeError) as error:
                if package == "vidtune":
                    raise
                raise UserError(f"{self.kind} {name!r} of package {package} cannot be loaded: {error}") from error
            self.loaded[name] = part
        return self.loaded[name]

    def __contains__(self, name: object) -> bool:
        return name in self._listed()

    def __iter__(self) -> Iterator[str]:
        return iter(self._listed())

    def __len__(self) -> int:
        return len(self._listed())

    def _place(self, name: str) -> tuple[str, str]:
        places = self._listed()
        if name not in places:
            nearest = suggestion(str(name).lower().replace("-", "_"), places)
            raise UnknownNameError(f"unknown {self.kind} {name!r}; {nearest}")
        return places[name]

    def _listed(self) -> dict[str, tuple[str, str]]:
        """Name -> where the part is defined, and the package that it comes from."""
        if self._places is None:
            places = {name: (place, "vidtune") for name, place in import_module(self.room).PARTS.items()}
            for point in entry_points(group=self.group):
                if not point.name.startswith(self.prefix):
                    continue
                name = point.name.removeprefix(self.prefix)
                package = point.dist.name if point.dist else point.module.partition(".")[0]
                if name in places:
                    raise UserError(f"{self.kind} {name!r} is in package {package} and in package {places[name][1]}")
                places[name] = (point.value, package)
            self._places = places
        return self._places


SYSTEMS: "Registry[System]" = Registry("system", "vidtune.systems", "vidtune.systems")
BENCHMARKS: "Registry[Benchmark]" = Registry("benchmark", "vidtune.evaluation.benchmarks", "vidtune.benchmarks")
JUDGES: "Registry[Judge]" = Registry("judge", "vidtune.evaluation.judges", "vidtune.judges")
ANNOTATIONS: Registry[Any] = Registry("annotation format", "vidtune.data", "vidtune.annotations")
TOWERS: Registry[type] = Registry("tower type", "vidtune.models.towers", "vidtune.towers")
CONNECTORS: Registry[type] = Registry("connector type", "vidtune.models.connectors", "vidtune.connectors")
PREPROCESSING: Registry[type] = Registry("preprocessing", "vidtune.media.preprocessing", "vidtune.preprocessing")
SAMPLING_RULES: "Registry[SamplingRule]" = Registry(
    "frame sampling rule", "vidtune.media.preprocessing.frame_sampling", "vidtune.rules", "sampling."
)
TIME_RULES: "Registry[TimeRule]" = Registry("rule for times", "vidtune.processing.times", "vidtune.rules", "times.")

REGISTRIES: tuple[Registry[Any], ...] = (
    SYSTEMS,
    BENCHMARKS,
    JUDGES,
    ANNOTATIONS,
    TOWERS,
    CONNECTORS,
    PREPROCESSING,
    SAMPLING_RULES,
    TIME_RULES,
)
"""All registries: one for each kind of part."""
