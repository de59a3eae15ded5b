"""What the answers of a run took at an endpoint: ``usage.jsonl`` in its folder, one line per session."""

from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from vidtune.evaluation.judges.base import Usage
from vidtune.machine.records import RecordWriter, read_records

USAGE_FILE = "usage.jsonl"


def note_usage(run_dir: Path, engine: Any) -> None:
    """Store what an engine has used in this session; an engine without ``usage``, or of no request, stores nothing."""
    usage = getattr(engine, "usage", None)
    if not isinstance(usage, Usage) or not usage.calls:
        return
    with RecordWriter(run_dir / USAGE_FILE, shared=True) as records:
        records.append(asdict(usage))


def usage_of(run_dir: Path) -> Usage:
    """Returns what all sessions of a run have used together; the cost is None where none of them knew prices."""
    total = Usage()
    for line in read_records(run_dir / USAGE_FILE):
        for field in fields(Usage):
            value = line.get(field.name)
            if value is not None:
                setattr(total, field.name, (getattr(total, field.name) or 0) + value)
    return total


def usage_words(usage: Usage) -> str:
    """Returns requests, tokens and cost in words."""
    tokens = usage.prompt_tokens + usage.completion_tokens
    uncounted = f" (without those of {usage.uncounted} replies, not counted there)" if usage.uncounted else ""
    cost = "" if usage.cost is None else f", cost {usage.cost:.2f}"
    return f"{usage.calls} requests, {tokens} tokens{uncounted}{cost}"
