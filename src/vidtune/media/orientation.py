"""How stored pixels are turned and mirrored for display: the eight display matrices of a file."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from av.video.frame import VideoFrame

from vidtune.media.first_look import open_file

_NEAR = 0.0175  # sine of one degree
_PROJECTION, _CLUSTER = b"\x76\x70", b"\x1f\x43\xb6\x75"  # identifiers of Matroska elements
_HEADER_BYTES = 2**20


@dataclass(frozen=True)
class Orientation:
    """Turn of the stored pixels, applied after a mirroring.

    Args:
        rotation: counterclockwise degrees: 0, 90, 180 or 270.
        mirrored: left and right are exchanged before the turn.
    """

    rotation: int = 0
    mirrored: bool = False

    def apply(self, pixels: np.ndarray) -> np.ndarray:
        """Return a view of the pixels as they are shown. Shape: (H, W, 3) -> (H, W, 3) or (W, H, 3)"""
        if self.mirrored:
            pixels = pixels[:, ::-1]
        return np.rot90(pixels, self.rotation // 90) if self.rotation else pixels


def orientation_of(frame: VideoFrame) -> Orientation:
    """Return the orientation that a file or its stream asks for; upright if it is near no multiple of 90 degrees.

    The display matrix maps the place (x, y) of a stored pixel to (a x + c y, b x + d y).
    """
    data: Any = frame.side_data  # PyAV types it as a mapping of names, but iterating gives the data
    sides = [side for side in data if side.type.name == "DISPLAYMATRIX"]
    if not sides:
        return Orientation()
    a, b, _, c, d = np.frombuffer(bytes(sides[0])[:36], np.int32)[:5] / 65536
    scale = max(float(np.hypot(a, b)), 1e-9)
    turned = np.round(np.array([a, b, c, d]) / scale)
    if np.abs(np.array([a, b]) / scale - turned[:2]).max() > _NEAR:
        return Orientation()
    mirrored = turned[0] * turned[3] - turned[1] * turned[2] < 0
    right = (turned[0], turned[1]) if not mirrored else (-turned[0], -turned[1])  # where the x axis goes
    rotation = {(1, 0): 0, (0, -1): 90, (-1, 0): 180, (0, 1): 270}.get((int(right[0]), int(right[1])), 0)
    return Orientation(rotation, bool(mirrored))


def has_projection(path: str) -> bool:
    """Whether the header of a Matroska file may state a projection, which turns or mirrors the pictures."""
    with open_file(path) as file:
        return _PROJECTION in file.read(_HEADER_BYTES).partition(_CLUSTER)[0]
