"""The questions that a page shows, with the answers of all runs of a group, as JSON values for its script.

::

    {"runs": [label, ...], "kinds": [type, ...], "pictures": [[data address, width, height], ...],
     "media": [[name, number of its picture or null, why there is none], ...],
     "samples": [{"m": medium, "i": id, "k": kind or null, "q": question, "a": reference,
                  "r": [{"s": state, "p": answer, "n": points, "x": {metric: value}, "e": reason, "u": [what, ...],
                         "more": n}, ...]},
                 ...]}

A reply without an answer has no ``p``; ``n``, ``x``, ``e`` and ``u`` (what is unusual about the answer) are there where
they say something, and ``more`` where a long answer was cut: the number of its further characters.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from vidtune.evaluation.outcome import Outcome
from vidtune.evaluation.question import Prediction
from vidtune.evaluation.report.pictures import SmallPicture, picture_of
from vidtune.evaluation.report.reading import Read, Strip, read_all
from vidtune.evaluation.runs.shown_media import FILE_ALONE, ShownMedia
from vidtune.evaluation.scores.comparison import StoredRun
from vidtune.spelling import by_numbers

LONGEST_TEXT = 4000
"""Characters of a question or an answer that are on the page."""
PICTURE_BYTES = 16 * 2**20
"""Size of all pictures of one test set on the page."""
ABSENT = {"s": "absent"}


@dataclass(frozen=True)
class Limits:
    """How much of a test set is shown.

    Args:
        samples: number of questions, from whole videos.
        pictures: number of videos or pictures that are shown with frames.
        frames: number of frames of each.
    """

    samples: int = 10_000
    pictures: int = 120
    frames: int = 4


@dataclass(frozen=True)
class Samples:
    """The questions that are shown, see the top of this file; and how many there are."""

    data: Mapping[str, Any]
    total: int

    @property
    def shown(self) -> int:
        return len(self.data["samples"])

    @property
    def media(self) -> int:
        """Number of different videos, pictures, and frames with boxes."""
        return len(self.data["media"])

    @property
    def pictures(self) -> int:
        return len(self.data["pictures"])


Medium = tuple[str, str | None, ShownMedia]
"""Name of a video, its file, and what else is shown."""


def samples_of(stored: Sequence[StoredRun], labels: Sequence[str], limits: Limits) -> Samples:
    """Returns whole videos, drawn by the hash of their name until there are enough questions; in test-set order."""
    answers = [{prediction.index: prediction for prediction in one.predictions} for one in stored]
    asked: dict[int, Prediction] = {}
    for given in answers:
        asked |= given
    chosen = _drawn(asked, limits.samples)
    shown = {one.index: one.media for one in stored[0].run.plan()}
    found = [{outcome.index: outcome for outcome in one.outcomes} for one in stored]
    judged = next((metric.name for metric in stored[0].source.metrics if metric.right_or_wrong), None)
    media: dict[Medium, int] = {}
    kinds = sorted({one.type for one in chosen if one.type is not None}, key=by_numbers)
    samples = []
    for one in chosen:
        medium = (one.video, one.file, shown.get(one.index, FILE_ALONE))
        samples.append(
            {
                "m": media.setdefault(medium, len(media)),
                "i": one.id,
                "k": None if one.type is None else kinds.index(one.type),
                "q": _cut(one.question),
                "a": _cut(str(one.answer)),
                "r": [
                    _reply(given.get(one.index), known.get(one.index), judged)
                    for given, known in zip(answers, found, strict=True)
                ],
            }
        )
    pictures, listed = _pictures(Path(stored[0].run.info.data.folder), list(media), limits)
    data = {"runs": list(labels), "kinds": kinds, "pictures": pictures, "media": listed, "samples": samples}
    return Samples(data, len(asked))


def json_for_page(data: Mapping[str, Any]) -> str:
    """Returns JSON text that no HTML can be in: it has no ``<``, ``>`` and ``&``, and nothing but ASCII."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text


def _drawn(asked: Mapping[int, Prediction], most: int) -> list[Prediction]:
    by_video: dict[str, list[Prediction]] = {}
    for index in sorted(asked):
        by_video.setdefault(asked[index].video, []).append(asked[index])
    chosen, count = set(), 0
    for video in sorted(by_video, key=_lot):
        if count < most:
            chosen.add(video)
            count += len(by_video[video])
    return [one for video, questions in by_video.items() if video in chosen for one in questions]


def _lot(name: str) -> bytes:
    return hashlib.sha256(name.encode(errors="surrogateescape")).digest()


def _reply(prediction: Prediction | None, outcome: Outcome | None, judged: str | None) -> dict[str, Any]:
    if prediction is None:
        return ABSENT
    if prediction.error is not None:
        return {"s": "error", "e": _cut(prediction.error)}
    reply: dict[str, Any] = {"s": "unjudged", "p": _cut(prediction.pred)}
    if len(prediction.pred) > LONGEST_TEXT:
        reply["more"] = len(prediction.pred) - LONGEST_TEXT
    if prediction.second is not None:
        reply |= {"q2": _cut(prediction.second["question"]), "p2": _cut(prediction.second["pred"])}
    if outcome is None:
        return reply
    sums = outcome.official.get(judged or "")
    if outcome.verdict == "measured" and sums is not None:
        reply["s"] = "right" if sums[0] > 0 else "wrong"
    elif outcome.verdict is not None:
        reply["s"] = outcome.verdict
    if outcome.points is not None:
        reply["n"] = outcome.points
    if outcome.values:
        reply["x"] = {name: round(value, 1) for name, value in outcome.values.items()}
    if outcome.entry.unusual:
        reply["u"] = list(outcome.entry.unusual)
    if outcome.verdict is None and outcome.entry.reason is not None:
        reply["e"] = _cut(outcome.entry.reason)
    return reply


def _pictures(folder: Path, media: Sequence[Medium], limits: Limits) -> tuple[list[SmallPicture], list[list[Any]]]:
    """Returns pictures, and of every medium its name, the number of its picture, and why there is none."""
    drawn = set(sorted(range(len(media)), key=lambda place: _lot(media[place][0]))[: limits.pictures])

    jobs = [Strip(folder, file, more, limits.frames) for place, (_, file, more) in enumerate(media) if place in drawn]
    read = read_all(jobs)
    pictures: list[SmallPicture] = []
    listed: list[list[Any]] = []
    size = 0
    for place, (name, *_) in enumerate(media):
        pixels, note = next(read) if place in drawn else Read(None, "")
        picture = None if pixels is None else picture_of(Image.fromarray(pixels))
        size += 0 if picture is None else len(picture.address)
        fits = picture is not None and size <= PICTURE_BYTES
        listed.append([name, len(pictures) if fits else None, note])
        if picture is not None and fits:
            pictures.append(picture)
    return pictures, listed


def _cut(text: str) -> str:
    return text[:LONGEST_TEXT]
