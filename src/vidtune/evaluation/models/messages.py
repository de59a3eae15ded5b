"""Questions as messages of the OpenAI chat API: frames as pictures, or as one video.

Legend: T frames of one medium, H and W pixels.
"""

import base64
import io
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import av
import numpy as np
from PIL import Image

from vidtune.errors import UserError
from vidtune.evaluation.models.frames import FrameRule, SampledFrames, pieces
from vidtune.generation.settings import Request

Part = dict[str, Any]
"""One part of the content of a message."""


def parts_of(shown: SampledFrames, rule: FrameRule) -> list[Part]:
    """Returns a medium as parts of a message: one per frame, or one video.

    The video holds the frames that were sampled and no other, at the rate that gives it the length of the clip.
    """
    if shown.picture or rule.given == "images":
        return [_part("image_url", "image/jpeg", _jpeg(frame, rule.quality)) for frame in shown.frames]
    return [_part("video_url", "video/mp4", _mp4(shown.frames, shown.duration))]


def messages_of(request: Request, media: Sequence[list[Part]]) -> list[dict[str, Any]]:
    """Returns the chat that asks a question.

    Args:
        media: parts of each medium of the request.

    Raises:
        UserError: the question has no text, or one that no request can hold.
    """
    content: list[Part] = []
    for piece in pieces(request):
        content += [{"type": "text", "text": piece}] if isinstance(piece, str) else media[piece]
    texts = [part["text"] for part in content if part["type"] == "text"]
    if not texts:
        raise UserError("the question is empty; ask something")
    try:
        "".join(texts).encode()
    except UnicodeEncodeError:
        raise UserError("the question holds half of a character (a lone surrogate), which cannot be sent") from None
    return [{"role": "user", "content": content}]


def _part(kind: str, media_type: str, data: bytes) -> Part:
    return {"type": kind, kind: {"url": f"data:{media_type};base64,{base64.b64encode(data).decode()}"}}


def _jpeg(frame: np.ndarray, quality: int) -> bytes:
    found = io.BytesIO()
    Image.fromarray(frame).save(found, "JPEG", quality=quality)
    return found.getvalue()


def _mp4(frames: np.ndarray, duration: float) -> bytes:
    """Frames (T, H, W, 3) as H.264; odd sides lose their last row or column, which the codec cannot hold."""
    frames = np.ascontiguousarray(frames[:, : frames.shape[1] // 2 * 2 or None, : frames.shape[2] // 2 * 2 or None])
    rate = Fraction(len(frames) / max(duration, len(frames) / 1000)).limit_denominator(1000)
    found = io.BytesIO()
    with av.open(found, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=rate, options={"crf": "16"})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return found.getvalue()
