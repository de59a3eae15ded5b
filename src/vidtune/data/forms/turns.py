"""Turns of a record: ``from``/``value`` or ``role``/``content``, a text or parts, or questions with their answers."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vidtune.data.forms.media import KNOWN_IN_AN_OBJECT, STREAMS, Medium, medium_of
from vidtune.data.forms.values import kind_of, text_of
from vidtune.data.sample import Role

ROLES: dict[str, Role] = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
}
TURN_LISTS = ("conversations", "messages", "conversation")
"""Keys of a record that hold a list of turns."""
QUESTIONS = ("question", "query", "instruction", "prompt")
ANSWERS = ("answer", "response", "output", "completion")
TAG = re.compile(f"<({'|'.join(STREAMS)})>")
_ROLE_KEYS, _TEXT_KEYS = ("from", "role"), ("value", "content")
_PAIR = ("human", "user"), ("assistant", "gpt")


@dataclass
class Told:
    """Turns of a record.

    Args:
        turns: role and text; media stand in it as tags.
        media: the media that stand in the turns themselves, in order.
        style: how they are written, for the user.
        lacking: number of parts that are media and name no file; the record names their files elsewhere.
        unknown: names of keys that were not read.
    """

    turns: list[tuple[Role, str]]
    media: list[Medium]
    style: str
    unknown: set[str]
    lacking: int = 0


def listed_turns(value: Any, key: str) -> Told:
    """Returns the turns of a list.

    Args:
        key: key of the list, for messages.

    Raises:
        ValueError: a turn of another form; names its key.
    """
    if not isinstance(value, list) or not value:
        raise ValueError(f"key '{key}': expected a list of turns, found {kind_of(value)}")
    told = Told([], [], "", set())
    styles: dict[str, None] = {}
    for number, turn in enumerate(value):
        where = f"{key}[{number}]"
        if not isinstance(turn, dict):
            raise ValueError(f"key '{where}': expected an object, found {kind_of(turn)}")
        if pair := _pair(turn):
            told.turns += pair
            styles["human/assistant"] = None
            continue
        role_key, text_key = _one_of(turn, _ROLE_KEYS, where), _one_of(turn, _TEXT_KEYS, where)
        styles[f"{role_key}/{text_key}"] = None
        told.turns.append((_role(turn.get(role_key), f"{where}.{role_key}"), _text(turn, text_key, where, told)))
        if len(turn) > 2:
            told.unknown |= {f"{key}[].{name}" for name in turn if name not in (role_key, text_key)}
    told.style = f"{key} of {' and '.join(styles)}"
    return told


def asked_and_answered(record: Mapping[str, Any]) -> tuple[Told, set[str]] | None:
    """Returns the turns of a record that has a question and an answer under keys of their own, and these keys.

    Returns: None if it has none.
    Raises:
        ValueError: several questions or answers, or values that are no texts; names the key.
    """
    asked, answered = (_given(record, names) for names in (QUESTIONS, ANSWERS))
    if asked is None and answered is None:
        return None
    if asked is None or answered is None:
        raise ValueError(f"has '{asked or answered}', but no {'answer' if asked else 'question'} beside it")
    keys = {asked, answered}
    if isinstance(record[asked], list) or isinstance(record[answered], list):
        lists = [
            record[key] if isinstance(record[key], list) else [{"role": role, "content": record[key]}]
            for key, role in ((asked, "user"), (answered, "assistant"))
        ]
        told = listed_turns(lists[0] + lists[1], f"{asked} + {answered}")
        return told, keys
    texts: list[tuple[Role, str]] = []
    for number, round_ in enumerate(record.get("history") or ()):
        if not (isinstance(round_, list) and len(round_) == 2 and all(isinstance(text, str) for text in round_)):
            raise ValueError(f"key 'history[{number}]': expected a question and its answer, found {kind_of(round_)}")
        texts += [("user", round_[0]), ("assistant", round_[1])]
    question, answer = (text_of(record, key) for key in (asked, answered))
    if asked == "instruction" and record.get("input"):
        question = f"{question}\n{text_of(record, 'input')}"
        keys.add("input")
    told = Told([*texts, ("user", question), ("assistant", answer)], [], f"{asked} and {answered}", set())
    return told, keys | {"history"} & set(record)


def _given(record: Mapping[str, Any], names: Sequence[str]) -> str | None:
    found = [name for name in names if record.get(name) not in (None, "")]
    if len(found) > 1:
        raise ValueError(f"has '{found[0]}' and '{found[1]}'; keep one of them")
    return found[0] if found else None


def _pair(turn: Mapping[str, Any]) -> list[tuple[Role, str]]:
    """Question and answer of a turn that holds both; empty: it does not."""
    keys = [next((name for name in names if name in turn), "") for names in _PAIR]
    if not all(keys) or any(name in turn for name in (*_ROLE_KEYS, *_TEXT_KEYS)):
        return []
    return [("user", text_of(turn, keys[0])), ("assistant", text_of(turn, keys[1]))]


def _one_of(turn: Mapping[str, Any], names: tuple[str, str], where: str) -> str:
    found = [name for name in names if name in turn]
    if len(found) > 1:
        raise ValueError(f"key '{where}': has '{found[0]}' and '{found[1]}'; keep one of them")
    # Which of both is missing shows in the other key of the turn.
    return found[0] if found else names["role" in turn or "content" in turn]


def _role(value: Any, key: str) -> Role:
    if not isinstance(value, str) or value not in ROLES:
        known = "'human' or 'gpt'" if key.endswith("from") else "'user' or 'assistant'"
        raise ValueError(f"key '{key}': expected {known} (or 'system'), found {value!r}")
    return ROLES[value]


def _text(turn: Mapping[str, Any], key: str, where: str, told: Told) -> str:
    """The text of a turn, in which tags stand for its media."""
    value = turn.get(key)
    if isinstance(value, str):
        return value
    if not isinstance(value, list):
        raise ValueError(f"key '{where}.{key}': expected a string, found {kind_of(value)}")
    pieces: list[str | Medium | None] = []
    streams: list[str] = []
    for number, part in enumerate(value):
        place = f"{where}.{key}[{number}]"
        stream, found = _part(part, place, told)
        pieces.append(found)
        if stream:
            streams.append(stream)
    media = [piece for piece in pieces if isinstance(piece, Medium)]
    told.media += media
    told.lacking += pieces.count(None)
    texts = "".join(piece for piece in pieces if isinstance(piece, str))
    if streams and TAG.findall(texts) == streams:
        return texts  # its tags tell where the media stand
    tags = iter(streams)
    return _joined([(True, f"<{next(tags)}>") if not isinstance(p, str) else (False, p) for p in pieces])


def _part(part: Any, place: str, told: Told) -> tuple[str, str | Medium | None]:
    """Stream of a part, empty for a text, and the text or medium; None: a medium whose file stands elsewhere."""
    if isinstance(part, str):
        return "", part
    if not isinstance(part, dict):
        raise ValueError(f"key '{place}': expected an object with a type, found {kind_of(part)}")
    names = ("text", *STREAMS, *(f"{stream}_url" for stream in STREAMS))
    kind = part.get("type") or next((name for name in names if name in part), None)
    if kind == "text":
        told.unknown |= {f"part.{name}" for name in part if name not in ("type", "text")}
        if not isinstance(part.get("text"), str):
            raise ValueError(f"key '{place}.text': expected a string, found {kind_of(part.get('text'))}")
        return "", part["text"]
    if kind not in names:
        raise ValueError(f"key '{place}': a part of type {kind!r}; known are {', '.join(names)}")
    stream = str(kind).removesuffix("_url")
    told.unknown |= {f"part.{name}" for name in part if name not in KNOWN_IN_AN_OBJECT}
    inner = {key: value for key, value in part.items() if key != "type" and value is not None}
    if not any(name in inner for name in KNOWN_IN_AN_OBJECT):
        return stream, None
    return stream, medium_of(inner, stream, place)


def _joined(pieces: Sequence[tuple[bool, str]]) -> str:
    """One text of a turn. Each tag before all texts or after them has a line of its own; others stand in the text.

    Args:
        pieces: whether it is a tag, and the text.
    """
    pieces = [piece for piece in pieces if piece[1]]
    texts = [number for number, (is_tag, _) in enumerate(pieces) if not is_tag]
    first, last = (texts[0], texts[-1]) if texts else (len(pieces), -1)

    def written() -> Iterator[str]:
        for number, (_, text) in enumerate(pieces):
            own_line = number and (number <= first or number > last)
            yield "\n" if own_line and not (text[:1].isspace() or pieces[number - 1][1][-1:].isspace()) else ""
            yield text

    return "".join(written())
