"""A few frames of a video side by side, as an image inside an HTML page."""

import base64
import io
from pathlib import Path

GAP = 3
JPEG_QUALITY = 80


def frame_strip(path: Path, frames: int = 4, height: int = 112) -> str:
    """Returns a data address (``data:image/jpeg;...``) of ``frames`` frames spread over the video.

    Args:
        height: maximum height of a frame in pixels.

    Raises:
        MediaError: the video cannot be read.
    """
    import numpy as np
    from PIL import Image

    from vidtune.media.preprocessing.frame_sampling import frame_chooser
    from vidtune.media.video import read_clip

    pixels, _ = read_clip(str(path), frame_chooser("linspace", frames))
    count, full_height, full_width = pixels.shape[:3]
    height = min(height, full_height)
    width = max(1, round(full_width * height / full_height))
    strip = np.full((height, count * (width + GAP) - GAP, 3), 127, np.uint8)
    for number, frame in enumerate(pixels):
        start = number * (width + GAP)
        small = Image.fromarray(frame).resize((width, height), Image.Resampling.LANCZOS)
        strip[:, start : start + width] = np.asarray(small)
    content = io.BytesIO()
    Image.fromarray(strip).save(content, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return "data:image/jpeg;base64," + base64.b64encode(content.getvalue()).decode("ascii")
