"""The annotation format of LLaVA and its descendants: one JSON list of conversations about images and videos.

    [{"id": 0, "video": "clip.mp4", "conversations": [{"from": "human", "value": "<video>\\nWhat happens?"},
                                                      {"from": "gpt", "value": "A dog runs."}]}, ...]

`image` and `video` may be a string or a list of strings, both may be there, or neither. `id` may be missing.
Where there is neither but one tag stands in the text, the medium is named by the `id`, without an extension.

    {"id": "AbC", "conversations": [...], "meta": {"duration": 61.4, "token": {"<s0>": 0.0, "<e0>": 7.2}}}

`meta` gives the seconds that marks in the text stand for, from the start of the clip. Its `split`, which part of a
longer video the clip is, and `source`, the data set it came from, are documentation (github.com/huangb23/VTimeLLM).
"""

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from vidtune.data.problems import SampleProblem
from vidtune.data.sample import Times, Turn
from vidtune.errors import UserError

ROLES: dict[str, Literal["user", "assistant"]] = {"human": "user", "gpt": "assistant"}
# With both keys in a sample, published training code takes the videos before the images.
STREAMS = ("video", "image")
WHITESPACE = re.compile(r"[ \t\n\r]*")
TAG = re.compile(f"<({'|'.join(STREAMS)})>")
START_MARK = re.compile(r"<s(\w+)>")


@dataclass(frozen=True, slots=True)
class Record:
    """One item of the list.

    Args:
        original_id: as the file has it; empty if missing.
        media: (stream, relative path), videos first. No path: the medium is named by the id.
        times: of the marks in the turns.
    """

    original_id: str
    turns: tuple[Turn, ...]
    media: tuple[tuple[str, str | None], ...]
    times: Times | None = None

    @property
    def word_length(self) -> int:
        """Words over all turns, separated by white space; negative for a text-only sample."""
        words = sum(len(turn.text.split()) for turn in self.turns)
        return words if self.media else -words


def read_records(path: Path, content: bytes) -> Iterator[Record]:
    """Read the items of an annotation file one by one.

    Args:
        path: for messages.
        content: the whole file.
    Raises:
        UserError: not UTF-8 or broken JSON, with line and column; an item of the wrong form, with its index and key.
    """
    for index, item in enumerate(_list_items(path, content)):
        try:
            yield _record(item)
        except ValueError as error:
            raise UserError(f"{path}: item {index}: {error}") from None


def _list_items(path: Path, content: bytes) -> Iterator[Any]:
    """Items of a JSON list; no more than one is held as a Python object at a time."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}: line {line}: not UTF-8 text: {error.reason}") from None
    decoder = json.JSONDecoder()
    try:
        position = _skip_space(text, 0)
        if text[position : position + 1] != "[":
            raise UserError(f"{path}: line 1: expected a JSON list of samples")
        position = _skip_space(text, position + 1)
        first = True
        while text[position : position + 1] != "]":
            if not first:
                if text[position : position + 1] != ",":
                    raise json.JSONDecodeError("Expecting ',' or ']' after a sample", text, position)
                position = _skip_space(text, position + 1)
            item, position = decoder.raw_decode(text, position)
            yield item
            position, first = _skip_space(text, position), False
        if (rest := _skip_space(text, position + 1)) < len(text):
            raise json.JSONDecodeError("Extra text after the list", text, rest)
    except json.JSONDecodeError as error:
        raise UserError(f"{path}: line {error.lineno} column {error.colno}: broken JSON: {error.msg}") from None


def _skip_space(text: str, position: int) -> int:
    match = WHITESPACE.match(text, position)
    return match.end() if match else position


def _record(item: Any) -> Record:
    if not isinstance(item, dict):
        raise ValueError(f"expected an object, found {_name(item)}")
    identity = item.get("id", "")
    if not isinstance(identity, str | int | float):
        raise ValueError(f"key 'id': expected a string or number, found {_name(identity)}")
    media: list[tuple[str, str | None]] = [(stream, path) for stream in STREAMS for path in _paths(item, stream)]
    conversation = item.get("conversations")
    if not isinstance(conversation, list) or not conversation:
        raise ValueError(f"key 'conversations': expected a list of turns, found {_name(conversation)}")
    turns = tuple(_turn(turn, f"conversations[{k}]") for k, turn in enumerate(conversation))
    tags = [tag for turn in turns for tag in TAG.findall(turn.text)]
    if len(tags) == 1 and str(identity) and not any(key in item for key in STREAMS):
        media = [(tags[0], None)]
    return Record(str(identity), turns, tuple(media), _times(item.get("meta")))


def _times(meta: Any) -> Times | None:
    if meta is None:
        return None
    if not isinstance(meta, dict):
        raise ValueError(f"key 'meta': expected an object, found {_name(meta)}")
    marks = meta.get("token")
    if not isinstance(marks, dict):
        raise ValueError(f"key 'meta.token': expected an object that gives marks their seconds, found {_name(marks)}")
    if "" in marks:
        raise ValueError("key 'meta.token': expected marks such as <s0>, found an empty one")
    duration = _seconds(meta.get("duration"), "meta.duration")
    return Times(duration, tuple((mark, _seconds(value, f"meta.token.{mark}")) for mark, value in marks.items()))


def _seconds(value: Any, key: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"key '{key}': expected a number of seconds, found {_name(value)}")
    try:
        return float(value)
    except OverflowError:
        return math.inf


def check_times(times: Times) -> None:
    """Raise SampleProblem for times that cannot be: no duration, a moment before the clip, an end before its start.

    A moment behind the end of the clip is not refused: published files round durations down.
    """
    if not (math.isfinite(times.duration) and times.duration > 0):
        raise SampleProblem("no duration", f"the duration is {times.duration:g} seconds")
    seconds = dict(times.marks)
    for mark, moment in times.marks:
        if not (math.isfinite(moment) and moment >= 0):
            raise SampleProblem("time outside the clip", f"{mark} stands for {moment:g} seconds")
        start = START_MARK.fullmatch(mark)
        end = f"<e{start[1]}>" if start else ""
        if end in seconds and seconds[end] < moment:
            raise SampleProblem(
                "times in the wrong order", f"{end}, {seconds[end]:g} seconds, comes before {mark}, {moment:g} seconds"
            )


def _paths(item: dict[str, Any], key: str) -> list[str]:
    value = item.get(key)
    paths = value if isinstance(value, list) else [] if value is None else [value]
    for path in paths:
        if not isinstance(path, str) or not path:
            raise ValueError(f"key '{key}': expected a path or a list of paths, found {_name(path)}")
    return paths


def _turn(turn: Any, key: str) -> Turn:
    if not isinstance(turn, dict):
        raise ValueError(f"key '{key}': expected an object, found {_name(turn)}")
    role, text = turn.get("from"), turn.get("value")
    if not isinstance(role, str) or role not in ROLES:
        raise ValueError(f"key '{key}.from': expected 'human' or 'gpt', found {role!r}")
    if not isinstance(text, str):
        raise ValueError(f"key '{key}.value': expected a string, found {_name(text)}")
    return Turn(ROLES[role], text)


def _name(value: Any) -> str:
    if value is None:
        return "nothing"
    if value == "" or value == []:
        return "an empty one"
    return {dict: "an object", list: "a list", str: "a string", bool: "a truth value"}.get(type(value), "a number")
