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

    def build_config(*sizes: Any) -> Any:
        config = model.architecture.build_config(*sizes)
        config.system = name
        return config

    system = replace(
        model,
        name=name,
        architecture=replace(model.architecture, build_config=build_config),
        publication=replace(model.publication, **publication),
    )
    SYSTEMS.register(name, system)
    try:
        yield system
    finally:
        SYSTEMS.unregister(name)
