"""Samples that a run leaves out because of a bad file or annotation, listed in ``excluded.jsonl``.

The samples that saw a file fail in a step are left out of that step. Every sample that needs the file is left out of
later steps, on all ranks: of all of them where the file is bad ("bad file"), of those until the end of the epoch where
it could not be read then ("not read then": the workers that read it were killed or late, in every try). A resumed run
repeats the list for steps that run again, because a time-out need not happen twice. A bad file that was replaced since,
by another content, is tried again in the steps to come.

A line without a step is about the sample itself, or comes from ``vidtune data check``: that sample does not enter the
plan, as long as the annotation file and the files of the sample are the same. Once a stage has begun, its plan is
fixed: who was left out stays out, so that the stage can go on.
"""

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from vidtune.data.problems import SampleProblem
from vidtune.data.tables import AnnotationTable
from vidtune.errors import MediaError, UnreadMediaError, UserError
from vidtune.foreign.documents import require_types, types_of
from vidtune.machine.records import RecordWriter, numbered_records
from vidtune.media.file_version import GONE, FileVersion, version_of
from vidtune.media.kept.identity import content_hash

TOLERATED_COUNT = 10
"""Number of samples that may always be left out; more only up to a share, the ``max_excluded`` of the stage."""
FailedFiles = Mapping[str, Sequence[range]]
"""Media path -> steps of which the samples that need the file are left out."""
FOREVER = sys.maxsize


@dataclass(frozen=True)
class Excluded:
    """Record of one sample that was left out of one optimizer step.

    Args:
        id: id of the sample.
        index: index of the sample in the annotation table of the stage.
        step: the optimizer step that was made without it, from 0.
        path: the media file that failed; None if the annotation cannot be used.
        reason: the reason.
        rank: rank of the process that found it.
        seconds: seconds until the file failed; 0 if it was not tried again.
        file: version of the file before it was read, see `file_version`; None if it was not tried again.
        data: fingerprint of the annotation table that ``index`` counts in; None in records of earlier versions.
        cause: `MediaError.cause` of the error; None: no file failed, or the record is of an earlier version.
        content: identity of the content of a bad file, the same for a copy.
        again: the step from which on a file is tried again that could not be read then; None: it is bad.
    """

    id: str
    index: int
    step: int
    path: str | None
    reason: str
    rank: int = 0
    seconds: float = 0.0
    file: Sequence[int] | None = None
    data: str | None = None
    cause: str | None = None
    content: str | None = None
    again: int | None = None


_TYPES = types_of(Excluded)


def excluded_from(record: Any, where: str) -> Excluded:
    """Returns the record of a sample that was left out of a step, from the values of a file.

    Args:
        where: place of the values, for the message of the error.

    Raises:
        UserError: a key is unknown or missing, or a value has a wrong type; names it.
    """
    if not isinstance(record, dict):
        raise UserError(f"{where}: expected an object, found {type(record).__name__}")
    if unknown := sorted(set(record) - set(_TYPES)):
        raise UserError(f"{where}: unknown key {unknown[0]!r}; was it written by another version?")
    try:
        require_types({"rank": 0, "seconds": 0.0, **record}, _TYPES)
    except ValueError as error:
        raise UserError(f"{where}: {error}; mend or remove this line") from None
    return Excluded(**record)


class ExclusionList:
    """The samples that a stage leaves out, in memory and in the file ``excluded.jsonl``.

    Args:
        path: the file; need not exist.
        writes: whether this process appends to the file; one of many ranks does. Others only read it.
        max_share: share of the samples that may be left out.
        has_begun: whether the stage has begun: mended samples stay out.
    """

    def __init__(self, path: Path, writes: bool = True, max_share: float = 1.0, has_begun: bool = False) -> None:
        self.path, self.writes, self.max_share, self.has_begun = path, writes, max_share, has_begun
        self._checked: dict[str, dict[str, Any]] = {}
        self._mended: dict[str, bool] = {}
        self._data: str | None = None
        self.entries: list[Excluded] = []
        for number, line in numbered_records(path):
            where = f"{path}: line {number}"
            if "step" in line:
                self.entries.append(excluded_from(line, where))
            elif isinstance(line.get("id"), str):
                self._checked[line["id"]] = line
            else:
                raise UserError(f"{where}: 'id' is missing or has a wrong value; mend or remove this line")
        self._known = {(entry.index, entry.step) for entry in self.entries}

    def checked_ids(self, table: AnnotationTable) -> set[str]:
        """Returns the ids of the samples of a table that are recorded as not usable.

        A record of an annotation file with other content is not about these samples, nor is one of other contents of
        the files of a sample, or of a file that could not be read then. Records of earlier releases tell less.
        """
        files = {file.name: file for file in table.files}

        def is_about(sample: str, record: Mapping[str, Any]) -> bool:
            name, _, number = sample.rpartition(":")
            if record.get("content") is None:
                return True
            if name not in files or not files[name].is_known_by(record["content"]):
                return False
            if not (number.isdecimal() and int(number) < len(files[name])):
                return False
            if self.has_begun:
                return True
            if record.get("cause") == UnreadMediaError.cause:
                return False
            now = files[name].media_versions(int(number))
            return record.get("files") is None or same_files(record["files"], now, record.get("contents"))

        return {sample for sample, record in self._checked.items() if is_about(sample, record)}

    def bind(self, data: str) -> None:
        """Forget what was left out of the steps of other data, and record what comes as of these.

        Args:
            data: fingerprint of the annotation table of the stage.
        """
        self._data = data
        self.entries = [entry for entry in self.entries if entry.data in (None, data)]
        self._known = {(entry.index, entry.step) for entry in self.entries}

    def failed_files(self) -> dict[str, tuple[range, ...]]:
        """Returns the steps that leave out each media file that failed; of bad files without those replaced since.

        A file that was missing stays out of the run: others may have begun without it.
        """
        first: dict[tuple[str, int], int] = {}
        bad: dict[str, Excluded] = {}
        for entry in self.entries:
            if entry.path is not None:
                key = entry.path, FOREVER if entry.again is None else entry.again
                first[key] = min(entry.step, first.get(key, entry.step))
                if entry.file is not None and tuple(entry.file) != GONE and entry.again is None:
                    bad[entry.path] = entry
        for path, entry in bad.items():
            if path not in self._mended:
                before = {path: list(entry.file or ())}
                self._mended[path] = not same_files(before, {path: version_of(path)}, {path: entry.content})
        failed: dict[str, tuple[range, ...]] = {}
        for (path, end), step in first.items():
            if end < FOREVER or not self._mended.get(path):
                failed[path] = (*failed.get(path, ()), range(step + 1, end))
        return failed

    def add_unusable(
        self, problems: Iterable[tuple[SampleProblem, Mapping[str, FileVersion]]], table: AnnotationTable
    ) -> None:
        """Record samples of a table that cannot be used, in the format of ``vidtune data check``.

        Args:
            problems: the problem of each sample, and the versions that its files had before.
        """
        files = {file.name: file for file in table.files}
        lines: list[dict[str, Any]] = []
        for problem, versions in problems:
            file = files[problem.sample.rpartition(":")[0]]
            line = {"id": problem.sample, "source": str(file.path), "reason": problem.reason, "detail": problem.detail}
            of_files = {path: list(version) for path, version in versions.items()}
            lines.append({**line, "content": file.content_hash, "files": of_files, "cause": problem.cause})
        self._write(lines)
        self._checked |= {line["id"]: line for line in lines}

    def add(self, excluded: Iterable[Excluded]) -> list[Excluded]:
        """Record samples that were left out of a step. Returns those that were not in the list before."""
        unknown = [entry for entry in excluded if (entry.index, entry.step) not in self._known]
        new = [entry if entry.data is not None else replace(entry, data=self._data) for entry in unknown]
        self._write([asdict(entry) for entry in new])
        self.entries += new
        # A file that was tried again and failed again.
        self._mended |= {entry.path: False for entry in new if entry.path in self._mended}
        self._known |= {(entry.index, entry.step) for entry in new}
        return new

    def merge(self, saved: Iterable[dict[str, Any]]) -> None:
        """Add the entries that a checkpoint holds, in case the file was lost."""
        self.add(Excluded(**entry) for entry in saved)

    def before(self, step: int) -> list[dict[str, Any]]:
        """Returns the entries of the steps before ``step``, for a checkpoint after that many steps."""
        return [asdict(entry) for entry in self.entries if entry.step < step]

    def check_threshold(self, step: int, samples_seen: int) -> None:
        """Stop a run in which most media files are broken (a file system that is not mounted, a wrong media root).

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
            with RecordWriter(self.path) as writer:
                writer.append_all(lines)


def failure_of(error: MediaError, path: str, epoch_end: int) -> dict[str, Any]:
    """Returns what the record of a failed file says of the cause: whether the file is bad, or was not read then.

    Args:
        path: the file or folder that was asked for.
        epoch_end: the first step after the epoch.
    """
    if isinstance(error, UnreadMediaError):
        return {"cause": error.cause, "again": epoch_end}
    return {"cause": error.cause, "content": content_hash(path)}


def same_files(before: Any, now: Mapping[str, FileVersion], contents: Mapping[str, str | None] | None = None) -> bool:
    """Returns whether files are the same as before: by their versions, else by the content where that is known.

    Args:
        before: path -> version, as a record holds it.
        contents: path -> identity of the content that bad files had.
    """
    if not isinstance(before, Mapping) or before.keys() != now.keys():
        return False
    changed = [path for path, version in now.items() if before[path] != list(version)]
    known = contents if isinstance(contents, Mapping) else {}
    return all(known.get(path) is not None and known[path] == content_hash(path) for path in changed)


def too_many(count: int, samples: int, max_share: float) -> bool:
    """Returns whether ``count`` of so many samples are more than may be left out."""
    return count > TOLERATED_COUNT and count > max_share * samples
