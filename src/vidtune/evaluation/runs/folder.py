"""The folder of a run: the answers of one checkpoint to one benchmark under one protocol.

==============================  =======================================================================================
``run.json``                    protocol and its hash, checkpoint, test set, recipe, device, dtype, versions
``predictions.jsonl``           one line per question asked, the official fields ``id, question, answer, pred`` first
``predictions-<n>_<k>.jsonl``   the same, when rank k of n wrote it
``files.jsonl``                 the files that were asked about, with their content; see `runs.asked_files`
``missing.jsonl``               questions whose video does not exist
``questions.jsonl``             every question of the run: its place, id, video and type, and boxes and parts to show
``references.jsonl``            the same with what metrics compare with, where metrics score the run
``merge.jsonl``                 the answered questions as the published scripts record them, in the order of the test
                                set; a benchmark may have another name for it
``imported.json``               of an imported log: what is unusual, and answers that later ones replace
``sessions.jsonl``              when the run was started and resumed, with which versions
``usage.jsonl``                 requests, tokens and cost of each session that asked an endpoint, to answer or to judge
``work.jsonl``                  what each session has decoded, encoded and prefilled, against what was distinct
``judgements/<judge>.jsonl``    the verdicts of a judge
``measurements.jsonl``          what each question adds to each metric
``scores/<judge>.json``         the score by a judge; ``scores/metrics.json`` by metrics
==============================  =======================================================================================
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from vidtune.errors import UserError
from vidtune.evaluation.benchmarks.own.finding import medium_of_run, stored_benchmark
from vidtune.evaluation.question import Prediction, Question, read_prediction
from vidtune.evaluation.runs.run_info import RUN_FILE, DataIdentity, RunInfo, decisive, differences
from vidtune.evaluation.runs.shown_media import FILE_ALONE, ShownMedia, media_record, shown_media
from vidtune.foreign.documents import read_object, require_types
from vidtune.machine.files import write_json_atomically, write_text_atomically
from vidtune.machine.locks import locked
from vidtune.machine.nearby import below, listed
from vidtune.machine.records import read_as, read_records, write_records
from vidtune.recipe.mistakes import first_mistake

QUESTIONS = "questions.jsonl"
REFERENCES = "references.jsonl"
IMPORTED = "imported.json"


@dataclass(frozen=True, slots=True)
class PlannedQuestion:
    """A question that belongs to a run; see `evaluation.question.Question`.

    Args:
        media: what a report shows besides its file.
    """

    index: int
    id: str
    video: str
    type: str | None
    looked_for: str | None = None
    took: str | None = None
    media: ShownMedia = FILE_ALONE


class RunFolder:
    """An existing run.

    Raises:
        UserError: the folder holds no run, or one of another format.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        if not (self.path / RUN_FILE).is_file():
            runs = below(self.path, lambda folder: (folder / RUN_FILE).is_file())
            advice = f"one of those below it: {listed(runs)}" if runs else "the folder of one evaluation run"
            raise UserError(f"{self.path}: no {RUN_FILE} here; give {advice}")
        try:
            self.info = RunInfo.model_validate(read_object(self.path / RUN_FILE))
        except ValidationError as error:
            raise UserError(
                f"{self.path / RUN_FILE}: {first_mistake(error)}; was it written by another version?"
            ) from None

    @classmethod
    def open(cls, path: Path, info: RunInfo) -> "RunFolder":
        """Begin a run, or resume it. That more questions belong to it now is written by :meth:`begin_asking`.

        Raises:
            UserError: the folder holds another run (other protocol, checkpoint or test set) or other files.
        """
        if path.exists() and not path.is_dir():
            raise UserError(f"{path}: is a file; choose another output folder")
        path.mkdir(parents=True, exist_ok=True)
        with locked(path / RUN_FILE):  # several ranks may begin a run together
            if (path / RUN_FILE).exists():
                run = cls(path)
                run._require_same(info)
                run.info = run._with_limit(info)
                return run
            if any(path.glob("predictions*.jsonl")):
                raise UserError(f"{path}: holds predictions without a {RUN_FILE}; choose another output folder")
            run = cls.__new__(cls)
            run.path, run.info = path, info
            run._write_info()
            return run

    def _with_limit(self, info: RunInfo) -> RunInfo:
        """What the run is when these questions belong to it too."""
        limits = (self.info.limit, info.limit)
        largest = None if None in limits else max(limit for limit in limits if limit is not None)
        return self.info.model_copy(update={"limit": largest})

    def begin_asking(self, info: RunInfo, asks: bool, other_versions: bool = False) -> None:
        """Write down what the run is now. Further answers must be computed as those that are stored.

        Args:
            info: description of the run that asks now.
            asks: whether there is a question to ask.
            other_versions: allow other versions of the software; the run then says so.

        Raises:
            UserError: another dtype or device, or none said, or another version that is not allowed.
        """
        with locked(self.path / RUN_FILE):
            stored = RunFolder(self.path)
            stored.info = stored._with_limit(self.info)
            if asks:
                stored.info = stored.info.model_copy(update=stored._computed_alike(info, other_versions))
            self.info = stored.info
            if self.info != RunFolder(self.path).info:
                self._write_info()

    def _computed_alike(self, info: RunInfo, other_versions: bool) -> dict[str, Any]:
        """Returns what changes in the description of the run. Raises UserError, see :meth:`begin_asking`."""
        mine, asks = self.info.arithmetic, info.arithmetic
        update: dict[str, Any] = {}
        if mine is None:
            update["arithmetic"] = asks
            if asks is not None and any(one.error is None for one in self.predictions()):
                update["unknown_arithmetic"] = True
        elif asks is None:
            raise UserError(
                f"{self.path}: its answers are computed with {mine.dtype} on {mine.device}, the others with what is "
                "not said; give predict the same arithmetic"
            )
        else:
            for option, old, new in (("--dtype", mine.dtype, asks.dtype), ("--device", mine.device, asks.device)):
                if old != new:
                    raise UserError(
                        f"{self.path}: its answers are computed with {option} {old}, the others would be with {new}; "
                        f"go on with {old}, or choose another folder with --out"
                    )
        known = [decisive(versions) for versions in (self.info.versions, *self.info.other_versions)]
        changes = differences(self.info.versions, info.versions)
        if changes and decisive(info.versions) not in known:
            if not other_versions:
                raise UserError(
                    f"{self.path}: its answers and the others would be of different versions: {', '.join(changes)}; "
                    "choose another folder with --out, or allow it with --other-versions, and the score says it"
                )
            update["other_versions"] = (*self.info.other_versions, info.versions)
        return update

    def join_predictions(self, order: Sequence[int]) -> None:
        """Put the answers of several processes into one file, as one process would have written them.

        Answers to questions that were open take the places of the failures, as if there had been none.

        Args:
            order: places of the questions in the test set, in the order of asking.
        """
        parts = sorted(self.path.glob("predictions-*.jsonl"))
        if parts:
            latest = {one.index: one for one in self.predictions(whole=True)}
            known = [latest.pop(index) for index in order if index in latest]
            write_records(self.path / "predictions.jsonl", (one.record() for one in [*known, *latest.values()]))
            for part in parts:
                part.unlink(missing_ok=True)
            return
        records = list(read_records(self.path / "predictions.jsonl"))
        if any(record.get("open") for record in records):
            write_records(self.path / "predictions.jsonl", _healed(records))

    def predictions_file(self, rank: int = 0, count: int = 1) -> Path:
        return self.path / ("predictions.jsonl" if count == 1 else f"predictions-{count}_{rank}.jsonl")

    def predictions(self, *, whole: bool = False) -> list[Prediction]:
        """Returns the questions asked so far; a later record replaces an earlier error.

        They are in the order of the test set; of an imported log, in that of its lines: published scripts count the
        last line of an id.

        Args:
            whole: also those beyond the limit of the run.
        """
        latest: dict[int, Prediction] = {}
        for file in sorted(self.path.glob("predictions*.jsonl")):
            for prediction in read_as(file, partial(read_prediction, file)):
                known = latest.get(prediction.index)
                if known is None or known.error is not None or prediction.error is None:
                    latest[prediction.index] = prediction
        limit = None if whole else self.info.limit
        order = latest if self.is_imported else sorted(latest)
        return [latest[index] for index in order if limit is None or index < limit]

    def write_imported(self, notes: Sequence[str], earlier: Sequence[Prediction]) -> None:
        """Store what is unusual in an imported log, and its answers that later ones replace."""
        write_json_atomically(
            self.path / IMPORTED, {"notes": list(notes), "earlier": [one.record() for one in earlier]}
        )

    def import_notes(self) -> list[str]:
        """Returns what is unusual in an imported log, one line each."""
        return self._imported("notes")

    def earlier_answers(self) -> list[Prediction]:
        """Returns the answers of an imported log that later ones replace, in the order of the test set."""
        return [read_prediction(self.path / IMPORTED, record) for record in self._imported("earlier")]

    @property
    def is_imported(self) -> bool:
        """Whether the answers come from a log that another program has written."""
        return (self.path / IMPORTED).is_file()

    def _imported(self, what: str) -> list[Any]:
        path = self.path / IMPORTED
        found = read_object(path).get(what, []) if path.is_file() else []
        if not isinstance(found, list) or not all(isinstance(one, str | dict) for one in found):
            raise UserError(f"{path}: {what!r} has a wrong value; import the log again")
        return found

    def missing(self) -> list[dict[str, Any]]:
        """Returns the questions of the run whose video does not exist."""
        return list(read_as(self.path / "missing.jsonl", _planned))

    def write_missing(self, questions: Sequence[Question]) -> None:
        protocol, medium = self.info.protocol, medium_of_run(self.info.protocol)
        no_file = "no file" if medium == "file" else f"no {medium} file"
        stored = protocol.stream in self.info.data.features

        def reason(question: Question) -> str:
            return "no stored features" if stored and question.stream in (None, protocol.stream) else no_file

        lines = [
            {
                "index": question.index,
                "id": question.id,
                "video": question.video,
                **({"type": question.type} if question.type is not None else {}),
                "reason": question.problem or reason(question),
            }
            for question in questions
        ]
        write_text_atomically(self.path / "missing.jsonl", "".join(json.dumps(line) + "\n" for line in lines))

    def write_plan(self, questions: Sequence[Question]) -> None:
        """Store which questions belong to the run, so that it can be scored without the test set."""
        measured = any(question.reference is not None for question in questions)
        lines = [
            {
                "index": question.index,
                "id": question.id,
                "video": question.video,
                "type": question.type,
                **({"reference": question.reference} if measured else {}),
                **self._found(question),
                **media_record(question),
            }
            for question in questions
        ]
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        write_text_atomically(self.path / (REFERENCES if measured else QUESTIONS), text)

    def _found(self, question: Question) -> dict[str, str]:
        """Where the video of a question was looked for, and what was taken in its place."""
        unread = question.took is not None and question.took == question.file and not self.info.protocol.reads_videos
        took = None if unread else question.took
        if question.looked_for is None or not (question.missing or took):
            return {}
        return {"looked_for": question.looked_for, **({"took": took} if took else {})}

    def references(self) -> list[dict[str, Any]]:
        """Returns what metrics compare with, for every question of the run, in the order of the test set."""
        return list(read_as(self.path / REFERENCES, _with_reference))

    def references_by_index(self) -> dict[int, Any]:
        """Returns what metrics compare with, by question index."""
        return {line["index"]: line["reference"] for line in self.references()}

    def plan(self) -> list[PlannedQuestion]:
        """Returns every question of the run, in the order of the test set.

        A run of the first version that judges score stores only the questions that were asked or have no video. Each of
        its other questions counts as one about a video of its own.
        """
        stored = [*read_as(self.path / QUESTIONS, _planned)] or self.references()
        stored = stored or [*self.missing(), *(asdict(prediction) for prediction in self.predictions())]
        known = {line["index"]: line for line in stored}
        unknown = {"id": "unknown", "type": None}
        return [
            PlannedQuestion(
                index,
                line["id"],
                line["video"],
                line.get("type"),
                line.get("looked_for"),
                line.get("took"),
                shown_media(line),
            )
            for index in range(self.planned)
            for line in [known.get(index, {**unknown, "video": f"of question {index}"})]
        ]

    def write_official(self) -> None:
        """Write the answers in the form of the published scripts. Questions without an answer are left out."""
        benchmark = stored_benchmark(self.info.protocol, self.info.data.file)
        for name, text in benchmark.official_files(self.predictions(), self.references_by_index()):
            write_text_atomically(self.path / name, text)

    @property
    def planned(self) -> int:
        """Number of questions that belong to the run."""
        total = self.info.data.questions
        return total if self.info.limit is None else min(total, self.info.limit)

    def judges(self) -> list[str]:
        """Returns the names of the judges that have scored this run, or "metrics"."""
        return sorted(file.stem for file in (self.path / "scores").glob("*.json"))

    def _write_info(self) -> None:
        write_text_atomically(self.path / RUN_FILE, json.dumps(self.info.model_dump(mode="json"), indent=1) + "\n")

    def _require_same(self, info: RunInfo) -> None:
        mine, asked = self.info, info
        differences = [
            ("benchmark", mine.benchmark, asked.benchmark),
            ("checkpoint", mine.checkpoint.fingerprint, asked.checkpoint.fingerprint),
            ("protocol", mine.protocol_hash, asked.protocol_hash),
            ("test set", mine.data.fingerprint, asked.data.fingerprint),
            ("features of", _streams(mine.data), _streams(asked.data)),
        ]
        for what, old, new in differences:
            if old != new:
                raise UserError(
                    f"{self.path}: holds the results of another run ({what} {old}, not {new}); "
                    "choose another output folder"
                )


def _planned(line: dict[str, Any]) -> dict[str, Any]:
    """A line about a question of the run. Raises for one of another form."""
    nothing = type(None)
    require_types(line, {"index": int, "id": str, "video": str, "type": (str, nothing)})
    require_types(line, dict.fromkeys(("looked_for", "took"), (str, nothing)))
    shown_media(line)
    return line


def _with_reference(line: dict[str, Any]) -> dict[str, Any]:
    if "reference" not in line:
        raise ValueError("'reference' is missing")
    return _planned(line)


def _streams(data: DataIdentity) -> str:
    return ", ".join(sorted(data.features)) or "none"


def _healed(records: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The records of a run without those of open questions; the answers that came later stand in their places."""
    open_ones = {record["index"]: record["video"] for record in records if record.get("open")}
    later: dict[str, list[dict[str, Any]]] = {video: [] for video in open_ones.values()}
    for record in records:
        if record["index"] in open_ones and not record.get("open"):
            later[record["video"]].append(record)
    placed: set[int] = set()
    for record in records:
        if record["index"] not in open_ones:
            yield record
        elif record["index"] not in placed:
            placed.add(record["index"])
            yield from later[record["video"]][:1]
            del later[record["video"]][:1]
