"""Registries: parts of vidtune by name, loaded when they are first asked for; other packages add parts of their own.

A module of this package lists its own parts in ``PARTS`` (name -> ``"module:attribute"``). Another package lists parts
as entry points of the registry's group, such as ``vidtune.systems``, or calls :meth:`Registry.register`.
"""

import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from importlib import import_module
from importlib.metadata import PackageNotFoundError, entry_points, version
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from vidtune.errors import UserError
from vidtune.spelling import suggestion

if TYPE_CHECKING:
    from vidtune.evaluation.benchmarks.base import Benchmark
    from vidtune.evaluation.judges.base import Judge
    from vidtune.evaluation.judges.prompts import JudgePrompt
    from vidtune.media.preprocessing.frame_sampling import SamplingRule
    from vidtune.media.preprocessing.resize_rules import ResizeRule
    from vidtune.models.language_model.families import Family
    from vidtune.models.language_model.layer_program import DropRule
    from vidtune.planning.order import OrderRule
    from vidtune.processing.positions import PositionRule
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
        type_place: type of every part, as "module:attribute"; None: not checked here.

    Attributes:
        loaded: parts that were asked for, by name.
        called: parts that were registered by a call, or their places, by name.

    Raises:
        UserError: a name that is not known (the nearest known one is named), a name that two packages use, or a part
            that cannot be imported.
    """

    def __init__(self, kind: str, room: str, group: str, prefix: str = "", type_place: str | None = None) -> None:
        self.kind, self.room, self.group, self.prefix = kind, room, group, prefix
        self.type_place = type_place
        self.loaded: dict[str, Part] = {}
        self.called: dict[str, Part | str] = {}
        self._places: dict[str, tuple[str, str]] | None = None

    def register(self, name: str, part: Part | str) -> None:
        """Add a part, or where it is defined (``"module:attribute"``)."""
        places = self._listed()
        if not isinstance(name, str) or not name:
            raise UserError(f"{self.kind}: the name is {name!r}; give a text that is not empty")
        if part is None:
            raise UserError(f"{self.kind} {name!r}: is None; give the part itself or 'module:attribute'")
        if name in places:
            raise UserError(f"{self.kind} {name!r} exists already, in package {places[name][1]}")
        if isinstance(part, str):
            _require_attribute(part, f"{self.kind} {name!r}")
            self.called[name] = part
            places[name] = (part, part.partition(".")[0].partition(":")[0])
        else:
            self._require_type(part, name, f"{self.kind} {name!r}")
            places[name] = ("", _registering_package())
            self.loaded[name] = self.called[name] = part

    def unregister(self, name: str) -> None:
        """Take a registered part back; a name that is not known is ignored."""
        self._listed().pop(name, None)
        self.loaded.pop(name, None)
        self.called.pop(name, None)

    def package(self, name: str) -> str:
        """Name of the package that a part comes from."""
        return self._place(name)[1]

    def known(self, name: str) -> str:
        """Return the name of a part, for fields of settings. Raises ValueError for any other; names the nearest."""
        if name not in self:
            raise ValueError(f"unknown {self.kind}; {suggestion(name, self)}")
        return name

    def names(self) -> tuple[str, ...]:
        return tuple(self._listed())

    def usable(self) -> Iterator[tuple[str, Part]]:
        """Yield the parts by name, without those of other packages that cannot be loaded; a warning names these."""
        for name in self.names():
            try:
                part = self[name]
            except UserError as error:
                warnings.warn(f"{error}; it is left out", stacklevel=2)
            else:
                yield name, part

    def _require_type(self, part: object, known_as: str, what: str) -> None:
        """Raise UserError for a part that is not of the registry's type, or a system that calls itself otherwise."""
        if self.type_place is None:
            return
        module, _, name = self.type_place.partition(":")
        expected = getattr(import_module(module), name)
        if not isinstance(part, expected):
            raise UserError(f"{what}: is of type {type(part).__name__}; expected {self.type_place}")
        if self.kind == "system" and getattr(part, "name", known_as) != known_as:
            own = getattr(part, "name", None)
            raise UserError(f"{what}: its System.name is {own!r}; register it under that name")

    def __getitem__(self, name: str) -> Part:
        if name not in self.loaded:
            place, package = self._place(name)
            what = f"{self.kind} {name!r} of package {package}"
            if package != "vidtune":
                _require_attribute(place, what)
            module, _, attribute = place.partition(":")
            try:
                part: Any = import_module(module)
                for step in attribute.split(".") if attribute else ():
                    part = getattr(part, step)
            except (Exception, SystemExit) as error:
                if package == "vidtune":
                    raise
                raise UserError(f"{what} cannot be loaded: {_one_line(error)}") from error
            if package != "vidtune":
                self._require_type(part, name, what)
            self.loaded[name] = part
        return self.loaded[name]

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name in self._listed()

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
            for point in _announced().select(group=self.group):
                package = point.dist.name if point.dist else point.value.partition(":")[0].partition(".")[0]
                if not point.name.startswith(self.prefix):
                    _warn_unless_known(point.name, self.group, package)
                    continue
                name = point.name.removeprefix(self.prefix)
                if name in places:
                    raise UserError(f"{self.kind} {name!r} is in package {package} and in package {places[name][1]}")
                places[name] = (point.value, package)
            self._places = places
        return self._places


@cache
def _announced() -> Any:
    """Returns the entry points of all installed packages; to find those of one group, all have to be read as well."""
    return entry_points()


def packages_of(parts: "Iterable[tuple[Registry[Any], str]]") -> dict[str, str]:
    """Returns the packages of parts that are not of this package: ``{"tower type my_tower": "my-package 1.0"}``.

    A saved model contains them, so that whoever loads it is told what to install; see :func:`require_packages`.
    """
    found = {}
    for registry, name in parts:
        package = registry.package(name) if name in registry else "vidtune"
        if package != "vidtune":
            found[f"{registry.kind} {name}"] = f"{package} {_version(package)}".strip()
    return found


def require_packages(packages: Mapping[str, str]) -> None:
    """Raise UserError unless all parts of a saved model are known here.

    Args:
        packages: what :func:`packages_of` returned when the model was saved.
    """
    for part, package in packages.items():
        registry = next((one for one in REGISTRIES if part.startswith(f"{one.kind} ")), None)
        if registry is None or part.removeprefix(f"{registry.kind} ") in registry:
            continue
        name, _, number = package.partition(" ")
        if not name:
            raise UserError(f"{part} is of a package whose name was not saved, and is not here: import that package")
        how = f"pip install {name}=={number}" if number else f"import {name}, which registers it"
        raise UserError(f"{part} is of the package {name}, which is not here: {how}")


def _version(package: str) -> str:
    """Returns the version of an installed distribution; empty for a module that belongs to none."""
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _require_attribute(place: str, what: str) -> None:
    """Raise UserError unless a place is written "module:attribute"."""
    module, _, attribute = place.partition(":")
    if not module or not attribute:
        raise UserError(f"{what}: its place is {place!r}; write 'module:attribute'")


def _one_line(error: BaseException) -> str:
    """Returns the first line of an error, with its type where that tells more."""
    text = next(iter(str(error).splitlines()), "")
    return text if isinstance(error, ImportError | AttributeError) and text else f"{type(error).__name__}: {text}"


def _registering_package() -> str:
    """Returns the name of the package whose code registers a part by a call."""
    frame = sys._getframe(1)
    while frame is not None:
        package = str(frame.f_globals.get("__name__", "")).partition(".")[0]
        if package != "vidtune":
            return "this program" if package in ("", "__main__") else package
        frame = frame.f_back  # type: ignore[assignment]
    return "this program"


def _warn_unless_known(name: str, group: str, package: str) -> None:
    """Warn of an entry point that no registry of its group reads."""
    prefixes = [registry.prefix for registry in REGISTRIES if registry.group == group]
    if prefixes and not name.startswith(tuple(prefixes)):
        known = " or ".join(f"{prefix}NAME" for prefix in prefixes)
        warnings.warn(f"entry point {name!r} of package {package} in {group} is ignored: write {known}", stacklevel=2)


SYSTEMS: "Registry[System]" = Registry(
    "system", "vidtune.systems", "vidtune.systems", type_place="vidtune.systems.base:System"
)
BENCHMARKS: "Registry[Benchmark]" = Registry("benchmark", "vidtune.evaluation.benchmarks", "vidtune.benchmarks")
JUDGES: "Registry[Judge]" = Registry("judge", "vidtune.evaluation.judges", "vidtune.judges")
JUDGE_PROMPTS: "Registry[JudgePrompt]" = Registry(
    "judge prompt",
    "vidtune.evaluation.benchmarks.judge_prompts",
    "vidtune.judge_prompts",
    type_place="vidtune.evaluation.judges.prompts:JudgePrompt",
)
ANNOTATIONS: Registry[Any] = Registry("annotation format", "vidtune.data", "vidtune.annotations")
TOWERS: Registry[type] = Registry("tower type", "vidtune.models.towers", "vidtune.towers")
CONNECTORS: Registry[type] = Registry("connector type", "vidtune.models.connectors", "vidtune.connectors")
LANGUAGE_MODELS: "Registry[Family]" = Registry(
    "language model family",
    "vidtune.models.language_model",
    "vidtune.language_models",
    type_place="vidtune.models.language_model.families:Family",
)
PREPROCESSING: Registry[type] = Registry("preprocessing", "vidtune.media.preprocessing", "vidtune.preprocessing")
SAMPLING_RULES: "Registry[SamplingRule]" = Registry(
    "frame sampling rule",
    "vidtune.media.preprocessing.frame_sampling",
    "vidtune.rules",
    "sampling.",
    "vidtune.media.preprocessing.frame_sampling:SamplingRule",
)
RESIZE_RULES: "Registry[ResizeRule]" = Registry(
    "resize rule",
    "vidtune.media.preprocessing.resize_rules",
    "vidtune.rules",
    "resize.",
    "vidtune.media.preprocessing.resize_rules:ResizeRule",
)
DROP_RULES: "Registry[DropRule]" = Registry(
    "drop rule",
    "vidtune.models.language_model.layer_program",
    "vidtune.rules",
    "drop.",
    "collections.abc:Callable",
)
TIME_RULES: "Registry[TimeRule]" = Registry(
    "rule for times", "vidtune.processing.times", "vidtune.rules", "times.", "vidtune.processing.times:TimeRule"
)
POSITION_RULES: "Registry[PositionRule]" = Registry(
    "position rule",
    "vidtune.processing.positions",
    "vidtune.rules",
    "positions.",
    "collections.abc:Callable",
)
ORDER_RULES: "Registry[OrderRule]" = Registry(
    "order rule", "vidtune.planning", "vidtune.rules", "order.", "vidtune.planning.order:OrderRule"
)

REGISTRIES: tuple[Registry[Any], ...] = (
    SYSTEMS,
    BENCHMARKS,
    JUDGES,
    JUDGE_PROMPTS,
    ANNOTATIONS,
    TOWERS,
    CONNECTORS,
    LANGUAGE_MODELS,
    PREPROCESSING,
    SAMPLING_RULES,
    RESIZE_RULES,
    DROP_RULES,
    TIME_RULES,
    POSITION_RULES,
    ORDER_RULES,
)
"""All registries: one for each kind of part."""
