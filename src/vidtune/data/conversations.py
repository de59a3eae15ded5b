"""Reader of conversations about images and videos, in the form of LLaVA-style trainers and in those of others.

    [{"id": 0, "video": "clip.mp4", "conversations": [{"from": "human", "value": "<video>\\nWhat happens?"},
                                                      {"from": "gpt", "value": "A dog runs."}]}, ...]

Records of other forms (messages of role and content, parts, lists of media, questions with answers, tables) become such
items first, see :mod:`vidtune.data.forms`. The k-th tag of a stream belongs to its k-th file.

`image` and `video` are a string or a list of strings; an item may have both, or neither. `id` may be missing. In an
item that has videos only, the tag may be ``<image>``, too.
`video_clip` names the stored features of the videos, below the media folder; then they are read in place of `video`.
If an item has neither, but its text contains one tag, the `id` is the name of the medium, without an extension.

    {"id": "AbC", "conversations": [...], "meta": {"duration": 61.4, "token": {"<s0>": 0.0, "<e0>": 7.2}}}

    {"video": "clip.mp4", "conversations": [...], "extras": {"video": {"boxes": [[0.1, 0.2, 0.5, 0.9]]}}}

`extras` gives numbers of a medium by name: one number or nested lists of equal lengths. If the item has several media
of a stream, `extras` has a list with one object for each of them. The connector of the stream reads them.

    {"video": "film.mp4", "start": 12.0, "end": 47.5, "conversations": [...]}

`start` and `end` are the seconds of the video between which the clip lies; either may be missing. `frame_rate` gives
the frames per second of a folder of frames, or other ones than a file states. With several videos, each is a list.

`meta` gives the time of each mark in the text, in seconds from the start of the clip. Its keys `split` (the part of a
longer video that the clip is) and `source` (the data set it came from) are ignored (github.com/huangb23/VTimeLLM).
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vidtune.data.annotation import Annotation, as_tuples
from vidtune.data.forms.item import plain_item
from vidtune.data.forms.media import PART_KEYS, STREAMS
from vidtune.data.forms.records import read_annotations
from vidtune.data.forms.turns import ROLES, TAG
from vidtune.data.forms.values import kind_of, number_of
from vidtune.data.sample import Extras, PartSeconds, Times, Turn
from vidtune.media.clip_times import Part


def read_conversations(path: Path, content: bytes) -> Iterator[Annotation]:
    """Yield the items of an annotation file one by one. One of a wrong form gets a problem, which names its line.

    Args:
        path: path of the file, for messages.
        content: content of the whole file.

    Raises:
        UserError: the file is not UTF-8, no valid JSON list, and no table with the columns; names line and column.
    """
    return read_annotations(path, content, annotation_of)


def annotation_of(record: Any) -> Annotation:
    """Returns the annotation of a record of any form. Raises ValueError for a record of a wrong form; names the key."""
    plain = plain_item(record)
    item = plain.item
    identity = item.get("id", "")
    named = {stream: _paths(item, stream) for stream in STREAMS}
    if stored := _paths(item, "video_clip"):
        if len(stored) != len(named["video"]):
            raise ValueError(f"key 'video_clip': {len(stored)} given for {len(named['video'])} video files")
        named["video"] = stored
    turns = tuple(Turn(ROLES[turn["from"]], turn["value"]) for turn in item["conversations"])
    tags = [tag for turn in turns for tag in TAG.findall(turn.text)]
    media: list[tuple[str, str | None]] = [(stream, path) for stream in STREAMS for path in named[stream]]
    if Counter(tags) == Counter(stream for stream, _ in media):
        files = {stream: iter(paths) for stream, paths in named.items()}
        media = [(tag, next(files[tag])) for tag in tags]
    if len(tags) == 1 and identity and not any(key in item for key in STREAMS):
        media = [(tags[0], None)]
    extras, parts = _extras(item.get("extras"), media), parts_of(item, [stream for stream, _ in media])
    return Annotation(
        identity,
        turns,
        tuple(media),
        _times(item.get("meta")),
        extras,
        parts=parts,
        item=item,
        form=plain.form,
        unknown=plain.unknown,
    )


def parts_of(item: dict[str, Any], streams: Sequence[str]) -> tuple[PartSeconds, ...]:
    """Start, end and frame rate of each medium, from the keys of an item; empty if it has none of them.

    Args:
        streams: streams of the media; those that are no videos are whole files.

    Raises:
        ValueError: a value is no number, negative or reversed, or there is not one for each video; names the key.
    """
    videos = streams.count("video")
    given = {key: _each(item, key, videos) for key in PART_KEYS if item.get(key) is not None}
    if not given:
        return ()
    starts, ends, rates = (given.get(key, [None] * videos) for key in PART_KEYS)
    rows = list(zip(starts, ends, rates, strict=True))
    for row in rows:
        try:
            Part(*row)
        except ValueError as error:
            raise ValueError(f"key '{next(iter(given))}': {error}") from None
    found = iter(rows)
    return tuple(next(found) if stream == "video" else (None, None, None) for stream in streams)


def _each(item: dict[str, Any], key: str, videos: int) -> list[float | None]:
    """The number of every video."""
    value = item[key]
    values = value if isinstance(value, list) else [value]
    if len(values) != videos:
        raise ValueError(f"key '{key}': {len(values)} given for {videos} video files")
    return [None if one is None else number_of(one, key, PART_KEYS[key]) for one in values]


def _extras(given: Any, media: Sequence[tuple[str, str | None]]) -> tuple[Extras, ...]:
    """Extras of each medium; empty if there are none."""
    if given is None:
        return ()
    if not isinstance(given, dict):
        raise ValueError(f"key 'extras': expected an object that gives streams their numbers, found {kind_of(given)}")
    streams = [stream for stream, _ in media]
    found: dict[str, Iterator[Extras]] = {}
    for stream, value in given.items():
        each = value if isinstance(value, list) else [value]
        if len(each) != streams.count(stream):
            raise ValueError(f"key 'extras.{stream}': {len(each)} given for {streams.count(stream)} {stream} files")
        found[stream] = iter([_numbers_by_name(numbers, f"extras.{stream}") for numbers in each])
    return tuple(next(found[stream]) if stream in found else () for stream in streams)


def _numbers_by_name(given: Any, key: str) -> Extras:
    if not isinstance(given, dict):
        raise ValueError(f"key '{key}': expected an object of numbers by name, found {kind_of(given)}")
    for name, value in given.items():
        try:
            array = np.array(value)
        except ValueError:
            raise ValueError(f"key '{key}.{name}': its lists differ in length") from None
        if array.dtype.kind not in "iuf" or not (np.abs(array) <= np.finfo(np.float32).max).all():
            raise ValueError(f"key '{key}.{name}': expected finite numbers (in float32) or nested lists of them")
    return tuple((name, as_tuples(value)) for name, value in given.items())


def _times(meta: Any) -> Times | None:
    if meta is None:
        return None
    if not isinstance(meta, dict):
        raise ValueError(f"key 'meta': expected an object, found {kind_of(meta)}")
    marks = meta.get("token")
    if not isinstance(marks, dict):
        raise ValueError(f"key 'meta.token': expected an object that gives marks their seconds, found {kind_of(marks)}")
    if "" in marks:
        raise ValueError("key 'meta.token': expected marks such as <s0>, found an empty one")
    duration = number_of(meta.get("duration"), "meta.duration")
    return Times(duration, tuple((mark, number_of(value, f"meta.token.{mark}")) for mark, value in marks.items()))


def _paths(item: dict[str, Any], key: str) -> list[str]:
    value = item.get(key)
    paths = value if isinstance(value, list) else [] if value is None else [value]
    for path in paths:
        if not isinstance(path, str) or not path:
            raise ValueError(f"key '{key}': expected a path or a list of paths, found {kind_of(path)}")
    return paths
