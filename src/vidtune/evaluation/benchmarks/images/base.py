"""Interface of benchmarks of pictures: questions in JSON lines, pictures by their file names.

The published scripts (LLaVA, github.com/haotian-liu/LLaVA, ``llava/eval``; Video-LLaVA has copies) read question files
of ``{"question_id", "image", "text"[, "category"]}`` whose texts hold the instruction already, such as "Answer the
question using a single word or phrase.", and write one record per answer: ``question_id, prompt, text, answer_id,
model_id, metadata``. `Question.video` is the name of the picture: questions about one picture form a cluster.
"""

import hashlib
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vidtune.errors import UserError
from vidtune.evaluation.benchmarks.base import Benchmark
from vidtune.evaluation.benchmarks.measured import MeasuredBenchmark
from vidtune.evaluation.benchmarks.named_files import PICTURE_EXTENSIONS, Named, VideoFiles
from vidtune.evaluation.benchmarks.test_set_files import each_once, field_of, read_list
from vidtune.evaluation.protocol import FileLookup, GenerationRules
from vidtune.evaluation.question import Prediction, Question, QuestionSet

STREAM = "image"
SHORT_ANSWER = "Answer the question using a single word or phrase."
THIS_PACKAGE = "vidtune"
LOADER_RULES: dict[str, dict[str, Any]] = {
    "video_llava": {"prompt_format": "vicuna_v1", "preprocessing": {"pad_to_square": True}}
}
"""Rules of the published loader of pictures: its conversation, and padding, which the published config asks for."""


def pictures_in(folder: str) -> FileLookup:
    """Pictures under the very names that the questions give, with their extensions."""
    return FileLookup(folder=folder, extensions=("",))


@dataclass(frozen=True, slots=True)
class AskedPicture:
    """A question as the test set holds it.

    Args:
        where: file and entry, for messages.
        id: official id.
        picture: name of the picture, with its extension; None: the question is asked without one.
        text: the user turn, without the picture.
        answer: reference answer in print; "" where none is published.
        type: the task or category, where scores are printed for each.
        reference: see `Question`.
        judge_prompt, judge_texts, options, fields: see `Question`.
    """

    where: str
    id: str | int
    picture: str | None
    text: str
    answer: str = ""
    type: str | None = None
    reference: Mapping[str, Any] | None = None
    judge_prompt: str | None = None
    judge_texts: Mapping[str, str] = field(default_factory=dict)
    options: tuple[str, ...] = ()
    fields: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class PictureQuestions(Benchmark):
    """A set of questions about pictures.

    Args:
        folders: names of the folder of the set below that of all sets.
        answers_file: where the published script writes the answers, below the folder of the set.
        number_ids: ids are whole numbers, in the question file and in records of answers.
        shared_ids: several questions about a picture have one id.
    """

    name: str
    title: str
    source: str
    lookup: FileLookup
    folders: tuple[str, ...]
    number_ids: bool = True
    shared_ids: bool = False
    generation: GenerationRules = field(default_factory=lambda: GenerationRules(max_new_tokens=128))
    answers_file: str = "answers/{model}.jsonl"
    record_of: str = ""
    version: int = 1
    system_rules: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: LOADER_RULES)

    @abstractmethod
    def read(self, data: Path) -> tuple[Path, Sequence[AskedPicture], bytes]:
        """Returns the folder of the test set, its questions, and the content of its annotation files.

        Args:
            data: folder of the test set, or one above it.

        Raises:
            UserError: a file is missing or broken, or an entry has the wrong form; names file, entry and key.
        """

    def load(self, data: Path) -> QuestionSet:
        folder, asked, content = self.read(Path(data))
        if not asked:
            raise UserError(f"{folder}: holds no question of {self.title}")
        if not self.shared_ids:
            each_once(((one.where, str(one.id), None) for one in asked), "the id")
        names = {one.picture: (one.where, "image") for one in asked if one.picture is not None}
        files = VideoFiles(self.lookup, folder, names, PICTURE_EXTENSIONS).found
        questions = []
        for index, one in enumerate(asked):
            found = Named(None) if one.picture is None else files[one.picture]
            questions.append(
                Question(
                    index=index,
                    id=str(one.id),
                    video=str(one.id) if one.picture is None else one.picture,
                    file=found.file,
                    similar=found.similar,
                    looked_for=found.looked_for,
                    question=one.text,
                    answer=one.answer,
                    type=one.type,
                    reference=one.reference,
                    judge_prompt=one.judge_prompt,
                    judge_texts=one.judge_texts,
                    options=one.options,
                    fields=one.fields,
                    media_alone=one.picture is None,
                )
            )
        return QuestionSet(self.name, folder, hashlib.sha256(content).hexdigest()[:16], tuple(questions))

    def further_rules(self) -> dict[str, Any]:
        return {"stream": STREAM}

    def official_records(
        self, predictions: Sequence[Prediction], references: Mapping[int, Mapping[str, Any]]
    ) -> Iterator[dict[str, Any]]:
        for one in predictions:
            if one.error is None:
                yield {
                    "question_id": self.official_id(one.id),
                    "prompt": one.question,
                    "text": one.pred,
                    "answer_id": answer_id(one),
                    "model_id": THIS_PACKAGE,
                    "metadata": {},
                }

    def official_id(self, id: str) -> str | int:
        """The id of a question as files of answers hold it."""
        return int(id) if self.number_ids and id.isdecimal() else id


@dataclass(frozen=True)
class MeasuredPictures(PictureQuestions, MeasuredBenchmark):
    """A set of questions about pictures whose answers metrics score."""


def answer_id(prediction: Prediction) -> str:
    """The id of an answer: a random one in the published scripts, here the same for the same answer."""
    said = f"{prediction.index}\0{prediction.pred}".encode(errors="surrogatepass")  # half of a character is said too
    return hashlib.sha256(said).hexdigest()[:22]


def question_lines(path: Path) -> tuple[list[tuple[int, str | int, str, str]], list[Any], bytes]:
    """The questions of a file of the published scripts.

    Returns:
        (entry, id, picture, text) of each, the entries themselves, and the content of the file.

    Raises:
        UserError: the file is broken, or an entry lacks a key; names file, entry and key.
    """
    entries, content = read_list(path)
    rows = []
    for index, entry in enumerate(entries):
        id = field_of(path, index, entry, "question_id", (str, int))
        picture, text = (field_of(path, index, entry, key, (str,)) for key in ("image", "text"))
        rows.append((index, id, picture, text))
    return rows, entries, content
