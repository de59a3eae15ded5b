"""Frame sampling rules: which frames of a clip are used, as pure functions of its number of frames and frame rate.

Sources: ``linspace`` and ``linspace_float32`` are the samplers of the LLaVA family's decord loader and of PyTorchVideo
(``uniform_temporal_subsample``); ``arange`` is the one in the usage examples of transformers' video models;
``segment_middles`` is the one of arXiv:2306.05424's feature extraction;
``per_second`` is the one of arXiv:2412.18609's data loader, which takes every frame rate to be even. Where it is not,
the seconds of the frames decide.
"""

import reprlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated

import numpy as np
from pydantic import AfterValidator

from vidtune.errors import UserError, foreign
from vidtune.media.clip_times import ClipTimes
from vidtune.registry import SAMPLING_RULES

FEW = 8
"""Number of frames below which ``per_second`` samples more densely. Published code uses it for every ``count``."""
UNEVEN_SECONDS = 0.5
"""Distance in seconds between a frame and its place at an even frame rate, above which the frame rate is not even."""


@dataclass(frozen=True)
class SamplingRule:
    """A frame sampling rule.

    Args:
        choose: function(number of frames in the clip, ``count``, frames per second) -> positions of frames, ascending;
            fractions are cut off.
        repeats: the rule always gives ``count`` frames and repeats those of a shorter clip. False: it gives at most as
            many frames as the clip has.
        choose_by_times: function(times of the clip, ``count``) -> positions, in the place of ``choose`` for a clip with
            an uneven frame rate; None: the frame rate does not matter.
    """

    choose: Callable[[int, int, float], np.ndarray | list[int]]
    repeats: bool = True
    choose_by_times: Callable[[ClipTimes, int], list[int]] | None = None


def per_second_indices(num_frames_total: int, count: int, fps: float) -> list[int]:
    """Return one frame per second; evenly spread frames if those are more than ``count``, denser ones if they are few.

    Few means fewer than eight, or than ``count`` if that is smaller. A clip with fewer frames gives all of them; no
    frame is repeated.

    Args:
        fps: frames per second. If it is below one or unknown (0), every frame counts as a second.
    """
    return _of_seconds(range(0, num_frames_total, max(1, round(fps))), num_frames_total, count)


def per_second_by_times(times: ClipTimes, count: int) -> list[int]:
    """Return the frames that are shown at full seconds, as `per_second_indices` does for an even frame rate."""
    shown = np.unique(times.indices_at(np.arange(0, times.duration)))
    return _of_seconds(shown.tolist(), times.num_frames, count)


def _of_seconds(seconds: Sequence[int], num_frames_total: int, count: int) -> list[int]:
    if len(seconds) > count:
        return [seconds[int(position)] for position in np.linspace(0, len(seconds) - 1, count)]
    enough = min(FEW, count)
    if len(seconds) >= enough:
        return list(seconds)
    found = min(enough, num_frames_total)
    stride = max(1, (num_frames_total - 1) // max(1, found - 1))
    return [stride * number for number in range(found)]


def _linspace(num_frames_total: int, count: int, fps: float) -> np.ndarray:
    return np.linspace(0, num_frames_total - 1, count)


def _linspace_float32(num_frames_total: int, count: int, fps: float) -> np.ndarray:
    return np.linspace(0, num_frames_total - 1, count).astype(np.float32)


def _arange(num_frames_total: int, count: int, fps: float) -> np.ndarray:
    return np.arange(0, num_frames_total, num_frames_total / count)[:count]


def _segment_middles(num_frames_total: int, count: int, fps: float) -> np.ndarray:
    """Middles of equal segments between the first and the last frame; both borders are rounded, halves to even."""
    found = min(num_frames_total, count)
    borders = np.round((num_frames_total - 1) / found * np.arange(found + 1)).astype(int)
    return (borders[:-1] + borders[1:]) // 2


LINSPACE = SamplingRule(_linspace)
LINSPACE_FLOAT32 = SamplingRule(_linspace_float32)
ARANGE = SamplingRule(_arange)
PER_SECOND = SamplingRule(per_second_indices, repeats=False, choose_by_times=per_second_by_times)
SEGMENT_MIDDLES = SamplingRule(_segment_middles, repeats=False)

_NAMES = ("linspace", "linspace_float32", "arange", "per_second", "segment_middles")
PARTS = {name: f"{__name__}:{name.upper()}" for name in _NAMES}
"""Frame sampling rules of this package, as :data:`vidtune.registry.SAMPLING_RULES` finds them."""


def clip_indices(rule: str, times: ClipTimes, count: int) -> list[int]:
    """Return the indices of the frames that represent a clip, ascending; see `frame_indices`."""
    by_times = SAMPLING_RULES[rule].choose_by_times if rule in SAMPLING_RULES else None
    if by_times is None or times.is_even(UNEVEN_SECONDS):
        return frame_indices(rule, times.num_frames, count, times.fps)
    return _chosen(rule, times.num_frames, count, partial(by_times, times, count))


def frame_indices(rule: str, num_frames_total: int, count: int, fps: float = 0.0) -> list[int]:
    """Return the indices of the frames that represent a clip, ascending.

    The frame rate is taken to be even; `clip_indices` is for clips of any.

    Args:
        rule: name of a rule in :data:`vidtune.registry.SAMPLING_RULES`.
        num_frames_total: number of frames of the clip; indices count them in presentation order.
        count: number of frames wanted. A rule that repeats gives exactly so many.
        fps: frames per second of the clip; only ``per_second`` uses it.

    Raises:
        ValueError: unknown rule, or a number below 1.
        UserError: the rule fails, or gives something else.
    """
    if rule not in SAMPLING_RULES:
        raise ValueError(f"unknown frame sampling rule {rule!r}; known: {', '.join(sorted(SAMPLING_RULES))}")
    if num_frames_total < 1 or count < 1:
        raise ValueError(f"cannot sample {count} frames from {num_frames_total}")
    return _chosen(rule, num_frames_total, count, partial(SAMPLING_RULES[rule].choose, num_frames_total, count, fps))


def _chosen(rule: str, num_frames_total: int, count: int, choose: Callable[[], np.ndarray | list[int]]) -> list[int]:
    """Return what a rule chooses, after it was checked."""
    repeats = SAMPLING_RULES[rule].repeats
    with foreign(f"frame sampling rule {rule!r} fails for {num_frames_total} frames"):
        found = [int(position) for position in choose()]
    enough = len(found) == count if repeats else 1 <= len(found) <= count
    if not enough or found[0] < 0 or found[-1] >= num_frames_total or found != sorted(found):
        wanted = f"{count}" if repeats else f"1 to {count}"
        raise UserError(
            f"frame sampling rule {rule!r}: gives {reprlib.repr(found)}; expected {wanted} ascending indices "
            f"from 0 to {num_frames_total - 1}"
        )
    return found


def frame_chooser(rule: str, count: int) -> Callable[[ClipTimes], list[int]]:
    """Return a function(times of a clip) -> indices, as `clip_indices` gives them."""
    return partial(_choose, rule, count)


def _choose(rule: str, count: int, times: ClipTimes) -> list[int]:
    return clip_indices(rule, times, count)


SamplingName = Annotated[str, AfterValidator(SAMPLING_RULES.known)]
"""Type of a pydantic field: name of a frame sampling rule."""
