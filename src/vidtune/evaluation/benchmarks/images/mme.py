"""MME: two yes-or-no questions about each picture, in fourteen categories of perception and cognition.

Fu et al., MME: A Comprehensive Evaluation Benchmark for Multimodal Large Language Models, arXiv:2306.13394. Read is the
release, ``MME_Benchmark_release_version/<category>/``: pictures, and for each a text file of questions and answers with
a tab between them, both in the folder of the category or in its ``images/`` and ``questions_answers_YN/``. Where there
is ``llava_mme.jsonl``, its questions are asked, in its order; otherwise those of the release, worded alike.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from vidtune.errors import UserError
from vidtune.evaluation.benchmarks.images.base import (
    SHORT_ANSWER,
    AskedPicture,
    MeasuredPictures,
    pictures_in,
    question_lines,
)
from vidtune.evaluation.benchmarks.measured import Item, Measured
from vidtune.evaluation.benchmarks.named_files import PICTURE_EXTENSIONS
from vidtune.evaluation.benchmarks.test_set_files import each_once, set_folder, text_and_bytes
from vidtune.evaluation.metrics.base import MetricValues, TaskValues
from vidtune.evaluation.metrics.images.mme import (
    COGNITION,
    HIGHEST,
    PER_PICTURE,
    PERCEPTION,
    points_of,
    rows_of_picture,
    sum_of_categories,
)
from vidtune.evaluation.metrics.images.yes_no import NO, OTHER, YES, said_in_mme
from vidtune.evaluation.outcome import Metric

RELEASE, QUESTIONS = "MME_Benchmark_release_version", "llava_mme.jsonl"
CATEGORIES = (*PERCEPTION, *COGNITION)
POINTS, SUMS = "points", {"perception points": PERCEPTION, "cognition points": COGNITION}
INSTRUCTION = "Please answer yes or no."
_IN_FOLDERS = ("images", "questions_answers_YN")
_ONE_OF_TWO = "the other question about its picture has no answer"
_TOTALS = {name: sum_of_categories(CATEGORIES, kinds) for name, kinds in SUMS.items()}


def prompt_of(question: str) -> str:
    """Returns how a question of the release is asked."""
    return f"{question.replace(INSTRUCTION, '').strip()}\n{SHORT_ANSWER}"


@dataclass(frozen=True)
class Mme(MeasuredPictures):
    """The test set."""

    def read(self, data: Path) -> tuple[Path, Sequence[AskedPicture], bytes]:
        wanted = f"{RELEASE}/ of {self.title}"
        folder = set_folder(data, self.folders, lambda place: (place / RELEASE).is_dir(), wanted)
        known, contents = _release(folder / RELEASE)
        if not (folder / QUESTIONS).is_file():
            return folder, list(known.values()), b"\0".join(contents)
        path = folder / QUESTIONS
        rows, _, content = question_lines(path)
        asked = []
        for index, id, picture, text in rows:
            where, kind = f"{path}: entry {index}", picture.partition("/")[0]
            key = (kind, PurePosixPath(picture).stem, _bare(text))
            if key not in known:
                raise UserError(f"{where}: {folder / RELEASE} has no {key[2]!r} about {picture}")
            one = known[key]
            asked.append(replace(one, where=where, id=id, text=text, type=kind))
        return folder, asked, b"\0".join([content, *contents])

    @property
    def metrics(self) -> tuple[Metric, ...]:
        sums = (
            Metric(name, None, highest=HIGHEST * len(kinds), scale=1.0, from_sums=_TOTALS[name], of_all=True)
            for name, kinds in SUMS.items()
        )
        return Metric(POINTS, None, highest=HIGHEST, scale=1.0, from_sums=points_of), *sums

    @property
    def measuring(self) -> dict[str, Any]:
        return {"answers": "yes or no at the start, as lmms-eval 0.7 reads them"}

    def measure(self, items: Sequence[Item]) -> Measured:
        official, strict = {}, {}
        for kind in dict.fromkeys(item.type for item in items):
            mine = [item for item in items if item.type == kind]
            official[kind] = _values(mine, kind, strict=False)
            strict[kind] = _values(mine, kind, strict=True)
        return Measured(official, strict)


def _values(items: Sequence[Item], kind: str, strict: bool) -> TaskValues[int]:
    """Points of a category. In the official value are pictures both of whose questions have an answer."""
    pictures: dict[str, list[Item]] = {}
    for item in items:
        pictures.setdefault(item.video, []).append(item)
    rows: dict[int, tuple[float, float]] = {}
    excluded: dict[int, str] = {}
    unread: list[int] = []
    for of_one in pictures.values():
        if not strict and any(item.pred is None for item in of_one):
            excluded |= {item.index: _ONE_OF_TWO for item in of_one if item.pred is not None}
            continue
        said = {item.index: OTHER if item.pred is None else said_in_mme(item.pred) for item in of_one}
        right = [said[item.index] == item.reference["label"] for item in of_one]
        rows |= dict(zip(said, rows_of_picture(right), strict=True))
        unread += [item.index for item in of_one if item.pred is not None and said[item.index] == OTHER]
    statistics = np.array(list(rows.values()), dtype=np.float64).reshape(-1, 2)
    place = 2 * CATEGORIES.index(kind)
    wide = np.zeros((len(rows), 2 * len(CATEGORIES)))
    wide[:, place : place + 2] = statistics
    metrics = {POINTS: MetricValues(statistics[:, 0], statistics, points_of)}
    metrics |= {name: MetricValues(statistics[:, 0], wide, total) for name, total in _TOTALS.items()}
    missing = tuple(item.index for item in items if item.pred is None)
    return TaskValues(tuple(rows), missing, (), tuple(unread), metrics, excluded)


def _release(release: Path) -> tuple[dict[tuple[str, str, str], AskedPicture], list[bytes]]:
    """(category, name of the picture, question) -> question of the release, and the contents of all text files."""
    found: dict[tuple[str, str, str], AskedPicture] = {}
    contents = []
    for kind in CATEGORIES:
        folder = release / kind
        texts = folder / _IN_FOLDERS[1] if (folder / _IN_FOLDERS[1]).is_dir() else folder
        pictures = folder / _IN_FOLDERS[0] if (folder / _IN_FOLDERS[0]).is_dir() else folder
        of_kind = (one for one in _files(pictures) if one.suffix.lower() in PICTURE_EXTENSIONS)
        names = each_once(((str(one), one.stem, one.name) for one in of_kind), "the name of a picture")
        for path in _files(texts):
            if path.suffix != ".txt":
                continue
            text, content = text_and_bytes(path)
            contents.append(content)
            picture = (pictures.relative_to(release) / names.get(path.stem, f"{path.stem}.jpg")).as_posix()
            for one in _lines(path, text, picture, kind):
                key = kind, path.stem, _bare(one.text)
                if key in found:
                    raise UserError(f"{one.where}: asks the same as {found[key].where}")
                found[key] = one
    if not found:
        raise UserError(f"{release}: holds no question; expected <category>/<name>.txt, categories such as existence")
    return found, contents


def _files(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _lines(path: Path, text: str, picture: str, kind: str) -> Iterator[AskedPicture]:
    """The questions of one picture."""
    lines = [line for line in text.splitlines() if line.strip()]
    if len(lines) != PER_PICTURE:
        raise UserError(f"{path}: holds {len(lines)} questions, expected {PER_PICTURE}")
    for number, line in enumerate(lines):
        question, _, answer = line.partition("\t")
        label = answer.strip().lower().replace(".", "")
        if label not in (YES, NO):
            raise UserError(f"{path}: line {number + 1}: the answer behind the tab is {answer!r}, expected Yes or No")
        where, id = f"{path}: line {number + 1}", f"{kind}/{PurePosixPath(picture).name}"
        released = question.strip()
        fields = {"released": released, "bare": released.replace(f" {INSTRUCTION}", "")}
        yield AskedPicture(where, id, picture, prompt_of(question), label, kind, {"label": label}, fields=fields)


def _bare(text: str) -> str:
    """A question without instructions and spacing."""
    for instruction in (SHORT_ANSWER, INSTRUCTION):
        text = text.replace(instruction, "")
    return " ".join(text.split())


MME = Mme(
    name="mme",
    title="MME",
    source="Fu et al., MME: A Comprehensive Evaluation Benchmark for Multimodal LLMs, arXiv:2306.13394",
    lookup=pictures_in(RELEASE),
    folders=("MME", "mme"),
    number_ids=False,
    shared_ids=True,
)
