"""Scenes of the synthetic world: coloured shapes that appear, move, change colour and vanish.

A clip is divided into eight equal slots, and every event starts with a slot: eight evenly spaced frames show them all.
The frame is divided into three lanes (rows or columns), one for each actor: actors never overlap.
Positions and sizes are fractions of the frame (x to the right, y downward), times are seconds.
"""

import random
import zlib
from dataclasses import dataclass

SHAPES = ("circle", "square", "triangle", "cross")
COLOURS = {
    "red": (225, 30, 35),
    "green": (25, 170, 55),
    "blue": (35, 60, 230),
    "yellow": (245, 220, 30),
    "purple": (190, 40, 210),
    "white": (250, 250, 250),
}
DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
NUMBERS = ("zero", "one", "two", "three", "four")
TONES = {"appears": 440.0, "moves": 660.0, "turns": 880.0, "vanishes": 330.0}
"""Frequency in hertz of the tone that marks an event of each kind in the sound track."""

CAST = (1, 2, 1, 2, 3)
"""Numbers of actors in consecutive scenes."""
SLOTS = 8
LANES = (1 / 6, 1 / 2, 5 / 6)
_FIRST_SLOTS = {1: ((0, 1, 2),), 2: ((0, 1), (2, 3)), 3: ((0,), (2,), (4,))}
_MOVE_SLOTS = 3
_SHARES = {"test": (0,), "choice": (1,), "train": (2, 3, 4, 5, 6, 7)}
"""Split -> which eighths of the signatures it has."""


@dataclass(frozen=True, slots=True)
class Actor:
    """One coloured shape and its events.

    Args:
        shape: one of SHAPES.
        colour: one of COLOURS; its first colour if it changes.
        radius: half the side of its box.
        start: centre before its move.
        end: centre after its move; equal to ``start`` if it does not move.
        appears: time at which it appears.
        moves: start and end time of its move; None: it does not move.
        direction: direction of its move; None: it does not move.
        turns: time at which it changes colour, and the new colour; None: it keeps its colour.
        vanishes: time at which it vanishes; None: it stays to the end.
    """

    shape: str
    colour: str
    radius: float
    start: tuple[float, float]
    end: tuple[float, float]
    appears: float
    moves: tuple[float, float] | None = None
    direction: str | None = None
    turns: tuple[float, str] | None = None
    vanishes: float | None = None

    def visible_at(self, time: float) -> bool:
        return self.appears <= time and (self.vanishes is None or time < self.vanishes)

    def colour_at(self, time: float) -> str:
        return self.turns[1] if self.turns is not None and time >= self.turns[0] else self.colour

    def centre_at(self, time: float) -> tuple[float, float]:
        if self.moves is None:
            return self.start
        first, last = self.moves
        way = min(max((time - first) / (last - first), 0.0), 1.0)
        return (
            self.start[0] + way * (self.end[0] - self.start[0]),
            self.start[1] + way * (self.end[1] - self.start[1]),
        )

    def box_at(self, time: float) -> tuple[float, float, float, float] | None:
        """Returns left, top, right, bottom as fractions of the frame; None: it is not visible."""
        if not self.visible_at(time):
            return None
        x, y = self.centre_at(time)
        return (x - self.radius, y - self.radius, x + self.radius, y + self.radius)


@dataclass(frozen=True, slots=True)
class SceneEvent:
    """An event of one actor, marked by a tone in the sound track.

    Args:
        kind: "appears", "moves", "turns" or "vanishes".
        actor: index of the actor in its scene.
        start: start time.
        end: end time; equal to ``start`` except for a move.
        detail: direction of a move, new colour of a turn, else empty.
    """

    kind: str
    actor: int
    start: float
    end: float
    detail: str = ""

    @property
    def tone(self) -> float:
        """Frequency of its tone in hertz."""
        return TONES[self.kind]


@dataclass(frozen=True, slots=True)
class Scene:
    """One clip, or one picture if ``duration`` is 0. Actors are in the order in which they appear."""

    duration: float
    background: tuple[int, int, int]
    actors: tuple[Actor, ...]

    @property
    def events(self) -> tuple[SceneEvent, ...]:
        """All events in the order of time."""
        found = []
        for index, actor in enumerate(self.actors):
            found.append(SceneEvent("appears", index, actor.appears, actor.appears))
            if actor.moves is not None and actor.direction is not None:
                found.append(SceneEvent("moves", index, *actor.moves, actor.direction))
            if actor.turns is not None:
                found.append(SceneEvent("turns", index, actor.turns[0], actor.turns[0], actor.turns[1]))
            if actor.vanishes is not None:
                found.append(SceneEvent("vanishes", index, actor.vanishes, actor.vanishes))
        return tuple(sorted(found, key=lambda event: event.start))

    @property
    def signature(self) -> str:
        """Colours, shapes and directions of the actors, without times and positions."""
        return " ".join(sorted(f"{actor.colour}-{actor.shape}-{actor.direction}" for actor in self.actors))

    @property
    def split(self) -> str:
        """The split whose scenes have this signature: "train"; "choice", to choose settings on; or "test"."""
        number = zlib.crc32(self.signature.encode()) % 8
        return next(split for split, numbers in _SHARES.items() if number in numbers)


def make_scene(seed: int, index: int, duration: float, split: str = "train") -> Scene:
    """Returns scene number ``index`` of a world: a pure function of its arguments.

    Args:
        seed: seed of the world.
        index: number of the scene; CAST gives its number of actors.
        duration: duration in seconds; 0: a picture, whose actors are all visible and do nothing.
        split: "train", "choice" or "test". No two splits share a signature.
    """
    rng = random.Random(f"{seed} {index} {duration} {split}")
    while True:
        scene = _draw(rng, CAST[index % len(CAST)], duration)
        if scene.split == split:
            return scene


def _draw(rng: random.Random, num_actors: int, duration: float) -> Scene:
    background = rng.randrange(15, 60)
    rows = rng.random() < 0.5
    lanes = rng.sample(LANES, num_actors)
    shapes = rng.sample(SHAPES, num_actors)
    colours = rng.sample(tuple(COLOURS), num_actors)
    actors = tuple(
        _draw_actor(rng, shapes[i], colours[i], lanes[i], rows, _FIRST_SLOTS[num_actors][i], duration)
        for i in range(num_actors)
    )
    return Scene(duration, (background, background, background), actors)


def _draw_actor(
    rng: random.Random,
    shape: str,
    colour: str,
    lane: float,
    rows: bool,
    first_slots: tuple[int, ...],
    duration: float,
) -> Actor:
    radius = rng.uniform(0.135, 0.155)
    across = lane + rng.uniform(-0.01, 0.01)

    def place(along: float) -> tuple[float, float]:
        return (along, across) if rows else (across, along)

    if duration == 0:
        spot = place(rng.choice(LANES))
        return Actor(shape, colour, radius, spot, spot, appears=0.0)

    def moment(slot: int) -> float:
        return slot * duration / SLOTS

    first = rng.choice(first_slots)
    later = moment(rng.randrange(first + _MOVE_SLOTS, SLOTS))
    fate = rng.choice(("stays",) * 6 + ("turns", "vanishes"))
    turns = (later, rng.choice([other for other in COLOURS if other != colour])) if fate == "turns" else None
    vanishes = later if fate == "vanishes" else None
    if rng.random() < 0.3:
        spot = place(rng.choice(LANES))
        return Actor(shape, colour, radius, spot, spot, moment(first), turns=turns, vanishes=vanishes)
    direction = rng.choice(("left", "right") if rows else ("up", "down"))
    near, far = place(LANES[0]), place(LANES[-1])
    start, end = (near, far) if direction in ("right", "down") else (far, near)
    moves = (moment(first), moment(first + _MOVE_SLOTS))
    return Actor(shape, colour, radius, start, end, moment(first), moves, direction, turns, vanishes)
