"""Small sets of annotated events, engines that answer about them without a model, and runs made of both."""

import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from qa_sets import quiet_predict

from vidtune.evaluation.predict import PredictionSummary
from vidtune.evaluation.protocol import Protocol
from vidtune.generation.settings import Answer, Request
from vidtune.registry import BENCHMARKS

EVENTS = {
    "v1": {
        "duration": 100.0,
        "timestamps": [[0, 20], [20, 60], [55, 100]],
        "sentences": ["A man walks into the room.", "He talks to a woman while music plays.", "They leave the house."],
    },
    "v2": {"duration": 30, "timestamps": [[10, 30], [0, 10]], "sentences": ["The dog barks loudly.", "A car stops."]},
    "v3": {"duration": 50, "timestamps": [[5, 25]], "sentences": ["A bell rings twice."]},
}
QUESTIONS = 15


def write_events(folder: Path, annotations: Any = None, missing: Sequence[str] = ()) -> Path:
    """An annotation file with empty video files, except those ``missing``."""
    annotations = EVENTS if annotations is None else annotations
    (folder / "videos").mkdir(parents=True, exist_ok=True)
    (folder / "annotations.json").write_text(json.dumps(annotations))
    for video in annotations:
        if isinstance(video, str) and video not in missing:
            (folder / "videos" / f"{video}.mp4").touch()
    return folder


def many_events(videos: int, events: int) -> dict[str, Any]:
    """Annotations of videos with distinct events of 10 s."""
    return {
        f"clip{video:03d}": {
            "duration": 10.0 * events,
            "timestamps": [[10.0 * event, 10.0 * event + 10] for event in range(events)],
            "sentences": [f"Thing {video} number {event} happens." for event in range(events)],
        }
        for video in range(videos)
    }


class Perfect:
    """Gives the reference answer of every question.

    Args:
        replies: question id -> another reply.
        errors: part of a media path -> error of every request about it.
        pause: seconds per answer.
    """

    def __init__(
        self,
        questions: Sequence[Any],
        replies: Mapping[str, str] | None = None,
        errors: Mapping[str, str] | None = None,
        pause: float = 0.0,
    ) -> None:
        self.questions = {str(question.index): question for question in questions}
        self.replies = replies or {}
        self.errors = errors or {}
        self.pause = pause
        self.asked: list[Request] = []

    def answer(self, requests: Iterable[Request]) -> Iterator[Answer]:
        for request in requests:
            self.asked.append(request)
            time.sleep(self.pause)
            question = self.questions[request.id]
            error = next((error for part, error in self.errors.items() if part in request.media[0].path), None)
            if error is not None:
                yield Answer(request.id, "", (), "error", error)
            else:
                yield Answer(request.id, f" {self.replies.get(question.id, question.answer)}</s>", (1, 2), "eos")


class InTurn:
    """Gives these answers, one after the other."""

    def __init__(self, answers: Sequence[str]) -> None:
        self.answers = list(answers)
        self.asked: list[Request] = []

    def answer(self, requests: Iterable[Request]) -> Iterator[Answer]:
        for request in requests:
            yield Answer(request.id, self.answers[len(self.asked)], (1,), "eos")
            self.asked.append(request)


def event_protocol(name: str = "world_events", **rules: Any) -> Protocol:
    return BENCHMARKS[name].protocol(prompt_format="stub", stop=("</s>",)).model_copy(update=rules)


def event_run(
    data: Path,
    run_dir: Path,
    engine: Any = None,
    name: str = "world_events",
    *,
    replies: Mapping[str, str] | None = None,
    errors: Mapping[str, str] | None = None,
    features: Mapping[str, Path] | None = None,
    protocol: Protocol | None = None,
    **options: Any,
) -> PredictionSummary:
    """Predict with an engine that needs no model; by default every answer is the reference."""
    benchmark = BENCHMARKS[name]
    questions = benchmark.load(data)
    if features:
        questions = benchmark.with_features(questions, features, "video")
    engine = engine or Perfect(questions.questions, replies, errors)
    return quiet_predict(engine, questions, protocol or event_protocol(name), run_dir, **options)
