"""Reads a test set of one's own: a file of JSON lines, one question each.

=====================  ============================================================================================
``video`` | ``image``  path of the medium below the media root; a video may be a folder of pictures
``question``           text
``caption``            text of the medium, in the place of question and answer: the set asks for retrieval
``answer``             reference answer, a text or a number; of a question with options a letter or the text of one
``answers``            several reference answers, each of which is right, in the place of ``answer``
``options``            texts of the options, with or without letters of their own ("A. red")
``type``               name by which scores are grouped
``start``, ``end``     seconds of the video between which it is asked about
``frame_rate``         pictures per second of a folder of pictures, or another rate than the file states
``id``                 text or whole number, once per file; without it the place among the questions, from 1
=====================  ============================================================================================

All wrong lines of a file are named at once.
"""

import difflib
import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from string import ascii_uppercase
from typing import Any

from vidtune.errors import UserError
from vidtune.evaluation.benchmarks.test_set_files import numbered_lines, value_of
from vidtune.evaluation.protocol import canonical_json
from vidtune.foreign.documents import JsonError, read_text
from vidtune.spelling import counted

MEDIA = ("video", "image")
KEYS = (*MEDIA, "caption", "question", "answer", "answers", "options", "type", "start", "end", "frame_rate", "id")
OTHER_NAMES = {"choices": "options", "candidates": "options"}
"""Names in other test sets of keys of ours."""
MOST_NAMED = 50
"""Most wrong lines that one message names."""
_ARTICLES = {"video": "a video", "image": "an image"}
_MARK = re.compile(r"\s*\(?([A-Z])(?:\)\.?|\.|:)\s+")
_LETTER = re.compile(r"\(?([A-Za-z])\)?[.:]?")


@dataclass(frozen=True, slots=True)
class OwnQuestion:
    """A question as its line says it.

    Args:
        line: number of the line, from 1.
        stream: "video" or "image".
        path: of the medium, as it is written.
        answers: reference answers; of a question with options the letter of the right one.
        options: texts of the options, without letters.
        start, end, frame_rate: see `Question`.
    """

    line: int
    id: str
    stream: str
    path: str
    question: str
    answers: tuple[str, ...]
    options: tuple[str, ...] = ()
    type: str | None = None
    start: float | None = None
    end: float | None = None
    frame_rate: float | None = None


@dataclass(frozen=True)
class OwnFile:
    """The questions of a file.

    Args:
        unread: keys that the file has and nothing reads, as they are met.
        captions: whether its lines are pairs of a medium and a caption, and no questions.
    """

    path: Path
    questions: tuple[OwnQuestion, ...]
    unread: tuple[str, ...] = ()
    captions: bool = False

    @property
    def streams(self) -> tuple[str, ...]:
        """Streams that read its media; of several that of videos is the first."""
        found = {one.stream for one in self.questions}
        return tuple(stream for stream in MEDIA if stream in found)

    @property
    def content(self) -> str:
        """First 16 hex digits of a hash of what the lines say: layout, line ends and unread keys change nothing."""
        said = [{key: value for key, value in asdict(one).items() if key != "line"} for one in self.questions]
        content = {"captions": said} if self.captions else said
        return hashlib.sha256(canonical_json(content).encode()).hexdigest()[:16]


class _Wrong(ValueError):
    """What is wrong with a line, in words."""


def read_own_file(path: Path) -> OwnFile:
    """Read a test set of one's own.

    Raises:
        UserError: the file cannot be read, holds no question, or wrong lines, all of which are named with line and id.
    """
    text = read_text(path)
    questions: list[OwnQuestion] = []
    wrong: list[tuple[int, str]] = []
    captions: list[int] = []
    unread: dict[str, None] = {}
    for place, (number, line) in enumerate(numbered_lines(text), start=1):
        entry: Any = None
        try:
            entry = _object(line)
            questions.append(_question(entry, number, place))
            captions += [number] if "caption" in entry else []
            unread |= dict.fromkeys(key for key in entry if key not in KEYS)
        except _Wrong as error:
            wrong.append((number, f"{_named(entry)}: {error}"))
    if wrong := sorted([*wrong, *_repeated(questions), *(_no_pairs(questions, captions) if captions else ())]):
        more = [f"and {len(wrong) - MOST_NAMED} more"] if len(wrong) > MOST_NAMED else []
        named = [*(f"{path.name}: line {number}{what}" for number, what in wrong[:MOST_NAMED]), *more]
        refusal = UserError(f"{path}: {counted(len(wrong), 'line')} to mend, none is asked before:")
        refusal.listed = tuple(named)
        raise refusal
    if not questions:
        raise UserError(
            f"{path}: holds no question; write one JSON object per line, such as "
            '{"video": "a.mp4", "question": "What falls?", "answer": "a cup"}'
        )
    return OwnFile(path, tuple(questions), tuple(unread), captions=bool(captions))


def _named(entry: Any) -> str:
    """The id of a line, for messages; empty where it says none."""
    found = entry.get("id") if isinstance(entry, dict) else None
    return "" if found is None else f", id {str(found)[:80]!r}"


def _repeated(questions: list[OwnQuestion]) -> Iterator[tuple[int, str]]:
    """Ids that stand there twice."""
    first: dict[str, int] = {}
    for one in questions:
        if one.id in first:
            yield one.line, f", id {one.id!r}: is the id of line {first[one.id]} too; each may stand there once"
        first.setdefault(one.id, one.line)


def _no_pairs(questions: list[OwnQuestion], captions: list[int]) -> Iterator[tuple[int, str]]:
    """What is wrong in a file of pairs: a question, a medium of another kind. Each pair is compared with all others."""
    for one in questions:
        if one.line not in captions:
            yield one.line, f", id {one.id!r}: has no 'caption', as other lines have; write a file for each"
        elif one.stream != questions[0].stream:
            other = f"line {questions[0].line} with {_ARTICLES[questions[0].stream]}"
            yield one.line, f", id {one.id!r}: is a pair with {_ARTICLES[one.stream]}, {other}; write a file for each"


def _object(line: str) -> dict[str, Any]:
    try:
        value = value_of(line)
    except JsonError as error:
        place = "" if error.column is None else f"column {error.column}: "
        raise _Wrong(f"{place}not valid JSON ({error.reason})") from None
    if not isinstance(value, dict):
        raise _Wrong(f"expected an object, found {type(value).__name__}")
    return value


def _question(entry: Mapping[str, Any], number: int, place: int) -> OwnQuestion:
    """Raises _Wrong: a key is missing or holds the wrong kind of value."""
    if (near := _misspelt(entry)) is not None:
        raise _Wrong(f"the key {near[0]!r} is not known; did you mean {near[1]!r}?")
    stream = _medium(entry)
    is_pair = entry.get("caption") is not None
    if is_pair and (beside := [key for key in ("question", "answer", "answers", "options") if key in entry]):
        raise _Wrong(f"has 'caption' and {beside[0]!r}; a pair has a caption alone")
    options = () if is_pair else _options(entry)
    answers = (_text(entry, "caption"),) if is_pair else _answers(entry)
    start, end = _seconds(entry, "start", least=0.0), _seconds(entry, "end", least=0.0)
    if stream == "image" and (start, end, entry.get("frame_rate")) != (None, None, None):
        raise _Wrong("an image has no start, end or frame_rate")
    if end is not None and end <= (start or 0.0):
        raise _Wrong(f"its end, {end:g} s, is not behind its start, {start or 0.0:g} s")
    rate = _seconds(entry, "frame_rate", least=0.0)
    if rate == 0:
        raise _Wrong("'frame_rate' is 0, expected a number above 0")
    kind = entry.get("type")
    return OwnQuestion(
        line=number,
        id=str(place) if entry.get("id") is None else str(_value(entry, "id", (str, int))),
        stream=stream,
        path=_text(entry, stream),
        question=_text(entry, "caption" if is_pair else "question"),
        answers=(_letter(answers, options),) if options else answers,
        options=options,
        type=None if kind is None else str(_value(entry, "type", (str, int))),
        start=start,
        end=end,
        frame_rate=rate,
    )


def _medium(entry: Mapping[str, Any]) -> str:
    named = [key for key in MEDIA if entry.get(key) is not None]
    if len(named) == 1:
        return named[0]
    if named:
        raise _Wrong("has a 'video' and an 'image'; a question is about one of them")
    raise _Wrong("has no 'video' or 'image'")


def _misspelt(entry: Mapping[str, Any]) -> tuple[str, str] | None:
    """A key that is not read, with the one that it looks like and that is absent; None: there is none."""
    for key in entry:
        meant = OTHER_NAMES.get(key) or next(iter(difflib.get_close_matches(key.lower(), KEYS, n=1, cutoff=0.8)), None)
        if key not in KEYS and meant is not None and meant not in entry:
            return key, meant
    return None


def _options(entry: Mapping[str, Any]) -> tuple[str, ...]:
    """The options without letters of their own; none where the question has none."""
    if entry.get("options") is None:
        return ()
    found = _value(entry, "options", (list,))
    if not 2 <= len(found) <= len(ascii_uppercase):
        raise _Wrong(f"{counted(len(found), 'option')}; write 2 to {len(ascii_uppercase)}")
    texts = tuple(_plain(one, "an option").strip() for one in found)
    marks = [_MARK.match(text) for text in texts]
    if all(mark is not None and mark[1] == letter for mark, letter in zip(marks, ascii_uppercase, strict=False)):
        texts = tuple(_MARK.sub("", text, count=1) for text in texts)
    if "" in texts or len(set(texts)) < len(texts):
        raise _Wrong("an option is empty" if "" in texts else "two of its options are equal")
    return texts


def _answers(entry: Mapping[str, Any]) -> tuple[str, ...]:
    one, several = entry.get("answer"), entry.get("answers")
    if (one is None) == (several is None):
        raise _Wrong("has no 'answer'" if one is None else "has 'answer' and 'answers'; write one of them")
    found = [one] if several is None else _value(entry, "answers", (list,))
    texts = tuple(_plain(value, "an answer").strip() for value in found)
    if not texts or "" in texts:
        raise _Wrong("its answer is empty")
    return texts


def _letter(answers: tuple[str, ...], options: tuple[str, ...]) -> str:
    """The letter of the right option, which the answer names by its text or by its letter."""
    if len(answers) > 1:
        raise _Wrong(f"{len(answers)} answers to a question with options; write the one that is right")
    letters = dict(zip(ascii_uppercase, options, strict=False))
    by_text = next((letter for letter, text in letters.items() if text == answers[0]), None)
    mark, bare = _MARK.match(answers[0]), _LETTER.fullmatch(answers[0])
    by_letter = bare[1].upper() if bare is not None and bare[1].upper() in letters else None
    if by_text is None and mark is not None and letters.get(mark[1]) == answers[0][mark.end() :]:
        return mark[1]
    if by_text and by_letter and by_text != by_letter:
        raise _Wrong(
            f"its answer {answers[0]!r} is a letter and the text of option {by_text}; write both, as in "
            f"'{by_letter}. {letters[by_letter]}'"
        )
    found = by_text or by_letter
    if found is None:
        known = f"A to {ascii_uppercase[len(options) - 1]}"
        raise _Wrong(f"its answer {answers[0][:80]!r} is no option: write a letter, {known}, or the text of an option")
    return found


def _seconds(entry: Mapping[str, Any], key: str, least: float) -> float | None:
    if entry.get(key) is None:
        return None
    found = float(_value(entry, key, (int, float)))
    if found < least:
        raise _Wrong(f"{key!r} is {found:g}, expected at least {least:g}")
    return found


def _text(entry: Mapping[str, Any], key: str) -> str:
    found: str = _value(entry, key, (str,))
    if not found.strip() or "\0" in found:
        raise _Wrong(f"{key!r} is empty" if not found.strip() else f"{key!r} holds a NUL character")
    return found


def _value(entry: Mapping[str, Any], key: str, kinds: tuple[type, ...]) -> Any:
    if entry.get(key) is None:
        raise _Wrong(f"has no {key!r}")
    value = entry[key]
    if (
        isinstance(value, bool)
        or not isinstance(value, kinds)
        or (isinstance(value, float) and not math.isfinite(value))
    ):
        expected = " or ".join({str: "text", int: "number", float: "number", list: "list"}[kind] for kind in kinds)
        shown = json.dumps(value, ensure_ascii=False)[:80]
        raise _Wrong(f"{key!r} is {shown}, expected a {' or '.join(dict.fromkeys(expected.split(' or ')))}")
    return value


def _plain(value: Any, what: str) -> str:
    """A text, or a number as text."""
    wrong = isinstance(value, bool) or not isinstance(value, str | int | float)
    if wrong or (isinstance(value, float) and not math.isfinite(value)):
        raise _Wrong(f"{what} is {json.dumps(value, ensure_ascii=False)[:80]}, expected a text or a number")
    return str(value)
