"""Draw scenes into frames and sound, and write them as real files: mp4 (H.264 and AAC) and PNG.

Legend: T frames, S side of the frame in pixels, A audio samples.
"""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.audio.stream import AudioStream
from av.container import OutputContainer
from PIL import Image

from vidtune.machine.files import atomic_file
from vidtune.world.scene import COLOURS, Scene

SAMPLE_RATE = 16000
_TONE_SECONDS = 0.2
# x264's macroblock tree is not always deterministic (1 file in 100 differs).
_VIDEO_OPTIONS = {"crf": "18", "preset": "veryfast", "x264-params": "mbtree=0"}
_SOUND_OPTIONS = {"aac_coder": "fast"}


def draw_frame(scene: Scene, time: float, size: int) -> np.ndarray:
    """Returns the scene at one time: (S, S, 3) uint8 RGB. One frame does not tell where a shape moves."""
    frame = np.full((size, size, 3), scene.background, np.uint8)
    grid = (np.arange(size) + 0.5) / size
    for actor in scene.actors:
        if actor.visible_at(time):
            x, y = actor.centre_at(time)
            inside = inside_shape(actor.shape, (grid[None] - x) / actor.radius, (grid[:, None] - y) / actor.radius)
            frame[inside] = COLOURS[actor.colour_at(time)]
    return frame


def draw_frames(scene: Scene, fps: int, size: int) -> np.ndarray:
    """Returns all frames of a clip: (T, S, S, 3) uint8 RGB; frame t shows the time t / fps."""
    return np.stack([draw_frame(scene, t / fps, size) for t in range(round(scene.duration * fps))])


def draw_sound(scene: Scene) -> np.ndarray:
    """Returns a sound track with one tone per event, loudest at its start: (A,) float32 in [-1, 1] at SAMPLE_RATE."""
    sound = np.zeros(round(scene.duration * SAMPLE_RATE), np.float32)
    seconds = np.arange(round(_TONE_SECONDS * SAMPLE_RATE)) / SAMPLE_RATE
    for event in scene.events:
        first = round(event.start * SAMPLE_RATE)
        tone = 0.2 * np.sin(2 * np.pi * event.tone * seconds) * (1 - seconds / _TONE_SECONDS)
        part = sound[first : first + len(tone)]
        part += tone[: len(part)].astype(np.float32)
    return sound


def write_video(scene: Scene, path: Path, fps: int, size: int, sound: bool = True) -> None:
    """Write a clip in one step; the same arguments give the same file."""
    write_clip(path, draw_frames(scene, fps, size), draw_sound(scene) if sound else None, fps)


def write_clip(
    path: Path, frames: np.ndarray, sound: np.ndarray | None, fps: int | Fraction, sound_bit_rate: int | None = None
) -> None:
    """Write frames (T, S, S, 3) uint8 RGB and a sound track (A,) float32 at SAMPLE_RATE as mp4, in one step.

    Args:
        sound: None: the file has no sound track.
        sound_bit_rate: bits per second of the sound; None: the encoder's default.
    """
    with atomic_file(path) as part, av.open(str(part), "w", format="mp4") as container:
        video = container.add_stream("libx264", rate=fps, options=_VIDEO_OPTIONS)
        video.height, video.width = frames.shape[1:3]
        video.pix_fmt = "yuv420p"
        video.codec_context.thread_count = 1
        track = None if sound is None else _sound_track(container, sound_bit_rate)
        for pixels in frames:
            container.mux(video.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(video.encode(None))
        if track is not None and sound is not None:
            wave = av.AudioFrame.from_ndarray(sound[None], format="fltp", layout="mono")
            wave.sample_rate = SAMPLE_RATE
            container.mux(track.encode(wave))
            container.mux(track.encode(None))


def _sound_track(container: OutputContainer, bit_rate: int | None) -> AudioStream:
    track = container.add_stream("aac", rate=SAMPLE_RATE, layout="mono", options=_SOUND_OPTIONS)
    if bit_rate is not None:
        track.bit_rate = bit_rate
    return track


def write_image(scene: Scene, path: Path, size: int) -> None:
    """Write a picture of the start of the scene in one step."""
    write_picture(path, draw_frame(scene, 0.0, size))


def write_picture(path: Path, pixels: np.ndarray) -> None:
    """Write (S, S, 3) uint8 RGB as PNG, in one step."""
    with atomic_file(path) as part:
        Image.fromarray(pixels).save(part, format="PNG")


def inside_shape(shape: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Whether points are in the shape; x (1, S) and y (S, 1) are measured from its centre in radii -> (S, S) bool.

    A ring, a full square, a triangle and a thin cross: they share little area, so that small models tell them apart.
    """
    if shape == "circle":
        return (x**2 + y**2 <= 1) & (x**2 + y**2 >= 0.3)
    if shape == "square":
        return (abs(x) <= 1) & (abs(y) <= 1)
    if shape == "triangle":
        return (abs(y) <= 1) & (abs(x) <= (y + 1) / 2)
    return (abs(x) <= 1) & (abs(y) <= 1) & ((abs(x) <= 0.2) | (abs(y) <= 0.2))
