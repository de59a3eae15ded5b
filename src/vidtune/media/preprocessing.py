"""Preprocessing of one stream: a media file, or pixels already decoded, to the tensor its tower takes.

Legend: C colour channels (3), T frames, H and W pixels of the source, S side of the square output.
The settings are frozen values, saved in the processor's configuration, and build the tensor themselves.
"""

from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, PositiveInt

from vidtune.errors import MediaError
from vidtune.media import transforms
from vidtune.media.any_pixel import AnyPixelImagePreprocessing, AnyPixelVideoPreprocessing
from vidtune.media.image import read_image
from vidtune.media.probe import MediaInfo, probe
from vidtune.media.sampling import frame_indices
from vidtune.media.video import read_clip

Triple = tuple[float, float, float]
Order = Literal["resize_then_normalize", "normalize_then_resize"]
Pixels = Literal["float32", "uint8"]


class _SquarePreprocessing(BaseModel):
    """Settings that both media share.

    ``order`` records the published order of the two steps. Filter weights sum to one, so both orders give the same
    values to float rounding (below 1e-6), and the cheaper one is computed: resize first, normalise the small result.

    Args:
        size: side S of the output in pixels.
        interpolation: filter of the resize; the short side becomes S, then the centre is cut out.
        antialias: widen the filter when shrinking.
        mean, std: per channel, of pixel values in [0, 1].
        blind: black pixels take the place of the real ones; the file is opened for its metadata only.
        pixels: what ``load`` and ``apply`` give. "float32": normalised values. "uint8": the resized values rounded to
            whole grey levels, which ``to_float`` normalises later, on the device: a quarter of the memory and of the
            transfer. They differ by at most half a grey level (1/510 before normalising), and by what bicubic
            interpolation shoots over black and white, which grey levels cannot hold.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    size: PositiveInt = 224
    interpolation: transforms.Interpolation = "bilinear"
    antialias: bool = False
    mean: Triple = transforms.CLIP_MEAN
    std: Triple = transforms.CLIP_STD
    order: Order = "resize_then_normalize"
    blind: bool = False
    pixels: Pixels = "float32"

    def to_float(self, values: torch.Tensor) -> torch.Tensor:
        """What the tower takes, from what ``load`` and ``apply`` gave, on the device where it lies.

        Nothing in here waits for the device. Float values are returned as they are.

        Shape: uint8 or float (..., *output_shape()) -> float32, or as given
        """
        if values.dtype != torch.uint8:
            return values
        x = values.to(torch.float32).div_(255.0)
        transforms.normalize(x.movedim(-len(self.output_shape()), 0), self.mean, self.std)
        return x

    def output_shape(self, info: MediaInfo | None = None) -> tuple[int, ...]:
        """Shape of ``load``'s result, known without decoding; channels first."""
        raise NotImplementedError

    def _finish(self, x: torch.Tensor) -> torch.Tensor:
        """Values in [0, 1] as ``pixels`` wants them. Shape: float32 (C, ...) -> float32 or uint8, the same"""
        if self.pixels == "uint8":
            return transforms.to_grey_levels(x)
        return transforms.normalize(x, self.mean, self.std)


class ImagePreprocessing(_SquarePreprocessing):
    """Still image -> (3, S, S).

    Args:
        pad_to_square: centre the picture on a square of the mean colour before resizing, so that nothing is cut off.
    """

    kind: Literal["image"] = "image"
    interpolation: transforms.Interpolation = "bicubic"
    pad_to_square: bool = False

    def output_shape(self, info: MediaInfo | None = None) -> tuple[int, int, int]:
        """Shape of ``load``'s result, known without decoding."""
        return (3, self.size, self.size)

    def output_shapes(self) -> list[tuple[int, ...]]:
        """Every shape that ``load`` can give."""
        return [self.output_shape()]

    def load(self, path: str, seed: int | None = None) -> np.ndarray:
        """Read an image file. Shape: -> float32 or uint8 (3, S, S)

        Raises:
            MediaError: the file is no readable image.
        """
        return self.apply(self.read(path), seed).numpy()

    def read(self, path: str) -> np.ndarray:
        """The pixels that ``load`` applies itself to. Shape: -> uint8 RGB (H, W, 3)"""
        if not self.blind:
            return read_image(path)
        info = probe(path)
        if info.kind != "image":
            raise MediaError(path, f"is a {info.kind} file where an image is expected")
        return np.zeros((info.height, info.width, 3), np.uint8)

    def apply(self, pixels: np.ndarray, seed: int | None = None) -> torch.Tensor:
        """Shape: uint8 RGB (H, W, 3) -> float32 or uint8 (3, S, S)"""
        if self.blind:
            pixels = np.zeros_like(pixels)
        if self.pad_to_square:
            pixels = transforms.pad_to_square(pixels, self.mean)
        x = transforms.resize_and_crop(pixels[None], self.size, self.interpolation, self.antialias)
        return self._finish(x)[:, 0]


class VideoPreprocessing(_SquarePreprocessing):
    """Clip -> (3, T, S, S), channel first, then time.

    Args:
        num_frames: frames T taken from the whole clip.
        sampling: rule that chooses them (``vidtune.media.sampling.RULES``).
        flip_probability: chance that the whole clip is mirrored, decided by the seed alone; no seed, no flip.
    """

    kind: Literal["video"] = "video"
    num_frames: PositiveInt = 8
    sampling: Literal["linspace", "linspace_float32", "arange"] = "linspace"
    order: Order = "normalize_then_resize"
    flip_probability: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0

    def output_shape(self, info: MediaInfo | None = None) -> tuple[int, int, int, int]:
        """Shape of ``load``'s result, known without decoding."""
        return (3, self.num_frames, self.size, self.size)

    def output_shapes(self) -> list[tuple[int, ...]]:
        """Every shape that ``load`` can give."""
        return [self.output_shape()]

    def load(self, path: str, seed: int | None = None) -> np.ndarray:
        """Decode the frames of a video file or a folder of frame images. Shape: -> float32 or uint8 (3, T, S, S)

        Raises:
            MediaError: the file is no readable video.
        """
        return self.apply(self.read(path), seed).numpy()

    def read(self, path: str) -> np.ndarray:
        """The frames that ``load`` applies itself to. Shape: -> uint8 RGB (T, H, W, 3)"""
        if not self.blind:
            return read_clip(path, self.sampling, self.num_frames)[0]
        info = probe(path)
        if info.kind == "image":
            raise MediaError(path, "is an image file where a video is expected")
        return np.zeros((self.num_frames, info.height, info.width, 3), np.uint8)

    def apply(self, pixels: np.ndarray, seed: int | None = None) -> torch.Tensor:
        """Shape: uint8 RGB (any number of frames, H, W, 3) -> float32 or uint8 (3, T, S, S)

        Another number of frames than T is taken as the whole clip and sampled by the rule.
        """
        if len(pixels) != self.num_frames:
            pixels = pixels[frame_indices(self.sampling, len(pixels), self.num_frames)]
        if self.blind:
            pixels = np.zeros_like(pixels)
        x = transforms.resize_and_crop(pixels, self.size, self.interpolation, self.antialias, "ratio_first")
        x = self._finish(x)
        if transforms.decide_flip(self.flip_probability, seed):
            x = transforms.horizontal_flip(x)
        return x


Preprocessing = Annotated[
    ImagePreprocessing | VideoPreprocessing | AnyPixelImagePreprocessing | AnyPixelVideoPreprocessing,
    Field(discriminator="kind"),
]
