"""The target of a moving square in a video."""

from pathlib import Path

import pytest
from moving_square import place, write_moving_square

from vidtune.media.boxes.located import BoxAt, LocatedTarget
from vidtune.media.probe import probe


@pytest.fixture(scope="session")
def moving(tmp_path_factory: pytest.TempPathFactory) -> LocatedTarget:
    """The square in frame 12; no track is known."""
    path: Path = write_moving_square(tmp_path_factory.mktemp("moving") / "moving.mp4")
    return LocatedTarget(str(path), probe(path), BoxAt(12, 1.0, place(12)))
