"""Vectors of a pair as text, as predictions hold them."""

import binascii
from base64 import b64decode, b64encode

import numpy as np

BETWEEN = " "


def written_vectors(medium: np.ndarray, text: np.ndarray) -> str:
    """The vectors of a medium and of its text as one text, without loss. Shape: (W,) and (W,), float32"""
    return BETWEEN.join(b64encode(np.asarray(one, "<f4").tobytes()).decode("ascii") for one in (medium, text))


def vectors_of(written: str) -> tuple[np.ndarray, np.ndarray] | None:
    """The vectors that a text holds, as unit vectors, (W,) float64; None for a text that holds no two of one width."""
    try:
        medium, text = (np.frombuffer(b64decode(part, validate=True), "<f4") for part in written.split(BETWEEN))
    except (ValueError, binascii.Error):
        return None
    if len(medium) != len(text) or not len(medium) or not np.isfinite([medium, text]).all():
        return None
    one, other = (vector / max(np.linalg.norm(vector), 1e-12) for vector in np.asarray([medium, text], np.float64))
    return one, other
