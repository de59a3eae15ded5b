"""What a reply certainly says although it is not of the form that was asked for.

Chat models put an object into a code fence, reason before it, write prose around it, or spell it in their own way. Such
a reply is understood where it can mean one thing only: of two verdicts that differ, an unfinished reasoning, or a word
that is neither yes nor no, nothing is taken. Each function also says what it overlooked, for the record of a verdict.
"""

import ast
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

REASONING, FENCE, PROSE = "reasoning before it", "a code fence", "text around it"
SPELLING, NUMBER = "another spelling", "a number as text"
Understood = tuple[Any, tuple[str, ...]]
"""A value, and what was overlooked."""
Parsed = tuple[Mapping[str, Any], set[str]]

_TAGS = "think|thinking|thought|thoughts|reasoning|analysis"
_THOUGHT = re.compile(rf"<({_TAGS})>(?:(?!<\1>).)*?</\1>", re.DOTALL | re.IGNORECASE)
_END_OF_THOUGHT = re.compile(rf"\A.*</(?:{_TAGS})>", re.DOTALL | re.IGNORECASE)
_START_OF_THOUGHT = re.compile(rf"<(?:{_TAGS})>", re.IGNORECASE)
_FENCE = re.compile(r"```(?:[A-Za-z]*[ \t]*(?=\n|$))?")
_FLAT_OBJECT = re.compile(r"\{[^{}]*\}")
_QUOTES = "'\"`“”‘’"
_KEY = rf"\s*[{_QUOTES}]*([A-Za-z_]+)[{_QUOTES}]*\s*:\s*"
_PAIR = re.compile(rf"{_KEY}(?:[{_QUOTES}]+([^{_QUOTES}]*)[{_QUOTES}]+|([^,{_QUOTES}]*))\s*(?:,|$)")
_NUMBER = r"[+-]?\d+(?:\.\d+)?"
_ALONE = re.compile(_NUMBER)
_SCORE = re.compile(rf"\s*({_NUMBER})\s*(?:(?:/|out of)\s*({_NUMBER}))?\s*")
_NUMBERS = re.compile(rf"({_NUMBER})(?:\s*,\s*|\s+)({_NUMBER})")
_NAMED_NUMBER = re.compile(rf"(?:[A-Za-z ]{{1,40}}[:=])?[*_ ]*({_NUMBER})[*_ ]*\.?")
_MARKUP = " \t*_[](){}"


def unwrapped(text: str) -> tuple[str, tuple[str, ...]] | None:
    """Returns a reply without its reasoning and code fences; None: the reasoning does not end."""
    said = _END_OF_THOUGHT.sub("", _THOUGHT.sub("", text))
    if _START_OF_THOUGHT.search(said):
        return None
    notes = [REASONING] if said != text else []
    bare = _FENCE.sub("", said)
    return bare.strip(), (*notes, *([FENCE] if bare != said else []))


def verdict_object(text: str, names: Sequence[str], highest: float) -> Understood | None:
    """Returns the one verdict that a text holds, with these names alone.

    Args:
        text: without reasoning and code fences.
        names: keys that the object has to have: ``score``, and ``pred`` for yes or no.
        highest: end of the scale, which "4/5" may name.
    """
    found: dict[str, tuple[dict[str, Any], set[str]]] = {}
    for said, (parsed, spelling) in _objects(text, names):
        verdict = _verdict(parsed, names, highest)
        if verdict is None:
            return None
        value, notes = verdict
        found[json.dumps(value)] = (value, notes | spelling | ({PROSE} if said != text else set()))
    if len(found) != 1:
        return None
    value, overlooked = next(iter(found.values()))
    return value, tuple(sorted(overlooked))


def two_numbers(text: str) -> Understood | None:
    """Returns the two numbers that are all of the first line, whatever stands between and around them."""
    found = _NUMBERS.fullmatch(_first_line(text))
    return None if found is None else ([float(found[1]), float(found[2])], (SPELLING,))


def one_number(text: str) -> Understood | None:
    """Returns the number that is all of the first line, but for its name ("Score: 0.5") and markup."""
    found = _NAMED_NUMBER.fullmatch(_first_line(text))
    return None if found is None else ({"score": float(found[1])}, (SPELLING,))


def _first_line(text: str) -> str:
    return text.strip().partition("\n")[0].strip(_MARKUP + "\r")


def _objects(text: str, names: Sequence[str]) -> Iterator[tuple[str, Parsed]]:
    """Every object with one of these names: all from the first to the last brace, else those without others inside."""
    first, last = text.find("{"), text.rfind("}")
    whole = _parsed(text[first : last + 1], names) if first >= 0 else None
    if whole is not None:
        yield text[first : last + 1], whole
        return
    for match in _FLAT_OBJECT.finditer(text):
        if (found := _parsed(match[0], names)) is not None:
            yield match[0], found


def _parsed(text: str, names: Sequence[str]) -> Parsed | None:
    """The object that a text spells, as a Python literal, as JSON, or with other quotes; None: it has no such name."""
    notes: set[str] = set()
    for parse in (ast.literal_eval, json.loads, _spelled):
        try:
            value = parse(text)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            notes = {SPELLING}
            continue
        keys = value if isinstance(value, dict) else ()
        return (value, notes) if any(str(key).strip().lower() in names for key in keys) else None
    return None


def _spelled(text: str) -> dict[str, Any]:
    """A flat object whose quotes are odd, doubled or missing."""
    inside, place = text.strip()[1:-1], 0
    found: dict[str, Any] = {}
    while place < len(inside):
        match = _PAIR.match(inside, place)
        if match is None or match[1] in found:
            raise ValueError(text[:60])
        bare = (match[3] or "").strip()
        found[match[1]] = float(bare) if _ALONE.fullmatch(bare) else match[2] if match[2] is not None else bare
        place = match.end()
    return found


def _verdict(said: Mapping[str, Any], names: Sequence[str], highest: float) -> tuple[dict[str, Any], set[str]] | None:
    """What an object says under these names; None where that is not certain."""
    by_name = {str(key).strip().lower(): value for key, value in said.items()}
    if len(by_name) != len(said) or not set(names) <= set(by_name):
        return None
    notes = set() if set(names) <= set(said) else {SPELLING}
    value: dict[str, Any] = {}
    if "pred" in names:
        word = _yes_or_no(by_name["pred"])
        if word is None:
            return None
        value["pred"] = word
        notes |= {SPELLING} if isinstance(by_name["pred"], bool) else set()
    score = _score(by_name["score"], highest)
    if score is None:
        return None
    notes |= {NUMBER} if isinstance(by_name["score"], str) else set()
    return value | {"score": score}, notes


def _yes_or_no(said: Any) -> str | None:
    if isinstance(said, bool):
        return "yes" if said else "no"
    words = {"yes", "no"} & set(re.findall(r"[a-z]+", said.lower())) if isinstance(said, str) else set()
    return words.pop() if len(words) == 1 else None


def _score(said: Any, highest: float) -> int | float | None:
    if isinstance(said, str):
        found = _SCORE.fullmatch(said)
        if found is None or (found[2] is not None and float(found[2]) != highest):
            return None
        said = float(found[1])
    if isinstance(said, bool) or not isinstance(said, int | float) or not math.isfinite(said):
        return None
    return int(said) if said == int(said) else said
