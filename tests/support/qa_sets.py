"""Small test sets in the official layout, an engine that answers them without a model, and runs made of both."""

import json
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from vidtune.evaluation.asking.shared_videos import Session
from vidtune.evaluation.predict import Answerer, PredictionSummary, predict
from vidtune.evaluation.protocol import Protocol
from vidtune.evaluation.question import QuestionSet
from vidtune.evaluation.runs.checkpoint_identity import CheckpointIdentity
from vidtune.generation.settings import Answer, Request
from vidtune.registry import BENCHMARKS

CHECKPOINT = CheckpointIdentity(path="/models/one", fingerprint="aaaa")


def write_set(
    folder: Path,
    entries: Sequence[tuple[str, str, str]],
    *,
    types: Sequence[Any] | None = None,
    missing: Sequence[str] = (),
    videos: str = "videos",
) -> Path:
    """A test set of (video, question, answer) with empty video files, except those ``missing``."""
    (folder / videos).mkdir(parents=True, exist_ok=True)
    questions = [
        {"video_name": video, "question": question, "question_id": f"{video}_{number}"}
        for number, (video, question, _) in enumerate(entries)
    ]
    answers: list[dict[str, Any]] = [{"answer": answer} for *_, answer in entries]
    for answer, kind in zip(answers, types or (), strict=False):
        answer["type"] = kind
    (folder / "test_q.json").write_text(json.dumps(questions))
    (folder / "test_a.json").write_text(json.dumps(answers))
    for video, *_ in entries:
        if video not in missing:
            (folder / videos / f"{video}.mp4").touch()
    return folder


def counted_set(folder: Path, count: int, per_video: int = 3) -> Path:
    """Questions 0 to ``count`` - 1; question n is answered "answer n"; its videos are not next to each other."""
    videos = -(-count // per_video)
    return write_set(folder, [(f"clip{n % videos}", f"question {n}?", f"answer {n}") for n in range(count)])


class StubEngine:
    """Answers "answer n" to "question n?"; keeps what it was asked.

    Args:
        replies: question -> reply, for other answers.
        errors: part of a media path -> error of every request about it.
        pause: seconds per answer.
        most: number of questions after which it answers no more.
    """

    def __init__(
        self,
        replies: dict[str, str] | None = None,
        errors: dict[str, str] | None = None,
        pause: float = 0.0,
        most: int | None = None,
        open: bool = False,
    ) -> None:
        self.most = most
        self.open = open
        self.replies = replies or {}
        self.errors = errors or {}
        self.pause = pause
        self.asked: list[Request] = []

    def answer(self, requests: Iterable[Request]) -> Iterator[Answer]:
        for request in requests:
            if self.most is not None and len(self.asked) >= self.most:
                return
            self.asked.append(request)
            time.sleep(self.pause)
            path = request.media[0].path
            error = next((error for part, error in self.errors.items() if part in path), None)
            question = request.question.split("\n", 1)[1]
            text = self.replies.get(question, question.replace("question", "answer").replace("?", ""))
            if error is not None:
                yield Answer.failed(request.id, f"{path}: {error}", self.open)
            else:
                yield Answer(request.id, f" {text} </s>", (1, 2), "eos")

    @property
    def questions(self) -> list[str]:
        return [request.question.split("\n", 1)[1] for request in self.asked]


def stub_protocol(blind: bool = False, **overrides: Any) -> Protocol:
    protocol = BENCHMARKS["world_qa"].protocol(prompt_format="stub", stop=("</s>",), blind=blind)
    return protocol.with_overrides(overrides, "test")


def quiet_predict(
    engine: Any, questions: QuestionSet, protocol: Protocol, run_dir: Path, *, limit: int | None = None, **options: Any
) -> PredictionSummary:
    """`predict` without a display; options are fields of `Answerer` and `Session`."""
    of_session = {field.name: options.pop(field.name) for field in fields(Session) if field.name in options}
    answerer = Answerer(**{"checkpoint": CHECKPOINT, **options})
    return predict(
        engine, questions, protocol, run_dir, answerer, Session(**{"progress": False, **of_session}), limit=limit
    )


def stub_run(
    data: Path, run_dir: Path, engine: StubEngine | None = None, protocol: Protocol | None = None, **options: Any
) -> PredictionSummary:
    """Predict with the stub engine."""
    questions = BENCHMARKS["world_qa"].load(data)
    return quiet_predict(engine or StubEngine(), questions, protocol or stub_protocol(), run_dir, **options)


def records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def write_video(path: Path, colour: tuple[int, int, int], frames: int = 8, size: int = 64) -> None:
    """A real video of one colour with a white square that moves."""
    import av
    import numpy as np

    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=8)
        stream.width = stream.height = size
        stream.pix_fmt = "yuv420p"
        for number in range(frames):
            pixels = np.full((size, size, 3), colour, np.uint8)
            start = number * (size - 16) // frames
            pixels[24:40, start : start + 16] = 255
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
