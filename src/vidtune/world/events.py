"""Clips with events that are visible, audible or spoken during a part of the clip: for questions about times.

A clip is divided into equal slots and contains two to four events, each in its own slot. Each is a shape that moves or
blinks (seen), a sound (heard), a voice that says a word over and over (spoken), or two or three of these at once; no
colour, sound or word occurs twice in a clip, so that a sentence describes one event only. Times are in seconds.
"""

import random
from dataclasses import dataclass

SIGHT_COLOURS = ("red", "green", "blue", "yellow")
SIGHT_SHAPES = ("circle", "square", "cross")
ACTIONS = ("moves left", "moves right", "blinks")
SOUNDS = ("high tone rings", "low tone hums", "siren wails", "drum beats")
WORDS = ("alpha", "kiwi", "lulu", "echo")
SENSES = ("seen", "heard", "spoken")

_MIXES = (
    *[("seen",)] * 4,
    *[("heard",)] * 4,
    *[("spoken",)] * 4,
    ("seen", "heard"),
    ("seen", "spoken"),
    ("heard", "spoken"),
    ("seen", "heard", "spoken"),
)
COUNTS = (2, 3, 3, 4)
"""Numbers of events in a clip; each entry has the same probability."""
SLOT_SECONDS = 5.12
"""Duration of a slot, and of an event: the window of audio encoders."""


@dataclass(frozen=True, slots=True)
class Sight:
    """A shape that moves across the frame or blinks in its middle."""

    colour: str
    shape: str
    action: str


@dataclass(frozen=True, slots=True)
class TimedEvent:
    """An event from ``start`` to ``end``; at least one of sight, sound and word is not None."""

    start: float
    end: float
    sight: Sight | None = None
    sound: str | None = None
    word: str | None = None

    @property
    def sentence(self) -> str:
        """Sentence about it, such as "a red circle moves left and a voice says alpha."."""
        return " and ".join(told for sense in SENSES if (told := self.told_by(sense)) is not None) + "."

    def told_by(self, sense: str) -> str | None:
        """Returns what one sense perceives, without the full stop; None: nothing."""
        if sense == "seen":
            return None if self.sight is None else f"a {self.sight.colour} {self.sight.shape} {self.sight.action}"
        if sense == "heard":
            return None if self.sound is None else f"a {self.sound}"
        return None if self.word is None else f"a voice says {self.word}"


@dataclass(frozen=True, slots=True)
class EventClip:
    """A clip of ``duration`` seconds; its events are in the order of time."""

    duration: float
    events: tuple[TimedEvent, ...]


def make_event_clip(seed: int, split: str, index: int, slots: int) -> EventClip:
    """Returns clip number ``index`` of a split ("train", "test"): a pure function of its arguments.

    Args:
        seed: seed of the world.
        split: name of the split.
        index: number of the clip.
        slots: number of slots; at least four.
    """
    rng = random.Random(f"{seed} events {split} {index}")
    mixes = [rng.choice(_MIXES) for _ in range(rng.choice(COUNTS))]
    places = sorted(rng.sample(range(slots), len(mixes)))
    colours, sounds, words = (rng.sample(names, len(names)) for names in (SIGHT_COLOURS, SOUNDS, WORDS))
    events = []
    for number, (mix, place) in enumerate(zip(mixes, places, strict=True)):
        sight = Sight(colours[number], rng.choice(SIGHT_SHAPES), rng.choice(ACTIONS)) if "seen" in mix else None
        sound = sounds[number] if "heard" in mix else None
        word = words[number] if "spoken" in mix else None
        events.append(TimedEvent(_slot_start(place), _slot_start(place + 1), sight, sound, word))
    return EventClip(_slot_start(slots), tuple(events))


def _slot_start(slot: int) -> float:
    return round(slot * SLOT_SECONDS, 2)
