"""The synthetic worlds of the demo and the tests: real media files whose every detail is known."""

from vidtune.world.dataset import TEST_SET, WorldSpec, build_world
from vidtune.world.event_dataset import EVENT_TEST_SET, EventWorldSpec, build_event_world
from vidtune.world.kinds import WORLDS, World

__all__ = [
    "EVENT_TEST_SET",
    "TEST_SET",
    "WORLDS",
    "EventWorldSpec",
    "World",
    "WorldSpec",
    "build_event_world",
    "build_world",
]
