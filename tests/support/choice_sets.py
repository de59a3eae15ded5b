"""Small multiple-choice test sets in the layout of their public releases, and an engine that answers by a table."""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from vidtune.evaluation.benchmarks.multiple_choice.mlvu import FILES
from vidtune.evaluation.benchmarks.multiple_choice.mvbench import TASKS
from vidtune.generation.settings import Answer, Request

OPTIONS = ["A. red", "B. blue", "C. green", "D. none"]


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


def mlvu(folder: Path, *, numbered: bool = True) -> Path:
    """One question per task, whose right answer is "y"; the video is ``<task>.mp4``."""
    for task, name in FILES.items():
        entry = {"video": f"{task}.mp4", "question": f"{task}?", "candidates": ["x", "y"], "answer": "y"}
        write_json(folder / "json" / f"{name}.json", [{**entry, "question_type": task}])
        touch(folder / "video" / (name if numbered else task) / f"{task}.mp4")
    return folder


def lvbench(folder: Path) -> Path:
    """Two videos, the first with two questions, in the form of the public release."""
    text = "What is it?\n(A) x\n(B) y\n(C) z\n(D) w"
    asked = {"a": [{"uid": "7", "question": text, "answer": "B"}, {"uid": "9", "question": text, "answer": "D"}]}
    asked["b"] = [{"uid": "12", "question": text, "answer": "A"}]
    lines = [{"key": key, "type": "cartoon" if key == "a" else "sport", "qa": qa} for key, qa in asked.items()]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "video_info.meta.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for key in asked:
        touch(folder / "videos" / f"{key}.mp4")
    return folder


def perception_test(folder: Path) -> Path:
    """A video with two questions, the second without a right option, in the form of the public release."""
    asked = {"question": "Which?", "options": ["x", "y", "z"], "answer_id": 1, "area": "physics"}
    other = {**asked, "id": 1, "answer_id": -1, "area": "memory"}
    write_json(folder / "mc_question_valid.json", {"video_1": {"mc_question": [{**asked, "id": 0}, other]}})
    touch(folder / "videos" / "video_1.mp4")
    return folder


def mme(folder: Path, *, changes: Iterable[tuple[int, dict[str, Any]]] = (), missing: Iterable[str] = ()) -> Path:
    """Three questions about two videos, in the form of the public release."""
    entries: list[dict[str, Any]] = [
        {"question_id": f"{number}-1", "videoID": video, "duration": kind, "question": "Which?", "options": OPTIONS}
        for number, (video, kind) in enumerate([("a", "short"), ("b", "medium"), ("a", "short")])
    ]
    entries = [{**entry, "answer": letter} for entry, letter in zip(entries, "ABC", strict=True)]
    for place, change in changes:
        entries[place] |= change
    write_json(folder / "videomme.json", entries)
    for name in {"a", "b"} - set(missing):
        touch(folder / "data" / f"{name}.mp4")
    return folder


def lvb(folder: Path, **changes: Any) -> Path:
    """One question about a video with a subtitle, in the form of the public release."""
    document: dict[str, Any] = {
        "id": "v_0",
        "video_path": "v.mp4",
        "subtitle_path": "v.json",
        "duration": 4.0,
        "question": "Who?",
    }
    document |= {"starting_timestamp_for_subtitles": 0, "duration_group": 15, "correct_choice": 1}
    document |= {f"option{place}": text for place, text in enumerate(["cat", "dog", "N/A", "N/A", "N/A"])}
    write_json(folder / "lvb_val.json", [document | changes])
    write_json(folder / "subtitles" / "v_en.json", [{"timestamp": [1.5, None], "text": "said"}])
    touch(folder / "videos" / "v.mp4")
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
