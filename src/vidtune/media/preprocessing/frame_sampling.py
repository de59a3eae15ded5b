"""Frame sampling rules: which frames of a clip are used, as pure functions of its number of frames and frame rate.

Sources: ``linspace`` and ``linspace_float32`` are the samplers of the LLaVA family's decord loader and of PyTorchVideo
(``uniform_temporal_subsample``); ``arange`` is the one in the usage examples of transformers' video models;
``segment_middles`` is the one of arXiv:2306.05424's feature extraction;
``per_second`` is the one of arXiv:2412.18609's data loader, which takes every frame rate to be even. Where it is not,
the seconds of the frames decide. ``middles``, ``per_second_middles`` and ``even_steps`` are those of arXiv:2501.00574's
data loader. ``linspace_rounded`` is the sampler of qwen_vl_utils (github.com/QwenLM/Qwen2.5-VL), given a number.
"""

import reprlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from operator import eq
from typing import Annotated, overload

import numpy as np
from pydantic import AfterValidator

from vidtune.errors import UserError, errors_of
from vidtune.media.clip_times import UNEVEN_SECONDS, ClipTimes
from vidtune.registry import SAMPLING_RULES

FEW = 8
"""Number of frames below which ``per_second`` samples more densely. Published code uses it for every ``count``."""


@dataclass(frozen=True, slots=True)
class FrameCount:
    """How many frames of a clip are wanted, for rules whose number of frames depends on the clip.

    Args:
        most, least: bounds of the number.
        multiple: the number is a multiple of it, as far as the bounds are.
    """

    most: int
    least: int = 1
    multiple: int = 1


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
        number: function(number of frames in the clip, frames per second, wanted number) -> how many frames of this clip
            are chosen; None: always the largest number.
    """

    choose: Callable[[int, int, float], np.ndarray | list[int]]
    repeats: bool = True
    choose_by_times: Callable[[ClipTimes, int], list[int]] | None = None
    number: Callable[[int, float, FrameCount], int] | None = None

    @property
    def is_fixed(self) -> bool:
        """Whether every clip gives the same number of frames."""
        return self.repeats and self.number is None

    def numbers(self, wanted: FrameCount) -> Sequence[int]:
        """Return every number of frames that a clip can give, ascending; no list of them where they are even steps."""
        if self.number is None:
            return range(wanted.most if self.repeats else 1, wanted.most + 1)
        multiples = range(wanted.multiple, wanted.most + 1, wanted.multiple)
        bounds = {wanted.most} | ({wanted.least} if wanted.least > wanted.multiple else set())
        return multiples if all(bound in multiples for bound in bounds) else sorted({*multiples, *bounds})


@dataclass(frozen=True)
class ClipShapes(Sequence[tuple[int, ...]]):
    """The shapes (3, T, H, W) of clips, by number of frames and then by size; each is made when it is asked for.

    Args:
        numbers: numbers of frames T, each once.
        sizes: heights and widths (H, W), each once.
    """

    numbers: Sequence[int]
    sizes: Sequence[tuple[int, int]]

    def __len__(self) -> int:
        return len(self.numbers) * len(self.sizes)

    @overload
    def __getitem__(self, place: int) -> tuple[int, ...]: ...

    @overload
    def __getitem__(self, place: slice) -> list[tuple[int, ...]]: ...

    def __getitem__(self, place: int | slice) -> tuple[int, ...] | list[tuple[int, ...]]:
        if isinstance(place, slice):
            return [self[one] for one in range(*place.indices(len(self)))]
        frames, size = divmod(range(len(self))[place], len(self.sizes))
        return (3, self.numbers[frames], *self.sizes[size])

    def __contains__(self, shape: object) -> bool:
        if not (isinstance(shape, tuple) and len(shape) == 4 and shape[0] == 3):
            return False
        return shape[1] in self.numbers and shape[2:] in self.sizes

    def __eq__(self, other: object) -> bool:
        if isinstance(other, ClipShapes) and (self.numbers, self.sizes) == (other.numbers, other.sizes):
            return True
        return isinstance(other, Sequence) and len(self) == len(other) and all(map(eq, self, other))


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


def _linspace_rounded(num_frames_total: int, count: int, fps: float) -> np.ndarray:
    return np.round(np.linspace(0, num_frames_total - 1, count, dtype=np.float32))


def largest_multiple(num_frames_total: int, fps: float, wanted: FrameCount) -> int:
    """Return the largest multiple that the clip has frames for, within the bounds."""
    found = min(wanted.most, num_frames_total) // wanted.multiple * wanted.multiple
    return min(wanted.most, max(wanted.least, wanted.multiple, found))


def _linspace_float32(num_frames_total: int, count: int, fps: float) -> np.ndarray:
    return np.linspace(0, num_frames_total - 1, count).astype(np.float32)


def _arange(num_frames_total: int, count: int, fps: float) -> np.ndarray:
    return np.arange(0, num_frames_total, num_frames_total / count)[:count]


def _segment_middles(num_frames_total: int, count: int, fps: float) -> np.ndarray:
    """Middles of equal segments between the first and the last frame; both borders are rounded, halves to even."""
    found = min(num_frames_total, count)
    borders = np.round((num_frames_total - 1) / found * np.arange(found + 1)).astype(int)
    return (borders[:-1] + borders[1:]) // 2


def _middles(num_frames_total: int, count: int, fps: float) -> np.ndarray:
    """Middles of equal intervals of the whole clip; a clip with fewer frames gives all, the last one repeated."""
    borders = np.linspace(0, num_frames_total, min(count, num_frames_total) + 1).astype(int)
    found = (borders[:-1] + borders[1:] - 1) // 2
    return np.pad(found, (0, count - len(found)), mode="edge")


def per_second_number(num_frames_total: int, fps: float, wanted: FrameCount) -> int:
    """Return how many frames a clip gives: one for each second, in multiples, rounded down but at least one multiple.

    The largest number bounds it from above, then the least one from below; a clip that has fewer frames than the least
    number is bounded by the multiple that it has.

    Args:
        fps: frames per second; 0 (unknown): every frame counts as a second.
    """
    enough = wanted.least <= num_frames_total
    least = wanted.least if enough else num_frames_total // wanted.multiple * wanted.multiple
    seconds = num_frames_total / (fps if fps > 0 else 1.0)
    return max(least, min(wanted.multiple * max(1, int(seconds // wanted.multiple)), wanted.most))


def _even_steps(num_frames_total: int, count: int, fps: float) -> list[int]:
    """One frame at every ``(frames - 1) / count``, from half a step on; the half step is cut, the steps are rounded."""
    step = (num_frames_total - 1) / count
    return [int(step / 2) + round(step * number) for number in range(count)]


def _inner_steps(num_frames_total: int, count: int, fps: float) -> list[int]:
    """One frame at every ``frames / (count + 1)``, without the first and the last of these places."""
    return [int(number * (num_frames_total / (count + 1))) for number in range(1, count + 1)]


LINSPACE = SamplingRule(_linspace)
LINSPACE_FLOAT32 = SamplingRule(_linspace_float32)
LINSPACE_ROUNDED = SamplingRule(_linspace_rounded, number=largest_multiple)
ARANGE = SamplingRule(_arange)
PER_SECOND = SamplingRule(per_second_indices, repeats=False, choose_by_times=per_second_by_times)
SEGMENT_MIDDLES = SamplingRule(_segment_middles, repeats=False)
MIDDLES = SamplingRule(_middles)
PER_SECOND_MIDDLES = SamplingRule(_middles, number=per_second_number)
EVEN_STEPS = SamplingRule(_even_steps)
INNER_STEPS = SamplingRule(_inner_steps)

_NAMES = (
    "linspace",
    "linspace_float32",
    "linspace_rounded",
    "arange",
    "per_second",
    "segment_middles",
    "middles",
    "per_second_middles",
    "even_steps",
    "inner_steps",
)
PARTS = {name: f"{__name__}:{name.upper()}" for name in _NAMES}
"""Frame sampling rules of this package, as :data:`vidtune.registry.SAMPLING_RULES` finds them."""


def clip_indices(rule: str, times: ClipTimes, count: int | FrameCount) -> list[int]:
    """Return the indices of the frames that represent a clip, ascending; see `frame_indices`."""
    by_times = SAMPLING_RULES[rule].choose_by_times if rule in SAMPLING_RULES else None
    if by_times is None or times.is_even(UNEVEN_SECONDS):
        return frame_indices(rule, times.num_frames, count, times.fps)
    number = _number(rule, times.num_frames, count, times.fps)
    return _chosen(rule, times.num_frames, number, partial(by_times, times, number))


def frame_indices(rule: str, num_frames_total: int, count: int | FrameCount, fps: float = 0.0) -> list[int]:
    """Return the indices of the frames that represent a clip, ascending.

    The frame rate is taken to be even; `clip_indices` is for clips of any.

    Args:
        rule: name of a rule in :data:`vidtune.registry.SAMPLING_RULES`.
        num_frames_total: number of frames of the clip; indices count them in presentation order.
        count: number of frames wanted. A rule that repeats gives exactly so many, unless the number depends on the
            clip.
        fps: frames per second of the clip; only ``per_second`` and ``per_second_middles`` use it.

    Raises:
        ValueError: unknown rule, or a number below 1.
        UserError: the rule fails, or gives something else.
    """
    if rule not in SAMPLING_RULES:
        raise ValueError(f"unknown frame sampling rule {rule!r}; known: {', '.join(sorted(SAMPLING_RULES))}")
    count = _number(rule, num_frames_total, count, fps)
    if num_frames_total < 1 or count < 1:
        raise ValueError(f"cannot sample {count} frames from {num_frames_total}")
    return _chosen(rule, num_frames_total, count, partial(SAMPLING_RULES[rule].choose, num_frames_total, count, fps))


def _number(rule: str, num_frames_total: int, count: int | FrameCount, fps: float) -> int:
    """Return how many frames a rule is asked for; ``num_frames_total`` and ``fps`` are those of the clip."""
    wanted = count if isinstance(count, FrameCount) else FrameCount(count)
    number = SAMPLING_RULES[rule].number if rule in SAMPLING_RULES else None
    if number is None:
        return wanted.most
    with errors_of(f"frame sampling rule {rule!r} fails for {num_frames_total} frames"):
        return number(num_frames_total, fps, wanted)


def _chosen(rule: str, num_frames_total: int, count: int, choose: Callable[[], np.ndarray | list[int]]) -> list[int]:
    """Return what a rule chooses, after it was checked."""
    repeats = SAMPLING_RULES[rule].repeats
    with errors_of(f"frame sampling rule {rule!r} fails for {num_frames_total} frames"):
        found = [int(position) for position in choose()]
    enough = len(found) == count if repeats else 1 <= len(found) <= count
    if not enough or found[0] < 0 or found[-1] >= num_frames_total or found != sorted(found):
        wanted = f"{count}" if repeats else f"1 to {count}"
        raise UserError(
            f"frame sampling rule {rule!r}: gives {reprlib.repr(found)}; expected {wanted} ascending indices "
            f"from 0 to {num_frames_total - 1}"
        )
    return found


def frame_chooser(rule: str, count: int | FrameCount) -> Callable[[ClipTimes], list[int]]:
    """Return a function(times of a clip) -> indices, as `clip_indices` gives them."""
    return partial(_choose, rule, count)


def _choose(rule: str, count: int | FrameCount, times: ClipTimes) -> list[int]:
    return clip_indices(rule, times, count)


SamplingName = Annotated[str, AfterValidator(SAMPLING_RULES.known)]
"""Type of a pydantic field: name of a frame sampling rule."""
