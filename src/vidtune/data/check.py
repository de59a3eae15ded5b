"""Looks at every sample and every media file before training, so that nothing fails after hours."""

import json
import stat
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from vidtune.data.annotations import AnnotationTable
from vidtune.data.checked_files import CheckedFiles
from vidtune.data.problems import SampleProblem
from vidtune.data.sample import MediaRef, Sample
from vidtune.media.feature_file import is_feature_file
from vidtune.media.pool import LoadJob, LoadResult, MediaPool
from vidtune.media.preprocessing import Preprocessing

Progress = Callable[[str, int, int], None]
"""Called with what is being checked ("samples", "files", "decoding", "features"), how many are done, how many there
are.
"""

StreamFile = tuple[str, str]
"""A stream and the path of a file that stands in it."""

REPORT_EVERY = 256
METADATA = "metadata"
FEATURES = "features"
KINDS = {"image": ("image",), "video": ("video", "frames")}
SOUND = ("video", "audio")
"""Kinds of files that a stream of sound can read; that of `KINDS` are by the stream's preprocessing."""


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
        decode: also decode and preprocess every file, and read all features; else only headers and packet tables are.
        workers: processes that read files.
        timeout: seconds for one file.
    """
    tell = progress or (lambda what, done, total: None)
    report = DataReport(num_samples=len(table))
    by_sample: dict[int, list[Finding]] = {}
    users: dict[StreamFile, list[int]] = {}

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
    with MediaPool(workers, timeout) as pool:
        for file, reason, detail in _file_problems(
            list(users), preprocessing, CheckedFiles(checked_files), pool, decode, tell
        ):
            for index in users[file]:
                find(index, reason, f"{file[1]}: {detail}")
    report.findings = [finding for index in sorted(by_sample) for finding in by_sample[index]]
    return report


def _file_problems(
    files: list[StreamFile],
    preprocessing: Mapping[str, Preprocessing],
    known: CheckedFiles,
    pool: MediaPool,
    decode: bool,
    tell: Progress,
) -> Iterator[tuple[StreamFile, str, str]]:
    """Every file that cannot be used, with reason and detail."""
    readable: list[StreamFile] = []
    for file in files:
        if problem := _not_a_file(file[1]):
            yield file, *problem
        elif file[0] in preprocessing:
            readable.append(file)

    # The headers of features were read to count their tokens.
    stored = [file for file in readable if is_feature_file(file[1])]
    good: list[StreamFile] = []
    jobs: list[tuple[StreamFile, LoadJob]] = []
    for stream, path in readable:
        if is_feature_file(path):
            continue
        kind = known.kind(path, METADATA)
        if kind is None:
            jobs.append(((stream, path), LoadJob(path, None)))
        elif kind in KINDS.get(preprocessing[stream].kind, SOUND):
            good.append((stream, path))
        else:
            yield (stream, path), *_wrong_kind(kind, stream)
    for (stream, path), result in _load(pool, jobs, "files", tell):
        if result.info is None:
            yield (stream, path), "unreadable file", _reason(result)
            continue
        known.add(path, METADATA, result.info.kind)
        if result.info.kind in KINDS.get(preprocessing[stream].kind, SOUND):
            good.append((stream, path))
        else:
            yield (stream, path), *_wrong_kind(result.info.kind, stream)

    if not decode:
        return
    checks = {stream: f"decoded {settings.model_dump_json()}" for stream, settings in preprocessing.items()}
    jobs = [
        ((stream, path), LoadJob(path, preprocessing[stream]))
        for stream, path in good
        if known.kind(path, checks[stream]) is None
    ]
    for (stream, path), result in _load(pool, jobs, "decoding", tell):
        if result.error is None:
            known.add(path, checks[stream], preprocessing[stream].kind)
        else:
            yield (stream, path), "cannot be decoded", _reason(result)

    jobs = [
        (file, LoadJob(file[1], preprocessing[file[0]])) for file in stored if known.kind(file[1], FEATURES) is None
    ]
    for (stream, path), result in _load(pool, jobs, "features", tell):
        if result.array is None:
            yield (stream, path), "features cannot be read", _reason(result)
        elif not np.isfinite(result.array).all():
            yield (stream, path), "features not finite", "some of its numbers are infinite or not a number"
        else:
            known.add(path, FEATURES, FEATURES)


def _load(
    pool: MediaPool, jobs: list[tuple[StreamFile, LoadJob]], what: str, tell: Progress
) -> Iterator[tuple[StreamFile, LoadResult]]:
    results = pool.load(job for _, job in jobs)
    for done, ((file, _), result) in enumerate(zip(jobs, results, strict=True), 1):
        yield file, result
        tell(what, done, len(jobs))


def _reason(result: LoadResult) -> str:
    return result.error.reason if result.error is not None else "has no metadata"


def _wrong_kind(kind: str, stream: str) -> tuple[str, str]:
    return "wrong kind of file", f"is of the kind '{kind}' but stands in the stream '{stream}'"


def _not_a_file(path: str) -> tuple[str, str] | None:
    """Reason and detail if there is no file or folder at a path that could be opened without waiting; else None."""
    try:
        mode = Path(path).stat().st_mode
    except FileNotFoundError:
        return "missing file", "does not exist"
    except OSError as error:
        return "unreadable file", error.strerror or str(error)
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        return "unreadable file", "is neither a file nor a folder"
    return None
