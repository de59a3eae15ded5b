"""Scenes for talking about one target: three or four coloured shapes in a clip, of which each moves its own way.

The frame is divided into four cells. An actor stays within its cell, so that boxes never overlap; it is visible in
every frame. No two actors of a scene share a colour or a shape: what is true of one is false of the others.
"""

import random
import zlib

from vidtune.world.scene import COLOURS, DIRECTIONS, SHAPES, Actor, Scene

TARGET_CAST = (3, 4)
"""Numbers of actors in consecutive scenes."""
_CELLS = tuple((x, y) for y in (0.25, 0.75) for x in (0.25, 0.75))
_REACH = 0.1
_SHARES = {"test": (0,), "choice": (1,), "train": tuple(range(2, 8))}
_STAYING = 0.15


def make_target_scene(seed: int, split: str, index: int, duration: float) -> Scene:
    """Returns scene number ``index`` of a split: a pure function of its arguments. Its actors are in reading order.

    Args:
        seed: seed of the world.
        split: "train"; "choice", to choose settings on; or "test". No two splits share a scene of the same colours,
            shapes and directions.
        index: number of the scene; TARGET_CAST gives its number of actors.
        duration: duration in seconds; 0: a picture, whose actors stay where they are.
    """
    rng = random.Random(f"targets {seed} {split} {index} {duration}")
    shares = len([share for shares in _SHARES.values() for share in shares])
    while True:
        scene = _draw(rng, TARGET_CAST[index % len(TARGET_CAST)], duration)
        if zlib.crc32(scene.signature.encode()) % shares in _SHARES[split]:
            return scene


def _draw(rng: random.Random, num_actors: int, duration: float) -> Scene:
    background = rng.randrange(15, 60)
    cells = sorted(rng.sample(range(len(_CELLS)), num_actors))
    shapes = rng.sample(SHAPES, num_actors)
    colours = rng.sample(tuple(COLOURS), num_actors)
    actors = tuple(
        _draw_actor(rng, shape, colour, _CELLS[cell], duration)
        for shape, colour, cell in zip(shapes, colours, cells, strict=True)
    )
    return Scene(duration, (background, background, background), actors)


def _draw_actor(rng: random.Random, shape: str, colour: str, cell: tuple[float, float], duration: float) -> Actor:
    radius = rng.uniform(0.135, 0.145)
    direction = rng.choice(tuple(DIRECTIONS))
    right, down = (_REACH * step for step in DIRECTIONS[direction])
    if duration == 0 or rng.random() < _STAYING:
        way = rng.uniform(-1, 1)
        spot = (cell[0] + way * right, cell[1] + way * down)
        return Actor(shape, colour, radius, spot, spot, appears=0.0)
    start, end = (cell[0] - right, cell[1] - down), (cell[0] + right, cell[1] + down)
    return Actor(shape, colour, radius, start, end, appears=0.0, moves=(0.0, duration), direction=direction)
