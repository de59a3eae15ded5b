"""Runs as rows, one per planned question, for CSV and Parquet."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vidtune.errors import UserError
from vidtune.evaluation.question import Prediction
from vidtune.evaluation.runs.folder import RunFolder
from vidtune.evaluation.scores.changed import verdict_text
from vidtune.evaluation.scores.scoring import source_for
from vidtune.machine.files import atomic_file, write_text_atomically

COLUMNS: dict[str, type] = {
    "run": str,
    "benchmark": str,
    "protocol_hash": str,
    "checkpoint": str,
    "system": str,
    "judge": str,
    "index": int,
    "id": str,
    "video": str,
    "type": str,
    "question": str,
    "answer": str,
    "pred": str,
    "second_question": str,
    "second_pred": str,
    "asking": str,
    "judging": str,
    "verdict": str,
    "points": float,
    "finish_reason": str,
    "margin": float,
    "fragile": bool,
    "error": str,
}
"""Column -> type; behind them one column of numbers, ``value.NAME``, for each value that metrics give an answer."""


def rows_of_run(run: RunFolder, judge: str) -> list[dict[str, Any]]:
    """Returns every planned question of a run with its answer and what the judge, or metrics, say of it.

    Raises:
        UserError: not scored by this judge.
    """
    source = source_for(run, judge)
    predictions = {one.index: one for one in run.predictions()}
    same = {
        "run": str(run.path),
        "benchmark": run.info.benchmark,
        "protocol_hash": run.info.protocol_hash,
        "checkpoint": run.info.checkpoint.fingerprint,
        "system": run.info.system,
        "judge": source.name,
    }
    return [
        {
            **same,
            "index": outcome.index,
            "id": outcome.entry.id,
            "video": outcome.video,
            "type": outcome.type,
            **_asked(predictions.get(outcome.index)),
            "asking": str(outcome.entry.asking),
            "judging": None if outcome.entry.judging is None else str(outcome.entry.judging),
            "verdict": verdict_text(source.metrics, outcome),
            "points": outcome.points,
            "fragile": outcome.entry.fragile,
            **{f"value.{name}": value for name, value in outcome.values.items()},
        }
        for outcome in source.stored()
    ]


def _asked(prediction: Prediction | None) -> Mapping[str, Any]:
    if prediction is None:
        return {}
    second = prediction.second or {}
    return {
        "question": prediction.question,
        "answer": str(prediction.answer),
        "pred": None if prediction.error is not None else prediction.pred,
        "second_question": second.get("question"),
        "second_pred": second.get("pred"),
        "finish_reason": prediction.finish_reason,
        "margin": prediction.margin,
        "error": prediction.error,
    }


def _columns(rows: Sequence[Mapping[str, Any]]) -> dict[str, type]:
    values = dict.fromkeys(name for row in rows for name in row if name not in COLUMNS)
    return {**COLUMNS, **dict.fromkeys(values, float)}


def write_csv(rows: Sequence[Mapping[str, Any]], out: Path) -> None:
    """Write rows as CSV (RFC 4180, UTF-8): texts with commas, quotes or line ends are quoted; None is an empty cell."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(_columns(rows)), restval="", lineterminator="\r\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text_atomically(out, text.getvalue())


def write_parquet(rows: Sequence[Mapping[str, Any]], out: Path) -> None:
    """Write rows as Parquet; nothing is null.

    Raises:
        UserError: the package pyarrow is not installed.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise UserError("Parquet needs the package pyarrow: pip install 'vidtune[parquet]'") from None
    types = {str: pyarrow.string(), int: pyarrow.int64(), float: pyarrow.float64(), bool: pyarrow.bool_()}
    schema = pyarrow.schema([(name, types[kind]) for name, kind in _columns(rows).items()])
    complete = [{name: row.get(name) for name in schema.names} for row in rows]
    with atomic_file(out) as temporary:
        parquet.write_table(pyarrow.Table.from_pylist(complete, schema), temporary)
