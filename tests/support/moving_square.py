"""A video in which one square moves over a still background, and where it is in each frame."""

from pathlib import Path

import av
import numpy as np

WIDTH, HEIGHT, FRAMES, SIDE, RATE = 96, 64, 24, 20, 12


def place(frame: int) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of the square in a frame."""
    left, top = 8 + 2 * frame, 10 + frame
    return left, top, left + SIDE, top + SIDE


def pictures() -> list[np.ndarray]:
    """24 frames (H, W, 3) uint8 RGB."""
    rng = np.random.default_rng(1)
    back = rng.integers(90, 130, (HEIGHT // 4, WIDTH // 4, 3)).astype(np.uint8).repeat(4, 0).repeat(4, 1)
    square = rng.integers(0, 255, (SIDE // 4, SIDE // 4, 3)).astype(np.uint8).repeat(4, 0).repeat(4, 1)
    frames = []
    for number in range(FRAMES):
        left, top, right, bottom = map(int, place(number))
        picture = back.copy()
        picture[top:bottom, left:right] = square
        frames.append(picture)
    return frames


def write_moving_square(path: Path) -> Path:
    """The frames at 12 a second."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=RATE, options={"crf": "10"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for pixels in pictures():
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return path
