"""Why two runs of one benchmark differ: each rule that differs is changed alone, and its worth is measured.

Run A is asked again on the first questions of the test set, each time with one rule as run B has it. Every such run
lies in a folder of its own and goes on where it was stopped.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
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
from vidtune.evaluation.runs.folder import RunFolder
from vidtune.evaluation.runs.run_info import RunInfo
from vidtune.evaluation.runs.usage import note_usage
from vidtune.evaluation.scores.comparison import Comparison, compare_runs
from vidtune.evaluation.scores.scoring import score_run

NO_RULES = ("benchmark", "version", "harness", "untrained_length")
"""Parts of a protocol that say whose rules they are or what follows from them, and change no answer themselves."""
DTYPE = "arithmetic.dtype"
FEATURES = "features"
"""Rule by which stored features are read; the runs say of which folders."""
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
    _put(record, change.name.split("."), change.second)
    try:
        return Protocol.model_validate(record)
    except ValidationError as error:
        raise UserError(f"{change.name}: {error.errors()[0]['msg']}") from None


def _put(rules: dict[str, Any], path: Sequence[str], value: Any) -> None:
    """Set one of the rules inside each other; None: it is not there, nor is what would hold nothing without it."""
    first, *further = path
    if further:
        _put(rules.setdefault(first, {}), further, value)
        value = rules[first] or None
    if value is None:
        rules.pop(first, None)
    else:
        rules[first] = value


def asked_in_both(first: Path, second: Path, limit: int) -> int:
    """Number of questions from the start of the test set that both runs were asked, at most ``limit``."""
    return min(limit, *(RunFolder(path).planned for path in (first, second)))


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
        limit: number of questions from the start of the test set, of those that both were asked.
        judge: name of what scored both runs.
        data: folder of the test set; None: where it was when A was asked.

    Raises:
        UserError: the runs cannot be told apart by rules; or a run with a change cannot be asked at all.
    """
    one, two = RunFolder(first), RunFolder(second)
    changes, limit = changes_between(one.info, two.info), asked_in_both(first, second, limit)
    place = out / f"first-{limit}"
    again = _Again(one.info, two.info.data.features, open_model, data, place, limit, answering, session)
    runs: list[tuple[Change, Path | None, str]] = []
    for change in changes:
        try:
            runs.append((change, again.asked(change), ""))
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


@dataclass
class _Again:
    """Asks run A again with one change at a time; one model is in memory at a time.

    Args:
        info: of run A.
        features: stream -> folder of stored features that run B read.
        data: folder of the test set; None: where it was when A was asked.
    """

    info: RunInfo
    features: Mapping[str, str]
    open_model: OpenModel
    data: Path | None
    out: Path
    limit: int
    answering: AnsweringOptions
    session: Session
    model: tuple[str | None, EvaluatedModel] | None = None

    def asked(self, change: Change) -> Path:
        """Ask with a change; returns the folder of the run. Raises UserError: it cannot be made alone."""
        dtype = change.second if change.name == DTYPE else _dtype(self.info)
        protocol = self.info.protocol if change.name == DTYPE else with_change(self.info.protocol, change)
        questions = self._questions(self.features if change.name == FEATURES else self.info.data.features)
        model, run_dir = self._opened(dtype), self.out / _folder(change)
        answerer = Answerer(model.identity, model.system, model.recipe, model.arithmetic)
        with model.engine(protocol, self.answering) as engine:
            try:
                predict(engine, questions, protocol, run_dir, answerer, self.session, limit=self.limit)
            finally:
                if run_dir.is_dir():
                    note_usage(run_dir, engine)
        return run_dir

    def _questions(self, features: Mapping[str, str]) -> QuestionSet:
        """The questions of A. Raises UserError: the folder holds another version of the test set."""
        benchmark = stored_benchmark(self.info.protocol, self.info.data.file)
        questions = benchmark.load(Path(self.data or self.info.data.folder)).with_similar_files()
        if features:
            folders = {stream: Path(folder) for stream, folder in features.items()}
            questions = benchmark.with_features(questions, folders, self.info.protocol.stream)
        if questions.fingerprint != self.info.data.fingerprint:
            raise UserError(f"{questions.folder}: is another version of the test set than the runs were asked")
        return questions

    def _opened(self, dtype: str | None) -> EvaluatedModel:
        if self.model is None or self.model[0] != dtype:
            self.model = None
            self.model = dtype, self.open_model(dtype)
        return self.model[1]


def _dtype(info: RunInfo) -> str | None:
    """The dtype of a run, to open the model in; None: as its checkpoint says."""
    kind = None if info.arithmetic is None else info.arithmetic.dtype
    return None if kind is None or " and " in kind else kind


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
