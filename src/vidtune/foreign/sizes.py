"""Sizes that no model and no medium has: refused by value, before anything is made that large."""

import re
from collections.abc import Iterator, Mapping
from math import isnan
from typing import Any

MOST_LAYERS, MOST_WORDS, MOST_PIXELS, MOST = 10_000, 10**8, 10**12, 10**6
"""Largest number of layers, of words or positions, of pixels of a whole video, and of anything else that has a size."""
_LAYERS = re.compile(r"n_layer|(\w+_)?(layers|depth)")
_WORDS = re.compile(r"(\w+_)?(vocab_size|vocabulary_size|positions?|position_embeddings|length|tokens)")
_PIXELS = re.compile(r"(\w+_)?pixels")
_SIZES = re.compile(
    r"(\w+_)?(size|side|width|height|dim|dims|channels|heads|experts|frames|features|patches|queries|rank|boxes|bins|"
    r"groups|cell|largest|fps|rate)"
)


def absurd_size(values: Any, path: tuple[str | int, ...] = ()) -> tuple[tuple[str | int, ...], float, int] | None:
    """Return the place, the value and the largest possible value of the first size that nothing has; None: none has.

    NaN is no value of any setting.

    Args:
        values: settings as JSON values: of a model, a tower, preprocessing.
        path: keys and indices that lead to them.
    """
    for key, value in _entries(values):
        if isinstance(value, Mapping | list | tuple):
            if (found := absurd_size(value, (*path, key))) is not None:
                return found
        elif isinstance(value, int | float) and not isinstance(value, bool):
            limit = _limit(next(one for one in reversed(("", *path, key)) if isinstance(one, str)))
            if isinstance(key, int) and limit == MOST_LAYERS:  # layers that are named, from either end
                continue
            if _is_nan(value) or (limit is not None and not 0 <= value <= limit):
                return (*path, key), value, limit or 0
    return None


def said_of(value: float, limit: int) -> str:
    """Return what is wrong with a size."""
    if _is_nan(value):
        return "is NaN; expected a number"
    return f"is {value}; expected at most {limit:,}" if value > limit else f"is {value}; expected a number from 0 on"


def _is_nan(value: float) -> bool:
    return isinstance(value, float) and isnan(value)  # an integer may be too large for a float


def _entries(values: Any) -> Iterator[tuple[str | int, Any]]:
    if isinstance(values, Mapping):
        yield from ((str(key), value) for key, value in values.items())
    elif isinstance(values, list | tuple):
        yield from enumerate(values)


def _limit(name: str) -> int | None:
    """The largest value of a size with this name; None: the name is of no size."""
    if name.endswith("model_max_length"):  # of a tokenizer, which writes 1e30 where it has no limit
        return None
    for kind, limit in ((_LAYERS, MOST_LAYERS), (_WORDS, MOST_WORDS), (_PIXELS, MOST_PIXELS), (_SIZES, MOST)):
        if kind.fullmatch(name):
            return limit
    return None
