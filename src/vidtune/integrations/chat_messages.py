"""Questions in the form of chat messages: a list of parts (text, image, video) per turn, to a request of the engine."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from vidtune.data.sample import MediaRef, Turn
from vidtune.errors import UserError
from vidtune.generation.settings import Request

_MEDIA = ("image", "video")
_TAG = re.compile("|".join(f"<{stream}>" for stream in _MEDIA))


def request_of(id: str, messages: Sequence[Mapping[str, Any]], folder: Path) -> Request:
    """Returns the request that messages ask, the last of which is the user's.

    Media before the text of the only turn stand where the prompt format of the model puts them, other media where they
    stand in the messages. A turn whose text holds as many tags ``<image>`` and ``<video>`` as the turn has media holds
    their places.

    Args:
        messages: ``{"role": ..., "content": [part, ...]}`` or with a text as content. A part is ``{"type": "text",
            "text": ...}``, or has a type "image" or "video" and ``url``: a path, or an image of PIL.
        folder: where images that are no files are written.

    Raises:
        UserError: a part of another kind, an unknown role, or a last turn that is not the user's.
    """
    turns: list[Turn] = []
    media: list[MediaRef] = []
    for message in messages:
        role, parts = message["role"], _parts(message["content"])
        if role not in ("user", "assistant"):
            raise UserError(f"a message of role {role!r}: the prompt format holds the system message of the model")
        refs = [_ref(part, folder) for part in parts if part["type"] != "text"]
        turns.append(Turn(role, _text(parts, alone=len(messages) == 1)))
        media += refs
    if not turns or turns[-1].role != "user":
        raise UserError("the last message is not the user's: there is no question")
    return Request(id, tuple(media), turns[-1].text, tuple(turns[:-1]))


def _parts(content: Any) -> list[Mapping[str, Any]]:
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else list(content)
    for part in parts:
        if part["type"] not in ("text", *_MEDIA):
            raise UserError(f"a message holds a part of type {part['type']!r}; known are text, {', '.join(_MEDIA)}")
    return parts


def _text(parts: Sequence[Mapping[str, Any]], alone: bool) -> str:
    """The text of a turn, with tags where its media are, except where the prompt format is to place them."""
    text = "".join(part["text"] for part in parts if part["type"] == "text")
    streams = [part["type"] for part in parts if part["type"] != "text"]
    if [tag[1:-1] for tag in _TAG.findall(text)] == streams:
        return text
    if alone and all(part["type"] == "text" for part in parts[len(streams) :]):
        return text
    return "".join(part["text"] if part["type"] == "text" else f"<{part['type']}>" for part in parts)


def _ref(part: Mapping[str, Any], folder: Path) -> MediaRef:
    medium = part["url"]
    if isinstance(medium, Image.Image):
        medium = _written(medium, folder)
    if not isinstance(medium, str | Path):
        raise UserError(f"a message holds {part['type']} {type(medium).__name__}; expected the path of a file")
    path = Path(str(medium).removeprefix("file://"))
    if not path.exists():
        raise UserError(f"{path}: no such file")
    return MediaRef(part["type"], str(path.resolve()))


def _written(image: Image.Image, folder: Path) -> Path:
    """A file of an image, named after its content: equal images are one file."""
    name = hashlib.sha256(f"{image.mode}{image.size}".encode() + image.tobytes()).hexdigest()[:32]
    path = folder / f"{name}.png"
    if not path.exists():
        image.convert("RGB").save(path)
    return path
