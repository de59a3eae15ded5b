"""Why two runs of one benchmark differ: each rule that differs is changed alone, and its worth is measured.

Run A is asked again on the first questions of the test set, each time with one rule as run B has it. Every such run
lies in a folder of its own and goes on where it was stopped.
"""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from vidtune.errors import UserError
from vidtune.evaluation.asking.shared_videos import Session
from vidtune.evaluation.benchmarks.own.finding import stored_benchmark
from vidtune.evaluation.checkpoint import DEFAULT_ANSWERING, AnsweringOptions
from vidtune.evaluation.models.base import EvaluatedModel
from vidtune.evaluation.predict import ALONE, Answerer, predict
from vidtune.evaluation.protocol import Protocol, canonical_json, differences
from vidtune.evaluation.question import QuestionSet
from vidtune.evaluation.runs.folder import RunFolder, RunInfo
from vidtune.evaluation.runs.usage import note_usage
from vidtune.evaluation.scores.comparison import Comparison, compare_runs
from vidtune.evaluation.scores.scoring import score_run

NO_RULES = ("benchmark", "version", "harness")
"""Parts of a protocol that say whose rules they are, and change no answer themselves."""
DTYPE = "arithmetic.dtype"
ALL = "all of them"

OpenModel = Callable[[str | None], EvaluatedModel]
"""Function(dtype, None: that of the checkpoint) -> the model of both runs."""


@dataclass(frozen=True)
class Change:
    """One rule that differs between two runs; None: it is not there.

    Args:
        name: such as ``preprocessing.sampling``, or `DTYPE`.
    """

    name: str
    first: Any
    second: Any


@dataclass(frozen=True)
class Worth:
    """What a change is worth.

    Args:
        comparison: the run with this change minus run A; None: it cannot be made alone.
        problem: why it cannot.
    """

    change: Change
    comparison: Comparison | None
    problem: str = ""


def changes_between(first: RunInfo, second: RunInfo) -> list[Change]:
    """Returns the rules in which two runs differ, one by one.

    Raises:
        UserError: they asked other questions or another checkpoint, or no rule differs.
    """
    if first.checkpoint.fingerprint != second.checkpoint.fingerprint:
        raise UserError(
            f"the runs are of different checkpoints, {first.checkpoint.path} and {second.checkpoint.path}; --why tells "
            "rules apart, so give two runs of one checkpoint"
        )
    if first.data.fingerprint != second.data.fingerprint:
        raise UserError("the runs were asked different versions of the test set; they cannot be compared rule by rule")
    records = [one.protocol.model_dump(mode="json") for one in (first, second)]
    for record in records:
        for name in NO_RULES:
            record.pop(name, None)
    found = [Change(name, *values) for name, values in differences(*records).items()]
    kinds = [None if one.arithmetic is None else one.arithmetic.dtype for one in (first, second)]
    if None not in kinds and kinds[0] != kinds[1]:
        found.append(Change(DTYPE, *kinds))
    if not found:
        raise UserError("no rule differs between the runs, so none can be worth anything; `vidtune compare` says more")
    return found


def with_change(protocol: Protocol, change: Change) -> Protocol:
    """Returns a protocol with one rule as the other run has it.

    Raises:
        UserError: the rule cannot be changed alone.
    """
    record = protocol.model_dump(mode="json")
    record.pop("harness", None)
    here, (*above, last) = record, change.name.split(".")
    for part in above:
        here = here.setdefault(part, {})
    if change.second is None:
        here.pop(last, None)
    else:
        here[last] = change.second
    try:
        return Protocol.model_validate(record)
    except ValidationError as error:
        raise UserError(f"{change.name}: {error.errors()[0]['msg']}") from None


def explain(
    first: Path,
    second: Path,
    open_model: OpenModel,
    out: Path,
    *,
    limit: int,
    judge: str,
    data: Path | None = None,
    answering: AnsweringOptions = DEFAULT_ANSWERING,
    session: Session = ALONE,
) -> Iterator[Worth]:
    """Yields what each rule is worth by which run B differs from run A, and then all of them together.

    Args:
        first, second: folders of runs A and B; both have answered and scored the first questions.
        out: folder for the runs with one change each.
        limit: number of questions from the start of the test set.
        judge: name of what scored both runs.
        data: folder of the test set; None: where it was when A was asked.

    Raises:
        UserError: the runs cannot be told apart by rules; or a run with a change cannot be asked at all.
    """
    one, two = RunFolder(first), RunFolder(second)
    changes = changes_between(one.info, two.info)
    benchmark = stored_benchmark(one.info.protocol, one.info.data.file)
    questions = benchmark.load(Path(data or one.info.data.folder)).with_similar_files()
    if one.info.data.features:
        folders = {stream: Path(folder) for stream, folder in one.info.data.features.items()}
        questions = benchmark.with_features(questions, folders, one.info.protocol.stream)
    if questions.fingerprint != one.info.data.fingerprint:
        raise UserError(f"{questions.folder}: is another version of the test set than the runs were asked")
    models: dict[str | None, EvaluatedModel] = {}
    runs: list[tuple[Change, Path | None, str]] = []
    for change in changes:
        dtype = change.second if change.name == DTYPE else _dtype(one.info)
        try:
            protocol = one.info.protocol if change.name == DTYPE else with_change(one.info.protocol, change)
            if dtype not in models:
                models = {dtype: open_model(dtype)}  # one model in memory at a time
            place = out / f"first-{limit}" / _folder(change)
            runs.append((change, _asked(models[dtype], protocol, questions, place, answering, session, limit), ""))
        except UserError as error:
            runs.append((change, None, str(error)))
    if not any(run for _, run, _ in runs):
        raise UserError(f"no rule can be changed alone: {runs[0][0].name}: {runs[0][2]}")
    for change, run, problem in runs:
        if run is None:
            yield Worth(change, None, problem)
            continue
        _scored(run, judge)
        yield Worth(change, compare_runs(run, first, judge, limit=limit))
    yield Worth(Change(ALL, None, None), compare_runs(second, first, judge, limit=limit))


def _dtype(info: RunInfo) -> str | None:
    """The dtype of a run, to open the model in; None: as its checkpoint says."""
    kind = None if info.arithmetic is None else info.arithmetic.dtype
    return None if kind is None or " and " in kind else kind


def _asked(
    model: EvaluatedModel,
    protocol: Protocol,
    questions: QuestionSet,
    run_dir: Path,
    answering: AnsweringOptions,
    session: Session,
    limit: int,
) -> Path:
    answerer = Answerer(model.identity, model.system, model.recipe, model.arithmetic)
    with model.engine(protocol, answering) as engine:
        try:
            predict(engine, questions, protocol, run_dir, answerer, session, limit=limit)
        finally:
            if run_dir.is_dir():
                note_usage(run_dir, engine)
    return run_dir


def _scored(run: Path, judge: str) -> None:
    """Score a run. Raises UserError where only the command that names the judge can."""
    try:
        score_run(run, judge, progress=False)
    except UserError as error:
        raise UserError(
            f"{error}; judge {run.parent}/* with `vidtune judge` as the two runs were, then repeat --why"
        ) from None


def _folder(change: Change) -> str:
    """Name of the folder of the run with a change."""
    digest = hashlib.sha256(canonical_json([change.name, change.second]).encode()).hexdigest()[:8]
    return f"{change.name}-{digest}"
