"""Results of a data check: findings about samples, and the list of samples to exclude from training."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from vidtune.machine.locks import locked
from vidtune.machine.records import read_records, write_records


@dataclass(frozen=True, slots=True)
class Finding:
    """One finding about one sample.

    Args:
        id: the sample's id, ``<annotation file>:<index>``.
        source: path of the annotation file.
        reason: short text, equal for all samples with this problem; reports count by it.
        detail: one sentence about this sample; names the media file if the problem is in one.
        excluded: whether training must exclude the sample. Otherwise it is used, but the user should know.
        content: hash of the annotation file; the finding is not about samples of another one.
        files: path -> version of the files of an excluded sample; the finding is not about others.
        original_id: the sample's id in the annotation file; empty if it has none there.
        cause: `MediaError.cause` of the file that makes the sample unusable; None: the annotation does.
        contents: path -> identity of the content of a bad file, the same for a copy.
    """

    id: str
    source: str
    reason: str
    detail: str
    excluded: bool
    content: str
    files: Mapping[str, Sequence[int]] = field(default_factory=dict)
    original_id: str = ""
    cause: str | None = None
    contents: Mapping[str, str | None] = field(default_factory=dict)


@dataclass
class DataReport:
    """Result of a check.

    Args:
        num_samples: number of checked samples.
        num_files: number of checked files; a file that several samples need counts once.
        findings: in the order of the samples; a sample may have several.
        sources: path of each annotation file -> number of its samples.
        notes: what to tell of the annotation files: records of several forms, keys that are not read.
        refused: why the samples together cannot be trained on; None: they can.
    """

    num_samples: int = 0
    num_files: int = 0
    findings: list[Finding] = field(default_factory=list)
    sources: Mapping[str, int] = field(default_factory=dict)
    notes: Sequence[str] = ()
    refused: str | None = None

    @property
    def unusable_sources(self) -> list[str]:
        """Paths of annotation files that have samples, but none that can be used."""
        gone = Counter(finding.source for finding in self._first_exclusions().values())
        return [path for path, count in self.sources.items() if count and gone[path] >= count]

    @property
    def excluded(self) -> Counter[str]:
        """Number of samples to exclude, by reason (the first one of each sample)."""
        return Counter(finding.reason for finding in self._first_exclusions().values())

    @property
    def noted(self) -> Counter[str]:
        """Number of findings about samples that are used, by reason."""
        gone = self._first_exclusions()
        return Counter(f.reason for f in self.findings if not f.excluded and f.id not in gone)

    def write_exclusions(self, path: Path, besides: Collection[str] = ()) -> int:
        """Write the samples to exclude as JSON lines and return their number.

        Lines that a training run added (they have the key ``step``) are kept. Lines of an earlier check are replaced.

        Args:
            besides: reasons that are not written: training does not go on without these samples.

        Raises:
            UserError: a training run is writing the file.
        """
        written = [finding for finding in self._first_exclusions().values() if finding.reason not in besides]
        lines = [{name: value for name, value in asdict(f).items() if name != "excluded"} for f in written]
        path.parent.mkdir(parents=True, exist_ok=True)
        with locked(path, refusal="a training run is writing this file; wait for it, or check into another folder"):
            kept = [line for line in read_records(path, skip_broken=True) if "step" in line]
            write_records(path, [*lines, *kept])
        return len(written)

    def _first_exclusions(self) -> dict[str, Finding]:
        first: dict[str, Finding] = {}
        for finding in self.findings:
            if finding.excluded:
                first.setdefault(finding.id, finding)
        return first
