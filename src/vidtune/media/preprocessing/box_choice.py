"""Boxes in frames: what is wrong with a box, and which boxes of many are taken.

A box is (left, top, right, bottom) in pixels of its frame, whole numbers or fractions. A box that reaches over the edge
of the frame is taken as it is.

Legend: n boxes of an annotation, T boxes that are taken.
Source of the choice: arXiv:2406.00258, data loader and benchmark.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np

Choice = Literal["average", "random", "whole"]


def box_problem(box: Sequence[float] | np.ndarray) -> str | None:
    """Return what is wrong with a box, whatever its frame; None: nothing."""
    if len(box) != 4:
        return f"has {len(box)} numbers; expected 4: left, top, right, bottom"
    largest = float(np.finfo(np.float32).max)
    if not all(-largest <= number <= largest for number in box):  # integers of JSON may be larger than any float
        return "holds a number that is not finite"
    left, top, right, bottom = np.asarray(box, np.float32).tolist()
    if right < left or bottom < top:
        return f"has reversed corners ({_told(box)}); expected left, top, right, bottom"
    if right == left or bottom == top:
        return f"has no area ({_told(box)})"
    return None


def outside_problem(box: Sequence[float] | np.ndarray, width: int, height: int) -> str | None:
    """Return a message if no part of a box lies in a frame of this size; None: some part does."""
    left, top, right, bottom = map(float, box)
    if left < width and right > 0 and top < height and bottom > 0:
        return None
    return f"({_told(box)}) lies outside the frame of {width}x{height} pixels"


def frame_problem(number: float, num_frames: int) -> str | None:
    """Return a message if there is no frame of this number; None: there is."""
    if 0 <= number < num_frames and number == int(number):
        return None
    return f"a box is in frame {number:g}, but its frames are 0 to {num_frames - 1}"


def chosen_boxes(number: int, wanted: int, choice: Choice = "average", seed: int | None = None) -> list[int]:
    """Return which of ``number`` boxes in order of time are taken, ascending: T indices.

    At most T boxes: all of them, then the last one repeated. More:

    - without a seed: every d-th from the first on, d = n // T, so that the last ones may stay unseen;
    - "average" with a seed: every d-th from a random start below d on; each after the first is moved by a random
      distance below d / 4, cut to a whole number, so that nothing is moved if n is below 5 T;
    - "random" with a seed: T different ones;
    - "whole", with and without a seed: from the first to the last, at equal distances.

    Args:
        number: n, at least 1.
        wanted: T.
        seed: decides the random choice; None: no randomness.
    """
    if number <= wanted:
        return [*range(number), *[number - 1] * (wanted - number)]
    if choice == "whole":
        return np.linspace(0, number - 1, wanted).round().astype(int).tolist()
    distance = number // wanted
    if seed is None:
        return [place * distance for place in range(wanted)]
    random = np.random.default_rng(seed)
    if choice == "random":
        return sorted(random.choice(number, wanted, replace=False).tolist())
    start = int(random.integers(distance))
    moves = [int(distance / 4 * (2 * random.random() - 1)) for _ in range(wanted - 1)]
    rest = [min(max(start + place * distance + move, 0), number - 1) for place, move in enumerate(moves, 1)]
    return sorted([start, *rest])


def _told(box: Sequence[float] | np.ndarray) -> str:
    return ", ".join(f"{float(number):g}" for number in box)
