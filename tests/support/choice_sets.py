"""Small multiple-choice test sets in the layout of their public releases, and an engine that answers by a table."""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from vidtune.evaluation.benchmarks.multiple_choice.mvbench import TASKS
from vidtune.generation.settings import Answer, Request


def write_json(path: Path, value: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")
    return path


def touch(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


def mvbench(folder: Path, *, cut: tuple[str, ...] = (), missing: tuple[str, ...] = ()) -> Path:
    """One question per task, whose right answer is "y"; the video is ``<task>.mp4``, or a folder of frames.

    Args:
        cut: tasks whose folder of cut videos is there too.
        missing: tasks without a video.
    """
    for name, task in TASKS.items():
        video = name if task.frames else f"{name}.mp4"
        entry = {"video": video, "question": f"{name}?", "candidates": ["x", "y", "z"], "answer": "y"}
        if task.timed:
            entry |= {"start": 1.5, "end": 4}
        write_json(folder / "json" / f"{name}.json", [entry])
        if name not in missing:
            touch(
                folder / "video" / task.folder / video / "00001.jpg"
                if task.frames
                else folder / "video" / task.folder / video
            )
        if name in cut:
            touch(folder / "video" / task.cut / f"{name}.mp4")
    return folder


class Chooser:
    """Engine that answers the question at a place of the test set by a table; the others by "(B)".

    Args:
        replies: place -> answer.
    """

    def __init__(self, replies: Mapping[int, str]) -> None:
        self.replies = replies
        self.asked: list[Request] = []

    def answer(self, requests: Iterable[Request]) -> Iterator[Answer]:
        for request in requests:
            self.asked.append(request)
            likelihoods = tuple(-float(place != 1) for place in range(len(request.options)))
            text = self.replies.get(int(request.id), "(B)")
            yield Answer(request.id, text, (), "option" if likelihoods else "eos", likelihoods=likelihoods)
