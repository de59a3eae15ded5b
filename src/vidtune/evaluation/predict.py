"""Ask a checkpoint every question of a benchmark; each answer is stored as soon as it is known.

A run that is stopped and started again gives the same predictions: questions that are answered already are not asked
again, the others keep their order, and the sampling of an answer is seeded by the question's position in the test set.
A question whose video could not be read then, for a reason of the machine, stays open: it is asked again.
"""

import contextlib
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from string import ascii_uppercase
from typing import TYPE_CHECKING, Any

from vidtune import __version__
from vidtune.errors import UserError
from vidtune.evaluation.asking.shared_videos import ALONE, Session, SharedVideos
from vidtune.evaluation.benchmarks.harnesses.known import asked_benchmark
from vidtune.evaluation.checkpoint import DEFAULT_ANSWERING, AnsweringOptions, LoadedCheckpoint
from vidtune.evaluation.ledger import Asking, Ledger
from vidtune.evaluation.models.base import Engine, EvaluatedModel
from vidtune.evaluation.models.opening import answering_model
from vidtune.evaluation.protocol import Protocol, merged, rules_in_words
from vidtune.evaluation.question import (
    LARGEST_MARGIN,
    Prediction,
    Question,
    QuestionSet,
    group_by_video,
    media_of,
    prediction_of,
    question_text,
    require_reading,
)
from vidtune.evaluation.runs.asked_files import AskedFiles
from vidtune.evaluation.runs.checkpoint_identity import CheckpointIdentity
from vidtune.evaluation.runs.folder import RunFolder
from vidtune.evaluation.runs.run_info import RUN_FILE, Arithmetic, RunInfo, data_identity
from vidtune.evaluation.runs.run_ledger import ledger_of
from vidtune.evaluation.runs.usage import count_earlier, note_usage
from vidtune.generation.settings import Answer, EngineStats, Request
from vidtune.machine.locks import locked
from vidtune.machine.progress import ProgressDisplay
from vidtune.machine.records import RecordWriter
from vidtune.machine.software import software_versions

if TYPE_CHECKING:
    from vidtune.checkpoints.load import Checkpoint

SECOND = "-second"
"""Ends the id of the request of a second question."""


@dataclass(frozen=True)
class PredictionSummary:
    """State of a run after predicting.

    Args:
        run_dir: folder of the run.
        ledger: state of every planned question.
        asked_now: number of questions asked by this call.
        seconds: time that asking took in this call.
    """

    run_dir: Path
    ledger: Ledger
    asked_now: int
    seconds: float

    @property
    def planned(self) -> int:
        """Number of questions that belong to the run."""
        return self.ledger.planned

    @property
    def answered(self) -> int:
        """Number of them with an answer; an empty one counts."""
        return self.ledger.answered

    @property
    def errors(self) -> int:
        """Number of questions that could not be asked."""
        return self.ledger.count(Asking.FAILED)

    @property
    def missing(self) -> int:
        """Number of questions whose video does not exist."""
        return self.ledger.count(Asking.NO_FILE)

    @property
    def open(self) -> int:
        """Number of questions whose video could not be read then; the same call asks them again."""
        return sum(entry.asking is Asking.NOT_ASKED and entry.reason is not None for entry in self.ledger.entries)

    @property
    def complete(self) -> bool:
        """Whether every question of the run has an outcome."""
        return not self.ledger.count(Asking.NOT_ASKED)


@dataclass(frozen=True)
class Variant:
    """What of a benchmark is asked, and what the model is given.

    Args:
        blind: black frames, and silence.
        without: streams that are switched off.
        features: stream -> folder of stored features, one file per video named after it, read instead of the videos.
        overrides: changes to the protocol, after the system's own.
        limit: number of questions from the start of the test set; None: all.
        folder: where the folder of the run is below that of all results.
    """

    blind: bool = False
    without: Sequence[str] = ()
    features: Mapping[str, Path | str] = field(default_factory=dict)
    overrides: Mapping[str, Any] = field(default_factory=dict)
    limit: int | None = None
    folder: str = ""


WHOLE = Variant()
"""All questions, and everything that the model can see and hear."""


def by_rules(variant: Variant, rules: Mapping[str, Any]) -> Variant:
    """Returns a variant with further changes to the protocol, in a folder that is named after them."""
    return replace(variant, overrides=merged(variant.overrides, rules), folder=rules_in_words(rules))


@dataclass(frozen=True)
class Answerer:
    """Whose answers a run holds; see `RunInfo`."""

    checkpoint: CheckpointIdentity
    system: str | None = None
    recipe: str | None = None
    arithmetic: Arithmetic | None = None


def predict_benchmark(
    model: "EvaluatedModel | LoadedCheckpoint | Checkpoint | Path | str",
    benchmark: str,
    data: Path,
    out: Path,
    variant: Variant = WHOLE,
    answering: AnsweringOptions = DEFAULT_ANSWERING,
    session: Session = ALONE,
) -> PredictionSummary:
    """Answer a benchmark with a model.

    Args:
        model: see `models.opening.answering_model`; one in memory when several benchmarks follow each other.
        data: folder of the test set, or one above it; see `evaluate.evaluate`.
        out: folder of results; the run goes to ``out/<benchmark>``, ``out/<benchmark>-blind`` or
            ``out/<benchmark>-without-<stream>``.
        variant: what is asked and what the model is given.
        answering: how answers are computed.

    Raises:
        UserError: bad test set or checkpoint, or ``out`` holds the results of another run.
    """
    test_set = asked_benchmark(benchmark, variant.overrides)
    questions = test_set.load(Path(data)).with_similar_files()
    asked = answering_model(model)
    protocol = asked.protocol(
        test_set,
        blind=variant.blind,
        without=variant.without,
        features=tuple(variant.features or questions.features),
        overrides=variant.overrides,
    )
    require_reading(protocol, questions)
    if variant.features:
        folders = {stream: Path(folder) for stream, folder in variant.features.items()}
        questions = test_set.with_features(questions, folders, protocol.stream)
    answerer = Answerer(asked.identity, asked.system, asked.recipe, asked.arithmetic)
    with asked.engine(protocol, answering) as engine:
        run_dir = Path(out) / variant.folder / protocol.run_name
        count_earlier(run_dir, engine)
        try:
            return predict(engine, questions, protocol, run_dir, answerer, session, limit=variant.limit)
        finally:
            note_usage(run_dir, engine)


def predict(
    engine: Engine,
    questions: QuestionSet,
    protocol: Protocol,
    run_dir: Path,
    answerer: Answerer,
    session: Session = ALONE,
    *,
    limit: int | None = None,
) -> PredictionSummary:
    """Ask every question that has no record yet; see `predict_benchmark`."""
    if limit is not None and limit < 1:
        raise UserError(f"limit is {limit}; ask at least one question")
    info = RunInfo(
        protocol=protocol,
        protocol_hash=protocol.hash,
        checkpoint=answerer.checkpoint,
        data=data_identity(questions),
        system=answerer.system,
        limit=limit,
        recipe=answerer.recipe,
        versions=software_versions(__version__),
        arithmetic=answerer.arithmetic,
    )
    run = RunFolder.open(Path(run_dir), info)
    planned = questions.questions[: run.planned]
    with RecordWriter(run.predictions_file(session.rank, session.ranks)) as records:
        files = AskedFiles(run, info.data)
        videos = _begin(run, info, planned, files, session)
        started, total = time.monotonic(), videos.left
        task = f"asking {protocol.benchmark}"
        with contextlib.closing(videos), ProgressDisplay(enabled=session.progress and bool(total)) as display:
            display.start(task, total)
            for asked_now in videos.rounds():
                for prediction in _ask(engine, asked_now, protocol, questions.folder, files):
                    records.append(prediction.record())
                    videos.stored(prediction.index)
                    display(task, total - videos.left, total)
        seconds = time.monotonic() - started
    if videos.asked:
        _log_work(run, session, videos.asked, seconds, getattr(engine, "stats", None))
    return PredictionSummary(run.path, _finish(run, planned), asked_now=videos.asked, seconds=seconds)


def _begin(
    run: RunFolder, info: RunInfo, planned: Sequence[Question], files: AskedFiles, session: Session
) -> SharedVideos:
    """Check and store what a run is asked; returns the videos that this process asks about now.

    Raises:
        UserError: the run was asked about other files, or by other versions of the software.
    """

    def done() -> set[int]:
        return {one.index for one in run.predictions() if one.error is None or not (one.open or session.retry_failed)}

    asked = group_by_video([one for one in planned[: info.limit] if not one.missing])
    videos = SharedVideos(run, asked, done, session)
    files.require_unchanged(planned)
    run.begin_asking(info, bool(videos.left), session.other_versions)
    run.write_missing([question for question in planned if question.missing])
    run.write_plan(planned)
    _log_session(run, session, videos.left)
    return videos


def _finish(run: RunFolder, planned: Sequence[Question]) -> Ledger:
    """Join what several processes have answered, and write the official answers, once every question has an outcome."""
    with locked(run.path / RUN_FILE):  # the processes end together
        ledger = ledger_of(run)
        if not ledger.count(Asking.NOT_ASKED):
            groups = group_by_video([one for one in planned if not one.missing])
            run.join_predictions([question.index for group in groups for question in group])
            run.write_official()
    return ledger


def _ask(
    engine: Engine, videos: Iterable[Sequence[Question]], protocol: Protocol, folder: Path, files: AskedFiles
) -> Iterator[Prediction]:
    """Ask, and yield the predictions of a question as soon as all that it asks is answered."""
    alike: dict[int, list[Question]] = {}

    def requests() -> Iterator[Request]:
        for video in videos:
            asked = dict.fromkeys(question.asked for question in video)
            for question in video:
                alike.setdefault(question.asked, []).append(question)
            for one in asked:
                files.begin(alike[one])
                yield from _requests(one, alike[one][0], protocol, folder)

    waiting: dict[int, dict[bool, Answer]] = {}
    for answer in engine.answer(requests()):
        asked, is_second = int(answer.id.removesuffix(SECOND)), answer.id.endswith(SECOND)
        answers = waiting.setdefault(asked, {})
        answers[is_second] = answer
        if len(answers) == 1 + (alike[asked][0].second is not None):
            if all(one.error is None for one in answers.values()):
                files.note(alike[asked])
            yield from (_prediction(question, protocol, waiting[asked]) for question in alike[asked])
            del waiting[asked]


def _requests(asked: int, question: Question, protocol: Protocol, folder: Path) -> Iterator[Request]:
    """The requests of a question; their ids are part of the seed of sampling."""
    media = media_of(question, protocol, folder)
    tags = "".join(f"<{ref.stream}>" for ref in media if not question.media_in_text) if question.media_alone else None
    options = () if protocol.choices is None else protocol.choices.scored(question.options)
    forced = str(question.answer) if protocol.forced else None
    text = question_text(question, protocol, tags)
    # What stands between media and question is left out where there are no media before it.
    text = text.strip() if question.text_alone else text.lstrip() if question.media_in_text else text
    yield Request(id=str(asked), media=media, question=text, options=options, forced=forced)
    if question.second is not None:
        second = replace(question, question=question.second)
        if protocol.forced and question.second_answer is not None:
            forced = question.second_answer
        yield Request(id=f"{asked}{SECOND}", media=media, question=question_text(second, protocol, tags), forced=forced)


def _prediction(question: Question, protocol: Protocol, answers: Mapping[bool, Answer]) -> Prediction:
    """Args: answers: those to the question (False) and to its second question (True)."""
    error = next((answer.error for answer in answers.values() if answer.error is not None), None)
    texts = {second: "" if error is not None else protocol.clean(answer.text) for second, answer in answers.items()}
    ends = {second: "error" if error is not None else answer.finish_reason for second, answer in answers.items()}
    found = prediction_of(question, protocol, texts[False], finish_reason=ends[False], error=error)
    if (likelihoods := answers[False].likelihoods) and error is None and protocol.choices is not None:
        likeliest = max(range(len(likelihoods)), key=likelihoods.__getitem__)
        found = replace(found, pred=ascii_uppercase[likeliest], likelihoods=[round(one, 6) for one in likelihoods])
    if any(answer.open for answer in answers.values()):
        found = replace(found, open=True)
    margins = [answer.margin for answer in answers.values() if answer.margin is not None]
    if margins and error is None:
        found = replace(found, margin=round(min(*margins, LARGEST_MARGIN), 2))
    if question.second is None:
        return found
    return replace(found, second={"question": question.second, "pred": texts[True], "finish_reason": ends[True]})


def _log_work(run: RunFolder, session: Session, asked: int, seconds: float, stats: Any) -> None:
    """Store what this call has computed, beside the number of distinct files and prefixes that it was asked about."""
    work = asdict(stats) if isinstance(stats, EngineStats) else {}
    line = {"rank": session.rank, "ranks": session.ranks, "asked": asked, "seconds": round(seconds, 3), **work}
    with contextlib.closing(RecordWriter(run.path / "work.jsonl", shared=True)) as lines:
        lines.append(line)


def _log_session(run: RunFolder, session: Session, pending: int) -> None:
    with contextlib.closing(RecordWriter(run.path / "sessions.jsonl", shared=True)) as sessions:
        sessions.append(
            {
                "started": datetime.now(UTC).isoformat(timespec="seconds"),
                "rank": session.rank,
                "ranks": session.ranks,
                "to_ask": pending,
                "versions": software_versions(__version__),
            }
        )
