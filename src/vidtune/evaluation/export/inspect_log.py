"""A run as a log of inspect (UK AI Security Institute), which ``inspect view`` opens: a zip archive of JSON files.

=====================================  ================================================================================
``header.json``                        the evaluation: task, model, test set, results
``samples/<id>_epoch_1.json``          a question with its answer and score
``summaries.json``                     the same without messages, which a list of questions shows
``_journal/start.json``                the header as it was before the first answer
=====================================  ================================================================================

The format is described at https://inspect.aisi.org.uk/eval-logs.html. Nothing of inspect is needed to write it.
"""

import hashlib
import json
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from vidtune.evaluation.judges.base import Judgement
from vidtune.evaluation.ledger import Asking
from vidtune.evaluation.outcome import Outcome, ScoreSource
from vidtune.evaluation.protocol import flat_rules
from vidtune.evaluation.question import Prediction
from vidtune.evaluation.runs.folder import RunFolder
from vidtune.evaluation.runs.run_ledger import judged_ledger
from vidtune.evaluation.scores.changed import verdict_text
from vidtune.evaluation.scores.score import Score
from vidtune.evaluation.scores.score_file import read_current_score
from vidtune.evaluation.scores.scoring import source_for
from vidtune.machine.files import atomic_file
from vidtune.machine.records import read_as

VERSION = 2
STOPS = {"length": "max_tokens", "error": "unknown"}
"""Our reason why an answer ended -> that of inspect; any other is "stop"."""
FIRST_DAY = datetime(1980, 1, 1, tzinfo=UTC)


def write_inspect_log(run: RunFolder, judge: str, out: Path) -> Path:
    """Write the log of a run.

    Args:
        out: file that ends in ``.eval``, or a folder, in which the file gets the name by which inspect lists logs.

    Returns:
        The file.

    Raises:
        UserError: the run is not scored by this judge, or has got answers since.
    """
    score, source = read_current_score(run, judge), source_for(run, judge)
    begun, ended = _times(run)
    identity = _identity(run, source)
    path = out if out.suffix == ".eval" else out / _file_name(run.info.benchmark, begun, identity)
    samples = list(_samples(run, source))
    spec, status = _spec(run, identity, begun, samples), _status(source)
    plan: dict[str, Any] = {"name": "plan", "steps": [], "config": {}}
    header = {
        "version": VERSION,
        "status": status,
        "eval": spec,
        "plan": plan,
        "results": _results(score, samples),
        "stats": {"started_at": begun, "completed_at": ended, "model_usage": {}},
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
        _add(archive, "_journal/start.json", {"version": VERSION, "eval": spec, "plan": plan})
        for sample in samples:
            _add(archive, f"samples/{sample['id']}_epoch_1.json", sample)
        _add(archive, "summaries.json", [_summary(sample) for sample in samples])
        _add(archive, "header.json", header)
    return path


def _add(archive: zipfile.ZipFile, name: str, value: Any) -> None:
    # A fixed date: the same run gives the same file.
    entry = zipfile.ZipInfo(name, FIRST_DAY.timetuple()[:6])
    entry.compress_type = zipfile.ZIP_DEFLATED
    archive.writestr(entry, json.dumps(value, indent=1, ensure_ascii=True))


def _times(run: RunFolder) -> tuple[str, str]:
    """When the run was started, and when its answers were last written; in the form of ISO 8601."""
    started = list(read_as(run.path / "sessions.jsonl", lambda record: str(record["started"])))
    written = [file.stat().st_mtime for file in run.path.glob("predictions*.jsonl")]
    ended = datetime.fromtimestamp(max(written, default=0), UTC).isoformat(timespec="seconds")
    return (started[0] if started else ended), ended


def _identity(run: RunFolder, source: ScoreSource) -> str:
    info = run.info
    parts = [info.protocol_hash, info.checkpoint.fingerprint, info.data.fingerprint, info.limit, source.name]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:22]


def _file_name(benchmark: str, begun: str, identity: str) -> str:
    moment = begun.replace(":", "-").replace("+", "-")
    return f"{moment}_{benchmark.replace('_', '-')}_{identity}.eval"


def _status(source: ScoreSource) -> str:
    return "cancelled" if any(one.entry.asking is Asking.NOT_ASKED for one in source.stored()) else "success"


def _model(run: RunFolder) -> str:
    """Name of the model as inspect writes one: provider and name."""
    name = Path(run.info.checkpoint.path).name or "model"
    return f"vidtune/{name if name != 'final' else '-'.join(Path(run.info.checkpoint.path).parts[-2:])}"


def _spec(run: RunFolder, identity: str, begun: str, samples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    info = run.info
    arithmetic = {} if info.arithmetic is None else info.arithmetic.model_dump(mode="json")
    return {
        "eval_id": identity,
        "run_id": identity,
        "created": begun,
        "task": info.benchmark,
        "task_id": identity,
        "task_version": info.protocol.version,
        "task_args": flat_rules(info.protocol.model_dump(mode="json")),
        "dataset": {
            "name": info.benchmark,
            "location": info.data.folder,
            "samples": len(samples),
            "sample_ids": [sample["id"] for sample in samples],
            "shuffled": False,
        },
        "model": _model(run),
        "model_args": {"path": info.checkpoint.path, "fingerprint": info.checkpoint.fingerprint, **arithmetic},
        "config": {"epochs": 1},
        "packages": dict(info.versions),
        "metadata": {"protocol_hash": info.protocol_hash, "system": info.system, "test_set": info.data.fingerprint},
    }


def _samples(run: RunFolder, source: ScoreSource) -> Iterator[dict[str, Any]]:
    predictions = {one.index: one for one in run.predictions()}
    judgements = {} if source.name not in _judged(run) else judged_ledger(run, source.name)[1]
    taken: set[str] = set()
    for outcome in source.stored():
        name = outcome.entry.id.replace("/", "-").replace("\\", "-")
        if name in taken:
            name = f"{name}#{outcome.index}"
        taken.add(name)
        yield _sample(run, source, name, outcome, predictions.get(outcome.index), judgements.get(outcome.index))


def _judged(run: RunFolder) -> set[str]:
    return {file.stem for file in (run.path / "judgements").glob("*.jsonl")}


def _sample(
    run: RunFolder,
    source: ScoreSource,
    name: str,
    outcome: Outcome,
    prediction: Prediction | None,
    judgement: Judgement | None,
) -> dict[str, Any]:
    entry = outcome.entry
    question = "" if prediction is None else prediction.question
    messages: list[dict[str, Any]] = [{"id": f"{name}-1", "role": "user", "content": question, "source": "input"}]
    sample: dict[str, Any] = {
        "id": name,
        "epoch": 1,
        "input": question,
        "target": "" if prediction is None else str(prediction.answer),
        "messages": messages,
        "output": {"model": _model(run), "choices": []},
        "scores": {},
        "metadata": {
            "video": entry.video,
            "type": entry.type,
            "state": str(entry.state),
            "reason": entry.reason,
            "index": entry.index,
            **({} if prediction is None else {"margin": prediction.margin, "file": prediction.file}),
        },
        "store": {},
        "events": [],
        "model_usage": {},
        "attachments": {},
    }
    if entry.answered and prediction is not None:
        message = {"id": f"{name}-2", "role": "assistant", "content": prediction.pred, "source": "generate"}
        message["model"] = _model(run)
        messages.append(message)
        stop = STOPS.get(prediction.finish_reason or "", "stop")
        sample["output"]["choices"] = [{"message": message, "stop_reason": stop}]
        sample["output"]["completion"] = prediction.pred
        if entry.counted:
            sample["scores"] = {source.name: _score(source, outcome, prediction, judgement)}
    elif entry.reason is not None:
        said = f"{entry.asking}: {entry.reason}"
        sample["error"] = {"message": said, "traceback": said, "traceback_ansi": said}
    return sample


def _score(
    source: ScoreSource, outcome: Outcome, prediction: Prediction, judgement: Judgement | None
) -> dict[str, Any]:
    """C and I stand for right and wrong, as in inspect; otherwise the points or the values of the answer."""
    said = verdict_text(source.metrics, outcome)
    value: Any = {"right": "C", "wrong": "I"}.get(said)
    if value is None:
        value = outcome.points if outcome.points is not None else dict(outcome.values) or said
    score: dict[str, Any] = {"value": value, "answer": prediction.pred}
    if judgement is not None and judgement.reply is not None:
        score["explanation"] = judgement.reply
    if outcome.points is not None:
        score["metadata"] = {"points": outcome.points}
    return score


def _results(score: Score, samples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    metrics = {
        name: {
            "name": name,
            "value": value.official.value,
            "params": {},
            "metadata": {
                "low": value.official.low,
                "high": value.official.high,
                "strict": None if value.strict is None else value.strict.value,
            },
        }
        for group in score.parts
        for value in group.values
        if value.official is not None
        for name in [value.name if group.type is None else f"{group.type}/{value.name}"]
    }
    scored = [sample for sample in samples if sample["scores"]]
    return {
        "total_samples": len(samples),
        "completed_samples": sum("error" not in sample and bool(sample["output"]["choices"]) for sample in samples),
        "scores": [
            {
                "name": score.judge,
                "scorer": score.judge,
                "scored_samples": len(scored),
                "unscored_samples": len(samples) - len(scored),
                "params": {},
                "metrics": metrics,
                "metadata": {"intervals": score.intervals, "identity": score.identity},
            }
        ],
    }


def _summary(sample: Mapping[str, Any]) -> dict[str, Any]:
    names = ("id", "epoch", "input", "target", "scores", "metadata")
    error = {"error": sample["error"]["message"]} if "error" in sample else {}
    scores = {
        name: {key: part for key, part in one.items() if key != "explanation"} for name, one in sample["scores"].items()
    }
    return {
        **{name: sample[name] for name in names},
        "scores": scores,
        **error,
        "completed": True,
        "message_count": len(sample["messages"]),
    }
