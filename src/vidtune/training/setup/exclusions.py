"""Samples that a run leaves out because of a bad file or annotation, listed in ``excluded.jsonl``.

A failed file is a fact of the run, not of the moment. The samples that saw it fail in a step are left out of that step;
every sample that needs the file is left out of later steps, on all ranks. A resumed run repeats the list instead of
trying again, because a time-out need not happen twice. Only a file that was replaced since is tried again in the steps
to come. A line without a step is about the sample itself, or comes from ``vidtune data check``: that sample does not
enter the plan, as long as the annotation file and the files of the sample are the same. Once a stage has begun, its
plan is fixed: who was left out stays out, so that the stage can go on.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from vidtune.data.problems import SampleProblem
from vidtune.data.tables import AnnotationTable
from vidtune.errors import UserError
from vidtune.foreign.documents import require_types
from vidtune.machine.records import RecordWriter, numbered_records
from vidtune.media.file_version import GONE, FileVersion, version_of

TOLERATED_COUNT = 10
"""Number of samples that may always be left out; more only up to a share, the ``max_excluded`` of the stage."""


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


_TYPES: dict[str, type | tuple[type, ...]] = {
    "id": str,
    "index": int,
    "step": int,
    "path": (str, type(None)),
    "reason": str,
    "rank": int,
    "seconds": (int, float),
    "file": (list, type(None)),
    "data": (str, type(None)),
}


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
        self._checked: dict[str, tuple[str | None, Any]] = {}
        self._mended: dict[str, bool] = {}
        self._data: str | None = None
        self.entries: list[Excluded] = []
        for number, line in numbered_records(path):
            where = f"{path}: line {number}"
            if "step" in line:
                self.entries.append(excluded_from(line, where))
            elif isinstance(line.get("id"), str):
                self._checked[line["id"]] = line.get("content"), line.get("files")
            else:
                raise UserError(f"{where}: 'id' is missing or has a wrong value; mend or remove this line")
        self._known = {(entry.index, entry.step) for entry in self.entries}

    def checked_ids(self, table: AnnotationTable) -> set[str]:
        """Returns the ids of the samples of a table that are recorded as not usable.

        A record of an annotation file with other content is not about these samples, nor is one of other versions of
        the files of a sample. Records of earlier releases tell less.
        """
        files = {file.name: file for file in table.files}

        def is_about(sample: str, content: str | None, versions: Any) -> bool:
            name, _, number = sample.rpartition(":")
            if content is None:
                return True
            if name not in files or not files[name].is_known_by(content):
                return False
            if not (number.isdecimal() and int(number) < len(files[name])):
                return False
            if versions is None or self.has_begun:
                return True
            now = files[name].media_versions(int(number))
            return bool(versions == {path: list(version) for path, version in now.items()})

        return {sample for sample, record in self._checked.items() if is_about(sample, *record)}

    def bind(self, data: str) -> None:
        """Forget what was left out of the steps of other data, and record what comes as of these.

        Args:
            data: fingerprint of the annotation table of the stage.
        """
        self._data = data
        self.entries = [entry for entry in self.entries if entry.data in (None, data)]
        self._known = {(entry.index, entry.step) for entry in self.entries}

    def failed_files(self) -> dict[str, int]:
        """Returns the first step in which each media file failed, by path; without files that were replaced since.

        A file that was missing stays out of the run: others may have begun without it.
        """
        failed: dict[str, int] = {}
        versions: dict[str, Sequence[int]] = {}
        for entry in self.entries:
            if entry.path is not None:
                failed[entry.path] = min(entry.step, failed.get(entry.path, entry.step))
                if entry.file is not None and tuple(entry.file) != GONE:
                    versions[entry.path] = entry.file
        for path, version in versions.items():
            if path not in self._mended:
                self._mended[path] = tuple(version) != version_of(path)
        return {path: step for path, step in failed.items() if not self._mended.get(path)}

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
            lines.append({**line, "content": file.content_hash, "files": of_files})
        self._write(lines)
        self._checked |= {line["id"]: (line["content"], line["files"]) for line in lines}

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


def too_many(count: int, samples: int, max_share: float) -> bool:
    """Returns whether ``count`` of so many samples are more than may be left out."""
    return count > TOLERATED_COUNT and count > max_share * samples
