"""Import answers that another program has written in the form of the published scripts, as a run.

A question may be answered several times, for example where a log was appended twice. The last answer counts, as in the
published scripts; a line without an answer replaces none. All of them count in the official value of question types
whose published scorer counts every line (`MeasuredBenchmark.every_answer_counts`).
"""

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vidtune import __version__
from vidtune.errors import UserError
from vidtune.evaluation.benchmarks.base import Benchmark
from vidtune.evaluation.benchmarks.measured import MeasuredBenchmark
from vidtune.evaluation.benchmarks.own.finding import benchmark_named
from vidtune.evaluation.protocol import Protocol
from vidtune.evaluation.question import Prediction, Question, QuestionSet, prediction_of
from vidtune.evaluation.runs.checkpoint_identity import CheckpointIdentity
from vidtune.evaluation.runs.folder import RunFolder
from vidtune.evaluation.runs.foreign_records import read_foreign_records
from vidtune.evaluation.runs.run_info import RunInfo, data_identity
from vidtune.evaluation.runs.same_question import contradiction, plain, repeats_text
from vidtune.foreign.files import read_foreign
from vidtune.machine.files import write_text_atomically
from vidtune.machine.software import software_versions

UNKNOWN_PROMPT = "not known: answers were imported"
NO_TEXT = "the log holds no text as its answer"
LEFT_OUT = "have another query_id than 0: the published scorer leaves them out"
SHOWN, MOST_NAMED = 80, 3
"""Most characters of a text, and most files, that a message names."""
MERGED, PART = "merge.jsonl", re.compile(r"([1-9]\d*)_(0|[1-9]\d*)\.json")


@dataclass(frozen=True, slots=True)
class _Answer:
    """Answer in one line of a log; ``error`` says why there is none."""

    text: str
    error: str | None = None


@dataclass
class _Answers:
    """Answers of a log by question index.

    Args:
        every: in the order of the log.
        places: number of the line whose answer counts, or of the first if none holds one.
        left_out: number of lines that the published scorer does not look at.
        other_reference: number of lines that name another reference answer than the test set.
    """

    every: dict[int, list[_Answer]] = field(default_factory=dict)
    places: dict[int, int] = field(default_factory=dict)
    left_out: int = 0
    other_reference: int = 0

    def add(self, index: int, answer: _Answer, place: int) -> None:
        """Add what a line says to a question."""
        self.every.setdefault(index, []).append(answer)
        if answer.error is None or index not in self.places:
            self.places[index] = place

    def given(self, index: int) -> list[_Answer]:
        """The answers to a question; lines without one count only where there is no other."""
        found = self.every.get(index, [])
        return [one for one in found if one.error is None] or found[-1:]


def import_log(log: Path, benchmark: str, data: Path, run_dir: Path) -> RunFolder:
    """Make a run from a file of answers; `RunFolder.import_notes` says what is unusual in it.

    Args:
        log: file of JSON lines or of one JSON list, as the published scripts of the benchmark write it; or the folder
            of such files, see `log_files`.
        data: folder of the test set.
        run_dir: folder of the run; a run made from the same file is written again.

    Raises:
        UserError: no such file, a record that answers no question of the test set or asks another one (the message
            names it), or ``run_dir`` holds another run.
    """
    files = log_files(log)
    test_set = benchmark_named(benchmark)
    questions = test_set.load(data)
    protocol = test_set.protocol(prompt_format=UNKNOWN_PROMPT)
    answers = _read(log, files, test_set, questions, protocol)
    if not answers.every:
        why = f"; {answers.left_out} lines {LEFT_OUT}" if answers.left_out else ""
        raise UserError(f"{log}: holds no answer{why}")
    fingerprint = hashlib.sha256(b"".join(read_foreign(file) for file in files)).hexdigest()[:16]
    info = RunInfo(
        protocol=protocol,
        protocol_hash=protocol.hash,
        checkpoint=CheckpointIdentity(path=str(log.resolve()), fingerprint=fingerprint),
        data=data_identity(questions),
        versions=software_versions(__version__),
    )
    run = RunFolder.open(run_dir, info)

    def prediction(question: Question, answer: _Answer) -> Prediction:
        return prediction_of(question, protocol, answer.text, error=answer.error)

    asked = [question for question in questions.questions if question.index in answers.every]
    by_line = sorted(asked, key=lambda question: answers.places[question.index])
    predictions = [prediction(question, answers.given(question.index)[-1]) for question in by_line]
    earlier = [prediction(question, one) for question in asked for one in answers.given(question.index)[:-1]]
    write_text_atomically(run.predictions_file(), _lines(predictions))
    run.write_plan(questions.questions)
    run.write_imported(_notes(answers, test_set, questions.questions), earlier)
    return run


def log_files(log: Path) -> list[Path]:
    """Returns the files of a log: the file itself; of a folder its ``merge.jsonl``, or the parts that are merged there.

    Published scripts write one part ``N_k.json`` per GPU, number k of N, as JSON lines in spite of its name.

    Raises:
        UserError: no such file or folder, or a folder with no parts, with parts of two logs or without a part of one.
    """
    if log.is_file():
        return [log]
    if (log / MERGED).is_file():
        return [log / MERGED]
    parts = {path: PART.fullmatch(path.name) for path in log.glob("*.json")} if log.is_dir() else {}
    numbers = {path: (int(found[1]), int(found[2])) for path, found in parts.items() if found}
    if not numbers:
        raise UserError(f"{log}: no such file of answers" + (f", no {MERGED} and no N_k.json there" * log.is_dir()))
    names = ", ".join(sorted(path.name for path in numbers))
    count = max(count for count, _ in numbers.values())
    if min(count for count, _ in numbers.values()) < count:
        raise UserError(f"{log}: holds parts of several logs ({names}); keep those of one")
    beyond = next((path.name for path, (_, number) in numbers.items() if number >= count), None)
    if beyond is not None:
        raise UserError(f"{log}: {beyond} is no part of a log of {count}: they are numbered from 0; take it away")
    lacking = [f"{count}_{number}.json" for number in range(count) if (count, number) not in numbers.values()]
    if lacking:
        more = f" and {len(lacking) - MOST_NAMED} more" if len(lacking) > MOST_NAMED else ""
        what = f"{', '.join(lacking[:MOST_NAMED])}{more}"
        raise UserError(f"{log}: {what} of {count} parts not there; give all, or the name of one file")
    return sorted(numbers, key=lambda path: numbers[path])


def _lines(predictions: Sequence[Prediction]) -> str:
    return "".join(json.dumps(prediction.record(), ensure_ascii=False) + "\n" for prediction in predictions)


def _read(
    log: Path, files: Sequence[Path], test_set: Benchmark, questions: QuestionSet, protocol: Protocol
) -> _Answers:
    """Assign the records of a log to questions."""
    by_id: dict[str, list[Question]] = {}
    for question in questions.questions:
        by_id.setdefault(question.id, []).append(question)
    answers = _Answers()
    turns: dict[tuple[int, ...], _Turns] = {}
    records = ((file, *one) for file in files for one in read_foreign_records(file))
    for number, (file, place, record) in enumerate(records):
        where = f"{file}: {place}"
        try:
            found = test_set.from_official(record)
        except (KeyError, TypeError) as error:
            what = f"has no {error}" if isinstance(error, KeyError) else "is not of that form"
            raise UserError(f"{where}: {what}; expected answers as the scripts of {test_set.name} log them") from None
        except UserError as error:
            raise UserError(f"{where}: {error}") from None
        if found is None:
            answers.left_out += 1
            continue
        if not any(name in by_id for name in found.ids):
            asked = questions.file or questions.folder
            raise UserError(f"{where}: {' and '.join(map(repr, found.ids))} is no question of {asked}")
        known = [question for name in found.ids for question in by_id.get(name, ())]
        same = _meant(where, known, record, protocol)
        turn = turns.setdefault(tuple(question.index for question in same), _Turns(same))
        question = turn.next()
        answers.add(question.index, _answer(where, found.answer, record.get("error")), number)
        answers.other_reference += "answer" in record and _differ(record["answer"], question)
    for turn in turns.values():
        turn.require_whole(log)
    return answers


def _meant(where: str, known: Sequence[Question], record: Mapping[str, Any], protocol: Protocol) -> Sequence[Question]:
    """Those of the questions that have an id of a record, and that nothing in it contradicts.

    Raises:
        UserError: all are contradicted, or the record has the ids of two questions.
    """
    against = [contradiction(question, record, protocol) for question in known]
    same = [question for question, what in zip(known, against, strict=True) if what is None]
    if not same:
        raise UserError(
            f"{where}: {known[0].id!r} {against[0]}; was the log made with another version of the test set?"
        )
    same = [question for question in same if repeats_text(question, record)] or same
    ids = dict.fromkeys(question.id for question in same)
    if len(ids) > 1:
        raise UserError(f"{where}: names two questions, {' and '.join(map(repr, ids))}; keep the id of the test set")
    return same


@dataclass
class _Turns:
    """Questions that a log does not tell apart: its first line is the answer to the first of them, and so on."""

    questions: Sequence[Question]
    lines: int = 0

    def next(self) -> Question:
        question = self.questions[self.lines % len(self.questions)]
        self.lines += 1
        return question

    def require_whole(self, log: Path) -> None:
        """Raises UserError if lines are missing, so that it is not known which question each answers."""
        different = {(str(one.answer), one.type, one.video) for one in self.questions}
        if self.lines % len(self.questions) and len(different) > 1:
            raise UserError(
                f"{log}: {self.lines} lines for the {len(self.questions)} questions that have the id "
                f"{self.questions[0].id!r}; name the video (video_name) or the question in every line"
            )


def _answer(where: str, answer: Any, error: Any) -> _Answer:
    if error:
        said = error.get("message", error) if isinstance(error, dict) else error
        return _Answer("", "the log says: error" + (f" {str(said)[:SHOWN]}" if said is not True else ""))
    if answer is None or (isinstance(answer, float) and not math.isfinite(answer)):
        return _Answer("", NO_TEXT)
    if isinstance(answer, str):
        return _Answer(answer)
    if isinstance(answer, bool) or not isinstance(answer, int | float):
        raise UserError(f"{where}: the answer is {_shown(answer)}, expected a text")
    return _Answer(str(answer))


def _shown(value: Any) -> str:
    return (json.dumps(value) if isinstance(value, bool | list | dict) else repr(value))[:SHOWN]


def _differ(said: Any, question: Question) -> bool:
    return question.reference is None and plain(str(said)) != plain(str(question.answer))


def _notes(answers: _Answers, test_set: Benchmark, questions: Sequence[Question]) -> list[str]:
    """What is unusual in the log, one line each."""
    every = test_set.every_answer_counts if isinstance(test_set, MeasuredBenchmark) else ()
    repeats: dict[bool, int] = {True: 0, False: 0}
    unanswered = 0
    for question in questions:
        given = answers.given(question.index)
        repeats[question.type in every] += len(given[1:])
        unanswered += len(answers.every.get(question.index, ())) - len(given)
    counting = f"each counts in the official value of {', '.join(every)}, the last in the strict one"
    notes = (
        (repeats[True], f"answer a question again: {counting}"),
        (repeats[False], "answer a question again: the last answer counts"),
        (unanswered, "hold no answer to a question that another line answers or that fails again"),
        (answers.left_out, LEFT_OUT),
        (answers.other_reference, "name another reference answer than the test set, whose answer counts"),
    )
    return [f"{count} lines {what}" for count, what in notes if count]
