"""Small real video files, and plain decoding to compare with."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

WITH_B_FRAMES = {"bf": "3", "g": "12", "sc_threshold": "0"}
LONG_GOP = {"bf": "3", "g": "250", "sc_threshold": "0"}
WITHOUT_B_FRAMES = {"bf": "0", "g": "12", "sc_threshold": "0"}
OPEN_GOP = {"x264-params": "open-gop=1:keyint=12:min-keyint=12:scenecut=0:bframes=3"}


def write_clip(
    path: Path,
    *,
    num_frames: int = 40,
    size: tuple[int, int] = (64, 48),
    codec: str = "libx264",
    pixel_format: str = "yuv420p",
    options: dict[str, str] | None = None,
    muxing: dict[str, str] | None = None,
    times: Sequence[int] | None = None,
    rotation: int | None = None,
    sound: bool = False,
) -> Path:
    """A moving texture at 10 frames a second; ``times`` (in 1/10 s) makes the frame rate vary."""
    width, height = size
    texture = np.random.default_rng(0).integers(0, 255, (height // 8 + 1, width // 8 + 1, 3)).astype(np.uint8)
    texture = texture.repeat(8, 0).repeat(8, 1)[:height, :width]
    with av.open(str(path), "w", options=muxing or {}) as container:
        stream = container.add_stream(codec, rate=10, options=options or {})
        stream.width, stream.height, stream.pix_fmt = width, height, pixel_format
        if rotation is not None:
            stream.set_display_rotation(rotation)
        audio = container.add_stream("aac", rate=16000, layout="mono") if sound else None
        for index in range(num_frames):
            picture = np.roll(texture, index * 3, axis=1).copy()
            picture[:10, :10] = index * 37 % 255
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.time_base = Fraction(1, 10)
            frame.pts = times[index] if times is not None else index
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        if audio is not None:
            tone = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.float32), format="fltp", layout="mono")
            tone.sample_rate = 16000
            container.mux(audio.encode(tone))
            container.mux(audio.encode())
    return path


def decode_plainly(path: Path) -> list[np.ndarray]:
    """Every frame of the file in order, as RGB (H, W, 3), turned upright."""
    with av.open(str(path)) as container:
        return [
            np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90))
            for frame in container.decode(video=0)
        ]
