"""Samples that a run leaves out, because of a bad file or annotation, in ``excluded.jsonl``.

A failed file is a fact of the run, not of the moment: from the step in which it failed, every sample that needs it is
left out, and a resumed run replays the list instead of trying again (a time-out need not repeat itself). A line without
a step comes from ``vidtune data check``: that sample never enters the plan.
"""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vidtune.errors import UserError

TOLERATED_SHARE = 0.05
TOLERATED_COUNT = 10


@dataclass(frozen=True)
class Excluded:
    """One sample left out of one optimizer step.

    Args:
        id: the sample's id.
        index: its place in the stage's annotation table.
        step: the optimizer step that went on without it, from 0.
        path: the media file that failed; None when the annotation itself is not usable.
        reason: why.
    """

    id: str
    index: int
    step: int
    path: str | None
    reason: str


class ExclusionList:
    """The file ``excluded.jsonl`` of a stage.

    Args:
        path: the file; need not exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        lines = _complete_lines(path)
        self.checked_ids: set[str] = {line["id"] for line in lines if "step" not in line}
        self.entries = [Excluded(**line) for line in lines if "step" in line]
        self._known = {(entry.index, entry.step) for entry in self.entries}

    def failed_files(self) -> dict[str, tuple[int, str]]:
        """Media path -> first step it failed in, and the reason."""
        failed: dict[str, tuple[int, str]] = {}
        for entry in self.entries:
            if entry.path is None:
                continue
            if entry.path not in failed or entry.step < failed[entry.path][0]:
                failed[entry.path] = (entry.step, entry.reason)
        return failed

    def add(self, excluded: Iterable[Excluded]) -> list[Excluded]:
        """Record exclusions; those a run before the resume recorded already are kept once. Returns the new ones."""
        new = [entry for entry in excluded if (entry.index, entry.step) not in self._known]
        if new:
            with self.path.open("a", encoding="utf-8") as file:
                file.writelines(json.dumps(asdict(entry), ensure_ascii=False) + "\n" for entry in new)
            self.entries += new
            self._known |= {(entry.index, entry.step) for entry in new}
        return new

    def merge(self, saved: Iterable[dict[str, Any]]) -> None:
        """Take over the list of a checkpoint, in case the file was lost."""
        self.add(Excluded(**entry) for entry in saved)

    def before(self, step: int) -> list[dict[str, Any]]:
        """What a checkpoint after ``step`` steps records."""
        return [asdict(entry) for entry in self.entries if entry.step < step]

    def check_threshold(self, step: int, samples_seen: int) -> None:
        """Stop a run whose media are broken wholesale (a file system that is not mounted, a wrong media root).

        Raises:
            UserError: more than ``TOLERATED_COUNT`` samples and ``TOLERATED_SHARE`` of those seen so far were left out.
        """
        count = sum(entry.step <= step for entry in self.entries)
        if count > TOLERATED_COUNT and count > TOLERATED_SHARE * samples_seen:
            last = self.entries[-1]
            where = f"{last.path}: " if last.path else ""
            raise UserError(
                f"{self.path}: {count} of {samples_seen} samples could not be used, more than {TOLERATED_SHARE:.0%}; "
                f"the last one: sample {last.id!r}, {where}{last.reason}; mend them, delete this list, and start again"
            )


def _complete_lines(path: Path) -> list[dict[str, Any]]:
    """The JSON lines of a file; a last line that a killed process left half-written is cut off the file."""
    if not path.is_file():
        return []
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if whole != content:
        path.write_bytes(whole)
    return [json.loads(line) for line in whole.splitlines()]
