"""A picture as text, for pages that load nothing."""

import base64
import io

from PIL import Image

JPEG_QUALITY = 85
LONGEST_SIDE, LEAST_SIDE = 480, 80
"""Pixels to which the long side of a larger picture is made smaller, and below which its short side then does not get:
an hour of sound is wider than any page.
"""


def picture_address(picture: Image.Image) -> str:
    """A picture as a data address, not larger than `LONGEST_SIDE`, in JPEG."""
    if (longest := max(picture.size)) > LONGEST_SIDE:
        width, height = (max(min(side, LEAST_SIDE), round(side * LONGEST_SIDE / longest)) for side in picture.size)
        picture = picture.resize((width, height), Image.Resampling.LANCZOS)
    content = io.BytesIO()
    picture.convert("RGB").save(content, "JPEG", quality=JPEG_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(content.getvalue()).decode("ascii")
