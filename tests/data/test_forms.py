"""Annotations in the forms of other trainers: the same conversations are the same data, whatever their form."""

import csv
import io
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vidtune.data.conversations import annotation_of, read_conversations
from vidtune.data.problems import SampleProblem
from vidtune.data.sample import Turn
from vidtune.data.tables import AnnotationTable
from vidtune.data.writing.annotations import convert
from vidtune.errors import UserError
from vidtune.planning.lengths import LengthTable
from vidtune.planning.plan import StagePlan
from vidtune.recipe.types import Stage

Item = dict[str, Any]
PART_KEYS = ("start", "end", "frame_rate")


def told(*turns: str, system: str = "") -> list[dict[str, str]]:
    roles = ["system"] * bool(system) + ["human", "gpt"] * (len(turns) // 2)
    return [{"from": role, "value": text} for role, text in zip(roles, [system] * bool(system) + [*turns], strict=True)]


ITEMS: list[Item] = [
    {"id": "a1", "video": "clips/kite.mp4", "conversations": told("<video>\nWhat flies?", "A kite, \"red\".")},
    {"id": "7", "image": ["a.jpg", "b; c.jpg"], "conversations": told("<image>\n<image>\nWhat differs?", "The\ndoor.")},
    {"conversations": told("Write a haiku, please.", "漢字 \u2028 and more.", system="Be brief.")},
    {"id": "two", "video": ["a.mp4", "b.mp4"], "conversations": told("<video>\n<video>\nSame?", "No."),
     "start": [1.0, None], "end": [2.5, 9.0]},
    {"id": "later", "image": "p.png", "conversations": told("Hello.", "Hi.", "<image>\nAnd this?", "A dog.")},
    {"id": "both", "video": "a.mp4", "image": "p.png", "conversations": told("<video>\n<image>\nWhere?", "There."),
     "start": 3.0},
    {"id": "in", "image": ["p.png", "q.png"], "conversations": told("Is <image> or <image> red?", "The first.")},
]  # fmt: skip
ROLES = {"system": "system", "human": "user", "gpt": "assistant"}


def media_of(item: Item, stream: str) -> list[Any]:
    value = item.get(stream, [])
    return value if isinstance(value, list) else [value]


def listed(item: Item) -> Item:
    """``messages`` with ``images`` and ``videos``."""
    messages = [{"role": ROLES[turn["from"]], "content": turn["value"]} for turn in item["conversations"]]
    rest = {key: item[key] for key in ("id", *PART_KEYS) if key in item}
    return {**rest, "messages": messages, "videos": media_of(item, "video"), "images": media_of(item, "image")}


def in_parts(item: Item) -> Item:
    """Parts of text and media, as endpoints take them; the seconds stand in the parts."""
    videos, images = iter(media_of(item, "video")), iter(media_of(item, "image"))
    seconds = {key: iter(item[key] if isinstance(item[key], list) else [item[key]]) for key in PART_KEYS if key in item}
    messages = []
    for turn in item["conversations"]:
        parts: list[Item] = []
        for piece in turn["value"].replace(">\n", ">").replace("<", "\0<").replace(">", ">\0").split("\0"):
            if piece == "<video>":
                part = {"url": next(videos), **{key: next(numbers) for key, numbers in seconds.items()}}
                parts.append(
                    {"type": "video_url", "video_url": {key: one for key, one in part.items() if one is not None}}
                )
            elif piece == "<image>":
                parts.append({"type": "image_url", "image_url": {"url": f"file://{next(images).replace(' ', '%20')}"}})
            elif piece:
                parts.append({"type": "text", "text": piece})
        messages.append({"role": ROLES[turn["from"]], "content": parts})
    return {**({"id": item["id"]} if "id" in item else {}), "messages": messages}


def qwen_parts(item: Item) -> Item:
    """Parts without a type, and ``video_start``."""
    found = in_parts(item)
    for message in found["messages"]:
        for part in message["content"]:
            kind = part.pop("type")
            if kind != "text":
                inner = part.pop(kind)
                stream = kind.removesuffix("_url")
                part[stream] = inner["url"]
                part |= {f"video_{key}" if key != "frame_rate" else key: inner[key] for key in inner if key != "url"}
    return found


def without_tags(item: Item) -> Item:
    """``instruction`` and ``output`` with a history and a system line; tags only where they are not in front."""
    turns = [turn["value"] for turn in item["conversations"]]
    system = turns.pop(0) if item["conversations"][0]["from"] == "system" else ""
    found = {**item, "history": [list(turns[:2])] if len(turns) > 2 else [], "output": turns[-1], "system": system}
    question = turns[-2]
    if len(turns) == 2 and question.startswith("<"):
        question = question.rpartition(">\n")[2]
    del found["conversations"]
    return {**found, "instruction": question}


def absolute(item: Item) -> Item:
    """Paths from the root, and ids as numbers."""
    found = listed(item)
    for key in ("videos", "images"):
        found[key] = [{"path": f"/data/media/{path}"} for path in found[key]]
    if found.get("id", "").isdigit():
        found["id"] = int(found["id"])
    return found


def as_lines(change: Callable[[Item], Item]) -> Callable[[list[Item]], str]:
    return lambda items: "".join(json.dumps(change(item), ensure_ascii=False) + "\n" for item in items)


def as_rows(delimiter: str) -> Callable[[list[Item]], str]:
    def write(items: list[Item]) -> str:
        text = io.StringIO()
        table = csv.writer(text, delimiter=delimiter)
        table.writerow(["id", "videos", "images", "messages", "start", "end"])
        for item in map(listed, items):
            numbers = [item.get(key, "") for key in ("start", "end")]
            seconds = [";".join("" if n is None else str(n) for n in v) if isinstance(v, list) else v for v in numbers]
            lists = [json.dumps(item[key]) if item[key] else "" for key in ("videos", "images", "messages")]
            table.writerow([item.get("id", ""), *lists, *seconds])
        return text.getvalue()

    return write


def pairs(item: Item) -> Item:
    """ShareGPT with ``role`` and ``value`` mixed, under ``conversations``."""
    turns = [{"role": ROLES[turn["from"]], "value": turn["value"]} for turn in item["conversations"]]
    return {**item, "conversations": turns}


def placeholders(item: Item) -> Item:
    """Parts that say where a medium stands; its file stands in a list (the data sets of TRL)."""
    found = {**in_parts(item), **{key: listed(item)[key] for key in ("videos", "images")}}
    found |= {key: item[key] for key in PART_KEYS if key in item}
    for message in found["messages"]:
        for part in message["content"]:
            if part["type"] != "text":
                part["type"] = part["type"].removesuffix("_url")
                del part[f"{part['type']}_url"]
    return found


def rounds(item: Item) -> Item:
    """One object for a question and its answer."""
    turns = [turn["value"] for turn in item["conversations"]]
    system = turns.pop(0) if item["conversations"][0]["from"] == "system" else ""
    pairs = [{"human": ask, "assistant": answer} for ask, answer in zip(turns[::2], turns[1::2], strict=True)]
    rest = {key: value for key, value in item.items() if key != "conversations"}
    return {**rest, "system": system, "conversation": pairs}


FORMS: dict[str, tuple[str, Callable[[list[Item]], str]]] = {
    "list, one line": ("json", json.dumps),
    "list, indented": ("json", lambda items: json.dumps(items, indent=4, ensure_ascii=False)),
    "list, keys in another order": ("json", lambda items: json.dumps([dict(reversed(one.items())) for one in items])),
    "lines": ("jsonl", as_lines(dict)),
    "lines in *.json": ("json", as_lines(dict)),
    "messages and lists": ("jsonl", as_lines(listed)),
    "parts": ("jsonl", as_lines(in_parts)),
    "parts without a type": ("json", lambda items: json.dumps(list(map(qwen_parts, items)))),
    "parts that are placeholders": ("jsonl", as_lines(placeholders)),
    "rounds": ("jsonl", as_lines(rounds)),
    "role and value": ("jsonl", as_lines(pairs)),
    "instruction and output": ("jsonl", as_lines(without_tags)),
    "absolute paths": ("jsonl", as_lines(absolute)),
    "csv": ("csv", as_rows(",")),
    "csv with semicolons": ("csv", as_rows(";")),
    "tsv": ("tsv", as_rows("\t")),
}


@dataclass
class Source:
    annotations: Path
    media: Path | None = Path("/data/media")
    features: dict[str, Path] = field(default_factory=dict)
    format: str | None = None
    sampling: str | None = None
    frame_rate: float | None = None
    roots: dict[str, str] = field(default_factory=dict)
    missing_sets: str | None = None


def opened(path: Path) -> AnnotationTable:
    return AnnotationTable.open([Source(path)], path.parent / "tables")


def plan_hash(table: AnnotationTable, path: Path) -> str:
    sizes = np.array([sum(len(turn.text) for turn in table[index].turns) for index in range(len(table))], np.int32)
    source = {"annotations": str(path), "media": "/data/media"}
    stage = Stage(name="s", train={"connectors": 1.0}, data=[source], global_batch_size=2)  # type: ignore[arg-type]
    lengths = LengthTable(sizes, sizes, sizes, {})
    return StagePlan.of(stage, table, lengths, seed=3).fingerprint


@pytest.fixture(scope="module")
def reference(tmp_path_factory) -> tuple[AnnotationTable, str]:
    path = tmp_path_factory.mktemp("reference") / "mine.json"
    path.write_text(json.dumps(ITEMS, indent=1))
    return opened(path), plan_hash(opened(path), path)


@pytest.mark.parametrize("form", FORMS)
def test_the_same_conversations_are_the_same_data(form: str, reference, tmp_path: Path) -> None:
    suffix, write = FORMS[form]
    path = tmp_path / f"mine.{suffix}"
    path.write_text(write(ITEMS), encoding="utf-8")
    table, (first, planned) = opened(path), reference
    assert [table[index] for index in range(len(table))] == [first[index] for index in range(len(first))]
    assert [table.original_id(index) for index in range(len(table))] == [item.get("id", "") for item in ITEMS]
    assert table.notes() == []
    assert plan_hash(table, path) == planned


@pytest.mark.parametrize("target", ["b.json", "b.jsonl", "b.csv", "b.tsv"])
@pytest.mark.parametrize("items", [ITEMS, ITEMS[:2]], ids=["long", "short"])
def test_a_converted_file_is_the_same_data_and_its_list_is_known_by_its_bytes(
    target: str, items: list[Item], tmp_path: Path
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(as_lines(absolute)(items))
    assert convert(path, tmp_path / target, media=Path("/data/media")).count == len(items)
    table, before = opened(tmp_path / target), opened(path)
    assert table.fingerprint == before.fingerprint
    assert target != "b.json" or table.files[0].about.file == table.files[0].about.content
    assert target != "b.csv" or len(items) > 2 or b",question,answer\n" in (tmp_path / target).read_bytes()
    with pytest.raises(UserError, match="exists already"):
        convert(path, tmp_path / target)


def test_a_table_of_questions_needs_no_tags(tmp_path: Path) -> None:
    (tmp_path / "q.csv").write_text(
        "ID,Video,Question,Answer,System,place\n1,a.mp4;b.mp4,Same?,No.,,x\n\n2,,Who?,I.,Hm.,\n"
    )
    first, second = read_conversations(tmp_path / "q.csv", (tmp_path / "q.csv").read_bytes())
    assert first.turns == (Turn("user", "<video>\n<video>\nSame?"), Turn("assistant", "No."))
    assert first.media == (("video", "a.mp4"), ("video", "b.mp4")) and first.original_id == "1"
    assert second.turns[0] == Turn("system", "Hm.") and second.media == ()
    assert first.unknown == ("place",)


TURNS = {"messages": [{"role": "user", "content": "A?"}, {"role": "assistant", "content": "B."}]}


@pytest.mark.parametrize(
    ("record", "problem"),
    [
        ({**TURNS, "conversations": told("A?", "B.")}, "has turns under 'conversations' and 'messages'; keep one"),
        ({"question": "A?"}, "has 'question', but no answer beside it"),
        ({"question": "A?", "query": "A?", "answer": "B."}, "has 'question' and 'query'; keep one of them"),
        ({"messages": [{"role": "tool", "content": "A?"}]}, r"key 'messages\[0\].role': expected .* found 'tool'"),
        ({"messages": [{"role": "user", "from": "human", "content": "A?"}]}, "has 'from' and 'role'; keep one"),
        ({"messages": [{"role": "user", "content": [{"type": "audio", "audio": "a.wav"}]}]}, "a part of type 'audio'"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "parts of its turns are media, but no file"),
        ({**TURNS, "images": ["https://example.org/a.jpg"]}, "is a web address; download the file"),
        ({**TURNS, "images": ["data:image/png;base64,AAAA"]}, "holds a file itself"),
        ({**TURNS, "images": ["\ud800.jpg"]}, "half a character is in the path"),
        ({**TURNS, "images": ["a.jpg"], "image": "b.jpg"}, "names image files under 'image' and 'images'; keep one"),
        ({**TURNS, "videos": [["1.jpg", "2.jpg"]]}, "a video as a list of frames; give the folder"),
        ({**TURNS, "images": [{"path": "a.jpg", "start": 1}]}, "a picture has no start"),
        ({**TURNS, "videos": [{"path": "a.mp4", "start": 1}], "start": 2}, "has 'start' of its own and in its videos"),
        (
            {**TURNS, "system": "A.", "messages": [{"role": "system", "content": "B."}]},
            "has 'system' and a system turn",
        ),
    ],
)
def test_a_record_of_no_clear_form_says_what_to_keep(record: Item, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        annotation_of(record)


@pytest.mark.parametrize("identity", ["a", 3, 2.5, None, True, [1, "b"], {"k": 1}, "\ud800"])
def test_ids_may_be_of_any_kind(identity: object) -> None:
    found = annotation_of({**TURNS, "id": identity}).original_id
    expected = "" if identity is None else identity if isinstance(identity, str) else json.dumps(identity)
    assert found == expected.replace("\ud800", "\ufffd")


def test_all_bad_records_are_found_at_once_and_cost_themselves_alone(tmp_path: Path) -> None:
    good = json.dumps(TURNS)
    deep = '{"id": "deep", "messages": ' + "[" * 5000 + "]" * 5000 + "}"
    lines = [good, '{"id": 1, "messages": [', good, '{"id": "no turns"}', deep, "", '{"id": "x"} and more', good]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    table = opened(tmp_path / "a.jsonl")
    problems = []
    for index in range(len(table)):
        try:
            table[index]
        except SampleProblem as problem:
            problems.append((table.original_id(index), problem.detail.partition(":")[0]))
    assert problems == [("", "line 2"), ("no turns", "line 4"), ("", "line 5"), ("", "line 7")]
    assert len(table) == 7


def test_keys_that_are_not_read_and_several_forms_are_told_once(tmp_path: Path) -> None:
    messages = [{"role": "user", "content": [{"type": "text", "text": "A?", "lang": "en"}], "weight": 1}]
    records = [{**TURNS, "tools": []}, {"messages": messages, "tools": []}, {"conversations": told("A?", "B.")}]
    (tmp_path / "a.json").write_text(json.dumps(records))
    forms, keys = opened(tmp_path / "a.json").notes()
    assert forms.endswith(
        "records of several forms: 2 records with messages of role/content, 1 record with conversations of from/value"
    )
    assert keys.endswith("with the number of records: tools (2), messages[].weight (1), part.lang (1)")


def test_a_run_that_knows_a_file_by_its_bytes_keeps_its_order(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps(ITEMS))
    now = opened(path)
    about = now.files[0].about
    assert about.content != about.file
    then = AnnotationTable.open([Source(path)], tmp_path / "tables", known={about.file})
    assert then.files[0].content_hash == about.file and then.fingerprint != now.fingerprint
    assert all(now.files[0].is_known_by(known) for known in (about.file, about.content))
    again = AnnotationTable.open([Source(path)], tmp_path / "tables", known={about.file, about.content})
    assert again.fingerprint == now.fingerprint


def test_absolute_paths_outside_the_media_folder_stay_refused(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({**TURNS, "images": [path]}) + "\n" for path in (
        "/data/media2/a.jpg", "/data/media/../b.jpg", "/data/media/c.jpg")))  # fmt: skip
    table = opened(tmp_path / "a.jsonl")
    for index in (0, 1):
        with pytest.raises(SampleProblem, match="is not a path below the media folder"):
            table[index]
    assert table[2].media[0].path == "/data/media/c.jpg"
    elsewhere = AnnotationTable.open([Source(tmp_path / "a.jsonl", Path("/data/media2"))], tmp_path / "tables")
    assert elsewhere[0].media[0].path == "/data/media2/a.jpg"
