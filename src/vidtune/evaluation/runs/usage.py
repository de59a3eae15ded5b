"""What a run took at endpoints: ``usage.jsonl`` in its folder, one line per session.

Lines with ``judge`` are of the judge of this name, those without are of the model that answered.
"""

from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from vidtune.evaluation.judges.base import Usage
from vidtune.evaluation.judges.pace import money
from vidtune.machine.records import RecordWriter, read_as

USAGE_FILE = "usage.jsonl"
_ALWAYS = ("calls", "cached", "prompt_tokens", "completion_tokens", "uncounted", "cost")


def note_usage(run_dir: Path, asker: Any, judge: str | None = None) -> None:
    """Store what an engine, or a judge of this name, has used in this session.

    One without ``usage``, or of no request, stores nothing.
    """
    usage = getattr(asker, "usage", None)
    if not isinstance(usage, Usage) or not usage.calls:
        return
    changed = {name: value for name, value in asdict(usage).items() if name in _ALWAYS or value}
    with RecordWriter(run_dir / USAGE_FILE, shared=True) as records:
        records.append(({} if judge is None else {"judge": judge}) | changed)


def count_earlier(run_dir: Path, engine: Any) -> None:
    """Let an engine with a limit of cost count what earlier sessions of the run have cost."""
    if hasattr(engine, "earlier"):
        engine.earlier = usage_of(run_dir).spent


def usage_of(run_dir: Path, judge: str | None = None) -> Usage:
    """Returns what all sessions of a run have used together; the cost is None where none of them knew prices.

    Args:
        judge: name of the judge that was asked; None: the model that answered.
    """
    total = Usage()

    def add(line: dict[str, Any]) -> None:
        if line.get("judge") != judge:
            return
        for field in fields(Usage):
            value = line.get(field.name)
            if field.name == "currency":
                names = [name for name in (total.currency, value) if name]
                total.currency = " and ".join(dict.fromkeys(names))
            elif value is not None:
                setattr(total, field.name, (getattr(total, field.name) or 0) + value)

    for _ in read_as(run_dir / USAGE_FILE, add):
        pass
    return total


def usage_words(usage: Usage) -> str:
    """Returns requests, tokens and cost in words."""
    tokens = usage.prompt_tokens + usage.completion_tokens
    uncounted = f" (without those of {usage.uncounted} replies, not counted there)" if usage.uncounted else ""
    cost = "" if usage.cost is None else f", cost {money(usage.cost, usage.currency)}"
    estimated = f" and about {money(usage.estimated_cost)} uncounted" if usage.estimated_cost else ""
    return f"{usage.calls} requests, {tokens} tokens{uncounted}{cost}{estimated}"
