"""Charades-STA: when does the described event happen? Answers name start and end in seconds.

Gao et al., TALL: Temporal Activity Localization via Language Query, ICCV 2017, arXiv:1705.02101, as VideoChat-Flash
(arXiv:2501.00574) and lmms-eval ask it. The test set is a JSON list, JSON lines, or the original text file of lines
such as ``3MSZA 24.3 30.4##person turn a light on.``; videos are in ``Charades_v1_480/``.

========  ==================================================================================================
official  one answer per video, sentence and time: of questions that are equal in all three the last one counts
strict    every question; one without an answer counts as an empty one
========  ==================================================================================================

`CHARADES` is as the authors of VideoChat-Flash evaluate, `CHARADES_LMMS_EVAL` as lmms-eval 0.7 does. They differ in how
the interval is read from an answer (`reading`), and in the number of frames for VideoChat-Flash.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from vidtune.errors import UserError
from vidtune.evaluation.benchmarks.measured import Item, Measured, MeasuredBenchmark
from vidtune.evaluation.benchmarks.multiple_choice.base import AUTHORS_FRAMES, LMMS_EVAL_FRAMES
from vidtune.evaluation.benchmarks.named_files import VideoFiles
from vidtune.evaluation.benchmarks.temporal_grounding.reading import first_pair, first_pair_of_sentences
from vidtune.evaluation.benchmarks.test_set_files import LARGEST, field_of, read_list, text_and_bytes
from vidtune.evaluation.metrics.base import TaskValues
from vidtune.evaluation.metrics.grounding import Interval, score_grounding
from vidtune.evaluation.outcome import Metric
from vidtune.evaluation.protocol import FileLookup, GenerationRules
from vidtune.evaluation.question import Prediction, Question, QuestionSet

GROUNDING = "grounding"
FILES = tuple(f"charades_sta_test.{extension}" for extension in ("json", "jsonl", "txt"))
FOLDERS = ("", "Charades", "charades_sta")
TEMPLATE = (
    "Please find the visual event described by a sentence in the video, determining its starting and ending times. "
    "The format should be: 'The event happens in the start time - end time'. For example, The event 'person turn a "
    "light on' happens in the 24.3 - 30.4 seonds. Now I will give you the textual sentence: {question}. Please return "
    "its start time and end time."
)
LOOKUP = FileLookup(folder="Charades_v1_480", extensions=("", ".mp4", ".avi", ".mkv", ".webm"))
GENERATION = GenerationRules(max_new_tokens=50)
METRICS = (
    Metric("mIoU", GROUNDING, of_one="IoU"),
    Metric("R1@0.3", GROUNDING),
    Metric("R1@0.5", GROUNDING),
    Metric("R1@0.7", GROUNDING),
)
_LINE = re.compile(r"(\S+) (\d+(?:\.\d+)?) (\d+(?:\.\d+)?)##(.+)")


@dataclass(frozen=True)
class TimedSentences(MeasuredBenchmark):
    """A set of sentences, each about some seconds of a video.

    Args:
        read: reads the interval in an answer, in seconds.
    """

    name: str
    title: str
    source: str
    read: Callable[[str], Interval | None]
    system_rules: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    lookup: FileLookup = LOOKUP
    generation: GenerationRules = GENERATION
    version: int = 1
    official_file: str = "temporal_grounding_charades.json"

    @property
    def metrics(self) -> tuple[Metric, ...]:
        return METRICS

    def load(self, data: Path) -> QuestionSet:
        """Read the set.

        Args:
            data: annotation file, its folder, or one above it.

        Raises:
            UserError: no such file, or an entry of the wrong form; names file, entry and key.
        """
        path = _find(Path(data), self.title).resolve()
        entries, content = _read_lines(path) if path.suffix == ".txt" else read_list(path)
        if not entries:
            raise UserError(f"{path}: holds no sentence")
        read = [_checked(path, index, entry) for index, entry in enumerate(entries)]
        files = VideoFiles(self.lookup, path.parent, {entry["video"]: (str(path), "video") for entry in read}).found
        questions = tuple(
            Question(
                index=index,
                id=str(index),
                video=entry["video"],
                question=entry["caption"],
                answer="The event happens in the {} - {} seconds.".format(*entry["timestamp"]),
                type=GROUNDING,
                reference={"sentence": entry["caption"], "timestamp": entry["timestamp"]},
                **asdict(files[entry["video"]]),
            )
            for index, entry in enumerate(read)
        )
        return QuestionSet(self.name, path.parent, hashlib.sha256(content).hexdigest()[:16], questions)

    def further_rules(self) -> dict[str, Any]:
        return {"templates": {GROUNDING: TEMPLATE}}

    @property
    def measuring(self) -> dict[str, Any]:
        return {"reading": self.read.__name__}

    def measure(self, items: Sequence[Item]) -> Measured:
        last = {_key(item.video, item.reference): item for item in items if item.pred is not None}
        official, strict = self._scored([*last.values()], strict=False), self._scored(items, strict=True)
        return Measured({GROUNDING: official}, {GROUNDING: strict})

    def _scored(self, items: Sequence[Item], strict: bool) -> TaskValues[int]:
        return score_grounding(
            {item.index: item.pred for item in items if item.pred is not None},
            {item.index: tuple(item.reference["timestamp"]) for item in items},
            strict=strict,
            read=self.read,
            decimals=None,
        )

    def official_files(
        self, predictions: Sequence[Prediction], references: Mapping[int, Mapping[str, Any]]
    ) -> Iterator[tuple[str, str]]:
        answered = [one for one in predictions if one.error is None]
        yield self.official_file, json.dumps({_key(one.video, references[one.index]): one.pred for one in answered})


def _key(video: str, reference: Mapping[str, Any]) -> str:
    """The key under which published scripts gather answers; times stand there as Python writes them: 10 is not 10.0."""
    return f"{video}>>>{reference['sentence']}>>>{reference['timestamp']}"


def _find(data: Path, title: str) -> Path:
    if data.is_file():
        return data
    for place in (data / folder / name for folder in FOLDERS for name in FILES):
        if place.is_file():
            return place
    raise UserError(
        f"{data}: no {', '.join(FILES[:-1])} or {FILES[-1]} here; give the file, or the folder that holds the {title} "
        "annotations and videos"
    )


def _read_lines(path: Path) -> tuple[list[Any], bytes]:
    """The entries of the original text file."""
    text, content = text_and_bytes(path)
    entries = []
    for number, line in enumerate(text.splitlines(), start=1):
        found = _LINE.fullmatch(line.strip())
        if found is None and line.strip():
            raise UserError(f"{path}: line {number}: expected 'VIDEO START END##SENTENCE', found {line.strip()[:80]!r}")
        if found is not None:
            video, start, end, sentence = found.groups()
            entries.append({"video": f"{video}.mp4", "caption": sentence, "timestamp": [float(start), float(end)]})
    return entries, content


def _checked(path: Path, index: int, entry: Any) -> dict[str, Any]:
    """An entry with its video, caption and interval. Raises UserError where it has none."""
    found = {name: field_of(path, index, entry, name, (str,)) for name in ("video", "caption")}
    times = field_of(path, index, entry, "timestamp", (list,))
    numbers = [time for time in times if isinstance(time, int | float) and not isinstance(time, bool)]
    if len(times) != 2 or len(numbers) != 2 or not 0 <= numbers[0] <= numbers[1] <= LARGEST:
        raise UserError(f"{path}: entry {index}: 'timestamp' is {times!r}, expected [start, end] in seconds")
    if not found["caption"].strip():
        raise UserError(f"{path}: entry {index}: 'caption' is empty")
    return {**found, "timestamp": numbers}


_SOURCE = "Gao et al., TALL: Temporal Activity Localization via Language Query, ICCV 2017, arXiv:1705.02101"
CHARADES = TimedSentences(
    "charades_sta",
    "Charades-STA",
    f"{_SOURCE}; asked as by VideoChat-Flash, arXiv:2501.00574",
    read=first_pair,
    system_rules=AUTHORS_FRAMES,
)
CHARADES_LMMS_EVAL = TimedSentences(
    "charades_sta_lmms_eval",
    "Charades-STA, as lmms-eval asks",
    f"{_SOURCE}; asked as by lmms-eval 0.7, task temporal_grounding_charades",
    read=first_pair_of_sentences,
    system_rules=LMMS_EVAL_FRAMES,
)
