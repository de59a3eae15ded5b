"""Connector protocol: what the config of a connector offers to the rest of the code.

The config of a connector is a frozen dataclass that builds the connector.

Legend: B items, N features of an item, C tower width, K tapped hidden states, M tokens of an item, D language-model
width.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from torch import Tensor, nn

from vidtune.models.towers.base import with_sizes
from vidtune.registry import CONNECTORS


class ConnectorConfig(Protocol):
    """Config of a connector: the number of embeddings is known before the connector is built.

    These members are optional:

    - ``tokenwise = True``: every feature becomes one embedding, whatever stands beside it. Features of several items
      are joined: (N, C) -> (N, D).
    - ``takes_items = True``: the connector gets all items of a stream as lists, see :class:`ItemConnector`; any other
      gets features of equal shape stacked, (B, N, C) or (B, K, N, C) -> (B, M, D).
    - ``condense(features, extras)``: a frozen first part without parameters, lists of tower features and of the extras
      of each item -> list of features. What it gives is what the connector takes and what the feature store keeps, so
      it runs once per item. ``condensed_shape(shape)`` tells the shape of that, and ``condensing`` is a tuple of the
      names of the sizes that it depends on: they belong to the identity of stored features, and a stream may change
      them (``connector_settings`` of :class:`VideoLMConfig`).
    - ``part_tokens``: number of features that ``condense`` treats alone. A long item is then encoded and condensed in
      parts, so that its memory stays bounded. None, or where it is missing: an item is condensed as a whole.
    - ``extras``: shapes of the extras that it needs of an item, by name; None is any length from 1. Only where it
      takes items or condenses.
    - ``grid(grid)``: frames, rows and columns of the embeddings of an item whose features stand in ``grid``.
    """

    def num_tokens(self, shape: tuple[int, ...]) -> int:
        """Number of embeddings M of an item with features of this shape: (N, C), (K, N, C) with taps, or condensed."""
        ...

    def build(self) -> nn.Module:
        """A new connector with random weights."""
        ...


class ItemConnector(Protocol):
    """Connector whose config says ``takes_items``.

    Shape: list of (N, C) or (K, N, C), and the extras of each item by name -> list of (M, D)
    """

    def __call__(self, features: list[Tensor], extras: Sequence[Mapping[str, Tensor]]) -> list[Tensor]: ...


def connector_config(spec: dict[str, Any]) -> ConnectorConfig:
    """The config that ``{"type": name, **sizes}`` describes.

    Raises:
        ValueError: the type or a size is unknown, or the sizes contradict each other.
    """
    sizes = dict(spec)
    kind = sizes.pop("type", None)
    if kind not in CONNECTORS:
        raise ValueError(f"unknown connector type {kind!r}; known: {', '.join(sorted(CONNECTORS))}")
    return with_sizes(f"connector {kind!r}", CONNECTORS[kind], sizes)
