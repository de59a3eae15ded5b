"""What all preprocessing of pictures and clips shares: how values leave it, and how grey levels become floats later."""

from typing import Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict

from vidtune.errors import MediaError
from vidtune.media.image import read_image
from vidtune.media.preprocessing import transforms
from vidtune.media.probe import MediaInfo, probe

Triple = tuple[float, float, float]


class PixelPreprocessing(BaseModel):
    """Settings of every preprocessing of pixels.

    Args:
        mean, std: per channel, of pixel values in [0, 1].
        blind: black pixels take the place of the real ones; the file is opened for its metadata only.
        pixels: what ``load`` and ``apply`` give. "float32": normalised values. "uint8": grey levels, which ``to_float``
            normalises later, on the device: a quarter of the memory and of the transfer.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    mean: Triple = transforms.CLIP_MEAN
    std: Triple = transforms.CLIP_STD
    blind: bool = False
    pixels: Literal["float32", "uint8"] = "float32"

    def output_shape(self, info: MediaInfo | None = None) -> tuple[int, ...]:
        """Shape of ``load``'s result, known without decoding, channels first; without ``info`` the largest."""
        raise NotImplementedError

    def read(self, path: str) -> np.ndarray:
        """The pixels that ``load`` applies itself to. Shape: -> uint8 RGB ([T,] H, W, 3)

        Raises:
            MediaError: the file is not readable as what is expected.
        """
        raise NotImplementedError

    def apply(self, pixels: np.ndarray, seed: int | None = None) -> torch.Tensor:
        """Shape: as ``read`` gives -> as ``load`` gives"""
        raise NotImplementedError

    def load(self, path: str, seed: int | None = None) -> np.ndarray:
        """Read a file. Shape: -> float32 or uint8, see ``output_shape``

        Args:
            seed: of random transforms; None switches them off.

        Raises:
            MediaError: the file is not readable as what is expected.
        """
        return self.apply(self.read(path), seed).numpy()

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

    def _read_picture(self, path: str) -> np.ndarray:
        """An image file's pixels, or as many black ones. Shape: -> uint8 RGB (H, W, 3)"""
        if not self.blind:
            return read_image(path)
        info = probe(path)
        if info.kind != "image":
            article = "an" if info.kind == "audio" else "a"
            raise MediaError(path, f"is {article} {info.kind} file where an image is expected")
        return np.zeros((info.height, info.width, 3), np.uint8)


def check_is_clip(path: str, info: MediaInfo) -> None:
    """Refuse what has no frames to sample from.

    Raises:
        MediaError: an image, or sound alone.
    """
    if info.kind == "image":
        raise MediaError(path, "is an image file where a video is expected")
    if info.kind == "audio":
        raise MediaError(path, "has no video stream")
