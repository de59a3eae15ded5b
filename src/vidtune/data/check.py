"""Looks at every sample and every media file before training, so that nothing fails after hours."""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Protocol

from vidtune.data.annotations import AnnotationTable
from vidtune.data.probing import probe_files, unusable_file
from vidtune.data.problems import SampleProblem
from vidtune.data.sample import Sample
from vidtune.errors import MediaError
from vidtune.media.pool import LoadJob, MediaPool
from vidtune.media.preprocessing import Preprocessing
from vidtune.media.probe import ProbeCache

Progress = Callable[[str, int, int], None]
"""Called with what is being checked ("samples", "files", "decoding"), how many are done, how many there are."""

REPORT_EVERY = 256
KINDS = {"image": ("image",), "video": ("video", "frames")}


class CheckedExample(Protocol):
    """What the check wants to know of a tokenised sample; the processor's examples have it."""

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
    probe_cache: Path,
    decode: bool = False,
    workers: int = 2,
    timeout: float = 60.0,
    progress: Progress | None = None,
) -> DataReport:
    """Check all samples of a table and all files they need.

    Args:
        encode: makes an example of a sample, as training will; raises SampleProblem.
        preprocessing: of every stream.
        probe_cache: sidecar file of metadata; a check that was stopped goes on where it was, as far as good files go.
        decode: also decode and preprocess every file, in processes; else only its headers and packet table are read.
        workers: threads that probe, and processes that decode.
        timeout: seconds for one file.
    """
    tell = progress or (lambda what, done, total: None)
    report = DataReport(num_samples=len(table))
    by_sample: dict[int, list[Finding]] = {}
    users: dict[tuple[str, str], list[int]] = {}

    def find(index: int, reason: str, detail: str, excluded: bool = True) -> None:
        finding = Finding(table.id(index), str(table.source(index)), reason, detail, excluded)
        by_sample.setdefault(index, []).append(finding)

    for index in range(len(table)):
        try:
            sample = table[index]
            for ref in sample.media:
                indices = users.setdefault((ref.stream, ref.path), [])
                if indices[-1:] != [index]:
                    indices.append(index)
            example = encode(sample)
        except SampleProblem as problem:
            find(index, problem.reason, problem.detail)
            continue
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
    for (stream, path), reason, detail in _file_problems(
        list(users), preprocessing, probe_cache, decode, workers, timeout, tell
    ):
        for index in users[stream, path]:
            find(index, reason, f"{path}: {detail}")
    report.findings = [finding for index in sorted(by_sample) for finding in by_sample[index]]
    return report


def _file_problems(
    files: list[tuple[str, str]],
    preprocessing: Mapping[str, Preprocessing],
    probe_cache: Path,
    decode: bool,
    workers: int,
    timeout: float,
    tell: Progress,
) -> Iterator[tuple[tuple[str, str], str, str]]:
    """(stream, path) of every file that cannot be used, with reason and detail."""
    streams: dict[str, list[str]] = {}
    for stream, path in files:
        if stream not in preprocessing:
            continue
        if problem := unusable_file(path):
            yield (stream, path), *problem
        else:
            streams.setdefault(path, []).append(stream)

    good: list[tuple[str, str]] = []
    results = probe_files(streams, ProbeCache(probe_cache).get, workers=workers, timeout=timeout)
    for done, (path, info) in enumerate(results, 1):
        for stream in streams[path]:
            if isinstance(info, MediaError):
                yield (stream, path), "unreadable file", info.reason
            elif info.kind not in KINDS.get(preprocessing[stream].kind, (info.kind,)):
                yield (stream, path), "wrong kind of file", f"is of the kind '{info.kind}' in the stream '{stream}'"
            else:
                good.append((stream, path))
        tell("files", done, len(streams))

    if decode and good:
        with MediaPool(workers, timeout) as pool:
            jobs = (LoadJob(path, preprocessing[stream]) for stream, path in good)
            for done, (file, result) in enumerate(zip(good, pool.load(jobs), strict=True), 1):
                if result.error is not None:
                    yield file, "cannot be decoded", result.error.reason
                tell("decoding", done, len(good))
