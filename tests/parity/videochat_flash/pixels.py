"""Pixels of frames and pictures against the official code: resizing, grids of tiles, crops."""

import base64
import io

import numpy as np
import torch
from PIL import Image
from torch.testing import assert_close

from vidtune.media.preprocessing.resize_to_square import VideoPreprocessing
from vidtune.media.preprocessing.tiles import TilesPreprocessing
from vidtune.media.preprocessing.transforms import normalize, pil_bicubic

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


def test_pixels_of_frames(inputs, expected):
    frames = inputs["processor.frames_uint8"].numpy()
    for name, wanted in expected.items():
        if not name.startswith("processor.pixel_values"):
            continue
        height, width = wanted.shape[-2:]
        if height == width:
            steps = VideoPreprocessing(
                size=height, resize="stretch_bicubic", num_frames=len(frames), order="resize_then_normalize", **IMAGENET
            )
            found = steps.apply(frames)
        else:
            found = normalize(pil_bicubic(frames, height, width).float() / 255, **IMAGENET)
        assert_close(found.transpose(0, 1), wanted, atol=1e-5, rtol=0, msg=lambda text, name=name: f"{name}: {text}")


def test_grids(host_side):
    for case in host_side["select_best_resolution"]:
        width, height = case["size_wh"]
        found = TilesPreprocessing(size=case["patch"]).grid(height, width)
        assert found[::-1] == tuple(case["grid_wh"]), case


def test_crops(host_side):
    case = host_side["anyres_crops"]
    picture = Image.open(io.BytesIO(base64.b64decode(case["image_png_b64"])))
    size = case["shape"][-1]
    found = TilesPreprocessing(size=size, **IMAGENET).apply(np.array(picture))[:, :, 0]
    assert list(found.shape) == case["shape"]
    assert_close(found[:, :, ::37, ::37], torch.tensor(case["samples_every_37"]), atol=1e-5, rtol=0)
    assert_close(found.mean((2, 3)), torch.tensor(case["mean"]), atol=1e-5, rtol=0)
    assert_close(found.std((2, 3)), torch.tensor(case["std"]), atol=1e-4, rtol=0)
