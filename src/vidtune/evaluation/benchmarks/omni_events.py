"""Benchmarks about the events of videos: captioning of a whole video, grounding and captioning of each event.

A test set is an annotation file, ``{video: {duration, timestamps: [[start, end], ...], sentences: [...]}}`` or a list
of such objects with ``id``, and videos ``videos/<id>.<extension>`` beside it, or stored features. Times are in seconds;
in questions and answers they are percent of the duration in two digits, 00 to 99.

The metrics and the parsing of answers are in `evaluation.metrics`. Answers and annotations are joined by video and
sentence, never by position.
"""

import hashlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from vidtune.errors import UserError
from vidtune.evaluation.benchmarks.base import OfficialAnswer
from vidtune.evaluation.benchmarks.measured import Item, Measured, MeasuredBenchmark
from vidtune.evaluation.benchmarks.named_files import Named, VideoFiles
from vidtune.evaluation.benchmarks.test_set_files import value_and_bytes
from vidtune.evaluation.metrics.base import CaptionMetric, TaskValues
from vidtune.evaluation.metrics.bleu import bleu_of_sums
from vidtune.evaluation.metrics.dense_captions import TimedSentence, Truth, score_dense_captions
from vidtune.evaluation.metrics.grounding import interval_iou, parse_interval, score_grounding
from vidtune.evaluation.metrics.programs.meteor import Meteor, meteor_of_sums, meteor_problem
from vidtune.evaluation.metrics.segment_captions import score_segment_captions
from vidtune.evaluation.metrics.tokenizer import TokenizerName
from vidtune.evaluation.outcome import Metric
from vidtune.evaluation.protocol import FileLookup, GenerationRules
from vidtune.evaluation.question import Prediction, Question, QuestionSet
from vidtune.processing.times import time_rule

CAPTIONING, GROUNDING, SEG_CAPTIONING = "captioning", "grounding", "seg_captioning"
LOOKUP = FileLookup(folder="videos", extensions=(".mp4", ".avi", ".mov", ".mkv", ".webm"))
TOKENIZER: TokenizerName = "ptb"
METEOR_METRICS = ("SODA_c", "METEOR")
CIDER_HIGHEST = 10.0
METRICS = (
    Metric("SODA_c", CAPTIONING, of_one="SODA_c"),
    Metric("CIDEr", CAPTIONING, highest=CIDER_HIGHEST, of_one="CIDEr"),
    Metric("METEOR", CAPTIONING),
    Metric("mIoU", GROUNDING, of_one="IoU"),
    Metric("R1@0.3", GROUNDING),
    Metric("R1@0.5", GROUNDING),
    Metric("R1@0.7", GROUNDING),
    Metric("BLEU4", SEG_CAPTIONING, from_sums=bleu_of_sums(4)),
    Metric("METEOR", SEG_CAPTIONING, of_one="METEOR", from_sums=meteor_of_sums),
    Metric("Rouge", SEG_CAPTIONING, of_one="Rouge"),
    Metric("CIDEr", SEG_CAPTIONING, highest=CIDER_HIGHEST, of_one="CIDEr"),
)


@dataclass(frozen=True)
class AnnotatedEvent:
    """One event of a video; times in seconds. Published annotations contain events that end after the video does."""

    start: float
    end: float
    sentence: str


@dataclass(frozen=True)
class AnnotatedVideo:
    """A video with its events, in the order of the file."""

    id: str
    duration: float
    events: tuple[AnnotatedEvent, ...]

    def percents(self, event: AnnotatedEvent) -> tuple[str, str]:
        """Returns start and end of an event as they are written in a query."""
        write = time_rule("percent").write
        return write(event.start, self.duration), write(event.end, self.duration)


def grounding_sentence(sentence: str) -> str:
    """Returns a sentence as it is written in a grounding query."""
    return sentence.strip().lower().removesuffix(".")


@dataclass(frozen=True)
class OmniEvents(MeasuredBenchmark):
    """One test set, or one task of it.

    Args:
        annotations: name of the annotation file.
        folder: its folder, relative to a folder of data sets.
        templates: task -> query.
        tasks: tasks that are asked, in their order within a video.
    """

    name: str
    title: str
    source: str
    annotations: str
    folder: str
    templates: Mapping[str, str]
    tasks: tuple[str, ...]
    generation: GenerationRules
    lookup: FileLookup = LOOKUP
    version: int = 1
    official_file: str = "log.jsonl"
    system_rules: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def metrics(self) -> tuple[Metric, ...]:
        return tuple(metric for task in self.tasks for metric in METRICS if metric.type == task)

    def load(self, data: Path) -> QuestionSet:
        """Read the set: per video captioning, then grounding of every event, then captioning of every event.

        Args:
            data: annotation file, its folder, or one above it.

        Raises:
            UserError: no such file, broken JSON (names line and column), or an invalid annotation (names file, video
                and number of the event).
        """
        path = self._find(Path(data)).resolve()
        value, content = value_and_bytes(path)
        questions: list[Question] = []
        videos = read_videos(path, value)
        files = VideoFiles(self.lookup, path.parent, {video.id: (str(path), "video") for video in videos}).found
        for video in videos:
            for task in self.tasks:
                questions += self._questions(task, video, files[video.id], len(questions))
        fingerprint = hashlib.sha256(content).hexdigest()[:16]
        return QuestionSet(self.name, path.parent, fingerprint, tuple(questions))

    def further_rules(self) -> dict[str, Any]:
        return {"templates": {task: self.templates[task] for task in self.tasks}}

    @property
    def every_answer_counts(self) -> tuple[str, ...]:
        return (GROUNDING,)

    @property
    def measuring(self) -> dict[str, Any]:
        return {"tokenizer": TOKENIZER, "meteor": None if meteor_problem() else "1.5"}

    def measure(self, items: Sequence[Item]) -> Measured:
        needing = [metric.name for metric in self.metrics if metric.name in METEOR_METRICS]
        if not needing:
            return self._measured(items, None)
        problem = meteor_problem()
        if problem is None:
            try:
                with Meteor() as program:
                    return self._measured(items, program.scores)
            except UserError as error:  # the program ended; all that needs no METEOR is measured all the same
                problem = str(error)
        return replace(self._measured(items, None), left_out=dict.fromkeys(needing, problem))

    def _measured(self, items: Sequence[Item], meteor: CaptionMetric | None) -> Measured:
        by_task = {task: [item for item in items if item.type == task] for task in self.tasks}
        official = {task: _score(mine, task, meteor, strict=False) for task, mine in by_task.items()}
        strict = {
            task: _score(mine, task, meteor, strict=True) if official[task].missing else official[task]
            for task, mine in by_task.items()
        }
        return Measured(official, strict)

    def official_records(
        self, predictions: Sequence[Prediction], references: Mapping[int, Mapping[str, Any]]
    ) -> Iterator[dict[str, Any]]:
        """Yields the answered questions as the published script logs them."""
        for prediction in predictions:
            if prediction.error is not None:
                continue
            reference = references[prediction.index]
            record: dict[str, Any] = {"video_id": prediction.video, "task": prediction.type, "query_id": 0}
            record["answer"] = prediction.pred
            if prediction.type != CAPTIONING:
                record["info"] = {"sentence_id": reference["sentence_id"]}
            if prediction.type == GROUNDING:
                found = parse_interval(prediction.pred)
                record["info"]["iou"] = round(interval_iou(found, _interval(reference)), 2) if found else 0
            yield record

    def from_official(self, record: Mapping[str, Any]) -> OfficialAnswer | None:
        # The published scorer of grounding looks at the first of several queries only.
        if record["task"] == GROUNDING and record.get("query_id", 0) not in (0, "0"):
            return None
        name = f"{record['video_id']}/{record['task']}"
        if record["task"] != CAPTIONING:
            name += f"/{record['info']['sentence_id']}"
        return OfficialAnswer((name,), record["answer"])

    def _find(self, data: Path) -> Path:
        candidates = (data, data / self.annotations, data / self.folder / self.annotations)
        for candidate in candidates:
            if candidate.is_file():
                return candidate
        raise UserError(
            f"{data}: no {self.annotations} here or in {self.folder}/; give the folder that holds the {self.title} "
            "annotations, or the file"
        )

    def _questions(self, task: str, video: AnnotatedVideo, found: Named, index: int) -> Iterator[Question]:
        common: dict[str, Any] = {"video": video.id, "type": task, **asdict(found)}
        if task == CAPTIONING:
            lines = (f"From {' to '.join(video.percents(event))}, {event.sentence.strip()}" for event in video.events)
            reference = {
                "duration": video.duration,
                "timestamps": [[event.start, event.end] for event in video.events],
                "sentences": [event.sentence for event in video.events],
            }
            yield Question(
                index=index,
                id=f"{video.id}/{task}",
                question="",
                answer="\n".join(lines),
                reference=reference,
                **common,
            )
            return
        for number, event in enumerate(video.events):
            start, end = video.percents(event)
            yield Question(
                index=index + number,
                id=f"{video.id}/{task}/{number}",
                question=grounding_sentence(event.sentence),
                answer=f"From {start} to {end}." if task == GROUNDING else event.sentence.strip(),
                fields={"start": start, "end": end},
                reference={
                    "sentence_id": number,
                    "duration": video.duration,
                    "timestamps": [event.start, event.end],
                    "sentence": event.sentence,
                },
                **common,
            )


def read_videos(path: Path, value: Any) -> list[AnnotatedVideo]:
    """Returns the videos of an annotation file, after checking them.

    Args:
        path: the file, for error messages.
        value: its JSON value.

    Raises:
        UserError: invalid annotation; names file, video and number of the event.
    """
    if isinstance(value, dict):
        entries = list(value.items())
    elif isinstance(value, list):
        entries = [(entry.get("id") if isinstance(entry, dict) else None, entry) for entry in value]
    else:
        raise UserError(f"{path}: expected an object or a list of objects, found {type(value).__name__}")
    if not entries:
        raise UserError(f"{path}: holds no video")
    videos: dict[str, AnnotatedVideo] = {}
    for place, (name, entry) in enumerate(entries):
        if not isinstance(name, str) or not name:
            raise UserError(f"{path}: entry {place} has no 'id' that names its video")
        if name in videos:
            raise UserError(f"{path}: video {name!r} stands there twice")
        videos[name] = _read_video(f"{path}: video {name!r}", name, entry)
    return list(videos.values())


def _read_video(where: str, name: str, entry: Any) -> AnnotatedVideo:
    if not isinstance(entry, dict):
        raise UserError(f"{where} is {type(entry).__name__}, expected an object")
    for key in ("duration", "timestamps", "sentences"):
        if key not in entry:
            raise UserError(f"{where} has no {key!r}")
    duration, times, sentences = entry["duration"], entry["timestamps"], entry["sentences"]
    if not _is_number(duration) or duration <= 0:
        raise UserError(f"{where}: duration is {duration!r}, expected seconds above 0")
    if not isinstance(times, list) or not isinstance(sentences, list) or len(times) != len(sentences):
        raise UserError(f"{where}: 'timestamps' and 'sentences' must be lists of the same length")
    if not times:
        raise UserError(f"{where} has no event")
    events = []
    for number, (span, sentence) in enumerate(zip(times, sentences, strict=True)):
        event = f"{where}: event {number}"
        if not isinstance(span, list) or len(span) != 2 or not all(map(_is_number, span)):
            raise UserError(f"{event}: timestamps are {span!r}, expected [start, end] in seconds")
        if not isinstance(sentence, str) or not sentence.strip():
            raise UserError(f"{event}: the sentence is {'empty' if isinstance(sentence, str) else repr(sentence)}")
        start, end = span
        if end < start:
            raise UserError(f"{event}: ends at {end} s, before it starts at {start} s")
        if start < 0:
            raise UserError(f"{event}: starts at {start} s, before the video")
        events.append(AnnotatedEvent(start, end, sentence))
    return AnnotatedVideo(name, duration, tuple(events))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def _interval(reference: Mapping[str, Any]) -> tuple[float, float]:
    """Start and end of an event as fractions of the duration."""
    start, end = (time / reference["duration"] for time in reference["timestamps"])
    return start, end


def _score(items: Sequence[Item], task: str, meteor: CaptionMetric | None, strict: bool) -> TaskValues[int]:
    answers = {item.index: item.pred for item in items if item.pred is not None}
    references = {item.index: item.reference for item in items}
    if task == GROUNDING:
        intervals = {index: _interval(reference) for index, reference in references.items()}
        return score_grounding(answers, intervals, strict=strict)
    if task == SEG_CAPTIONING:
        sentences = {index: reference["sentence"] for index, reference in references.items()}
        return score_segment_captions(answers, sentences, meteor=meteor, tokenizer=TOKENIZER, strict=strict)
    truths = {index: _truth(reference) for index, reference in references.items()}
    return score_dense_captions(answers, truths, meteor=meteor, tokenizer=TOKENIZER, strict=strict)


def _truth(reference: Mapping[str, Any]) -> Truth:
    spans = zip(reference["timestamps"], reference["sentences"], strict=True)
    return Truth(reference["duration"], tuple(TimedSentence(start, end, sentence) for (start, end), sentence in spans))
