"""Position rules: the positions of an example's tokens that the language model gets, on one axis or on several.

A rule sees an example as spans: runs of text, and runs of tokens of one media item with the grid in which they stand.
Packs, shared prefixes, the questions that continue them and plain decoding all use what the rule gives.

Legend: A axes, L tokens of an example.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from vidtune.processing.stream_settings import Grid


@dataclass(frozen=True, slots=True)
class Span:
    """Consecutive tokens of an example that are text, or that belong to one media item.

    Args:
        length: number of tokens, at least 1.
        stream: stream of the item; None: text.
        first: index of the first token among the tokens of the item, which may stand in several spans.
        grid: frames, rows and columns of the whole item, also if tokens were cut off; None: text, or it is not known.
    """

    length: int
    stream: str | None = None
    first: int = 0
    grid: Grid | None = None


class Positions(NamedTuple):
    """Positions of an example.

    Args:
        values: (A, L) int64.
        next: position, on every axis, of a text token that follows; the tokens after it count on from there.
    """

    values: np.ndarray
    next: int


PositionRule = Callable[[Sequence[Span]], Positions]


def sequential(spans: Sequence[Span]) -> Positions:
    """One axis, 0 to L - 1, whatever the tokens are."""
    length = sum(span.length for span in spans)
    return Positions(np.arange(length)[None], length)


PARTS = {"sequential": f"{__name__}:sequential"}
"""Position rules of this package, as :data:`vidtune.registry.POSITION_RULES` finds them."""


def position_ids(values: np.ndarray) -> np.ndarray:
    """Positions in the shape that language models take, (A, L) -> (1, L) for one axis, (A, 1, L) for several."""
    return values if len(values) == 1 else values[:, None]
