"""Long videos in which little happens: now and then a coloured shape is shown for a few seconds.

A video lasts some minutes, and has at most one event in each. No colour occurs twice in a video. Every frame tells its
minute twice: by the number of cells of a bar along the lower edge, and by the brightness of the background.
"""

import random
from dataclasses import dataclass, replace

import numpy as np

from vidtune.world.render import inside_shape
from vidtune.world.scene import COLOURS

MOMENT_COLOURS = ("red", "green", "blue", "yellow")
MOMENT_SHAPES = ("circle", "square", "cross")
SECONDS_PER_MINUTE = 60
EVENT_SECONDS = 20
_FEWEST, _MOST = 2, len(MOMENT_COLOURS)
_DARKEST, _LIGHTEST = 15, 135
_BAR, _GAP = 0.12, 0.25
_BAR_LEVEL = 220
_RADIUS = 0.4
_PLACES = (0.4, 0.6)


@dataclass(frozen=True, slots=True)
class MomentEvent:
    """A shape that is shown from ``start`` for EVENT_SECONDS; ``minute`` counts from 1."""

    minute: int
    start: float
    colour: str
    shape: str
    centre: tuple[float, float]

    @property
    def named(self) -> str:
        """The shape as a part of a sentence, such as "a red circle"."""
        return f"a {self.colour} {self.shape}"


@dataclass(frozen=True, slots=True)
class LongClip:
    """A video of whole minutes, or a short part of one.

    Args:
        minutes: duration of the whole video.
        events: in the order of time.
        first, last: seconds of the whole video between which it is shown; equal ones: a picture.
    """

    minutes: int
    events: tuple[MomentEvent, ...]
    first: float
    last: float

    @property
    def first_minute(self) -> int:
        """The minute in which it begins, from 1."""
        return int(self.first // SECONDS_PER_MINUTE) + 1

    def between(self, first: float, last: float) -> "LongClip":
        """Returns the part between two seconds, with the events of which it shows more than half."""
        half = EVENT_SECONDS / 2
        seen = (event for event in self.events if first < event.start + half < last)
        return replace(self, events=tuple(seen), first=first, last=last)


def make_long_clip(seed: int, split: str, index: int, minutes: int) -> LongClip:
    """Returns video number ``index`` of a split: a pure function of its arguments.

    Args:
        seed: seed of the world.
        split: name of the split.
        index: number of the video.
        minutes: duration; at least two minutes.
    """
    rng = random.Random(f"{seed} moments {split} {index}")
    number = rng.randint(_FEWEST, min(_MOST, minutes))
    places = sorted(rng.sample(range(minutes), number))
    colours = rng.sample(MOMENT_COLOURS, number)
    events = tuple(_event(rng, place, colour) for place, colour in zip(places, colours, strict=True))
    return LongClip(minutes, events, 0.0, float(minutes * SECONDS_PER_MINUTE))


def make_short_clip(seed: int, kind: str, index: int, minutes: int) -> LongClip:
    """Returns the seconds of one event, cut out of a long video; of the kind "image" a picture of it."""
    rng = random.Random(f"{seed} moment {kind} {index}")
    event = _event(rng, index % minutes, rng.choice(MOMENT_COLOURS))
    return LongClip(minutes, (event,), event.start, event.start + (0 if kind == "image" else EVENT_SECONDS))


def _event(rng: random.Random, place: int, colour: str) -> MomentEvent:
    start = place * SECONDS_PER_MINUTE + rng.randrange(SECONDS_PER_MINUTE - EVENT_SECONDS + 1)
    centre = (rng.uniform(*_PLACES), rng.uniform(_PLACES[0], 0.48))
    return MomentEvent(place + 1, float(start), colour, rng.choice(MOMENT_SHAPES), centre)


def draw_moment(clip: LongClip, second: float, size: int) -> np.ndarray:
    """Returns the frame of one second of the whole video: (S, S, 3) uint8 RGB."""
    minute = int(second // SECONDS_PER_MINUTE)
    level = _DARKEST + (_LIGHTEST - _DARKEST) * minute / max(clip.minutes - 1, 1)
    frame = np.full((size, size, 3), round(level), np.uint8)
    grid = (np.arange(size) + 0.5) / size
    cells = grid * clip.minutes
    filled = (cells < minute + 1) & (cells % 1 > _GAP / 2) & (cells % 1 < 1 - _GAP / 2)
    frame[np.ix_(grid > 1 - _BAR, filled)] = _BAR_LEVEL
    for event in clip.events:
        if event.start <= second < event.start + EVENT_SECONDS:
            x, y = ((grid - middle) / _RADIUS for middle in event.centre)
            frame[inside_shape(event.shape, x[None], y[:, None])] = COLOURS[event.colour]
    return frame


def draw_clip(clip: LongClip, fps: int, size: int) -> np.ndarray:
    """Returns all frames of a video: (T, S, S, 3) uint8 RGB."""
    times = clip.first + np.arange(round((clip.last - clip.first) * fps)) / fps
    return np.stack([draw_moment(clip, time, size) for time in times])
