"""Media that a record names: under keys of their own, or in the parts of a turn, each with its seconds."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vidtune.data.forms.values import kind_of, number_of, path_of

# If an item has both, published training code puts the videos before the images.
STREAMS = ("video", "image")
MEDIA_KEYS = {"video": ("video", "videos", "video_path"), "image": ("image", "images", "image_path")}
"""Keys of a record that name its media, by stream."""
PART_KEYS = {"start": "seconds", "end": "seconds", "frame_rate": "frames per second"}
"""Keys of an item that say what of a video is read, in the order of the fields of `Part` -> unit of the number."""
_PLACES = ("path", "url")
_SECONDS = {"start": ("start", "video_start"), "end": ("end", "video_end"), "frame_rate": ("frame_rate",)}


@dataclass(frozen=True, slots=True)
class Medium:
    """A medium that a record names.

    Args:
        stream: its tag is ``<stream>``.
        path: as the record writes it.
        part: start and end in seconds, and frames per second; None: not given.
    """

    stream: str
    path: str
    part: tuple[float | None, float | None, float | None] = (None, None, None)


def named_media(record: Mapping[str, Any], stream: str) -> tuple[list[Medium], str]:
    """Returns the media of a stream that the keys of a record name, and the key that names them.

    Raises:
        ValueError: no path, or different media under several keys.
    """
    keys = [key for key in MEDIA_KEYS[stream] if record.get(key) not in (None, "", [])]
    if any(record[key] != record[keys[0]] for key in keys[1:]):
        raise ValueError(f"names {stream} files under '{keys[0]}' and '{keys[1]}'; keep one of them")
    # An empty text is no path, but a mistake in the key of LLaVA's files.
    key = keys[0] if keys else MEDIA_KEYS[stream][0]
    value = record.get(key)
    values = value if isinstance(value, list) else [] if value is None else [value]
    return [medium_of(one, stream, key) for one in values], key


def medium_of(value: Any, stream: str, key: str) -> Medium:
    """Returns a medium: a path, or an object with a path and the seconds of a clip.

    Args:
        key: where it stands, for messages.

    Raises:
        ValueError: no path, or seconds that are no numbers.
    """
    if isinstance(value, list) and value:
        raise ValueError(f"key '{key}': a {stream} as a list of frames; give the folder that holds them")
    if not isinstance(value, dict):
        return Medium(stream, path_of(value, key))
    names = (*_PLACES, stream, f"{stream}_url")
    place = next((value[name] for name in names if value.get(name) is not None), None)
    if isinstance(place, dict):
        inner = medium_of(place, stream, key)
        return Medium(stream, inner.path, tuple(map(_first, part_of(value, key), inner.part)))  # type: ignore[arg-type]
    if not isinstance(place, str):
        raise ValueError(f"key '{key}': expected a path, or an object with its path, found {kind_of(place)}")
    return Medium(stream, path_of(place, key), part_of(value, key))


def part_of(value: Mapping[str, Any], key: str) -> tuple[float | None, float | None, float | None]:
    """Returns start, end and frame rate that an object gives."""
    found: list[float | None] = []
    for name, spellings in _SECONDS.items():
        given = next((spelling for spelling in spellings if value.get(spelling) is not None), None)
        found.append(None if given is None else number_of(value[given], f"{key}.{given}", PART_KEYS[name]))
    return found[0], found[1], found[2]


def _first(one: float | None, other: float | None) -> float | None:
    return other if one is None else one


KNOWN_IN_AN_OBJECT = {"type", *_PLACES, *STREAMS, *(f"{stream}_url" for stream in STREAMS)}.union(*_SECONDS.values())
"""Keys of an object that names a medium which are read."""
