"""SEED-Bench: multiple-choice questions about pictures and, by their middle frame, about videos.

Li et al., SEED-Bench, CVPR 2024, arXiv:2307.16125. Read are ``SEED-Bench.json``, the pictures ``SEED-Bench-image/`` and
the middle frames ``SEED-Bench-video-image/<type>_<question id>.png``, which `SeedBench.prepare` makes of videos in
``videos/``. Where there is ``llava-seed-bench.jsonl``, its questions are asked, in its order; otherwise those of
``SEED-Bench.json``, worded alike.

An answer is right if it is the letter alone. The published script counts a question without an answer as wrong, so the
official value does too.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vidtune.errors import MediaError, UserError
from vidtune.evaluation.benchmarks.images.base import AskedPicture, MeasuredPictures, pictures_in, question_lines
from vidtune.evaluation.benchmarks.measured import Item, Measured
from vidtune.evaluation.benchmarks.multiple_choice.base import ANSWER_BY_LETTER
from vidtune.evaluation.benchmarks.named_files import VideoFiles
from vidtune.evaluation.benchmarks.test_set_files import each_once, field_of, is_there, set_file, value_and_bytes
from vidtune.evaluation.metrics.base import MetricValues, TaskValues
from vidtune.evaluation.outcome import Metric
from vidtune.evaluation.protocol import FileLookup
from vidtune.evaluation.question import Prediction, QuestionSet
from vidtune.machine.files import atomic_file
from vidtune.machine.progress import ProgressCallback, no_progress
from vidtune.media.probe import MediaInfo, probe
from vidtune.media.video import read_frames

ANNOTATIONS, QUESTIONS = "SEED-Bench.json", "llava-seed-bench.jsonl"
PICTURES, FRAMES, VIDEOS = "SEED-Bench-image", "SEED-Bench-video-image", "videos"
LETTERS = "ABCD"
ACCURACY = "accuracy"
OF_MEDIUM = {"image": "image accuracy", "video": "video accuracy"}


def middle_frame(info: MediaInfo, segment: Sequence[float] | None) -> int:
    """Returns the frame that stands for a video: the middle one of all but the last, or of a segment.

    Args:
        segment: start and end: frames where they are whole numbers, otherwise seconds; None: the whole video.
    """
    last = info.num_frames - 1
    if segment is None:
        start, length = 0, last
    elif isinstance(segment[0], int):
        start, length = int(segment[0]), min(int(segment[1]), info.num_frames) - int(segment[0])
    else:
        start, end = (int(min(max(second * info.fps, 0), last)) for second in segment)
        length = end - start
    return min(start + max(length - 1, 0) // 2, last)


@dataclass(frozen=True)
class SeedBench(MeasuredPictures):
    """The test set."""

    server: str = "the leaderboard of SEED-Bench (huggingface.co/spaces/AILab-CVC/SEED-Bench_Leaderboard)"
    upload_file: str = "answers_upload/{model}.jsonl"
    answers_file: str = "answers/{model}/{file}"

    def read(self, data: Path) -> tuple[Path, Sequence[AskedPicture], bytes]:
        folder, path, kinds, entries, content = self._annotations(data)
        read = (_asked(path, index, entry, kinds) for index, entry in enumerate(entries))
        known = each_once(((one.where, str(one.id), one) for one in read), "'question_id'")
        if not (folder / QUESTIONS).is_file():
            return folder, list(known.values()), content
        rows, _, asked_content = question_lines(folder / QUESTIONS)
        asked = []
        for index, id, picture, text in rows:
            where = f"{folder / QUESTIONS}: entry {index}"
            if str(id) not in known:
                raise UserError(f"{where}: {path} has no question {id!r}")
            one = known[str(id)]
            asked.append(AskedPicture(where, id, picture, text, one.answer, one.type, one.reference))
        return folder, asked, content + b"\0" + asked_content

    def prepare(self, data: Path, progress: ProgressCallback = no_progress) -> Iterator[str]:
        folder, path, _, entries, _ = self._annotations(data)
        of_videos = [(index, entry) for index, entry in enumerate(entries) if entry["data_type"] == "video"]
        todo = [(index, entry) for index, entry in of_videos if not is_there(folder / _picture(path, index, entry))]
        names = {str(entry["data_id"]): (f"{path}: entry {index}", "data_id") for index, entry in todo}
        lookup = FileLookup(folder=VIDEOS, extensions=("", *FileLookup.model_fields["extensions"].default))
        found = VideoFiles(lookup, folder, names).found
        for done, (index, entry) in enumerate(todo, 1):
            segment = _segment(path, index, entry)
            video = found[str(entry["data_id"])]
            name = video.file or video.similar
            try:
                if name is None:
                    raise MediaError(str(entry["data_id"]), f"no such video: {video.looked_for}")
                pixels = read_frames(folder / name, [middle_frame(probe(folder / name), segment)])[0]
                target = folder / _picture(path, index, entry)
                target.parent.mkdir(exist_ok=True)
                with atomic_file(target) as file:
                    Image.fromarray(pixels).save(file, format="PNG")
            except MediaError as error:
                yield str(error)
            progress("videos", done, len(todo))

    def submission(self, predictions: Sequence[Prediction], questions: QuestionSet) -> bytes:
        answers = {one.index: one.pred for one in predictions if one.error is None}
        lacking = [one.id for one in questions.questions if one.index not in answers]
        if lacking:
            raise UserError(f"{self.name}: {len(lacking)} questions have no answer ({', '.join(lacking[:3])})")
        lines = ({"question_id": one.id, "prediction": answers[one.index]} for one in questions.questions)
        return "".join(json.dumps(line) + "\n" for line in lines).encode()

    @property
    def metrics(self) -> tuple[Metric, ...]:
        of_media = (Metric(name, None, of_all=True) for name in OF_MEDIUM.values())
        return Metric(ACCURACY, None, right_or_wrong=True), *of_media

    @property
    def measuring(self) -> dict[str, Any]:
        return {"answers": "the letter alone", "without an answer": "wrong"}

    def measure(self, items: Sequence[Item]) -> Measured:
        kinds = dict.fromkeys(item.type for item in items)
        values = {kind: _values([item for item in items if item.type == kind]) for kind in kinds}
        return Measured(values, values)

    def _annotations(self, data: Path) -> tuple[Path, Path, Mapping[int, str], list[dict[str, Any]], bytes]:
        """Folder, file, names of the question types, entries and content of the annotations."""
        folder, path = set_file(data, self.folders, (ANNOTATIONS,), self.title)
        value, content = value_and_bytes(path)
        kinds, entries = (value.get(key) if isinstance(value, dict) else None for key in ("question_type", "questions"))
        numbered = isinstance(kinds, dict) and all(isinstance(number, int) for number in kinds.values())
        if not isinstance(kinds, dict) or not numbered or not isinstance(entries, list):
            raise UserError(f"{path}: expected 'question_type', an object of numbers, and 'questions', a list")
        for index, entry in enumerate(entries):
            medium = field_of(path, index, entry, "data_type", (str,))
            if medium not in OF_MEDIUM:
                raise UserError(f"{path}: entry {index}: 'data_type' is {medium!r}, expected image or video")
            for key in ("question_id", "data_id"):
                field_of(path, index, entry, key, (str, int))
        return folder, path, {number: name for name, number in kinds.items()}, entries, content


def _picture(path: Path, index: int, entry: Mapping[str, Any]) -> str:
    """Where the picture of a question is, or the middle frame of its video."""
    if entry["data_type"] == "image":
        return f"{PICTURES}/{entry['data_id']}"
    kind = field_of(path, index, entry, "question_type_id", (int,))
    return f"{FRAMES}/{kind}_{entry['question_id']}.png"


def _segment(path: Path, index: int, entry: Mapping[str, Any]) -> Sequence[float] | None:
    """Start and end of the part of a video that is asked about; None: all of it."""
    segment = entry.get("segment")
    numbers = isinstance(segment, list) and [type(one) in (int, float) for one in segment] == [True, True]
    if segment is not None and not (numbers and 0 <= segment[0] <= segment[1] < math.inf):
        raise UserError(f"{path}: entry {index}: 'segment' is {segment!r}, expected start and end")
    return segment


def _asked(path: Path, index: int, entry: Mapping[str, Any], kinds: Mapping[int, str]) -> AskedPicture:
    kind = field_of(path, index, entry, "question_type_id", (int,))
    letter = field_of(path, index, entry, "answer", (str,))
    if kind not in kinds or letter not in tuple(LETTERS):
        wrong = f"'question_type_id' is {kind!r}" if kind not in kinds else f"'answer' is {letter!r}"
        raise UserError(f"{path}: entry {index}: {wrong}, which 'question_type' or A to D do not hold")
    keys = {letter: f"choice_{letter.lower()}" for letter in LETTERS}
    options = (f"{one}. {field_of(path, index, entry, key, (str, int, float))}" for one, key in keys.items())
    lines = [field_of(path, index, entry, "question", (str,)), *options]
    return AskedPicture(
        where=f"{path}: entry {index}",
        id=entry["question_id"],
        picture=_picture(path, index, entry),
        text="\n".join([*lines, ANSWER_BY_LETTER]),
        answer=letter,
        type=kinds[kind],
        reference={"letter": letter, "medium": entry["data_type"]},
    )


def _values(items: Sequence[Item]) -> TaskValues[int]:
    """Share of answers that are the letter; a question without an answer is wrong."""
    right = np.array([item.pred == item.reference["letter"] for item in items], dtype=np.float64)
    metrics = {ACCURACY: MetricValues.mean(right)}
    for medium, name in OF_MEDIUM.items():
        counted = np.array([item.reference["medium"] == medium for item in items], dtype=np.float64)
        if counted.any():
            rows = np.stack([right * counted, counted], axis=-1)
            metrics[name] = MetricValues(right, rows, metrics[ACCURACY].from_sums)
    missing = tuple(item.index for item in items if item.pred is None)
    return TaskValues(tuple(item.index for item in items), missing, (), (), metrics)


SEED_BENCH = SeedBench(
    name="seed_bench",
    title="SEED-Bench",
    source="Li et al., SEED-Bench, CVPR 2024, arXiv:2307.16125",
    lookup=pictures_in("."),
    folders=("seed_bench", "SEED-Bench", "SEED"),
)
