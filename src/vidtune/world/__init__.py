"""The synthetic worlds of the demo and the tests: real media files whose every detail is known."""

from vidtune.world.dataset import TEST_SET, WorldSpec, build_world
from vidtune.world.event_dataset import EVENT_TEST_SET, EventWorldSpec, build_event_world
from vidtune.world.kinds import WORLDS, World, render_world, sized, world_of_recipe
from vidtune.world.moments.dataset import MOMENT_SETS, MomentWorldSpec, build_moment_world
from vidtune.world.target_dataset import TARGET_SETS, TargetWorldSpec, build_target_world

__all__ = [
    "EVENT_TEST_SET",
    "MOMENT_SETS",
    "TARGET_SETS",
    "TEST_SET",
    "WORLDS",
    "EventWorldSpec",
    "MomentWorldSpec",
    "TargetWorldSpec",
    "World",
    "WorldSpec",
    "build_event_world",
    "build_moment_world",
    "build_target_world",
    "build_world",
    "render_world",
    "sized",
    "world_of_recipe",
]
