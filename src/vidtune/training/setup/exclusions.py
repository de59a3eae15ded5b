"""Samples that a run leaves out, because of a bad file or annotation, in ``excluded.jsonl``.

A failed file is a fact of the run, not of the moment: the samples that saw it fail in a step are left out of that
step, every sample that needs it is left out of later steps on all ranks, and a resumed run replays the list instead of
trying again (a time-out need not repeat itself). A line without a step is about the annotation itself, or comes from
``vidtune data check``: that sample never enters the plan.
"""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vidtune.data.problems import SampleProblem
from vidtune.errors import UserError

TOLERATED_COUNT = 10
"""Samples that may always be left out; more than these only up to a share, the stage's ``max_excluded``."""


@dataclass(frozen=True)
class Excluded:
    """One sample left out of one optimizer step.

    Args:
        id: the sample's id.
        index: its place in the stage's annotation table.
        step: the optimizer step that went on without it, from 0.
        path: the media file that failed; None when the annotation turned out not to be usable.
        reason: why.
        rank: the process that saw it.
        seconds: how long the file took to fail; 0 when it was not tried again.
    """

    id: str
    index: int
    step: int
    path: str | None
    reason: str
    rank: int = 0
    seconds: float = 0.0


class ExclusionList:
    """The file ``excluded.jsonl`` of a stage.

    Args:
        path: the file; need not exist.
        writes: whether this process writes it; of many ranks, one does.
        max_share: of the samples, how many may be left out.
    """

    def __init__(self, path: Path, writes: bool = True, max_share: float = 1.0) -> None:
        self.path, self.writes, self.max_share = path, writes, max_share
        lines = _complete_lines(path)
        self.checked_ids: set[str] = {line["id"] for line in lines if "step" not in line}
        self.entries = [Excluded(**line) for line in lines if "step" in line]
        self._known = {(entry.index, entry.step) for entry in self.entries}

    def failed_files(self) -> dict[str, int]:
        """Media path -> first step it failed in."""
        failed: dict[str, int] = {}
        for entry in self.entries:
            if entry.path is not None:
                failed[entry.path] = min(entry.step, failed.get(entry.path, entry.step))
        return failed

    def add_unusable(self, problems: Iterable[tuple[SampleProblem, Path]]) -> None:
        """Record samples whose annotation cannot be used, as ``vidtune data check`` does.

        Args:
            problems: each with the annotation file it stands in.
        """
        lines = [
            {"id": problem.sample, "source": str(source), "reason": problem.reason, "detail": problem.detail}
            for problem, source in problems
        ]
        self._write(lines)
        self.checked_ids |= {line["id"] for line in lines}

    def add(self, excluded: Iterable[Excluded]) -> list[Excluded]:
        """Record exclusions; those a run before the resume recorded already are kept once. Returns the new ones."""
        new = [entry for entry in excluded if (entry.index, entry.step) not in self._known]
        self._write([asdict(entry) for entry in new])
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
            UserError: more than ``TOLERATED_COUNT`` samples and ``max_share`` of those seen so far were left out.
        """
        count = sum(entry.step <= step for entry in self.entries)
        if too_many(count, samples_seen, self.max_share):
            last = self.entries[-1]
            where = f"{last.path}: " if last.path else ""
            raise UserError(
                f"{self.path}: {count} of {samples_seen} samples could not be used, more than max_excluded "
                f"({self.max_share:g}); the last one: sample {last.id!r}, {where}{last.reason}; mend them and delete "
                "this list, or raise max_excluded, and start again"
            )

    def _write(self, lines: list[dict[str, Any]]) -> None:
        if lines and self.writes:
            with self.path.open("a", encoding="utf-8") as file:
                file.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)


def too_many(count: int, samples: int, max_share: float) -> bool:
    """Whether ``count`` of so many samples are more than may be left out."""
    return count > TOLERATED_COUNT and count > max_share * samples


def _complete_lines(path: Path) -> list[dict[str, Any]]:
    """The JSON lines of a file; a last line that a killed process left half-written is cut off the file."""
    if not path.is_file():
        return []
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if whole != content:
        path.write_bytes(whole)
    return [json.loads(line) for line in whole.splitlines()]
