"""Frames as they are in the file, for models that bring a processor of their own.

Legend: T frames, H and W pixels.
"""

from typing import Literal

import numpy as np
from PIL import Image
from pydantic import PositiveInt, model_validator

from vidtune.media.clip_times import Part
from vidtune.media.preprocessing.frame_sampling import FrameCount, SamplingName, clip_indices, frame_chooser
from vidtune.media.preprocessing.pixels import PixelPreprocessing, check_is_clip
from vidtune.media.probe import MediaInfo, probe
from vidtune.media.video import read_clip


class RawFrames(PixelPreprocessing):
    """A clip or a picture -> uint8 RGB (T, H, W, 3); a picture has one frame.

    Args:
        num_frames: largest number of frames T, taken from the whole clip.
        min_frames, multiple_of: smallest number of frames, and what the number is a multiple of; for sampling rules
            whose number of frames depends on the clip.
        sampling: frame sampling rule (:data:`vidtune.registry.SAMPLING_RULES`).
        max_side: the long side is made this long if it is longer; 0: sizes stay as they are.
        picture: the file is a picture, not a clip.
    """

    kind: Literal["raw_frames"] = "raw_frames"
    num_frames: PositiveInt = 8
    min_frames: PositiveInt = 1
    multiple_of: PositiveInt = 1
    sampling: SamplingName = "linspace"
    max_side: int = 0
    picture: bool = False

    @model_validator(mode="after")
    def _bounds(self) -> "RawFrames":
        if self.min_frames > self.num_frames:
            raise ValueError(f"min_frames {self.min_frames} is above num_frames {self.num_frames}")
        if self.max_side < 0:
            raise ValueError(f"max_side is {self.max_side}; give 0 (sizes stay) or more")
        return self

    @property
    def count(self) -> FrameCount:
        """How many frames of a clip are wanted."""
        return FrameCount(self.num_frames, self.min_frames, self.multiple_of)

    def frame_indices(self, info: MediaInfo) -> list[int]:
        """Return the indices of the frames that are taken of a clip."""
        return [0] if self.picture else clip_indices(self.sampling, info.times, self.count)

    def read(self, path: str, part: Part | None = None) -> np.ndarray:
        """Read the frames; black ones if blind. Shape: -> uint8 RGB (T, H, W, 3)"""
        if self.picture:
            return self.resized(self._read_picture(path, part)[None])
        if not self.blind:
            choose = frame_chooser(self.sampling, self.count)
            return read_clip(path, choose, as_probed=True, part=part, keep=self.resized)[0]
        info = probe(path)
        check_is_clip(path, info)
        black = np.zeros((1, info.height, info.width, 3), np.uint8)
        frames = len(self.frame_indices(info.of_part(path, part)))
        return np.repeat(self.resized(black), frames, axis=0)

    def load(self, path: str, seed: int | None = None, part: Part | None = None) -> np.ndarray:
        """See `read`; there is no random transform."""
        return self.read(path, part)

    def resized(self, frames: np.ndarray) -> np.ndarray:
        """Make the long side ``max_side`` pixels long if it is longer. Shape: (T, H, W, 3) -> (T, h, w, 3)"""
        height, width = frames.shape[1:3]
        longest = max(height, width)
        if not self.max_side or longest <= self.max_side:
            return frames
        size = tuple(max(1, round(side * self.max_side / longest)) for side in (width, height))
        pictures = [Image.fromarray(frame).resize(size, Image.Resampling.BICUBIC) for frame in frames]
        return np.stack([np.asarray(picture) for picture in pictures])
