"""Connectors: tower features -> language-model embeddings.

The config of a connector is a frozen dataclass that builds it.
"""

from typing import Any, Protocol

from torch import nn

from vidtune.models.connectors.mlp import MlpConnectorConfig


class ConnectorConfig(Protocol):
    """What the rest of the code asks of a connector before it is built."""

    def num_tokens(self, num_features: int) -> int:
        """Embeddings that ``num_features`` tower features become."""
        ...

    def build(self) -> nn.Module: ...


CONNECTORS: dict[str, type] = {"mlp": MlpConnectorConfig}


def connector_config(spec: dict[str, Any]) -> ConnectorConfig:
    """The typed config of ``{"type": name, **sizes}``. Raises ValueError for an unknown type or size."""
    sizes = dict(spec)
    kind = sizes.pop("type", None)
    if kind not in CONNECTORS:
        raise ValueError(f"unknown connector type {kind!r}; known: {', '.join(sorted(CONNECTORS))}")
    try:
        return CONNECTORS[kind](**sizes)
    except TypeError as error:
        raise ValueError(f"connector {kind!r}: {error}") from None
