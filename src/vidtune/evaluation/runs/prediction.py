"""The answer of a model to one question, as a line of ``predictions.jsonl``."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vidtune.errors import UserError


@dataclass(frozen=True, slots=True)
class Prediction:
    """One line of ``predictions.jsonl``.

    Args:
        pred: the answer after post-processing; empty when there was an error or when the model said nothing.
        file: video below the folder of the test set.
        finish_reason: why generation ended.
        error: why the question could not be asked (unreadable video, too long); None when it was.
    """

    id: str
    question: str
    answer: str | int | float
    pred: str
    index: int
    video: str
    file: str | None = None
    type: str | None = None
    finish_reason: str | None = None
    error: str | None = None

    def record(self) -> dict[str, Any]:
        """The line as a mapping. Fields that are None are left out: the official judge evaluates lines as Python."""
        return {key: value for key, value in asdict(self).items() if value is not None}


def read_prediction(file: Path, record: dict[str, Any]) -> Prediction:
    """The prediction that a line of a file holds; further fields are ignored.

    Raises:
        UserError: a required field is missing; names the file and the field.
    """
    known = Prediction.__dataclass_fields__
    try:
        return Prediction(**{key: value for key, value in record.items() if key in known})
    except TypeError:
        absent = [name for name in ("id", "question", "answer", "pred", "index", "video") if name not in record]
        raise UserError(f"{file}: a record ({record.get('id')!r}) has no {', '.join(absent)}") from None
