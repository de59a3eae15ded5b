"""The synthetic worlds of the demo and the tests: real media files whose every detail is known."""

from vidtune.world.dataset import TEST_SET, WorldSpec, build_world
from vidtune.world.event_dataset import EVENT_TEST_SET, EventWorldSpec, build_event_world
from vidtune.world.kinds import WORLDS, World, render_world, world_of_recipe

__all__ = [
    "EVENT_TEST_SET",
    "TEST_SET",
    "WORLDS",
    "EventWorldSpec",
    "World",
    "WorldSpec",
    "build_event_world",
    "build_world",
    "render_world",
    "world_of_recipe",
]
