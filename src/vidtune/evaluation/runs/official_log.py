"""Import answers that another program has written in the form of the published scripts, as a run."""

import hashlib
import json
from pathlib import Path

from vidtune.errors import UserError
from vidtune.evaluation.question import Question, prediction_of
from vidtune.evaluation.runs.checkpoint_identity import CheckpointIdentity, software_versions
from vidtune.evaluation.runs.folder import RunFolder, RunInfo, data_identity
from vidtune.machine.files import write_text_atomically
from vidtune.machine.records import read_records
from vidtune.registry import BENCHMARKS

UNKNOWN_PROMPT = "not known: answers were imported"


def import_log(log: Path, benchmark: str, data: Path, run_dir: Path) -> RunFolder:
    """Make a run from a file of answers.

    Of several answers to one question the last counts, as in the published scripts.

    Args:
        log: file of JSON lines, as the published scripts of the benchmark write it.
        data: folder of the test set.
        run_dir: folder of the run; a run made from the same file is written again.

    Raises:
        UserError: no such file, a line that answers no question of the test set (the message names it), or ``run_dir``
            holds another run.
    """
    if not log.is_file():
        raise UserError(f"{log}: no such file of answers")
    test_set = BENCHMARKS[benchmark]
    questions = test_set.load(data)
    protocol = test_set.protocol(prompt_format=UNKNOWN_PROMPT)
    by_id: dict[str, list[Question]] = {}
    for question in questions.questions:
        by_id.setdefault(question.id, []).append(question)
    answers: dict[int, str] = {}
    for number, record in enumerate(read_records(log), start=1):
        try:
            name, answer = test_set.from_official(record)
        except (KeyError, TypeError) as error:
            what = f"has no {error}" if isinstance(error, KeyError) else "is not of that form"
            raise UserError(
                f"{log}: line {number}: {what}; expected answers as the scripts of {benchmark} log them"
            ) from None
        if name not in by_id:
            raise UserError(f"{log}: line {number}: {name!r} is no question of {questions.folder}")
        answers.update({question.index: answer for question in by_id[name]})
    if not answers:
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
    predictions = [
        prediction_of(question, protocol, answers[question.index])
        for question in questions.questions
        if question.index in answers
    ]
    lines = "".join(json.dumps(prediction.record(), ensure_ascii=False) + "\n" for prediction in predictions)
    write_text_atomically(run.predictions_file(), lines)
    run.write_plan(questions.questions)
    return run
