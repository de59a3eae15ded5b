import json
from dataclasses import asdict
from fractions import Fraction

import numpy as np
import pytest

from vidtune.media.clip_times import ClipTimes, Part

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


@pytest.mark.parametrize(
    ("part", "first", "number", "seconds"),
    [
        (Part(), 0, 300, 10.0),
        (Part(2.0, 4.0), 60, 60, 2.0),
        (Part(2.01, 4.99), 60, 89, 2.98),
        (Part(9.0, 99.0), 270, 30, 1.0),
        (Part(start=9.99), 299, 1, 0.01),
        (Part(0.0, 0.001), 0, 1, 0.001),
        (Part(2.0, 4.0, fps=1.0), 2, 2, 2.0),
    ],
)
def test_a_part_holds_the_frames_of_its_seconds(part: Part, first: int, number: int, seconds: float) -> None:
    found, times, length = part.of(ClipTimes.evenly(300, 30))
    assert (found, times.num_frames, round(length, 6)) == (first, number, seconds)
    assert times.fps == pytest.approx(part.fps or 30)


def test_a_part_of_frames_at_uneven_distances_holds_those_that_are_shown_in_it() -> None:
    times = ClipTimes.of_ticks(np.array([0, 1, 2, 50, 60]), 70, Fraction(1, 10))
    assert Part(0.15, 5.5).of(times)[:2] == (1, times.between(1, 4))
    assert Part(5.0, 6.0).of(times)[:2] == (3, times.between(3, 4))
    assert times.between(1, 4).starts.tolist() == pytest.approx([0.0, 0.1, 4.9])


def test_frames_without_times_get_a_rate_where_one_is_needed() -> None:
    unknown = ClipTimes.unknown(10)
    assert Part().of(unknown)[1] == unknown
    assert Part(folder_fps=2.0).of(unknown)[2] == 5.0
    assert Part(2.0, 4.0).of(unknown)[:2] == (2, ClipTimes.evenly(2, 1.0))
    assert Part(2.0, 4.0, folder_fps=2.0).of(unknown)[0] == 4
    assert Part(fps=3.0, folder_fps=2.0).of(unknown)[1].fps == 3.0
    assert Part(folder_fps=2.0).of(ClipTimes.evenly(10, 5))[1].fps == 5.0


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"start": -1.0}, "start is -1 seconds"),
        ({"end": float("nan")}, "end is nan seconds"),
        ({"start": 5.0, "end": 5.0}, "start is 5 and end 5 seconds; the end must come after it"),
        ({"end": 0.0}, "the end must come after"),
        ({"fps": 0.0}, "fps is 0 frames per second"),
        ({"frames": 10**9}, "65,536 is the most"),
        ({"frames_at": (0.0,) * 70_000}, "65,536 is the most"),
    ],
)
def test_impossible_parts_are_refused(values: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Part(**values)
    with pytest.raises(ValueError, match=r"from 20 s on was asked for, but it ends after 10\.00 s"):
        Part(20.0).of(ClipTimes.evenly(100, 10))


@pytest.mark.parametrize(("fps", "number"), [(0.1, 300), (1 / 3, 1000), (29.97, 40000), (1e-9, 12), (1e9, 12)])
def test_seconds_of_many_frames_at_a_rate_with_a_large_fraction(fps: float, number: int) -> None:
    times = ClipTimes.evenly(number, fps)
    assert times.starts[-1] == pytest.approx((number - 1) / fps, rel=1e-12)
    assert times.is_even(0.5)
