"""Preprocessing at any aspect ratio: shapes known from metadata, pixels as they come out of the file."""

import numpy as np
import pytest
import torch
from PIL import Image
from synthetic_clips import write_clip

from vidtune.errors import MediaError
from vidtune.media.clip_times import ClipTimes
from vidtune.media.preprocessing.resize_keeping_aspect import AnyPixelImagePreprocessing, AnyPixelVideoPreprocessing
from vidtune.media.probe import MediaInfo, probe

VIDEO = AnyPixelVideoPreprocessing(size=56, cell=14)
IMAGE = AnyPixelImagePreprocessing(size=56, cell=14)


@pytest.mark.parametrize(
    ("width", "height", "size"),
    [
        (1280, 720, (252, 448)),
        (640, 480, (336, 448)),
        (720, 1280, (448, 252)),
        (500, 490, (448, 448)),
        (300, 300, (448, 448)),
        (4000, 10, (28, 448)),
    ],
)
def test_the_long_side_is_fixed_and_the_short_one_whole_cells(width, height, size):
    assert AnyPixelVideoPreprocessing().resized_size(height, width) == size


@pytest.mark.parametrize(
    ("size", "num_frames", "shape"),
    [
        ((64, 48), 200, (3, 8, 42, 56)),
        ((48, 64), 200, (3, 8, 56, 42)),
        ((64, 64), 5, (3, 5, 56, 56)),
        ((64, 16), 1, (3, 1, 14, 56)),
    ],
)
def test_metadata_tell_the_shape_that_loading_gives(size, num_frames, shape, tmp_path):
    path = str(write_clip(tmp_path / "clip.mp4", size=size, num_frames=num_frames))
    assert VIDEO.output_shape(probe(path)) == shape
    values = VIDEO.load(path)
    assert values.shape == shape and values.dtype == np.float32
    assert shape in VIDEO.output_shapes()
    blind = VIDEO.model_copy(update={"blind": True}).load(path)
    assert blind.shape == shape and np.ptp(blind, axis=(1, 2, 3)).max() == 0


def test_a_picture_file_gives_the_shape_its_header_tells(tmp_path):
    path = str(tmp_path / "picture.png")
    pixels = np.random.default_rng(0).integers(0, 256, (30, 60, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    assert IMAGE.output_shape(probe(path)) == IMAGE.load(path).shape == (3, 28, 56)
    assert (3, 28, 56) in IMAGE.output_shapes()
    with pytest.raises(MediaError, match="where a video is expected"):
        VIDEO.model_copy(update={"blind": True}).load(path)


@pytest.mark.parametrize("preprocessing", [VIDEO, IMAGE])
def test_grey_levels_become_the_same_values_on_the_device(preprocessing):
    shape = (3, 40, 30, 3) if preprocessing is VIDEO else (40, 30, 3)
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    grey = preprocessing.model_copy(update={"pixels": "uint8"})
    assert grey.apply(pixels).dtype == torch.uint8
    assert torch.equal(grey.to_float(grey.apply(pixels)), preprocessing.apply(pixels))
    assert torch.equal(grey.to_float(grey.apply(pixels)[None])[0], preprocessing.apply(pixels))


def test_a_clip_is_mirrored_by_its_seed_alone():
    pixels = np.random.default_rng(0).integers(0, 256, (3, 56, 28, 3), dtype=np.uint8)
    flipping = VIDEO.model_copy(update={"flip_probability": 1.0})
    assert torch.equal(flipping.apply(pixels), VIDEO.apply(pixels))
    assert torch.equal(flipping.apply(pixels, seed=1), VIDEO.apply(pixels).flip(-1))


def test_more_frames_than_wanted_are_spread_evenly():
    pixels = np.arange(20, dtype=np.uint8)[:, None, None, None] * np.ones((1, 14, 14, 3), np.uint8)
    first = VIDEO.model_copy(update={"pixels": "uint8"}).apply(pixels)[0, :, 0, 0]
    assert first.tolist() == [0, 2, 5, 8, 10, 13, 16, 19]


def test_a_size_that_is_no_whole_number_of_cells_is_refused():
    with pytest.raises(ValueError, match="not a multiple of cell"):
        AnyPixelVideoPreprocessing(size=50, cell=14)


def test_a_clip_at_one_frame_a_second_takes_one_frame_a_second():
    info = MediaInfo("video", 64, 64, ClipTimes.evenly(100, 12.5), False, 0)
    assert VIDEO.output_shape(info)[1] == 8
    assert VIDEO.output_shape(MediaInfo("video", 64, 64, ClipTimes.evenly(3, 25), False, 0))[1] == 3


@pytest.mark.parametrize(
    ("promised", "message"),
    [({"num_frames": 50}, "promises 50 frames but gives 40"), ({"width": 48}, "promises pictures of 48x48 pixels")],
)
def test_a_file_that_breaks_the_promise_of_its_metadata_is_refused(promised, message, tmp_path, monkeypatch):
    """Its tokens were counted by them. The packet table is made to promise, as damaged headers do."""
    from dataclasses import replace

    from vidtune.media import video

    path = str(write_clip(tmp_path / "clip.mp4", num_frames=40))
    if "num_frames" in promised:

        def fewer(*_, **__):
            raise video._FewerFrames(40)

        table = video.read_packet_table

        def longer(*arguments):
            found = table(*arguments)
            return replace(found, shown=np.ones(50, bool))

        monkeypatch.setattr(video, "read_packet_table", longer)
        monkeypatch.setattr(video, "_decode", fewer)
    else:
        told = video.probed_info
        monkeypatch.setattr(video, "probed_info", lambda *arguments: replace(told(*arguments), **promised))
    with pytest.raises(MediaError, match=message):
        VIDEO.load(path)
