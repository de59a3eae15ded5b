import itertools
import json
import os
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from vidtune.errors import UserError
from vidtune.media.clip_times import ClipTimes
from vidtune.media.preprocessing.frame_sampling import FrameCount, SamplingRule, clip_indices, frame_indices
from vidtune.registry import SAMPLING_RULES

PARITY = Path(os.environ.get("VIDTUNE_PARITY", Path(__file__).parents[2] / "parity" / "fixtures"))


def test_linspace_equals_the_official_indices() -> None:
    cases = json.loads((PARITY / "video_llava" / "tokens.json").read_text())["frame_indices_linspace8"]
    assert cases
    for num_frames, expected in cases.items():
        assert frame_indices("linspace", int(num_frames), 8) == expected


@pytest.mark.parametrize("rule", sorted(name for name, rule in SAMPLING_RULES.items() if rule.is_fixed))
@pytest.mark.parametrize(("num_frames", "count"), [(1, 8), (5, 8), (8, 8), (9, 8), (1000, 64), (7, 1), (100003, 3)])
def test_every_rule_gives_ascending_indices_within_the_clip(rule: str, num_frames: int, count: int) -> None:
    indices = frame_indices(rule, num_frames, count)
    assert len(indices) == count
    assert indices == sorted(indices)
    assert indices[0] >= 0
    assert indices[-1] < num_frames


@pytest.mark.parametrize("rule", sorted(name for name, rule in SAMPLING_RULES.items() if rule.number is not None))
def test_a_number_that_depends_on_the_clip_is_within_its_bounds_and_one_of_those_announced(rule: str) -> None:
    for total, most, least, multiple in itertools.product((1, 7, 11, 64), (1, 8, 9, 32), (1, 4, 9), (1, 2, 4)):
        if least > most:
            continue
        wanted = FrameCount(most, least, multiple)
        found = frame_indices(rule, total, wanted, 25.0)
        assert len(found) in SAMPLING_RULES[rule].numbers(wanted), (total, wanted)
        assert len(found) <= most, (total, wanted)


def test_a_short_clip_repeats_frames() -> None:
    assert frame_indices("linspace", 5, 8) == [0, 0, 1, 1, 2, 2, 3, 4]


def test_arange_starts_each_of_equal_parts() -> None:
    assert frame_indices("arange", 100, 8) == [0, 12, 25, 37, 50, 62, 75, 87]


def test_an_unknown_rule_is_named_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="'random'; known: arange, even_steps, inner_steps, linspace"):
        frame_indices("random", 10, 8)


def test_an_empty_clip_is_refused() -> None:
    with pytest.raises(ValueError, match="from 0"):
        frame_indices("linspace", 0, 8)


@pytest.mark.parametrize("found", [None, [], [0, 1], [2, 1, 0], [0, 1, 9], [-1, 0, 1], [0, 1, float("nan")], 3])
def test_a_rule_that_gives_no_indices_is_named(found: object) -> None:
    SAMPLING_RULES.register("wrong", SamplingRule(lambda total, count, fps: found))  # type: ignore[arg-type,return-value]
    try:
        with pytest.raises(UserError, match="frame sampling rule 'wrong'"):
            frame_indices("wrong", 9, 3)
    finally:
        SAMPLING_RULES.unregister("wrong")


def uneven(*steps: tuple[int, float]) -> ClipTimes:
    """Times of a clip: (number of frames, seconds of each), one after the other."""
    lengths = [round(1000 * seconds) for number, seconds in steps for _ in range(number)]
    return ClipTimes.of_ticks(np.cumsum([0, *lengths[:-1]]), sum(lengths), Fraction(1, 1000))


@pytest.mark.parametrize("rule", ["per_second", "linspace", "linspace_float32", "arange"])
@pytest.mark.parametrize("fps", [25, Fraction(30000, 1001), Fraction(24000, 1001), 7.5])
def test_an_even_frame_rate_is_sampled_as_published(rule: str, fps: float) -> None:
    for num_frames in (1, 9, 500, 50_000):
        times = ClipTimes.evenly(num_frames, fps)
        assert clip_indices(rule, times, 16) == frame_indices(rule, num_frames, 16, times.fps)
    assert clip_indices(rule, ClipTimes.unknown(20), 16) == frame_indices(rule, 20, 16)


def test_an_uneven_frame_rate_is_sampled_by_the_seconds_of_its_frames() -> None:
    slow_then_fast = uneven((10, 1.0), (100, 0.1))  # 10 frames of a second each, then 10 a second: 20 seconds
    assert clip_indices("per_second", slow_then_fast, 100) == [*range(10), *range(10, 110, 10)]
    assert clip_indices("per_second", slow_then_fast, 5) == [0, 4, 9, 50, 100]
    still = uneven((200, 0.04), (1, 12.0))  # the last frame stands for 12 seconds: no frame comes twice
    assert clip_indices("per_second", still, 100) == [*range(0, 200, 25), 200]
    assert clip_indices("linspace", still, 3) == [0, 100, 200]


def test_small_delays_do_not_make_a_frame_rate_uneven() -> None:
    late = uneven((100, 0.04), (1, 0.4), (100, 0.04))
    assert clip_indices("per_second", late, 100) == frame_indices("per_second", 201, 100, late.fps)


def test_what_a_rule_chooses_by_times_is_checked() -> None:
    rule = SamplingRule(lambda total, count, fps: [0], repeats=False, choose_by_times=lambda times, count: [5, 2])
    SAMPLING_RULES.register("backwards", rule)
    try:
        assert clip_indices("backwards", ClipTimes.evenly(9, 1), 3) == [0]
        with pytest.raises(UserError, match=r"'backwards': gives \[5, 2\]; expected 1 to 3 ascending indices"):
            clip_indices("backwards", uneven((4, 1.0), (5, 5.0)), 3)
    finally:
        SAMPLING_RULES.unregister("backwards")
