"""The form of facts about a test set."""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Download:
    """Something that must be fetched or made.

    Args:
        what: name of the file, or of what is in it.
        url: where it is; "": it is made here, as ``what`` says.
        place: folder or file that it becomes, below the folder that is given as ``--data``.
    """

    what: str
    url: str
    place: str

    def __str__(self) -> str:
        return f"get     {self.what}{f' ({self.url})' if self.url else ''} -> {self.place}"


@dataclass(frozen=True, slots=True)
class Facts:
    """What a test set holds.

    Args:
        items: number of questions; None: not known, or as the user makes it.
        media: number of videos or pictures; None: likewise.
        downloads: what must be there.
        medium: what is asked about.
        counted: which files the numbers were counted in, or which card of the set states them; no number without it.
        answers_hidden: only a server knows the reference answers.
    """

    items: int | None
    media: int | None
    downloads: tuple[Download, ...]
    medium: str = "videos"
    counted: str = ""
    answers_hidden: bool = False

    def __post_init__(self) -> None:
        if (self.items is not None or self.media is not None) != bool(self.counted):
            raise ValueError(f"{self.items} questions, {self.media} {self.medium}: numbers and ``counted`` go together")

    @property
    def size(self) -> str:
        """Numbers of questions and media in words."""
        items, media = ("?" if number is None else number for number in (self.items, self.media))
        return f"{items} questions, {media} {self.medium}"

    def record(self) -> dict[str, Any]:
        """Returns the facts as JSON values."""
        return asdict(self)
