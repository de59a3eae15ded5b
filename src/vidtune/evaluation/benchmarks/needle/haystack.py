"""Needle in a haystack: a picture stands somewhere in a long video; what does it show?

Zhang et al., Long Context Transfer from Language to Vision, arXiv:2406.16852, with the grid of VideoChat-Flash
(arXiv:2501.00574): 1000 to 10 000 frames; one picture at six depths, or several that tell of each other (multi-hop), at
equal distances, the first before the video and the last behind it. The test set is ``haystack.json`` beside the video
and the pictures::

    {"video": "movie.mp4", "seconds": 5000, "needles": [
        {"image": "1.png", "question": "...", "answer": "A"},
        {"images": ["2.png", "3.png"], "question1": "...", "answer1": "B", "question2": "...", "answer2": "C"}]}

with ``lengths`` (in frames), ``depths`` and ``fps`` in the place of the published grid and of one frame a second. A
video of fewer ``seconds`` than the longest haystack begins anew, as where the published scripts encode half of it.

The video is read as clips of `Haystack.clip_frames` frames, so that a tower that encodes short groups of frames sees
what it sees in the whole video; the pictures stand between clips. A picture is read as a video of one frame, which
sampling repeats. Clips and pictures whose features are in the store are neither decoded nor encoded.

Answers are given (`Protocol.forced`), as in the published scripts: what the model says in the place of each of their
tokens has to be the answer, without case and round brackets. Where answers are generated, they have to begin with it.
Of several hops the first question asks what a picture shows (``cap``), the second what they tell together (``qa``).
Every length and depth is a type of its own.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from vidtune.data.sample import MediaRef
from vidtune.errors import UserError
from vidtune.evaluation.benchmarks.measured import Item, Measured, MeasuredBenchmark
from vidtune.evaluation.benchmarks.test_set_files import above_zero, field_of, is_there, value_and_bytes
from vidtune.evaluation.metrics.base import MetricValues, TaskValues, join
from vidtune.evaluation.outcome import Metric
from vidtune.evaluation.protocol import FileLookup, GenerationRules, Protocol
from vidtune.evaluation.question import Question, QuestionSet
from vidtune.foreign.containment import stays_below

FILE = "haystack.json"
LENGTHS = tuple(range(1000, 10_001, 1000))
DEPTHS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
LONGEST = 10**6
"""Frames of the longest haystack that may be asked for."""
PUBLISHED_CLIP = 40
STREAM = Protocol.model_fields["stream"].default
SINGLE, CAPTION, ANSWER, BOTH, MEAN = "accuracy", "cap", "qa", "both", "mean"
LOOKUP = FileLookup(folder="", extensions=("",))
GENERATION = GenerationRules(max_new_tokens=64)


@dataclass(frozen=True, slots=True)
class Needle:
    """Pictures, and one question about a single one, or two about several: texts with their answers."""

    images: tuple[str, ...]
    asked: tuple[tuple[str, str], ...]


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
        forced: answers are given, and are right where the model says them; else they have to begin with the reference.
    """

    name: str
    title: str
    source: str
    hops: bool
    clip_frames: int = PUBLISHED_CLIP
    forced: bool = True
    lookup: FileLookup = LOOKUP
    generation: GenerationRules = GENERATION
    version: int = 2
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
        value, content = value_and_bytes(path)
        if not isinstance(value, dict):
            raise UserError(f"{path}: expected an object, found {type(value).__name__}")
        needles = [one for one in _needles(path, value) if (len(one.images) > 1) == self.hops]
        if not needles:
            raise UserError(f"{path}: 'needles' holds none of {'several images' if self.hops else 'one image'}")
        lengths, depths = _grid(path, value, self.clip_frames)
        depths = depths if not self.hops else [0.0]  # several stand from the start of the video to its end
        fps = above_zero(path, None, value, "fps") if "fps" in value else 1.0
        clips = self._clips(path, value, max(lengths), fps)
        cells = [
            Cell(length, depth, tuple(clips[: length // self.clip_frames]), int(depth * length) // self.clip_frames)
            for length in lengths
            for depth in depths
        ]
        asked = [(cell, number, needle) for cell in cells for number, needle in enumerate(needles)]
        questions = (_question(index, value["video"], fps, *one) for index, one in enumerate(asked))
        fingerprint = hashlib.sha256(content).hexdigest()[:16]
        return QuestionSet(self.name, path.parent, fingerprint, tuple(questions))

    def _clips(self, path: Path, value: Mapping[str, Any], frames: int, fps: float) -> list[MediaRef]:
        """The clips of the longest haystack."""
        video = _below(path, "video", field_of(path, None, value, "video", (str,)))
        there = frames // self.clip_frames
        if "seconds" in value:
            seconds = above_zero(path, None, value, "seconds")
            there = min(there, int(seconds * fps) // self.clip_frames)
            if not there:
                raise UserError(
                    f"{path}: {seconds:g} seconds hold no clip of {self.clip_frames} frames at {fps:g} a second"
                )
        edges = [place * self.clip_frames / fps for place in range(there + 1)]
        clips = [MediaRef(STREAM, video, start=start, end=end) for start, end in pairwise(edges)]
        return [clips[place % there] for place in range(frames // self.clip_frames)]

    def protocol(self, **rules: Any) -> Protocol:
        own = {"num_frames": self.clip_frames}
        return super().protocol(**{**rules, "preprocessing": {**own, **(rules.get("preprocessing") or {})}})

    def with_features(self, questions: QuestionSet, folders: Mapping[str, Path], stream: str) -> QuestionSet:
        raise UserError(
            f"{self.name}: clips of a video have no feature files; fill a store of features: vidtune features extract "
            f"--checkpoint CHECKPOINT --benchmark {self.name}"
        )

    def further_rules(self) -> dict[str, Any]:
        return {"forced": self.forced}

    def under(self, protocol: Protocol) -> "Haystack":
        return replace(self, forced=protocol.forced)

    @property
    def metrics(self) -> tuple[Metric, ...]:
        if not self.hops:
            return (Metric(SINGLE, None, right_or_wrong=True),)
        return (*(Metric(name, None, right_or_wrong=True) for name in (BOTH, CAPTION, ANSWER)), Metric(MEAN, None))

    @property
    def measuring(self) -> dict[str, Any]:
        return {"right": "said in the place of the answer" if self.forced else "begins with the answer"}

    def measure(self, items: Sequence[Item]) -> Measured:
        kinds = list(dict.fromkeys(item.type for item in items))
        of = {kind: [item for item in items if item.type == kind] for kind in kinds}
        return Measured(
            {kind: self._scored(mine, strict=False) for kind, mine in of.items()},
            {kind: self._scored(mine, strict=True) for kind, mine in of.items()},
        )

    def _scored(self, items: Sequence[Item], strict: bool) -> TaskValues[int]:
        answers = {item.index: (item.pred, item.second or "") for item in items if item.pred is not None}
        truths = {item.index: item.reference["answers"] for item in items}
        joined = join(answers, truths, strict)
        none = ("", "")
        rows = np.array([self._right(answers.get(one, none), truths[one]) for one in joined.ids], float).reshape(-1, 2)
        values = {BOTH: rows.min(axis=1, initial=1.0), CAPTION: rows[:, 0], ANSWER: rows[:, 1], MEAN: rows.mean(axis=1)}
        if not self.hops:
            values = {SINGLE: rows[:, 0]}
        metrics = {name: MetricValues.mean(column) for name, column in values.items()}
        return TaskValues(joined.ids, joined.missing, joined.unknown, (), metrics)

    def _right(self, said: Sequence[str], answers: Sequence[str]) -> tuple[bool, bool]:
        """Whether the answer to the first question is right, and that to the second; of one question twice the same."""
        pairs = [(_plain(one), _plain(right)) for one, right in zip(said, answers, strict=False)]
        found = [one == right if self.forced else _begins(one, right) for one, right in pairs]
        return found[0], found[-1]


def _begins(text: str, part: str) -> bool:
    """Whether a text begins with whole words."""
    return text.startswith(part) and not (part[-1:].isalnum() and text[len(part) : len(part) + 1].isalnum())


def _plain(text: str) -> str:
    return " ".join(re.sub(r"[()]", "", text.lower()).split())


def _question(index: int, video: str, fps: float, cell: Cell, number: int, needle: Needle) -> Question:
    """The question about a needle: one picture at the depth, or several at equal distances from start to end."""
    clips, hops = cell.clips, len(needle.images)
    places = [len(clips) * hop // (hops - 1) for hop in range(hops)] if hops > 1 else [cell.at]
    media: list[MediaRef] = []
    for place in range(len(clips) + 1):
        here = [image for image, where in zip(needle.images, places, strict=True) if where == place]
        media += [*(MediaRef(STREAM, image, fps=fps) for image in here), *clips[place : place + 1]]
    kind = f"{cell.length} frames" + (f", depth {cell.depth:g}" if hops == 1 else "")
    return Question(
        index=index,
        id=f"{kind}, needle {number}",
        video=needle.images[0],
        file=video,
        question=needle.asked[0][0],
        answer=needle.asked[0][1],
        second=needle.asked[1][0] if hops > 1 else None,
        second_answer=needle.asked[1][1] if hops > 1 else None,
        type=kind,
        reference={"answers": [answer for _, answer in needle.asked]},
        media=tuple(media),
        media_alone=True,
    )


def _needles(path: Path, value: Mapping[str, Any]) -> list[Needle]:
    found = []
    for index, entry in enumerate(field_of(path, None, value, "needles", (list,))):
        several = isinstance(entry, dict) and "images" in entry
        key, kind = ("images", list) if several else ("image", str)
        named = field_of(path, index, entry, key, (kind,))
        images = named if several else [named]
        if not images or not all(isinstance(image, str) for image in images):
            raise UserError(f"{path}: entry {index}: 'images' is {images!r}, expected paths of pictures")
        if len(images) == 1 and several:
            raise UserError(f"{path}: entry {index}: 'images' holds one picture; give it as 'image'")
        keys = [("question1", "answer1"), ("question2", "answer2")] if several else [("question", "answer")]
        asked = [tuple(field_of(path, index, entry, key, (str,)) for key in pair) for pair in keys]
        if empty := [key for key, text in zip(sum(keys, ()), sum(asked, ()), strict=True) if not _plain(text)]:
            raise UserError(f"{path}: entry {index}: {empty[0]!r} is empty")
        found.append(Needle(tuple(_below(path, "image", image) for image in images), tuple(asked)))
    return found


def _grid(path: Path, value: Mapping[str, Any], clip: int) -> tuple[list[int], list[float]]:
    """Lengths in frames, and depths. Raises UserError for what is not a whole number of clips."""
    lengths, depths = value.get("lengths", list(LENGTHS)), value.get("depths", list(DEPTHS))
    for name, numbers, fits in (
        ("lengths", lengths, lambda one: isinstance(one, int) and 0 < one <= LONGEST and one % clip == 0),
        ("depths", depths, lambda one: isinstance(one, int | float) and 0 <= one <= 1),
    ):
        right = isinstance(numbers, list) and not any(isinstance(one, bool) or not fits(one) for one in numbers)
        if not right or not numbers:
            expected = f"multiples of {clip} frames, up to {LONGEST:,}," if name == "lengths" else "numbers from 0 to 1"
            raise UserError(f"{path}: {name!r} is {numbers!r}, expected a list of {expected}")
    return list(dict.fromkeys(lengths)), list(dict.fromkeys(depths))


def _below(path: Path, key: str, name: str) -> str:
    """A file of the test set, as its path below the folder. Raises UserError where it is not there."""
    if not stays_below(name):
        raise UserError(f"{path}: {key} {name!r} leaves the folder of the test set; use a path in it")
    if not is_there(path.parent / name):
        raise UserError(f"{path}: {key} {name!r} does not exist")
    return name


# The published scripts write neither a line end nor a message about times between media and question, pad frames and
# pictures to squares, take a picture as a clip of four equal frames, and scale positions by YaRN; 10 000 frames are
# 160 000 tokens, more than the factor stretches the context to.
_RULES = {
    "videochat_flash": {
        "prompt_format": "qwen_2_bare",
        "preprocessing": {"min_frames": PUBLISHED_CLIP, "multiple_of": 4, "resize": "pad_bicubic"},
        "rope": {
            "rope_type": "yarn",
            "factor": 4.0,
            "original_max_position_embeddings": 32768,
            "max_position_embeddings": 163840,
        },
    }
}
_SOURCE = "Zhang et al., Long Context Transfer from Language to Vision, arXiv:2406.16852; grid of arXiv:2501.00574"
NEEDLE = Haystack("needle", "Needle in a haystack", _SOURCE, hops=False, system_rules=_RULES)
NEEDLE_MULTI_HOP = Haystack(
    "needle_multi_hop", "Needle in a haystack, several hops", _SOURCE, hops=True, system_rules=_RULES
)
