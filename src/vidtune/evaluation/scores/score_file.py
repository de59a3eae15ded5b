"""Files of scores, ``scores/<judge>.json``: the layout in which a `Score` is stored.

Accuracy and average score over all questions are stored as ``overall`` and ``by_type``, each with flat values
(``accuracy``, ``strict_accuracy``, ...). A score with other values, or whose question types have metrics of their own,
is stored as ``tasks``, each with a list of ``metrics``; all tasks together, where they have common metrics, as
``overall`` beside them. Both layouts are those of the first version of this package.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vidtune.errors import UserError
from vidtune.evaluation.ledger import Asking
from vidtune.evaluation.runs.folder import RunFolder
from vidtune.evaluation.runs.run_ledger import answers_digest, ledger_of
from vidtune.evaluation.scores.score import METRICS, NamedValue, Score, ScoreGroup
from vidtune.evaluation.scores.score_lines import says_yes
from vidtune.foreign.documents import read_object
from vidtune.foreign.files import reading
from vidtune.machine.files import write_json_atomically

_TOTAL_COUNTS = {"questions": "questions", "videos": "videos", "judged": "scored", "yes": "yes", "no": "no"}
_TOTAL_COUNTS |= {name: name for name in ("unjudged", "missing", "errors", "empty")}
_TASK_COUNTS = {"questions": "questions", "answered": "scored", "missing": "missing", "errors": "errors"}
_TASK_COUNTS |= {name: name for name in ("unanswered", "empty", "unread", "videos")}
_LATER_COUNTS = (
    "unclear",
    "out_of_range",
    "unreadable",
    "judge_failed",
    "not_judged",
    "repeated",
    "excluded",
    "unanswered",
    "similar",
    "lenient",
    "with_margin",
    "fragile",
)
"""Counts that the first version did not know; one of 0 is not stored."""
_LATER_OF_TASKS = ("yes", "no", "unjudged", *(name for name in _LATER_COUNTS if name not in _TASK_COUNTS.values()))
_STRICT, _PUBLISHED = "strict_", "published_"


def score_path(run: Path, judge: str) -> Path:
    """Path of the score file of a judge, or of "metrics"."""
    return run / "scores" / f"{judge}.json"


def write_score(run: Path, score: Score) -> None:
    """Store a score in the folder of its run."""
    write_json_atomically(score_path(run, score.judge), score_record(score))


def read_score(run: Path, judge: str) -> Score:
    """Read a stored score.

    Raises:
        UserError: no such file, not valid JSON, or no score.
    """
    path = score_path(Path(run), judge)
    record = read_object(path)
    with reading(path):
        return score_of(record)


def read_current_score(run: RunFolder, judge: str) -> Score:
    """Read the score of a run as it is now.

    Raises:
        UserError: no such file, not valid JSON, or answers have come since.
    """
    score, ledger = read_score(run.path, judge), ledger_of(run)
    groups = (score.overall,) if score.overall is not None else score.groups
    then = [sum(getattr(group, name) for group in groups) for name in ("questions", "missing", "errors", "unanswered")]
    now = [ledger.planned, *map(ledger.count, (Asking.NO_FILE, Asking.FAILED, Asking.NOT_ASKED))]
    digest = None if score.answers is None else answers_digest(run, None if score.measured else judge)
    if then != now or digest != score.answers:
        raise UserError(f"{run.path}: its score by {judge} is of another time, now it has {ledger}; judge it again")
    return score


def score_record(score: Score) -> dict[str, Any]:
    """The score as the JSON object that is stored."""
    header: dict[str, Any] = {"benchmark": score.benchmark, "blind": score.blind}
    if score.without or score.overall is None:
        header["without"] = list(score.without)
    header |= {
        "protocol_hash": score.protocol_hash,
        "checkpoint": score.checkpoint.model_dump(mode="json"),
        "system": score.system,
        "judge": score.judge,
        **({"answers": score.answers} if score.answers is not None else {}),
    }
    if score.overall is None or not says_yes(score):
        return header | {
            "measuring": score.identity,
            "intervals": score.intervals,
            "coverage": score.coverage,
            **({"duplicates": score.duplicates} if score.duplicates else {}),
            **_reasons(score),
            "left_out": score.left_out,
            **({"overall": _task_record(score.overall)} if score.overall is not None else {}),
            "tasks": [_task_record(group) for group in score.groups],
        }
    return header | {
        "judge_identity": score.identity,
        "intervals": score.intervals,
        "unanswered": score.unanswered,
        "duplicates": score.duplicates,
        **_reasons(score),
        "overall": _total_record(score.overall),
        "by_type": {group.type: _total_record(group) for group in score.groups},
    }


def score_of(record: Mapping[str, Any]) -> Score:
    """The score that a stored JSON object holds."""
    common = {name: record[name] for name in ("benchmark", "blind", "protocol_hash", "checkpoint", "system")}
    common |= {"without": record.get("without", ()), "answers": record.get("answers")}
    common |= {name: record[name] for name in ("intervals", "reasons", "fragile_examples") if name in record}
    if "tasks" in record:
        groups = tuple(_task_of(task) for task in record["tasks"])
        overall = _task_of(record["overall"]) if "overall" in record else None
        return Score(
            **common,
            judge=record.get("judge", METRICS),
            identity=record["measuring"],
            left_out=record["left_out"],
            unanswered=sum(group.unanswered for group in (groups if overall is None else (overall,))),
            duplicates=record.get("duplicates", 0),
            overall=overall,
            groups=groups,
        )
    return Score(
        **common,
        judge=record["judge"],
        identity=record["judge_identity"],
        unanswered=record["unanswered"],
        duplicates=record["duplicates"],
        overall=_total_of(_with_unanswered(record), None),
        groups=tuple(_total_of(part, kind) for kind, part in record["by_type"].items()),
    )


def _reasons(score: Score) -> dict[str, Any]:
    fragile = {"fragile_examples": score.fragile_examples} if score.fragile_examples else {}
    return ({"reasons": list(score.reasons)} if score.reasons else {}) | fragile


def _with_unanswered(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """The numbers over all questions. The first version kept questions not asked yet beside them."""
    overall, unanswered = record["overall"], record["unanswered"]
    if unanswered == overall.get("unanswered", 0):
        return overall
    return {**overall, "questions": overall["questions"] + unanswered, "unanswered": unanswered}


def _total_record(group: ScoreGroup) -> dict[str, Any]:
    record = {theirs: getattr(group, ours) for theirs, ours in _TOTAL_COUNTS.items()}
    dumped = [value.model_dump(mode="json") for value in group.values]
    record |= {value["name"]: value["official"] for value in dumped}
    record |= {_STRICT + value["name"]: value["strict"] for value in dumped}
    record |= {_PUBLISHED + one["name"]: one["published"] for one in dumped if one["published"] is not None}
    record |= {name: getattr(group, name) for name in _LATER_COUNTS if getattr(group, name)}
    return record | {"reason": group.reason}


def _total_of(record: Mapping[str, Any], kind: str | None) -> ScoreGroup:
    names = [key for key in record if key not in _TOTAL_COUNTS and _STRICT + key in record]
    values = [
        NamedValue(
            name=name,
            official=record[name],
            strict=record[_STRICT + name],
            published=record.get(_PUBLISHED + name),
            reason=record.get("reason") if number == 0 else None,
        )
        for number, name in enumerate(names)
    ]
    counts = {ours: record[theirs] for theirs, ours in _TOTAL_COUNTS.items()}
    counts |= {name: record[name] for name in _LATER_COUNTS if name in record}
    return ScoreGroup(type=kind, **counts, values=tuple(values))


def _task_record(group: ScoreGroup) -> dict[str, Any]:
    return {
        "type": group.type,
        **{theirs: getattr(group, ours) for theirs, ours in _TASK_COUNTS.items()},
        **{name: getattr(group, name) for name in _LATER_OF_TASKS if getattr(group, name)},
        "metrics": [value.model_dump(mode="json", exclude=_unpublished(value)) for value in group.values],
    }


def _unpublished(value: NamedValue) -> set[str]:
    return {"published"} if value.published is None else set()


def _task_of(record: Mapping[str, Any]) -> ScoreGroup:
    counts = {ours: record[theirs] for theirs, ours in _TASK_COUNTS.items()}
    counts |= {name: record[name] for name in _LATER_OF_TASKS if name in record}
    return ScoreGroup(type=record["type"], **counts, values=tuple(record["metrics"]))
