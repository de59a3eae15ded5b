"""Frame sampling rules: which frames of a clip are used, as pure functions of its frame count.

Sources: ``linspace`` and ``linspace_float32`` are the samplers of the LLaVA family's decord loader and of PyTorchVideo
(``uniform_temporal_subsample``); ``arange`` is the one in the usage examples of transformers' video models;
``per_second`` is the one of arXiv:2412.18609's data loader.
"""

from collections.abc import Callable

import numpy as np


def _linspace(num_frames_total: int, count: int) -> np.ndarray:
    return np.linspace(0, num_frames_total - 1, count)


def _linspace_float32(num_frames_total: int, count: int) -> np.ndarray:
    return np.linspace(0, num_frames_total - 1, count).astype(np.float32)


def _arange(num_frames_total: int, count: int) -> np.ndarray:
    return np.arange(0, num_frames_total, num_frames_total / count)[:count]


RULES: dict[str, Callable[[int, int], np.ndarray]] = {
    "linspace": _linspace,
    "linspace_float32": _linspace_float32,
    "arange": _arange,
}
PER_SECOND = "per_second"
FEW = 8
"""Frames below which ``per_second`` takes denser ones; published code has this number whatever ``count`` is."""


def per_second_indices(num_frames_total: int, count: int, fps: float) -> list[int]:
    """One frame per second; evenly spread ones where that gives more than ``count``, denser ones where it gives few.

    Few is less than eight, or than ``count`` where that is smaller. A clip of fewer frames gives all it has; nothing is
    repeated.

    Args:
        fps: frames per second; below one, or unknown (0), every frame counts as a second.
    """
    seconds = range(0, num_frames_total, max(1, round(fps)))
    if len(seconds) > count:
        return [seconds[int(position)] for position in np.linspace(0, len(seconds) - 1, count)]
    enough = min(FEW, count)
    if len(seconds) >= enough:
        return list(seconds)
    found = min(enough, num_frames_total)
    stride = max(1, (num_frames_total - 1) // max(1, found - 1))
    return [stride * number for number in range(found)]


def frame_indices(rule: str, num_frames_total: int, count: int, fps: float = 0.0) -> list[int]:
    """Indices of the ``count`` frames that stand for a clip of ``num_frames_total`` frames, ascending.

    Positions are truncated to integers. A clip shorter than ``count`` repeats frames, but for ``per_second``.

    Args:
        rule: a key of ``RULES``, or ``per_second``, see `per_second_indices`.
        num_frames_total: frames of the clip, in presentation order.
        count: frames wanted.
        fps: frames per second of the clip; only ``per_second`` asks for it.

    Raises:
        ValueError: unknown rule, or a count below 1.
    """
    if rule not in (*RULES, PER_SECOND):
        raise ValueError(f"unknown frame sampling rule {rule!r}; known: {', '.join(sorted((*RULES, PER_SECOND)))}")
    if num_frames_total < 1 or count < 1:
        raise ValueError(f"cannot sample {count} frames from {num_frames_total}")
    if rule == PER_SECOND:
        return per_second_indices(num_frames_total, count, fps)
    return [int(position) for position in RULES[rule](num_frames_total, count)]
