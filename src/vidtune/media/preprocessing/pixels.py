"""Base class of all preprocessing of pictures and clips."""

from typing import ClassVar, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict

from vidtune.errors import ItemError, MediaError
from vidtune.media.clip_times import ClipTimes, Part
from vidtune.media.first_look import is_folder
from vidtune.media.image import image_size, read_image
from vidtune.media.preprocessing import transforms
from vidtune.media.probe import MediaInfo, probe
from vidtune.media.video import read_clip

Triple = tuple[float, float, float]


class PixelPreprocessing(BaseModel):
    """Settings of every preprocessing of pixels.

    Args:
        mean, std: of each channel, for pixel values in [0, 1].
        blind: replace all pixels by black ones. The file is opened for its metadata only.
        pixels: type of the values that ``load`` and ``apply`` return. "float32": normalised values. "uint8": grey
            levels, which ``to_float`` normalises later on the device; they need a quarter of the memory and transfer.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    reads_parts: ClassVar[bool] = True
    """Whether ``read`` and ``load`` take a `Part` of a file."""

    mean: Triple = transforms.CLIP_MEAN
    std: Triple = transforms.CLIP_STD
    blind: bool = False
    pixels: Literal["float32", "uint8"] = "float32"

    def output_shape(self, info: MediaInfo | None = None) -> tuple[int, ...]:
        """Return the shape of ``load``'s result, channels first, without decoding; the largest one without ``info``."""
        raise NotImplementedError

    def read(self, path: str, part: Part | None = None) -> np.ndarray:
        """Read the pixels that ``apply`` takes. Shape: -> uint8 RGB ([T,] H, W, 3)

        Args:
            part: what of the file is read; None: the whole file.

        Raises:
            MediaError: the file cannot be read as the expected kind of media.
        """
        raise NotImplementedError

    def apply(self, pixels: np.ndarray, seed: int | None = None) -> torch.Tensor:
        """Make the tensor from pixels. Shape: that of ``read``'s result -> that of ``load``'s result"""
        raise NotImplementedError

    def load(self, path: str, seed: int | None = None, part: Part | None = None) -> np.ndarray:
        """Read a file and make its tensor. Shape: -> float32 or uint8, see ``output_shape``

        Args:
            seed: decides random transforms; None switches them off.
            part: what of the file is read; None: the whole file.

        Raises:
            MediaError: the file cannot be read as the expected kind of media, or there is no such part.
        """
        return self.apply(self.read(path, part), seed).numpy()

    def to_float(self, values: torch.Tensor) -> torch.Tensor:
        """Return the input of the tower from the result of ``load`` or ``apply``, on the same device.

        It does not wait for the device. Float values are returned unchanged.

        Shape: uint8 or float (..., *output_shape()) -> float32, or as given
        """
        if values.dtype != torch.uint8:
            return values
        x = values.to(torch.float32).div_(255.0)
        transforms.normalize(x.movedim(-len(self.output_shape()), 0), self.mean, self.std)
        return x

    def _read_picture(self, path: str, part: Part | None) -> np.ndarray:
        """Read the pixels of an image file, or of the frame with which a part of a video begins; black ones if blind.

        Shape: -> uint8 RGB (H, W, 3)
        """
        is_frame = part is not None and part.is_cut
        if is_frame and not is_folder(path) and image_size(path):
            raise ItemError(path, "is read as a picture, which has no part from a start to an end")
        if not self.blind:
            return read_clip(path, _first, as_probed=True, part=part)[0][0] if is_frame else read_image(path)
        info = probe(path)
        if is_frame:
            check_is_clip(path, info.of_part(path, part))
        elif info.kind != "image":
            article = "an" if info.kind == "audio" else "a"
            raise MediaError(path, f"is {article} {info.kind} file where an image is expected")
        return np.zeros((info.height, info.width, 3), np.uint8)


def _first(times: ClipTimes) -> list[int]:
    """The frame that is taken of a clip."""
    return [0]


def check_is_clip(path: str, info: MediaInfo) -> None:
    """Refuse media without frames.

    Raises:
        MediaError: the file is an image, or holds sound alone.
    """
    if info.kind == "image":
        raise MediaError(path, "is an image file where a video is expected")
    if info.kind == "audio":
        raise MediaError(path, "has no video stream")
