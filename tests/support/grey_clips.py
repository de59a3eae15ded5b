"""A real video file of plain grey frames."""

from pathlib import Path

import av
import numpy as np


def write_grey_clip(path: Path, *, size: tuple[int, int], num_frames: int) -> Path:
    width, height = size
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for _ in range(num_frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.full((height, width, 3), 90, np.uint8))))
        container.mux(stream.encode())
    return path
