"""Parts from outside: systems, benchmarks, judges, towers and rules that another program adds by one call.

A package that is installed adds the same parts without a call, by entry points: see :mod:`vidtune.registry`.
Parts that are registered by a call exist in this process; worker processes get those that their jobs use, if they can
import them.
"""

from typing import TYPE_CHECKING, Any

from vidtune.errors import UserError
from vidtune.registry import (
    ANNOTATIONS,
    BENCHMARKS,
    CONNECTORS,
    JUDGES,
    LANGUAGE_MODELS,
    PREPROCESSING,
    REGISTRIES,
    SYSTEMS,
    TOWERS,
)

if TYPE_CHECKING:
    from vidtune.evaluation.benchmarks.base import Benchmark
    from vidtune.evaluation.judges.base import Judge
    from vidtune.systems.base import System


def register_system(system: "System") -> None:
    """Add a system under its own name; recipes and checkpoints may then name it.

    Raises:
        UserError: a system of that name exists already.

    Example:
        >>> from dataclasses import replace
        >>> from vidtune.registry import SYSTEMS
        >>> vidtune.register_system(replace(SYSTEMS[SYSTEMS.names()[0]], name="my_system"))
        >>> "my_system" in SYSTEMS
        True
    """
    SYSTEMS.register(getattr(system, "name", None), system)  # type: ignore[arg-type]


def register_benchmark(benchmark: "Benchmark") -> None:
    """Add a benchmark under its own name; ``evaluate`` and recipes may then name it.

    Raises:
        UserError: a benchmark of that name exists already.

    Example:
        >>> from dataclasses import replace
        >>> from vidtune.registry import BENCHMARKS
        >>> vidtune.register_benchmark(replace(BENCHMARKS["msvd_qa"], name="my_test_set"))
        >>> BENCHMARKS["my_test_set"].name
        'my_test_set'
    """
    BENCHMARKS.register(getattr(benchmark, "name", None), benchmark)  # type: ignore[arg-type]


def register_judge(name: str, judge: "Judge | str") -> None:
    """Add a judge that needs no settings.

    Args:
        name: name of the judge, as in ``--judge``.
        judge: the judge, or its place ``"module:attribute"``.

    Raises:
        UserError: a judge of that name exists already.

    Example:
        >>> vidtune.register_judge("my-judge", "my_package.judges:MY_JUDGE")
    """
    JUDGES.register(name, judge)


def register_annotations(name: str, reader: Any) -> None:
    """Add a reader of annotation files.

    Args:
        name: name of the format, as in a recipe's ``data``.
        reader: the reader, or its place ``"module:attribute"``; see :mod:`vidtune.data`.

    Raises:
        UserError: a format of that name exists already.

    Example:
        >>> vidtune.register_annotations("my_format", "my_package.reading:read")
    """
    ANNOTATIONS.register(name, reader)


def register_tower(name: str, config: Any) -> None:
    """Add a type of tower.

    Args:
        name: value of ``type`` in the tower's sizes.
        config: frozen dataclass of sizes that builds the tower (:class:`vidtune.models.towers.TowerConfig`), or its
            place ``"module:attribute"``.

    Raises:
        UserError: a type of that name exists already.

    Example:
        >>> vidtune.register_tower("my_tower", "my_package.tower:MyTowerConfig")
    """
    TOWERS.register(name, config)


def register_connector(name: str, config: Any) -> None:
    """Add a type of connector; arguments as in :func:`register_tower`.

    Example:
        >>> vidtune.register_connector("my_connector", "my_package.connector:MyConnectorConfig")
    """
    CONNECTORS.register(name, config)


def register_language_model(name: str, family: Any) -> None:
    """Add a family of language models, or say what is known about one that transformers has.

    Args:
        name: ``model_type`` of the family's config.
        family: :class:`vidtune.models.language_model.families.Family`, or its place ``"module:attribute"``.

    Raises:
        UserError: a family of that name exists already.

    Example:
        >>> vidtune.register_language_model("my_family", "my_package.language_model:FAMILY")
    """
    LANGUAGE_MODELS.register(name, family)


def register_preprocessing(name: str, settings: Any) -> None:
    """Add a kind of preprocessing.

    Args:
        name: value of ``kind`` in saved settings.
        settings: frozen pydantic model that loads a file as a tensor, or its place ``"module:attribute"``.

    Raises:
        UserError: a kind of that name exists already.

    Example:
        >>> vidtune.register_preprocessing("my_frames", "my_package.frames:MyPreprocessing")
    """
    PREPROCESSING.register(name, settings)


def register_rule(name: str, rule: Any) -> None:
    """Add a rule.

    Args:
        name: kind and name: ``sampling.NAME`` for a frame sampling rule
            (:class:`~vidtune.media.preprocessing.frame_sampling.SamplingRule`), ``resize.NAME`` for a resize rule
            (:class:`~vidtune.media.preprocessing.resize_rules.ResizeRule`), ``times.NAME`` for a rule by which moments
            are written (:class:`~vidtune.processing.times.TimeRule`), ``positions.NAME`` for a rule of positions
            (:data:`~vidtune.processing.positions.PositionRule`), ``order.NAME`` for an order of samples
            (:class:`~vidtune.planning.order.OrderRule`), ``drop.NAME`` for the choice of media tokens that a layer
            program keeps (:data:`~vidtune.models.language_model.layer_program.DropRule`).
        rule: the rule, or its place ``"module:attribute"``.

    Raises:
        UserError: no such kind of rule, or a rule of that name exists already.

    Example:
        >>> vidtune.register_rule("sampling.every_second", "my_package.frames:EVERY_SECOND")
    """
    for registry in REGISTRIES:
        if registry.prefix and isinstance(name, str) and name.startswith(registry.prefix):
            registry.register(name.removeprefix(registry.prefix), rule)
            return
    kinds = " or ".join(f"{registry.prefix}NAME" for registry in REGISTRIES if registry.prefix)
    raise UserError(f"rule {name!r}: write {kinds}")
