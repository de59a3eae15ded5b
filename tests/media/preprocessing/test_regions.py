"""Boxes in frames: which are taken, how their frames are read, and what is refused."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from synthetic_clips import write_clip

from vidtune.errors import ItemError, MediaError, UserError
from vidtune.media.pool import LoadJob, MediaPool
from vidtune.media.preprocessing.box_choice import box_problem, chosen_boxes
from vidtune.media.preprocessing.frame_sampling import frame_indices
from vidtune.media.preprocessing.kinds import random_setting
from vidtune.media.preprocessing.regions import RegionPreprocessing
from vidtune.media.preprocessing.resize_to_square import ImagePreprocessing, VideoPreprocessing
from vidtune.media.probe import probe
from vidtune.media.video import read_frames
from vidtune.media.worker import Loaded, execute
from vidtune.registry import RESIZE_RULES

NAMES = ("a.png", "b.png", "c.png")
BOX = (8.0, 6.0, 32.0, 24.0)


def extras(count: int = 1, box: tuple[float, ...] = BOX, **numbers: list[float]) -> dict[str, np.ndarray]:
    given = {"boxes": [box] * count, **numbers}
    return {name: np.array(value, np.float32) for name, value in given.items()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Three frames of 64x48 pixels with colours of their own."""
    folder = tmp_path_factory.mktemp("frames")
    for number, name in enumerate(NAMES):
        pixels = np.random.default_rng(number).integers(0, 256, (48, 64, 3), np.uint8)
        Image.fromarray(pixels).save(folder / name)
    return folder


@pytest.fixture(scope="module")
def uneven(tmp_path_factory) -> str:
    """Frames at 0, 0.1, 0.2, 2.0, 2.1, 5.0 seconds."""
    path = tmp_path_factory.mktemp("uneven") / "uneven.mp4"
    return str(write_clip(path, num_frames=6, times=[0, 1, 2, 20, 21, 50]))


@pytest.mark.parametrize("frames", [("c.png", "a.png"), ("c.png",)])
def test_frames_that_are_named_are_read_as_pictures(folder: Path, frames: tuple[str, ...]) -> None:
    steps = RegionPreprocessing(size=16, num_boxes=2)
    values, found = steps.load_item(str(folder), extras(len(frames)), frames=frames)
    pictures = [ImagePreprocessing(size=16).load(str(folder / name)) for name in (*frames, *frames)[:2]]
    assert values.shape == steps.output_shape() and np.array_equal(values, np.stack(pictures, axis=1))
    assert found.keys() == {"boxes"} and found["boxes"].dtype == np.float32
    assert found["boxes"].tolist() == [[0.125, 0.125, 0.5, 0.5]] * 2


@pytest.mark.parametrize(
    ("numbers", "read"),
    [
        ({"frames": [5, 0, 3]}, [5, 0, 3]),
        ({"seconds": [5.0, 0.05, 2.05]}, [5, 0, 3]),
        ({"seconds": [1.99, 0.2, 4.9]}, [2, 2, 4]),
    ],
)
def test_frames_of_an_uneven_video_are_found_by_number_and_by_second(uneven, numbers, read) -> None:
    values, _ = RegionPreprocessing(size=16, num_boxes=3).load_item(uneven, extras(3, **numbers))
    wanted = [ImagePreprocessing(size=16).apply(pixels) for pixels in read_frames(uneven, read)]
    assert np.array_equal(values, torch.stack(wanted, dim=1).numpy())


def test_the_start_of_a_frame_is_in_it_and_the_end_of_the_clip_in_the_last_one(uneven: str) -> None:
    steps, times = RegionPreprocessing(size=8, num_boxes=6), probe(uneven).times
    seconds = (*times.starts[1:].tolist(), times.duration)
    loaded = execute(LoadJob(uneven, steps, extras=(("boxes", (BOX,) * 6), ("seconds", seconds))))
    wanted = steps.load_item(uneven, extras(6, frames=[1, 2, 3, 4, 5, 5]))
    assert isinstance(loaded, Loaded) and np.array_equal(loaded.values, wanted[0])


def test_several_boxes_of_one_picture(folder: Path) -> None:
    values, found = RegionPreprocessing(size=16, num_boxes=3).load_item(str(folder / "a.png"), extras(2))
    assert values.shape == (3, 3, 16, 16) and (values == values[:, :1]).all() and len(found["boxes"]) == 3
    black = RegionPreprocessing(size=16, num_boxes=1, blind=True, pixels="uint8")
    assert not black.load_item(str(folder / "a.png"), extras())[0].any()
    assert black.load_item(str(folder), extras(), frames=("b.png",))[1]["boxes"].tolist() == [[0.125, 0.125, 0.5, 0.5]]


def test_without_a_seed_every_nth_box_is_taken_and_few_are_filled_up_with_the_last() -> None:
    assert chosen_boxes(17, 8) == [0, 2, 4, 6, 8, 10, 12, 14] and chosen_boxes(15, 8) == list(range(8))
    assert chosen_boxes(3, 8) == [0, 1, 2, 2, 2, 2, 2, 2] and chosen_boxes(1, 1) == [0] == chosen_boxes(9, 1)
    assert chosen_boxes(17, 8, "random") == chosen_boxes(17, 8)
    assert chosen_boxes(15, 8, "whole") == [0, 2, 4, 6, 8, 10, 12, 14] and chosen_boxes(3, 8, "whole")[-6:] == [2] * 6
    assert chosen_boxes(23, 8, "whole", 5) == [0, 3, 6, 9, 13, 16, 19, 22] == chosen_boxes(23, 8, "whole")


@pytest.mark.parametrize("choice", ["average", "random"])
def test_with_a_seed_boxes_are_chosen_at_random_and_again_the_same(choice) -> None:
    found = [chosen_boxes(100, 8, choice, seed) for seed in range(200)]
    assert found == [chosen_boxes(100, 8, choice, seed) for seed in range(200)]
    assert all(one == sorted(one) and one[0] >= 0 and one[-1] < 100 for one in found)
    assert len({tuple(one) for one in found}) > 150
    assert {chosen_boxes(5, 1, choice, seed)[0] for seed in range(60)} == set(range(5))
    if choice == "average":  # n // T is 12: starts 0 to 11, then steps of 12, each moved by at most 3
        assert {one[0] for one in found} == set(range(12))
        steps = np.array([np.array(one[1:]) - one[0] - 12 * np.arange(1, 8) for one in found])
        assert set(steps.ravel().tolist()) == {-2, -1, 0, 1, 2}
    else:
        assert all(len(set(one)) == 8 for one in found)


def test_a_seed_gives_draws_and_decides_everything(uneven: str) -> None:
    steps, given = RegionPreprocessing(size=8, num_boxes=2), extras(6, frames=[0, 1, 2, 3, 4, 5])
    values, found = steps.load_item(uneven, given, 7)
    again, same = steps.load_item(uneven, given, 7)
    assert np.array_equal(values, again) and found["draw"].tolist() == same["draw"].tolist()
    assert found["draw"].shape == (2,) and found["draw"].dtype == np.float32 and (found["draw"] < 1).all()
    assert found["draw"].tolist() != steps.load_item(uneven, given, 8)[1]["draw"].tolist()
    assert random_setting(steps) == "choice" and random_setting(ImagePreprocessing()) is None


def test_a_box_can_follow_the_crop(folder: Path) -> None:
    """64x48 becomes 21x16, of which columns 2 to 18 are cut out."""
    boxes = extras(box=(24.0, 12.0, 40.0, 36.0))
    _, found = RegionPreprocessing(size=16, num_boxes=1, follow_crop=True).load_item(
        str(folder), boxes, frames=NAMES[:1]
    )
    left, right = (np.array([24, 40]) / 64 * 21 - 2) / 16
    assert np.allclose(found["boxes"], [[left, 0.25, right, 0.75]])
    whole = RegionPreprocessing(size=16, num_boxes=1, follow_crop=True, resize="stretch")
    assert whole.load_item(str(folder), extras(), frames=NAMES[:1])[1]["boxes"].tolist() == [[0.125, 0.125, 0.5, 0.5]]
    with pytest.raises(ItemError, match="box 0 lies outside the part of the frame that is cut out"):
        steps = RegionPreprocessing(size=16, num_boxes=1, follow_crop=True)
        steps.load_item(str(folder), extras(box=(0, 0, 4, 9)), frames=NAMES[:1])


def test_a_rule_that_does_not_tell_where_boxes_go_cannot_be_followed() -> None:
    RESIZE_RULES.register("silent", type(RESIZE_RULES["crop"])(RESIZE_RULES["crop"].resize))
    try:
        assert RegionPreprocessing(resize="silent").resize == "silent"
        with pytest.raises(ValueError, match="'silent' does not tell where boxes go"):
            RegionPreprocessing(resize="silent", follow_crop=True)
    finally:
        RESIZE_RULES.unregister("silent")


@pytest.mark.parametrize(
    ("box", "problem"),
    [
        ((1, 2, 3), "has 3 numbers"),
        ((5, 5, 2, 9), "reversed corners"),
        ((5, 9, 8, 5), "reversed corners"),
        ((5, 5, 5, 9), "has no area"),
        ((0, 0, 1e-50, 9), "has no area"),
        ((0, 0, float("nan"), 9), "not finite"),
        ((0, 0, 1e39, 9), "not finite"),
        ((-5.5, -3, 2.25, 900), None),
    ],
)
def test_wrong_boxes_are_told_apart(box, problem: str | None) -> None:
    found = box_problem(box)
    assert found is None if problem is None else problem in found


@pytest.mark.parametrize(
    ("given", "frames", "problem"),
    [
        ({}, NAMES[:1], "no box is given"),
        (extras(box=(64, 0, 70, 9)), NAMES[:1], "box 0 (64, 0, 70, 9) lies outside the frame of 64x48 pixels"),
        (extras(box=(9, 9, 3, 20)), NAMES[:1], "box 0 has reversed corners"),
        (extras(2), NAMES[:1], "2 boxes but names of frames of shape (1,)"),
        (extras(2, seconds=[1.0]), (), "2 boxes but seconds of shape (1,)"),
        (extras(seconds=[1.0]), (), "its frames have no times"),
        (extras(frames=[3.0]), (), "in frame 3, but its frames are 0 to 2"),
        (extras(frames=[0.5]), (), "in frame 0.5"),
        (extras(), (), "without frames or seconds"),
        (extras(), ("no.png",), "no.png: file does not exist"),
    ],
)
def test_what_cannot_be_read_is_the_fault_of_the_item(folder: Path, given, frames, problem: str) -> None:
    with pytest.raises(ItemError, match=re.escape(problem)):
        RegionPreprocessing(size=8).load_item(str(folder), given, frames=frames)


def test_seconds_outside_the_clip_and_a_missing_video(uneven: str) -> None:
    for second in (-0.1, 5.2):
        with pytest.raises(ItemError, match=f"at {second:g} seconds, but it lasts 5.1"):
            RegionPreprocessing(size=8).load_item(uneven, extras(seconds=[second]))
    with pytest.raises(MediaError, match="does not exist") as caught:
        RegionPreprocessing(size=8).load_item(uneven + "x", extras(frames=[0]))
    assert not isinstance(caught.value, ItemError)
    with pytest.raises(ItemError, match="no folder of frames"):
        RegionPreprocessing(size=8).load_item(uneven, extras(), frames=("a.png",))


@pytest.mark.parametrize("workers", [0, 1])
def test_workers_get_the_names_and_give_the_error_of_the_item(workers: int, folder: Path) -> None:
    steps, boxes = RegionPreprocessing(size=8, num_boxes=1), (("boxes", (BOX,)),)
    jobs = [LoadJob(str(folder), steps, 3, extras=boxes, frames=(name,)) for name in ("b.png", "no.png")]
    with MediaPool(workers, 60.0) as pool:
        good, bad = pool.load(jobs)
    assert good.array is not None and good.extras is not None and good.extras.keys() == {"boxes", "draw"}
    assert np.array_equal(good.array[:, 0], ImagePreprocessing(size=8).load(str(folder / "b.png")))
    assert isinstance(bad.error, ItemError) and bad.error.path == str(folder / "no.png")


def test_jobs_with_the_same_result_are_equal() -> None:
    plain = [LoadJob("a.png", ImagePreprocessing(), seed, extras=(("boxes", 1),), frames=("b",)) for seed in (1, 2)]
    assert plain[0] == plain[1] == LoadJob("a.png", ImagePreprocessing())
    flipped = VideoPreprocessing(flip_probability=0.5)
    assert LoadJob("a.mp4", flipped, 1) != LoadJob("a.mp4", flipped, 2)
    assert LoadJob("a", RegionPreprocessing(), 1, frames=("b",)) != LoadJob("a", RegionPreprocessing(), 1)


def test_stretch_takes_the_nearest_pixels_as_torch_does() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 37, 53, 3), np.uint8)
    steps = VideoPreprocessing(size=16, num_frames=2, resize="stretch", pixels="uint8")
    frames = torch.from_numpy(pixels).permute(0, 3, 1, 2).float()
    wanted = torch.nn.functional.interpolate(frames, size=(16, 16)).to(torch.uint8).transpose(0, 1)
    assert torch.equal(steps.apply(pixels), wanted)
    square = pixels[:, :16, :16]
    assert torch.equal(steps.apply(square), torch.from_numpy(square).permute(3, 0, 1, 2))


def test_segment_middles_gives_a_short_clip_as_many_frames_as_it_has() -> None:
    assert frame_indices("segment_middles", 7, 100) == [0, 1, 2, 3, 3, 4, 5]
    assert frame_indices("segment_middles", 1, 100) == [0]
    assert len(frame_indices("segment_middles", 7, 100)) == 7 and len(frame_indices("segment_middles", 300, 100)) == 100


def test_a_choice_that_is_unknown_is_refused() -> None:
    with pytest.raises((UserError, ValueError), match="choice"):
        RegionPreprocessing(choice="middle")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("given", "frames", "problem"),
    [
        ({"boxes": 5}, ("a.png",), "its boxes have shape ()"),
        ({"boxes": ((1, 2, 3, 4), (1, 2))}, ("a.png",), "extra 'boxes' is no number"),
        ({"boxes": (("1", "2", "3", "4"),)}, ("a.png",), "extra 'boxes' is no number"),
        ({"boxes": ((1, 2, 1e39, 4),)}, ("a.png",), "holds a number that is not finite"),
        ({"boxes": (BOX,), "frames": (float("nan"),)}, (), "in frame nan"),
        ({"boxes": (BOX,), "frames": (10**39,)}, (), "extra 'frames' is no number"),
        ({"boxes": (BOX,), "frames": (0,), "seconds": (0.0,)}, (), "told by frames and by seconds; give one"),
        ({"boxes": (BOX,), "frames": (0,)}, ("a.png",), "told by frames and by names of frames; give one"),
    ],
)
def test_extras_that_are_no_numbers_are_the_fault_of_the_item(folder: Path, given, frames, problem: str) -> None:
    job = LoadJob(str(folder), RegionPreprocessing(size=8), extras=tuple(given.items()), frames=frames)
    with pytest.raises(ItemError, match=re.escape(problem)):
        execute(job)
