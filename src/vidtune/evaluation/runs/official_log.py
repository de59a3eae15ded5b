"""Import answers that another program has written in the form of the published scripts, as a run.

A question may be answered several times, for example where a log was appended twice. The last answer counts, as in the
published scripts; all of them count in the official value of question types whose published scorer counts every line
(`MeasuredBenchmark.every_answer_counts`).
"""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vidtune.errors import UserError
from vidtune.evaluation.benchmarks.base import Benchmark
from vidtune.evaluation.benchmarks.measured import MeasuredBenchmark
from vidtune.evaluation.question import Prediction, Question, QuestionSet, prediction_of
from vidtune.evaluation.runs.checkpoint_identity import CheckpointIdentity, software_versions
from vidtune.evaluation.runs.folder import RunFolder, RunInfo, data_identity
from vidtune.evaluation.runs.foreign_file import read_foreign_records
from vidtune.machine.files import write_text_atomically
from vidtune.registry import BENCHMARKS

UNKNOWN_PROMPT = "not known: answers were imported"
NO_TEXT = "the log holds no text as its answer"


@dataclass
class _Answers:
    """Answers of a log by question index; None: the log has a line, but no answer in it.

    Args:
        every: in the order of the log.
        left_out: number of lines that the published scorer does not look at.
        other_reference: number of lines that name another reference answer than the test set.
    """

    every: dict[int, list[str | None]] = field(default_factory=dict)
    left_out: int = 0
    other_reference: int = 0


def import_log(log: Path, benchmark: str, data: Path, run_dir: Path) -> RunFolder:
    """Make a run from a file of answers; `RunFolder.import_notes` says what is unusual in it.

    Args:
        log: file of JSON lines or of one JSON list, as the published scripts of the benchmark write it.
        data: folder of the test set.
        run_dir: folder of the run; a run made from the same file is written again.

    Raises:
        UserError: no such file, a record that answers no question of the test set or asks another one (the message
            names it), or ``run_dir`` holds another run.
    """
    if not log.is_file():
        raise UserError(f"{log}: no such file of answers")
    test_set = BENCHMARKS[benchmark]
    questions = test_set.load(data)
    protocol = test_set.protocol(prompt_format=UNKNOWN_PROMPT)
    answers = _read(log, test_set, questions)
    if not answers.every:
        raise UserError(f"{log}: holds no answer")
    fingerprint = hashlib.sha256(log.read_bytes()).hexdigest()[:16]
    info = RunInfo(
        protocol=protocol,
        protocol_hash=protocol.hash,
        checkpoint=CheckpointIdentity(path=str(log.resolve()), fingerprint=fingerprint),
        data=data_identity(questions),
        versions=software_versions(),
    )
    run = RunFolder.open(run_dir, info)

    def prediction(question: Question, answer: str | None) -> Prediction:
        return prediction_of(question, protocol, answer or "", error=NO_TEXT if answer is None else None)

    asked = [question for question in questions.questions if question.index in answers.every]
    predictions = [prediction(question, answers.every[question.index][-1]) for question in asked]
    earlier = [prediction(question, one) for question in asked for one in answers.every[question.index][:-1]]
    write_text_atomically(run.predictions_file(), _lines(predictions))
    run.write_plan(questions.questions)
    run.write_imported(_notes(answers, test_set, questions.questions), earlier)
    return run


def _lines(predictions: Sequence[Prediction]) -> str:
    return "".join(json.dumps(prediction.record(), ensure_ascii=False) + "\n" for prediction in predictions)


def _read(log: Path, test_set: Benchmark, questions: QuestionSet) -> _Answers:
    """Assign the records of a log to questions."""
    by_id: dict[str, list[Question]] = {}
    for question in questions.questions:
        by_id.setdefault(question.id, []).append(question)
    answers = _Answers()
    seen: Counter[tuple[int, ...]] = Counter()
    for place, record in read_foreign_records(log):
        where = f"{log}: {place}"
        try:
            found = test_set.from_official(record)
        except (KeyError, TypeError) as error:
            what = f"has no {error}" if isinstance(error, KeyError) else "is not of that form"
            raise UserError(f"{where}: {what}; expected answers as the scripts of {test_set.name} log them") from None
        if found is None:
            answers.left_out += 1
            continue
        name, answer = found
        if name not in by_id:
            raise UserError(f"{where}: {name!r} is no question of {questions.folder}")
        same = _with_text(where, by_id[name], record)
        # A test set may repeat an id: its first line is the answer to the first question with it, and so on.
        turn = tuple(question.index for question in same)
        question = same[seen[turn] % len(same)]
        seen[turn] += 1
        answers.every.setdefault(question.index, []).append(_text(where, answer, record.get("error")))
        answers.other_reference += "answer" in record and _differ(record["answer"], question)
    return answers


def _with_text(where: str, questions: Sequence[Question], record: Mapping[str, Any]) -> Sequence[Question]:
    """Those of the questions whose text a record repeats; all of them where it holds none.

    Raises:
        UserError: it holds another text.
    """
    said = record.get("question")
    if not isinstance(said, str) or not said.strip() or questions[0].reference is not None:
        return questions
    same = [one for one in questions if _plain(one.question) == _plain(said)]
    # Some scripts log the whole prompt, with placeholders before the question and instructions after it.
    same = same or [one for one in questions if _plain(one.question) and _plain(one.question) in _plain(said)]
    if not same:
        raise UserError(
            f"{where}: {questions[0].id!r} asks {said.strip()[:80]!r}, but in the test set "
            f"{questions[0].question.strip()[:80]!r}; was the log made with another version of the test set?"
        )
    return same


def _text(where: str, answer: Any, error: Any) -> str | None:
    """The answer as text; None: there is none."""
    if answer is None or answer != answer or (isinstance(error, str) and error):
        return None
    if isinstance(answer, str):
        return answer
    if isinstance(answer, bool) or not isinstance(answer, int | float):
        raise UserError(f"{where}: the answer is {json.dumps(answer)[:80]}, expected a text")
    return str(answer)


def _differ(said: Any, question: Question) -> bool:
    return question.reference is None and _plain(str(said)) != _plain(str(question.answer))


def _plain(text: str) -> str:
    return " ".join(text.casefold().split()).rstrip(" ?.")


def _notes(answers: _Answers, test_set: Benchmark, questions: Sequence[Question]) -> list[str]:
    """What is unusual in the log, one line each."""
    every = test_set.every_answer_counts if isinstance(test_set, MeasuredBenchmark) else ()
    repeats: dict[bool, int] = {True: 0, False: 0}
    for question in questions:
        repeats[question.type in every] += len(answers.every.get(question.index, ())[1:])
    counting = f"each counts in the official value of {', '.join(every)}, the last in the strict one"
    notes = (
        (repeats[True], f"answer a question again: {counting}"),
        (repeats[False], "answer a question again: the last answer counts"),
        (answers.left_out, "have another query_id than 0: the published scorer leaves them out"),
        (answers.other_reference, "name another reference answer than the test set, whose answer counts"),
    )
    return [f"{count} lines {what}" for count, what in notes if count]
