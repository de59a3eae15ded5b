"""MMBench: questions with options about pictures, in English and Chinese; a server reads the answers.

Liu et al., MMBench, ECCV 2024, arXiv:2307.06281. A set is one tab-separated table, whose column ``image`` holds the
pictures. They are written once beside it, to ``pictures/<table>/``, because the model reads files. Where the table has
the right options (dev), the letter that each answer names is also compared here; the published number is the server's.

With all rounds, each question is asked as often as it has options, which move one place up each time.
"""

import base64
import binascii
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath
from string import ascii_uppercase
from typing import Any

import numpy as np

from vidtune.errors import UserError
from vidtune.evaluation.benchmarks.images.base import AskedPicture, MeasuredPictures, pictures_in
from vidtune.evaluation.benchmarks.images.table import Cell, read_table, sheet
from vidtune.evaluation.benchmarks.measured import Item, Measured
from vidtune.evaluation.benchmarks.multiple_choice.base import ANSWER_BY_LETTER
from vidtune.evaluation.benchmarks.test_set_files import each_once, set_file
from vidtune.evaluation.metrics.base import MetricValues, TaskValues, mean_of_sums
from vidtune.evaluation.metrics.choices import ACCURACY, READERS, Choice, score_choices
from vidtune.evaluation.outcome import Metric
from vidtune.evaluation.protocol import ChoiceRules, GenerationRules, Protocol
from vidtune.evaluation.question import Prediction, QuestionSet
from vidtune.foreign.files import read_foreign
from vidtune.machine.files import atomic_file

CHINESE = "请直接回答选项字母。"
LETTERS = ascii_uppercase[:4]
ALL_ROUNDS = "accuracy, all rounds right"
PICTURES = "pictures"
NOT_UPLOADED = ("hint", "category", "source", "image", "comment", "l2-category")
PLACE_OF_PREDICTION = 6
_LONGEST_REFERENCE = 64
_SIGNATURES = {b"\x89PNG": ".png", b"GIF8": ".gif", b"RIFF": ".webp", b"BM": ".bmp"}


def asks(instruction: str) -> ChoiceRules:
    """Question, options and an instruction below them."""
    return ChoiceRules(wording=f"{{hint}}{{question}}\n{{options}}\n{instruction}", letters=LETTERS)


@dataclass(frozen=True)
class MMBench(MeasuredPictures):
    """One table.

    Args:
        table: its name.
        all_rounds: ask each question with its options in every rotation.
    """

    table: str = ""
    choices: ChoiceRules = field(default_factory=lambda: asks(ANSWER_BY_LETTER))
    all_rounds: bool = False
    reads: str = "normalised"
    server: str = "OpenCompass (mmbench.opencompass.org.cn)"
    upload_file: str = ""

    def read(self, data: Path) -> tuple[Path, Sequence[AskedPicture], bytes]:
        folder, path = set_file(data, self.folders, (self.table,), self.title)
        columns, rows, content = read_table(path)
        lacking = [name for name in ("index", "question", "image", "A") if name not in columns]
        if lacking:
            raise UserError(f"{path}: has no column {lacking[0]!r}; it has {', '.join(columns)}")
        names = _written(path, rows)
        asked = [one for place, row in enumerate(rows) for one in self._asked(path, place, row, names[place])]
        return folder, asked, content

    def _asked(self, path: Path, place: int, row: Mapping[str, Cell], picture: str) -> Iterator[AskedPicture]:
        """The question of a row, once or in every round."""
        options = _options(row)
        hint = "" if _is_none(row.get("hint")) else f"{row['hint']}\n"
        answer, letters = str(row.get("answer") or ""), LETTERS[: len(options)]
        for number in range(max(len(options), 1) if self.all_rounds else 1):
            moved = [*letters[number:], *letters[:number]]
            right = LETTERS[moved.index(answer)] if answer in moved else None
            yield AskedPicture(
                f"{path}: row {place}",
                f"{row['index']}#{number}" if number else str(row["index"]),
                picture,
                str(row["question"]),
                right or "",
                None if row.get("category") is None else str(row["category"]),
                {
                    "index": row["index"],
                    "round": number,
                    "letter": right,
                    "known": answer != "",
                    "letters": moved,
                    "options": [*options[number:], *options[:number]],
                },
                options=(*options[number:], *options[:number]),
                fields={"hint": hint},
            )

    def further_rules(self) -> dict[str, Any]:
        return {**super().further_rules(), "choices": self.choices}

    @property
    def metrics(self) -> tuple[Metric, ...]:
        rounds = (Metric(ALL_ROUNDS, None, of_all=True),) if self.all_rounds else ()
        return Metric(ACCURACY, None, right_or_wrong=True), *rounds

    @property
    def measuring(self) -> dict[str, Any]:
        return {"letters": self.reads, "server": self.server}

    def under(self, protocol: Protocol) -> "MMBench":
        return replace(self, reads="alone") if protocol.by_likelihood else self

    def measure(self, items: Sequence[Item]) -> Measured:
        kinds = dict.fromkeys(item.type for item in items)
        if not all(item.reference["known"] for item in items):
            why = f"the table has no right options: `vidtune submit RUN` writes the file that {self.server} takes"
            nothing = {kind: TaskValues[int]((), (), (), (), {}) for kind in kinds}
            return Measured(nothing, nothing, {metric.name: why for metric in self.metrics})
        last = {item.reference["index"]: item.index for item in items}
        both = []
        for strict in (False, True):
            right: dict[Any, float] = {}
            mine = {kind: [item for item in items if item.type == kind] for kind in kinds}
            both.append({kind: self._values(some, strict, right, last) for kind, some in mine.items()})
        official, strict_values = both
        return Measured(official, strict_values)

    def _values(
        self, items: Sequence[Item], strict: bool, right: dict[Any, float], last: Mapping[Any, int]
    ) -> TaskValues[int]:
        """Args: last: number in the table -> the question of its last round, which holds the value of all rounds."""
        truths = {item.index: Choice(item.reference["letter"], tuple(item.reference["options"])) for item in items}
        answers = {item.index: item.pred for item in items if item.pred is not None}
        found = score_choices(answers, truths, READERS[self.reads], strict=strict)
        if not self.all_rounds:
            return found
        numbers = {item.index: item.reference["index"] for item in items}
        values = dict(zip(found.ids, found.metrics[ACCURACY].per_item.tolist(), strict=True))
        for one, value in values.items():
            right[numbers[one]] = min(value, right.get(numbers[one], 1.0))
        rows = np.array(
            [(right[numbers[one]], 1.0) if last[numbers[one]] == one else (0.0, 0.0) for one in found.ids]
        ).reshape(-1, 2)
        every = MetricValues(found.metrics[ACCURACY].per_item, rows, mean_of_sums)
        return replace(found, metrics={**found.metrics, ALL_ROUNDS: every})

    def official_records(
        self, predictions: Sequence[Prediction], references: Mapping[int, Mapping[str, Any]]
    ) -> Iterator[dict[str, Any]]:
        answered = [one for one in predictions if one.error is None]
        for one, record in zip(answered, super().official_records(answered, references), strict=True):
            reference = references[one.index]
            yield {
                "question_id": reference["index"],
                "round_id": reference["round"],
                "prompt": one.question.removesuffix(self.choices.wording.rpartition("}")[2]),
                "text": one.pred,
                "options": reference["options"],
                "option_char": reference["letters"],
                **{name: record[name] for name in ("answer_id", "model_id", "metadata")},
            }

    def submission(self, predictions: Sequence[Prediction], questions: QuestionSet) -> bytes:
        columns, rows, _ = read_table(questions.folder / self.table)
        indices = {one.index: one.reference["index"] for one in questions.questions if one.reference}
        kept = [name for name in columns if name not in NOT_UPLOADED]
        kept.insert(PLACE_OF_PREDICTION, "prediction")
        answers = {indices[one.index]: one.pred for one in predictions if one.error is None}
        return sheet(kept, [{**row, "prediction": answers.get(row["index"])} for row in rows])


def _options(row: Mapping[str, Cell]) -> tuple[str, ...]:
    """The options of a row, until the first cell that holds none."""
    found = []
    for letter in LETTERS:
        if _is_none(row.get(letter)):
            break
        found.append(str(row[letter]))
    return tuple(found)


def _is_none(cell: Cell) -> bool:
    return cell is None or str(cell).lower() in ("nan", "none")


def _written(path: Path, rows: Sequence[Mapping[str, Cell]]) -> list[str]:
    """Writes the pictures of a table beside it, where they are not there yet; returns their names, row by row.

    A cell may hold the index of the row whose picture it shares. Rows with equal pictures have one name.
    """
    read = ((f"{path}: row {place}", str(row["index"]), str(row["image"])) for place, row in enumerate(rows))
    by_index = each_once(read, "'index'")
    for place, row in enumerate(rows):
        if PurePath(name := str(row["index"])).name != name:
            raise UserError(
                f"{path}: row {place}: 'index' is {name!r}; pictures are named after it, so it has no slash"
            )
    folder = path.parent / PICTURES / path.stem
    names: dict[str, str] = {}
    for place, row in enumerate(rows):
        text = str(row["image"])
        text = by_index.get(text, text) if len(text) <= _LONGEST_REFERENCE else text
        key = hashlib.sha256(text.encode()).hexdigest()
        if key not in names:
            try:
                picture = base64.b64decode(text, validate=False)
            except (binascii.Error, ValueError):
                raise UserError(f"{path}: row {place}: 'image' holds no picture in base64") from None
            ending = next((end for start, end in _SIGNATURES.items() if picture.startswith(start)), ".jpg")
            names[key] = f"{row['index']}{ending}"
            _write(folder / names[key], picture)
        by_index[f"name of {place}"] = names[key]
    return [by_index[f"name of {place}"] for place in range(len(rows))]


def _write(path: Path, picture: bytes) -> None:
    if path.is_file() and path.stat().st_size == len(picture) and read_foreign(path) == picture:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as temporary:
            temporary.write_bytes(picture)
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written ({error.strerror}); the pictures of the table go there, so copy it to a folder "
            "that can be written"
        ) from None


def _table(name: str, table: str, title: str, **changes: Any) -> MMBench:
    return MMBench(
        name=name,
        title=title,
        source="Liu et al., MMBench: Is Your Multi-modal Model an All-around Player?, ECCV 2024, arXiv:2307.06281",
        lookup=pictures_in(f"{PICTURES}/{table}"),
        folders=("mmbench", "mmbench_cn", "MMBench"),
        generation=GenerationRules(),
        table=f"{table}.tsv",
        answers_file=f"answers/{table}/{{model}}.jsonl",
        upload_file=f"answers_upload/{table}/{{model}}.xlsx",
        **changes,
    )


FIRST_TABLE = "mmbench_dev_20230712"
MMBENCH = _table("mmbench", FIRST_TABLE, "MMBench, dev of July 2023")
MMBENCH_ALL_ROUNDS = replace(
    MMBENCH,
    name="mmbench_all_rounds",
    title="MMBench, dev of July 2023, options in every rotation",
    all_rounds=True,
    answers_file=f"answers/{FIRST_TABLE}/{{model}}-all_rounds.jsonl",
    upload_file="",
)
MMBENCH_EN = _table("mmbench_en", "mmbench_dev_en_20231003", "MMBench, English, dev of October 2023")
MMBENCH_CN = _table(
    "mmbench_cn", "mmbench_dev_cn_20231003", "MMBench, Chinese, dev of October 2023", choices=asks(CHINESE)
)
