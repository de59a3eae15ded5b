"""Looks at every sample and every media file before training, so that nothing fails after hours."""

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Protocol

from vidtune.data.checked_files import CheckedFiles
from vidtune.data.media_check import MediaCheck, Progress, StreamFile
from vidtune.data.problems import SampleProblem
from vidtune.data.sample import MediaRef, Sample
from vidtune.data.tables import AnnotationTable
from vidtune.media.pool import MediaPool
from vidtune.media.preprocessing.streams import Preprocessing

REPORT_EVERY = 256
LENGTH_SECONDS, LENGTH_SHARE = 2.0, 0.05
"""Seconds, or share of its length, that a file may differ from the clip that its times are of."""


class CheckedMedium(Protocol):
    """A file that stands in an example."""

    @property
    def ref(self) -> MediaRef: ...


class CheckedExample(Protocol):
    """What the check wants to know of a tokenised sample; the processor's examples have it."""

    @property
    def media(self) -> Sequence[CheckedMedium]: ...

    @property
    def masked(self) -> str | None: ...

    @property
    def truncated(self) -> bool: ...


@dataclass(frozen=True, slots=True)
class Finding:
    """Something about one sample.

    Args:
        id: the sample's id, ``<annotation file>:<index>``.
        source: the annotation file.
        reason: a few words, the same for all samples it concerns.
        detail: what is wrong, in a sentence; names the media file where it is one.
        excluded: whether training must leave the sample out. Otherwise it stays, but the user should know.
    """

    id: str
    source: str
    reason: str
    detail: str
    excluded: bool


@dataclass
class DataReport:
    """Result of a check.

    Args:
        num_samples, num_files: how many were looked at; a file that several samples need counts once.
        findings: in the order of the samples; a sample may have several.
    """

    num_samples: int = 0
    num_files: int = 0
    findings: list[Finding] = field(default_factory=list)

    @property
    def excluded(self) -> Counter[str]:
        """Samples to be left out, by (their first) reason."""
        return Counter(finding.reason for finding in self._first_exclusions().values())

    @property
    def noted(self) -> Counter[str]:
        """Findings about samples that stay, by reason."""
        gone = self._first_exclusions()
        return Counter(f.reason for f in self.findings if not f.excluded and f.id not in gone)

    def write_exclusions(self, path: Path) -> int:
        """Write the samples to be left out, one JSON object a line; returns how many.

        Lines that a training run added (they name a step) are kept; those of an earlier check are replaced.
        """
        kept = []
        if path.is_file():
            kept = [line for line in path.read_text(encoding="utf-8").splitlines() if '"step"' in line]
        first = self._first_exclusions()
        lines = [json.dumps({k: v for k, v in asdict(f).items() if k != "excluded"}) for f in first.values()]
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(path.name + ".part")
        unfinished.write_text("".join(line + "\n" for line in [*lines, *kept]), encoding="utf-8")
        unfinished.replace(path)
        return len(first)

    def _first_exclusions(self) -> dict[str, Finding]:
        first: dict[str, Finding] = {}
        for finding in self.findings:
            if finding.excluded:
                first.setdefault(finding.id, finding)
        return first


def check_data(
    table: AnnotationTable,
    encode: Callable[[Sample], CheckedExample],
    preprocessing: Mapping[str, Preprocessing],
    *,
    checked_files: Path,
    companions: Mapping[str, Sequence[str]] | None = None,
    decode: bool = False,
    workers: int = 2,
    timeout: float = 60.0,
    progress: Progress | None = None,
) -> DataReport:
    """Check all samples of a table and all files they need.

    Args:
        encode: makes an example of a sample, as training will; raises SampleProblem, also for features that do not fit
            the stream's tower.
        preprocessing: of every stream.
        checked_files: sidecar that remembers good files; a check that was stopped goes on where it was.
        companions: stream -> streams that read the same files.
        decode: also decode and preprocess every file, and read all features; else only headers and packet tables are.
        workers: processes that read files.
        timeout: seconds for one file.
    """
    tell = progress or (lambda what, done, total: None)
    report = DataReport(num_samples=len(table))
    by_sample: dict[int, list[Finding]] = {}
    users: dict[StreamFile, list[int]] = {}
    timed: list[tuple[int, str, float]] = []

    def find(index: int, reason: str, detail: str, excluded: bool = True) -> None:
        finding = Finding(table.id(index), str(table.source(index)), reason, detail, excluded)
        by_sample.setdefault(index, []).append(finding)

    for index in range(len(table)):
        needed: list[MediaRef | None] = []
        try:
            sample = table[index]
            needed = [ref.read_by(ref.stream) for ref in sample.media]
            example = encode(sample)
            needed = [medium.ref for medium in example.media]
        except SampleProblem as problem:
            find(index, problem.reason, problem.detail)
            continue
        finally:
            for file in dict.fromkeys((ref.stream, ref.path) for ref in needed if ref is not None):
                users.setdefault(file, []).append(index)
        for ref in sample.media:
            expected = table.features(index).keys() & (companions or {}).get(ref.stream, ())
            for stream in sorted(expected - dict(ref.features).keys()) if not ref.path else ():
                find(index, f"no {stream} features", f"nothing stands for the {stream} of this sample", excluded=False)
            if sample.times is not None:
                timed.append((index, ref.path, sample.times.duration))
        if table.word_lengths[index] == 0:
            find(index, "no words", "no turn has a word in it")
        if example.masked is not None:
            find(index, example.masked, "no token of this sample is supervised", excluded=False)
        if example.truncated:
            find(index, "longer than the length limit", "cut off on the right", excluded=False)
        if index % REPORT_EVERY == 0:
            tell("samples", index, len(table))
    tell("samples", len(table), len(table))

    report.num_files = len({path for _, path in users})
    files = MediaCheck(list(users), preprocessing, CheckedFiles(checked_files), tell)
    with MediaPool(workers, timeout) as pool:
        for file, (reason, detail) in files.problems(pool, decode):
            for index in users[file]:
                find(index, reason, f"{file[1]}: {detail}")
    for index, path, duration in timed:
        seconds = files.seconds.get(path, 0.0)
        if seconds and abs(seconds - duration) > max(LENGTH_SECONDS, LENGTH_SHARE * duration):
            detail = f"{path} lasts {seconds:g} seconds but the times are of a clip of {duration:g}"
            find(index, "clip and file differ in length", detail, excluded=False)
    report.findings = [finding for index in sorted(by_sample) for finding in by_sample[index]]
    return report
