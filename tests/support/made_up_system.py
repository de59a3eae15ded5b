"""Systems made up by a test: a shipped one under another name, with checkpoint formats of its own."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from vidtune.registry import SYSTEMS
from vidtune.systems.base import System


@contextmanager
def system_like(shipped: str, name: str, **publication: Any) -> Iterator[System]:
    """Register a copy of a shipped system under another name.

    Args:
        publication: fields of :class:`vidtune.checkpoints.publication.Publication` to replace.
    """
    model = SYSTEMS[shipped]

    def renamed(make: Any) -> Any:
        def build(*arguments: Any) -> Any:
            config = make(*arguments)
            config.system = name
            return config

        return make and build

    changed = replace(model.publication, **publication)
    formats = tuple(replace(format, read_config=renamed(format.read_config)) for format in changed.formats)
    system = replace(
        model,
        name=name,
        architecture=replace(model.architecture, build_config=renamed(model.architecture.build_config)),
        publication=replace(changed, formats=formats),
    )
    SYSTEMS.register(name, system)
    try:
        yield system
    finally:
        SYSTEMS.unregister(name)
