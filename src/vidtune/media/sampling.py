"""Frame sampling rules: which frames of a clip are used, as pure functions of its frame count.

Sources: ``linspace`` and ``linspace_float32`` are the samplers of the LLaVA family's decord loader and of PyTorchVideo
(``uniform_temporal_subsample``); ``arange`` is the one in the usage examples of transformers' video models.
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


def frame_indices(rule: str, num_frames_total: int, count: int) -> list[int]:
    """Indices of the ``count`` frames that stand for a clip of ``num_frames_total`` frames, ascending.

    Positions are truncated to integers. A clip shorter than ``count`` repeats frames.

    Args:
        rule: a key of ``RULES``.
        num_frames_total: frames of the clip, in presentation order.
        count: frames wanted.

    Raises:
        ValueError: unknown rule, or a count below 1.
    """
    if rule not in RULES:
        raise ValueError(f"unknown frame sampling rule {rule!r}; known: {', '.join(sorted(RULES))}")
    if num_frames_total < 1 or count < 1:
        raise ValueError(f"cannot sample {count} frames from {num_frames_total}")
    return [int(position) for position in RULES[rule](num_frames_total, count)]
