"""Connector protocol: what the config of a connector offers to the rest of the code.

The config of a connector is a frozen dataclass that builds the connector.
"""

from typing import Any, Protocol

from torch import nn

from vidtune.registry import CONNECTORS


class ConnectorConfig(Protocol):
    """Config of a connector: the number of embeddings is known before the connector is built."""

    def num_tokens(self, num_features: int) -> int:
        """Number of embeddings that ``num_features`` tower features become."""
        ...

    def build(self) -> nn.Module:
        """A new connector with random weights."""
        ...


def connector_config(spec: dict[str, Any]) -> ConnectorConfig:
    """The config that ``{"type": name, **sizes}`` describes.

    Raises:
        ValueError: the type or a size is unknown, or the sizes contradict each other.
    """
    sizes = dict(spec)
    kind = sizes.pop("type", None)
    if kind not in CONNECTORS:
        raise ValueError(f"unknown connector type {kind!r}; known: {', '.join(sorted(CONNECTORS))}")
    try:
        return CONNECTORS[kind](**sizes)
    except TypeError as error:
        raise ValueError(f"connector {kind!r}: {error}") from None
