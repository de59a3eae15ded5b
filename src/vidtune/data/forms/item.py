"""The plain item of a record: the form of LLaVA-style trainers, in which all other forms are written.

    {"id": "a1", "video": "clip.mp4", "start": 12.0, "conversations": [{"from": "human", "value": "<video>\\nWhat?"},
                                                                      {"from": "gpt", "value": "A dog."}]}

Which form a record has is seen from its keys. The same conversation has the same item in every form.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vidtune.data.forms.media import KNOWN_IN_AN_OBJECT, MEDIA_KEYS, PART_KEYS, STREAMS, Medium, named_media
from vidtune.data.forms.turns import TAG, TURN_LISTS, Told, asked_and_answered, listed_turns
from vidtune.data.forms.values import identity_of, kind_of, number_of
from vidtune.data.sample import Role

SYSTEM = ("system", "system_prompt")
KEPT = ("source", "video_clip", "meta", "extras")
"""Keys that mean the same in every form."""
ORDER = ("id", "source", *STREAMS, "video_clip", "conversations", *PART_KEYS, "meta", "extras")
"""Keys of a plain item in the order in which they are written."""
_READ = {"id", *KEPT, *PART_KEYS, *(key for keys in MEDIA_KEYS.values() for key in keys)}
"""Keys of a record that are read, besides those that hold its turns."""
WRITTEN_ROLES: dict[Role, str] = {"system": "system", "user": "human", "assistant": "gpt"}


@dataclass(frozen=True, slots=True)
class Plain:
    """A record in the plain form.

    Args:
        item: its keys are some of `ORDER`.
        form: form of the record, for the user.
        unknown: names of keys of the record that are not read.
    """

    item: dict[str, Any]
    form: str
    unknown: tuple[str, ...] = ()


def plain_item(record: Any) -> Plain:
    """Returns the plain item of a record of any form.

    Raises:
        ValueError: no known form, several at once, or a value of another type; names the key.
    """
    if not isinstance(record, dict):
        raise ValueError(f"expected an object, found {kind_of(record)}")
    told, used = _told(record)
    named, keys = {}, {}
    for stream in STREAMS:
        named[stream], keys[stream] = named_media(record, stream)
    as_published = told.style == "conversations of from/value" and all(keys[stream] == stream for stream in STREAMS)
    media = _all_media(named, keys, told)
    turns = _tagged(told.turns, media, as_published)
    item: dict[str, Any] = {key: record[key] for key in KEPT if record.get(key) is not None}
    if record.get("id") is not None:
        item["id"] = identity_of(record["id"])
    for stream in STREAMS:
        paths = [medium.path for medium in media[stream]]
        if paths:
            item[stream] = paths[0] if len(paths) == 1 else paths
    if not any(media.values()) and len([tag for _, text in turns for tag in TAG.findall(text)]) == 1:
        # The id would name the file of the tag; a key without a file says that there is none.
        item |= {stream: None for stream in STREAMS if any(key in record for key in MEDIA_KEYS[stream])}
    item |= _parts(record, media)
    item["conversations"] = [{"from": WRITTEN_ROLES[role], "value": text} for role, text in turns]
    unknown = told.unknown.union(_unknown_of_media(record, keys))
    unknown.update(key for key in record if key not in _READ and key not in used)
    return Plain({key: item[key] for key in ORDER if key in item}, told.style, tuple(sorted(unknown)))


def written(item: Any) -> str:
    """Returns a plain item as it is written in a JSON list of items, without what stands between two of them."""
    return json.dumps([item], indent=1)[1:-2]


def _told(record: Mapping[str, Any]) -> tuple[Told, set[str]]:
    """The turns of a record, and the keys that hold them."""
    lists = [key for key in TURN_LISTS if key in record]
    if len([key for key in lists if record[key] is not None]) > 1:
        raise ValueError(f"has turns under '{lists[0]}' and '{lists[1]}'; keep one of them")
    if not lists and "track_list" in record:
        raise ValueError(
            "key 'conversations': expected a list of turns, found nothing; with track_list it is of format: referring"
        )
    if lists:
        key = next((key for key in lists if record[key] is not None), lists[0])
        told, used = listed_turns(record[key], key), set(lists)
    elif (found := asked_and_answered(record)) is not None:
        told, used = found
    else:
        raise ValueError("key 'conversations': expected a list of turns, found nothing")
    systems = [key for key in SYSTEM if record.get(key)]
    for key in systems:
        if not isinstance(record[key], str):
            raise ValueError(f"key '{key}': expected a string, found {kind_of(record[key])}")
        if told.turns[0][0] == "system" and told.turns[0][1] != record[key]:
            raise ValueError(f"has '{key}' and a system turn; keep one of them")
        if told.turns[0][0] != "system":
            told.turns.insert(0, ("system", record[key]))
    if told.turns[0] == ("system", ""):
        del told.turns[0]
    return told, {*used, *(key for key in SYSTEM if key in record)}


def _all_media(named: dict[str, list[Medium]], keys: dict[str, str], told: Told) -> dict[str, list[Medium]]:
    """The media of each stream, whether keys of the record or its turns name them."""
    found = {}
    for stream in STREAMS:
        own = [medium for medium in told.media if medium.stream == stream]
        if own and named[stream]:
            raise ValueError(f"names {stream} files under '{keys[stream]}' and in its turns; keep one of them")
        found[stream] = own or named[stream]
    if told.lacking and not any(found.values()):
        raise ValueError(f"{told.lacking} parts of its turns are media, but no file is named")
    return found


def _tagged(
    turns: list[tuple[Role, str]], media: dict[str, list[Medium]], as_published: bool
) -> list[tuple[Role, str]]:
    """The turns with tags for all media. In the published form itself tags that are missing are left to the prompt
    format."""
    if media["video"] and not media["image"] and not any("<video>" in text for _, text in turns):
        turns = [(role, text.replace("<image>", "<video>")) for role, text in turns]
    if as_published or any(TAG.search(text) for _, text in turns):
        return turns
    tags = [f"<{medium.stream}>" for stream in STREAMS for medium in media[stream]]
    first = next((number for number, (role, _) in enumerate(turns) if role == "user"), None)
    if tags and first is not None:
        turns = list(turns)
        turns[first] = ("user", "\n".join([*tags, turns[first][1]] if turns[first][1] else tags))
    return turns


def _parts(record: Mapping[str, Any], media: dict[str, list[Medium]]) -> dict[str, Any]:
    """Start, end and frame rate of the videos: one value, or one for each of several."""
    found: dict[str, Any] = {}
    if any(medium.part != (None, None, None) for medium in media["image"]):
        raise ValueError("a picture has no start, end or frame rate")
    for number, key in enumerate(PART_KEYS):
        own = [medium.part[number] for medium in media["video"]]
        given = record.get(key)
        if given is not None:
            if any(value is not None for value in own):
                raise ValueError(f"has '{key}' of its own and in its videos; keep one of them")
            values = given if isinstance(given, list) else [given]
            own = [None if value is None else number_of(value, key, PART_KEYS[key]) for value in values]
            found[key] = own if isinstance(given, list) and len(own) != 1 else own[0]
        elif any(value is not None for value in own):
            found[key] = own if len(own) > 1 else own[0]
    return found


def _unknown_of_media(record: Mapping[str, Any], keys: Mapping[str, str]) -> set[str]:
    found = set()
    for key in keys.values():
        value = record.get(key)
        for one in value if isinstance(value, list) else [value]:
            if isinstance(one, dict):
                found |= {f"{key}.{name}" for name in one if name not in KNOWN_IN_AN_OBJECT}
    return found
