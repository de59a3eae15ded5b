"""The synthetic video world of the demo and the tests: real media files whose every detail is known."""

from vidtune.world.dataset import TEST_SET, WorldSpec, build_world

__all__ = ["TEST_SET", "WorldSpec", "build_world"]
