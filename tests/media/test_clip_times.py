import json
from dataclasses import asdict
from fractions import Fraction

import numpy as np
import pytest

from vidtune.media.clip_times import ClipTimes

UNEVEN = ClipTimes.of_ticks(np.array([100, 110, 120, 200, 210]), 260, Fraction(1, 100))


def test_seconds_count_from_the_first_shown_frame() -> None:
    assert UNEVEN.starts.tolist() == [0.0, 0.1, 0.2, 1.0, 1.1]
    assert (UNEVEN.num_frames, UNEVEN.duration, UNEVEN.fps) == (5, 1.6, 5 / 1.6)
    assert UNEVEN.second_of(3) == 1.0
    with pytest.raises(IndexError):
        UNEVEN.second_of(5)


@pytest.mark.parametrize(
    ("second", "index"), [(-1, 0), (0, 0), (0.0999, 0), (0.1, 1), (0.9, 2), (1.0, 3), (1.55, 4), (99, 4)]
)
def test_a_moment_shows_the_last_frame_that_has_begun(second: float, index: int) -> None:
    assert UNEVEN.index_at(second) == index


@pytest.mark.parametrize("fps", [1, 8, 23.976, 25, Fraction(30000, 1001), 59.94])
def test_every_start_finds_its_own_frame(fps: float) -> None:
    times = ClipTimes.evenly(300, fps)
    assert [times.index_at(times.second_of(index)) for index in range(300)] == list(range(300))
    assert [times.index_at(index / float(fps)) for index in range(300)] == list(range(300))
    assert times.fps == pytest.approx(float(fps))


def test_times_survive_json_and_are_small() -> None:
    times = ClipTimes.of_ticks(np.arange(200_000) * 100 // 3, 6_666_700, Fraction(1, 1000))
    stored = json.dumps(asdict(times))
    assert len(stored) < 10_000
    assert ClipTimes(**json.loads(stored)) == times
    assert np.array_equal(ClipTimes(**json.loads(stored)).starts, times.starts)


def test_the_first_frames_end_where_the_next_begins() -> None:
    assert UNEVEN.first(3) == ClipTimes.of_ticks(np.array([0, 10, 20]), 100, Fraction(1, 100))
    assert UNEVEN.first(9) is UNEVEN
    assert ClipTimes.unknown(5).first(2) == ClipTimes.unknown(2)


def test_unknown_times_say_so() -> None:
    for times in (ClipTimes.unknown(4), ClipTimes.evenly(4, 0)):
        assert (times.num_frames, times.duration, times.fps, times.known) == (4, 0.0, 0.0, False)
        with pytest.raises(ValueError, match="unknown"):
            times.second_of(0)
    with pytest.raises(ValueError, match="in order"):
        ClipTimes.of_ticks(np.array([0, 2, 1]), 3, Fraction(1))
