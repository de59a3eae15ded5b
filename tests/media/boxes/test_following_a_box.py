"""Trackers of OpenCV follow a box forwards and backwards; where they cannot, one line says why."""

import importlib.util
from typing import Any

import numpy as np
import pytest
from moving_square import FRAMES, place

from vidtune.errors import MediaError, UserError
from vidtune.media.boxes import tracking
from vidtune.media.boxes.located import LocatedTarget
from vidtune.media.boxes.tracking import FollowBox, check_tracker, followed

needs_opencv = pytest.mark.skipif(importlib.util.find_spec("cv2") is None, reason="OpenCV is not installed")


def overlap(box: Any, other: Any) -> float:
    """Area in both boxes, as a share of the area in one of them."""
    (a, b, c, d), (e, f, g, h) = box, other
    both = max(0.0, min(c, g) - max(a, e)) * max(0.0, min(d, h) - max(b, f))
    return both / ((c - a) * (d - b) + (g - e) * (h - f) - both)


@needs_opencv
def test_a_tracker_follows_a_box_in_both_directions(moving: LocatedTarget) -> None:
    rows, extras = FollowBox("kcf", moving.key.frame, moving.key.box).load_item(moving.video, {})
    assert rows[:, 0].tolist() == list(range(FRAMES)) and extras == {}
    assert rows[12, 1:].tolist() == list(place(12))
    assert min(overlap(row[1:], place(int(row[0]))) for row in rows) > 0.6


@needs_opencv
def test_frames_between_are_skipped_and_decoded_some_at_a_time(
    moving: LocatedTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "PER_SECOND", 4)
    monkeypatch.setattr(tracking, "_AT_A_TIME", 1)
    monkeypatch.setattr(tracking, "LONGEST_SIDE", 80)
    rows, _ = FollowBox("csrt", 13, place(13)).load_item(moving.video, {})
    assert rows[:, 0].tolist() == list(range(1, FRAMES, 3))
    assert min(overlap(row[1:], place(int(row[0]))) for row in rows) > 0.6


class Forgetful:
    """A tracker that loses its box for two frames, and then for three."""

    def __init__(self) -> None:
        self.seen = 0

    def init(self, pixels: np.ndarray, box: tuple[int, ...]) -> None:
        self.box = box

    def update(self, pixels: np.ndarray) -> tuple[bool, tuple[int, ...]]:
        self.seen += 1
        return self.seen in (1, 2, 5) or self.seen > 8, self.box


@needs_opencv
def test_a_target_that_is_lost_is_given_up(moving: LocatedTarget, monkeypatch: pytest.MonkeyPatch) -> None:
    import cv2

    class Made:
        create = Forgetful

    monkeypatch.setattr(cv2, "TrackerKCF", Made)
    monkeypatch.setattr(tracking, "LOST", 3)
    rows, _ = FollowBox("kcf", 2, place(2)).load_item(moving.video, {})
    assert rows[:, 0].tolist() == [0, 1, 2, 3, 4, 7]


@needs_opencv
def test_a_worker_follows_and_tells_the_seconds(moving: LocatedTarget) -> None:
    boxes = followed(moving, "kcf", 60.0)
    assert [box.frame for box in boxes] == list(range(FRAMES)) and boxes[6].seconds == 0.5
    assert overlap(boxes[-1].box, place(FRAMES - 1)) > 0.6


@needs_opencv
def test_a_box_that_a_tracker_cannot_take_is_named(moving: LocatedTarget, monkeypatch: pytest.MonkeyPatch) -> None:
    import cv2

    class Refusing:
        def init(self, pixels: np.ndarray, box: tuple[int, ...]) -> None:
            raise cv2.error("roi\nis empty")

    class Made:
        create = Refusing

    monkeypatch.setattr(cv2, "TrackerKCF", Made)
    with pytest.raises(MediaError, match=r"moving\.mp4: the tracker kcf cannot follow this box \(roi is empty\)"):
        FollowBox("kcf", 2, place(2)).load_item(moving.video, {})
    monkeypatch.delattr(cv2, "TrackerKCF")
    with pytest.raises(UserError, match=r"pip install 'vidtune\[track\]'"):
        FollowBox("kcf", 2, place(2)).load_item(moving.video, {})


def test_a_tracker_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="tracker 'csr' does not exist; did you mean 'csrt'"):
        check_tracker("csr")
    monkeypatch.setattr(tracking, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'vidtune\[track\]'"):
        check_tracker("csrt")
