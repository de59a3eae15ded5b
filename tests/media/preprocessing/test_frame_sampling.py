import json
import os
from pathlib import Path

import pytest

from vidtune.errors import UserError
from vidtune.media.preprocessing.frame_sampling import SamplingRule, frame_indices
from vidtune.registry import SAMPLING_RULES

PARITY = Path(os.environ.get("VIDTUNE_PARITY", Path(__file__).parents[2] / "parity" / "fixtures"))


def test_linspace_equals_the_official_indices() -> None:
    cases = json.loads((PARITY / "video_llava" / "tokens.json").read_text())["frame_indices_linspace8"]
    assert cases
    for num_frames, expected in cases.items():
        assert frame_indices("linspace", int(num_frames), 8) == expected


@pytest.mark.parametrize("rule", sorted(name for name, rule in SAMPLING_RULES.items() if rule.repeats))
@pytest.mark.parametrize(("num_frames", "count"), [(1, 8), (5, 8), (8, 8), (9, 8), (1000, 64), (7, 1), (100003, 3)])
def test_every_rule_gives_ascending_indices_within_the_clip(rule: str, num_frames: int, count: int) -> None:
    indices = frame_indices(rule, num_frames, count)
    assert len(indices) == count
    assert indices == sorted(indices)
    assert indices[0] >= 0
    assert indices[-1] < num_frames


def test_a_short_clip_repeats_frames() -> None:
    assert frame_indices("linspace", 5, 8) == [0, 0, 1, 1, 2, 2, 3, 4]


def test_arange_starts_each_of_equal_parts() -> None:
    assert frame_indices("arange", 100, 8) == [0, 12, 25, 37, 50, 62, 75, 87]


def test_an_unknown_rule_is_named_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="'random'; known: arange, linspace"):
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
