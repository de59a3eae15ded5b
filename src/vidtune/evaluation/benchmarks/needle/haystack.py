"""Needle in a haystack: a picture stands somewhere in a long video; what does it show?

Zhang et al., Long Context Transfer from Language to Vision, arXiv:2406.16852, with the grid of VideoChat-Flash
(arXiv:2501.00574): 1000 to 10 000 frames; one picture at six depths, or several that tell of each other (multi-hop), at
equal distances, the first before the video and the last behind it. The test set is ``haystack.json`` beside the video
and the pictures::

    {"video": "movie.mp4", "seconds": 7200, "needles": [
        {"image": "1.png", "question": "...", "answer": "..."},
        {"images": ["2.png", "3.png"], "question": "...", "caption": "...", "answer": "..."}]}

with ``lengths`` (in frames) and ``depths`` in the place of the published grid. The video is read as clips of
`Haystack.clip_frames` frames, so that a tower that encodes short groups of frames sees what it sees in the whole video;
the pictures stand between clips. Stored features of the clips, ``features/<stream>/<clip>.safetensors`` (0000 is the
first clip of the longest haystack), are read where all are there: then the video is neither decoded nor encoded.

One needle is right if the answer begins with the reference, without case and round brackets; of several, the answer has
to begin with the caption and to end with the answer. The published scripts compare, token by token, what the model
predicts after the true beginning of the answer; a greedy answer begins with the reference where all of them agree.
Every length and depth is a type of its own.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from vidtune.data.sample import MediaRef
from vidtune.errors import UserError
from vidtune.evaluation.benchmarks.measured import Item, Measured, MeasuredBenchmark
from vidtune.evaluation.benchmarks.test_set_files import field_of, read_annotations
from vidtune.evaluation.metrics.base import MetricValues, TaskValues, join
from vidtune.evaluation.outcome import Metric
from vidtune.evaluation.protocol import FileLookup, GenerationRules, Protocol
from vidtune.evaluation.question import Question, QuestionSet

FILE = "haystack.json"
LENGTHS = tuple(range(1000, 10_001, 1000))
DEPTHS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
PUBLISHED_CLIP = 200
IMAGE = "image"
"""Stream of the pictures."""
SINGLE, CAPTION, ANSWER, BOTH = "accuracy", "caption", "answer", "both"
LOOKUP = FileLookup(folder="", extensions=("",))
GENERATION = GenerationRules(max_new_tokens=64)


@dataclass(frozen=True, slots=True)
class Needle:
    """Pictures, a question about them and what is right; ``caption`` is empty where there is one picture."""

    images: tuple[str, ...]
    question: str
    caption: str
    answer: str


@dataclass(frozen=True, slots=True)
class Cell:
    """A length in frames and a depth; the clips of that length, and the place of the depth among them."""

    length: int
    depth: float
    clips: tuple[MediaRef, ...]
    at: int


@dataclass(frozen=True)
class Haystack(MeasuredBenchmark):
    """One kind of needles.

    Args:
        hops: a needle is several pictures that tell of each other.
        clip_frames: frames of one clip of the haystack; lengths and depths are whole numbers of clips.
    """

    name: str
    title: str
    source: str
    hops: bool
    clip_frames: int = PUBLISHED_CLIP
    lookup: FileLookup = LOOKUP
    generation: GenerationRules = GENERATION
    version: int = 1
    system_rules: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def load(self, data: Path) -> QuestionSet:
        """Read the set: every needle at every depth of every length.

        Args:
            data: ``haystack.json``, or its folder.

        Raises:
            UserError: the file or a picture is missing, or an entry has the wrong form; names file, entry and key.
        """
        path = (data if data.is_file() else data / FILE).resolve()
        if not path.is_file():
            raise UserError(f"{data}: no {FILE} here; give the folder that holds it, a long video and pictures")
        value, content = read_annotations(path)
        if not isinstance(value, dict):
            raise UserError(f"{path}: expected an object, found {type(value).__name__}")
        needles = [one for one in _needles(path, value) if (len(one.images) > 1) == self.hops]
        if not needles:
            raise UserError(f"{path}: 'needles' holds none of {'several images' if self.hops else 'one image'}")
        lengths, depths = _grid(path, value, self.clip_frames)
        depths = depths if not self.hops else [0.0]  # several stand from the start of the video to its end
        clips = self._clips(path, value, max(lengths))
        cells = [
            Cell(length, depth, tuple(clips[: length // self.clip_frames]), int(depth * length) // self.clip_frames)
            for length in lengths
            for depth in depths
        ]
        asked = [(cell, number, needle) for cell in cells for number, needle in enumerate(needles)]
        questions = (_question(index, value["video"], *one) for index, one in enumerate(asked))
        fingerprint = hashlib.sha256(content).hexdigest()[:16]
        return QuestionSet(self.name, path.parent, fingerprint, tuple(questions))

    def _clips(self, path: Path, value: Mapping[str, Any], frames: int) -> list[MediaRef]:
        """The clips of the longest haystack."""
        video = _below(path, "video", field_of(path, 0, value, "video", (str,)))
        seconds = field_of(path, 0, value, "seconds", (int, float))
        if seconds <= 0:
            raise UserError(f"{path}: 'seconds' is {seconds}, expected the length of the video that is used")
        count = frames // self.clip_frames
        edges = [seconds * place / count for place in range(count + 1)]
        stream = Protocol.model_fields["stream"].default
        folder = path.parent / "features" / stream
        files = [folder / f"{place:04d}.safetensors" for place in range(count)]
        stored = [((stream, str(file)),) for file in files] if all(file.is_file() for file in files) else [()] * count
        return [
            MediaRef(stream, video, own, start=start, end=end)
            for own, start, end in zip(stored, edges[:-1], edges[1:], strict=True)
        ]

    def protocol(self, **rules: Any) -> Protocol:
        own = {"num_frames": self.clip_frames}
        return super().protocol(**{**rules, "preprocessing": {**own, **(rules.get("preprocessing") or {})}})

    def further_rules(self) -> dict[str, Any]:
        return {"question_media": {IMAGE: {}}}

    @property
    def metrics(self) -> tuple[Metric, ...]:
        names = (BOTH, CAPTION, ANSWER) if self.hops else (SINGLE,)
        return tuple(Metric(name, None, right_or_wrong=True) for name in names)

    @property
    def measuring(self) -> dict[str, Any]:
        return {"right": "caption first, answer last" if self.hops else "answer first"}

    def measure(self, items: Sequence[Item]) -> Measured:
        kinds = list(dict.fromkeys(item.type for item in items))
        of = {kind: [item for item in items if item.type == kind] for kind in kinds}
        return Measured(
            {kind: self._scored(mine, strict=False) for kind, mine in of.items()},
            {kind: self._scored(mine, strict=True) for kind, mine in of.items()},
        )

    def _scored(self, items: Sequence[Item], strict: bool) -> TaskValues[int]:
        answers = {item.index: item.pred for item in items if item.pred is not None}
        truths = {item.index: item.reference for item in items}
        joined = join(answers, truths, strict)
        rows = np.array([_right(answers.get(one, ""), truths[one]) for one in joined.ids], float).reshape(-1, 2)
        values = {CAPTION: rows[:, 0], ANSWER: rows[:, 1], BOTH: rows.min(axis=1, initial=1.0)}
        if not self.hops:
            values = {SINGLE: values[BOTH]}
        metrics = {name: MetricValues.mean(column) for name, column in values.items()}
        return TaskValues(joined.ids, joined.missing, joined.unknown, (), metrics)


def _right(answer: str, reference: Mapping[str, Any]) -> tuple[bool, bool]:
    """Whether an answer begins with the caption, and ends with what was asked for; one part alone has to begin it."""
    said, caption, right = (_plain(text) for text in (answer, reference["caption"], reference["answer"]))
    if not caption:
        return (_begins(said, right),) * 2
    return _begins(said, caption), _begins(said[::-1], right[::-1])


def _begins(text: str, part: str) -> bool:
    """Whether a text begins with whole words."""
    return text.startswith(part) and not (part[-1:].isalnum() and text[len(part) : len(part) + 1].isalnum())


def _plain(text: str) -> str:
    return " ".join(re.sub(r"[()]", "", text.lower()).split())


def _question(index: int, video: str, cell: Cell, number: int, needle: Needle) -> Question:
    """The question about a needle: one picture at the depth, or several at equal distances from start to end."""
    clips, hops = cell.clips, len(needle.images)
    places = [len(clips) * hop // (hops - 1) for hop in range(hops)] if hops > 1 else [cell.at]
    media: list[MediaRef] = []
    for place in range(len(clips) + 1):
        media += [MediaRef(IMAGE, image) for image, where in zip(needle.images, places, strict=True) if where == place]
        media += clips[place : place + 1]
    kind = f"{cell.length} frames" + (f", depth {cell.depth:g}" if hops == 1 else "")
    return Question(
        index=index,
        id=f"{kind}, needle {number}",
        video=needle.images[0],
        file=video,
        question=needle.question,
        answer=f"{needle.caption} {needle.answer}".strip(),
        type=kind,
        reference={"caption": needle.caption, "answer": needle.answer},
        media=tuple(media),
        media_alone=True,
    )


def _needles(path: Path, value: Mapping[str, Any]) -> list[Needle]:
    found = []
    for index, entry in enumerate(field_of(path, 0, value, "needles", (list,))):
        several = isinstance(entry, dict) and "images" in entry
        key, kind = ("images", list) if several else ("image", str)
        named = field_of(path, index, entry, key, (kind,))
        images = named if several else [named]
        if not images or not all(isinstance(image, str) for image in images):
            raise UserError(f"{path}: entry {index}: 'images' is {images!r}, expected paths of pictures")
        texts = [field_of(path, index, entry, name, (str,)) for name in ("question", "answer")]
        caption = field_of(path, index, entry, "caption", (str,)) if len(images) > 1 else ""
        if not all(_plain(text) for text in (*texts, *([caption] if len(images) > 1 else []))):
            raise UserError(f"{path}: entry {index}: 'question', 'answer' or 'caption' is empty")
        found.append(Needle(tuple(_below(path, "image", image) for image in images), texts[0], caption, texts[1]))
    return found


def _grid(path: Path, value: Mapping[str, Any], clip: int) -> tuple[list[int], list[float]]:
    """Lengths in frames, and depths. Raises UserError for what is not a whole number of clips."""
    lengths, depths = value.get("lengths", list(LENGTHS)), value.get("depths", list(DEPTHS))
    for name, numbers, fits in (
        ("lengths", lengths, lambda one: isinstance(one, int) and one > 0 and one % clip == 0),
        ("depths", depths, lambda one: isinstance(one, int | float) and 0 <= one <= 1),
    ):
        right = isinstance(numbers, list) and not any(isinstance(one, bool) or not fits(one) for one in numbers)
        if not right or not numbers:
            expected = f"multiples of {clip} frames" if name == "lengths" else "numbers from 0 to 1"
            raise UserError(f"{path}: {name!r} is {numbers!r}, expected a list of {expected}")
    return list(dict.fromkeys(lengths)), list(dict.fromkeys(depths))


def _below(path: Path, key: str, name: str) -> str:
    """A file of the test set, as its path below the folder. Raises UserError where it is not there."""
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise UserError(f"{path}: {key} {name!r} leaves the folder of the test set; use a path in it")
    if not (path.parent / name).exists():
        raise UserError(f"{path}: {key} {name!r} does not exist")
    return name


# The published scripts write neither a line end nor a message about times between media and question.
_RULES = {"videochat_flash": {"prompt_format": "qwen_2_bare", "preprocessing": {"min_frames": PUBLISHED_CLIP}}}
_SOURCE = "Zhang et al., Long Context Transfer from Language to Vision, arXiv:2406.16852; grid of arXiv:2501.00574"
NEEDLE = Haystack("needle", "Needle in a haystack", _SOURCE, hops=False, system_rules=_RULES)
NEEDLE_MULTI_HOP = Haystack(
    "needle_multi_hop", "Needle in a haystack, several hops", _SOURCE, hops=True, system_rules=_RULES
)
