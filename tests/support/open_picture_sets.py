"""Small sets of questions about pictures with options or open answers, in the official layout; an engine for them."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from choice_sets import touch, write_json
from picture_sets import write_lines

from vidtune.generation.settings import Answer, Request


class Canned:
    """Gives these answers to the questions in the order of the test set; keeps the requests."""

    def __init__(self, outputs: Sequence[str]) -> None:
        self.outputs = outputs

    def answer(self, requests: Iterable[Request]) -> Iterator[Answer]:
        self.requests = sorted(requests, key=lambda request: int(request.id))
        for place, request in enumerate(self.requests):
            yield Answer(request.id, self.outputs[place], (), "stop")


def table(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """A tab-separated file as pandas writes it."""
    cells = [["" if one is None else str(one).replace('"', '""') for one in row.values()] for row in rows]
    quoted = [[f'"{one}"' if one else "" for one in line] for line in cells]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join("\t".join(line) for line in [list(rows[0]), *quoted]) + "\n", encoding="utf-8")


def science_qa(folder: Path, conversations: Sequence[Mapping[str, Any]], problems: Mapping[str, Any]) -> Path:
    """Conversations of the question file, and problems by id."""
    write_json(folder / "llava_test_CQM-A.json", conversations)
    write_json(folder / "problems.json", problems)
    write_json(folder / "pid_splits.json", {"test": list(problems)})
    for one in conversations:
        if "image" in one:
            touch(folder / "images" / "test" / one["image"])
    return folder


def llava_bench(folder: Path, inputs: Mapping[str, Any]) -> Path:
    """Questions, reference answers (``ans1``) and descriptions (``context``)."""
    write_lines(folder / "questions.jsonl", inputs["questions"])
    write_lines(folder / "answers_gpt4.jsonl", inputs["ans1"])
    write_lines(folder / "context.jsonl", inputs["context"])
    for one in inputs["context"]:
        touch(folder / "images" / one["image"])
    return folder


def mm_vet(folder: Path, metadata: Mapping[str, Any]) -> Path:
    """Entries of mm-vet.json by key."""
    write_json(folder / "mm-vet.json", metadata)
    lines = [
        {"question_id": int(key.removeprefix("v1_")), "image": f"{key}.png", "text": one["question"]}
        for key, one in metadata.items()
    ]
    write_lines(folder / "llava-mm-vet.jsonl", lines)
    for one in lines:
        touch(folder / "images" / one["image"])
    return folder
