"""Writes plain items as a file: in the form of LLaVA-style trainers, as messages, or as a table."""

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vidtune.data.conversations import annotation_of
from vidtune.data.forms.columns import SEVERAL, TABLES
from vidtune.data.forms.item import ORDER, written
from vidtune.data.forms.media import PART_KEYS, STREAMS
from vidtune.data.forms.records import LINES, read_annotations
from vidtune.data.forms.turns import ROLES
from vidtune.data.parsing import below
from vidtune.errors import UserError
from vidtune.foreign.files import read_foreign
from vidtune.machine.files import write_text_atomically
from vidtune.spelling import suggestion

CONVERSATIONS, MESSAGES, TABLE = "conversations", "messages", "table"
FORMS = (CONVERSATIONS, MESSAGES, TABLE)
Item = dict[str, Any]


@dataclass(frozen=True)
class Conversion:
    """What a conversion did.

    Args:
        form: form that was written.
        count: number of records that were written.
        problems: of each record that could not be: its id, or empty, and what is wrong.
    """

    form: str
    count: int
    problems: tuple[tuple[str, str], ...]


def convert(source: Path, target: Path, form: str | None = None, media: Path | None = None) -> Conversion:
    """Write the records of a file in another form. Records of a wrong form are left out and named.

    Args:
        source: file of records of any form.
        target: file to write; ``*.json``, ``*.jsonl``, ``*.csv`` or ``*.tsv``.
        form: one of `FORMS`; None: that of the suffix: conversations, messages, a table.
        media: folder below which absolute paths become relative ones; None: paths stay.

    Raises:
        UserError: a file that cannot be read, no usable record, an unknown form or suffix, or a target that exists.
    """
    suffix = target.suffix.lower()
    form = form or {".json": CONVERSATIONS, **dict.fromkeys(LINES, MESSAGES), **dict.fromkeys(TABLES, TABLE)}.get(
        suffix
    )
    if form is None:
        raise UserError(f"{target}: no known ending; write *.json, *.jsonl, *.csv or *.tsv")
    if form not in FORMS:
        raise UserError(f"unknown form {form!r}; {suggestion(form, FORMS)}")
    if (form == TABLE) != (suffix in TABLES):
        raise UserError(f"{target}: a table needs the ending .csv or .tsv, and any other form .json or .jsonl")
    if target.exists():
        raise UserError(f"{target}: exists already; remove it, or write another file")
    items, problems = [], []
    for annotation in read_annotations(source, read_foreign(source), annotation_of):
        if annotation.problem is not None:
            problems.append((annotation.original_id, annotation.problem[1]))
        else:
            items.append((annotation if media is None else below(annotation, media)).item or {})
    if not items:
        first = f"; the first of {len(problems)}: {problems[0][1]}" if problems else ""
        raise UserError(f"{source}: holds no record that can be used{first}")
    if form == TABLE:
        text = _table(items, "\t" if suffix == ".tsv" else ",")
    else:
        changed: Callable[[Item], Item] = _as_messages if form == MESSAGES else dict
        text = "".join(_lines(map(changed, items)) if suffix in LINES else _list(map(changed, items)))
    write_text_atomically(target, text)
    return Conversion(form, len(items), tuple(problems))


def _list(items: Iterable[Item]) -> Iterator[str]:
    for number, item in enumerate(items):
        yield ("," if number else "[") + written(item)
    yield "\n]"


def _lines(items: Iterable[Item]) -> Iterator[str]:
    return (f"{json.dumps(item)}\n" for item in items)


def _as_messages(item: Item) -> Item:
    """An item with ``messages`` of role and content, and lists ``videos`` and ``images``."""
    turns = [{"role": ROLES[turn["from"]], "content": turn["value"]} for turn in item["conversations"]]
    names = {stream: f"{stream}s" for stream in STREAMS}
    found: Item = {}
    for key, value in item.items():
        if key == CONVERSATIONS:
            found[MESSAGES] = turns
        elif key in names:
            found[names[key]] = value if value is None or isinstance(value, list) else [value]
        else:
            found[key] = value
    return found


def _table(items: Sequence[Item], delimiter: str) -> str:
    """A table with a question and an answer in each row; where a conversation is longer, with all turns as JSON."""
    short = all(_is_one_question(item["conversations"]) for item in items)
    has_system = short and any(len(item["conversations"]) > 2 for item in items)
    turns = (["system"] * has_system + ["question", "answer"]) if short else [CONVERSATIONS]
    keys = [key for key in ORDER if key != CONVERSATIONS and any(item.get(key) is not None for item in items)]
    text = io.StringIO(newline="")
    table = csv.writer(text, delimiter=delimiter, lineterminator="\n")
    table.writerow([*keys, *turns])
    for item in items:
        told = item["conversations"]
        texts = [turn["value"] for turn in told]
        system = ["" if len(told) == 2 else texts[0]] * has_system
        cells = [*system, *texts[-2:]] if short else [json.dumps(told)]
        table.writerow([*(_cell(key, item.get(key)) for key in keys), *cells])
    return text.getvalue()


def _is_one_question(turns: Sequence[dict[str, str]]) -> bool:
    roles = [turn["from"] for turn in turns]
    return (
        roles[-2:] == ["human", "gpt"]
        and roles[:-2] in ([], ["system"])
        and all(turn["value"].strip() for turn in turns)
    )


def _cell(key: str, value: Any) -> str:
    if value is None:
        return ""
    if key in PART_KEYS:
        return SEVERAL.join("" if one is None else repr(one) for one in (value if isinstance(value, list) else [value]))
    if key in STREAMS and isinstance(value, str):
        is_plain = value == value.strip() and SEVERAL not in value and value[0] not in "[{"
        return value if is_plain else json.dumps([value])  # a list shows that the separator is a part of the name
    return value if isinstance(value, str) else json.dumps(value)
