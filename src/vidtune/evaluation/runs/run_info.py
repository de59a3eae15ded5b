"""Description of a run, stored in ``run.json``: protocol, checkpoint, test set, and what its answers are computed with.

Answers of one run are computed with one device, one dtype and one version of each decisive package.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field

from vidtune.evaluation.protocol import Protocol
from vidtune.evaluation.question import QuestionSet
from vidtune.evaluation.runs.checkpoint_identity import CheckpointIdentity

if TYPE_CHECKING:
    from torch import nn

RUN_FILE = "run.json"
DECISIVE = ("vidtune", "torch", "transformers")
"""Packages whose version may change an answer."""


class Arithmetic(BaseModel):
    """Where and in which precision answers are computed.

    Args:
        device: type of the device, such as "cpu" or "cuda"; several are joined by " and ".
        dtype: dtype of the weights; several are joined by " and ".
    """

    model_config = ConfigDict(frozen=True)

    device: str
    dtype: str


class DataIdentity(BaseModel):
    """Which test set was asked.

    Args:
        folder: folder of the test set at that time.
        fingerprint: hash of its question and answer files.
        questions: number of its questions.
        features: stream -> folder of the stored features that were read instead of the videos.
        file: where the file of a test set of one's own was; None: the benchmark is registered.
    """

    model_config = ConfigDict(frozen=True)

    folder: str
    fingerprint: str
    questions: int
    features: dict[str, str] = Field(default_factory=dict, exclude_if=lambda folders: not folders)
    file: str | None = Field(default=None, exclude_if=lambda file: file is None)


class RunInfo(BaseModel):
    """Description of a run; stored in ``run.json``.

    Args:
        limit: number of questions from the start of the test set that belong to the run; None: all.
        recipe: recipe of the checkpoint, as YAML text.
        versions: package -> version, in the session that began the run; later sessions are in ``sessions.jsonl``.
        other_versions: versions of later sessions with which questions were asked although they differ.
        arithmetic: device and dtype; None: a run of an earlier version, or of answers from elsewhere.
        unknown_arithmetic: its first answers are of an earlier version, which did not store device and dtype.
    """

    model_config = ConfigDict(frozen=True)

    format: int = 1
    protocol: Protocol
    protocol_hash: str
    checkpoint: CheckpointIdentity
    data: DataIdentity
    system: str | None = None
    limit: int | None = None
    recipe: str | None = None
    versions: dict[str, str]
    other_versions: tuple[dict[str, str], ...] = Field(default=(), exclude_if=lambda found: not found)
    arithmetic: Arithmetic | None = Field(default=None, exclude_if=lambda found: found is None)
    unknown_arithmetic: bool = Field(default=False, exclude_if=lambda unknown: not unknown)

    @property
    def part(self) -> str | None:
        """Which part of the test set belongs to the run, in words; None for all of it."""
        if self.limit is None or self.limit >= self.data.questions:
            return None
        return f"only the first {self.limit} of {self.data.questions} questions of the test set (limit)"

    @property
    def mixture(self) -> str | None:
        """What differs between the sessions that answered, in words; None where nothing does."""
        found = [text for other in self.other_versions for text in differences(self.versions, other)]
        notes = [f"answers of several versions: {', '.join(dict.fromkeys(found))}"] if found else []
        if self.unknown_arithmetic and self.arithmetic is not None:
            known = f"{self.arithmetic.dtype} on {self.arithmetic.device}"
            notes.append(f"the first answers are of an unknown device and dtype, the others of {known}")
        return "; ".join(notes) or None

    @property
    def benchmark(self) -> str:
        return self.protocol.benchmark


def arithmetic_of(model: "nn.Module") -> Arithmetic:
    """Returns the arithmetic of a model as it lies in memory."""
    parameters = list(model.parameters())
    dtypes = sorted({str(one.dtype).removeprefix("torch.") for one in parameters})
    devices = sorted({one.device.type for one in parameters})
    return Arithmetic(device=" and ".join(devices), dtype=" and ".join(dtypes))


def decisive(versions: Mapping[str, str]) -> dict[str, str]:
    """Returns the versions of the decisive packages; which build of a release it is, the device tells."""
    return {name: versions[name].partition("+")[0] for name in DECISIVE if name in versions}


def differences(old: Mapping[str, str], new: Mapping[str, str]) -> list[str]:
    """Returns the decisive versions that differ, in words: ``torch 2.12.0 and 2.13.0``."""
    before, now = decisive(old), decisive(new)
    return [f"{name} {before[name]} and {now[name]}" for name in before if now.get(name, before[name]) != before[name]]


def data_identity(questions: QuestionSet) -> DataIdentity:
    return DataIdentity(
        folder=str(questions.folder),
        fingerprint=questions.fingerprint,
        questions=len(questions.questions),
        features=dict(questions.features),
        file=questions.file,
    )


def described_features(data: DataIdentity) -> str:
    """Returns which stored features are read from where, for messages."""
    return ", ".join(f"{stream} from {folder}" for stream, folder in sorted(data.features.items())) or "none"
