"""Small real files with sound of known content."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

LAYOUTS = {1: "mono", 2: "stereo", 6: "5.1"}


def tone(hertz: float, seconds: float, rate: int, channels: int = 1, loudness: float = 0.5) -> np.ndarray:
    """Shape: -> float32 (channels, seconds * rate)"""
    wave = loudness * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)
    return np.tile(wave.astype(np.float32), (channels, 1))


def write_sound(
    path: Path,
    wave: np.ndarray,
    rate: int,
    codec: str,
    *,
    start: float = 0.0,
    gaps: Sequence[tuple[float, float]] = (),
    picture_seconds: float = 0.0,
    muxing: dict[str, str] | None = None,
) -> Path:
    """A file with one sound track.

    Args:
        wave: float32 (channels, n).
        start: seconds at which the sound starts.
        gaps: (seconds of sound after which it is silent, for how long).
        picture_seconds: length of a video track at 10 frames a second; 0: no such track.
    """
    channels = len(wave)
    with av.open(str(path), "w", options=muxing or {}) as container:
        video = None
        if picture_seconds:
            video = container.add_stream("libx264", rate=10)
            video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        experimental = {"strict": "experimental"} if codec == "vorbis" else {}
        sound = container.add_stream(codec, rate=rate, layout=LAYOUTS[channels], options=experimental)
        for index in range(round(picture_seconds * 10)):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), index * 7 % 255, np.uint8), format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, 10)
            container.mux(video.encode(frame))
        container.mux(video.encode() if video else [])
        step = rate // 50
        for begin in range(0, wave.shape[1], step):
            piece = np.ascontiguousarray(wave[:, begin : begin + step])
            frame = av.AudioFrame.from_ndarray(piece, format="fltp", layout=LAYOUTS[channels])
            late = start + sum(length for after, length in gaps if begin >= after * rate)
            frame.sample_rate, frame.pts, frame.time_base = rate, begin + round(late * rate), Fraction(1, rate)
            container.mux(sound.encode(frame))
        container.mux(sound.encode())
    return path


def write_picture_only(path: Path) -> Path:
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=10)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        for _ in range(10):
            container.mux(video.encode(av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="rgb24")))
        container.mux(video.encode())
    return path


def strongest_hertz(wave: np.ndarray, rate: int = 16000) -> float:
    """Frequency with the most energy. Shape: (n,)"""
    return float(np.abs(np.fft.rfft(wave * np.hanning(len(wave)))).argmax() * rate / len(wave))


def level(wave: np.ndarray) -> float:
    """Root of the mean square."""
    return float(np.sqrt(np.mean(np.square(wave, dtype=np.float64))))
